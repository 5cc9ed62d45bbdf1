//! What the two ends say to each other on the control socket: one JSON document a packet.

use std::time::Duration;

use agentd_engine::{EngineError, LoadSpec, Loaded};
use agentd_types::Adapter;
use serde::{Deserialize, Serialize};

use crate::{limits::Limits, region::Layout};

/// Both ends come from one build; this catches a worker of another one.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// No packet is longer than this, in bytes.
pub(crate) const MAX_PACKET: usize = 128 << 10;

/// No profile is longer than this as JSON, in bytes: some 20,000 steps.
pub(crate) const MAX_PROFILE: usize = 8 << 20;

/// From the daemon to the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The reply carries it again.
    pub id: u64,
    pub order: Order,
}

/// What the worker shall do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// First of all: limit yourself. Comes with the shared memory and two eventfds, for requests and for answers.
    Hello { version: String, limits: Limits, layout: Layout },
    /// Use this shared memory from now on; it comes along.
    Region { layout: Layout },
    /// Load the model whose file comes along.
    Load { spec: LoadSpec },
    /// Run the inputs that lie in shared memory again and again; write the latencies there.
    Measure { budget: MeasureBudget },
    /// Run the inputs that lie in shared memory for so long and measure every step; write the profile there.
    Profile { time: Duration },
    /// List the graphics adapters.
    Adapters,
}

/// From the worker to the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub id: u64,
    pub outcome: Result<Answer, EngineError>,
}

/// What came of an order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Ready {
        version: String,
    },
    Region,
    Loaded(Loaded),
    Measured {
        runs: u32,
        wall: Duration,
    },
    /// A `Profile` as JSON of so many bytes.
    Profile {
        len: usize,
    },
    Adapters(Vec<Adapter>),
    NoModel,
}

/// How long and how often to measure; whichever bound comes first ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasureBudget {
    /// Runs before the first one that counts.
    pub warm_up_runs: u32,
    /// Runs that count at most; [`MeasureBudget::MAX_RUNS`] caps it.
    pub max_runs: u32,
    /// Time for the runs that count; at least one run is made.
    pub time: Duration,
}

impl MeasureBudget {
    /// Runs that count in one measurement at most.
    pub const MAX_RUNS: u32 = 100_000;
}

/// What measuring gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The latency of each run that counts in microseconds, rounded up, in the order of the runs; at least one.
    pub latencies_us: Vec<u64>,
    /// Wall time from the start of the first to the end of the last of them.
    pub wall: Duration,
}
