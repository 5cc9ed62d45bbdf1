//! Reductions, softmax and the place of the best along axes of plain values.

use agentd_plan::{
    Node, ValueId,
    op::{ArgReduce, Reduce, Softmax, reduce::ReduceKind},
};

use super::Lowering;
use crate::{
    kernel::along::{Finish, Fold, Kind},
    step::{Along, At, Step},
};

/// How the numbers are taken together, and what is done at the end (a mean divides by 1 here).
const fn fold(kind: ReduceKind) -> Option<(Fold, Finish)> {
    Some(match kind {
        ReduceKind::Sum => (Fold::Sum, Finish::Keep),
        ReduceKind::Mean => (Fold::Sum, Finish::Divide(1.0)),
        ReduceKind::Max => (Fold::Maximum, Finish::Keep),
        ReduceKind::Min => (Fold::Minimum, Finish::Keep),
        ReduceKind::Product => (Fold::Product, Finish::Keep),
        ReduceKind::L1 => (Fold::Magnitudes, Finish::Keep),
        ReduceKind::L2 => (Fold::Squares, Finish::Root),
        ReduceKind::SumSquare => (Fold::Squares, Finish::Keep),
        ReduceKind::LogSum => (Fold::Sum, Finish::Logarithm),
        ReduceKind::LogSumExp => return None,
    })
}

/// Axes as runs of those that stay and those that go, lengths of 1 left out: (whether it goes, its length).
fn runs(shape: &[usize], axes: &[usize]) -> Vec<(bool, usize)> {
    let mut runs: Vec<(bool, usize)> = Vec::new();
    for (axis, dim) in shape.iter().enumerate().filter(|(_, dim)| **dim != 1) {
        let goes = axes.contains(&axis);
        match runs.last_mut() {
            Some((before, length)) if *before == goes => *length *= dim,
            _ => runs.push((goes, *dim)),
        }
    }
    runs
}

/// Lengths before, along and after an axis.
fn around(shape: &[usize], axis: usize) -> Option<(usize, usize, usize)> {
    let (before, rest) = shape.split_at_checked(axis)?;
    let (along, after) = rest.split_first()?;
    Some((before.iter().product(), *along, after.iter().product()))
}

impl Lowering<'_> {
    /// The numbers of a plain value, if it has any.
    fn along(&mut self, x: ValueId) -> Option<At> {
        (self.is_f32(x) && self.fact(x).elements() > 0).then(|| self.plain(x))
    }

    /// One run of axes after the other, from the last on.
    pub(super) fn reduce_plain(&mut self, reduce: &Reduce, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let (mut fold, finish) = fold(reduce.kind)?;
        let shape = &self.fact(x).shape;
        let mut runs = runs(shape, &reduce.axes);
        if !runs.iter().any(|(goes, _)| *goes) {
            runs.push((true, 1));
        }
        let mut input = self.along(x)?;
        let total: usize = runs.iter().filter(|(goes, _)| *goes).map(|(_, length)| length).product();
        #[expect(clippy::cast_precision_loss, reason = "it is a mean")]
        let finish = if let Finish::Divide(_) = finish { Finish::Divide(total as f32) } else { finish };
        let mut left = runs.iter().filter(|(goes, _)| *goes).count();
        for at in (0..runs.len()).rev() {
            let (true, count) = *runs.get(at)? else { continue };
            let product = |runs: &[(bool, usize)]| runs.iter().map(|(_, length)| length).product::<usize>();
            let (outer, inner) = (product(runs.get(..at)?), product(runs.get(at + 1..)?));
            left -= 1;
            let to = if left == 0 { self.new_plain(output) } else { self.buffer(outer.checked_mul(inner)?) };
            let finish = if left == 0 { finish } else { Finish::Keep };
            let kind = Kind::Fold { fold, finish };
            self.push(Step::Along(Along { input, output: to, outer, count, inner, kind }));
            if matches!(fold, Fold::Magnitudes | Fold::Squares) {
                fold = Fold::Sum;
            }
            input = to;
            runs.get_mut(at)?.1 = 1;
        }
        Some(())
    }

    /// Softmax along another axis than the last, or its logarithm.
    pub(super) fn softmax_along(&mut self, softmax: Softmax, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let (outer, count, inner) = around(&self.fact(x).shape, softmax.axis)?;
        let (input, output) = (self.along(x)?, self.new_plain(output));
        let kind = Kind::Softmax { log: softmax.log };
        self.push(Step::Along(Along { input, output, outer, count, inner, kind }));
        Some(())
    }

    pub(super) fn arg_reduce(&mut self, arg: ArgReduce, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let (outer, count, inner) = around(&self.fact(x).shape, arg.axis)?;
        let (input, output) = (self.along(x)?, self.new_plain(output));
        let kind = Kind::Arg { largest: arg.largest, last: arg.last };
        self.push(Step::Along(Along { input, output, outer, count, inner, kind }));
        Some(())
    }
}
