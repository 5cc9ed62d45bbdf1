//! Runs models on the processor with its own vector kernels.

mod kernel;
pub use kernel::isa::Isa;
