//! Convolution of each channel by itself.

use super::simd::Simd;

/// Rows of one block of channels. Distances are in floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depthwise {
    /// The first tap of the first output pixel.
    pub(crate) input: *const f32,
    /// From one input row to the next.
    pub(crate) in_row: usize,
    /// Input rows from one output row to the next.
    pub(crate) stride_row: usize,
    /// From one output pixel to the next in the input.
    pub(crate) in_pixel: usize,
    /// Taps in a column; only read where it is not a constant of the kernel.
    pub(crate) kernel_rows: usize,
    /// Taps in a row; only read where it is not a constant of the kernel.
    pub(crate) kernel_columns: usize,
    /// From a tap to the one below.
    pub(crate) tap_row: usize,
    /// From a tap to the one at its right.
    pub(crate) tap_column: usize,
    /// Weights, `[tap row][tap column][LANES]`.
    pub(crate) weights: *const f32,
    /// Bias, `[LANES]`.
    pub(crate) bias: *const f32,
    /// The first output pixel.
    pub(crate) output: *mut f32,
    /// From one output row to the next.
    pub(crate) out_row: usize,
    /// From one output pixel to the next.
    pub(crate) out_pixel: usize,
    /// Output rows.
    pub(crate) rows: usize,
    /// Output columns, at least the kernel's `COLUMNS`.
    pub(crate) width: usize,
    /// Results below become this; NaN stays.
    pub(crate) low: f32,
    /// Results above become this; NaN stays.
    pub(crate) high: f32,
}

/// Computes rows, `COLUMNS` pixels at a time; the last tile of a row overlaps the one before where the width is no
/// multiple. `K` taps square where `K` is not 0, with the stride `STRIDE` between pixels and taps side by side.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `d` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn depthwise<S: Simd, const K: usize, const STRIDE: usize, const COLUMNS: usize>(
    d: &Depthwise,
) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        for row in 0..d.rows {
            let input = d.input.add(row * d.stride_row * d.in_row);
            let output = d.output.add(row * d.out_row);
            let mut x = 0;
            loop {
                if K == 0 {
                    any::<S, COLUMNS>(d, input.add(x * d.in_pixel), output.add(x * d.out_pixel));
                } else {
                    let from = input.add(x * STRIDE * S::LANES);
                    square::<S, K, STRIDE, COLUMNS>(d, from, output.add(x * S::LANES));
                }
                if x + COLUMNS >= d.width {
                    break;
                }
                x = (x + COLUMNS).min(d.width - COLUMNS);
            }
        }
    }
}

#[inline(always)]
unsafe fn square<S: Simd, const K: usize, const STRIDE: usize, const COLUMNS: usize>(
    d: &Depthwise,
    input: *const f32,
    output: *mut f32,
) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let mut sums = [S::load(d.bias); COLUMNS];
        for tap_row in 0..K {
            let line = input.add(tap_row * d.tap_row);
            let mut weights = [S::splat(0.0); K];
            for (k, w) in weights.iter_mut().enumerate() {
                *w = S::load(d.weights.add((tap_row * K + k) * S::LANES));
            }
            for (x, sum) in sums.iter_mut().enumerate() {
                for (k, w) in weights.iter().enumerate() {
                    *sum = S::fma(S::load(line.add((x * STRIDE + k) * S::LANES)), *w, *sum);
                }
            }
        }
        let (low, high) = (S::splat(d.low), S::splat(d.high));
        for (x, sum) in sums.iter().enumerate() {
            S::store(output.add(x * S::LANES), S::min(high, S::max(low, *sum)));
        }
    }
}

#[inline(always)]
unsafe fn any<S: Simd, const COLUMNS: usize>(d: &Depthwise, input: *const f32, output: *mut f32) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let mut sums = [S::load(d.bias); COLUMNS];
        let mut weights = d.weights;
        for tap_row in 0..d.kernel_rows {
            let mut tap = input.add(tap_row * d.tap_row);
            for _ in 0..d.kernel_columns {
                let w = S::load(weights);
                for (x, sum) in sums.iter_mut().enumerate() {
                    *sum = S::fma(S::load(tap.add(x * d.in_pixel)), w, *sum);
                }
                weights = weights.add(S::LANES);
                tap = tap.wrapping_add(d.tap_column);
            }
        }
        let (low, high) = (S::splat(d.low), S::splat(d.high));
        for (x, sum) in sums.iter().enumerate() {
            S::store(output.add(x * d.out_pixel), S::min(high, S::max(low, *sum)));
        }
    }
}
