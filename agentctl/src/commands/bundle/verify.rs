//! `bundle verify`: every check of a bundle that needs no device.

use std::path::PathBuf;

use agentd_bundle::{
    Reject, TrustRoot,
    archive::{ArchiveError, BundleDocument},
    report_signatures,
};
use agentd_types::{ByteCount, Code, Coded as _, Digest, ModelName, UnixTime, chain};
use serde::Serialize;

use super::super::{
    key::files::KeyNames,
    trust::{TrustFile, signed_line},
};
use crate::{
    bundle_file::BundleFile,
    context::Context,
    failure::{Exit, Failure},
    ui::{Tone, Ui},
};

/// Options of `bundle verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl bundle verify crack.agentb --trust trust-3.json\n\n\
    A device also asks whether it was told to run the bundle and whether the catalog lists it.\n\
    Exits 1 when a check fails.")]
pub(crate) struct Args {
    /// The bundle: an .agentb file or a folder.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// The trust document that says who may sign it.
    #[arg(long, value_name = "TRUST")]
    trust: PathBuf,
}

/// One check.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    message: String,
    code: Option<Code>,
}

/// All checks of a bundle.
#[derive(Debug, Serialize)]
struct Report {
    name: ModelName,
    version: u64,
    sha256: Digest,
    ok: bool,
    checks: Vec<Check>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let trust = TrustFile::read(&args.trust)?;
    let what = format!("cannot read `{}`", args.bundle.display());
    let mut bundle = BundleFile::open(&args.bundle).map_err(|error| Failure::new(&what).coded(&error))?;
    let spinner = context.ui().spinner("checking");
    let content = bundle.check_content();
    spinner.finish_and_clear();
    let names = KeyNames::beside(&args.trust);
    let document = bundle.document();
    let mut checks = vec![check_content(document, content), check_trust(&trust, &names, context.now())?];
    checks.extend(check_document(document, &trust.root, &names, context.now()));
    let report = Report {
        name: document.manifest().name.clone(),
        version: document.manifest().version,
        sha256: document.envelope().digest(),
        ok: checks.iter().all(|check| check.ok),
        checks,
    };
    let ui = context.ui();
    ui.result(&report, || {
        for line in report.lines(ui) {
            ui.line(line);
        }
    });
    Ok(if report.ok { Exit::Done } else { Exit::No })
}

fn good(name: &'static str, message: impl Into<String>) -> Check {
    Check { name, ok: true, message: message.into(), code: None }
}

fn bad(name: &'static str, message: impl Into<String>, code: &'static str) -> Check {
    Check { name, ok: false, message: message.into(), code: Some(Code::new(code)) }
}

fn refused(name: &'static str, reject: &Reject) -> Check {
    Check { name, ok: false, message: reject.to_string(), code: Some(reject.code()) }
}

fn check_content(document: &BundleDocument, content: Result<(), ArchiveError>) -> Check {
    match content {
        Ok(()) => {
            let manifest = document.manifest();
            let (files, size) = (manifest.files.len(), ByteCount(manifest.total_size()));
            good(
                "content",
                format!(
                    "{files} files, {size} in {} chunks, all as the manifest says",
                    document.blobs().len()
                ),
            )
        }
        Err(error) => Check { name: "content", ok: false, message: chain(&error), code: Some(error.code()) },
    }
}

/// The trust document must be signed by its own root role; whether it is ours, only a device knows.
fn check_trust(trust: &TrustFile, names: &KeyNames, now: UnixTime) -> Result<Check, Failure> {
    let document = trust.root.document();
    let signatures = trust.signatures()?;
    let expires = document.expires;
    Ok(if !signatures.is_met() {
        bad("trust", signed_line(&signatures, names), "verify.threshold")
    } else if now > expires {
        bad("trust", format!("trust {} expired at {expires}", document.version), "verify.trust_expired")
    } else {
        good("trust", format!("trust {} of fleet {}, until {expires}", document.version, document.fleet))
    })
}

fn check_document(
    document: &BundleDocument,
    trust: &TrustRoot,
    names: &KeyNames,
    now: UnixTime,
) -> Vec<Check> {
    let (manifest, digest) = (document.manifest(), document.envelope().digest());
    let signatures = match report_signatures(document.envelope(), trust, Some(&manifest.name)) {
        Ok(report) if report.is_met() => good("signatures", signed_line(&report, names)),
        Ok(report) => bad("signatures", signed_line(&report, names), "verify.threshold"),
        Err(reject) => refused("signatures", &reject),
    };
    let fleet = &trust.document().fleet;
    let for_us = if manifest.fleet == "*" || manifest.fleet == fleet.as_str() {
        good("fleet", format!("for {}", if manifest.fleet == "*" { "any fleet" } else { fleet.as_str() }))
    } else {
        bad("fleet", format!("for fleet {}, and trust is of fleet {fleet}", manifest.fleet), "verify.fleet")
    };
    let least = trust.document().min_versions.get(&manifest.name).copied().unwrap_or(1);
    let allowed = if trust.document().revoked_bundles.contains(&digest) {
        bad("allowed", format!("bundle {} is revoked", digest.short()), "verify.revoked")
    } else if manifest.version < least {
        bad("allowed", format!("trust allows no version below {least}"), "verify.min_version")
    } else {
        good("allowed", format!("not revoked, version {} is at least {least}", manifest.version))
    };
    let expiry = if now > manifest.expires {
        bad("expiry", format!("expired at {}", manifest.expires), "verify.expired")
    } else {
        good("expiry", format!("made {}, until {}", manifest.created, manifest.expires))
    };
    vec![signatures, for_us, allowed, expiry]
}

