//! What is done to quantised maps besides products: to and from floats, pairs, tables, maximum and mean of windows.
//!
//! A word is two channels as 16-bit integers less their zero point, the even one below.

use super::{
    activation::Pairwise,
    simd::{Simd, words::Words},
};

/// Pixels of one pair of channels, between floats and words. Distances are in floats or words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channels {
    /// The even channel's first float.
    pub(crate) even: *mut f32,
    /// The odd channel's; null where there is none.
    pub(crate) odd: *mut f32,
    /// From one row of floats to the next.
    pub(crate) float_row: usize,
    /// From one float to the next.
    pub(crate) float_pixel: usize,
    /// The first word.
    pub(crate) word: *mut i32,
    /// From one row of words to the next.
    pub(crate) word_row: usize,
    /// From one word to the next.
    pub(crate) word_pixel: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Pixels in a row.
    pub(crate) width: usize,
    /// What one step is worth.
    pub(crate) scale: f32,
    /// Steps below become this.
    pub(crate) low: f32,
    /// Steps above become this.
    pub(crate) high: f32,
}

/// So many floats of a channel.
#[inline(always)]
unsafe fn gather<S: Simd>(from: *const f32, step: usize, count: usize) -> S::V {
    // SAFETY: the caller owes the instruction set, and `count` floats `step` apart.
    unsafe {
        if step == 1 {
            return S::load_up_to(from, count);
        }
        let mut floats = [0.0_f32; super::simd::MAX_LANES];
        for (i, float) in floats.iter_mut().enumerate().take(count) {
            *float = from.wrapping_add(i * step).read();
        }
        S::load(floats.as_ptr())
    }
}

/// The nearest steps of numbers, held in a range; NaN becomes 0.
#[inline(always)]
unsafe fn steps<S: Words>(x: S::V, scale: S::V, low: S::V, high: S::V) -> S::W {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        let held = S::min(high, S::max(low, S::div(x, scale)));
        let is_number = S::select_less(held, S::splat(f32::INFINITY), held, S::splat(0.0));
        S::integers(is_number)
    }
}

/// Quantises a pair of channels.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn quantise<S: Words>(p: &Channels) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let (scale, low, high) = (S::splat(p.scale), S::splat(p.low), S::splat(p.high));
        let zero = S::splat_word(0);
        for row in 0..p.rows {
            let mut x = 0;
            while x < p.width {
                let count = (p.width - x).min(S::LANES);
                let offset = row * p.float_row + x * p.float_pixel;
                let even = steps::<S>(
                    gather::<S>(p.even.wrapping_add(offset), p.float_pixel, count),
                    scale,
                    low,
                    high,
                );
                let odd = if p.odd.is_null() {
                    zero
                } else {
                    steps::<S>(
                        gather::<S>(p.odd.wrapping_add(offset), p.float_pixel, count),
                        scale,
                        low,
                        high,
                    )
                };
                let mut words = [0_i32; super::simd::MAX_LANES];
                S::store_words(words.as_mut_ptr(), S::pair(even, odd));
                let to = p.word.wrapping_add(row * p.word_row + x * p.word_pixel);
                for (i, word) in words.iter().enumerate().take(count) {
                    to.wrapping_add(i * p.word_pixel).write(*word);
                }
                x += count;
            }
        }
    }
}

/// Gives a pair of channels as floats.
///
/// # Safety
/// As [`quantise`].
#[inline(always)]
pub(crate) unsafe fn dequantise<S: Words>(p: &Channels) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let scale = S::splat(p.scale);
        for row in 0..p.rows {
            let mut x = 0;
            while x < p.width {
                let count = (p.width - x).min(S::LANES);
                let mut words = [0_i32; super::simd::MAX_LANES];
                let from = p.word.wrapping_add(row * p.word_row + x * p.word_pixel);
                for (i, word) in words.iter_mut().enumerate().take(count) {
                    *word = from.wrapping_add(i * p.word_pixel).read();
                }
                let words = S::load_words(words.as_ptr());
                let offset = row * p.float_row + x * p.float_pixel;
                for (to, part) in [(p.even, S::even(words)), (p.odd, S::odd(words))] {
                    if to.is_null() {
                        continue;
                    }
                    let (to, values) = (to.wrapping_add(offset), S::mul(S::floats(part), scale));
                    if p.float_pixel == 1 {
                        S::store_up_to(to, values, count);
                        continue;
                    }
                    let mut floats = [0.0_f32; super::simd::MAX_LANES];
                    S::store(floats.as_mut_ptr(), values);
                    for (i, float) in floats.iter().enumerate().take(count) {
                        to.wrapping_add(i * p.float_pixel).write(*float);
                    }
                }
                x += count;
            }
        }
    }
}

