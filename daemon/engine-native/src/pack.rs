//! Weights in the order in which the kernels read them.
//!
//! In: weights as the model has them. Out: for each group of blocks of output channels, for each product of the sum in
//! the kernel's order, the factors of the group's channels side by side. Written to memory that holds zeros, so that
//! channels that do not exist need no work.

mod winograd;
mod words;

use crate::kernel::isa::Kernels;

pub(crate) use winograd::{pack_winograd, winograd_length};
pub(crate) use words::{Group, Products, by_pairs, depthwise_words};

/// Products that are packed for all channels of a group before the next ones: what they take stays in the first cache.
const TILE: usize = 64;

/// Groups of blocks of output channels that are computed together, `(first, count)`, covering `0..blocks`.
///
/// Groups of four where that leaves no group of one, and those that use the registers best of what is left.
pub(crate) fn groups(blocks: usize, kernels: &Kernels) -> Vec<(usize, usize)> {
    let mut groups = Vec::new();
    let mut first = 0;
    while first < blocks {
        let count = match blocks - first {
            5 => 3,
            6 | 9 if kernels.lanes == 16 => 3,
            left => left.min(4),
        };
        groups.push((first, count));
        first += count;
    }
    groups
}

/// Floats that packed weights take: `inner` products for each of the output channels, padded to whole vectors.
pub(crate) fn packed_length(inner: usize, columns: usize, lanes: usize) -> usize {
    inner * columns.next_multiple_of(lanes)
}

/// Calls `write(panel, width, first, count)` for each group: its part of `to`, the floats from one product to the next,
/// its first output channel and how many there are.
fn each_group(
    to: &mut [f32],
    inner: usize,
    columns: usize,
    kernels: &Kernels,
    mut write: impl FnMut(&mut [f32], usize, usize, usize),
) {
    let lanes = kernels.lanes;
    let mut rest = to;
    for (first, count) in groups(columns.div_ceil(lanes), kernels) {
        let width = count * lanes;
        let Some((panel, after)) = std::mem::take(&mut rest).split_at_mut_checked(inner * width) else {
            return;
        };
        write(panel, width, first * lanes, width.min(columns - first * lanes));
        rest = after;
    }
}

/// Packs `inner x columns` factors, each computed on its own.
///
/// `factor(i, column)`: the factor of product `i` for an output channel.
pub(crate) fn pack(
    to: &mut [f32],
    (inner, columns): (usize, usize),
    kernels: &Kernels,
    factor: impl Fn(usize, usize) -> f32,
) {
    each_group(to, inner, columns, kernels, |panel, width, first, count| {
        for (i, row) in panel.chunks_exact_mut(width).enumerate() {
            for (place, column) in row.iter_mut().zip(first..first + count) {
                *place = factor(i, column);
            }
        }
    });
}

/// Packs a matrix of `[inner][columns]`, times `scale`.
pub(crate) fn pack_rows(
    to: &mut [f32],
    weights: &[f32],
    (inner, columns): (usize, usize),
    scale: f32,
    kernels: &Kernels,
) {
    each_group(to, inner, columns, kernels, |panel, width, first, count| {
        for (row, from) in panel.chunks_exact_mut(width).zip(weights.chunks_exact(columns)) {
            let from = from.get(first..first + count).unwrap_or_default();
            row.iter_mut().zip(from).for_each(|(place, item)| *place = item * scale);
        }
    });
}

/// Packs a matrix of `[columns][inner]`, times `scale`.
pub(crate) fn pack_columns(
    to: &mut [f32],
    weights: &[f32],
    (inner, columns): (usize, usize),
    scale: f32,
    kernels: &Kernels,
) {
    each_group(to, inner, columns, kernels, |panel, width, first, count| {
        for (tile, panel) in panel.chunks_mut(TILE * width).enumerate() {
            for column in 0..count {
                let start = (first + column) * inner + tile * TILE;
                let from = weights.get(start..).unwrap_or_default();
                for (row, item) in panel.chunks_exact_mut(width).zip(from) {
                    if let Some(place) = row.get_mut(column) {
                        *place = item * scale;
                    }
                }
            }
        }
    });
}

/// The factors of a convolution in the order of the kernel: channel block, tap row, tap column, channel.
///
/// `weights`: `[columns][channels][taps]`; blocks of `lanes` channels lie next to each other in the input.
pub(crate) fn pack_convolution(
    to: &mut [f32],
    weights: &[f32],
    (columns, channels, taps): (usize, usize, usize),
    kernels: &Kernels,
) {
    if taps == 1 {
        return pack_columns(to, weights, (channels, columns), 1.0, kernels);
    }
    let (inner, lanes) = (channels * taps, kernels.lanes);
    each_group(to, inner, columns, kernels, |panel, width, first, count| {
        for (block, panel) in panel.chunks_mut(lanes * taps * width).enumerate() {
            let here = lanes.min(channels - block * lanes);
            for column in 0..count {
                let start = (first + column) * inner + block * lanes * taps;
                let from = weights.get(start..start + here * taps).unwrap_or_default();
                for (channel, from) in from.chunks_exact(taps).enumerate() {
                    let places = panel.iter_mut().skip(channel * width + column).step_by(here * width);
                    places.zip(from).for_each(|(place, item)| *place = *item);
                }
            }
        }
    });
}

/// The factors of a depthwise convolution, `[block][tap][LANES]`, from `[channels][taps]`.
pub(crate) fn pack_depthwise(to: &mut [f32], weights: &[f32], taps: usize, lanes: usize) {
    for (block, weights) in to.chunks_mut((taps * lanes).max(1)).zip(weights.chunks(taps * lanes)) {
        for (lane, from) in weights.chunks(taps).enumerate() {
            block.iter_mut().skip(lane).step_by(lanes).zip(from).for_each(|(place, item)| *place = *item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::isa::Isa;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_are_packed_as_each_factor_on_its_own(columns in 1_usize..70, channels in 1_usize..70, taps in 1_usize..5) {
            let (kernels, inner) = (Isa::detect().kernels(), channels * taps);
            let lanes = kernels.lanes;
            let weights: Vec<f32> = (0_u16..).map(f32::from).take(columns * inner).collect();
            let packed = |write: &dyn Fn(&mut [f32])| {
                let mut to = vec![0.0; packed_length(inner, columns, lanes)];
                write(&mut to);
                to
            };
            let want = packed(&|to| pack(to, (inner, columns), kernels, |i, column| {
                let here = lanes.min(channels - i / (lanes * taps) * lanes);
                let (block, inside) = (i / (lanes * taps), i % (lanes * taps));
                let channel = block * lanes + inside % here;
                weights[(column * channels + channel) * taps + inside / here]
            }));
            prop_assert_eq!(packed(&|to| pack_convolution(to, &weights, (columns, channels, taps), kernels)), want);
            let want = packed(&|to| pack(to, (inner, columns), kernels, |i, c| weights[c * inner + i] * 2.0));
            prop_assert_eq!(packed(&|to| pack_columns(to, &weights, (inner, columns), 2.0, kernels)), want);
            let want = packed(&|to| pack(to, (inner, columns), kernels, |i, c| weights[i * columns + c] * 2.0));
            prop_assert_eq!(packed(&|to| pack_rows(to, &weights, (inner, columns), 2.0, kernels)), want);
        }
    }
}
