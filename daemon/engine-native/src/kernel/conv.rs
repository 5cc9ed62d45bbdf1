//! The one kernel for everything that is a sum of products: convolutions of any size, stride and dilation, fully
//! connected layers, the products of transformers, and the inner product of Winograd's method.
//!
//! A tile is `PIXELS` output pixels times `BLOCKS` vectors of output channels, held in registers while the kernel
//! walks over input channels and taps. Pixels follow each other along rows and run on into the next row, so that a
//! map needs no particular width. A token of a transformer is a pixel, a feature is a channel.

use super::simd::Simd;
use crate::memory::LINE;

/// Consecutive tiles of one group of output channels. Distances are in floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    /// The first tap of the first pixel, in the first block of channels.
    pub(crate) input: *const f32,
    /// From one output pixel to the next in the same row, in the input.
    pub(crate) in_pixel: usize,
    /// From one output row to the next, in the input.
    pub(crate) in_row: usize,
    /// From one block of input channels to the next.
    pub(crate) in_block: usize,
    /// Input channels.
    pub(crate) channels: usize,
    /// Input channels that lie next to each other.
    pub(crate) channel_block: usize,
    /// Taps in a column.
    pub(crate) kernel_rows: usize,
    /// Taps in a row.
    pub(crate) kernel_columns: usize,
    /// From a tap to the one below.
    pub(crate) tap_row: usize,
    /// From a tap to the one at its right.
    pub(crate) tap_column: usize,
    /// Weights, `[channel block][tap row][tap column][channel][BLOCKS * LANES]`.
    pub(crate) weights: *const f32,
    /// From the weights of one product to those of the next.
    pub(crate) weight_step: usize,
    /// How far ahead of the weights in use a cache line is asked for.
    pub(crate) prefetch: usize,
    /// Bias, `[BLOCKS * LANES]`.
    pub(crate) bias: *const f32,
    /// The first output pixel, in the first block of the group.
    pub(crate) output: *mut f32,
    /// From one output pixel to the next.
    pub(crate) out_pixel: usize,
    /// From one output row to the next.
    pub(crate) out_row: usize,
    /// From one block of output channels to the next.
    pub(crate) out_block: usize,
    /// What is added to the sum, laid out by the next three; null for nothing.
    pub(crate) residual: *const f32,
    /// From one pixel of the residual to the next.
    pub(crate) residual_pixel: usize,
    /// From one row of the residual to the next.
    pub(crate) residual_row: usize,
    /// From one block of the residual to the next.
    pub(crate) residual_block: usize,
    /// Results below become this; NaN stays.
    pub(crate) low: f32,
    /// Results above become this; NaN stays.
    pub(crate) high: f32,
    /// Channels of the last block that exist, at least 1; the others are not stored.
    pub(crate) tail: usize,
    /// Pixels in an output row.
    pub(crate) width: usize,
    /// The first pixel's place in its row.
    pub(crate) column: usize,
    /// Tiles.
    pub(crate) count: usize,
}

/// A pointer that walks over the pixels of a map.
#[derive(Clone, Copy)]
struct Walk {
    column: usize,
    at: usize,
}

impl Walk {
    /// The offset of the pixel that it is at; goes on to the next.
    #[inline(always)]
    fn next(&mut self, pixel: usize, turn: usize, width: usize) -> usize {
        let at = self.at;
        self.column += 1;
        let end = self.column == width;
        self.at = at.wrapping_add(pixel).wrapping_add(if end { turn } else { 0 });
        self.column = if end { 0 } else { self.column };
        at
    }
}

