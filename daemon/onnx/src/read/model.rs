//! Models, graphs, nodes and functions.

use super::{Attribute, MAX_DEPTH, ReadError, Tensor};
use crate::{
    proto::{self, function, graph, model, node, opset, r#type, value_info},
    wire::Span,
};

/// Which version of a domain's operators a model uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperatorSet<'a> {
    /// The domain; the standard one is empty.
    pub domain: &'a str,
    /// The version.
    pub version: i64,
}

/// A model.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    /// The versions of operators that it uses.
    pub operator_sets: Vec<OperatorSet<'a>>,
    /// What it computes.
    pub graph: Graph<'a>,
    /// Functions of its own.
    pub functions: Vec<Function<'a>>,
}

/// A graph.
#[derive(Clone, Debug, Default)]
pub struct Graph<'a> {
    /// Its nodes, in the file's order.
    pub nodes: Vec<Node<'a>>,
    /// Its weights.
    pub weights: Vec<Tensor<'a>>,
    /// Its inputs, those that have a weight of the same name as default included.
    pub inputs: Vec<Input<'a>>,
    /// Names of its outputs.
    pub outputs: Vec<&'a str>,
}

/// An input of a graph, as it claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input<'a> {
    /// Its name.
    pub name: &'a str,
    /// ONNX's number of its datatype; 0 when it is no tensor, or nothing is said.
    pub datatype: u64,
    /// Its dimensions, `None` for free ones; `None` as a whole when nothing is said.
    pub dims: Option<Vec<Option<i64>>>,
}

impl Input<'_> {
    /// The datatype, where the Open Inference Protocol has it.
    pub fn datatype(&self) -> Option<agentd_types::Datatype> {
        proto::datatype(self.datatype)
    }
}

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Node<'a> {
    /// Its name; may be empty.
    pub name: &'a str,
    /// Its operator.
    pub operator: &'a str,
    /// The operator's domain; the standard one is empty.
    pub domain: &'a str,
    /// Names of what it takes; empty for an absent one.
    pub inputs: Vec<&'a str>,
    /// Names of what it computes; empty for what nobody needs.
    pub outputs: Vec<&'a str>,
    /// Its attributes.
    pub attributes: Vec<Attribute<'a>>,
}

/// A function of the model's own: nodes that stand for one operator.
#[derive(Clone, Debug, Default)]
pub struct Function<'a> {
    /// The operator that it defines.
    pub name: &'a str,
    /// The operator's domain.
    pub domain: &'a str,
    /// Names of its inputs.
    pub inputs: Vec<&'a str>,
    /// Names of its outputs.
    pub outputs: Vec<&'a str>,
    /// Its nodes.
    pub nodes: Vec<Node<'a>>,
    /// Attributes that have a default.
    pub defaults: Vec<Attribute<'a>>,
    /// The versions of operators that it uses.
    pub operator_sets: Vec<OperatorSet<'a>>,
}

impl<'a> Model<'a> {
    /// Reads a model.
    ///
    /// # Errors
    /// The first fault in the file's form.
    pub fn read(file: &'a [u8]) -> Result<Self, ReadError> {
        let mut main = None;
        let (mut operator_sets, mut functions) = (Vec::new(), Vec::new());
        for field in Span::file(file).fields() {
            let field = field?;
            match field.number {
                model::GRAPH => field.once(&mut main, field.bytes()?)?,
                model::OPSET_IMPORT => operator_sets.push(OperatorSet::read(field.bytes()?)?),
                model::FUNCTIONS => functions.push(Function::read(field.bytes()?)?),
                _ => {}
            }
        }
        let graph = Graph::read(main.ok_or(ReadError::NoGraph)?, 1)?;
        Ok(Self { operator_sets, graph, functions })
    }

    /// The version of a domain's operators; `None` when the model does not say.
    pub fn version(&self, domain: &str) -> Option<i64> {
        self.operator_sets.iter().find(|set| set.domain == domain).map(|set| set.version)
    }
}

/// The domain as nodes name it; the standard one has two names.
fn plain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

