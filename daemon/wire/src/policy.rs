//! The `policy` of a desired entry: how a model shall be placed and served.

use agentd_types::{ByteCount, EngineKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What placement optimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The lowest 99th percentile of latency for one request at a time.
    #[default]
    Latency,
    /// The most answers per second.
    Throughput,
}

/// The keys of `policy` that placement and serving read. Numbers are integers, as everywhere in signed documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServePolicy {
    /// Goal for the 99th percentile of latency, in microseconds; none when absent.
    pub latency_us: Option<u64>,
    /// Most memory that one worker may take, in MiB; the bundle's `requires.mem_mib` when absent.
    pub memory_mib: Option<u64>,
    /// Engines that may be used; all when empty.
    pub engines: Vec<EngineKind>,
    /// What to optimise within the goals.
    pub objective: Objective,
    /// Workers that serve the model; chosen from the cores when absent.
    pub instances: Option<u16>,
    /// Requests that may wait; beyond them callers get 503. 64 when absent.
    pub queue: Option<u16>,
    /// Longest time for one inference, in milliseconds; from the measured latency when absent.
    pub deadline_ms: Option<u64>,
}

/// The policy of a desired entry has a known key with a value of the wrong form.
#[derive(Debug, thiserror::Error)]
#[error("the policy cannot be read")]
pub struct PolicyError(#[from] serde_json::Error);

impl ServePolicy {
    /// Reads the known keys of a `policy` object; unknown ones are ignored.
    ///
    /// # Errors
    /// When a known key has a value of the wrong form.
    pub fn read(policy: &Map<String, Value>) -> Result<Self, PolicyError> {
        Ok(serde_json::from_value(Value::Object(policy.clone()))?)
    }

    /// Whether `engine` may be used.
    pub fn allows(&self, engine: EngineKind) -> bool {
        self.engines.is_empty() || self.engines.iter().any(|named| engine.is_meant_by(*named))
    }

    /// The memory limit in bytes for a bundle that declares `requires_mib`.
    pub fn memory(&self, requires_mib: u64) -> ByteCount {
        ByteCount(self.memory_mib.unwrap_or(requires_mib).saturating_mul(1 << 20))
    }
}
