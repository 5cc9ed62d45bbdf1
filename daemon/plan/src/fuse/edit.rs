//! A graph that is being rewritten.
//!
//! Nodes are replaced in place or taken out; a value's definition and uses are always known. The result is built anew by
//! [`Builder`], which checks every shape again, so that a wrong rewrite is an error and never a wrong graph.

use crate::{
    array::{Array, Fact},
    error::PlanError,
    graph::{Builder, Graph, Node, Parts, Value, ValueId},
    op::{Inputs, Op, Unary},
};

/// Element visits that computing constants may take.
const FOLDED_WORK: u64 = 1 << 31;

/// A value in the making.
#[derive(Clone, Debug)]
struct Slot {
    name: String,
    fact: Fact,
    constant: Option<Array>,
    /// The node that defines it.
    maker: Option<usize>,
    /// The nodes that take it, once for each time they do.
    users: Vec<usize>,
}

/// A graph that is being rewritten. Values are indices.
#[derive(Debug)]
pub(super) struct Edit {
    slots: Vec<Slot>,
    nodes: Vec<Option<Work>>,
    inputs: Vec<usize>,
    outputs: Vec<(String, usize)>,
}

/// A node in the making.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) op: Op,
    pub(super) inputs: Vec<Option<usize>>,
    pub(super) outputs: Vec<usize>,
    pub(super) origin: String,
}

impl Work {
    /// The first output.
    pub(super) fn output(&self) -> usize {
        self.outputs.first().copied().unwrap_or(usize::MAX)
    }

    /// Input `index`.
    pub(super) fn input(&self, index: usize) -> Option<usize> {
        self.inputs.get(index).copied().flatten()
    }
}

impl Edit {
    pub(super) fn new(graph: Graph) -> Self {
        let Parts { values, nodes: given, inputs, outputs } = graph.into_parts();
        let slot = |value: Value| Slot {
            name: value.name,
            fact: value.fact,
            constant: value.constant,
            maker: None,
            users: Vec::new(),
        };
        let mut slots: Vec<Slot> = values.into_iter().map(slot).collect();
        let mut nodes = Vec::with_capacity(given.len());
        for (at, node) in given.into_iter().enumerate() {
            for id in &node.outputs {
                if let Some(slot) = slots.get_mut(id.index()) {
                    slot.maker = Some(at);
                }
            }
            for id in node.inputs.iter().flatten() {
                if let Some(slot) = slots.get_mut(id.index()) {
                    slot.users.push(at);
                }
            }
            nodes.push(Some(work(node)));
        }
        Self {
            slots,
            nodes,
            inputs: inputs.into_iter().map(ValueId::index).collect(),
            outputs: outputs.into_iter().map(|(name, id)| (name, id.index())).collect(),
        }
    }

    /// How many places for nodes there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node at a place, unless it was taken out.
    pub(super) fn node(&self, at: usize) -> Option<&Work> {
        self.nodes.get(at)?.as_ref()
    }

    /// The node that defines a value, and its place.
    pub(super) fn maker(&self, value: usize) -> Option<(usize, &Work)> {
        let at = self.slots.get(value)?.maker?;
        Some((at, self.node(at)?))
    }

    /// A value's elements, when it is constant.
    pub(super) fn constant(&self, value: usize) -> Option<&Array> {
        self.slots.get(value)?.constant.as_ref()
    }

    /// A value's only element, when it is a constant with one.
    pub(super) fn number(&self, value: usize) -> Option<f64> {
        self.constant(value).filter(|array| array.len() == 1)?.real().ok()
    }

    /// A value's datatype and shape.
    pub(super) fn fact(&self, value: usize) -> Option<&Fact> {
        self.slots.get(value).map(|slot| &slot.fact)
    }

    /// A value's shape.
    pub(super) fn shape(&self, value: usize) -> &[usize] {
        self.slots.get(value).map_or(&[], |slot| &slot.fact.shape)
    }

    /// Places of the nodes that take a value, once for each time they take it, and whether it is also an output.
    pub(super) fn users(&self, value: usize) -> (&[usize], bool) {
        let users = self.slots.get(value).map_or(&[][..], |slot| &slot.users);
        (users, self.outputs.iter().any(|(_, output)| *output == value))
    }

    /// Forgets that a node takes what it takes.
    fn detach(&mut self, at: usize) {
        let inputs: Vec<usize> =
            self.node(at).map_or(Vec::new(), |node| node.inputs.iter().flatten().copied().collect());
        for input in inputs {
            if let Some(slot) = self.slots.get_mut(input) {
                slot.users.retain(|user| *user != at);
            }
        }
    }

    /// Notes that a node takes what it takes.
    fn attach(&mut self, at: usize) {
        let inputs: Vec<usize> =
            self.node(at).map_or(Vec::new(), |node| node.inputs.iter().flatten().copied().collect());
        for input in inputs {
            if let Some(slot) = self.slots.get_mut(input) {
                slot.users.push(at);
            }
        }
    }

