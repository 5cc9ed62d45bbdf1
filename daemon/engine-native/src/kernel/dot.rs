//! Sums of products of 8-bit integers: convolutions and fully connected layers, quantised again or scaled to floats.
//!
//! A word of the input is two channels as halves or four as bytes; where the words of a pixel's products are is a list,
//! the same for every pixel. A tile is `PIXELS` output pixels times two vectors of output channels: the even and the odd
//! ones of a block where words are stored, neighbours where floats are.

use super::simd::words::Words;

/// Consecutive tiles of one group of output channels. Distances are in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dots {
    /// The first tap of the first pixel, in the first block of channels.
    pub(crate) input: *const i32,
    /// From one output pixel to the next in the same row, in the input.
    pub(crate) in_pixel: usize,
    /// From one output row to the next, in the input.
    pub(crate) in_row: usize,
    /// From a pixel's first word to that of each product, `[inner]`.
    pub(crate) offsets: *const u32,
    /// Products, a multiple of [`UNROLLED`].
    pub(crate) inner: usize,
    /// Weights, `[inner][2 * LANES]`.
    pub(crate) weights: *const i32,
    /// Bias of the integer sums, `[2 * LANES]`.
    pub(crate) bias: *const i32,
    /// What becomes of the sums.
    pub(crate) ending: Ending,
    /// The first output pixel.
    pub(crate) output: *mut i32,
    /// From one output pixel to the next.
    pub(crate) out_pixel: usize,
    /// From one output row to the next.
    pub(crate) out_row: usize,
    /// Pixels in an output row.
    pub(crate) width: usize,
    /// The first pixel's place in its row.
    pub(crate) column: usize,
    /// Tiles.
    pub(crate) count: usize,
}

/// What becomes of integer sums.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Quantised again.
    Quantise(Requantise),
    /// Scaled to floats.
    Scale(Scaled),
}

/// Multiplies sums, rounds and holds them in a range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requantise {
    /// Factors, `[2 * LANES]`.
    pub(crate) factors: *const f32,
    /// What the factors lack of their exact values, `[2 * LANES]`.
    pub(crate) rests: *const f32,
    /// Results below become this.
    pub(crate) low: f32,
    /// Results above become this.
    pub(crate) high: f32,
}

/// `sum * (scale * factor) + summand + residual`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaled {
    /// One number.
    pub(crate) scale: *const f32,
    /// `[2 * LANES]`.
    pub(crate) factors: *const f32,
    /// `[2 * LANES]`; null for none.
    pub(crate) summands: *const f32,
    /// Laid out as the output; null for none.
    pub(crate) residual: *const f32,
    /// Columns that exist, at most `2 * LANES`.
    pub(crate) tail: usize,
}

/// Vectors of channels in a tile.
const PAIR: usize = 2;

/// Products that one turn of the inner loop takes.
pub(crate) const UNROLLED: usize = 2;

/// Rounds `sum * (factor + rest)` to the nearest integers (ties to even) within a range.
#[inline(always)]
unsafe fn requantised<S: Words>(sum: S::W, factor: S::V, rest: S::V, low: S::V, high: S::V) -> S::W {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe { S::integers(S::min(high, S::max(low, S::scaled(sum, factor, rest)))) }
}

/// The word of two sums.
#[inline(always)]
pub(super) unsafe fn finished<S: Words>(sums: [S::W; PAIR], ending: &Requantise) -> S::W {
    // SAFETY: the caller owes the instruction set, and factors for two vectors.
    unsafe {
        let (low, high) = (S::splat(ending.low), S::splat(ending.high));
        // No closure: it would be compiled without the instruction set.
        let (factor, rest) = (S::load(ending.factors), S::load(ending.rests));
        let even = requantised::<S>(sums[0], factor, rest, low, high);
        let (factor, rest) = (S::load(ending.factors.add(S::LANES)), S::load(ending.rests.add(S::LANES)));
        let odd = requantised::<S>(sums[1], factor, rest, low, high);
        S::pair(even, odd)
    }
}

/// A pointer that walks over the pixels of a map.
#[derive(Clone, Copy)]
struct Walk {
    column: usize,
    at: usize,
}

impl Walk {
    /// The offsets of the next pixels.
    #[inline(always)]
    fn tile<const PIXELS: usize>(&mut self, pixel: usize, turn: usize, width: usize) -> [usize; PIXELS] {
        let mut offsets = [self.at; PIXELS];
        if self.column + PIXELS < width {
            for (i, offset) in offsets.iter_mut().enumerate() {
                *offset = self.at.wrapping_add(i.wrapping_mul(pixel));
            }
            self.at = self.at.wrapping_add(PIXELS.wrapping_mul(pixel));
            self.column += PIXELS;
        } else {
            for offset in &mut offsets {
                *offset = self.next(pixel, turn, width);
            }
        }
        offsets
    }

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

/// Computes `t.count` tiles, of bytes or of halves.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `t` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn dots<S: Words, const PIXELS: usize, const BYTES: bool>(t: &Dots) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let turn = |row: usize, pixel: usize| row.wrapping_sub(pixel.wrapping_mul(t.width));
        let (in_turn, out_turn) = (turn(t.in_row, t.in_pixel), turn(t.out_row, t.out_pixel));
        let mut input = Walk { column: t.column, at: 0 };
        let mut output = input;
        for _ in 0..t.count {
            let pixels =
                input.tile::<PIXELS>(t.in_pixel, in_turn, t.width).map(|at| t.input.wrapping_add(at));
            let sums = sum_up::<S, PIXELS, BYTES>(t, &pixels);
            let places = output.tile::<PIXELS>(t.out_pixel, out_turn, t.width);
            for (pair, at) in sums.iter().zip(places) {
                match &t.ending {
                    Ending::Quantise(ending) => {
                        S::store_words(t.output.wrapping_add(at), finished::<S>(*pair, ending));
                    }
                    Ending::Scale(ending) => scale::<S>(*pair, ending, t.output.cast(), at),
                }
            }
        }
    }
}

