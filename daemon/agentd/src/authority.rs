//! What the fleet's documents say, and what of it is durable.
//!
//! In: envelopes from the broker, a stick or the local API. Out: whether they hold, and the desired state. A document
//! takes effect only after the new state survives a power cut. One that does not hold yet is judged again whenever
//! another took effect.

mod waiting;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use agentd_bundle::{Accepted, FleetState, Identity, Reject, VerifiedBundle, Wish};
use agentd_store::{Loaded, RecordError, SaveError, Store};
use agentd_types::{Clock, Code, Coded, Digest, ModelName, UnixTime};
use agentd_wire::{Kind, What};
use log::{info, warn};

use self::waiting::Waiting;
use crate::house::lock;

/// Judges documents and remembers the verdicts.
#[derive(Debug)]
pub(crate) struct Authority {
    state: RwLock<FleetState>,
    waiting: Mutex<Waiting>,
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
        Ok(Self { state: RwLock::new(state), waiting: Mutex::default(), store, clock })
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

    /// Judges a trust document, catalog, membership or desired document and, when it holds, takes it, and then those
    /// that waited for it. `None`: it is held already, as happens whenever a broker repeats what is retained. Blocks.
    ///
    /// # Errors
    /// When it does not hold or cannot be made durable; nothing has changed then. What may hold after another document
    /// is kept for that.
    pub(crate) fn accept(
        &self,
        kind: Option<Kind>,
        envelope: &[u8],
    ) -> Result<Option<Accepted>, AcceptError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.holds(envelope) {
            return Ok(None);
        }
        let accepted = match self.take(&mut state, kind, envelope) {
            Ok(accepted) => accepted,
            Err(error) => {
                if let AcceptError::Reject(reject) = &error {
                    lock(&self.waiting).keep(kind, envelope, reject);
                }
                return Err(error);
            }
        };
        lock(&self.waiting).forget(envelope);
        let followed = self.take_waiting(&mut state);
        drop(state);
        for taken in std::iter::once(&accepted).chain(&followed) {
            let target = taken.target.as_ref().map(ToString::to_string);
            self.store.record(What::DocumentAccepted { kind: taken.kind, number: taken.number, target })?;
            info!(event = "document.accepted", kind = taken.kind.as_str(), number = taken.number;
                "Document took effect");
        }
        Ok(Some(accepted))
    }

    fn take(
        &self,
        state: &mut FleetState,
        kind: Option<Kind>,
        envelope: &[u8],
    ) -> Result<Accepted, AcceptError> {
        let mut next = state.clone();
        let accepted = next.accept(kind, envelope, self.clock.now())?;
        self.store.save_trust(&next.to_bytes())?;
        *state = next;
        Ok(accepted)
    }

    /// Takes what waited and holds now, over and over until nothing more does.
    fn take_waiting(&self, state: &mut FleetState) -> Vec<Accepted> {
        let mut taken = Vec::new();
        loop {
            let before = taken.len();
            let documents = lock(&self.waiting).all();
            for document in documents {
                let judged = self.take(state, document.kind, &document.envelope);
                match judged {
                    Ok(accepted) => {
                        lock(&self.waiting).forget(&document.envelope);
                        taken.push(accepted);
                    }
                    // Keeps it, or drops it when it never will hold.
                    Err(AcceptError::Reject(reject)) => {
                        lock(&self.waiting).keep(document.kind, &document.envelope, &reject);
                    }
                    Err(_) => {}
                }
            }
            if taken.len() == before {
                return taken;
            }
        }
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

#[cfg(test)]
mod tests {
    use agentd_bundle::{
        Cause, Envelope, PrivateKey,
        author::{RolePlan, TrustPlan, draft_catalog, draft_trust, next_catalog, rotate_key, successor},
    };
    use agentd_store::{RealStorage, StoreOptions};
    use agentd_wire::Trust;

    use super::*;
    use crate::clock::SystemClock;

    struct Fleet {
        folder: tempfile::TempDir,
        root: PrivateKey,
        orders: PrivateKey,
        new_orders: PrivateKey,
        now: UnixTime,
    }

    impl Fleet {
        fn new() -> Self {
            let key = |seed| PrivateKey::from_seed(&[seed; 32]);
            let (folder, now) = (tempfile::tempdir().unwrap(), SystemClock.now());
            Self { folder, root: key(1), orders: key(2), new_orders: key(4), now }
        }

        fn role(key: &PrivateKey) -> RolePlan {
            RolePlan { keys: vec![key.public()], threshold: 1 }
        }

        /// Version 1; version 2 with another fleet key; version 3.
        fn trust(&self) -> [Trust; 3] {
            let plan = TrustPlan {
                fleet: "plant".parse().unwrap(),
                created: self.now,
                expires: self.now.plus(86_400),
                root: Self::role(&self.root),
                fleet_role: Self::role(&self.orders),
                releases: vec![(vec!["*".to_owned()], Self::role(&PrivateKey::from_seed(&[3; 32])))],
            };
            let one = plan.document();
            let next = |trust: &Trust| successor(trust, self.now, trust.expires);
            let two = rotate_key(next(&one), self.orders.public().id(), &self.new_orders.public()).unwrap();
            let three = next(&two);
            [one, two, three]
        }

        fn sign(&self, trust: &Trust) -> Vec<u8> {
            signed(draft_trust(trust).unwrap(), &self.root)
        }

        fn catalog(&self, trust_version: u64) -> Vec<u8> {
            let catalog = next_catalog(None, "plant".parse().unwrap(), trust_version, (self.now, 86_400), []);
            signed(draft_catalog(&catalog).unwrap(), &self.new_orders)
        }

        fn authority(&self, pinned: &[u8]) -> Authority {
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            let (store, _) = Store::open(
                self.folder.path().join("state"),
                StoreOptions::default(),
                Arc::clone(&clock),
                Arc::new(RealStorage::new()),
            )
            .unwrap();
            let identity = Identity {
                device: "box-1".parse().unwrap(),
                fleet: "plant".parse().unwrap(),
                device_key: PrivateKey::from_seed(&[9; 32]).public().to_bytes(),
                build: UnixTime(0),
            };
            Authority::open(identity, pinned, Arc::new(store), clock).unwrap()
        }
    }

    fn signed(mut envelope: Envelope, key: &PrivateKey) -> Vec<u8> {
        envelope.sign(key).unwrap();
        envelope.to_bytes()
    }

    #[track_caller]
    fn refused(accepted: Result<Option<Accepted>, AcceptError>, want: Cause) {
        assert!(
            matches!(&accepted, Err(AcceptError::Reject(reject)) if reject.cause() == want),
            "{accepted:?}"
        );
    }

    #[test]
    fn documents_in_the_wrong_order_take_effect_when_the_missing_one_comes() {
        let fleet = Fleet::new();
        let [one, two, three] = fleet.trust().map(|trust| fleet.sign(&trust));
        let catalog = fleet.catalog(3);
        let authority = fleet.authority(&one);
        // A key that trust 1 does not know, and a trust document that is not its successor.
        refused(authority.accept(None, &catalog), Cause::Threshold);
        refused(authority.accept(Some(Kind::Trust), &three), Cause::Chain);
        authority.accept(Some(Kind::Trust), &two).unwrap();
        assert_eq!(authority.look(FleetState::trust_version), 3);
        assert_eq!(authority.look(FleetState::catalog_version), Some(1));
        assert!(authority.accept(None, &catalog).unwrap().is_none(), "held already");
        let recorded = authority.store.journal().since(0, 16).unwrap();
        let accepted = recorded.iter().filter(|event| matches!(event.what, What::DocumentAccepted { .. }));
        assert_eq!(accepted.count(), 3);
    }
}
