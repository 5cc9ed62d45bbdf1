//! Reads a whole model: nodes, attributes, inner graphs, weights, all borrowed from the file's bytes.
//!
//! In: the bytes of an ONNX file. Out: a [`Model`], or the first fault. Checks the form only: that names are defined and
//! shapes fit is for whoever makes sense of the model. Takes time and memory linear in the file, and recurses no deeper
//! than [`MAX_DEPTH`] graphs.

mod attribute;
mod elements;
mod model;

pub use attribute::{Attribute, Value};
pub use elements::{Elements, Tensor};
pub use model::{Function, Graph, Input, Model, Node, OperatorSet};

use agentd_types::{Code, Coded};

use crate::{tensor::TensorFault, wire::WireError};

/// Graphs within graphs that are read; 1 is the main graph alone.
pub const MAX_DEPTH: usize = 16;

/// Why a model cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes are no protobuf message of ONNX's kind.
    #[error("the file is no ONNX model, or a damaged one")]
    Wire(#[from] WireError),
    /// The file has no graph.
    #[error("the file holds no graph: it is no ONNX model")]
    NoGraph,
    /// Graphs are nested too deep.
    #[error("graphs are nested more than {MAX_DEPTH} deep")]
    Depth,
    /// A tensor's claims do not hold.
    #[error("tensor `{tensor}`")]
    Tensor {
        /// Its name.
        tensor: String,
        /// What is wrong.
        source: TensorFault,
    },
    /// Sparse weights.
    #[error("the model holds sparse weights, which are not supported: save it with dense ones")]
    Sparse,
}

impl Coded for ReadError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Wire(_) => "onnx.wire",
            Self::NoGraph => "onnx.graph",
            Self::Depth => "onnx.depth",
            Self::Tensor { source, .. } => return source.code(),
            Self::Sparse => "onnx.sparse",
        })
    }
}
