//! Weights, biases and scales of products of integers.

use agentd_plan::{Array, Node, ValueId};
use agentd_types::Datatype;

use super::Lowering;
use crate::{
    pack,
    step::integer::{Factors, Requantise},
};

/// Weights less their zero points, `[columns][inner]` or `[inner][columns]`.
pub(super) struct Weights {
    items: Vec<i16>,
    pub(super) columns: usize,
    /// Factors of a column.
    pub(super) inner: usize,
    /// Whether a column's factors follow each other.
    by_column: bool,
}

impl Weights {
    pub(super) fn get(&self, column: usize, place: usize) -> i32 {
        let at = if self.by_column { column * self.inner + place } else { place * self.columns + column };
        if place < self.inner { self.items.get(at).copied().map_or(0, i32::from) } else { 0 }
    }

    /// The sum of a column.
    pub(super) fn sum(&self, column: usize) -> i32 {
        (0..self.inner).fold(0, |sum: i32, place| sum.wrapping_add(self.get(column, place)))
    }

    /// The sum of a column's magnitudes.
    fn magnitude(&self, column: usize) -> u64 {
        (0..self.inner).map(|place| u64::from(self.get(column, place).unsigned_abs())).sum()
    }
}

impl Lowering<'_> {
    /// Constant 8-bit weights less their zero points, which are one or one a column.
    pub(in crate::lower::integer) fn factors(
        &self,
        w: ValueId,
        zero: Option<ValueId>,
        by_column: bool,
    ) -> Option<Weights> {
        let array = self.graph.value(w).constant.as_ref()?;
        let zeros = match zero {
            Some(id) => eights(self.graph.value(id).constant.as_ref()?)?,
            None => vec![0],
        };
        let mut items = eights(array)?;
        let columns = *if by_column { array.shape().first()? } else { array.shape().last()? };
        let inner = items.len().checked_div(columns)?;
        (inner > 0 && [1, columns].contains(&zeros.len())).then_some(())?;
        let zero = |column: usize| zeros.get(if zeros.len() == 1 { 0 } else { column }).copied().unwrap_or(0);
        if by_column {
            for (column, items) in items.chunks_mut(inner).enumerate() {
                items.iter_mut().for_each(|item| *item -= zero(column));
            }
        } else {
            for items in items.chunks_mut(columns) {
                items.iter_mut().enumerate().for_each(|(column, item)| *item -= zero(column));
            }
        }
        Some(Weights { items, columns, inner, by_column })
    }

    /// The bias of integer sums, if no sum of `factors` with 8-bit numbers and the bias can leave 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "32-bit integers")]
    pub(in crate::lower::integer) fn whole_bias(
        &self,
        bias: Option<ValueId>,
        factors: &Weights,
    ) -> Option<Vec<i32>> {
        let columns = factors.columns;
        let bias: Vec<i32> = match bias {
            Some(id) => {
                let reals = self.graph.value(id).constant.as_ref()?.reals().ok()?;
                reals.into_iter().map(|item| item as i32).collect()
            }
            None => vec![0; columns],
        };
        (bias.len() == columns).then_some(())?;
        let most =
            |(column, bias): (usize, &i32)| u64::from(bias.unsigned_abs()) + 255 * factors.magnitude(column);
        bias.iter().enumerate().map(most).all(|most| most < 1 << 31).then_some(bias)
    }

    /// Integers among the constants, in the order of packed words.
    pub(in crate::lower::integer) fn bias_words(&mut self, bias: &[i32], interleaved: bool) -> usize {
        let bits = |column: usize| f32::from_bits(bias.get(column).copied().unwrap_or(0).cast_unsigned());
        let items = pack::by_pairs(bias.len(), self.kernels.lanes, interleaved, bits);
        self.constants(&items)
    }

    /// Packed products among the constants; groups that read the same words share the list of them.
    pub(in crate::lower::integer) fn packed_words(&mut self, groups: Vec<pack::Group>) -> Vec<Factors> {
        let mut last: Option<(Vec<f32>, usize)> = None;
        let mut placed = Vec::with_capacity(groups.len());
        for group in groups {
            let inner = group.offsets.len();
            let offsets = match &last {
                Some((list, at)) if *list == group.offsets => *at,
                _ => {
                    let at = self.constants(&group.offsets);
                    last = Some((group.offsets, at));
                    at
                }
            };
            placed.push(Factors { offsets, weights: self.constants(&group.weights), inner });
        }
        placed
    }

    /// The factors `scale x * scale w / scale` of a quantised operator, in two parts.
    #[expect(clippy::cast_possible_truncation, reason = "what is lost is kept")]
    pub(in crate::lower::integer) fn requantise(
        &mut self,
        node: &Node,
        columns: usize,
        range: (f32, f32),
    ) -> Option<Requantise> {
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let (x, y) = (self.number(input(1))?, self.number(input(6))?);
        let w = self.graph.value(input(4)?).constant.as_ref()?.reals().ok()?;
        let factor = |column: usize| {
            let w = w.get(if w.len() == 1 { 0 } else { column }).copied().unwrap_or(1.0);
            x * w / y
        };
        let all = (0..columns).all(|column| factor(column).is_finite() && factor(column).abs() < 1e30);
        all.then_some(())?;
        let lanes = self.kernels.lanes;
        let near = pack::by_pairs(columns, lanes, true, |column| factor(column) as f32);
        let rests = pack::by_pairs(columns, lanes, true, |column| {
            let factor = factor(column);
            (factor - f64::from(factor as f32)) as f32
        });
        Some(Requantise { factors: self.constants(&near), rests: self.constants(&rests), range })
    }
}

/// 8-bit integers.
pub(super) fn eights(array: &Array) -> Option<Vec<i16>> {
    match array.datatype() {
        Datatype::Int8 => Some(array.items::<i8>()?.iter().map(|item| i16::from(*item)).collect()),
        Datatype::Uint8 => Some(array.items::<u8>()?.iter().map(|item| i16::from(*item)).collect()),
        _ => None,
    }
}
