//! Bodies of the local API on the control socket. Every document carries `"schema": 1`; fields are added, never
//! renamed.

use agentd_types::{ByteCount, Code, DeviceId, Digest, FleetId, ModelName, Setting, UnixTime};
use serde::{Deserialize, Serialize};

/// The version of the local API's bodies and of every `--json` document.
pub const SCHEMA: u32 = 1;

/// A body with its schema number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The body itself.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Versioned<T> {
    /// `body` in today's schema.
    pub const fn new(body: T) -> Self {
        Self { schema: SCHEMA, body }
    }
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What failed.
    pub error: ErrorDetail,
}

/// What failed, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct ErrorDetail {
    pub code: Code,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `GET /v1/status`: the device and all its models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub struct DeviceStatus {
    pub device: DeviceId,
    pub fleet: FleetId,
    pub version: String,
    pub uptime_s: u64,
    pub clock: ClockState,
    pub broker: BrokerState,
    pub trust_version: u64,
    pub catalog_version: Option<u64>,
    pub journal_entries: u64,
    pub free_disk: ByteCount,
    /// Why the device as a whole cannot take anything new, when it cannot.
    pub degraded: Option<ErrorDetail>,
    pub models: Vec<ModelStatus>,
}

/// Whether the wall clock can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockState {
    /// Not behind what signed documents say.
    Plausible,
    /// Behind the newest catalog or the build date: not trusted.
    Behind,
}

/// The link to the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub enum BrokerState {
    /// No broker is configured.
    Off,
    /// Connected.
    Online { address: String, since: UnixTime },
    /// Not connected; serving goes on.
    Offline { address: String, since: UnixTime, waiting_items: u64, reason: String },
}

/// One model on this device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub struct ModelStatus {
    pub name: ModelName,
    pub state: ModelState,
    /// What the desired state asks for; `None` when nobody asks for the model any more.
    pub desired_version: Option<u64>,
    pub serving: Option<ServedVersion>,
    pub held: Vec<HeldVersion>,
    pub pinned: bool,
}

/// Where a model stands on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub enum ModelState {
    /// Asked for; the bundle's manifest is not here yet.
    Wanted,
    /// Blocks are coming.
    Fetching { have: ByteCount, total: ByteCount },
    /// Whole and proved, waiting to be measured.
    Stored,
    /// Settings are being measured.
    Measuring { done: u32, of: u32 },
    /// A version is being loaded and warmed beside the old one.
    Switching,
    /// The version asked for answers.
    Serving,
    /// Somebody rolled back, so another version than the one asked for answers.
    HeldBack,
    /// The version asked for cannot serve; an older one may.
    Failed { code: Code, message: String },
    /// Not asked for any more.
    Retired,
}

/// The version that answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub struct ServedVersion {
    pub version: u64,
    pub bundle: Digest,
    pub setting: Setting,
    pub instances: u16,
    pub p50_us: Option<u64>,
    pub p99_us: Option<u64>,
    pub per_second: f64,
    pub requests: u64,
    pub failures: u64,
    pub since: UnixTime,
}

/// A version that is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub struct HeldVersion {
    pub version: u64,
    pub bundle: Digest,
    pub size: ByteCount,
    /// Whether it is loaded and answers at once after a roll-back.
    pub ready: bool,
    pub quarantined: bool,
}

/// `POST /v1/models/{name}/rollback`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackRequest {
    /// The version to take; the previous one when absent.
    pub to: Option<u64>,
}

/// What a roll-back did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub struct RollbackResult {
    pub from: u64,
    pub to: u64,
    pub took_us: u64,
}

/// What `POST /v1/models/{name}/retry` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryResult {
    /// Versions whose quarantine was lifted.
    pub lifted: Vec<u64>,
    /// Whether a step had failed and waited for its next try, which is now.
    pub waited: bool,
}

/// `GET /v1/chunks`: what may be handed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LackingChunks {
    /// Chunks that bundles under way lack, at most 65,536.
    pub lacking: Vec<Digest>,
}

/// `POST /v1/models/{name}/pin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRequest {
    /// What to do.
    pub action: Action,
}

/// Hold a model where it is, or let it follow the desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named with their meaning")]
pub enum Action {
    Pin,
    Unpin,
}

/// `GET /v1/doctor`: every check of the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct DoctorReport {
    pub checks: Vec<DoctorCheck>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct DoctorCheck {
    /// Stable, for example `disk.space`.
    pub code: Code,
    pub state: CheckState,
    pub message: String,
    pub why: Option<String>,
    /// A command that mends it.
    pub fix: Option<String>,
    pub took_ms: u64,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named with their meaning")]
pub enum CheckState {
    Ok,
    Warn,
    Fail,
}
