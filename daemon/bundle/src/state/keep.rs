//! The durable form of the state.
//!
//! In: bytes that the store kept and found whole. Out: the state that made them. The store adds checksums and
//! alternates between two files; this module only reads and writes one JSON text.

use std::collections::BTreeMap;

use agentd_types::{Code, Coded, DeviceId, FleetId, KeyId, ModelName, UnixTime};
use serde::{Deserialize, Serialize};

use super::{FleetState, Held, Identity, Standing};
use crate::{PublicKey, Reject, documents, json::Value};

/// The version of the durable form.
const FORMAT: u32 = 1;

/// The durable state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not the bytes that this program writes.
    #[error("the durable trust state cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// Written by a program with another form.
    #[error("the durable trust state has form {0}, and this program reads form {FORMAT}")]
    Format(u32),
    /// The state of another device.
    #[error("the durable trust state belongs to device `{device}` of fleet `{fleet}`")]
    Foreign {
        /// Whose it is.
        device: DeviceId,
        /// Of which fleet.
        fleet: FleetId,
    },
    /// A document in it breaks its own rules.
    #[error("the durable trust state holds a document that breaks the rules")]
    Document(#[from] Reject),
}

impl Coded for StateError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Malformed(_) => "state.malformed",
            Self::Format(_) => "state.format",
            Self::Foreign { .. } => "state.foreign",
            Self::Document(_) => "state.document",
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    device: DeviceId,
    fleet: FleetId,
    recovering: bool,
    trust: KeptDocument,
    catalog: Option<KeptDocument>,
    membership: Option<KeptDocument>,
    desired: Vec<KeptDocument>,
    highest: BTreeMap<ModelName, u64>,
    derived_seq: BTreeMap<ModelName, u64>,
    clock_mark: UnixTime,
}

#[derive(Serialize, Deserialize)]
struct KeptDocument {
    payload: String,
    signers: Vec<KeyId>,
}

impl KeptDocument {
    fn of<T>(held: &Held<T>) -> Self {
        // Payloads are canonical JSON and so always UTF-8.
        Self { payload: String::from_utf8_lossy(&held.payload).into_owned(), signers: held.signers.clone() }
    }

    fn open<T>(self, read: impl FnOnce(&Value) -> Result<T, Reject>) -> Result<Held<T>, Reject> {
        let document = read(&Value::read_canonical(self.payload.as_bytes())?)?;
        Ok(Held { document, payload: self.payload.into_bytes(), signers: self.signers })
    }
}

impl FleetState {
    /// The state as bytes: what must be durable before an accepted document is acknowledged or acted upon.
    #[expect(clippy::missing_panics_doc, reason = "it never does")]
    pub fn to_bytes(&self) -> Vec<u8> {
        let kept = Kept {
            format: FORMAT,
            device: self.identity.device.clone(),
            fleet: self.identity.fleet.clone(),
            recovering: self.is_recovering(),
            trust: KeptDocument::of(&self.trust),
            catalog: self.catalog.as_ref().map(KeptDocument::of),
            membership: self.membership.as_ref().map(KeptDocument::of),
            desired: self.desired.values().map(KeptDocument::of).collect(),
            highest: self.highest.clone(),
            derived_seq: self.derived_seq.clone(),
            clock_mark: self.clock_mark,
        };
        #[expect(
            clippy::expect_used,
            reason = "strings, integers and maps with string keys always serialise"
        )]
        serde_json::to_vec(&kept).expect("the state has a JSON form")
    }

    /// The state that [`FleetState::to_bytes`] wrote. Signatures are not checked again: they were, under the trust of
    /// their time.
    ///
    /// # Errors
    /// [`StateError`]; the device then goes on with [`FleetState::recovering`].
    pub fn from_bytes(identity: Identity, bytes: &[u8]) -> Result<Self, StateError> {
        let kept: Kept = serde_json::from_slice(bytes).map_err(StateError::Malformed)?;
        if kept.format != FORMAT {
            return Err(StateError::Format(kept.format));
        }
        if kept.device != identity.device || kept.fleet != identity.fleet {
            return Err(StateError::Foreign { device: kept.device, fleet: kept.fleet });
        }
        let fleet = &kept.fleet;
        let mut desired = BTreeMap::new();
        for document in kept.desired {
            let held = document.open(|value| documents::read_desired(value, fleet))?;
            desired.insert(held.document.target.clone(), held);
        }
        Ok(Self {
            device_key: PublicKey::from_bytes(&identity.device_key)?,
            trust: kept.trust.open(|value| documents::read_trust(value, Some(fleet)))?,
            catalog: kept
                .catalog
                .map(|kept| kept.open(|value| documents::read_catalog(value, fleet)))
                .transpose()?,
            membership: kept
                .membership
                .map(|kept| kept.open(|value| documents::read_membership(value, fleet)))
                .transpose()?,
            desired,
            highest: kept.highest,
            derived_seq: kept.derived_seq,
            clock_mark: kept.clock_mark,
            standing: if kept.recovering { Standing::Recovering } else { Standing::Sound },
            identity,
        })
    }
}
