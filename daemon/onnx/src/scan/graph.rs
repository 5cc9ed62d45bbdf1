//! Walks the graphs of a model, node by node.
//!
//! A graph is read twice: first what it defines before any node runs (inputs, weights), then its nodes in order, since
//! fields of a message may stand in any order.

use std::collections::BTreeMap;

use agentd_types::TensorSpec;

use super::{
    ModelSummary, ScanLimits,
    error::{ScanError, shown},
    interface::Claim,
    plain_domain,
    recurrent::{self, Recurrence, RecurrentNode},
    scope::{Fact, Scope, Scopes},
    shape::{self, Known},
};
use crate::{
    attribute::Attribute,
    operators,
    proto::{graph, node},
    tensor::{self, Checked, RawTensor},
    wire::{Span, WireError},
};

/// A node has no more attributes than this.
const MAX_ATTRIBUTES: usize = 64;
/// A list of constants up to this length is remembered, for axes.
const MAX_KEPT_INTS: u64 = 8;

/// What a walk has found so far.
pub(crate) struct Scanner<'a, 'l> {
    limits: &'l ScanLimits,
    /// Domains that the model imports.
    domains: Vec<&'a str>,
    scopes: Scopes<'a>,
    /// By domain and operator.
    operators: BTreeMap<(&'a str, &'a str), usize>,
    names: usize,
    pub(crate) summary: ModelSummary,
}

/// A `NodeProto`.
#[derive(Default)]
struct Node<'a> {
    inputs: Vec<&'a str>,
    outputs: Vec<&'a str>,
    name: &'a str,
    op: &'a str,
    domain: &'a str,
    attributes: Vec<Attribute<'a>>,
}

impl<'a> Node<'a> {
    fn read(span: Span<'a>) -> Result<Self, ScanError> {
        let mut node = Self::default();
        let (mut name, mut op, mut domain) = (None, None, None);
        for field in span.fields() {
            let field = field?;
            match field.number {
                node::INPUT => node.inputs.push(field.text()?),
                node::OUTPUT => node.outputs.push(field.text()?),
                node::NAME => field.once(&mut name, field.text()?)?,
                node::OP_TYPE => field.once(&mut op, field.text()?)?,
                node::DOMAIN => field.once(&mut domain, field.text()?)?,
                node::ATTRIBUTE if node.attributes.len() == MAX_ATTRIBUTES => {
                    return Err(ScanError::TooMany { what: "attributes at one node", limit: MAX_ATTRIBUTES });
                }
                node::ATTRIBUTE => node.attributes.push(Attribute::read(field.bytes()?)?),
                _ => {}
            }
        }
        node.name = name.unwrap_or_default();
        node.op = op.unwrap_or_default();
        node.domain = plain_domain(domain.unwrap_or_default());
        Ok(node)
    }

    /// The node for messages: `conv1 (Conv)`.
    fn shown(&self) -> String {
        let name =
            if self.name.is_empty() { self.outputs.first().copied().unwrap_or_default() } else { self.name };
        format!("`{}` ({})", shown(name), shown(self.op))
    }

    fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).and_then(|attribute| attribute.int)
    }

    fn is_bidirectional(&self) -> bool {
        let text = self.attribute("direction").and_then(|attribute| attribute.text);
        text.is_some_and(|text| text.bytes == b"bidirectional")
    }

    fn known<'f>(&'f self, inputs: &'f [Fact]) -> Known<'f> {
        let list = self.attribute("perm").or_else(|| self.attribute("axes"));
        Known {
            op: self.op,
            inputs,
            list: list.map(|attribute| attribute.ints.as_slice()),
            hidden_size: self.int("hidden_size"),
            bidirectional: self.is_bidirectional(),
            batch_first: self.int("layout") == Some(1),
            transposed: (self.int("transA") == Some(1), self.int("transB") == Some(1)),
            axis: self.int("axis").unwrap_or(0),
        }
    }
}

