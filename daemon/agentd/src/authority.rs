//! What the fleet's documents say, and what of it is durable.
//!
//! In: envelopes from the broker, a stick or the local API. Out: whether they hold, and the desired state. A document
//! takes effect only after the new state survives a power cut.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use agentd_bundle::{Accepted, FleetState, Identity, Reject, VerifiedBundle, Wish};
use agentd_store::{Loaded, RecordError, SaveError, Store};
use agentd_types::{Clock, Code, Coded, Digest, ModelName, UnixTime};
use agentd_wire::{Kind, What};
use log::{info, warn};

/// Judges documents and remembers the verdicts.
#[derive(Debug)]
pub(crate) struct Authority {
    state: RwLock<FleetState>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
}

/// Why a document did not take effect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    /// It does not hold.
    #[error(transparent)]
    Reject(#[from] Reject),
    /// It holds but could not be made durable.
    #[error("the document cannot be kept")]
    Save(#[from] SaveError),
    /// It holds but could not be journalled.
    #[error("the document cannot be journalled")]
    Record(#[from] RecordError),
}

impl Coded for AcceptError {
    fn code(&self) -> Code {
        match self {
            Self::Reject(reject) => reject.code(),
            Self::Save(error) => error.code(),
            Self::Record(error) => error.code(),
        }
    }

    fn is_transient(&self) -> bool {
        !matches!(self, Self::Reject(_))
    }
}

impl Authority {
    /// What is durable, or the pinned trust document on a device that never had any.
    ///
    /// `pinned`: the envelope of the trust document that came with the device.
    ///
    /// # Errors
    /// When the pinned document does not hold or the new state cannot be kept.
    pub(crate) fn open(
        identity: Identity,
        pinned: &[u8],
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AcceptError> {
        let state = match store.load_trust() {
            Loaded::Present(bytes) => match FleetState::from_bytes(identity.clone(), &bytes) {
                Ok(state) => state,
                Err(error) => {
                    warn!(event = "trust.damaged", error = agentd_types::chain(&error).as_str();
                        "Trust state cannot be used: nothing new is taken until a trust document arrives");
                    FleetState::recovering(identity, pinned)?
                }
            },
            Loaded::Missing if store.installed().is_empty() => FleetState::pinned(identity, pinned)?,
            Loaded::Missing | Loaded::Damaged => {
                warn!(event = "trust.lost";
                    "Trust state is lost beside models: nothing new is taken until a trust document arrives");
                FleetState::recovering(identity, pinned)?
            }
        };
        if !state.is_recovering() {
            store.save_trust(&state.to_bytes())?;
        }
        Ok(Self { state: RwLock::new(state), store, clock })
    }

    /// Looks at the state.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&FleetState) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The time that expiry is judged by.
    pub(crate) fn effective_time(&self) -> UnixTime {
        self.look(|state| state.effective_time(self.clock.now()))
    }

    /// The effective desired state, with the document that each entry comes from.
    pub(crate) fn wishes(&self) -> BTreeMap<ModelName, Wish> {
        self.look(|state| state.wishes(self.clock.now()))
    }

    /// Judges a trust document, catalog, membership or desired document and, when it holds, takes it. `None`: it is
    /// held already, as happens whenever a broker repeats what is retained. Blocks.
    ///
    /// # Errors
    /// When it does not hold or cannot be made durable; nothing has changed then.
    pub(crate) fn accept(
        &self,
        kind: Option<Kind>,
        envelope: &[u8],
    ) -> Result<Option<Accepted>, AcceptError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.holds(envelope) {
            return Ok(None);
        }
        let mut next = state.clone();
        let accepted = next.accept(kind, envelope, self.clock.now())?;
        self.store.save_trust(&next.to_bytes())?;
        *state = next;
        drop(state);
        let target = accepted.target.as_ref().map(ToString::to_string);
        self.store.record(What::DocumentAccepted { kind: accepted.kind, number: accepted.number, target })?;
        info!(event = "document.accepted", kind = accepted.kind.as_str(), number = accepted.number;
            "Document took effect");
        Ok(Some(accepted))
    }

    /// Proves that a bundle may be installed here.
    ///
    /// # Errors
    /// When it may not.
    pub(crate) fn prove(&self, envelope: &[u8]) -> Result<VerifiedBundle, Reject> {
        self.look(|state| state.prove_bundle(envelope, self.clock.now()))
    }

    /// Takes durable note that a bundle is installed, so that no older one is taken later. Blocks.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub(crate) fn record_installed(&self, bundle: &VerifiedBundle) -> Result<(), SaveError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = state.clone();
        next.record_installed(bundle);
        self.store.save_trust(&next.to_bytes())?;
        *state = next;
        Ok(())
    }

    /// Whether a bundle is revoked.
    pub(crate) fn is_revoked(&self, bundle: &Digest) -> bool {
        self.look(|state| state.is_revoked(bundle))
    }
}