impl<'a> OperatorSet<'a> {
    fn read(span: Span<'a>) -> Result<Self, ReadError> {
        let mut set = Self { domain: "", version: 0 };
        for field in span.fields() {
            let field = field?;
            match field.number {
                opset::DOMAIN => set.domain = plain(field.text()?),
                opset::VERSION => set.version = field.varint()?.cast_signed(),
                _ => {}
            }
        }
        Ok(set)
    }
}

impl<'a> Graph<'a> {
    pub(super) fn read(span: Span<'a>, depth: usize) -> Result<Self, ReadError> {
        if depth > MAX_DEPTH {
            return Err(ReadError::Depth);
        }
        let mut graph = Self::default();
        for field in span.fields() {
            let field = field?;
            match field.number {
                graph::NODE => graph.nodes.push(Node::read(field.bytes()?, depth)?),
                graph::INITIALIZER => graph.weights.push(Tensor::read(field.bytes()?)?),
                graph::SPARSE_INITIALIZER => return Err(ReadError::Sparse),
                graph::INPUT => graph.inputs.push(Input::read(field.bytes()?)?),
                graph::OUTPUT => graph.outputs.push(Input::read(field.bytes()?)?.name),
                _ => {}
            }
        }
        Ok(graph)
    }
}

impl<'a> Input<'a> {
    fn read(span: Span<'a>) -> Result<Self, ReadError> {
        let mut input = Self { name: "", datatype: 0, dims: None };
        for field in span.fields() {
            let field = field?;
            match field.number {
                value_info::NAME => input.name = field.text()?,
                value_info::TYPE => input.read_type(field.bytes()?)?,
                _ => {}
            }
        }
        Ok(input)
    }

    fn read_type(&mut self, span: Span<'a>) -> Result<(), ReadError> {
        for field in span.fields() {
            let field = field?;
            if field.number != r#type::TENSOR {
                continue;
            }
            for field in field.bytes()?.fields() {
                let field = field?;
                match field.number {
                    r#type::ELEM_TYPE => self.datatype = field.varint()?,
                    r#type::SHAPE => self.dims = Some(read_dims(field.bytes()?)?),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn read_dims(span: Span<'_>) -> Result<Vec<Option<i64>>, ReadError> {
    let mut dims = Vec::new();
    for field in span.fields() {
        let field = field?;
        if field.number != r#type::DIM {
            continue;
        }
        let mut dim = None;
        for field in field.bytes()?.fields() {
            let field = field?;
            if field.number == r#type::DIM_VALUE {
                dim = Some(field.varint()?.cast_signed());
            }
        }
        dims.push(dim);
    }
    Ok(dims)
}

impl<'a> Node<'a> {
    fn read(span: Span<'a>, depth: usize) -> Result<Self, ReadError> {
        let mut node = Self::default();
        for field in span.fields() {
            let field = field?;
            match field.number {
                node::INPUT => node.inputs.push(field.text()?),
                node::OUTPUT => node.outputs.push(field.text()?),
                node::NAME => node.name = field.text()?,
                node::OP_TYPE => node.operator = field.text()?,
                node::DOMAIN => node.domain = plain(field.text()?),
                node::ATTRIBUTE => node.attributes.push(Attribute::read(field.bytes()?, depth)?),
                _ => {}
            }
        }
        Ok(node)
    }
}

impl<'a> Function<'a> {
    fn read(span: Span<'a>) -> Result<Self, ReadError> {
        let mut this = Self::default();
        for field in span.fields() {
            let field = field?;
            match field.number {
                function::NAME => this.name = field.text()?,
                function::DOMAIN => this.domain = plain(field.text()?),
                function::INPUT => this.inputs.push(field.text()?),
                function::OUTPUT => this.outputs.push(field.text()?),
                function::NODE => this.nodes.push(Node::read(field.bytes()?, 1)?),
                function::DEFAULT => this.defaults.push(Attribute::read(field.bytes()?, 1)?),
                function::OPSET_IMPORT => this.operator_sets.push(OperatorSet::read(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(this)
    }
}
