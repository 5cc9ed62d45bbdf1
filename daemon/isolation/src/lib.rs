//! The process boundary, both ends: spawn, shared memory, deadlines.
//!
//! In: a model as bytes and requests as tensors. Out: tensors, or a coded error that says how the worker failed.
//! The daemon's end ([`Worker`]) trusts nothing that comes back: it reads each length once, holds it against what
//! it allows, copies before it looks, and kills what misses its deadline. The worker's end ([`host`]) limits itself
//! before it reads a model's first byte. Knows no engine.

mod channel;
mod error;
mod frame;
pub mod host;
mod limits;
mod memory;
mod message;
mod model_file;
mod program;
mod region;
mod stderr;
mod worker;

pub use error::{Death, StartError, WorkerError};
pub use limits::Limits;
pub use memory::MemoryUse;
pub use message::{MeasureBudget, Measured};
pub use model_file::ModelFile;
pub use program::Program;
pub use worker::Worker;