/// Rows of floats quantised with the scale that just covers them and 0. Distances are in floats or words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cover {
    /// `[rows][length]`.
    pub(crate) input: *const f32,
    /// Rows.
    pub(crate) rows: usize,
    /// Floats in a row.
    pub(crate) length: usize,
    /// `[rows]` of words, whole vectors each; or of bytes, whole halves of vectors.
    pub(crate) output: *mut i32,
    /// From one row of words to the next.
    pub(crate) out_row: usize,
    /// Whether bytes are stored as they are, instead of halves less the zero point.
    pub(crate) bytes: bool,
    /// The scale.
    pub(crate) scale: *mut f32,
    /// The zero point.
    pub(crate) zero: *mut u8,
}

/// Quantises rows to unsigned bytes, and stores those or halves less their zero point.
///
/// Source: ONNX, DynamicQuantizeLinear.
///
/// # Safety
/// As [`quantise`].
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the zero point is held in a byte"
)]
pub(crate) unsafe fn cover<S: Words>(p: &Cover) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let (mut low, mut high) = ([S::splat(0.0); 2], [S::splat(0.0); 2]);
        let (count, mut at) = (p.rows * p.length, 0);
        while at < count {
            for which in 0..2 {
                let first = at + which * S::LANES;
                let x = S::load_up_to(p.input.wrapping_add(first), count.saturating_sub(first));
                low[which] = S::min(x, low[which]);
                high[which] = S::max(x, high[which]);
            }
            at += 2 * S::LANES;
        }
        let high = S::largest(S::max(high[0], high[1]));
        let low = -S::largest(S::sub(S::splat(0.0), S::min(low[0], low[1])));
        let scale = (high - low) / 255.0;
        let zero = if scale > 0.0 { (-low / scale).clamp(0.0, 255.0).round_ties_even() } else { 0.0 };
        p.scale.write(scale);
        p.zero.write(zero as u8);
        // Where all is 0, so is every step.
        let scale = S::splat(if scale > 0.0 { scale } else { f32::INFINITY });
        let (low, high) = (S::splat(-zero), S::splat(255.0 - zero));
        for row in 0..p.rows {
            let (from, to) = (p.input.wrapping_add(row * p.length), p.output.wrapping_add(row * p.out_row));
            let mut at = 0;
            while at < p.length {
                // No closure: it would be compiled without the instruction set.
                let mut parts = [S::splat_word(0); 2];
                for (which, part) in parts.iter_mut().enumerate() {
                    let first = at + which * S::LANES;
                    let left = p.length.saturating_sub(first).min(S::LANES);
                    let x = S::load_up_to(from.wrapping_add(first), left);
                    *part = steps::<S>(x, scale, low, high);
                }
                if p.bytes {
                    let up = S::splat_word(zero as i32);
                    let halves = S::narrow(S::add_words(parts[0], up), S::add_words(parts[1], up));
                    S::store_bytes(to.wrapping_add(at / 4), halves);
                } else {
                    S::store_words(to.wrapping_add(at / 2), S::narrow(parts[0], parts[1]));
                }
                at += 2 * S::LANES;
            }
        }
    }
}

/// Blocks of halves and of bytes. Distances are in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Squeeze {
    /// Blocks of words.
    pub(crate) input: *const i32,
    /// Words of a block.
    pub(crate) lanes: usize,
    /// The least half: what becomes byte 0.
    pub(crate) low: i16,
    /// Bytes, half as many words a block.
    pub(crate) output: *mut i32,
    /// Blocks.
    pub(crate) count: usize,
}

