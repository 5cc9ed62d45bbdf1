//! Which part of a step a thread does.

use std::ops::Range;

use crate::step::{
    Map, Step,
    integer::{Integer, Product},
};

/// Operations below which a step is not worth a meeting of threads.
const LEAST: usize = 40_000;

/// Operations that one visit of a float is counted as.
const VISIT: usize = 4;

/// Which of the threads that work on a step this one is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) index: usize,
    pub(super) count: usize,
}

impl Share {
    /// Which of `all` pieces of work are this thread's.
    pub(super) const fn of(self, all: usize) -> Range<usize> {
        let (index, count) = (self.index as u128, self.count as u128);
        // Both are at most `all`.
        (all as u128 * index / count) as usize..(all as u128 * (index + 1) / count) as usize
    }
}

/// Whether several threads do a step together; otherwise the first one does it.
pub(super) fn is_shared(step: &Step) -> bool {
    let visits = |map: &Map| map.images * map.channels * map.rows * map.columns * VISIT;
    let work = match step {
        Step::Convolve(_) | Step::Winograd(_) | Step::Depthwise(_) => {
            usize::try_from(step.multiply_adds()).unwrap_or(usize::MAX)
        }
        Step::Pool(p) => visits(&p.output) * p.plane.count() / VISIT,
        Step::Whole { input: map, .. }
        | Step::MapFunction { input: map, .. }
        | Step::MapCombine { output: map, .. }
        | Step::Reorder { to: map, .. } => visits(map),
        Step::Scale(scale) => visits(&scale.output),
        Step::Resize(resize) => visits(&resize.output),
        Step::Function { count, .. } => count * VISIT * 2,
        Step::Softmax { rows, length, .. } | Step::Normalise { rows, length, .. } => {
            rows * length * VISIT * 2
        }
        Step::Integer(step) => integers(step),
        _ => 0,
    };
    work >= LEAST
}

/// Operations of a step on quantised numbers, of two to a word.
fn integers(step: &Integer) -> usize {
    let visits = |map: &Map| map.images * map.channels * map.rows * map.columns * VISIT;
    let inner = |p: &Product| p.groups.iter().map(|group| group.inner).sum::<usize>();
    match step {
        Integer::Product(p) => p.output.images * p.output.rows * p.output.columns * inner(p) * 2 * VISIT,
        Integer::Depthwise(d) => visits(&d.output) * d.plane.count() / VISIT,
        Integer::Table { output: map, .. }
        | Integer::Squeeze { from: map, .. }
        | Integer::Mean { input: map, .. } => visits(map),
        Integer::Pairs(p) => visits(&p.output) * 2,
        Integer::Largest(p) => visits(&p.output) * p.plane.count() / VISIT,
        // Few numbers, or such as take all of them.
        Integer::Quantise { .. }
        | Integer::Dequantise { .. }
        | Integer::Widen { .. }
        | Integer::Narrow { .. }
        | Integer::Cover { .. } => 0,
    }
}
