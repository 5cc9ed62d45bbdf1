//! Attributes of nodes.

use super::{Graph, ReadError, Tensor};
use crate::{
    proto::attribute,
    tensor::numbers,
    wire::{self, Span},
};

/// An attribute.
#[derive(Clone, Debug)]
pub struct Attribute<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: Value<'a>,
}

/// The value of an attribute.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// A number.
    Float(f32),
    /// A whole number.
    Int(i64),
    /// A text, which need not be UTF-8.
    Text(&'a [u8]),
    /// A tensor.
    Tensor(Tensor<'a>),
    /// A graph.
    Graph(Box<Graph<'a>>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Texts.
    Texts(Vec<&'a [u8]>),
    /// In a function: the attribute of this name of the node that calls it.
    Reference(&'a str),
    /// A kind that no operator that is read uses: types, sparse tensors, lists of tensors or graphs.
    Other,
}

/// The kinds of an attribute by ONNX's number.
mod kind {
    pub(super) const FLOAT: u64 = 1;
    pub(super) const INT: u64 = 2;
    pub(super) const STRING: u64 = 3;
    pub(super) const TENSOR: u64 = 4;
    pub(super) const GRAPH: u64 = 5;
    pub(super) const FLOATS: u64 = 6;
    pub(super) const INTS: u64 = 7;
    pub(super) const STRINGS: u64 = 8;
}

#[derive(Default)]
struct Parts<'a> {
    name: &'a str,
    kind: u64,
    float: Option<f32>,
    int: Option<i64>,
    text: Option<&'a [u8]>,
    tensor: Option<Tensor<'a>>,
    graph: Option<Graph<'a>>,
    floats: Vec<f32>,
    ints: Vec<i64>,
    texts: Vec<&'a [u8]>,
    reference: &'a str,
}

impl<'a> Attribute<'a> {
    pub(super) fn read(span: Span<'a>, depth: usize) -> Result<Self, ReadError> {
        let mut parts = Parts::default();
        for field in span.fields() {
            let field = field?;
            match field.number {
                attribute::NAME => parts.name = field.text()?,
                attribute::TYPE => parts.kind = field.varint()?,
                attribute::F => {
                    if let wire::Value::Fixed32(bits) = field.value {
                        parts.float = Some(f32::from_bits(bits));
                    }
                }
                attribute::I => parts.int = Some(field.varint()?.cast_signed()),
                attribute::S => parts.text = Some(field.bytes()?.bytes),
                attribute::T => parts.tensor = Some(Tensor::read(field.bytes()?)?),
                attribute::G => parts.graph = Some(Graph::read(field.bytes()?, depth + 1)?),
                attribute::FLOATS => read_floats(field.value, &mut parts.floats),
                attribute::INTS => numbers(field.value, &mut |number| parts.ints.push(number.cast_signed()))?,
                attribute::STRINGS => parts.texts.push(field.bytes()?.bytes),
                attribute::REF_ATTR_NAME => parts.reference = field.text()?,
                _ => {}
            }
        }
        Ok(parts.attribute())
    }
}

pub(super) fn read_floats(value: wire::Value<'_>, floats: &mut Vec<f32>) {
    match value {
        wire::Value::Fixed32(bits) => floats.push(f32::from_bits(bits)),
        wire::Value::Bytes(span) => {
            floats.extend(span.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        }
        wire::Value::Varint(_) | wire::Value::Fixed64(_) => {}
    }
}

impl<'a> Parts<'a> {
    /// The kind that the file says, or that follows from what is there: old files say none.
    fn kind(&self) -> u64 {
        if self.kind != 0 {
            return self.kind;
        }
        let kinds = [
            (self.float.is_some(), kind::FLOAT),
            (self.int.is_some(), kind::INT),
            (self.text.is_some(), kind::STRING),
            (self.tensor.is_some(), kind::TENSOR),
            (self.graph.is_some(), kind::GRAPH),
            (!self.floats.is_empty(), kind::FLOATS),
            (!self.ints.is_empty(), kind::INTS),
            (!self.texts.is_empty(), kind::STRINGS),
        ];
        kinds.into_iter().find(|(there, _)| *there).map_or(0, |(_, kind)| kind)
    }

    fn attribute(self) -> Attribute<'a> {
        let value = if !self.reference.is_empty() {
            Value::Reference(self.reference)
        } else {
            match self.kind() {
                kind::FLOAT => Value::Float(self.float.unwrap_or_default()),
                kind::INT => Value::Int(self.int.unwrap_or_default()),
                kind::STRING => Value::Text(self.text.unwrap_or_default()),
                kind::TENSOR => self.tensor.map_or(Value::Other, Value::Tensor),
                kind::GRAPH => self.graph.map_or(Value::Other, |graph| Value::Graph(Box::new(graph))),
                kind::FLOATS => Value::Floats(self.floats),
                kind::INTS => Value::Ints(self.ints),
                kind::STRINGS => Value::Texts(self.texts),
                _ => Value::Other,
            }
        };
        Attribute { name: self.name, value }
    }
}
