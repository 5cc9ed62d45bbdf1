//! Names that are visible inside a graph, and what is known about the tensors behind them.

use std::{collections::HashMap, rc::Rc};

/// Dimensions, -1 for an unknown one; `None` when even their number is unknown.
pub(crate) type Shape = Option<Rc<[i64]>>;

/// What is known about a tensor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fact {
    pub(crate) shape: Shape,
    /// The elements, when it is a short constant list of 64-bit integers.
    pub(crate) ints: Shape,
}

/// The names of one graph.
///
/// Most names come without a fact, so a name costs one number, not one fact.
#[derive(Debug, Default)]
pub(crate) struct Scope<'a> {
    names: HashMap<&'a str, u32>,
    facts: Vec<Fact>,
}

const NOTHING: u32 = u32::MAX;

impl<'a> Scope<'a> {
    /// Defines `name`; `false` when it is defined already.
    pub(crate) fn define(&mut self, name: &'a str, fact: Fact) -> bool {
        let place = if fact.shape.is_none() && fact.ints.is_none() {
            NOTHING
        } else {
            self.facts.push(fact);
            u32::try_from(self.facts.len() - 1).unwrap_or(NOTHING)
        };
        self.names.insert(name, place).is_none()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    fn fact(&self, name: &str) -> Option<&Fact> {
        self.names.get(name).and_then(|place| self.facts.get(usize::try_from(*place).ok()?))
    }
}

/// The graphs around the place that is looked at, the main one first.
#[derive(Debug, Default)]
pub(crate) struct Scopes<'a>(pub(crate) Vec<Scope<'a>>);

impl<'a> Scopes<'a> {
    /// Whether `name` can be used here.
    pub(crate) fn sees(&self, name: &str) -> bool {
        self.0.iter().any(|scope| scope.contains(name))
    }

    /// What is known about `name` here.
    pub(crate) fn fact(&self, name: &str) -> Fact {
        let scope = self.0.iter().rev().find(|scope| scope.contains(name));
        scope.and_then(|scope| scope.fact(name)).cloned().unwrap_or_default()
    }

    pub(crate) fn innermost(&mut self) -> Option<&mut Scope<'a>> {
        self.0.last_mut()
    }
}
