//! Graphs: values and the nodes that compute them.
//!
//! A [`Graph`] is always well formed, since only [`Builder`] makes one: every id is valid, each value has one
//! definition that comes before its uses, and facts agree with [`Op::outputs`].

use std::collections::BTreeMap;

use crate::{
    array::{Array, Fact},
    error::PlanError,
    op::{Inputs, Op},
};

/// Which value of a graph; also its index in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(u32);

impl ValueId {
    /// Its index in [`Graph::values`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value: a graph input, a constant, or what a node computes.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its name in the model; for messages, and for inputs and outputs the name by which they are given.
    pub name: String,
    /// Its datatype and shape.
    pub fact: Fact,
    /// Its elements, when it is a constant.
    pub constant: Option<Array>,
}

/// A node: an operator, what it takes and what it computes.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// What it takes; `None` for an absent optional input.
    pub inputs: Vec<Option<ValueId>>,
    /// What it defines, in the order of [`Op::outputs`].
    pub outputs: Vec<ValueId>,
    /// Name and operator of the model's node from which it comes, such as `/conv1/Conv (Conv)`.
    pub origin: String,
}

/// What a graph is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) values: Vec<Value>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<(String, ValueId)>,
}

/// A well-formed graph with concrete shapes.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    outputs: Vec<(String, ValueId)>,
}

impl Graph {
    /// Every value.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// The value of an id that this graph gave out.
    ///
    /// # Panics
    /// For an id of another graph.
    #[expect(
        clippy::indexing_slicing,
        reason = "said in the documentation; ids of this graph are always valid"
    )]
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The nodes in an order in which they can run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The inputs that a caller gives, in the model's order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The outputs with their names, in the model's order. One value may be several outputs, or an input, or constant.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// Facts of the inputs of a node of this graph.
    pub fn facts<'a>(&'a self, node: &Node) -> Inputs<'a, Fact> {
        Inputs::new(
            node.inputs
                .iter()
                .map(|id| id.and_then(|id| self.values.get(id.index())).map(|value| &value.fact)),
        )
    }

    /// How many multiply-adds or element visits one run takes, about.
    pub fn work(&self) -> u64 {
        self.nodes.iter().fold(0, |sum, node| {
            let outputs: Vec<Fact> = node.outputs.iter().map(|id| self.value(*id).fact.clone()).collect();
            sum.saturating_add(node.op.work(&self.facts(node), &outputs))
        })
    }

    /// Its parts, to be built anew.
    pub(crate) fn into_parts(self) -> Parts {
        let Self { values, nodes, inputs, outputs } = self;
        Parts { values, nodes, inputs, outputs }
    }

    /// The graph without the elements of the constants that `keep` does not name: their facts stay. For back ends that
    /// hold these elements in a form of their own; such a graph tells about nodes and facts, but cannot be run.
    #[must_use]
    pub fn without_elements(mut self, keep: impl Fn(ValueId) -> bool) -> Self {
        for (index, value) in (0..).zip(&mut self.values) {
            if !keep(ValueId(index)) {
                value.constant = None;
            }
        }
        self
    }

    /// Bytes of all constants.
    pub fn constant_bytes(&self) -> usize {
        self.values.iter().filter(|value| value.constant.is_some()).map(|value| value.fact.bytes()).sum()
    }

    /// Runs the graph by the reference kernels.
    ///
    /// `inputs`: one array for each of [`Graph::inputs`], in order. Returns one for each of [`Graph::outputs`].
    ///
    /// # Errors
    /// [`PlanError::Input`] for inputs of another number, datatype or shape; what a kernel refuses.
    pub fn run(&self, inputs: &[Array]) -> Result<Vec<Array>, PlanError> {
        self.run_with(inputs, |_, _| {})
    }

    /// Like [`Graph::run`]; hands each node's outputs to `seen` on the way.
    ///
    /// # Errors
    /// As [`Graph::run`].
    pub fn run_with(
        &self,
        inputs: &[Array],
        mut seen: impl FnMut(&Node, &[Array]),
    ) -> Result<Vec<Array>, PlanError> {
        let mut slots: Vec<Option<Array>> = self.values.iter().map(|value| value.constant.clone()).collect();
        self.take_inputs(inputs, &mut slots)?;
        let last = self.last_uses();
        for (at, node) in self.nodes.iter().enumerate() {
            let arrays = node.inputs.iter().map(|id| id.and_then(|id| slots.get(id.index())?.as_ref()));
            let outputs = node.op.run(&Inputs::new(arrays)).map_err(|error| error.at(&node.origin))?;
            seen(node, &outputs);
            for (id, array) in node.outputs.iter().zip(outputs) {
                if let Some(slot) = slots.get_mut(id.index()) {
                    *slot = Some(array);
                }
            }
            for id in node.inputs.iter().flatten().chain(&node.outputs) {
                if last.get(id.index()) == Some(&at)
                    && let Some(slot) = slots.get_mut(id.index())
                {
                    *slot = None;
                }
            }
        }
        let missing = || PlanError::Graph("an output has no value".to_owned());
        self.outputs
            .iter()
            .map(|(_, id)| slots.get(id.index()).cloned().flatten().ok_or_else(missing))
            .collect()
    }

    fn take_inputs(&self, inputs: &[Array], slots: &mut [Option<Array>]) -> Result<(), PlanError> {
        if inputs.len() != self.inputs.len() {
            return Err(PlanError::Input(format!(
                "{} inputs where the model takes {}",
                inputs.len(),
                self.inputs.len()
            )));
        }
        for (id, array) in self.inputs.iter().zip(inputs) {
            let value = self.value(*id);
            if array.fact() != value.fact {
                let (got, want) = (array.fact(), &value.fact);
                return Err(PlanError::Input(format!(
                    "input `{}` is {got:?} where {want:?} is needed",
                    value.name
                )));
            }
            if let Some(slot) = slots.get_mut(id.index()) {
                *slot = Some(array.clone());
            }
        }
        Ok(())
    }

    /// The node after which each value is no longer needed; `usize::MAX` for outputs.
    pub fn last_uses(&self) -> Vec<usize> {
        let mut last = vec![0; self.values.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            for id in node.inputs.iter().flatten().chain(&node.outputs) {
                if let Some(slot) = last.get_mut(id.index()) {
                    *slot = at;
                }
            }
        }
        for (_, id) in &self.outputs {
            if let Some(slot) = last.get_mut(id.index()) {
                *slot = usize::MAX;
            }
        }
        last
    }
}

