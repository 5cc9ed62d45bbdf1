//! Reads a model for concrete input shapes.
//!
//! In: the bytes of an ONNX file and a shape for each input. Out: a [`Graph`] in which every shape is known. With all
//! shapes known, inference is each operator's own rule; what is constant is computed on the way by the reference
//! kernels, so `Shape`, `If` with a known condition, loops and sequences dissolve. Work, bytes and nodes are bounded, and
//! what the file claims about shapes between inputs and outputs is not believed but not needed either.

mod attention;
mod constant;
mod control;
mod elementwise;
mod linear;
mod microsoft;
mod ml;
mod movement;
mod norm;
mod quantize;
mod recurrent;
mod reduce;
mod sequence;
mod signal;
mod site;
mod tensor;
mod text;
mod vision;

use std::collections::BTreeMap;

use agentd_onnx::read::{self, Function, Model, Node, OperatorSet};

pub use self::tensor::array as tensor_array;
use self::{site::Site, tensor::array};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    graph::{Builder, Graph, ValueId},
    op::{Inputs, Op},
};

/// Graphs and functions within each other that are followed.
const MAX_DEPTH: usize = 24;

/// What import may cost at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportLimits {
    /// Nodes read, each round of a loop anew.
    pub nodes: usize,
    /// Bytes of all constants that are computed.
    pub folded_bytes: usize,
    /// Bytes of one value.
    pub value_bytes: usize,
    /// Multiply-adds or element visits of all constants that are computed.
    pub folded_work: u64,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self { nodes: 200_000, folded_bytes: 1 << 29, value_bytes: 1 << 31, folded_work: 1 << 32 }
    }
}

/// What is given to a model before it is imported.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// Datatypes and shapes of inputs by name; those that the file fixes may be left out.
    pub shapes: &'a [(&'a str, Fact)],
    /// Inputs that are constant from now on.
    pub constants: &'a [(&'a str, Array)],
    /// What import may cost.
    pub limits: ImportLimits,
}

/// Imports a model.
///
/// # Errors
/// [`PlanError`]: what is wrong with the model or with what is given, or what plans do not support.
pub fn import(file: &[u8], given: &Given<'_>) -> Result<Graph, PlanError> {
    import_model(&Model::read(file)?, given)
}

/// Imports a model of whose bytes the caller can let go: `copied` is called with those of each weight once they are no
/// longer needed. Who maps the file can so give back its pages while the weights are read.
///
/// # Errors
/// As [`import`].
pub fn import_released(file: &[u8], given: &Given<'_>, copied: &dyn Fn(&[u8])) -> Result<Graph, PlanError> {
    let model = Model::read(file)?;
    let mut importer = Importer { copied, ..Importer::new(&model, given) };
    importer.main(&model.graph, given)?;
    Ok(importer.builder.finish())
}

/// Imports a model that was read before.
///
/// # Errors
/// As [`import`].
pub fn import_model(model: &Model<'_>, given: &Given<'_>) -> Result<Graph, PlanError> {
    let mut importer = Importer::new(model, given);
    importer.main(&model.graph, given)?;
    Ok(importer.builder.finish())
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// A tensor.
    Tensor(ValueId),
    /// A list of tensors, which only exists at import.
    Sequence(Vec<ValueId>),
    /// An optional without value.
    Nothing,
}

impl From<ValueId> for Binding {
    fn from(id: ValueId) -> Self {
        Self::Tensor(id)
    }
}

/// The state of an import.
pub(crate) struct Importer<'a, 'm> {
    model: &'m Model<'a>,
    /// Told about bytes of the file that are not needed again.
    copied: &'m dyn Fn(&[u8]),
    builder: Builder,
    /// What names stand for, by graph, the innermost last.
    scopes: Vec<BTreeMap<&'a str, Binding>>,
    /// Versions of operators, those of the innermost function last.
    versions: Vec<Vec<OperatorSet<'a>>>,
    limits: ImportLimits,
    nodes: usize,
    folded_bytes: usize,
    folded_work: u64,
    depth: usize,
}

