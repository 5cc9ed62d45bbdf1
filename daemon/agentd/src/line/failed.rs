//! Why a step of the line failed.

use agentd_bundle::Reject;
use agentd_isolation::{StartError, WorkerError};
use agentd_onnx::{InterfaceError, ScanError};
use agentd_placement::GoldenError;
use agentd_serving::SwitchError;
use agentd_store::{BlobError, DiskError, InstallError, ReadError, RecordError, SaveError};
use agentd_types::{ByteCount, Code, Coded, Digest, ModelName};

use crate::source::FetchError;

/// Why a step of the line failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    /// The bundle or its chunks do not come.
    #[error("the bundle cannot be fetched")]
    Fetch(#[from] FetchError),
    /// The bundle does not hold.
    #[error(transparent)]
    Reject(#[from] Reject),
    /// There is no room for it.
    #[error("no room for the bundle: {missing} are missing, {detail}")]
    NoRoom {
        /// Bytes still to fetch.
        missing: ByteCount,
        /// What is there instead.
        detail: String,
    },
    /// The disk cannot be asked.
    #[error("the disk cannot be asked for room")]
    Disk(#[from] DiskError),
    /// A chunk cannot be kept.
    #[error("a chunk cannot be kept")]
    Blob(#[from] BlobError),
    /// It cannot be installed.
    #[error("the bundle cannot be installed")]
    Install(#[from] InstallError),
    /// It cannot be made durable that it is installed.
    #[error("the installation cannot be kept")]
    Save(#[from] SaveError),
    /// It is not on the disk.
    #[error("bundle {} is not on this device", .0.short())]
    NotHeld(Digest),
    /// A file of the bundle cannot be read.
    #[error("a file of the bundle cannot be read")]
    Read(#[from] ReadError),
    /// The model's file is not one that a worker is shown.
    #[error("the model is refused before any engine sees it")]
    Scan(#[from] ScanError),
    /// The model's file has other inputs or outputs than its manifest says.
    #[error("the model is not what its manifest says")]
    Interface(#[from] InterfaceError),
    /// There is no memory for the model's file.
    #[error("no memory for the model's file")]
    Memory(#[source] std::io::Error),
    /// The golden vectors cannot be used.
    #[error("the golden vectors cannot be used")]
    Golden(#[from] GoldenError),
    /// No setting may serve.
    #[error("no setting may serve {model} {version}: {reasons}")]
    NoPlacement {
        /// The model.
        model: ModelName,
        /// Its version.
        version: u64,
        /// Why not, for each setting.
        reasons: String,
    },
    /// A worker cannot be started.
    #[error("a worker cannot be started")]
    Start(#[from] StartError),
    /// A worker failed before it served.
    #[error("the worker failed before it served")]
    Worker(#[from] WorkerError),
    /// A worker gives other answers than when it was measured.
    #[error("a fresh worker fails golden vector {golden}: {reason}")]
    Changed {
        /// Which vector, from 0.
        golden: usize,
        /// How.
        reason: String,
    },
    /// The version cannot be activated.
    #[error("the version cannot be activated")]
    Switch(#[from] SwitchError),
    /// It cannot be journalled, so it is not done.
    #[error("the journal refuses")]
    Record(#[from] RecordError),
    /// The daemon is ending.
    #[error("the daemon is ending")]
    Ending,
}

impl Coded for LineError {
    fn code(&self) -> Code {
        match self {
            Self::Fetch(error) => error.code(),
            Self::Reject(error) => error.code(),
            Self::NoRoom { .. } => Code::new("store.no_room"),
            Self::Disk(error) => error.code(),
            Self::Blob(error) => error.code(),
            Self::Install(error) => error.code(),
            Self::Save(error) => error.code(),
            Self::NotHeld(_) => Code::new("model.not_held"),
            Self::Read(error) => error.code(),
            Self::Scan(error) => error.code(),
            Self::Interface(error) => error.code(),
            Self::Memory(_) => Code::new("worker.memory"),
            Self::Golden(error) => error.code(),
            Self::NoPlacement { .. } => Code::new("placement.none"),
            Self::Start(error) => error.code(),
            Self::Worker(error) => error.code(),
            Self::Changed { .. } => Code::new("placement.wrong_numbers"),
            Self::Switch(error) => error.code(),
            Self::Record(error) => error.code(),
            Self::Ending => Code::new("daemon.ending"),
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_transient(),
            Self::Disk(_) | Self::Blob(_) | Self::Save(_) | Self::Record(_) | Self::NoRoom { .. } => true,
            Self::Start(_) | Self::Memory(_) | Self::Ending => true,
            Self::Install(_)
            | Self::Reject(_)
            | Self::NotHeld(_)
            | Self::Read(_)
            | Self::Scan(_)
            | Self::Interface(_)
            | Self::Golden(_)
            | Self::Changed { .. }
            | Self::NoPlacement { .. }
            | Self::Worker(_)
            | Self::Switch(_) => false,
        }
    }
}