impl<'a, 'l> Scanner<'a, 'l> {
    pub(crate) fn new(limits: &'l ScanLimits, domains: Vec<&'a str>) -> Self {
        let summary = ModelSummary {
            producer: String::new(),
            opsets: BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            unranked_outputs: Vec::new(),
            operators: BTreeMap::new(),
            unknown_operators: Vec::new(),
            nodes: 0,
            parameters: 0,
            recurrent: false,
            recurrences: Vec::new(),
        };
        Self { limits, domains, scopes: Scopes::default(), operators: BTreeMap::new(), names: 0, summary }
    }

    /// Walks the main graph and all within.
    pub(crate) fn run(mut self, main: Span<'a>) -> Result<Self, ScanError> {
        self.graph(main, "the main graph")?;
        let named = self.operators.iter().map(|((domain, op), count)| (operator(domain, op), *count));
        self.summary.operators = named.collect();
        Ok(self)
    }

    /// Operators that nobody defines.
    pub(crate) fn unknown(&self) -> Vec<String> {
        let unknown = self.operators.keys().filter(|(domain, op)| !operators::is_known(domain, op));
        unknown.map(|(domain, op)| operator(domain, op)).collect()
    }

    fn graph(&mut self, span: Span<'a>, owner: &str) -> Result<(), ScanError> {
        let limit = self.limits.depth;
        if self.scopes.0.len() >= limit {
            return Err(ScanError::Depth { node: owner.to_owned(), limit });
        }
        self.scopes.0.push(Scope::default());
        self.weights(span)?;
        self.inputs(span)?;
        for field in span.fields() {
            let field = field?;
            if field.number == graph::NODE {
                self.node(field.bytes()?, span)?;
            }
        }
        self.outputs(span, owner)?;
        self.scopes.0.pop();
        Ok(())
    }

    fn weights(&mut self, span: Span<'a>) -> Result<(), ScanError> {
        for field in span.fields() {
            let field = field?;
            match field.number {
                graph::INITIALIZER => {
                    let raw = RawTensor::read(field.bytes()?)?;
                    let fact = self.weight(&raw, &format!("`{}`", shown(raw.name)))?;
                    self.define(raw.name, "weight", fact)?;
                }
                graph::SPARSE_INITIALIZER => return Err(ScanError::Sparse),
                _ => {}
            }
        }
        Ok(())
    }

    /// Checks a tensor that stands in the file and counts its elements.
    fn weight(&mut self, raw: &RawTensor<'a>, owner: &str) -> Result<Fact, ScanError> {
        let Checked { elements, .. } = raw.check().map_err(|source| {
            let name = if raw.name.is_empty() { owner.to_owned() } else { shown(raw.name) };
            ScanError::Tensor { tensor: name, source }
        })?;
        if raw.is_parameter() {
            self.summary.parameters = self.summary.parameters.saturating_add(elements);
        }
        let ints = if elements <= MAX_KEPT_INTS { raw.ints().map(Into::into) } else { None };
        Ok(Fact { shape: shape::known(&raw.dims), ints })
    }

    /// Inputs come after weights: one that has a weight of its name has a default, and is no input to be given.
    fn inputs(&mut self, span: Span<'a>) -> Result<(), ScanError> {
        let main = self.scopes.0.len() == 1;
        let mut seen = Scope::default();
        for field in span.fields() {
            let field = field?;
            if field.number != graph::INPUT {
                continue;
            }
            let claim = Claim::read(field.bytes()?)?;
            if !seen.define(claim.name, Fact::default()) {
                return Err(ScanError::Duplicate { name: shown(claim.name), what: "input" });
            }
            if self.scopes.0.last().is_some_and(|scope| scope.contains(claim.name)) {
                continue;
            }
            if !main {
                // Claims about inner graphs prove nothing.
                self.define(claim.name, "input", Fact::default())?;
                continue;
            }
            let (spec, ranked) = claim.spec("input")?;
            if !ranked {
                let reason = "has no shape: export the model with one, free dimensions included";
                return Err(ScanError::Interface { role: "input", name: shown(claim.name), reason });
            }
            self.define(claim.name, "input", Fact { shape: shape::known(&spec.shape), ints: None })?;
            push(&mut self.summary.inputs, spec, "inputs", self.limits.interface)?;
        }
        Ok(())
    }

