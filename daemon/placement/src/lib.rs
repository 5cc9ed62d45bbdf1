//! Measures a bundle on this hardware and chooses the engine setting.
//!
//! In: golden vectors of a bundle, the machine, the policy. Out: a [`agentd_wire::Profile`] for each setting that can be
//! tried, and a [`Choice`] that says of every candidate why it won or lost. Proposing and choosing are pure: no clock,
//! disk or network. Measuring drives one worker process at a time, and whatever happens to it is an outcome.
//!
//! ```text
//! Machine::of ─► candidates ─► measure ─► choose ─► Choice::into_receipt
//! ```

mod candidates;
mod choose;
mod golden;
mod instances;
mod machine;
mod measure;
mod words;
mod worker;

pub use candidates::{Proposal, RuledOut, candidates};
pub use choose::{Choice, Evidence, Subject, choose};
pub use golden::{GoldenError, GoldenSet, GoldenVector};
pub use instances::instances;
pub use machine::Machine;
pub use measure::{Bench, Failure, MeasureRequest, Progress, Runner, Samples, Times, measure};
pub use worker::{WorkerBench, WorkerRunner};