impl<'a, 'm> Importer<'a, 'm> {
    fn new(model: &'m Model<'a>, given: &Given<'_>) -> Self {
        Self {
            model,
            copied: &|_| {},
            builder: Builder::new(),
            scopes: vec![BTreeMap::new()],
            versions: vec![model.operator_sets.clone()],
            limits: given.limits,
            nodes: 0,
            folded_bytes: 0,
            folded_work: 0,
            depth: 0,
        }
    }

    fn main(&mut self, graph: &read::Graph<'a>, given: &Given<'_>) -> Result<(), PlanError> {
        self.weights(graph)?;
        let is_input = |name: &&str| graph.inputs.iter().any(|input| input.name == *name);
        let names =
            given.shapes.iter().map(|(name, _)| name).chain(given.constants.iter().map(|(name, _)| name));
        if let Some(name) = names.into_iter().find(|name| !is_input(name)) {
            return Err(PlanError::Input(format!("the model has no input `{name}`")));
        }
        for input in &graph.inputs {
            let shape = given.shapes.iter().find(|(name, _)| *name == input.name);
            let constant = given.constants.iter().find(|(name, _)| *name == input.name);
            let id = match (constant, shape) {
                (Some((_, array)), _) => self.builder.constant(input.name, array.clone())?,
                (None, Some((_, fact))) => self.input(input, fact)?,
                (None, None) if self.find(input.name).is_some() => continue,
                (None, None) => self.input(input, &own_fact(input)?)?,
            };
            self.scope().insert(input.name, id.into());
        }
        self.run_nodes(&graph.nodes)?;
        for name in &graph.outputs {
            let Some(Binding::Tensor(id)) = self.find(name).cloned() else {
                return Err(match self.find(name) {
                    Some(_) => PlanError::unsupported(format!("the output `{name}`, which is no tensor,")),
                    None => PlanError::Unresolved((*name).to_owned()),
                });
            };
            self.builder.output(*name, id)?;
        }
        Ok(())
    }

    fn input(&mut self, input: &read::Input<'a>, fact: &Fact) -> Result<ValueId, PlanError> {
        let claimed = input.datatype();
        if claimed.is_some_and(|claimed| claimed != fact.datatype) {
            return Err(PlanError::Input(format!(
                "input `{}` is of another datatype than {fact:?}",
                input.name
            )));
        }
        if let Some(dims) = &input.dims {
            let fits = |(claimed, dim): (&Option<i64>, &usize)| {
                claimed.is_none_or(|claimed| claimed < 0 || usize::try_from(claimed) == Ok(*dim))
            };
            if dims.len() != fact.rank() || !dims.iter().zip(&fact.shape).all(fits) {
                let text = format!("input `{}` of shape {dims:?} does not take {:?}", input.name, fact.shape);
                return Err(PlanError::Input(text));
            }
        }
        self.builder.input(input.name, fact.clone())
    }

    fn weights(&mut self, graph: &read::Graph<'a>) -> Result<(), PlanError> {
        for weight in &graph.weights {
            let array = array(weight)?;
            weight.raw_bytes().into_iter().for_each(self.copied);
            self.count_repeated(&array)?;
            let id = self.builder.constant(weight.name(), array)?;
            self.scope().insert(weight.name(), id.into());
        }
        Ok(())
    }

