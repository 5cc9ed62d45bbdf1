//! One node at import: what it takes, its attributes, and how to write its meaning down.

use agentd_onnx::read::{self, Node, Value};
use agentd_types::Datatype;

use super::{Binding, Importer, tensor};
use crate::{
    array::{Array, Element, Fact},
    error::PlanError,
    graph::ValueId,
    op::{Binary, Cast, Op, Reshape, Transpose, Unary},
    shape,
};

/// What a family makes of a node: its outputs, or `None` when the operator is not of the family.
pub(crate) type Found = Result<Option<Vec<Binding>>, PlanError>;

/// A family's import.
type Family = for<'i, 'a, 'm> fn(&mut Site<'i, 'a, 'm>) -> Found;

/// A node that is being imported.
pub(crate) struct Site<'i, 'a, 'm> {
    pub(crate) importer: &'i mut Importer<'a, 'm>,
    pub(crate) node: &'i Node<'a>,
    pub(crate) inputs: Vec<Option<Binding>>,
    /// The version of the operator's domain.
    pub(crate) version: i64,
    pub(crate) shown: &'i str,
}

impl<'a> Site<'_, 'a, '_> {
    /// The node's outputs.
    pub(crate) fn import(mut self) -> Result<Vec<Binding>, PlanError> {
        let families: &[Family] = match self.node.domain {
            "" => &[
                super::elementwise::import,
                super::linear::import,
                super::movement::import,
                super::reduce::import,
                super::norm::import,
                super::constant::import,
                super::quantize::import,
                super::recurrent::import,
                super::control::import,
                super::sequence::import,
                super::vision::import,
                super::signal::import,
                super::text::import,
                super::attention::import,
            ],
            "ai.onnx.ml" => &[super::ml::import],
            "com.microsoft" => &[
                super::microsoft::import,
                super::quantize::import,
                super::elementwise::import,
                super::attention::import,
            ],
            _ => &[],
        };
        for family in families {
            if let Some(outputs) = family(&mut self)? {
                return Ok(outputs);
            }
        }
        let domain = if self.node.domain.is_empty() { "ai.onnx" } else { self.node.domain };
        Err(PlanError::unsupported(format!("operator {domain}:{}", self.node.operator)))
    }