/// Computes `t.count` tiles.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `t` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn tiles<S: Simd, const PIXELS: usize, const BLOCKS: usize>(t: &Tiles) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let turn = |row: usize, pixel: usize| row.wrapping_sub(pixel.wrapping_mul(t.width));
        let (in_turn, out_turn) = (turn(t.in_row, t.in_pixel), turn(t.out_row, t.out_pixel));
        let residual_turn = turn(t.residual_row, t.residual_pixel);
        let mut input = Walk { column: t.column, at: 0 };
        let (mut output, mut residual) = (input, input);
        for _ in 0..t.count {
            let mut pixels = [t.input; PIXELS];
            for pixel in &mut pixels {
                *pixel = t.input.wrapping_add(input.next(t.in_pixel, in_turn, t.width));
            }
            let mut sums = if t.weight_step == BLOCKS * S::LANES {
                sum_up::<S, PIXELS, BLOCKS, true>(t, &pixels)
            } else {
                sum_up::<S, PIXELS, BLOCKS, false>(t, &pixels)
            };
            if !t.residual.is_null() {
                for row in &mut sums {
                    let from =
                        t.residual.wrapping_add(residual.next(t.residual_pixel, residual_turn, t.width));
                    for (o, sum) in row.iter_mut().enumerate() {
                        let from = from.wrapping_add(o * t.residual_block);
                        let partial = o + 1 == BLOCKS && t.tail < S::LANES;
                        let more = if partial { S::load_first(from, t.tail) } else { S::load(from) };
                        *sum = S::add(*sum, more);
                    }
                }
            }
            let (low, high) = (S::splat(t.low), S::splat(t.high));
            for row in &sums {
                let to = t.output.wrapping_add(output.next(t.out_pixel, out_turn, t.width));
                // Rows of features are far apart: where the next group will write, memory is asked for now.
                if t.out_pixel > S::LANES {
                    S::prefetch_near(to.wrapping_add(BLOCKS * t.out_block + S::LANES));
                }
                for (o, sum) in row.iter().enumerate() {
                    let (to, value) = (to.wrapping_add(o * t.out_block), S::min(high, S::max(low, *sum)));
                    if o + 1 == BLOCKS && t.tail < S::LANES {
                        S::store_first(to, value, t.tail);
                    } else {
                        S::store(to, value);
                    }
                }
            }
        }
    }
}

/// Bias plus the products of one tile. `PACKED`: the weights of one product follow those of the one before.
#[inline(always)]
unsafe fn sum_up<S: Simd, const PIXELS: usize, const BLOCKS: usize, const PACKED: bool>(
    t: &Tiles,
    pixels: &[*const f32; PIXELS],
) -> [[S::V; BLOCKS]; PIXELS] {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let mut sums = [[S::splat(0.0); BLOCKS]; PIXELS];
        for o in 0..BLOCKS {
            let bias = S::load(t.bias.add(o * S::LANES));
            for row in &mut sums {
                row[o] = bias;
            }
        }
        // One loop over all taps of all blocks rather than a nest: so every pointer of the inner loop but one stays in
        // its register, and every sum in its own.
        let row_turn = t.tap_row.wrapping_sub((t.kernel_columns - 1).wrapping_mul(t.tap_column));
        let step = if PACKED { BLOCKS * S::LANES } else { t.weight_step };
        let mut weights = t.weights;
        let (mut left, mut block, mut at) = (t.channels, 0_usize, 0_usize);
        if t.kernel_rows * t.kernel_columns == 1 && t.channel_block == S::LANES && BLOCKS != 3 {
            // One tap: whole blocks of channels with nothing else to count. (With three blocks every register is taken;
            // unrolled this far, sums are put aside.)
            while left >= S::LANES {
                bring_next::<S, PIXELS>(pixels[0].wrapping_add(at));
                for first in 0..S::LANES / 8 {
                    let (w, channel) = (weights.wrapping_add(8 * first * step), at.wrapping_add(8 * first));
                    four::<S, PIXELS, BLOCKS>(w, step, t.prefetch, pixels, channel, &mut sums);
                    let (w, channel) = (w.wrapping_add(4 * step), channel.wrapping_add(4));
                    four::<S, PIXELS, BLOCKS>(w, step, t.prefetch, pixels, channel, &mut sums);
                }
                weights = weights.wrapping_add(S::LANES * step);
                at = at.wrapping_add(t.in_block);
                left -= S::LANES;
            }
            for channel in at..at.wrapping_add(left) {
                product::<S, PIXELS, BLOCKS>(weights, t.prefetch, pixels, channel, &mut sums);
                weights = weights.wrapping_add(step);
            }
            return sums;
        }
        let (mut row, mut column) = (t.kernel_rows, t.kernel_columns);
        let mut here = left.min(t.channel_block);
        loop {
            bring_next::<S, PIXELS>(pixels[0].wrapping_add(at));
            let (mut channel, end) = (at, at.wrapping_add(here));
            while channel.wrapping_add(4) <= end {
                four::<S, PIXELS, BLOCKS>(weights, step, t.prefetch, pixels, channel, &mut sums);
                weights = weights.wrapping_add(4 * step);
                channel = channel.wrapping_add(4);
            }
            while channel < end {
                product::<S, PIXELS, BLOCKS>(weights, t.prefetch, pixels, channel, &mut sums);
                weights = weights.wrapping_add(step);
                channel = channel.wrapping_add(1);
            }
            column -= 1;
            if column > 0 {
                at = at.wrapping_add(t.tap_column);
                continue;
            }
            column = t.kernel_columns;
            row -= 1;
            if row > 0 {
                at = at.wrapping_add(row_turn);
                continue;
            }
            row = t.kernel_rows;
            left -= here;
            if left == 0 {
                break;
            }
            block = block.wrapping_add(t.in_block);
            at = block;
            here = left.min(t.channel_block);
        }
        sums
    }
}

