//! `trust add-key`, `rotate`, `revoke` and `sign`: the next version of a trust document, signed by enough of the old
//! and of the new root keys.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use agentd_bundle::{
    Envelope, TrustRoot,
    author::{self, RoleName, TrustEditError, draft_trust, successor},
    report_signatures,
};
use agentd_types::{Digest, ModelName};
use agentd_wire::Trust;
use serde::Serialize;

use super::{
    super::key::files::{KeyNames, Signers, key_id, read_public, write_new},
    TrustFile, beside, signed_line,
};
use crate::{
    bundle_file::write_whole,
    context::Context,
    failure::{Exit, Failure},
};

/// What every edit needs.
#[derive(Debug, clap::Args)]
struct Edit {
    /// The trust document in force.
    #[arg(value_name = "TRUST")]
    trust: PathBuf,
    /// Where to write the next version; otherwise trust-VERSION.json beside it.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// For how many days the next version may be used.
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u64,
    #[command(flatten)]
    signers: Signers,
}

/// Options of `trust add-key`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentctl trust add-key trust-1.json --role 'release:vision/*' --public release-2.pub \\\n    \
    --threshold 2 --key root-1.pem --key root-2.pem"
)]
pub(crate) struct AddKey {
    #[command(flatten)]
    edit: Edit,
    /// `root`, `fleet` or `release:GLOB`; a release role that is not there yet is made.
    #[arg(long, value_name = "ROLE")]
    role: RoleName,
    /// The public key to add.
    #[arg(long, value_name = "FILE.pub")]
    public: PathBuf,
    /// How many keys of the role must sign from now on; as before when not said.
    #[arg(long, value_name = "N")]
    threshold: Option<u64>,
}

/// Options of `trust rotate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agentctl trust rotate trust-1.json --old fleet-1.pub --new fleet-2.pub \\\n    \
    --key root-1.pem --key root-2.pem\n\nA new fleet key makes devices forget what the old one signed, so publish catalog, groups and desired\n\
    states again. A key that was stolen is revoked as well: agentctl trust revoke."
)]
pub(crate) struct Rotate {
    #[command(flatten)]
    edit: Edit,
    /// The key that goes: its .pub file or its id.
    #[arg(long, value_name = "KEY")]
    old: String,
    /// The public key that comes in its place, in every role of the old one.
    #[arg(long, value_name = "FILE.pub")]
    new: PathBuf,
}

/// Options of `trust revoke`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  agentctl trust revoke trust-2.json --signer release-1.pub --key root-1.pem --key root-2.pem\n  \
    agentctl trust revoke trust-2.json --below vision/defect=7 --key root-1.pem --key root-2.pem"
)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)))]
pub(crate) struct Revoke {
    #[command(flatten)]
    edit: Edit,
    /// A key that must never count again, in a role or of a device: its .pub file or its id.
    #[arg(long, value_name = "KEY", group = "what")]
    signer: Vec<String>,
    /// A bundle that no device may run: the digest of its manifest.
    #[arg(long, value_name = "SHA256", group = "what")]
    bundle: Vec<Digest>,
    /// Every version of a model below one.
    #[arg(long, value_name = "MODEL=VERSION", group = "what")]
    below: Vec<String>,
}

/// Options of `trust sign`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agentctl trust sign trust-2.json --previous trust-1.json --key root-2.pem"
)]
pub(crate) struct Sign {
    /// The trust document to sign.
    #[arg(value_name = "TRUST")]
    trust: PathBuf,
    /// The version before it, whose root keys must agree as well.
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
    #[command(flatten)]
    signers: Signers,
}

pub(crate) fn add_key(args: &AddKey, context: &Context) -> Result<Exit, Failure> {
    let key = read_public(&args.public)?;
    edit(&args.edit, context, |trust| {
        let trust = author::with_key(trust, &args.role, &key)?;
        match args.threshold {
            Some(threshold) => author::with_threshold(trust, &args.role, threshold),
            None => Ok(trust),
        }
    })
}

pub(crate) fn rotate(args: &Rotate, context: &Context) -> Result<Exit, Failure> {
    let (old, new) = (key_id(&args.old)?, read_public(&args.new)?);
    edit(&args.edit, context, |trust| author::rotate_key(trust, old, &new))
}

pub(crate) fn revoke(args: &Revoke, context: &Context) -> Result<Exit, Failure> {
    let keys = args.signer.iter().map(|text| key_id(text)).collect::<Result<Vec<_>, _>>()?;
    let below = args.below.iter().map(|text| model_version(text)).collect::<Result<Vec<_>, _>>()?;
    edit(&args.edit, context, |mut trust| {
        for key in keys {
            trust = author::without_key(trust, key)?;
        }
        for bundle in &args.bundle {
            trust = author::without_bundle(trust, *bundle);
        }
        for (model, version) in below {
            trust = author::with_min_version(trust, model, version);
        }
        Ok(trust)
    })
}

