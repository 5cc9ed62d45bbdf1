//! Strict JSON and its one canonical form.
//!
//! In: bytes from anywhere. Out: a [`Value`] that has exactly one spelling, or a [`Reject`]. Nesting is counted
//! before anything recurses; numbers are integers of at most 53 bits; keys are unique.

mod reader;
mod writer;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Cause, Reject};

/// Deepest nesting of objects and lists.
pub const MAX_DEPTH: usize = 16;

/// Largest magnitude of a number, 2^53 - 1.
pub const MAX_INT: i64 = (1 << 53) - 1;

/// A JSON value as signed documents use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer of at most 53 bits.
    Int(i64),
    /// A string of Unicode scalar values.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object; keys in the order of their code points.
    Map(BTreeMap<String, Self>),
}

/// A value that has no canonical form: it holds a fraction, a number beyond 53 bits, or cannot be serialised.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no canonical form: numbers are integers of at most 53 bits")]
pub struct NotCanonical(String);

impl Value {
    /// Reads one JSON text.
    ///
    /// # Errors
    /// `depth`, `json`, `duplicate_key` or `number`.
    pub fn read(text: &[u8]) -> Result<Self, Reject> {
        reader::read(text)
    }

    /// Reads one JSON text that must be its own canonical form.
    ///
    /// # Errors
    /// Those of [`Value::read`], and `canonical`.
    pub fn read_canonical(text: &[u8]) -> Result<Self, Reject> {
        let value = Self::read(text)?;
        match first_difference(text, value.canonical().as_bytes()) {
            None => Ok(value),
            Some(at) => Err(Reject::new(
                Cause::Canonical,
                format!("the payload differs from its canonical form at byte {at}"),
            )),
        }
    }

    /// The canonical text: keys by code point, no blanks, no needless escapes (RFC 8785 for this subset).
    pub fn canonical(&self) -> String {
        writer::write(self)
    }

    /// The value that `document` serialises to.
    ///
    /// # Errors
    /// When it holds a number that is not an integer of at most 53 bits.
    pub fn of<T: Serialize>(document: &T) -> Result<Self, NotCanonical> {
        let value = serde_json::to_value(document).map_err(|error| NotCanonical(error.to_string()))?;
        Self::try_from(value)
    }
}

/// The canonical bytes of a document.
///
/// # Errors
/// When it holds a number that is not an integer of at most 53 bits.
pub fn canonical_bytes<T: Serialize>(document: &T) -> Result<Vec<u8>, NotCanonical> {
    Ok(Value::of(document)?.canonical().into_bytes())
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    if left == right {
        return None;
    }
    let same = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    Some(same)
}

impl TryFrom<serde_json::Value> for Value {
    type Error = NotCanonical;

    fn try_from(value: serde_json::Value) -> Result<Self, NotCanonical> {
        Ok(match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(flag) => Self::Bool(flag),
            serde_json::Value::Number(number) => number
                .as_i64()
                .filter(|n| n.unsigned_abs() <= MAX_INT.unsigned_abs())
                .map(Self::Int)
                .ok_or_else(|| NotCanonical(number.to_string()))?,
            serde_json::Value::String(text) => Self::Text(text),
            serde_json::Value::Array(items) => {
                Self::List(items.into_iter().map(Self::try_from).collect::<Result<_, _>>()?)
            }
            serde_json::Value::Object(fields) => Self::Map(
                fields.into_iter().map(|(key, value)| Ok((key, Self::try_from(value)?))).collect::<Result<
                    _,
                    NotCanonical,
                >>(
                )?,
            ),
        })
    }
}

impl From<Value> for serde_json::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(flag),
            Value::Int(number) => Self::from(number),
            Value::Text(text) => Self::String(text),
            Value::List(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Value::Map(fields) => {
                Self::Object(fields.into_iter().map(|(key, value)| (key, Self::from(value))).collect())
            }
        }
    }
}
