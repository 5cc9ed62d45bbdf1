//! To and from floats, to bytes.

use super::steps;
use crate::kernel::simd::{MAX_LANES, Simd, words::Words};

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
        let mut floats = [0.0_f32; MAX_LANES];
        for (i, float) in floats.iter_mut().enumerate().take(count) {
            *float = from.wrapping_add(i * step).read();
        }
        S::load(floats.as_ptr())
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
                let mut words = [0_i32; MAX_LANES];
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
                let mut words = [0_i32; MAX_LANES];
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
                    let mut floats = [0.0_f32; MAX_LANES];
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

/// Pixels of one block of words and the two blocks of floats that have the same channels. Distances are in words or
/// floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    /// The first words.
    pub(crate) words: *mut i32,
    /// From one row of words to the next.
    pub(crate) word_row: usize,
    /// The first block of floats.
    pub(crate) first: *mut f32,
    /// The second one; null where there is none.
    pub(crate) second: *mut f32,
    /// From one row of floats to the next.
    pub(crate) float_row: usize,
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

/// Quantises blocks of floats.
///
/// # Safety
/// As [`quantise`].
#[inline(always)]
pub(crate) unsafe fn quantise_blocks<S: Words>(p: &Blocks) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let (scale, low, high) = (S::splat(p.scale), S::splat(p.low), S::splat(p.high));
        for row in 0..p.rows {
            for x in 0..p.width {
                let at = row * p.float_row + x * S::LANES;
                let a = steps::<S>(S::load(p.first.wrapping_add(at)), scale, low, high);
                let b = if p.second.is_null() {
                    S::splat_word(0)
                } else {
                    steps::<S>(S::load(p.second.wrapping_add(at)), scale, low, high)
                };
                S::store_words(p.words.wrapping_add(row * p.word_row + x * S::LANES), S::narrow(a, b));
            }
        }
    }
}

/// Gives blocks of floats.
///
/// # Safety
/// As [`quantise`].
#[inline(always)]
pub(crate) unsafe fn dequantise_blocks<S: Words>(p: &Blocks) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let scale = S::splat(p.scale);
        for row in 0..p.rows {
            for x in 0..p.width {
                let words = S::load_words(p.words.wrapping_add(row * p.word_row + x * S::LANES));
                let even = S::mul(S::floats(S::even(words)), scale);
                let odd = S::mul(S::floats(S::odd(words)), scale);
                let [first, second] = S::zip(even, odd);
                let at = row * p.float_row + x * S::LANES;
                S::store(p.first.wrapping_add(at), first);
                if !p.second.is_null() {
                    S::store(p.second.wrapping_add(at), second);
                }
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