/// Stores halves as bytes without signs.
///
/// # Safety
/// As [`quantise`].
#[inline(always)]
pub(crate) unsafe fn squeeze<S: Words>(p: &Squeeze) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let up = S::splat_word(0_i32.wrapping_sub(i32::from(p.low)));
        if p.lanes == S::LANES {
            for at in 0..p.count {
                let words = S::load_words(p.input.wrapping_add(at * S::LANES));
                let (even, odd) = (S::add_words(S::even(words), up), S::add_words(S::odd(words), up));
                S::store_bytes(p.output.wrapping_add(at * S::LANES / 2), S::pair(even, odd));
            }
            return;
        }
        for at in 0..p.count {
            for lane in (0..p.lanes).step_by(2) {
                let mut bytes = [0_u8; 4];
                for (which, pair) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    if lane + which < p.lanes {
                        let word = p.input.wrapping_add(at * p.lanes + lane + which).read();
                        let [a, b, c, d] = word.to_le_bytes();
                        *pair = [[a, b], [c, d]]
                            .map(|half| i16::from_le_bytes(half).wrapping_sub(p.low).to_le_bytes()[0]);
                    }
                }
                let to = p.output.wrapping_add(at * p.lanes.div_ceil(2) + lane / 2);
                to.write(i32::from_le_bytes(bytes));
            }
        }
    }
}

/// Rows of words. Distances are in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    /// `[rows][length]`.
    pub(crate) input: *const i32,
    /// From one row to the next.
    pub(crate) in_row: usize,
    /// The results; may be the input.
    pub(crate) output: *mut i32,
    /// From one row to the next.
    pub(crate) out_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Words in a row.
    pub(crate) length: usize,
}

/// Replaces both halves of words by what a table of 256 halves has at their lower bytes.
///
/// # Safety
/// Every pointer is valid for what the fields describe, and `table` for 256 integers.
#[inline(always)]
pub(crate) unsafe fn look_up(p: &Rows, table: *const u16) {
    // SAFETY: the caller owes memory for all that the parameters describe; a byte is below 256.
    unsafe {
        for row in 0..p.rows {
            let (from, to) = (p.input.wrapping_add(row * p.in_row), p.output.wrapping_add(row * p.out_row));
            for x in 0..p.length {
                let [even, _, odd, _] = from.wrapping_add(x).read().to_le_bytes();
                let even = u32::from(table.add(usize::from(even)).read());
                let odd = u32::from(table.add(usize::from(odd)).read());
                to.wrapping_add(x).write((even | odd << 16).cast_signed());
            }
        }
    }
}

/// Rows of pairs of words, or each word with one vector. Distances are in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs {
    /// `[rows][length]`, whole vectors.
    pub(crate) a: *const i32,
    /// From one row to the next.
    pub(crate) a_row: usize,
    /// What one step of a is worth.
    pub(crate) scale_a: f32,
    /// As `a`; or one vector where `b_step` is 0.
    pub(crate) b: *const i32,
    /// From one row to the next.
    pub(crate) b_row: usize,
    /// From one vector to the next: `LANES` or 0.
    pub(crate) b_step: usize,
    /// What one step of b is worth.
    pub(crate) scale_b: f32,
    /// The results.
    pub(crate) output: *mut i32,
    /// From one row to the next.
    pub(crate) out_row: usize,
    /// What one step of the results is worth.
    pub(crate) scale: f32,
    /// Steps below become this.
    pub(crate) low: f32,
    /// Steps above become this.
    pub(crate) high: f32,
    /// Rows.
    pub(crate) rows: usize,
    /// Words in a row.
    pub(crate) length: usize,
    /// What is done to the pairs.
    pub(crate) pairwise: Pairwise,
}

/// The steps of a function of two vectors of words, each half by itself. A macro, since a closure would be compiled
/// without the instruction set.
macro_rules! each_pair {
    ($p:expr, $f:expr) => {{
        let (scale_a, scale_b, scale) = (S::splat($p.scale_a), S::splat($p.scale_b), S::splat($p.scale));
        let (low, high) = (S::splat($p.low), S::splat($p.high));
        for row in 0..$p.rows {
            let (a, b) = ($p.a.wrapping_add(row * $p.a_row), $p.b.wrapping_add(row * $p.b_row));
            let output = $p.output.wrapping_add(row * $p.out_row);
            let (mut x, mut at_b) = (0, 0);
            while x < $p.length {
                let (a, b) = (S::load_words(a.wrapping_add(x)), S::load_words(b.wrapping_add(at_b)));
                let (even_a, even_b) = (S::floats(S::even(a)), S::floats(S::even(b)));
                let (odd_a, odd_b) = (S::floats(S::odd(a)), S::floats(S::odd(b)));
                let even = $f(S::mul(even_a, scale_a), S::mul(even_b, scale_b));
                let odd = $f(S::mul(odd_a, scale_a), S::mul(odd_b, scale_b));
                let words = S::pair(steps::<S>(even, scale, low, high), steps::<S>(odd, scale, low, high));
                S::store_words(output.wrapping_add(x), words);
                x += S::LANES;
                at_b += $p.b_step;
            }
        }
    }};
}

