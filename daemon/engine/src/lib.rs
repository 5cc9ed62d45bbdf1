//! What every engine is: the trait, tensors, and the conformance suite that each engine passes.
//!
//! In: a model as bytes and concrete shapes. Out: a [`Session`] that turns tensors into tensors.
//! Knows no engine, process or device.

#[cfg(feature = "conformance")]
pub mod conformance;
mod npy;
mod profile;
mod session;
mod tensor;

pub use npy::{NpyError, read_npy, write_npy};
pub use profile::{Profile, StepProfile};
pub use session::{Engine, EngineError, LoadSpec, Loaded, Session, check_inputs};
pub use tensor::{Tensor, TensorError, TensorView, compare, first_not_finite};
