//! Winograd's transform of 3x3 kernels.

use super::{groups, packed_length};
use crate::kernel::isa::Kernels;

/// One matrix row of the transform of weights.
const G: [[f32; 3]; 6] = [
    [0.25, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// Kernels that are transformed at once.
const WIDE: usize = 16;

/// Numbers of as many kernels, side by side.
type Wide = [f32; WIDE];

/// Floats of all matrices.
pub(crate) fn winograd_length(columns: usize, channels: usize, kernels: &Kernels) -> usize {
    36 * packed_length(channels, columns, kernels.lanes)
}

/// `G g G^T` of every 3x3 kernel, as 36 packed matrices of `channels x columns`.
///
/// `weights`: `[columns][channels][3][3]`.
pub(crate) fn pack_winograd(
    to: &mut [f32],
    weights: &[f32],
    (columns, channels): (usize, usize),
    kernels: &Kernels,
) {
    let lanes = kernels.lanes;
    let matrix = packed_length(channels, columns, lanes);
    let weights = weights.as_chunks::<9>().0;
    for (first, count) in groups(columns.div_ceil(lanes), kernels) {
        let width = count * lanes;
        for channel in 0..channels {
            let place = first * lanes * channels + channel * width;
            for part in (0..width).step_by(WIDE) {
                let here = WIDE.min(width - part);
                let column = first * lanes + part;
                let mut g = [[0.0; WIDE]; 9];
                for lane in 0..here.min(columns.saturating_sub(column)) {
                    let kernel = weights.get((column + lane) * channels + channel);
                    for (row, item) in g.iter_mut().zip(kernel.copied().unwrap_or_default()) {
                        row.iter_mut().skip(lane).take(1).for_each(|place| *place = item);
                    }
                }
                for (matrix, row) in to.chunks_exact_mut(matrix).zip(&transformed(&g)) {
                    let start = place + part;
                    if let (Some(to), Some(row)) = (matrix.get_mut(start..start + here), row.get(..here)) {
                        to.copy_from_slice(row);
                    }
                }
            }
        }
    }
}

/// The sum of three products, from the first on.
fn sum(factors: &[f32; 3], a: &Wide, b: &Wide, c: &Wide) -> Wide {
    let mut sums = [0.0; WIDE];
    for (((sum, a), b), c) in sums.iter_mut().zip(a).zip(b).zip(c) {
        *sum = factors[0] * a + factors[1] * b + factors[2] * c;
    }
    sums
}

/// `G g G^T` of some kernels.
fn transformed(g: &[Wide; 9]) -> [Wide; 36] {
    let [a, b, c, d, e, f, x, y, z] = g;
    let mut all = [[0.0; WIDE]; 36];
    for (rows, factors) in all.as_chunks_mut::<6>().0.iter_mut().zip(&G) {
        let half = [sum(factors, a, d, x), sum(factors, b, e, y), sum(factors, c, f, z)];
        for (row, factors) in rows.iter_mut().zip(&G) {
            *row = sum(factors, &half[0], &half[1], &half[2]);
        }
    }
    all
}
