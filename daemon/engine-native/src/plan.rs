//! A plan: steps over buffers and constants, for one set of input shapes.

use std::sync::Arc;

use agentd_plan::Graph;

use crate::{
    kernel::isa::Isa,
    memory::{Aligned, Buffer},
    step::{At, Step},
};

/// Where a graph input is put or a graph output is found: row-major at this place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Port {
    /// In a buffer.
    Buffer(At),
    /// The value is one of the graph's inputs, or a constant: it is answered without a step.
    Direct(usize),
}

/// Steps over buffers and constants. Not to be run before it is verified.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The instruction set for whose vectors it is laid out.
    pub(crate) isa: Isa,
    /// The graph from which it comes: facts of inputs and outputs, and nodes for the interpreter.
    pub(crate) graph: Arc<Graph>,
    /// Parts of the arena.
    pub(crate) buffers: Vec<Buffer>,
    /// Floats of the arena.
    pub(crate) arena: usize,
    /// Weights, biases, tables.
    pub(crate) constants: Aligned,
    /// What is done, in order.
    pub(crate) steps: Vec<Step>,
    /// The graph's node from which each step comes.
    pub(crate) origins: Vec<usize>,
    /// Places of the graph's inputs that any step reads.
    pub(crate) inputs: Vec<Option<At>>,
    /// Places of the graph's outputs.
    pub(crate) outputs: Vec<Port>,
}

impl Plan {
    /// Nodes that the interpreter runs.
    pub(crate) fn fallback_nodes(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Reference { .. })).count()
    }
}
