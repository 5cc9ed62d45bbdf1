//! Steps that only move elements: joins, slices, transposes, broadcasts.

use agentd_plan::{Fact, Node, ValueId, op::Slice};

use super::{Lowering, elementwise::strides};
use crate::step::{Axis, Copy, Map, Operand, Step};

/// Floats of an element, where it is a whole number of them.
pub(super) fn words(fact: &Fact) -> Option<usize> {
    let size = fact.datatype.size()?;
    (size % size_of::<f32>() == 0).then_some(size / size_of::<f32>())
}

/// Row-major distances of a shape.
pub(super) fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut step = 1;
    let mut strides: Vec<usize> = shape
        .iter()
        .rev()
        .map(|dim| {
            let here = step;
            step *= dim;
            here
        })
        .collect();
    strides.reverse();
    strides
}

impl Lowering<'_> {
    /// Copies `shape` elements with these distances, merging axes where both sides allow it.
    pub(super) fn copy(
        &mut self,
        from: Operand,
        to: crate::step::At,
        shape: &[usize],
        distances: (&[usize], &[usize]),
        words: usize,
    ) {
        let mut axes: Vec<Axis> = Vec::new();
        let mut add = |count: usize, a: usize, out: usize| match axes.last_mut() {
            _ if count == 1 => {}
            Some(inner) if a == inner.a * inner.count && out == inner.out * inner.count => {
                inner.count *= count
            }
            _ => axes.push(Axis { count, a, b: 0, out }),
        };
        add(words, 1, 1);
        for ((count, a), out) in shape.iter().zip(distances.0).zip(distances.1).rev() {
            add(*count, a * words, out * words);
        }
        if axes.is_empty() {
            axes.push(Axis { count: 1, a: 1, b: 0, out: 1 });
        }
        axes.reverse();
        self.push(Step::Copy(Box::new(Copy { from, to, axes })));
    }

    pub(super) fn reshape(&mut self, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        if self.graph.value(x).constant.is_some() {
            return None;
        }
        let at = self.plain(x);
        self.form_mut(output)?.plain = Some(at);
        Some(())
    }

    pub(super) fn transpose(&mut self, perm: &[usize], node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let words = words(self.fact(x))?;
        let from = row_major(&self.fact(x).shape);
        let from: Vec<usize> = perm.iter().filter_map(|axis| from.get(*axis).copied()).collect();
        let shape = &self.fact(output).shape;
        let (source, to) = (self.operand(x), self.new_plain(output));
        self.copy(source, to, shape, (&from, &row_major(shape)), words);
        Some(())
    }

    pub(super) fn slice(&mut self, slice: &Slice, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let words = words(self.fact(x))?;
        let strides = row_major(&self.fact(x).shape);
        let (mut from, mut start) = (Vec::new(), 0);
        for ((stride, step), first) in strides.iter().zip(&slice.steps).zip(&slice.starts) {
            from.push(stride * usize::try_from(*step).ok()?);
            start += stride * first;
        }
        let shape = &self.fact(output).shape;
        let source = Self::operand_plus(self.operand(x), start * words);
        let to = self.new_plain(output);
        self.copy(source, to, shape, (&from, &row_major(shape)), words);
        Some(())
    }

    pub(super) fn expand(&mut self, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let words = words(self.fact(x))?;
        let shape = &self.fact(output).shape;
        let from = strides(&self.fact(x).shape, shape)?;
        let (source, to) = (self.operand(x), self.new_plain(output));
        self.copy(source, to, shape, (&from, &row_major(shape)), words);
        Some(())
    }

    pub(super) fn concat(&mut self, axis: usize, node: &Node) -> Option<()> {
        let output = *node.outputs.first()?;
        let need = self.needs.get(output.index())?;
        if need.spatial && self.all_in_blocks(node) {
            return self.join_maps(node, output);
        }
        let shape = &self.fact(output).shape;
        let words = words(self.fact(output))?;
        let mut sources = Vec::new();
        for id in &node.inputs {
            sources.push(((*id)?, self.operand((*id)?)));
        }
        let to = self.new_plain(output);
        let strides = row_major(shape);
        let mut first = 0;
        for (id, source) in sources {
            let part = &self.fact(id).shape;
            let at = to.plus(first * strides.get(axis).copied().unwrap_or(0) * words);
            first += part.get(axis).copied().unwrap_or(0);
            if !part.contains(&0) {
                self.copy(source, at, part, (&row_major(part), &strides), words);
            }
        }
        Some(())
    }

    /// Whether each input of a join starts at a whole block.
    fn all_in_blocks(&self, node: &Node) -> bool {
        let mut first = 0;
        node.inputs.iter().flatten().all(|id| {
            let starts = first % self.kernels.lanes == 0;
            first += self.fact(*id).shape.get(1).copied().unwrap_or(0);
            starts && !self.fact(*id).shape.contains(&0)
        })
    }

    /// Joins maps along the channels: those written in place need nothing more.
    fn join_maps(&mut self, node: &Node, output: ValueId) -> Option<()> {
        let mut inputs = Vec::new();
        for id in node.inputs.iter().flatten() {
            inputs.push(self.map(*id)?);
        }
        let whole = self.new_map(output)?;
        let mut first = 0;
        for from in inputs {
            let at = whole.at.plus(first / whole.lanes * whole.block);
            first += from.channels;
            if from.at != at {
                let to = Map { at, channels: from.channels, ..whole };
                self.push(Step::Reorder { from, to });
            }
        }
        Some(())
    }
}
