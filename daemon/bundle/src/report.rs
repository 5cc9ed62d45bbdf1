//! Says who signed an envelope and whether that is enough, for people who sign and for `bundle verify`.

use agentd_types::{KeyId, ModelName};
use agentd_wire::Kind;

use crate::{Cause, Envelope, Reject, TrustRoot, signatures::Quorum};

/// Who signed for the role that decides about an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureReport {
    /// The role, such as `the release role for demo/*`.
    pub role: String,
    /// How many of its keys must sign.
    pub threshold: u64,
    /// The keys that did.
    pub signed: Vec<KeyId>,
    /// The keys that could.
    pub missing: Vec<KeyId>,
    /// What is wrong with signatures that do not count.
    pub remarks: Vec<String>,
}

impl SignatureReport {
    /// Whether enough keys signed.
    pub const fn is_met(&self) -> bool {
        self.signed.len() as u64 >= self.threshold
    }

    /// How many more keys must sign.
    pub const fn wanting(&self) -> u64 {
        self.threshold.saturating_sub(self.signed.len() as u64)
    }
}

/// Counts the signatures of an envelope against the role of `trust` that decides about it.
///
/// `model`: the name in a bundle's manifest, which decides on the release role. A trust document is counted against
/// the root role of `trust`, which is the old one when `trust` is its predecessor.
///
/// # Errors
/// `delegation` when no release role covers the model, `type` for a derived model, which only its device signs.
pub fn report_signatures(
    envelope: &Envelope,
    trust: &TrustRoot,
    model: Option<&ModelName>,
) -> Result<SignatureReport, Reject> {
    let quorum = match (envelope.kind(), model) {
        (Kind::Trust, _) => Quorum::root(trust),
        (Kind::Catalog | Kind::Membership | Kind::Desired, _) => Quorum::fleet(trust),
        (Kind::Bundle, Some(name)) => {
            let role = trust.release_role(name).ok_or_else(|| {
                Reject::new(Cause::Delegation, format!("no release role covers the name `{name}`"))
            })?;
            Quorum::release(trust, role)
        }
        (Kind::Bundle | Kind::Derived, _) => {
            return Err(Reject::new(Cause::Type, "only the device that made a derived model signs it"));
        }
    };
    let tally = quorum.tally(envelope);
    Ok(SignatureReport {
        role: quorum.label().to_owned(),
        threshold: quorum.threshold(),
        signed: tally.signed,
        missing: tally.missing,
        remarks: tally.remarks,
    })
}
