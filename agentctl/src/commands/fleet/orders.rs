//! Signed orders: makes the documents that follow those on the broker, and signs them.
//!
//! In: what stands on the broker, the trust document, keys. Out: envelopes that devices will accept. A number is never
//! below what the broker or any device has seen, so that a broker which forgot everything does no harm.

use std::path::{Path, PathBuf};

use agentd_bundle::{Envelope, PrivateKey, Reject, report_signatures};
use agentd_types::{Coded as _, FleetId};
use agentd_wire::{Catalog, Desired, Kind, Target};
use serde::de::DeserializeOwned;

use super::super::{
    key::files::{KeyNames, read_private},
    trust::{TrustFile, signed_line},
};
use crate::failure::{Exit, Failure};

/// Who orders.
#[derive(Debug, clap::Args)]
pub(crate) struct SignArgs {
    /// The newest trust document of the fleet; it says which keys give orders.
    #[arg(long, value_name = "TRUST", env = "AGENTCTL_TRUST")]
    pub(crate) trust: PathBuf,
    /// A private key of the fleet role; once for each key.
    #[arg(long = "key", short = 'k', value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// Read the passphrase of the keys from the first line of a file instead of asking.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Signs orders for a fleet.
pub(crate) struct Signer {
    trust: TrustFile,
    names: KeyNames,
    keys: Vec<PrivateKey>,
}

impl SignArgs {
    /// The trust document.
    pub(crate) fn trust(&self, fleet: &FleetId) -> Result<TrustFile, Failure> {
        let trust = TrustFile::read(&self.trust)?;
        let held = &trust.root.document().fleet;
        if held != fleet {
            return Err(Failure::new(format!("`{}` is not for fleet `{fleet}`", self.trust.display()))
                .cause(format!("it is for `{held}`"))
                .exit_with(Exit::Usage));
        }
        Ok(trust)
    }

    /// Reads the keys, asking for passphrases where they are needed.
    pub(crate) fn signer(&self, fleet: &FleetId) -> Result<Signer, Failure> {
        if self.keys.is_empty() {
            return Err(Failure::new("nobody signs")
                .hint("give the private key of the fleet role with --key")
                .exit_with(Exit::Usage));
        }
        let keys = self.keys.iter().map(|file| read_private(file, self.passphrase_file.as_deref()));
        let keys = keys.collect::<Result<_, _>>()?;
        Ok(Signer { trust: self.trust(fleet)?, names: KeyNames::beside(&self.trust), keys })
    }
}

impl Signer {
    /// Signs a document and makes sure that devices will find enough signatures under it.
    pub(crate) fn sign(&self, what: &str, draft: Result<Envelope, Reject>) -> Result<Vec<u8>, Failure> {
        let refuse = |reject: &Reject| {
            Failure::new(format!("cannot sign the {what}")).coded(reject).exit_with(Exit::Refused)
        };
        let mut envelope = draft.map_err(|reject| refuse(&reject))?;
        for key in &self.keys {
            envelope.sign(key).map_err(|reject| refuse(&reject))?;
        }
        let report =
            report_signatures(&envelope, &self.trust.root, None).map_err(|reject| refuse(&reject))?;
        if !report.is_met() {
            return Err(Failure::new(format!("cannot sign the {what}"))
                .cause(signed_line(&report, &self.names))
                .hint("give the missing keys with --key")
                .code(agentd_types::Code::new("verify.threshold"))
                .exit_with(Exit::Refused));
        }
        Ok(envelope.to_bytes())
    }
}

/// A document that stands on the broker, when the fleet role has signed it; anything else there has no say.
fn standing<T: DeserializeOwned>(bytes: &[u8], kind: Kind, trust: &TrustFile) -> Option<T> {
    let envelope = Envelope::read_kind(bytes, kind).ok()?;
    let genuine = report_signatures(&envelope, &trust.root, None).is_ok_and(|report| report.is_met());
    genuine.then(|| serde_json::from_slice(envelope.payload()).ok()).flatten()
}

/// The catalog that stands on the broker.
pub(crate) fn standing_catalog(bytes: &[u8], trust: &TrustFile) -> Option<Catalog> {
    standing(bytes, Kind::Catalog, trust)
}

/// The desired document for `target` that stands on the broker.
pub(crate) fn standing_desired(bytes: &[u8], target: &Target, trust: &TrustFile) -> Option<Desired> {
    standing(bytes, Kind::Desired, trust).filter(|desired: &Desired| desired.target == *target)
}

/// Makes sure that the release role has signed a bundle.
pub(crate) fn check_release(
    path: &Path,
    document: &agentd_bundle::archive::BundleDocument,
    trust: &TrustFile,
    names: &KeyNames,
) -> Result<(), Failure> {
    let manifest = document.manifest();
    let what = || format!("cannot deploy {} {}", manifest.name, manifest.version);
    let report =
        report_signatures(document.envelope(), &trust.root, Some(&manifest.name)).map_err(|reject| {
            let code = reject.code();
            Failure::new(what()).because(&reject).code(code).exit_with(Exit::Refused)
        })?;
    if report.is_met() {
        return Ok(());
    }
    Err(Failure::new(what())
        .cause(format!("it is signed by {}", signed_line(&report, names)))
        .hint(format!("agentctl bundle sign {} --key KEY.pem", path.display()))
        .code(agentd_types::Code::new("verify.threshold"))
        .exit_with(Exit::Refused))
}