/// Stores floats.
#[inline(always)]
unsafe fn scale<S: Words>(sums: [S::W; PAIR], ending: &Scaled, output: *mut f32, at: usize) {
    // SAFETY: the caller owes the instruction set, and memory for as many columns as there are.
    unsafe {
        let scale = S::splat(*ending.scale);
        for (o, sum) in sums.iter().enumerate() {
            let (first, left) = (o * S::LANES, ending.tail.saturating_sub(o * S::LANES).min(S::LANES));
            let mut value = S::mul(S::floats(*sum), S::mul(scale, S::load(ending.factors.add(first))));
            if !ending.summands.is_null() {
                value = S::add(value, S::load(ending.summands.add(first)));
            }
            if !ending.residual.is_null() {
                value = S::add(value, S::load_up_to(ending.residual.wrapping_add(at + first), left));
            }
            S::store_up_to(output.wrapping_add(at + first), value, left);
        }
    }
}

/// Bias plus the products of one tile.
#[inline(always)]
unsafe fn sum_up<S: Words, const PIXELS: usize, const BYTES: bool>(
    t: &Dots,
    pixels: &[*const i32; PIXELS],
) -> [[S::W; PAIR]; PIXELS] {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let bias = [S::load_words(t.bias), S::load_words(t.bias.add(S::LANES))];
        let mut sums = [bias; PIXELS];
        let (mut weights, mut offsets) = (t.weights, t.offsets);
        for _ in 0..t.inner / UNROLLED {
            for i in 0..UNROLLED {
                let word = offsets.add(i).read() as usize;
                let w = weights.add(i * PAIR * S::LANES);
                let w = [S::load_words(w), S::load_words(w.add(S::LANES))];
                for (pixel, pair) in pixels.iter().zip(&mut sums) {
                    let value = S::splat_word(pixel.add(word).read());
                    for (sum, w) in pair.iter_mut().zip(w) {
                        *sum = if BYTES { S::dot_bytes(*sum, value, w) } else { S::dot(*sum, value, w) };
                    }
                }
            }
            weights = weights.add(UNROLLED * PAIR * S::LANES);
            offsets = offsets.add(UNROLLED);
        }
        sums
    }
}

/// Rows of one block of words, each channel by itself. Distances are in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DotsDepthwise {
    /// The first tap of the first output pixel.
    pub(crate) input: *const i32,
    /// From one output row to the next, in the input.
    pub(crate) in_row: usize,
    /// From one output pixel to the next, in the input.
    pub(crate) in_pixel: usize,
    /// Taps in a column; only read where it is not a constant of the kernel.
    pub(crate) kernel_rows: usize,
    /// Taps in a row; only read where it is not a constant of the kernel.
    pub(crate) kernel_columns: usize,
    /// From a tap to the one below.
    pub(crate) tap_row: usize,
    /// From a tap to the one at its right.
    pub(crate) tap_column: usize,
    /// Weights, `[tap row][tap column][2 * LANES]`: of even channels with 0 above, of odd channels with 0 below.
    pub(crate) weights: *const i32,
    /// Bias of even channels, then of odd ones.
    pub(crate) bias: *const i32,
    /// What becomes of the sums.
    pub(crate) ending: Requantise,
    /// The first output pixel.
    pub(crate) output: *mut i32,
    /// From one output row to the next.
    pub(crate) out_row: usize,
    /// From one output pixel to the next.
    pub(crate) out_pixel: usize,
    /// Output rows.
    pub(crate) rows: usize,
    /// Output columns, at least the kernel's `COLUMNS`.
    pub(crate) width: usize,
}

/// Computes rows, `COLUMNS` pixels at a time; the last tile of a row overlaps the one before where the width is no
/// multiple. `K` taps square where `K` is not 0.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `d` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn dots_depthwise<S: Words, const K: usize, const COLUMNS: usize>(d: &DotsDepthwise) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let (rows, columns) = if K == 0 { (d.kernel_rows, d.kernel_columns) } else { (K, K) };
        let bias = [S::load_words(d.bias), S::load_words(d.bias.add(S::LANES))];
        for row in 0..d.rows {
            let input = d.input.wrapping_add(row * d.in_row);
            let output = d.output.wrapping_add(row * d.out_row);
            let mut x = 0;
            loop {
                let mut sums = [bias; COLUMNS];
                let (from, mut weights) = (input.wrapping_add(x * d.in_pixel), d.weights);
                for tap_row in 0..rows {
                    let mut tap = from.wrapping_add(tap_row * d.tap_row);
                    for _ in 0..columns {
                        let w = [S::load_words(weights), S::load_words(weights.add(S::LANES))];
                        for (c, pair) in sums.iter_mut().enumerate() {
                            let value = S::load_words(tap.wrapping_add(c * d.in_pixel));
                            for (sum, w) in pair.iter_mut().zip(w) {
                                *sum = S::dot(*sum, value, w);
                            }
                        }
                        weights = weights.wrapping_add(PAIR * S::LANES);
                        tap = tap.wrapping_add(d.tap_column);
                    }
                }
                for (c, pair) in sums.iter().enumerate() {
                    let to = output.wrapping_add((x + c) * d.out_pixel);
                    S::store_words(to, finished::<S>(*pair, &d.ending));
                }
                if x + COLUMNS >= d.width {
                    break;
                }
                x = (x + COLUMNS).min(d.width - COLUMNS);
            }
        }
    }
}
