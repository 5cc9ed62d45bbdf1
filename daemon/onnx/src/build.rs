//! Writes small ONNX files, for tests.
//!
//! In: nodes, weights, inputs and outputs, in the order in which they are added. Out: the bytes of an ONNX file.
//! Checks nothing, so that tests can write hostile files too.
//!
//! ```
//! use agentd_onnx::build::{Graph, Node};
//! use agentd_types::Datatype;
//!
//! let file = Graph::new("double")
//!     .input("x", Datatype::Fp32, &[-1, 4])
//!     .f32("two", &[1], &[2.0])
//!     .node(Node::new("Mul").inputs(&["x", "two"]).outputs(&["y"]))
//!     .output("y", Datatype::Fp32, &[-1, 4])
//!     .model(17);
//! assert!(file.len() < 200);
//! ```

mod samples;

use agentd_types::Datatype;

pub use samples::{conv, lstm, mlp};

use crate::proto::{attribute, graph, model, node, opset, tensor, r#type, value_info};

/// A protobuf message under construction; the escape hatch below the other types.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// A message without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number as a varint; negative ones take ten bytes, as protobuf's `int64` does.
    #[must_use]
    pub fn int(mut self, field: u32, value: i64) -> Self {
        self.varint(u64::from(field) << 3);
        self.varint(value.cast_unsigned());
        self
    }

    /// Adds a 32-bit float.
    #[must_use]
    pub fn float(mut self, field: u32, value: f32) -> Self {
        self.varint(u64::from(field) << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds bytes, a string, or another message.
    #[must_use]
    pub fn bytes(mut self, field: u32, bytes: impl AsRef<[u8]>) -> Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.as_ref().len() as u64);
        self.0.extend(bytes.as_ref());
        self
    }

    /// Adds numbers as one packed field.
    #[must_use]
    pub fn packed(self, field: u32, values: &[i64]) -> Self {
        let mut inner = Self::new();
        values.iter().for_each(|value| inner.varint(value.cast_unsigned()));
        self.bytes(field, inner)
    }

    /// The message's bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(0x80 | u8::try_from(value & 0x7f).unwrap_or_default());
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or_default());
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A graph: the main one of a model, or the body of an `If`, `Loop` or `Scan`.
#[derive(Clone, Debug)]
pub struct Graph(Message);

impl Graph {
    /// A graph without nodes.
    pub fn new(name: &str) -> Self {
        Self(Message::new().bytes(graph::NAME, name))
    }

    /// Adds an input. A dimension of -1 is free: it gets the symbolic name `d<position>`.
    #[must_use]
    pub fn input(self, name: &str, datatype: Datatype, shape: &[i64]) -> Self {
        self.field(graph::INPUT, value(name, datatype, shape))
    }

    /// Adds an output; dimensions as in [`Self::input`].
    #[must_use]
    pub fn output(self, name: &str, datatype: Datatype, shape: &[i64]) -> Self {
        self.field(graph::OUTPUT, value(name, datatype, shape))
    }

    /// Adds a node. ONNX wants nodes after those whose outputs they take.
    #[must_use]
    pub fn node(self, node: Node) -> Self {
        self.field(graph::NODE, node.0)
    }

    /// Adds a weight whose elements are given as raw little-endian bytes.
    #[must_use]
    pub fn raw(self, name: &str, datatype: Datatype, dims: &[i64], bytes: &[u8]) -> Self {
        self.field(graph::INITIALIZER, raw_tensor(name, datatype, dims, bytes))
    }

    /// Adds a weight of 32-bit floats, row-major.
    #[must_use]
    pub fn f32(self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.raw(name, Datatype::Fp32, dims, &bytes)
    }

    /// Adds a weight of 64-bit integers, row-major.
    #[must_use]
    pub fn i64(self, name: &str, dims: &[i64], values: &[i64]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.raw(name, Datatype::Int64, dims, &bytes)
    }

    /// Adds any field of a `GraphProto`.
    #[must_use]
    pub fn field(self, field: u32, bytes: impl AsRef<[u8]>) -> Self {
        Self(self.0.bytes(field, bytes))
    }

    /// The bytes of a model with this main graph and operators of the standard set `version`.
    pub fn model(self, version: i64) -> Vec<u8> {
        self.model_with(&[("", version)])
    }

    /// The bytes of a model that imports several operator sets: `(domain, version)`.
    pub fn model_with(self, opsets: &[(&str, i64)]) -> Vec<u8> {
        let file = Message::new()
            .int(model::IR_VERSION, 8)
            .bytes(model::PRODUCER_NAME, "agentd")
            .bytes(model::PRODUCER_VERSION, "1")
            .bytes(model::GRAPH, self.0);
        let imports = opsets.iter().fold(file, |file, (domain, version)| {
            let import = Message::new().bytes(opset::DOMAIN, domain).int(opset::VERSION, *version);
            file.bytes(model::OPSET_IMPORT, import)
        });
        imports.into_bytes()
    }
}

