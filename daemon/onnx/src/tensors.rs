//! Where the weights lie in the file.
//!
//! For cutting a file where tensors begin and end, and for telling which tensors two versions share.

use std::ops::Range;

use agentd_types::{Code, Coded, Datatype};

use crate::{
    attribute::Attribute,
    proto::{self, graph, model, node},
    tensor::{RawTensor, TensorFault},
    wire::{Fault, Span, WireError},
};

/// Graphs within graphs that are looked into.
const MAX_DEPTH: usize = 8;

/// A weight tensor and where its elements lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlace {
    /// The tensor's name; for a `Constant` node the name of its output.
    pub name: String,
    /// `None` for types that the Open Inference Protocol lacks, such as 4-bit integers.
    pub datatype: Option<Datatype>,
    /// Its dimensions.
    pub dims: Vec<i64>,
    /// Where in the file the elements lie: raw bytes where possible, else the whole tensor message.
    pub range: Range<usize>,
}

/// Why the weights of a file cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorsError {
    /// The bytes are no ONNX model.
    #[error("the file is no ONNX model, or a damaged one")]
    Wire(#[from] WireError),
    /// A tensor's claims do not hold.
    #[error("tensor `{name}`")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: TensorFault,
    },
}

impl Coded for TensorsError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Wire(_) => "onnx.wire",
            Self::Tensor { .. } => "onnx.data",
        })
    }
}

/// Lists the weights of an ONNX file, in the order in which they lie: those of the main graph, of inner graphs, and of
/// `Constant` nodes. Ranges do not overlap; tensors without elements are left out.
///
/// # Errors
/// When the bytes are no ONNX model or a tensor's data does not fit its dimensions.
pub fn tensors(file: &[u8]) -> Result<Vec<TensorPlace>, TensorsError> {
    let mut places = Vec::new();
    for field in Span::file(file).fields() {
        let field = field?;
        if field.number == model::GRAPH {
            collect_graph(field.bytes()?, 1, &mut places)?;
        }
    }
    places.sort_by_key(|place| place.range.start);
    Ok(places)
}

fn collect_graph(span: Span<'_>, depth: usize, places: &mut Vec<TensorPlace>) -> Result<(), TensorsError> {
    if depth > MAX_DEPTH {
        return Err(WireError { fault: Fault::Depth, at: span.at }.into());
    }
    for field in span.fields() {
        let field = field?;
        match field.number {
            graph::INITIALIZER => {
                let raw = RawTensor::read(field.bytes()?)?;
                push(&raw, raw.name, places)?;
            }
            graph::NODE => collect_node(field.bytes()?, depth, places)?,
            _ => {}
        }
    }
    Ok(())
}

fn collect_node(span: Span<'_>, depth: usize, places: &mut Vec<TensorPlace>) -> Result<(), TensorsError> {
    let mut output = "";
    for field in span.fields() {
        let field = field?;
        if field.number == node::OUTPUT && output.is_empty() {
            output = field.text()?;
        }
    }
    for field in span.fields() {
        let field = field?;
        if field.number != node::ATTRIBUTE {
            continue;
        }
        let attribute = Attribute::read(field.bytes()?)?;
        for tensor in attribute.tensors {
            let raw = RawTensor::read(tensor)?;
            push(&raw, output, places)?;
        }
        for graph in attribute.graphs {
            collect_graph(graph, depth + 1, places)?;
        }
    }
    Ok(())
}

fn push(raw: &RawTensor<'_>, name: &str, places: &mut Vec<TensorPlace>) -> Result<(), TensorsError> {
    let name = name.to_owned();
    let checked = raw.check().map_err(|source| TensorsError::Tensor { name: name.clone(), source })?;
    if !checked.range.is_empty() {
        let datatype = proto::datatype(raw.number);
        places.push(TensorPlace { name, datatype, dims: raw.dims.clone(), range: checked.range });
    }
    Ok(())
}
