//! Runs models on the processor with its own vector kernels.
//!
//! receive → **lower** → **verify** → **run**: a [`Graph`](agentd_plan::Graph) with concrete shapes becomes a list of
//! steps over one arena; the verifier proves that every step stays inside its memory; only then can it run. Kernels
//! are written once and compiled for AVX-512, AVX2 with FMA, NEON and for any processor; one is chosen at run time.

mod draft;
mod engine;
mod error;
mod execute;
mod kernel;
mod lower;
mod memory;
mod model;
mod pack;
mod peak;
mod plan;
mod step;
mod team;
mod verify;

pub use draft::{Draft, Memory};
pub use engine::Native;
pub use error::{LowerError, RunError};
pub use kernel::isa::Isa;
pub use lower::Options;
pub use model::{Model, StepTime};
pub use peak::Peak;
pub use team::Team;
pub use verify::VerifyError;
