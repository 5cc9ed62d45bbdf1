//! Weights in the order in which the kernels read them.

use crate::kernel::isa::Kernels;

/// Groups of blocks of output channels that are computed together, `(first, count)`, covering `0..blocks`.
///
/// Prefers groups that use the registers best: of three where that leaves no group of one, else of two.
pub(crate) fn groups(blocks: usize, kernels: &Kernels) -> Vec<(usize, usize)> {
    let best = if kernels.lanes == 16 { 4 } else { 2 };
    let mut groups = Vec::new();
    let mut first = 0;
    while first < blocks {
        let left = blocks - first;
        let count = match left {
            1 => 1,
            _ if best == 4 && (left == 5 || left == 6 || left == 9) => 3,
            3 => 3,
            _ if left == best + 1 => 3,
            _ => best.min(left),
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

/// Two channels as one word, the bits of a float.
fn word(even: i32, odd: i32) -> f32 {
    f32::from_bits(((even & 0xffff) | (odd << 16)).cast_unsigned())
}

/// Packs factors of integers in words: for each group of two vectors of output channels, for each word of two products,
/// the words of the group's channels.
///
/// `factor(word, half, column)`: the factor of a word's lower or upper half. `interleaved`: whether the first vector has
/// the even channels of the group and the second the odd ones; else they follow each other.
pub(crate) fn words(
    inner: usize,
    columns: usize,
    lanes: usize,
    interleaved: bool,
    factor: impl Fn(usize, usize, usize) -> i32,
) -> Vec<f32> {
    let pair = 2 * lanes;
    let mut packed = Vec::with_capacity(inner * columns.next_multiple_of(pair));
    for first in (0..columns).step_by(pair) {
        for i in 0..inner {
            for at in 0..pair {
                let column = first + place_in_pair(at, lanes, interleaved);
                let known = column < columns;
                packed.push(if known { word(factor(i, 0, column), factor(i, 1, column)) } else { 0.0 });
            }
        }
    }
    packed
}

/// The channel, of those of two vectors, that a lane of both is for.
pub(crate) const fn place_in_pair(at: usize, lanes: usize, interleaved: bool) -> usize {
    if interleaved { at % lanes * 2 + at / lanes } else { at }
}

/// One number for each output channel, in the order of [`words`].
pub(crate) fn by_pairs(
    columns: usize,
    lanes: usize,
    interleaved: bool,
    number: impl Fn(usize) -> f32,
) -> Vec<f32> {
    let padded = columns.next_multiple_of(2 * lanes);
    let places = (0..padded).map(|at| {
        let pair = at / (2 * lanes) * 2 * lanes;
        pair + place_in_pair(at - pair, lanes, interleaved)
    });
    places.map(|column| if column < columns { number(column) } else { 0.0 }).collect()
}

/// The factors of a depthwise convolution in words, `[block][tap][2 * lanes]`: those of even channels below a 0, then
/// those of odd ones above a 0.
pub(crate) fn depthwise_words(
    channels: usize,
    taps: usize,
    lanes: usize,
    factor: impl Fn(usize, usize) -> i32,
) -> Vec<f32> {
    let mut packed = Vec::with_capacity(channels.next_multiple_of(2 * lanes) * taps);
    for first in (0..channels).step_by(2 * lanes) {
        for tap in 0..taps {
            for at in 0..2 * lanes {
                let channel = first + place_in_pair(at, lanes, true);
                let factor = if channel < channels { factor(channel, tap) } else { 0 };
                packed.push(if at < lanes { word(factor, 0) } else { word(0, factor) });
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
