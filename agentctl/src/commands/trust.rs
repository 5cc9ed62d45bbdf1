//! `trust`: who may sign what, and what a device says to a case.

mod edit;
mod init;
mod replay;
mod show;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use agentd_bundle::{Envelope, MAX_ENVELOPE, SignatureReport, TrustRoot, author, report_signatures};

use super::key::files::KeyNames;
use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// The `trust` commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make the first trust document of a fleet.
    Init(init::Args),
    /// Add your signature, where a role needs several people.
    Sign(edit::Sign),
    /// Add a key to a role.
    AddKey(edit::AddKey),
    /// Put a new key in the place of an old one.
    Rotate(edit::Rotate),
    /// Revoke a key, a bundle or old versions of a model.
    Revoke(edit::Revoke),
    /// Show keys, roles and revocations, and who signed.
    Show(show::Args),
    /// Play a case folder against a fresh device in memory.
    Replay(replay::Args),
}

pub(crate) fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Init(args) => init::run(args, context),
        Command::Sign(args) => edit::sign(&args, context),
        Command::AddKey(args) => edit::add_key(&args, context),
        Command::Rotate(args) => edit::rotate(&args, context),
        Command::Revoke(args) => edit::revoke(&args, context),
        Command::Show(args) => show::run(&args, context),
        Command::Replay(args) => replay::run(&args, context),
    }
}

/// A trust document on disk.
pub(crate) struct TrustFile {
    /// The envelope with its signatures.
    pub(crate) envelope: Envelope,
    /// The document, its rules checked.
    pub(crate) root: TrustRoot,
}

impl TrustFile {
    /// Reads a trust document and checks its rules; who signed is another question.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let what = || format!("cannot use the trust document `{}`", path.display());
        let bytes = read_envelope(path).map_err(|error| Failure::new(what()).because(&error))?;
        let (envelope, root) = author::read_trust_envelope(&bytes)
            .map_err(|reject| Failure::new(what()).coded(&reject).exit_with(Exit::Refused))?;
        Ok(Self { envelope, root })
    }

    /// Who of its own root role signed.
    pub(crate) fn signatures(&self) -> Result<SignatureReport, Failure> {
        report_signatures(&self.envelope, &self.root, None).map_err(|reject| {
            Failure::new("cannot count the signatures").coded(&reject).exit_with(Exit::Defect)
        })
    }
}

/// Reads an envelope, up to the size that one may have.
pub(crate) fn read_envelope(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_ENVELOPE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `trust-<version>.json` beside `file`.
fn beside(file: &Path, version: u64) -> PathBuf {
    file.with_file_name(format!("trust-{version}.json"))
}

/// Says in one line who signed and who still must.
pub(crate) fn signed_line(report: &SignatureReport, names: &KeyNames) -> String {
    let mut line = format!("{} of {} for {}", report.signed.len(), report.threshold, report.role);
    if !report.signed.is_empty() {
        line.push_str(&format!(": {}", names.list(&report.signed)));
    }
    if !report.is_met() {
        line.push_str(&format!("; {} more of {} must sign", report.wanting(), names.list(&report.missing)));
    }
    for remark in &report.remarks {
        line.push_str(&format!("; {remark}"));
    }
    line
}
