//! Elements by index: gathers, padding, repetition, slices backwards.

use agentd_plan::{
    Node, ValueId,
    op::{Pad, Slice, movement::PadMode},
};
use agentd_types::Datatype;

use super::{
    Lowering,
    movement::{row_major, words},
};
use crate::step::{At, Axis, Copy, Gather, Operand, Source, Step};

/// An axis of a value with what lies before and after it, in floats.
#[derive(Clone, Copy)]
struct Cut {
    outer: usize,
    size: usize,
    inner: usize,
}

impl Cut {
    fn new(shape: &[usize], axis: usize, words: usize) -> Option<Self> {
        let (before, rest) = shape.split_at_checked(axis)?;
        let (size, after) = rest.split_first()?;
        let inner = after.iter().product::<usize>() * words;
        Some(Self { outer: before.iter().product(), size: *size, inner })
    }
}

impl Lowering<'_> {
    pub(super) fn gather(&mut self, axis: usize, node: &Node) -> Option<()> {
        let (x, indices) = (node.inputs.first().copied()??, node.inputs.get(1).copied()??);
        let output = *node.outputs.first()?;
        let cut = Cut::new(&self.fact(x).shape, axis, words(self.fact(x))?)?;
        let wide = match self.fact(indices).datatype {
            Datatype::Int64 => true,
            Datatype::Int32 => false,
            _ => return None,
        };
        if let Some(places) = self.places(indices, cut.size) {
            let from = if self.graph.value(x).constant.is_some() { None } else { Some(self.plain(x)) };
            if let (Some(from), [place]) = (from, places.as_slice()) {
                // One slice, as it lies there.
                let to = self.new_plain(output);
                let from = Operand::Buffer(from.plus(place * cut.inner));
                let length = cut.inner;
                self.copy_rows(from, to, (cut.outer, cut.size * cut.inner, length), length);
                return Some(());
            }
        }
        let count = self.fact(indices).elements();
        let from = match self.constant_of(Some(x)) {
            Some(_) => Source::Value(x.index()),
            None => Source::Operand(self.operand(x)),
        };
        let (indices, to) = (self.operand(indices), self.new_plain(output));
        let Cut { outer, size, inner } = cut;
        let node = self.node;
        let step = Gather { from, outer, size, inner, indices, wide, count, to, node };
        self.push(Step::Gather(Box::new(step)));
        Some(())
    }

    /// The places that constant indices name, if all of them exist.
    fn places(&self, indices: ValueId, size: usize) -> Option<Vec<usize>> {
        let place = |index: &i64| {
            let place = if *index < 0 { index.checked_add(i64::try_from(size).ok()?)? } else { *index };
            usize::try_from(place).ok().filter(|place| *place < size)
        };
        self.graph.value(indices).constant.as_ref()?.ints().ok()?.iter().map(place).collect()
    }

    /// Slices of an axis in an order that is known now.
    fn take(&mut self, from: Source, cut: Cut, places: &[usize], to: At) {
        #[expect(clippy::cast_possible_truncation, reason = "a value has fewer than 2^30 elements")]
        let bits: Vec<f32> = places.iter().map(|place| f32::from_bits(*place as u32)).collect();
        let indices = Operand::Constant(self.constants(&bits));
        let Cut { outer, size, inner } = cut;
        let (count, node) = (places.len(), self.node);
        let step = Gather { from, outer, size, inner, indices, wide: false, count, to, node };
        self.push(Step::Gather(Box::new(step)));
    }

    pub(super) fn pad(&mut self, pad: &Pad, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let words = words(self.fact(x))?;
        if self.fact(x).elements() == 0 {
            return None;
        }
        match pad.mode {
            PadMode::Constant => {
                self.pad_with(pad, node.inputs.get(1).copied().flatten(), (x, output), words)
            }
            _ => self.pad_from_within(pad, (x, output), words),
        }
    }

    /// The fill everywhere, then the part of x that stays.
    fn pad_with(
        &mut self,
        pad: &Pad,
        fill: Option<ValueId>,
        (x, output): (ValueId, ValueId),
        words: usize,
    ) -> Option<()> {
        let (from, shape) = (&self.fact(x).shape, &self.fact(output).shape);
        let (mut size, mut first, mut start) = (Vec::new(), 0, 0);
        let strides = (row_major(from), row_major(shape));
        for (axis, (before, after)) in pad.before.iter().zip(&pad.after).enumerate() {
            let cut = |amount: isize| usize::try_from(-amount).unwrap_or(0);
            let length = from.get(axis)?.checked_sub(cut(*before))?.checked_sub(cut(*after))?;
            size.push(length);
            first += cut(*before) * strides.0.get(axis)?;
            start += usize::try_from(*before).unwrap_or(0) * strides.1.get(axis)?;
        }
        let fill = match fill {
            Some(id) => self.operand(id),
            None => Operand::Constant(0),
        };
        let source = Self::operand_plus(self.operand(x), first * words);
        let to = self.new_plain(output);
        let all = self.fact(output).elements();
        let axes =
            vec![Axis { count: all, a: 0, b: 0, out: words }, Axis { count: words, a: 1, b: 0, out: 1 }];
        let axes = if words == 1 { vec![Axis { count: all, a: 0, b: 0, out: 1 }] } else { axes };
        self.push(Step::Copy(Box::new(Copy { from: fill, to, axes })));
        if !size.contains(&0) {
            self.copy(source, to.plus(start * words), &size, (&strides.0, &strides.1), words);
        }
        Some(())
    }

    /// Axis by axis, the last one first.
    fn pad_from_within(&mut self, pad: &Pad, (x, output): (ValueId, ValueId), words: usize) -> Option<()> {
        let mut shape = self.fact(x).shape.clone();
        let mut changed: Vec<usize> = (0..shape.len())
            .filter(|axis| pad.before.get(*axis) != Some(&0) || pad.after.get(*axis) != Some(&0))
            .collect();
        if changed.is_empty() {
            changed.push(shape.len().checked_sub(1)?);
        }
        let mut from = Source::Operand(self.operand(x));
        for (turn, axis) in changed.iter().enumerate().rev() {
            let cut = Cut::new(&shape, *axis, words)?;
            let length = *self.fact(output).shape.get(*axis)?;
            let places: Vec<usize> = (0..length)
                .map(|at| pad.source(at, *pad.before.get(*axis)?, cut.size))
                .collect::<Option<_>>()?;
            *shape.get_mut(*axis)? = length;
            let floats = shape.iter().product::<usize>().checked_mul(words)?;
            let to = if turn == 0 { self.new_plain(output) } else { self.buffer(floats) };
            self.take(from, cut, &places, to);
            from = Source::Operand(Operand::Buffer(to));
        }
        Some(())
    }

    /// Each axis becomes two, of which the first stands still.
    pub(super) fn tile(&mut self, repeats: &[usize], node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let words = words(self.fact(x))?;
        let (from, to) = (row_major(&self.fact(x).shape), row_major(&self.fact(output).shape));
        let (mut shape, mut steps, mut out) = (Vec::new(), Vec::new(), Vec::new());
        for (axis, dim) in self.fact(x).shape.iter().enumerate() {
            shape.extend([*repeats.get(axis)?, *dim]);
            steps.extend([0, *from.get(axis)?]);
            out.extend([to.get(axis)? * dim, *to.get(axis)?]);
        }
        let (source, to) = (self.operand(x), self.new_plain(output));
        self.copy(source, to, &shape, (&steps, &out), words);
        Some(())
    }

    /// A slice of which some axes run backwards or in jumps: axis by axis, the last one first.
    pub(super) fn slice_backwards(&mut self, slice: &Slice, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let words = words(self.fact(x))?;
        let mut shape = self.fact(x).shape.clone();
        let wanted = &self.fact(output).shape;
        let changed: Vec<usize> = (0..shape.len())
            .filter(|axis| shape.get(*axis) != wanted.get(*axis) || slice.steps.get(*axis) != Some(&1))
            .collect();
        let mut from = Source::Operand(self.operand(x));
        for (turn, axis) in changed.iter().enumerate().rev() {
            let cut = Cut::new(&shape, *axis, words)?;
            let (start, step) = (*slice.starts.get(*axis)?, *slice.steps.get(*axis)?);
            let length = *wanted.get(*axis)?;
            let places: Vec<usize> = (0..length.cast_signed())
                .map(|at| start.checked_add_signed(at.checked_mul(step)?))
                .collect::<Option<_>>()?;
            *shape.get_mut(*axis)? = length;
            let floats = shape.iter().product::<usize>().checked_mul(words)?;
            let to = if turn == 0 { self.new_plain(output) } else { self.buffer(floats) };
            self.take(from, cut, &places, to);
            from = Source::Operand(Operand::Buffer(to));
        }
        (!changed.is_empty()).then_some(())
    }
}
