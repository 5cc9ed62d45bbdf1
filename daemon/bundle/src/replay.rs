//! Plays a case against a fresh device in memory: the same rules as in the daemon, step by step.
//!
//! In: a case description and its files through [`CaseFiles`]. Out: how each step ended. Used to compare verifiers with
//! each other, and to ask what a device would say.

use std::collections::BTreeMap;

use agentd_types::{Code, Coded, DeviceId, Digest, FleetId, UnixTime};
use agentd_wire::{Kind, Manifest};
use serde::Deserialize;

use crate::{FleetState, Identity, Reject, VerifiedBundle, check_chunk, check_file, check_file_set};

/// The outcome of a step that passed.
pub const ACCEPT: &str = "ACCEPT";

/// Where the files of a case come from.
pub trait CaseFiles {
    /// The file `name` of the case's folder.
    ///
    /// # Errors
    /// When it cannot be read.
    fn file(&self, name: &str) -> std::io::Result<Vec<u8>>;

    /// The file that the case names by the digest of its content, from the folder shared by all cases.
    ///
    /// # Errors
    /// When it cannot be read.
    fn blob(&self, digest: &Digest) -> std::io::Result<Vec<u8>>;
}

/// A case: a device, its pinned trust document and the steps that it takes.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// The case's name.
    #[serde(default)]
    pub name: String,
    /// What it shows.
    #[serde(default)]
    pub why: String,
    device: DeviceId,
    fleet: FleetId,
    device_public_key: Digest,
    build_epoch: UnixTime,
    start: String,
    steps: Vec<Step>,
    /// `ACCEPT` or a code without `verify.`: the outcome of the last step.
    pub expect: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Step {
    op: Op,
    now: UnixTime,
    #[serde(default)]
    file: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    index: usize,
    #[serde(default)]
    blobs: BTreeMap<String, Digest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Trust,
    Catalog,
    Membership,
    Desired,
    Bundle,
    Derived,
    Chunk,
    Install,
}

impl Op {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Catalog => "catalog",
            Self::Membership => "membership",
            Self::Desired => "desired",
            Self::Bundle => "bundle",
            Self::Derived => "derived",
            Self::Chunk => "chunk",
            Self::Install => "install",
        }
    }
}

/// A case that cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// The description is malformed.
    #[error("the description of the case cannot be read")]
    Description(#[from] serde_json::Error),
    /// The case has no steps.
    #[error("the case has no steps")]
    Empty,
    /// The pinned trust document is refused.
    #[error("the pinned trust document is refused")]
    Start(#[source] Reject),
    /// A file is missing.
    #[error("cannot read `{name}` of the case")]
    File {
        /// Its name or digest.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A step needs a bundle that no step before it proved.
    #[error("step {0} needs a bundle, and none was accepted before")]
    NoBundle(usize),
}

impl Coded for CaseError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Description(_) => "case.description",
            Self::Empty => "case.empty",
            Self::Start(_) => "case.start",
            Self::File { .. } => "case.file",
            Self::NoBundle(_) => "case.no_bundle",
        })
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepResult {
    /// The operation, such as `catalog`.
    pub op: &'static str,
    /// The refusal, when there was one.
    pub refused: Option<Reject>,
}

impl StepResult {
    /// `ACCEPT` or the bare code.
    pub fn outcome(&self) -> &'static str {
        self.refused.as_ref().map_or(ACCEPT, Reject::code_name)
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// The steps that were taken; all but the last passed.
    pub steps: Vec<StepResult>,
    /// How many steps the case has.
    pub of: usize,
    /// What the case expects.
    pub expect: String,
}

impl Played {
    /// `ACCEPT` or the bare code of the last step that was taken.
    pub fn outcome(&self) -> &'static str {
        self.steps.last().map_or(ACCEPT, StepResult::outcome)
    }

    /// The refusal of the last step that was taken.
    pub fn refused(&self) -> Option<&Reject> {
        self.steps.last().and_then(|step| step.refused.as_ref())
    }

    /// Whether every step was taken and the last one ended as expected.
    pub fn is_as_expected(&self) -> bool {
        self.steps.len() == self.of && self.outcome() == self.expect
    }
}

