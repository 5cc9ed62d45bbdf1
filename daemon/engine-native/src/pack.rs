//! Weights in the order in which the kernels read them.

use crate::kernel::isa::Kernels;

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

/// Packs `inner x columns` factors: for each group of blocks, for each product, the factors of the group's channels.
///
/// `factor(i, column)`: the factor of product `i` (in the order of the kernel: channel block, tap row, tap column,
/// channel) for an output channel. Channels that do not exist get 0.
pub(crate) fn pack(
    inner: usize,
    columns: usize,
    kernels: &Kernels,
    mut factor: impl FnMut(usize, usize) -> f32,
) -> Vec<f32> {
    let lanes = kernels.lanes;
    let mut packed = Vec::with_capacity(packed_length(inner, columns, lanes));
    for (first, count) in groups(columns.div_ceil(lanes), kernels) {
        for i in 0..inner {
            for column in first * lanes..(first + count) * lanes {
                packed.push(if column < columns { factor(i, column) } else { 0.0 });
            }
        }
    }
    packed
}

/// The factors of a convolution in the order of the kernel.
///
/// `weights`: `[columns][channels][rows][width]`; blocks of `lanes` channels lie next to each other in the input.
pub(crate) fn pack_convolution(
    weights: &[f32],
    (columns, channels, rows, width): (usize, usize, usize, usize),
    lanes: usize,
    kernels: &Kernels,
) -> Vec<f32> {
    let mut places = Vec::with_capacity(channels * rows * width);
    let mut first = 0;
    while first < channels {
        let here = lanes.min(channels - first);
        for y in 0..rows {
            for x in 0..width {
                for channel in first..first + here {
                    places.push((channel * rows + y) * width + x);
                }
            }
        }
        first += here;
    }
    let inner = places.len();
    pack(inner, columns, kernels, |i, column| {
        let place = places.get(i).map_or(usize::MAX, |place| column * inner + place);
        weights.get(place).copied().unwrap_or_default()
    })
}

/// The factors of a depthwise convolution, `[block][tap][LANES]`, from `[channels][taps]`.
pub(crate) fn pack_depthwise(weights: &[f32], channels: usize, taps: usize, lanes: usize) -> Vec<f32> {
    let mut packed = Vec::with_capacity(channels.next_multiple_of(lanes) * taps);
    for block in 0..channels.div_ceil(lanes) {
        for tap in 0..taps {
            for channel in block * lanes..(block + 1) * lanes {
                let place = if channel < channels { channel * taps + tap } else { usize::MAX };
                packed.push(weights.get(place).copied().unwrap_or_default());
            }
        }
    }
    packed
}

/// One matrix row of Winograd's transform of weights.
const G: [[f32; 3]; 6] = [
    [0.25, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// `G g G^T` of every 3x3 kernel, as 36 packed matrices of `channels x columns`.
///
/// `weights`: `[columns][channels][3][3]`.
#[expect(clippy::indexing_slicing, reason = "indices are below constants of the same array")]
pub(crate) fn pack_winograd(weights: &[f32], columns: usize, channels: usize, kernels: &Kernels) -> Vec<f32> {
    let transformed: Vec<[[f32; 6]; 6]> = weights
        .as_chunks::<9>()
        .0
        .iter()
        .map(|g| {
            let half: [[f32; 3]; 6] = std::array::from_fn(|a| {
                std::array::from_fn(|x| (0..3).map(|y| G[a][y] * g[y * 3 + x]).sum())
            });
            std::array::from_fn(|a| std::array::from_fn(|b| (0..3).map(|x| half[a][x] * G[b][x]).sum()))
        })
        .collect();
    let mut packed = Vec::new();
    for y in 0..6 {
        for x in 0..6 {
            packed.extend(pack(channels, columns, kernels, |channel, column| {
                transformed.get(column * channels + channel).map_or(0.0, |u| u[y][x])
            }));
        }
    }
    packed
}
