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
    /// Weights that come next, asked for meanwhile.
    pub(crate) ahead: *const f32,
    /// Floats from one line that is asked for to the next, every [`UNROLLED`] products; 0 where nothing comes next.
    pub(crate) ahead_step: usize,
    /// Floats from the input of a tile to input that is asked for meanwhile; 0 for none.
    pub(crate) input_ahead: usize,
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

/// Products between two turns of the innermost loop: on a core that is shared with another thread the loop's own
/// instructions cost as much as products. More would not leave every sum its register.
pub(crate) const UNROLLED: usize = 4;

/// The pixels of a tile in one map: where the first one is, and how to go on.
#[derive(Clone, Copy)]
struct Walk {
    column: usize,
    at: usize,
    pixel: usize,
    turn: usize,
    width: usize,
}

impl Walk {
    const fn new(t: &Tiles, pixel: usize, row: usize) -> Self {
        let turn = row.wrapping_sub(pixel.wrapping_mul(t.width));
        Self { column: t.column, at: 0, pixel, turn, width: t.width }
    }

    /// The offsets of the next pixels; goes on behind them.
    #[inline(always)]
    fn next<const PIXELS: usize>(&mut self) -> [usize; PIXELS] {
        let mut offsets = [self.at; PIXELS];
        if self.column + PIXELS < self.width {
            for (i, offset) in offsets.iter_mut().enumerate() {
                *offset = self.at.wrapping_add(self.pixel.wrapping_mul(i));
            }
            self.at = self.at.wrapping_add(self.pixel.wrapping_mul(PIXELS));
            self.column += PIXELS;
            return offsets;
        }
        for offset in &mut offsets {
            *offset = self.at;
            self.column += 1;
            self.at = self.at.wrapping_add(self.pixel);
            if self.column == self.width {
                self.column = 0;
                self.at = self.at.wrapping_add(self.turn);
            }
        }
        offsets
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
        let mut input = Walk::new(t, t.in_pixel, t.in_row);
        let mut output = Walk::new(t, t.out_pixel, t.out_row);
        let mut residual = Walk::new(t, t.residual_pixel, t.residual_row);
        let mut ahead = t.ahead;
        for _ in 0..t.count {
            let pixels = input.next::<PIXELS>().map(|offset| t.input.wrapping_add(offset));
            let to = output.next::<PIXELS>().map(|offset| t.output.wrapping_add(offset));
            let added = residual.next::<PIXELS>().map(|offset| t.residual.wrapping_add(offset));
            for (to, added) in to.iter().zip(&added) {
                for o in 0..BLOCKS {
                    S::prefetch(to.wrapping_add(o * t.out_block));
                    if !t.residual.is_null() {
                        S::prefetch(added.wrapping_add(o * t.residual_block));
                    }
                }
            }
            let mut sums = sum_up::<S, PIXELS, BLOCKS>(t, &pixels, &mut ahead);
            if !t.residual.is_null() {
                for (row, from) in sums.iter_mut().zip(added) {
                    for (o, sum) in row.iter_mut().enumerate() {
                        let from = from.wrapping_add(o * t.residual_block);
                        let partial = o + 1 == BLOCKS && t.tail < S::LANES;
                        let more = if partial { S::load_first(from, t.tail) } else { S::load(from) };
                        *sum = S::add(*sum, more);
                    }
                }
            }
            let (low, high) = (S::splat(t.low), S::splat(t.high));
            for (row, to) in sums.iter().zip(to) {
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

/// Bias plus the products of one tile.
#[inline(always)]
unsafe fn sum_up<S: Simd, const PIXELS: usize, const BLOCKS: usize>(
    t: &Tiles,
    pixels: &[*const f32; PIXELS],
    ahead: &mut *const f32,
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
        // One loop over all taps of all blocks rather than a nest: so every pointer of the inner loop stays in its register,
        // and every sum in its own.
        let row_turn = t.tap_row.wrapping_sub((t.kernel_columns - 1).wrapping_mul(t.tap_column));
        let mut weights = t.weights;
        let mut next = *ahead;
        let (mut left, mut block, mut at) = (t.channels, 0_usize, 0_usize);
        let (mut row, mut column) = (t.kernel_rows, t.kernel_columns);
        let mut here = left.min(t.channel_block);
        loop {
            if t.input_ahead != 0 {
                let next = pixels[0].wrapping_add(at).wrapping_add(t.input_ahead);
                for line in 0..(PIXELS * S::LANES).div_ceil(LINE) {
                    S::prefetch(next.wrapping_add(line * LINE));
                }
            }
            let end = at.wrapping_add(here);
            let mut channel = at;
            while channel.wrapping_add(UNROLLED) <= end {
                for i in 0..UNROLLED {
                    let weights = weights.wrapping_add(t.weight_step.wrapping_mul(i));
                    product::<S, PIXELS, BLOCKS>(weights, pixels, channel.wrapping_add(i), &mut sums);
                }
                S::prefetch(next);
                next = next.wrapping_add(t.ahead_step);
                weights = weights.wrapping_add(t.weight_step.wrapping_mul(UNROLLED));
                channel = channel.wrapping_add(UNROLLED);
            }
            while channel < end {
                product::<S, PIXELS, BLOCKS>(weights, pixels, channel, &mut sums);
                weights = weights.wrapping_add(t.weight_step);
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
        *ahead = next;
        sums
    }
}

/// The products of one channel under one tap.
#[inline(always)]
unsafe fn product<S: Simd, const PIXELS: usize, const BLOCKS: usize>(
    weights: *const f32,
    pixels: &[*const f32; PIXELS],
    channel: usize,
    sums: &mut [[S::V; BLOCKS]; PIXELS],
) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        if BLOCKS > PIXELS {
            // Fewer registers for what is read than for weights of all blocks.
            let values = pixels.map(|pixel| S::splat_from(pixel.add(channel)));
            for o in 0..BLOCKS {
                let w = S::load(weights.add(o * S::LANES));
                for (row, value) in sums.iter_mut().zip(values) {
                    row[o] = S::fma(value, w, row[o]);
                }
            }
            return;
        }
        let mut w = [S::splat(0.0); BLOCKS];
        for (o, w) in w.iter_mut().enumerate() {
            *w = S::load(weights.add(o * S::LANES));
        }
        for (pixel, row) in pixels.iter().zip(sums) {
            let value = S::splat_from(pixel.add(channel));
            for (sum, w) in row.iter_mut().zip(w) {
                *sum = S::fma(value, w, *sum);
            }
        }
    }
}
