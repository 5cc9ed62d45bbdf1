//! Turns an ONNX model and concrete shapes into a checked, fused list of operators that knows no device.
//!
//! In: the bytes of a model and the shapes of its inputs. Out: a [`Graph`], in which every shape is known, every operator
//! is normalised and nothing is left to infer; back ends lower it. Contains the reference interpreter ([`Graph::run`]),
//! slow and obvious, which is the oracle for every back end.
//! Does no input or output, has no threads, no `unsafe`, and refuses hostile models with coded errors.

pub mod array;
mod bytes;
mod error;
mod fuse;
pub mod graph;
mod import;
pub mod memory;
pub mod op;
pub mod shape;

pub use self::{
    array::{Array, Data, Element, Fact},
    error::PlanError,
    fuse::{Integers, Numerics, fuse, fuse_owned, fuse_with},
    graph::{Builder, Graph, Node, Value, ValueId},
    import::{Given, ImportLimits, import, import_model, import_released, tensor_array},
    op::{Inputs, Op},
};