/// One operator of a graph.
#[derive(Clone, Debug)]
pub struct Node(Message);

impl Node {
    /// An operator of the standard domain.
    pub fn new(op: &str) -> Self {
        Self(Message::new().bytes(node::OP_TYPE, op))
    }

    /// Sets the operator's domain, such as `com.microsoft`.
    #[must_use]
    pub fn domain(self, domain: &str) -> Self {
        Self(self.0.bytes(node::DOMAIN, domain))
    }

    /// Sets the node's own name.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Self(self.0.bytes(node::NAME, name))
    }

    /// Adds inputs; an empty name leaves out an optional one.
    #[must_use]
    pub fn inputs(self, names: &[&str]) -> Self {
        Self(names.iter().fold(self.0, |message, name| message.bytes(node::INPUT, name)))
    }

    /// Adds outputs; an empty name leaves out an optional one.
    #[must_use]
    pub fn outputs(self, names: &[&str]) -> Self {
        Self(names.iter().fold(self.0, |message, name| message.bytes(node::OUTPUT, name)))
    }

    /// Adds an attribute that is a number.
    #[must_use]
    pub fn int(self, name: &str, value: i64) -> Self {
        self.attribute(name, attribute::kind::INT, |message| message.int(attribute::I, value))
    }

    /// Adds an attribute that is a float.
    #[must_use]
    pub fn float(self, name: &str, value: f32) -> Self {
        self.attribute(name, attribute::kind::FLOAT, |message| message.float(attribute::F, value))
    }

    /// Adds an attribute that is a string.
    #[must_use]
    pub fn string(self, name: &str, value: &str) -> Self {
        self.attribute(name, attribute::kind::STRING, |message| message.bytes(attribute::S, value))
    }

    /// Adds an attribute that is a list of numbers.
    #[must_use]
    pub fn ints(self, name: &str, values: &[i64]) -> Self {
        self.attribute(name, attribute::kind::INTS, |message| {
            values.iter().fold(message, |message, value| message.int(attribute::INTS, *value))
        })
    }

    /// Adds an attribute that is a graph, such as the branches of an `If`.
    #[must_use]
    pub fn graph(self, name: &str, body: Graph) -> Self {
        self.attribute(name, attribute::kind::GRAPH, |message| message.bytes(attribute::G, body.0))
    }

    /// Adds an attribute that is a tensor given as raw little-endian bytes, such as the value of a `Constant`.
    #[must_use]
    pub fn tensor(self, name: &str, datatype: Datatype, dims: &[i64], bytes: &[u8]) -> Self {
        self.attribute(name, attribute::kind::TENSOR, |message| {
            message.bytes(attribute::T, raw_tensor("", datatype, dims, bytes))
        })
    }

    /// Adds any field of a `NodeProto`.
    #[must_use]
    pub fn field(self, field: u32, bytes: impl AsRef<[u8]>) -> Self {
        Self(self.0.bytes(field, bytes))
    }

    fn attribute(self, name: &str, kind: u64, fill: impl FnOnce(Message) -> Message) -> Self {
        let message = fill(Message::new().bytes(attribute::NAME, name));
        let message = message.int(attribute::TYPE, kind.cast_signed());
        self.field(node::ATTRIBUTE, message)
    }
}

/// A `TensorProto` with raw data.
pub fn raw_tensor(name: &str, datatype: Datatype, dims: &[i64], bytes: &[u8]) -> Message {
    dims.iter()
        .fold(Message::new(), |message, dim| message.int(tensor::DIMS, *dim))
        .int(tensor::DATA_TYPE, crate::proto::number(datatype).cast_signed())
        .bytes(tensor::NAME, name)
        .bytes(tensor::RAW_DATA, bytes)
}

/// A `ValueInfoProto` of a tensor.
fn value(name: &str, datatype: Datatype, shape: &[i64]) -> Message {
    let shape = shape.iter().enumerate().fold(Message::new(), |message, (position, dim)| {
        let dim = if *dim < 0 {
            Message::new().bytes(r#type::DIM_PARAM, format!("d{position}"))
        } else {
            Message::new().int(r#type::DIM_VALUE, *dim)
        };
        message.bytes(r#type::DIM, dim)
    });
    let tensor = Message::new()
        .int(r#type::ELEM_TYPE, crate::proto::number(datatype).cast_signed())
        .bytes(r#type::SHAPE, shape);
    let kind = Message::new().bytes(r#type::TENSOR, tensor);
    Message::new().bytes(value_info::NAME, name).bytes(value_info::TYPE, kind)
}