/// Combines pairs in single precision, with the roundings of each operation by itself.
///
/// # Safety
/// As [`quantise`].
#[inline(always)]
pub(crate) unsafe fn pairs<S: Words>(p: &Pairs) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        match p.pairwise {
            Pairwise::Add => each_pair!(p, S::add),
            Pairwise::Subtract => each_pair!(p, S::sub),
            Pairwise::Multiply => each_pair!(p, S::mul),
            Pairwise::Divide => each_pair!(p, S::div),
            Pairwise::Maximum => each_pair!(p, S::max),
            Pairwise::Minimum => each_pair!(p, S::min),
        }
    }
}
/// The taps of one output row of one block, clipped to the map. Distances are in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Maximum {
    /// The block's pixel (0, 0).
    pub(crate) input: *const i32,
    /// From one row to the next.
    pub(crate) in_row: usize,
    /// The first row of the window and the one after its last.
    pub(crate) rows: (usize, usize),
    /// From one row of the window to the next, in rows.
    pub(crate) row_dilation: usize,
    /// Columns of the input.
    pub(crate) in_width: usize,
    /// Taps in a row.
    pub(crate) window: usize,
    /// Columns from one window to the next.
    pub(crate) stride: usize,
    /// Columns from one tap to the next.
    pub(crate) dilation: usize,
    /// Columns of padding before the map.
    pub(crate) padding: usize,
    /// The output row.
    pub(crate) output: *mut i32,
    /// Output columns.
    pub(crate) width: usize,
}

/// The largest of each window.
///
/// # Safety
/// As [`quantise`].
#[inline(always)]
pub(crate) unsafe fn maximum<S: Words>(p: &Maximum) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe; taps outside the
    // map are left out.
    unsafe {
        let least = i32::from_ne_bytes([0, 0x80, 0, 0x80].map(|byte: u8| byte));
        for x in 0..p.width {
            let mut most = S::splat_word(least);
            let mut row = p.rows.0;
            while row < p.rows.1 {
                let line = p.input.wrapping_add(row * p.in_row);
                for tap in 0..p.window {
                    let column = (x * p.stride + tap * p.dilation).wrapping_sub(p.padding);
                    if column < p.in_width {
                        most = S::larger(most, S::load_words(line.wrapping_add(column * S::LANES)));
                    }
                }
                row += p.row_dilation;
            }
            S::store_words(p.output.wrapping_add(x * S::LANES), most);
        }
    }
}

/// All pixels of one block. Distances are in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mean {
    /// The block's pixel (0, 0).
    pub(crate) input: *const i32,
    /// From one row to the next.
    pub(crate) in_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Pixels in a row.
    pub(crate) width: usize,
    /// What one step is worth.
    pub(crate) scale: f32,
    /// Floats, the channels next to each other.
    pub(crate) output: *mut f32,
    /// Channels that exist, at most `2 * LANES`.
    pub(crate) channels: usize,
}

/// The mean of each channel, rounded once.
///
/// # Safety
/// As [`quantise`].
#[inline(always)]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "rounded, as the function says"
)]
pub(crate) unsafe fn mean<S: Words>(p: &Mean) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let zero = S::splat_word(0);
        let (mut sums, pixels) = ([zero; 2], (p.rows * p.width) as f64);
        for row in 0..p.rows {
            let line = p.input.wrapping_add(row * p.in_row);
            for x in 0..p.width {
                let words = S::load_words(line.wrapping_add(x * S::LANES));
                sums = [S::add_words(sums[0], S::even(words)), S::add_words(sums[1], S::odd(words))];
            }
        }
        for (odd, sum) in sums.into_iter().enumerate() {
            let mut integers = [0_i32; super::simd::MAX_LANES];
            S::store_words(integers.as_mut_ptr(), sum);
            for (i, sum) in integers.iter().enumerate().take(S::LANES) {
                let channel = 2 * i + odd;
                if channel < p.channels {
                    let mean = f64::from(*sum) * f64::from(p.scale) / pixels;
                    p.output.wrapping_add(channel).write(mean as f32);
                }
            }
        }
    }
}