impl Case {
    /// Reads `case.json`.
    ///
    /// # Errors
    /// [`CaseError::Description`], [`CaseError::Empty`].
    pub fn read(description: &[u8]) -> Result<Self, CaseError> {
        let case: Self = serde_json::from_slice(description)?;
        if case.steps.is_empty() { Err(CaseError::Empty) } else { Ok(case) }
    }

    /// Plays the case until a step is refused or all are taken.
    ///
    /// # Errors
    /// When the case itself is broken; a refusal is a result.
    pub fn play(&self, files: &dyn CaseFiles) -> Result<Played, CaseError> {
        let identity = Identity {
            device: self.device.clone(),
            fleet: self.fleet.clone(),
            device_key: *self.device_public_key.as_bytes(),
            build: self.build_epoch,
        };
        let state = FleetState::pinned(identity, &file(files, &self.start)?).map_err(CaseError::Start)?;
        let mut device = Device { state, proved: None, installed: BTreeMap::new() };
        let mut steps = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            let refused = device.take(index, step, files)?.err();
            let ended = refused.is_some();
            steps.push(StepResult { op: step.op.as_str(), refused });
            if ended {
                break;
            }
        }
        Ok(Played { steps, of: self.steps.len(), expect: self.expect.clone() })
    }
}

/// The device of a case.
struct Device {
    state: FleetState,
    proved: Option<VerifiedBundle>,
    installed: BTreeMap<Digest, Manifest>,
}

impl Device {
    fn take(
        &mut self,
        index: usize,
        step: &Step,
        files: &dyn CaseFiles,
    ) -> Result<Result<(), Reject>, CaseError> {
        let kind = match step.op {
            Op::Install => return self.install(index, step, files),
            Op::Chunk => {
                let bundle = self.proved.as_ref().ok_or(CaseError::NoBundle(index))?;
                let bytes = file(files, &step.file)?;
                return Ok(check_chunk(bundle.manifest(), &step.path, step.index, &bytes));
            }
            Op::Bundle => {
                let proved = self.state.prove_bundle(&file(files, &step.file)?, step.now);
                return Ok(proved.map(|bundle| self.proved = Some(bundle)));
            }
            Op::Derived => {
                let lookup = |digest: &Digest| self.installed.get(digest).cloned();
                let proved = self.state.prove_derived(&file(files, &step.file)?, step.now, lookup);
                // What a device makes is on its disk already.
                return Ok(proved.map(|model| self.keep(model)));
            }
            Op::Trust => Kind::Trust,
            Op::Catalog => Kind::Catalog,
            Op::Membership => Kind::Membership,
            Op::Desired => Kind::Desired,
        };
        Ok(self.state.accept(Some(kind), &file(files, &step.file)?, step.now).map(|_| ()))
    }

    fn install(
        &mut self,
        index: usize,
        step: &Step,
        files: &dyn CaseFiles,
    ) -> Result<Result<(), Reject>, CaseError> {
        let bundle = self.proved.clone().ok_or(CaseError::NoBundle(index))?;
        if let Err(reject) = check_file_set(bundle.manifest(), step.blobs.keys().map(String::as_str)) {
            return Ok(Err(reject));
        }
        for (path, digest) in &step.blobs {
            let bytes =
                files.blob(digest).map_err(|source| CaseError::File { name: digest.to_string(), source })?;
            if let Err(reject) = check_file(bundle.manifest(), path, bytes.len() as u64, Digest::of(&bytes)) {
                return Ok(Err(reject));
            }
        }
        self.keep(bundle);
        Ok(Ok(()))
    }

    fn keep(&mut self, bundle: VerifiedBundle) {
        self.state.record_installed(&bundle);
        self.installed.insert(bundle.digest(), bundle.manifest().clone());
        self.proved = Some(bundle);
    }
}

fn file(files: &dyn CaseFiles, name: &str) -> Result<Vec<u8>, CaseError> {
    files.file(name).map_err(|source| CaseError::File { name: name.to_owned(), source })
}
