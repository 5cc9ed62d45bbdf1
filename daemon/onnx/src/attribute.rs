//! An attribute of a node: its value, and the bounds in which values of well-known attributes must lie.

use std::ops::RangeInclusive;

use crate::{
    proto::attribute,
    tensor::numbers,
    wire::{Span, Value, WireError},
};

/// So many numbers of a list are kept; longer lists are counted.
const KEPT: usize = 64;
/// No string in an attribute is longer.
pub(crate) const MAX_STRING: usize = 1 << 20;
/// No pooling or convolution window has more taps.
const MAX_TAPS: i64 = 1 << 20;

/// An attribute as it stands in the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attribute<'a> {
    pub(crate) name: &'a str,
    pub(crate) int: Option<i64>,
    pub(crate) text: Option<Span<'a>>,
    pub(crate) tensors: Vec<Span<'a>>,
    pub(crate) graphs: Vec<Span<'a>>,
    /// The first numbers of a list.
    pub(crate) ints: Vec<i64>,
    /// How long the list is.
    pub(crate) int_count: u64,
    longest_string: usize,
    sparse: bool,
    reference: bool,
    /// The one field that holds the value; 0 when there is none.
    field: u32,
    mixed: bool,
    kind: u64,
}

impl<'a> Attribute<'a> {
    /// Reads an `AttributeProto`.
    pub(crate) fn read(span: Span<'a>) -> Result<Self, WireError> {
        let (mut name, mut kind, mut int, mut text, mut one) = (None, None, None, None, None);
        let mut this = Self::default();
        for field in span.fields() {
            let field = field?;
            match field.number {
                attribute::NAME => field.once(&mut name, field.text()?)?,
                attribute::TYPE => field.once(&mut kind, field.varint()?)?,
                attribute::F => field.once(&mut one, ())?,
                attribute::I => field.once(&mut int, field.varint()?.cast_signed())?,
                attribute::S => field.once(&mut text, field.bytes()?)?,
                attribute::T => {
                    field.once(&mut one, ())?;
                    this.tensors.push(field.bytes()?);
                }
                attribute::G => {
                    field.once(&mut one, ())?;
                    this.graphs.push(field.bytes()?);
                }
                attribute::TENSORS => this.tensors.push(field.bytes()?),
                attribute::GRAPHS => this.graphs.push(field.bytes()?),
                attribute::INTS => this.take_ints(field.value)?,
                attribute::STRINGS => {
                    this.longest_string = this.longest_string.max(field.bytes()?.bytes.len());
                }
                attribute::FLOATS => {}
                attribute::REF_ATTR_NAME => this.reference |= !field.bytes()?.bytes.is_empty(),
                attribute::SPARSE_TENSOR | attribute::SPARSE_TENSORS => this.sparse = true,
                _ => continue,
            }
            if is_value(field.number) {
                this.mixed |= this.field != 0 && this.field != field.number;
                this.field = field.number;
            }
        }
        this.name = name.unwrap_or_default();
        this.kind = kind.unwrap_or_default();
        this.int = int;
        this.longest_string = this.longest_string.max(text.map_or(0, |text: Span<'_>| text.bytes.len()));
        this.text = text;
        Ok(this)
    }

    fn take_ints(&mut self, value: Value<'_>) -> Result<(), WireError> {
        numbers(value, &mut |number| {
            self.int_count += 1;
            if self.ints.len() < KEPT {
                self.ints.push(number.cast_signed());
            }
        })
    }

    /// Holds the value against what its name promises, for a node of operator `op`; says what is wrong.
    pub(crate) fn check(&self, op: &str) -> Result<(), &'static str> {
        if self.reference {
            return Err("refers to an attribute of a function");
        }
        if self.sparse {
            return Err("is a sparse tensor, which is not supported");
        }
        let fits = self.kind == 0 || self.field == 0 || field_of(self.kind) == Some(self.field);
        if self.mixed || !fits {
            return Err("carries a value of another kind than it says");
        }
        if self.longest_string > MAX_STRING {
            return Err("holds a string of more than 1 MiB");
        }
        if let Some(value) = self.int
            && let Some(bounds) = int_bounds(self.name)
            && !bounds.contains(&value)
        {
            return Err("is out of bounds");
        }
        if self.field == attribute::INTS { self.check_ints(op) } else { Ok(()) }
    }

    fn check_ints(&self, op: &str) -> Result<(), &'static str> {
        let Some((longest, bounds)) = list_bounds(self.name, op) else { return Ok(()) };
        if self.int_count > longest {
            return Err("is a list that is too long");
        }
        if !self.ints.iter().all(|value| bounds.contains(value)) {
            return Err("holds a number that is out of bounds");
        }
        let product = self.ints.iter().try_fold(1_i64, |product, value| product.checked_mul(*value));
        if self.name == "kernel_shape" && product.is_none_or(|taps| taps > MAX_TAPS) {
            return Err("is a window of more than 2^20 taps");
        }
        if self.name == "perm" && !is_permutation(&self.ints) {
            return Err("is no permutation");
        }
        Ok(())
    }
}

/// Bounds of attributes that are one number; `None` for a name without bounds.
fn int_bounds(name: &str) -> Option<RangeInclusive<i64>> {
    Some(match name {
        "group" | "hidden_size" | "num_heads" | "kv_num_heads" | "num_outputs" | "num_groups" => 1..=1 << 20,
        "axis" | "batch_axis" | "time_axis" => -32..=31,
        "blocksize" => 1..=1 << 12,
        "layout" => 0..=1,
        _ => return None,
    })
}

/// Longest list and bounds of its numbers; `None` for a name without bounds.
fn list_bounds(name: &str, op: &str) -> Option<(u64, RangeInclusive<i64>)> {
    const SIZE: i64 = 1 << 16;
    Some(match name {
        "kernel_shape" | "strides" | "dilations" => (16, 1..=SIZE),
        "pads" if op == "Pad" => (32, -SIZE..=SIZE),
        "pads" => (32, 0..=SIZE),
        "output_padding" => (16, 0..=SIZE),
        "output_shape" => (16, 0..=1 << 24),
        "axes" => (32, -32..=31),
        "perm" => (32, 0..=31),
        _ => return None,
    })
}

fn is_permutation(perm: &[i64]) -> bool {
    let seen = perm.iter().fold(0_u64, |seen, axis| seen | 1 << (axis & 63));
    perm.len() < 64 && seen == (1 << perm.len()) - 1
}

const fn is_value(field: u32) -> bool {
    matches!(field, attribute::F..=attribute::GRAPHS)
}

/// The field that holds a value of kind `kind` (`AttributeProto.AttributeType`).
const fn field_of(kind: u64) -> Option<u32> {
    Some(match kind {
        1 => attribute::F,
        2 => attribute::I,
        3 => attribute::S,
        4 => attribute::T,
        5 => attribute::G,
        6 => attribute::FLOATS,
        7 => attribute::INTS,
        8 => attribute::STRINGS,
        9 => attribute::TENSORS,
        10 => attribute::GRAPHS,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_names_every_axis_once() {
        for (perm, want) in [(&[][..], true), (&[0, 2, 1], true), (&[0, 0, 1], false), (&[1, 2, 3], false)] {
            assert_eq!(is_permutation(perm), want, "{perm:?}");
        }
    }
}