    /// The one node that takes a value which nobody else needs.
    pub(super) fn only_user(&self, value: usize) -> Option<usize> {
        match self.users(value) {
            (users, false) if users.len() == 1 => users.first().copied(),
            _ => None,
        }
    }

    /// Whether node `user` is the only one that needs a value.
    pub(super) fn is_only_for(&self, value: usize, user: usize) -> bool {
        self.only_user(value) == Some(user)
    }

    /// Adds a constant.
    pub(super) fn add(&mut self, array: Array) -> usize {
        self.slots.push(Slot {
            name: String::new(),
            fact: array.fact(),
            constant: Some(array),
            maker: None,
            users: Vec::new(),
        });
        self.slots.len() - 1
    }

    /// A constant, taken out of the graph when nobody but `user` needs it, so that it can be changed without a copy.
    pub(super) fn take(&mut self, value: usize, user: usize) -> Option<Array> {
        if self.is_only_for(value, user) {
            self.slots.get_mut(value)?.constant.take()
        } else {
            self.constant(value).cloned()
        }
    }

    /// Takes a node out, and those before it that nobody needs any more.
    fn remove(&mut self, at: usize) {
        let mut dead = vec![at];
        while let Some(at) = dead.pop() {
            self.detach(at);
            let Some(node) = self.nodes.get_mut(at).and_then(Option::take) else { continue };
            for input in node.inputs.iter().flatten() {
                if let Some((maker, work)) = self.maker(*input)
                    && work.outputs.iter().all(|output| self.users(*output) == (&[], false))
                {
                    dead.push(maker);
                }
            }
        }
    }

    /// Puts another node at a place. Its outputs are those of the old one; their facts must stay.
    pub(super) fn replace(&mut self, at: usize, op: impl Into<Op>, inputs: Vec<Option<usize>>) {
        self.detach(at);
        let mut before = Vec::new();
        if let Some(Some(node)) = self.nodes.get_mut(at) {
            node.op = op.into();
            before = std::mem::replace(&mut node.inputs, inputs);
        }
        self.attach(at);
        for input in before.into_iter().flatten() {
            if let Some((maker, work)) = self.maker(input)
                && work.outputs.iter().all(|output| self.users(*output) == (&[], false))
            {
                self.remove(maker);
            }
        }
    }

    /// Lets the node at `at` define `value` (of the same fact as its first output) in the place of what defined it.
    pub(super) fn redefine(&mut self, at: usize, value: usize) {
        if let Some(old) = self.slots.get(value).and_then(|slot| slot.maker)
            && old != at
        {
            self.detach(old);
            if let Some(slot) = self.nodes.get_mut(old) {
                *slot = None;
            }
        }
        if let Some(Some(node)) = self.nodes.get_mut(at)
            && let Some(output) = node.outputs.first_mut()
        {
            *output = value;
        }
        if let Some(slot) = self.slots.get_mut(value) {
            slot.maker = Some(at);
        }
    }

    /// Makes the value that a node defines another, existing one.
    pub(super) fn forward(&mut self, at: usize, to: usize) {
        self.detach(at);
        let Some(node) = self.nodes.get_mut(at).and_then(Option::take) else { return };
        let from = node.output();
        let users = self.slots.get_mut(from).map_or(Vec::new(), |slot| std::mem::take(&mut slot.users));
        for user in &users {
            if let Some(Some(node)) = self.nodes.get_mut(*user) {
                for input in node.inputs.iter_mut().flatten().filter(|input| **input == from) {
                    *input = to;
                }
            }
        }
        if let Some(slot) = self.slots.get_mut(to) {
            slot.users.extend(users);
        }
        for (_, output) in self.outputs.iter_mut().filter(|(_, output)| *output == from) {
            *output = to;
        }
    }

    /// Puts a new node at the end of the list; order is found again at the end.
    pub(super) fn insert(
        &mut self,
        op: impl Into<Op>,
        inputs: Vec<Option<usize>>,
        origin: &str,
    ) -> Result<usize, PlanError> {
        let op = op.into();
        let facts = inputs.iter().map(|input| input.and_then(|input| self.fact(input)));
        let outputs = op.outputs(&Inputs::new(facts))?;
        let at = self.nodes.len();
        let first = self.slots.len();
        let count = outputs.len();
        for fact in outputs {
            self.slots.push(Slot {
                name: String::new(),
                fact,
                constant: None,
                maker: Some(at),
                users: Vec::new(),
            });
        }
        self.nodes.push(Some(Work {
            op,
            inputs,
            outputs: (first..first + count).collect(),
            origin: origin.to_owned(),
        }));
        self.attach(at);
        Ok(first)
    }