fn model_version(text: &str) -> Result<(ModelName, u64), Failure> {
    let read = || {
        let (model, version) = text.split_once('=')?;
        Some((model.parse().ok()?, version.parse().ok()?))
    };
    read().ok_or_else(|| {
        Failure::new(format!("`{text}` names no version of a model"))
            .hint("write for example vision/defect=7")
            .exit_with(Exit::Usage)
    })
}

pub(crate) fn sign(args: &Sign, context: &Context) -> Result<Exit, Failure> {
    let TrustFile { envelope, .. } = TrustFile::read(&args.trust)?;
    let before = args.previous.as_deref().map(TrustFile::read).transpose()?.map(|file| file.root);
    let written = Written { envelope, before, output: args.trust.clone(), replace: true };
    finish(written, &args.signers, context)
}

fn edit(
    args: &Edit,
    context: &Context,
    change: impl FnOnce(Trust) -> Result<Trust, TrustEditError>,
) -> Result<Exit, Failure> {
    let TrustFile { root: before, .. } = TrustFile::read(&args.trust)?;
    let now = context.now();
    let what = "cannot make the next trust document";
    let next = successor(before.document(), now, now.plus(args.days.saturating_mul(86_400)));
    let next = change(next).map_err(|error| {
        let failure = Failure::new(what).coded(&error);
        match error {
            TrustEditError::Unreachable { .. } => {
                failure.hint("first `agentctl trust rotate` or `add-key`, then revoke")
            }
            _ => failure.hint(format!("agentctl trust show {}", args.trust.display())),
        }
    })?;
    let envelope = draft_trust(&next).map_err(|reject| Failure::new(what).coded(&reject))?;
    let output = args.output.clone().unwrap_or_else(|| beside(&args.trust, next.version));
    finish(Written { envelope, before: Some(before), output, replace: false }, &args.signers, context)
}

/// A trust document that is about to be signed and written.
pub(super) struct Written {
    pub(super) envelope: Envelope,
    /// The document that it follows.
    pub(super) before: Option<TrustRoot>,
    pub(super) output: PathBuf,
    /// Whether `output` is the document itself, which gets one more signature.
    pub(super) replace: bool,
}

/// What was written and whether devices would take it.
#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    version: u64,
    complete: bool,
    signatures: Vec<String>,
}

/// Signs, writes, and says who still must sign.
pub(super) fn finish(written: Written, signers: &Signers, context: &Context) -> Result<Exit, Failure> {
    let Written { mut envelope, before, output, replace } = written;
    let what = format!("cannot sign `{}`", output.display());
    for key in signers.read()? {
        envelope.sign(&key).map_err(|reject| Failure::new(&what).coded(&reject))?;
    }
    let bytes = envelope.to_bytes();
    let (envelope, root) =
        author::read_trust_envelope(&bytes).map_err(|reject| Failure::new(&what).coded(&reject))?;
    let names = KeyNames::beside(&output);
    let reports = before
        .iter()
        .chain([&root])
        .map(|trust| report_signatures(&envelope, trust, None))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|reject| Failure::new(&what).coded(&reject))?;
    if replace {
        replace_file(&output, &bytes)?;
    } else {
        write_new(&output, &bytes, 0o644)?;
    }
    let report = Report {
        version: root.document().version,
        complete: reports.iter().all(agentd_bundle::SignatureReport::is_met),
        signatures: reports.iter().map(|report| signed_line(report, &names)).collect(),
        file: output,
    };
    let ui = context.ui();
    ui.result(&report, || {
        for line in report.lines() {
            ui.line(line);
        }
    });
    if !report.complete {
        ui.note(format!("next: agentctl trust sign {} --key KEY.pem", report.file.display()));
    }
    Ok(Exit::Done)
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let state = if self.complete { "complete" } else { "not complete yet: no device takes it" };
        let mut lines = vec![format!("trust {}   {}   {state}", self.version, self.file.display())];
        lines.extend(self.signatures.iter().map(|line| format!("  signed  {line}")));
        lines
    }
}

fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_whole(path, |out| out.write_all(bytes))
        .map_err(|error| Failure::new(format!("cannot write `{}`", path.display())).because(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_waits_for_others_reads_like_this() {
        let report = Report {
            file: "trust-2.json".into(),
            version: 2,
            complete: false,
            signatures: vec![
                "1 of 2 for the root role of trust 1: root-1; 1 more of root-2, root-3 must sign".into(),
                "1 of 2 for the root role of trust 2: root-1; 1 more of root-2, root-4 must sign".into(),
            ],
        };
        insta::assert_snapshot!(report.lines().join("\n"), @r#"
trust 2   trust-2.json   not complete yet: no device takes it
  signed  1 of 2 for the root role of trust 1: root-1; 1 more of root-2, root-3 must sign
  signed  1 of 2 for the root role of trust 2: root-1; 1 more of root-2, root-4 must sign
"#);
    }

    #[test]
    fn a_version_of_a_model_is_read() {
        assert_eq!(model_version("vision/defect=7").unwrap().1, 7);
        for bad in ["", "vision/defect", "vision/defect=x", "A=1"] {
            assert!(model_version(bad).is_err(), "{bad}");
        }
    }
}