    fn scope(&mut self) -> &mut BTreeMap<&'a str, Binding> {
        if self.scopes.is_empty() {
            self.scopes.push(BTreeMap::new());
        }
        let last = self.scopes.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "made non-empty above")]
        &mut self.scopes[last]
    }

    fn find(&self, name: &str) -> Option<&Binding> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }

    fn version(&self, domain: &str) -> i64 {
        let sets = self.versions.last().map_or(&[][..], Vec::as_slice);
        sets.iter().find(|set| set.domain == domain).map_or(1, |set| set.version)
    }

    fn run_nodes(&mut self, nodes: &[Node<'a>]) -> Result<(), PlanError> {
        for node in nodes {
            let shown = shown(node);
            self.run_node(node, &shown).map_err(|error| error.at(&shown))?;
        }
        Ok(())
    }

    fn run_node(&mut self, node: &Node<'a>, shown: &str) -> Result<(), PlanError> {
        self.count_node()?;
        let inputs = node.inputs.iter().map(|name| match *name {
            "" => Ok(None),
            name => self.find(name).cloned().map(Some).ok_or_else(|| PlanError::Unresolved(name.to_owned())),
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = match self.function(node) {
            Some(function) => self.call(function, node, inputs)?,
            None => {
                let version = self.version(node.domain);
                Site { importer: self, node, inputs, version, shown }.import()?
            }
        };
        if outputs.len() < node.outputs.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1) {
            return Err(PlanError::unsupported(format!("output {} of {}", outputs.len(), node.operator)));
        }
        for (name, binding) in node.outputs.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            if let Binding::Tensor(id) = binding {
                self.builder.name(id, name);
            }
            if self.scope().insert(name, binding).is_some() {
                return Err(PlanError::Duplicate((*name).to_owned()));
            }
        }
        Ok(())
    }

    fn count_node(&mut self) -> Result<(), PlanError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes {
            return Err(PlanError::TooLarge {
                what: "the number of nodes".to_owned(),
                limit: self.limits.nodes as u64,
            });
        }
        Ok(())
    }

    /// Counts a constant of an inner graph: a loop writes it down once a round.
    fn count_repeated(&mut self, array: &Array) -> Result<(), PlanError> {
        if self.depth > 0 { self.count_folded(array.fact().bytes()) } else { Ok(()) }
    }

    /// Counts a constant that is computed or written down anew.
    fn count_folded(&mut self, bytes: usize) -> Result<(), PlanError> {
        self.folded_bytes = self.folded_bytes.saturating_add(bytes);
        if self.folded_bytes > self.limits.folded_bytes {
            let limit = self.limits.folded_bytes as u64;
            return Err(PlanError::TooLarge { what: "the constants computed at import".to_owned(), limit });
        }
        Ok(())
    }

    fn function(&self, node: &Node<'_>) -> Option<&'m Function<'a>> {
        let model = self.model;
        model
            .functions
            .iter()
            .find(|function| function.name == node.operator && function.domain == node.domain)
    }

    /// Puts a function's nodes in the place of a node that calls it.
    fn call(
        &mut self,
        function: &Function<'a>,
        node: &Node<'a>,
        inputs: Vec<Option<Binding>>,
    ) -> Result<Vec<Binding>, PlanError> {
        let given = function.inputs.iter().zip(inputs).filter_map(|(name, input)| Some((*name, input?)));
        let scope = given.collect();
        let nodes: Vec<Node<'a>> =
            function.nodes.iter().map(|inner| with_attributes(inner, node, function)).collect();
        // A function sees nothing around it.
        let outer = std::mem::replace(&mut self.scopes, vec![scope]);
        self.versions.push(function.operator_sets.clone());
        let outputs = self.deeper(|this| {
            this.run_nodes(&nodes)?;
            Ok(function
                .outputs
                .iter()
                .map(|name| this.find(name).cloned().unwrap_or(Binding::Nothing))
                .collect())
        });
        self.versions.pop();
        self.scopes = outer;
        outputs
    }

    /// Runs the nodes of an inner graph; `given` are its inputs. Returns its outputs.
    fn subgraph(&mut self, graph: &read::Graph<'a>, given: Vec<Binding>) -> Result<Vec<Binding>, PlanError> {
        if given.len() < graph.inputs.len() {
            return Err(PlanError::Graph("an inner graph with more inputs than are given".to_owned()));
        }
        // Each round of a loop counts, so that an empty body cannot go on for ever.
        self.count_node()?;
        let names = graph.inputs.iter().map(|input| input.name);
        self.scopes.push(names.zip(given).collect());
        let outputs = self.deeper(|this| {
            this.weights(graph)?;
            this.run_nodes(&graph.nodes)?;
            let found = |name: &&str| {
                this.find(name).cloned().ok_or_else(|| PlanError::Unresolved((*name).to_owned()))
            };
            graph.outputs.iter().map(found).collect()
        });
        self.scopes.pop();
        outputs
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, PlanError>) -> Result<T, PlanError> {
        if self.depth >= MAX_DEPTH {
            return Err(PlanError::TooLarge {
                what: "the depth of graphs".to_owned(),
                limit: MAX_DEPTH as u64,
            });
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    /// Adds a node, or computes it now where all that it takes is constant.
    fn emit(&mut self, op: Op, inputs: &[Option<ValueId>], shown: &str) -> Result<Vec<ValueId>, PlanError> {
        self.nodes += 1;
        if self.nodes > self.limits.nodes.saturating_mul(4) {
            return Err(PlanError::TooLarge {
                what: "the number of nodes".to_owned(),
                limit: self.limits.nodes as u64,
            });
        }
        let facts = self.builder.facts(inputs)?;
        let outputs = op.outputs(&facts)?;
        let bytes: usize = outputs.iter().fold(0, |sum, fact| sum.saturating_add(fact.bytes()));
        if bytes > self.limits.value_bytes {
            return Err(PlanError::TooLarge {
                what: format!("{bytes} bytes of one value"),
                limit: self.limits.value_bytes as u64,
            });
        }
        let work = op.work(&facts, &outputs);
        let constants: Option<Vec<Option<Array>>> = inputs
            .iter()
            .map(|id| match id {
                None => Some(None),
                Some(id) => self.builder.get(*id).ok()?.constant.clone().map(Some),
            })
            .collect();
        let fits = self.folded_bytes.saturating_add(bytes) <= self.limits.folded_bytes
            && self.folded_work.saturating_add(work) <= self.limits.folded_work;
        if let Some(constants) = constants.filter(|_| fits && !is_kept(&op, bytes)) {
            self.folded_bytes += bytes;
            self.folded_work += work;
            let arrays = op.run(&Inputs::new(constants.iter().map(Option::as_ref)))?;
            return arrays.into_iter().map(|array| self.builder.constant("", array)).collect();
        }
        self.builder.node(op, inputs, shown)
    }
}

/// Weights that were quantised stay so until back ends have had their choice; see [`crate::fuse`].
fn is_kept(op: &Op, bytes: usize) -> bool {
    matches!(op, Op::Dequantize(_)) && bytes > 64
}

/// The node for messages: `conv1 (Conv)`.
fn shown(node: &Node<'_>) -> String {
    let name =
        if node.name.is_empty() { node.outputs.first().copied().unwrap_or_default() } else { node.name };
    let short = |text: &str| text.chars().take(80).flat_map(char::escape_debug).collect::<String>();
    format!("{} ({})", short(name), short(node.operator))
}

/// A function's node with the attributes of the calling node in the place of references to them.
fn with_attributes<'a>(inner: &Node<'a>, caller: &Node<'a>, function: &Function<'a>) -> Node<'a> {
    let mut node = inner.clone();
    let given = caller.attributes.iter().chain(&function.defaults);
    node.attributes.retain_mut(|attribute| match &attribute.value {
        read::Value::Reference(name) => match given.clone().find(|given| given.name == *name) {
            Some(found) => {
                attribute.value = found.value.clone();
                true
            }
            None => false,
        },
        read::Value::Graph(graph) => {
            let mut graph = graph.clone();
            graph.nodes = graph.nodes.iter().map(|inner| with_attributes(inner, caller, function)).collect();
            attribute.value = read::Value::Graph(graph);
            true
        }
        _ => true,
    });
    node
}

/// The fact that the file itself fixes for an input.
fn own_fact(input: &read::Input<'_>) -> Result<Fact, PlanError> {
    let fault = || PlanError::Input(format!("input `{}` needs a shape", input.name));
    let dims = input.dims.as_ref().ok_or_else(fault)?;
    let dims = dims.iter().map(|dim| usize::try_from((*dim)?).ok()).collect::<Option<Vec<_>>>();
    Ok(Fact::new(input.datatype().ok_or_else(fault)?, dims.ok_or_else(fault)?))
}