    /// Computes every node all of whose inputs are constant, as far as [`FOLDED_WORK`] goes.
    pub(super) fn fold(&mut self) -> Result<(), PlanError> {
        let mut left = FOLDED_WORK;
        for at in 0..self.nodes.len() {
            let Some(node) = self.node(at) else { continue };
            let known = |input: &Option<usize>| match input {
                None => Some(None),
                Some(input) => self.constant(*input).map(Some),
            };
            let Some(arrays) = node.inputs.iter().map(known).collect::<Option<Vec<_>>>() else { continue };
            let facts: Vec<Option<Fact>> = arrays.iter().map(|array| array.map(Array::fact)).collect();
            let outputs: Vec<Fact> =
                node.outputs.iter().filter_map(|output| self.fact(*output).cloned()).collect();
            let work = node.op.work(&Inputs::new(facts.iter().map(Option::as_ref)), &outputs);
            left = left.saturating_sub(work);
            if !arrays.iter().any(Option::is_some) || left == 0 {
                continue;
            }
            let results = node.op.run(&Inputs::new(arrays)).map_err(|error| error.at(&node.origin))?;
            let outputs = node.outputs.clone();
            for (output, array) in outputs.into_iter().zip(results) {
                if let Some(slot) = self.slots.get_mut(output) {
                    (slot.constant, slot.maker) = (Some(array), None);
                }
            }
            self.detach(at);
            if let Some(slot) = self.nodes.get_mut(at) {
                *slot = None;
            }
        }
        Ok(())
    }

    /// The rewritten graph.
    pub(super) fn finish(mut self) -> Result<Graph, PlanError> {
        let mut builder = Builder::new();
        let mut ids: Vec<Option<ValueId>> = vec![None; self.slots.len()];
        for input in &self.inputs {
            if let Some(slot) = self.slots.get(*input) {
                set(&mut ids, *input, builder.input(slot.name.clone(), slot.fact.clone())?);
            }
        }
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if let Some(array) = slot.constant.take() {
                set(&mut ids, at, builder.constant(std::mem::take(&mut slot.name), array)?);
            }
        }
        // Depth first, without recursion, from each node to what it takes.
        let edges: usize = self.nodes.iter().flatten().map(|node| node.inputs.len()).sum();
        let most = 4 * (edges + self.nodes.len()) + 64;
        let mut done = vec![false; self.nodes.len()];
        let mut stack: Vec<(usize, bool)> = (0..self.nodes.len()).rev().map(|at| (at, false)).collect();
        while let Some((at, ready)) = stack.pop() {
            let (Some(node), false) = (self.node(at), done.get(at).copied().unwrap_or(true)) else {
                continue;
            };
            if !ready {
                stack.push((at, true));
                let makers = node.inputs.iter().flatten().filter_map(|input| self.slots.get(*input)?.maker);
                stack.extend(
                    makers
                        .filter(|maker| *maker != at && !done.get(*maker).copied().unwrap_or(true))
                        .map(|maker| (maker, false)),
                );
                if stack.len() > most {
                    return Err(PlanError::Graph("a rewritten graph with a cycle".to_owned()));
                }
                continue;
            }
            if let Some(slot) = done.get_mut(at) {
                *slot = true;
            }
            let missing = || PlanError::Graph(format!("a rewritten node without input: {}", node.origin));
            let inputs = node.inputs.iter().map(|input| match input {
                None => Ok(None),
                Some(input) => ids.get(*input).copied().flatten().map(Some).ok_or_else(missing),
            });
            let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
            let made = builder
                .node(node.op.clone(), &inputs, &node.origin)
                .map_err(|error| error.at(&node.origin))?;
            for (output, id) in node.outputs.iter().zip(made) {
                if let Some(slot) = self.slots.get(*output) {
                    builder.name(id, &slot.name);
                }
                set(&mut ids, *output, id);
            }
        }
        for (name, output) in self.outputs {
            let id = ids.get(output).copied().flatten();
            builder.output(
                name,
                id.ok_or_else(|| PlanError::Graph("an output that nothing defines".to_owned()))?,
            )?;
        }
        Ok(builder.finish())
    }

    /// Both inputs of a binary node in an order in which `matches` holds for the first.
    pub(super) fn either(&self, node: &Work, matches: impl Fn(usize) -> bool) -> Option<(usize, usize)> {
        let (a, b) = (node.input(0)?, node.input(1)?);
        if matches(a) {
            Some((a, b))
        } else if matches(b) {
            Some((b, a))
        } else {
            None
        }
    }

    /// The operand of `function`, when that is what defines a value.
    pub(super) fn operand(&self, value: usize, function: Unary) -> Option<usize> {
        let (_, node) = self.maker(value)?;
        if node.op == Op::Unary(function) { node.input(0) } else { None }
    }
}

fn set(ids: &mut [Option<ValueId>], at: usize, id: ValueId) {
    if let Some(slot) = ids.get_mut(at) {
        *slot = Some(id);
    }
}

fn work(node: Node) -> Work {
    Work {
        op: node.op,
        inputs: node.inputs.into_iter().map(|id| id.map(ValueId::index)).collect(),
        outputs: node.outputs.into_iter().map(ValueId::index).collect(),
        origin: node.origin,
    }
}
