//! `bundle sign`: adds a signature to a bundle; several people sign the same one, one after the other.

use std::{io::Write as _, path::PathBuf};

use agentd_bundle::{
    SignatureReport,
    archive::{BundleDocument, SIGNED_NAME, UNSIGNED_NAME},
    report_signatures,
};
use agentd_types::{Digest, ModelName};
use serde::Serialize;

use super::super::{
    key::files::{KeyNames, Signers},
    trust::{TrustFile, signed_line},
};
use crate::{
    bundle_file::{BundleFile, write_whole},
    context::Context,
    failure::{Exit, Failure},
};

/// Options of `bundle sign`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agentctl bundle sign crack.agentb --key release-1.pem --trust trust-3.json\n\n\
    What is signed is the manifest; it names every file by its digest."
)]
pub(crate) struct Args {
    /// The bundle: an .agentb file or a folder.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Say whether that is enough, by this trust document.
    #[arg(long, value_name = "TRUST")]
    trust: Option<PathBuf>,
    #[command(flatten)]
    signers: Signers,
}

/// A bundle with its new signatures.
#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    name: ModelName,
    version: u64,
    sha256: Digest,
    signatures: usize,
    complete: Option<bool>,
    signed: Option<String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let what = format!("cannot sign `{}`", args.bundle.display());
    let mut bundle = BundleFile::open(&args.bundle).map_err(|error| Failure::new(&what).coded(&error))?;
    // Nobody signs what is damaged: the signature would be for a bundle that no device can use.
    bundle.check_content().map_err(|error| Failure::new(&what).coded(&error))?;
    let mut envelope = bundle.document().envelope().clone();
    for key in args.signers.read()? {
        envelope.sign(&key).map_err(|reject| Failure::new(&what).coded(&reject))?;
    }
    let document = BundleDocument::new(envelope).map_err(|reject| Failure::new(&what).coded(&reject))?;
    let counted = match &args.trust {
        Some(path) => {
            let trust = TrustFile::read(path)?;
            let report = report_signatures(document.envelope(), &trust.root, Some(&document.manifest().name))
                .map_err(|reject| Failure::new(&what).coded(&reject).exit_with(Exit::Refused))?;
            Some((report, KeyNames::beside(path)))
        }
        None => None,
    };
    write(&mut bundle, args, &document).map_err(|error| Failure::new(&what).because(&error))?;
    let report = Report {
        file: args.bundle.clone(),
        name: document.manifest().name.clone(),
        version: document.manifest().version,
        sha256: document.envelope().digest(),
        signatures: document.envelope().signatures().len(),
        complete: counted.as_ref().map(|(report, _)| report.is_met()),
        signed: counted.as_ref().map(|(report, names)| signed_line(report, names)),
    };
    let ui = context.ui();
    ui.result(&report, || {
        for line in report.lines() {
            ui.line(line);
        }
    });
    if counted.is_some_and(|(report, _): (SignatureReport, _)| !report.is_met()) {
        ui.note(format!("next: agentctl bundle sign {} --key KEY.pem", args.bundle.display()));
    }
    Ok(Exit::Done)
}

fn write(bundle: &mut BundleFile, args: &Args, document: &BundleDocument) -> std::io::Result<()> {
    match bundle {
        BundleFile::Archive(_) => bundle.write_archive(&args.bundle, document),
        BundleFile::Folder(_) => {
            let bytes = document.to_bytes();
            write_whole(&args.bundle.join(SIGNED_NAME), |out| out.write_all(&bytes))?;
            match std::fs::remove_file(args.bundle.join(UNSIGNED_NAME)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        }
    }
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let signatures = match self.signatures {
            1 => "1 signature".to_owned(),
            count => format!("{count} signatures"),
        };
        let mut lines =
            vec![format!("{} {}   {}   {signatures}", self.name, self.version, self.file.display())];
        lines.push(format!("  sha256  {}", self.sha256));
        lines.extend(self.signed.as_ref().map(|signed| format!("  signed  {signed}")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_waits_for_a_second_person_reads_like_this() {
        let report = Report {
            file: "estop.agentb".into(),
            name: "safety/estop".parse().unwrap(),
            version: 2,
            sha256: Digest::of(b"payload"),
            signatures: 1,
            complete: Some(false),
            signed: Some(
                "1 of 2 for the release role for safety/*: release-1; 1 more of release-2 must sign".into(),
            ),
        };
        insta::assert_snapshot!(report.lines().join("\n"), @r#"
safety/estop 2   estop.agentb   1 signature
  sha256  239f59ed55e737c77147cf55ad0c1b030b6d7ee748a7426952f9b852d5a935e5
  signed  1 of 2 for the release role for safety/*: release-1; 1 more of release-2 must sign
"#);
    }
}
