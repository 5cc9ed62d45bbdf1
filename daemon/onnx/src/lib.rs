//! Reads the structure of an ONNX file without an engine, and refuses hostile ones.
//!
//! In: the bytes of an ONNX file. Out: what the model is, or why no worker shall see it; and where each weight
//! tensor's bytes lie. Runs nothing, computes nothing of the model, does no input or output.

#[cfg(feature = "build")]
pub mod build;
pub mod read;
mod scan;
mod tensors;

mod attribute;
mod operators;
mod proto;
mod tensor;
mod wire;

pub use read::Model;
pub use scan::{InterfaceError, ModelSummary, Recurrence, ScanError, ScanLimits, scan};
pub use tensor::TensorFault;
pub use tensors::{TensorPlace, TensorsError, tensors};
pub use wire::WireError;
