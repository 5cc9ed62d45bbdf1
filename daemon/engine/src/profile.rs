//! What a session does for one request, step by step, and what the machine could do at best.
//!
//! Plain numbers and texts, as they cross the process boundary. Texts come from the model: whoever shows them cleans them.

use agentd_types::ByteCount;
use serde::{Deserialize, Serialize};

/// How a plan ran, again and again with the same inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The instruction set of the kernels.
    pub instructions: String,
    /// Threads that worked on each run.
    pub threads: u16,
    /// Runs that were measured, at least 1.
    pub runs: u32,
    /// Nanoseconds of a run from inputs to outputs, the mean of all runs.
    pub run_ns: u64,
    /// Fused multiply-adds a second that these threads reach in registers.
    pub peak_multiply_adds: u64,
    /// Bytes a second that these threads read from memory; 0 when it was not measured.
    pub peak_read: ByteCount,
    /// Memory that the steps work in.
    pub arena: ByteCount,
    /// Packed weights and other constants.
    pub constants: ByteCount,
    /// The steps in the order in which they run.
    pub steps: Vec<StepProfile>,
}

/// One step of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepProfile {
    /// What it does; `reference` where the interpreter runs a node.
    pub step: String,
    /// The model's node from which it comes.
    pub node: String,
    /// That node's operator.
    pub operator: String,
    /// The shape of that node's first output.
    pub shape: Vec<u64>,
    /// Nanoseconds in a run, the mean of all runs.
    pub time_ns: u64,
    /// Multiply-adds of its sums of products; 0 for a step that has none.
    pub multiply_adds: u64,
    /// Memory that it reads and writes, each float counted once for each operand.
    pub touched: ByteCount,
    /// Whether the interpreter runs it, for want of a kernel.
    pub interpreted: bool,
}
