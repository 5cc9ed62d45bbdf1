//! Tables, pairs, maximum and mean of windows.

use super::steps;
use crate::kernel::{
    activation::Pairwise,
    simd::{MAX_LANES, words::Words},
};

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
            // The verifier refuses them.
            Pairwise::Leaky | Pairwise::Other(_) => {}
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
            let mut integers = [0_i32; MAX_LANES];
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
