//! Other sizes by interpolation.

use agentd_plan::{
    Node,
    op::resize::{Coordinates, Interpolation, Resize},
};

use super::{Lowering, sizes};
use crate::step::{self, Sample, Step};

/// What each place of the output is made of along an axis; `None` where more than two places count.
fn samples(resize: &Resize, axis: usize, from: usize, to: usize) -> Option<Vec<Sample>> {
    if is_same(resize, axis, from, to) {
        return Some((0..to).map(|at| Sample { places: (at, at), weights: (1.0, 0.0) }).collect());
    }
    let sample = |at: usize| match *resize.taps(at, axis, from)?.as_slice() {
        [(place, _)] => Some(Sample { places: (place, place), weights: (1.0, 0.0) }),
        #[expect(clippy::cast_possible_truncation, reason = "weights are between 0 and 1")]
        [(first, a), (second, b)] => Some(Sample { places: (first, second), weights: (a as f32, b as f32) }),
        _ => None,
    };
    (0..to).map(sample).collect()
}

/// Whether an axis stays as it is.
fn is_same(resize: &Resize, axis: usize, from: usize, to: usize) -> bool {
    let scale = resize.scales.get(axis).copied().unwrap_or(1.0);
    from == to && (scale - 1.0).abs() < f32::EPSILON
}

impl Lowering<'_> {
    pub(super) fn resize(&mut self, resize: &Resize, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let (from, to) = (&self.fact(x).shape, &self.fact(output).shape);
        let known = self.is_f32(x)
            && resize.coordinates != Coordinates::TfCropAndResize
            && !matches!(resize.interpolation, Interpolation::Cubic { .. })
            && from.iter().zip(to).take(2).enumerate().all(|(axis, (a, b))| is_same(resize, axis, *a, *b));
        if !known {
            return None;
        }
        let ((_, _, rows, columns), (_, _, out_rows, out_columns)) = (sizes(from)?, sizes(to)?);
        let rows = match from.len() {
            // A shape of three dimensions has one row.
            3 => vec![Sample { places: (0, 0), weights: (1.0, 0.0) }],
            _ => samples(resize, 2, rows, out_rows)?,
        };
        let columns = samples(resize, from.len() - 1, columns, out_columns)?;
        let (input, output) = (self.map(x)?, self.new_map(output)?);
        self.push(Step::Resize(Box::new(step::Resize { input, output, rows, columns })));
        Some(())
    }
}
