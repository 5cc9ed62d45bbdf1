//! What every engine is: the trait, tensors, and the conformance suite that each engine passes.
//!
//! In: a model as bytes and concrete shapes. Out: a [`Session`] that turns tensors into tensors.
//! Knows no engine, process or device.

mod npy;
mod session;
mod tensor;

pub use npy::{NpyError, read_npy, write_npy};
pub use session::{Engine, EngineError, LoadSpec, Loaded, Session};
pub use tensor::{Tensor, TensorError, TensorView, compare};
