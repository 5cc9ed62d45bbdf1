//! What the journal records: every decision and every step of a model, in order.

use agentd_types::{ByteCount, Code, Digest, ModelName, Setting, UnixTime};
use serde::{Deserialize, Serialize};

use crate::{Kind, Profile, Receipt};

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the journal, from 1, without gaps.
    pub seq: u64,
    /// Effective time when it was written.
    pub at: UnixTime,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "fields are named with their meaning and units")]
pub enum What {
    /// The daemon started.
    Started { version: String, boot: String },
    /// The daemon stopped in an orderly way.
    Stopped,
    /// A signed document took effect. `number` is its version or sequence number, `target` whom it is for.
    DocumentAccepted { kind: Kind, number: u64, target: Option<String> },
    /// A document, block or file was refused; nothing changed.
    Refused { subject: String, code: Code, message: String },
    /// A transfer began or went on; `missing` bytes are not on disk yet.
    FetchStarted { model: ModelName, version: u64, bundle: Digest, missing: ByteCount },
    /// Everything of a bundle is on disk; `bytes` came over the link.
    Fetched { model: ModelName, version: u64, bundle: Digest, bytes: ByteCount },
    /// A bundle is whole, proved and kept.
    Installed { model: ModelName, version: u64, bundle: Digest },
    /// A setting was measured.
    Measured { profile: Box<Profile> },
    /// A setting was chosen, or none may serve.
    Placed { receipt: Box<Receipt> },
    /// A version answers requests; `previous` is kept ready.
    Serving { model: ModelName, version: u64, bundle: Digest, setting: Setting, previous: Option<u64> },
    /// Somebody took the previous version back; desired state is held off until it changes.
    RolledBack { model: ModelName, from: u64, to: u64, by: String },
    /// The model stays at the version that serves until it is unpinned.
    Pinned { model: ModelName, version: u64 },
    /// The model follows the desired state again.
    Unpinned { model: ModelName },
    /// A worker died, hung or gave wrong numbers; `strikes` so far for this bundle.
    WorkerFailed { model: ModelName, version: u64, code: Code, message: String, strikes: u32 },
    /// The bundle may not run here again until somebody lifts it.
    Quarantined { model: ModelName, version: u64, bundle: Digest, code: Code, reason: String },
    /// Somebody lifted the quarantine of a bundle after mending its cause; its strikes count from none again.
    QuarantineLifted { model: ModelName, version: u64, bundle: Digest, by: String },
    /// The model is not asked for any more and does not serve.
    Retired { model: ModelName },
    /// A bundle was deleted to make room or because nobody asks for it.
    Removed { model: ModelName, version: u64, bundle: Digest },
    /// The index was made again from journal and blobs.
    IndexRebuilt { reason: String },
    /// Entries of the journal itself cannot be read any more; `lost` of them are missing before this one.
    JournalDamaged { lost: u64, reason: String },
    /// The disk is too full for downloads, or no longer is.
    DiskLow { free: ByteCount, low: bool },
}

impl What {
    /// The model that the event concerns, if it concerns one that it names.
    pub const fn model(&self) -> Option<&ModelName> {
        match self {
            Self::FetchStarted { model, .. }
            | Self::Fetched { model, .. }
            | Self::Installed { model, .. }
            | Self::Serving { model, .. }
            | Self::RolledBack { model, .. }
            | Self::Pinned { model, .. }
            | Self::Unpinned { model }
            | Self::WorkerFailed { model, .. }
            | Self::Quarantined { model, .. }
            | Self::QuarantineLifted { model, .. }
            | Self::Retired { model }
            | Self::Removed { model, .. } => Some(model),
            _ => None,
        }
    }

    /// The event's stable name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Stopped => "stopped",
            Self::DocumentAccepted { .. } => "document_accepted",
            Self::Refused { .. } => "refused",
            Self::FetchStarted { .. } => "fetch_started",
            Self::Fetched { .. } => "fetched",
            Self::Installed { .. } => "installed",
            Self::Measured { .. } => "measured",
            Self::Placed { .. } => "placed",
            Self::Serving { .. } => "serving",
            Self::RolledBack { .. } => "rolled_back",
            Self::Pinned { .. } => "pinned",
            Self::Unpinned { .. } => "unpinned",
            Self::WorkerFailed { .. } => "worker_failed",
            Self::Quarantined { .. } => "quarantined",
            Self::QuarantineLifted { .. } => "quarantine_lifted",
            Self::Retired { .. } => "retired",
            Self::Removed { .. } => "removed",
            Self::IndexRebuilt { .. } => "index_rebuilt",
            Self::JournalDamaged { .. } => "journal_damaged",
            Self::DiskLow { .. } => "disk_low",
        }
    }
}
