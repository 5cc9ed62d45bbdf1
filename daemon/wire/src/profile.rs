//! What was measured of a bundle on this hardware, and the receipt of a choice.

use agentd_types::{ByteCount, Code, Digest, ModelName, Setting, UnixTime};
use serde::{Deserialize, Serialize};

use crate::ServePolicy;

/// One bundle on one engine setting on one hardware.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Digest of the bundle's payload.
    pub bundle: Digest,
    /// The setting measured.
    pub setting: Setting,
    /// Fingerprint of the hardware, drivers and engine versions.
    pub hardware: Digest,
    /// When it was measured.
    pub at: UnixTime,
    /// What came out.
    pub outcome: Outcome,
}

/// What measuring a setting gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Outcome {
    /// Golden vectors hold, and these are the figures.
    Measured(Figures),
    /// A golden vector came out wrong.
    WrongNumbers {
        /// Which golden entry, from 0.
        golden: usize,
        /// The output that differs.
        output: String,
        /// How far off, in millionths of the largest value wanted; `None` when not comparable (NaN, shape).
        off_ppm: Option<u64>,
        /// What the bundle tolerates.
        tol_ppm: u64,
    },
    /// The setting did not load or run.
    Failed {
        /// The code of the failure.
        code: Code,
        /// What happened.
        message: String,
    },
}

/// Measured figures; latencies are for one inference of `batch` samples, nearest-rank quantiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their units")]
pub struct Figures {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
    /// Samples answered per second by one worker.
    pub per_second: f64,
    pub runs: u32,
    /// Peak resident memory of the worker process.
    pub peak_memory: ByteCount,
    pub load_us: u64,
    /// Largest deviation of any golden output, in millionths of its largest value.
    pub golden_off_ppm: u64,
    /// Nodes that the engine handed to another one.
    pub fallback_nodes: u32,
}

/// Why a bundle is served the way it is: every candidate with its figures and why it won or lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The model placed.
    pub model: ModelName,
    /// Its version.
    pub version: u64,
    /// Digest of the bundle's payload.
    pub bundle: Digest,
    /// When the choice was made.
    pub at: UnixTime,
    /// Fingerprint of the hardware.
    pub hardware: Digest,
    /// The policy that was applied.
    pub policy: ServePolicy,
    /// Every candidate, the chosen one first, then by how near they came.
    pub candidates: Vec<Candidate>,
}

/// One candidate of a receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The setting.
    pub setting: Setting,
    /// What was measured; `None` when the setting was ruled out before measuring.
    pub outcome: Option<Outcome>,
    /// What was decided about it.
    pub verdict: Verdict,
}

/// What was decided about a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It serves.
    Chosen {
        /// Why, for people.
        reason: String,
    },
    /// It could serve, but another is better.
    Lost {
        /// Why, for people.
        reason: String,
    },
    /// It may not serve.
    Disqualified {
        /// The code of the reason.
        code: Code,
        /// Why, for people.
        reason: String,
    },
}

impl Receipt {
    /// The candidate that serves, if any may.
    pub fn chosen(&self) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| matches!(candidate.verdict, Verdict::Chosen { .. }))
    }
}