    /// How many inputs the node names, absent ones at the end left out.
    pub(crate) fn len(&self) -> usize {
        self.inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1)
    }

    /// Whether somebody needs output `index`.
    pub(crate) fn wants(&self, index: usize) -> bool {
        self.node.outputs.get(index).is_some_and(|name| !name.is_empty())
    }

    /// The tensor at input `index`; `None` when absent.
    pub(crate) fn maybe(&self, index: usize) -> Option<ValueId> {
        match self.inputs.get(index) {
            Some(Some(Binding::Tensor(id))) => Some(*id),
            _ => None,
        }
    }

    /// The tensor at input `index`.
    pub(crate) fn id(&self, index: usize) -> Result<ValueId, PlanError> {
        self.maybe(index).ok_or_else(|| PlanError::Graph(format!("input {index} is missing, or no tensor")))
    }

    /// All inputs, which must be tensors.
    pub(crate) fn ids(&self) -> Result<Vec<ValueId>, PlanError> {
        (0..self.len()).map(|index| self.id(index)).collect()
    }

    /// Datatype and shape of a value.
    pub(crate) fn fact_of(&self, id: ValueId) -> Result<Fact, PlanError> {
        Ok(self.importer.builder.get(id)?.fact.clone())
    }

    /// Datatype and shape of input `index`.
    pub(crate) fn fact(&self, index: usize) -> Result<Fact, PlanError> {
        self.fact_of(self.id(index)?)
    }

    /// How many dimensions input `index` has.
    pub(crate) fn rank(&self, index: usize) -> Result<usize, PlanError> {
        Ok(self.fact(index)?.rank())
    }

    /// The elements of a value, when it is a constant.
    pub(crate) fn known(&self, id: ValueId) -> Option<Array> {
        self.importer.builder.get(id).ok()?.constant.clone()
    }

    /// The elements of input `index`, which must be constant; `None` when absent.
    pub(crate) fn maybe_constant(&self, index: usize) -> Result<Option<Array>, PlanError> {
        let Some(id) = self.maybe(index) else { return Ok(None) };
        let unknown = || PlanError::DataDependent(format!("input {index} of {}", self.node.operator));
        self.known(id).map(Some).ok_or_else(unknown)
    }

    /// The elements of input `index`, which must be constant.
    pub(crate) fn constant(&self, index: usize) -> Result<Array, PlanError> {
        self.maybe_constant(index)?.ok_or_else(|| PlanError::Graph(format!("input {index} is missing")))
    }

    /// Integers that are an attribute in old versions and input `index` in new ones.
    pub(crate) fn ints_at(&self, index: usize, name: &str) -> Result<Option<Vec<i64>>, PlanError> {
        match self.ints(name)? {
            Some(ints) => Ok(Some(ints)),
            None => self.maybe_constant(index)?.map(|array| array.ints()).transpose(),
        }
    }

    fn attribute(&self, name: &str) -> Option<&Value<'a>> {
        self.node.attributes.iter().find(|attribute| attribute.name == name).map(|attribute| &attribute.value)
    }

    fn wrong(&self, name: &str) -> PlanError {
        PlanError::attribute(format!("attribute `{name}` of {} is of another kind", self.node.operator))
    }

    /// Whether the node has an attribute.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// A whole number.
    pub(crate) fn maybe_int(&self, name: &str) -> Result<Option<i64>, PlanError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Value::Int(int)) => Ok(Some(*int)),
            Some(_) => Err(self.wrong(name)),
        }
    }

    /// A whole number with a default.
    pub(crate) fn int(&self, name: &str, default: i64) -> Result<i64, PlanError> {
        Ok(self.maybe_int(name)?.unwrap_or(default))
    }

    /// A whole number that is no negative.
    pub(crate) fn size(&self, name: &str, default: i64) -> Result<usize, PlanError> {
        let size = self.int(name, default)?;
        usize::try_from(size).map_err(|_| PlanError::attribute(format!("`{name}` is {size}")))
    }

    /// Whether a number is not 0.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, PlanError> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    /// A number with a default.
    pub(crate) fn float(&self, name: &str, default: f32) -> Result<f32, PlanError> {
        match self.attribute(name) {
            None => Ok(default),
            Some(Value::Float(float)) => Ok(*float),
            Some(_) => Err(self.wrong(name)),
        }
    }

    /// A text with a default.
    pub(crate) fn text(&self, name: &str, default: &str) -> Result<String, PlanError> {
        match self.attribute(name) {
            None => Ok(default.to_owned()),
            Some(Value::Text(text)) => Ok(String::from_utf8_lossy(text).into_owned()),
            Some(_) => Err(self.wrong(name)),
        }
    }

    /// Whole numbers.
    pub(crate) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, PlanError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Value::Ints(ints)) => Ok(Some(ints.clone())),
            Some(_) => Err(self.wrong(name)),
        }
    }

    /// Numbers.
    pub(crate) fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, PlanError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Value::Floats(floats)) => Ok(Some(floats.clone())),
            Some(_) => Err(self.wrong(name)),
        }
    }

    /// Texts.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<Vec<u8>>>, PlanError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts.iter().map(|text| text.to_vec()).collect())),
            Some(_) => Err(self.wrong(name)),
        }
    }

    /// A tensor.
    pub(crate) fn tensor(&self, name: &str) -> Result<Option<Array>, PlanError> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Value::Tensor(tensor)) => tensor::array(tensor).map(Some),
            Some(_) => Err(self.wrong(name)),
        }
    }

    /// A graph.
    pub(crate) fn graph(&self, name: &str) -> Result<read::Graph<'a>, PlanError> {
        match self.attribute(name) {
            Some(Value::Graph(graph)) => Ok((**graph).clone()),
            _ => Err(self.wrong(name)),
        }
    }

    /// An axis attribute as an index.
    pub(crate) fn axis(&self, default: i64, rank: usize) -> Result<usize, PlanError> {
        shape::axis(self.int("axis", default)?, rank)
    }

    // Writing down.

    /// Adds a node; all its outputs.
    pub(crate) fn emit(
        &mut self,
        op: impl Into<Op>,
        inputs: &[Option<ValueId>],
    ) -> Result<Vec<ValueId>, PlanError> {
        self.importer.emit(op.into(), inputs, self.shown)
    }

    /// Adds a node with present inputs; its first output.
    pub(crate) fn one(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId, PlanError> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let outputs = self.emit(op, &inputs)?;
        outputs.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
    }

    /// Adds a constant.
    pub(crate) fn add(&mut self, array: Array) -> Result<ValueId, PlanError> {
        self.importer.count_repeated(&array)?;
        self.importer.builder.constant("", array)
    }

    /// Counts a constant that is about to be computed here; refuses it when it would be too large.
    pub(crate) fn reserve(&mut self, fact: &Fact) -> Result<(), PlanError> {
        let _count = shape::count(&fact.shape)?;
        self.importer.count_folded(fact.bytes())
    }

    /// Adds one number of a datatype.
    pub(crate) fn number(&mut self, datatype: Datatype, number: f64) -> Result<ValueId, PlanError> {
        self.add(Array::from_reals(datatype, [], vec![number])?)
    }

    /// Adds a list.
    pub(crate) fn list<T: Element>(&mut self, items: Vec<T>) -> Result<ValueId, PlanError> {
        self.add(Array::list(items))
    }

    pub(crate) fn unary(&mut self, function: Unary, x: ValueId) -> Result<ValueId, PlanError> {
        self.one(function, &[x])
    }

    pub(crate) fn binary(&mut self, function: Binary, a: ValueId, b: ValueId) -> Result<ValueId, PlanError> {
        self.one(function, &[a, b])
    }

    /// Combines with one number.
    pub(crate) fn with_number(&mut self, function: Binary, a: ValueId, b: f64) -> Result<ValueId, PlanError> {
        let b = self.number(self.fact_of(a)?.datatype, b)?;
        self.binary(function, a, b)
    }

    pub(crate) fn reshape(&mut self, x: ValueId, shape: impl Into<Vec<usize>>) -> Result<ValueId, PlanError> {
        let shape = shape.into();
        if self.fact_of(x)?.shape == shape {
            return Ok(x);
        }
        self.one(Reshape { shape }, &[x])
    }

    pub(crate) fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId, PlanError> {
        if perm.iter().copied().eq(0..self.fact_of(x)?.rank()) {
            return Ok(x);
        }
        self.one(Transpose { perm: perm.to_vec() }, &[x])
    }

    pub(crate) fn cast(&mut self, x: ValueId, to: Datatype) -> Result<ValueId, PlanError> {
        if self.fact_of(x)?.datatype == to {
            return Ok(x);
        }
        self.one(Cast { to }, &[x])
    }
}

/// The one output that most operators have.
pub(crate) fn found(id: ValueId) -> Found {
    Ok(Some(vec![id.into()]))
}

/// Several outputs.
pub(crate) fn all(ids: Vec<ValueId>) -> Found {
    Ok(Some(ids.into_iter().map(Binding::from).collect()))
}