    fn outputs(&mut self, span: Span<'a>, owner: &str) -> Result<(), ScanError> {
        let main = self.scopes.0.len() == 1;
        let mut seen = Scope::default();
        for field in span.fields() {
            let field = field?;
            if field.number != graph::OUTPUT {
                continue;
            }
            let claim = Claim::read(field.bytes()?)?;
            if !seen.define(claim.name, Fact::default()) {
                return Err(ScanError::Duplicate { name: shown(claim.name), what: "output" });
            }
            if !self.scopes.sees(claim.name) {
                return Err(ScanError::Unresolved { node: owner.to_owned(), name: shown(claim.name) });
            }
            if main {
                let (spec, _) = claim.spec("output")?;
                if claim.dims().is_none() {
                    self.summary.unranked_outputs.push(claim.name.to_owned());
                }
                push(&mut self.summary.outputs, spec, "outputs", self.limits.interface)?;
            }
        }
        if main && self.summary.outputs.is_empty() {
            let reason = "does not exist: a model has at least one";
            return Err(ScanError::Interface { role: "output", name: String::new(), reason });
        }
        Ok(())
    }

    fn node(&mut self, span: Span<'a>, around: Span<'a>) -> Result<(), ScanError> {
        let node = Node::read(span)?;
        self.count(&node)?;
        for name in node.inputs.iter().filter(|name| !name.is_empty()) {
            if !self.scopes.sees(name) {
                let (node, shown) = (node.shown(), shown(name));
                return Err(if defines(around, name)? {
                    ScanError::Order { node, name: shown }
                } else {
                    ScanError::Unresolved { node, name: shown }
                });
            }
        }
        let constant = self.attributes(&node)?;
        let fact = if node.domain.is_empty() || recurrent::has_weights(node.op) {
            self.follow(&node, constant)?
        } else {
            Fact::default()
        };
        let mut fact = Some(fact);
        for name in &node.outputs {
            let fact = fact.take().unwrap_or_default();
            if !name.is_empty() {
                self.define(name, "tensor", fact)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, node: &Node<'a>) -> Result<(), ScanError> {
        self.summary.nodes += 1;
        if self.summary.nodes > self.limits.nodes {
            return Err(ScanError::TooMany { what: "nodes", limit: self.limits.nodes });
        }
        if node.op.is_empty() {
            return Err(ScanError::NoOperator { node: node.shown() });
        }
        self.check_name(node.op)?;
        if !operators::DOMAINS.contains(&node.domain) {
            return Err(ScanError::Domain { node: node.shown(), domain: shown(node.domain) });
        }
        if !self.domains.contains(&node.domain) {
            let bounds = if node.domain.is_empty() { self.limits.opset } else { (1, 100) };
            return Err(ScanError::Opset { domain: operator(node.domain, node.op), version: 0, bounds });
        }
        *self.operators.entry((node.domain, node.op)).or_default() += 1;
        if self.operators.len() > self.limits.operators {
            return Err(ScanError::TooMany { what: "different operators", limit: self.limits.operators });
        }
        self.summary.recurrent |= recurrent::is_recurrent(node.op);
        Ok(())
    }

    /// Checks the attributes and what is inside them; returns what is known of the value of a `Constant`.
    fn attributes(&mut self, node: &Node<'a>) -> Result<Fact, ScanError> {
        let mut constant = Fact::default();
        for (position, attribute) in node.attributes.iter().enumerate() {
            let fault = |reason| ScanError::Attribute {
                node: node.shown(),
                attribute: shown(attribute.name),
                reason,
            };
            attribute.check(node.op).map_err(fault)?;
            if node.attributes.iter().take(position).any(|other| other.name == attribute.name) {
                return Err(fault("stands twice"));
            }
            for span in &attribute.tensors {
                let raw = RawTensor::read(*span)?;
                let fact = self.weight(&raw, &node.shown())?;
                if node.op == "Constant" && attribute.name == "value" {
                    constant = fact;
                }
            }
            for span in &attribute.graphs {
                self.graph(*span, &node.shown())?;
            }
        }
        Ok(constant)
    }

    /// What is known of the node's first output.
    fn follow(&mut self, node: &Node<'a>, constant: Fact) -> Result<Fact, ScanError> {
        if node.op == "Constant" {
            return Ok(constant);
        }
        let mut inputs: Vec<Fact> = node.inputs.iter().take(8).map(|name| self.scopes.fact(name)).collect();
        if recurrent::has_weights(node.op) {
            self.recurrence(node, &mut inputs)?;
        }
        Ok(Fact { shape: node.known(&inputs).output(), ints: None })
    }

    fn recurrence(&mut self, node: &Node<'a>, inputs: &mut [Fact]) -> Result<(), ScanError> {
        let name = node.shown();
        let (features, mut proved) = RecurrentNode {
            node: &name,
            op: node.op,
            inputs,
            hidden_size: node.int("hidden_size"),
            bidirectional: node.is_bidirectional(),
        }
        .check()?;
        let x = node.inputs.first().copied().unwrap_or_default();
        if !proved && let Some(features) = features {
            proved = fix_features(&mut self.summary.inputs, x, features);
        }
        self.summary.recurrences.push(Recurrence {
            node: name,
            operator: node.op.to_owned(),
            input: x.to_owned(),
            features,
            proved,
        });
        Ok(())
    }

    fn define(&mut self, name: &'a str, what: &'static str, fact: Fact) -> Result<(), ScanError> {
        if name.is_empty() {
            return Err(ScanError::NoName { what });
        }
        self.check_name(name)?;
        self.names += 1;
        if self.names > self.limits.names {
            return Err(ScanError::TooMany { what: "names", limit: self.limits.names });
        }
        let hidden = self.scopes.sees(name);
        let new = self.scopes.innermost().is_some_and(|scope| scope.define(name, fact));
        if new && !hidden { Ok(()) } else { Err(ScanError::Duplicate { name: shown(name), what }) }
    }

    fn check_name(&self, name: &str) -> Result<(), ScanError> {
        let limit = self.limits.name_bytes;
        if name.len() > limit {
            return Err(ScanError::LongName { name: shown(name), bytes: name.len(), limit });
        }
        Ok(())
    }
}

/// Where the recurrent input is an input of the model whose last dimension is free, the weights fix it.
fn fix_features(inputs: &mut [TensorSpec], name: &str, features: u64) -> bool {
    let input = inputs.iter_mut().find(|input| input.name == name);
    let last = input.and_then(|input| input.shape.last_mut()).filter(|last| **last < 0);
    match (last, i64::try_from(features)) {
        (Some(last), Ok(features)) => {
            *last = features;
            true
        }
        _ => false,
    }
}

/// Whether any node of the graph has an output `name`; only asked once a fault is certain.
fn defines(graph: Span<'_>, name: &str) -> Result<bool, WireError> {
    for field in graph.fields() {
        let field = field?;
        if field.number != graph::NODE {
            continue;
        }
        for part in field.bytes()?.fields() {
            let part = part?;
            if part.number == node::OUTPUT && part.bytes()?.bytes == name.as_bytes() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn operator(domain: &str, op: &str) -> String {
    if domain.is_empty() { shown(op) } else { format!("{domain}:{}", shown(op)) }
}

fn push<T>(list: &mut Vec<T>, item: T, what: &'static str, limit: usize) -> Result<(), ScanError> {
    if list.len() == limit {
        return Err(ScanError::TooMany { what, limit });
    }
    list.push(item);
    Ok(())
}

impl RawTensor<'_> {
    fn is_parameter(&self) -> bool {
        // Everything but INT32, INT64, STRING, BOOL, UINT32, UINT64.
        !matches!(self.number, 6..=9 | 12 | 13)
    }

    /// The elements of a 64-bit integer tensor with raw or packed data.
    fn ints(&self) -> Option<Vec<i64>> {
        const INT64: u64 = 7;
        if self.number == INT64 { tensor::int64s(self) } else { None }
    }
}
