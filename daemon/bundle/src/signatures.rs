//! Counts the signatures of an envelope against a role.
//!
//! In: an envelope and the keys that may sign it. Out: the distinct keys that did, or `threshold` with all the facts:
//! who signed, who is missing, and what is wrong with the other signatures.

use std::fmt::Write as _;

use agentd_types::KeyId;
use agentd_wire::{ReleaseRole, Role};

use crate::{Cause, Envelope, PublicKey, Reject, TrustRoot, reject::quoted};

/// Keys of which a threshold must sign.
#[derive(Clone, Debug)]
pub(crate) struct Quorum {
    /// Completes "signed by 1 of the 2 keys that ... needs".
    label: String,
    keys: Vec<Signer>,
    threshold: u64,
}

/// A key of a role.
#[derive(Clone, Debug)]
struct Signer {
    id: KeyId,
    /// `None` when the key is revoked.
    key: Option<PublicKey>,
}

impl Quorum {
    fn new(label: String, trust: &TrustRoot, keyids: &[KeyId], threshold: u64) -> Self {
        let keys = keyids.iter().map(|id| Signer { id: *id, key: trust.key(id).copied() }).collect();
        Self { label, keys, threshold }
    }

    pub(crate) fn root(trust: &TrustRoot) -> Self {
        let Role { keyids, threshold } = &trust.document().roles.root;
        Self::new(format!("the root role of trust {}", trust.document().version), trust, keyids, *threshold)
    }

    pub(crate) fn fleet(trust: &TrustRoot) -> Self {
        let Role { keyids, threshold } = &trust.document().roles.fleet;
        Self::new("the fleet role".into(), trust, keyids, *threshold)
    }

    pub(crate) fn release(trust: &TrustRoot, role: &ReleaseRole) -> Self {
        let label = format!("the release role for {}", role.names.join(", "));
        Self::new(label, trust, &role.keyids, role.threshold)
    }

    /// The device's own key, which trust can only revoke.
    pub(crate) fn device(trust: &TrustRoot, key: PublicKey) -> Self {
        let id = key.id();
        let key = Some(key).filter(|_| !trust.is_revoked(&id));
        Self { label: "a model made on this device".into(), keys: vec![Signer { id, key }], threshold: 1 }
    }

    pub(crate) fn threshold(&self) -> u64 {
        self.threshold
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The state of every key of the role in `envelope`, and remarks on signatures that do not count.
    pub(crate) fn tally(&self, envelope: &Envelope) -> Tally {
        let message = envelope.pae();
        let mut tally = Tally::default();
        for signature in envelope.signatures() {
            let signer = self.keys.iter().find(|signer| signer.id.to_string() == signature.keyid);
            match signer.map(|signer| (signer.id, signer.key)) {
                None => tally.remarks.push(format!("{} is not a key of this role", shown(&signature.keyid))),
                Some((id, None)) => tally.remarks.push(format!("{} is revoked", id.0.short())),
                Some((id, Some(key))) if key.verifies(&message, &signature.sig) => tally.signed.push(id),
                Some((id, Some(_))) => {
                    tally.remarks.push(format!("the signature of {} is not valid", id.0.short()));
                }
            }
        }
        let missing =
            self.keys.iter().filter(|signer| signer.key.is_some() && !tally.signed.contains(&signer.id));
        tally.missing = missing.map(|signer| signer.id).collect();
        tally
    }

    /// The keys that signed, when they reach the threshold.
    pub(crate) fn prove(&self, envelope: &Envelope) -> Result<Vec<KeyId>, Reject> {
        let tally = self.tally(envelope);
        if tally.signed.len() as u64 >= self.threshold {
            return Ok(tally.signed);
        }
        let mut message = format!(
            "it is signed by {} of the {} keys that {} needs",
            tally.signed.len(),
            self.threshold,
            self.label
        );
        for (lead, ids) in [("signed by", &tally.signed), ("missing one of", &tally.missing)] {
            if !ids.is_empty() {
                let names: Vec<_> = ids.iter().map(|id| id.0.short()).collect();
                // Writing to a string cannot fail.
                write!(message, "; {lead} {}", names.join(", ")).unwrap_or_default();
            }
        }
        for remark in &tally.remarks {
            write!(message, "; {remark}").unwrap_or_default();
        }
        Err(Reject::new(Cause::Threshold, message))
    }
}

/// Who signed for a role.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) signed: Vec<KeyId>,
    pub(crate) missing: Vec<KeyId>,
    pub(crate) remarks: Vec<String>,
}

fn shown(keyid: &str) -> String {
    keyid.parse::<KeyId>().map_or_else(|_| quoted(keyid), |id| id.0.short())
}
