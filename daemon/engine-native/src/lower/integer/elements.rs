//! What is done to quantised values besides products: pairs, tables, pooling, another shape.

use agentd_plan::{
    Node, ValueId,
    op::{Binary, Pool, Reduce, pool::PoolKind, reduce::ReduceKind},
};

use super::{Kind, Lowering, Words, Zero, limits, range};
use crate::{
    kernel::quantised::maps::PairFunction,
    lower::{convolution::plane, sizes},
    step::{
        self, Halo, Map, Step,
        integer::{Integer, WordPairs},
    },
};

impl Lowering<'_> {
    pub(super) fn quantized_binary(&mut self, function: Binary, node: &Node) -> Option<()> {
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let output = *node.outputs.first()?;
        let pairs = match function {
            Binary::Add => PairFunction::Add,
            Binary::Sub => PairFunction::Subtract,
            Binary::Mul => PairFunction::Multiply,
            Binary::Max => PairFunction::Maximum,
            Binary::Min => PairFunction::Minimum,
            _ => return None,
        };
        let zero = self.zero_of(input(7))?;
        let range = range(self.fact(output).datatype, zero)?;
        let shape = &self.fact(output).shape;
        let part = |lowering: &Self, at: usize| {
            let id = input(at)?;
            Some((id, lowering.zero_of(input(at + 2))?, lowering.scale_of(input(at + 1))?))
        };
        let (mut a, mut b) = (part(self, 0)?, part(self, 3)?);
        if self.fact(a.0).shape != *shape && function != Binary::Sub {
            std::mem::swap(&mut a, &mut b);
        }
        let other = &self.fact(b.0).shape;
        let kind = if shape.len() < 3 { Kind::Rows } else { Kind::Blocks };
        if self.fact(a.0).shape != *shape || (other != shape && !is_one_pixel(other, shape)) {
            return None;
        }
        let lanes = self.kernels.lanes;
        let (from_a, from_b) = (self.words(a.0, kind, a.1)?, self.words(b.0, kind, b.1)?);
        (from_a.lanes == lanes && from_b.lanes == lanes).then_some(())?;
        let scales = [a.2, b.2, self.scale_of(input(6))?];
        let to = self.new_words(output, kind)?;
        let flat = |map: Map| Words { map, kind, zero: Zero::Known(0), scale: 1.0, bytes: None }.flat();
        let (from_a, from_b, flat_to) = (flat(from_a), flat(from_b), flat(to));
        let step = WordPairs { a: from_a, b: from_b, output: flat_to, scales, range, function: pairs };
        self.push(Step::Integer(Integer::Pairs(Box::new(step))));
        self.set_integers(output, to, kind, zero)
    }

    pub(super) fn lookup(&mut self, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let table = node.inputs.get(1).copied().flatten()?;
        let kind = match self.form(x).words {
            Some(words) => words.kind,
            None if self.fact(x).rank() < 3 => Kind::Rows,
            None => Kind::Blocks,
        };
        let before = match self.form(x).words.map(|words| words.zero) {
            Some(Zero::Known(before)) => before,
            _ => 0,
        };
        let map = self.words(x, kind, before)?;
        (map.lanes == self.kernels.lanes).then_some(())?;
        let zero = self.reader_zero(output);
        let table = self.table(table, before, zero)?;
        let to = self.new_words(output, kind)?;
        let flat = |map: Map| Words { map, kind, zero: Zero::Known(0), scale: 1.0, bytes: None }.flat();
        self.push(Step::Integer(Integer::Table { input: flat(map), output: flat(to), table }));
        self.set_integers(output, to, kind, zero)
    }

    /// A maximum of quantised values is one of them; a mean over whole maps is a sum of integers.
    pub(super) fn word_pool(&mut self, pool: &Pool, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let words = self.form(x).words.filter(|words| words.kind == Kind::Blocks)?;
        pool.indices.is_none().then_some(())?;
        let plane = plane(&pool.window)?;
        let (images, channels, rows, columns) = sizes(&self.fact(x).shape)?;
        if let PoolKind::Average { .. } = pool.kind {
            let whole = plane.taps == (rows, columns)
                && plane.padding == (0, 0)
                && plane.dilations == (1, 1)
                && sizes(&self.fact(output).shape)? == (images, channels, 1, 1);
            return (whole && self.is_f32(x)).then(|| self.word_mean(words, output))?;
        }
        (pool.kind == PoolKind::Max && words.map.lanes == self.kernels.lanes).then_some(())?;
        // A window that lies outside the map altogether would have no maximum.
        let inside = plane.padding.0 < plane.taps.0.max(1) * plane.dilations.0.max(1)
            && plane.padding.1 < plane.taps.1.max(1) * plane.dilations.1.max(1);
        inside.then_some(())?;
        let to = self.new_words(output, Kind::Blocks)?;
        let step = step::Pool { input: words.map, output: to, maximum: true, plane, divisor: 0.0 };
        self.push(Step::Integer(Integer::Largest(Box::new(step))));
        self.set_words(output, Words { map: to, bytes: None, ..words })
    }

    /// Quantised values joined along whole blocks of channels.
    pub(super) fn word_concat(&mut self, node: &Node) -> Option<()> {
        let output = *node.outputs.first()?;
        limits(self.fact(output).datatype)?;
        let pair = 2 * self.kernels.lanes;
        let (zero, mut first, mut parts) = (self.reader_zero(output), 0, Vec::new());
        for id in &node.inputs {
            let (_, channels, ..) = sizes(&self.fact((*id)?).shape)?;
            (first % pair == 0).then_some(())?;
            parts.push(((*id)?, first));
            first += channels;
        }
        let mut maps = Vec::new();
        for (id, first) in parts {
            let map = self.words(id, Kind::Blocks, zero)?;
            (map.lanes == self.kernels.lanes).then_some(())?;
            maps.push((map, first));
        }
        let whole = self.new_words(output, Kind::Blocks)?;
        for (from, first) in maps {
            let at = whole.at.plus(first / pair * whole.block);
            self.push(Step::Reorder { from, to: Map { at, channels: from.channels, ..whole } });
        }
        self.set_integers(output, whole, Kind::Blocks, zero)
    }

    pub(super) fn word_reduce(&mut self, reduce: &Reduce, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let words = self.form(x).words.filter(|words| words.kind == Kind::Blocks)?;
        let rank = self.fact(x).rank();
        let whole = reduce.kind == ReduceKind::Mean && reduce.axes == (2..rank).collect::<Vec<_>>();
        (whole && self.is_f32(x)).then_some(())?;
        self.word_mean(words, output)
    }

    fn word_mean(&mut self, words: Words, output: ValueId) -> Option<()> {
        let input = words.map;
        let pixels = input.rows.checked_mul(input.columns)?;
        let channels = *self.fact(output).shape.get(1)?;
        (input.lanes == self.kernels.lanes && pixels < 1 << 23).then_some(())?;
        let output = self.new_plain(output);
        self.push(Step::Integer(Integer::Mean { input, output, channels, scale: words.scale }));
        Some(())
    }

    /// One pixel of blocks is a row of words.
    pub(super) fn word_reshape(&mut self, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let words = self.form(x).words?;
        let (shape, wanted) = (&self.fact(x).shape, &self.fact(output).shape);
        if shape == wanted {
            return self.set_words(output, words);
        }
        let (images, channels, rows, columns) = sizes(shape)?;
        let map = words.map;
        let fits = words.kind == Kind::Blocks
            && (rows, columns) == (1, 1)
            && wanted.len() == 2
            && *wanted == [images, channels]
            && map.block == map.lanes
            && map.lanes == self.kernels.lanes;
        fits.then_some(())?;
        let row = images.checked_mul(map.image)?;
        let map = Map {
            images: 1,
            columns: images,
            pixel: map.image,
            row,
            image: row,
            halo: Halo::default(),
            ..map
        };
        self.set_words(output, Words { map, kind: Kind::Rows, bytes: None, ..words })
    }
}

/// Whether a value of shape `other` has one number for each channel of `shape`.
fn is_one_pixel(other: &[usize], shape: &[usize]) -> bool {
    let (Some((images, channels, ..)), Some(found)) = (sizes(shape), sizes(other)) else { return false };
    found == (images, channels, 1, 1) && other.len() == shape.len()
}