/// Builds a graph; refuses whatever would make it ill formed.
#[derive(Debug, Default)]
pub struct Builder {
    values: Vec<Value>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    outputs: Vec<(String, ValueId)>,
}

impl Builder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    fn add(&mut self, name: String, fact: Fact, constant: Option<Array>) -> Result<ValueId, PlanError> {
        let too_many =
            |_| PlanError::TooLarge { what: "the number of values".to_owned(), limit: u64::from(u32::MAX) };
        let id = ValueId(u32::try_from(self.values.len()).map_err(too_many)?);
        self.values.push(Value { name, fact, constant });
        Ok(id)
    }

    /// Adds an input that the caller gives.
    ///
    /// # Errors
    /// [`PlanError::TooLarge`].
    pub fn input(&mut self, name: impl Into<String>, fact: Fact) -> Result<ValueId, PlanError> {
        let _count = crate::shape::count(&fact.shape)?;
        let id = self.add(name.into(), fact, None)?;
        self.inputs.push(id);
        Ok(id)
    }

    /// Adds a constant.
    ///
    /// # Errors
    /// [`PlanError::TooLarge`].
    pub fn constant(&mut self, name: impl Into<String>, array: Array) -> Result<ValueId, PlanError> {
        self.add(name.into(), array.fact(), Some(array))
    }

    /// Adds a node; returns its outputs, named after `origin`.
    ///
    /// # Errors
    /// [`PlanError::Graph`] for an unknown id; what the operator's shape rule refuses.
    pub fn node(
        &mut self,
        op: impl Into<Op>,
        inputs: &[Option<ValueId>],
        origin: &str,
    ) -> Result<Vec<ValueId>, PlanError> {
        let op = op.into();
        let facts = self.facts(inputs)?;
        let outputs = op.outputs(&facts)?;
        let ids = outputs
            .into_iter()
            .map(|fact| self.add(String::new(), fact, None))
            .collect::<Result<Vec<_>, _>>()?;
        self.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
            outputs: ids.clone(),
            origin: origin.to_owned(),
        });
        Ok(ids)
    }

    /// Facts of values by id.
    ///
    /// # Errors
    /// [`PlanError::Graph`] for an unknown id.
    pub fn facts(&self, ids: &[Option<ValueId>]) -> Result<Inputs<'_, Fact>, PlanError> {
        let facts = ids.iter().map(|id| id.map(|id| self.get(id).map(|value| &value.fact)).transpose());
        Ok(Inputs::new(facts.collect::<Result<Vec<_>, _>>()?))
    }

    /// The value of an id.
    ///
    /// # Errors
    /// [`PlanError::Graph`] for an unknown id.
    pub fn get(&self, id: ValueId) -> Result<&Value, PlanError> {
        self.values.get(id.index()).ok_or_else(|| PlanError::Graph(format!("value {} does not exist", id.0)))
    }

    /// Names a value.
    pub fn name(&mut self, id: ValueId, name: &str) {
        if let Some(value) = self.values.get_mut(id.index())
            && value.name.is_empty()
        {
            name.clone_into(&mut value.name);
        }
    }

    /// Declares an output.
    ///
    /// # Errors
    /// [`PlanError::Graph`] for an unknown id.
    pub fn output(&mut self, name: impl Into<String>, id: ValueId) -> Result<(), PlanError> {
        let _value = self.get(id)?;
        self.outputs.push((name.into(), id));
        Ok(())
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The graph, without nodes and constants that no output needs.
    pub fn finish(self) -> Graph {
        let mut needed = vec![false; self.values.len()];
        let mark = |id: ValueId, needed: &mut Vec<bool>| {
            if let Some(slot) = needed.get_mut(id.index()) {
                *slot = true;
            }
        };
        for id in self.outputs.iter().map(|(_, id)| id).chain(&self.inputs) {
            mark(*id, &mut needed);
        }
        let is_needed = |id: &ValueId, needed: &[bool]| needed.get(id.index()).copied().unwrap_or_default();
        let mut nodes = Vec::new();
        for node in self.nodes.into_iter().rev() {
            if node.outputs.iter().any(|id| is_needed(id, &needed)) {
                for id in node.inputs.iter().flatten().chain(&node.outputs) {
                    mark(*id, &mut needed);
                }
                nodes.push(node);
            }
        }
        nodes.reverse();
        let mut renamed = BTreeMap::new();
        let mut values = Vec::new();
        for (index, value) in self.values.into_iter().enumerate() {
            if needed.get(index).copied().unwrap_or_default()
                && let (Ok(old), Ok(new)) = (u32::try_from(index), u32::try_from(values.len()))
            {
                renamed.insert(ValueId(old), ValueId(new));
                values.push(value);
            }
        }
        let new = |id: &mut ValueId| {
            if let Some(renamed) = renamed.get(id) {
                *id = *renamed;
            }
        };
        for node in &mut nodes {
            node.inputs.iter_mut().flatten().for_each(new);
            node.outputs.iter_mut().for_each(new);
        }
        let (mut inputs, mut outputs) = (self.inputs, self.outputs);
        inputs.iter_mut().for_each(new);
        outputs.iter_mut().for_each(|(_, id)| new(id));
        Graph { values, nodes, inputs, outputs }
    }
}