/// Brings the pixels of the next tile near while this one's are in use: blocks of channels lie far apart, and no
/// processor foresees that by itself.
#[inline(always)]
unsafe fn bring_next<S: Simd, const PIXELS: usize>(pixel: *const f32) {
    for line in 0..(PIXELS * S::LANES).div_ceil(LINE) {
        // SAFETY: the caller owes the instruction set; a prefetch may be anywhere.
        unsafe { S::prefetch_near(pixel.wrapping_add(PIXELS * S::LANES + line * LINE)) }
    }
}

/// The products of four channels under one tap: fewer instructions than one at a time, which matters where another thread
/// shares the core.
#[inline(always)]
unsafe fn four<S: Simd, const PIXELS: usize, const BLOCKS: usize>(
    weights: *const f32,
    step: usize,
    prefetch: usize,
    pixels: &[*const f32; PIXELS],
    channel: usize,
    sums: &mut [[S::V; BLOCKS]; PIXELS],
) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        product::<S, PIXELS, BLOCKS>(weights, prefetch, pixels, channel, sums);
        let (second, third) = (weights.wrapping_add(step), weights.wrapping_add(2 * step));
        product::<S, PIXELS, BLOCKS>(second, prefetch, pixels, channel.wrapping_add(1), sums);
        product::<S, PIXELS, BLOCKS>(third, prefetch, pixels, channel.wrapping_add(2), sums);
        let fourth = weights.wrapping_add(3 * step);
        product::<S, PIXELS, BLOCKS>(fourth, prefetch, pixels, channel.wrapping_add(3), sums);
    }
}

/// The products of one channel under one tap.
#[inline(always)]
unsafe fn product<S: Simd, const PIXELS: usize, const BLOCKS: usize>(
    weights: *const f32,
    prefetch: usize,
    pixels: &[*const f32; PIXELS],
    channel: usize,
    sums: &mut [[S::V; BLOCKS]; PIXELS],
) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let mut w = [S::splat(0.0); BLOCKS];
        for (o, w) in w.iter_mut().enumerate() {
            *w = S::load(weights.add(o * S::LANES));
        }
        S::prefetch(weights.wrapping_add(prefetch));
        for (pixel, row) in pixels.iter().zip(sums) {
            let value = S::splat_from(pixel.add(channel));
            for (sum, w) in row.iter_mut().zip(w) {
                *sum = S::fma(value, w, *sum);
            }
        }
    }
}