impl Report {
    fn lines(&self, ui: Ui) -> Vec<String> {
        let mut lines = vec![format!("{} {}   sha256 {}", self.name, self.version, self.sha256)];
        for Check { name, ok, message, code } in &self.checks {
            let state = if *ok { ui.paint(Tone::Good, " ok  ") } else { ui.paint(Tone::Bad, " fail") };
            let code = code.as_ref().map(|code| format!("  [{code}]")).unwrap_or_default();
            lines.push(format!("{state} {name:<11}{message}{code}"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use agentd_bundle::{
        Envelope, PrivateKey,
        author::{RolePlan, TrustPlan, draft_trust, read_trust_envelope},
    };

    use super::*;
    use crate::ui::{Color, Form};

    const NOW: UnixTime = UnixTime(1_815_704_563);

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from_seed(&[seed; 32])
    }

    /// A bundle out of the shared cases, signed here by the keys of these seeds.
    fn document(signers: &[u8]) -> BundleDocument {
        let case = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/documents/control__good_bundle/02.bundle.json"
        );
        let held = Envelope::read(&std::fs::read(case).unwrap()).unwrap();
        let mut envelope = Envelope::unsigned(held.kind(), held.payload().to_vec());
        for seed in signers {
            envelope.sign(&key(*seed)).unwrap();
        }
        BundleDocument::new(envelope).unwrap()
    }

    fn trust(fleet: &str) -> TrustFile {
        let plan = |seeds: &[u8], threshold| RolePlan {
            keys: seeds.iter().map(|seed| key(*seed).public()).collect(),
            threshold,
        };
        let plan = TrustPlan {
            fleet: fleet.parse().unwrap(),
            created: UnixTime(NOW.0 - 86_400),
            expires: NOW.plus(86_400),
            root: plan(&[1], 1),
            fleet_role: plan(&[2], 1),
            releases: vec![(vec!["vision/*".into()], plan(&[3, 4], 2))],
        };
        let mut envelope = draft_trust(&plan.document()).unwrap();
        envelope.sign(&key(1)).unwrap();
        let (envelope, root) = read_trust_envelope(&envelope.to_bytes()).unwrap();
        TrustFile { envelope, root }
    }

    fn text(signers: &[u8], fleet: &str, now: UnixTime) -> String {
        let (document, trust, names) = (document(signers), trust(fleet), KeyNames::default());
        let mut checks = vec![check_content(&document, Ok(())), check_trust(&trust, &names, now).unwrap()];
        checks.extend(check_document(&document, &trust.root, &names, now));
        let report = Report {
            name: document.manifest().name.clone(),
            version: document.manifest().version,
            sha256: document.envelope().digest(),
            ok: checks.iter().all(|check| check.ok),
            checks,
        };
        report.lines(Ui::new(Form::Human, false, Color::Never)).join("\n")
    }

    #[test]
    fn a_good_bundle_reads_like_this() {
        insta::assert_snapshot!(text(&[3, 4], "plant-efa", NOW), @r#"
vision/defect 5   sha256 57770c009eea181b87b4d60d6ab5bdd13d8acf2943c36a309476d0f5a5e8de78
 ok   content    5 files, 48.9 KiB in 8 chunks, all as the manifest says
 ok   trust      trust 1 of fleet plant-efa, until 2027-07-17 02:22:43Z
 ok   signatures 2 of 2 for the release role for vision/*: 3336b222, 8bf5a507
 ok   fleet      for plant-efa
 ok   allowed    not revoked, version 5 is at least 1
 ok   expiry     made 2027-07-16 01:22:43Z, until 2028-01-12 02:22:43Z
"#);
    }

    #[test]
    fn a_bundle_with_every_fault_reads_like_this() {
        insta::assert_snapshot!(text(&[3, 1], "other", NOW.plus(400 * 86_400)), @r#"
vision/defect 5   sha256 57770c009eea181b87b4d60d6ab5bdd13d8acf2943c36a309476d0f5a5e8de78
 ok   content    5 files, 48.9 KiB in 8 chunks, all as the manifest says
 fail trust      trust 1 expired at 2027-07-17 02:22:43Z  [verify.trust_expired]
 fail signatures 1 of 2 for the release role for vision/*: 8bf5a507; 1 more of 3336b222 must sign; 7ab6b86c is not a key of this role  [verify.threshold]
 fail fleet      for fleet plant-efa, and trust is of fleet other  [verify.fleet]
 ok   allowed    not revoked, version 5 is at least 1
 fail expiry     expired at 2028-01-12 02:22:43Z  [verify.expired]
"#);
    }
}
