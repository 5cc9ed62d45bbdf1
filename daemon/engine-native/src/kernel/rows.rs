//! Rows of numbers next to each other: softmax, layer norm, sums.

use super::simd::Simd;

/// Rows to which softmax is applied, in place or not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    /// `[rows][length]`, rows `in_row` floats apart.
    pub(crate) input: *const f32,
    /// From one row to the next.
    pub(crate) in_row: usize,
    /// The results; may be the input.
    pub(crate) output: *mut f32,
    /// From one row to the next.
    pub(crate) out_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Floats in a row, at least 1.
    pub(crate) length: usize,
    /// Each value is multiplied by this first.
    pub(crate) scale: f32,
    /// Then this is added, `[length]` for each row; null for nothing.
    pub(crate) mask: *const f32,
    /// From the mask of one row to that of the next; 0 where all rows share one.
    pub(crate) mask_row: usize,
}

/// `v` with `other` in the lanes from `n` on.
#[inline(always)]
unsafe fn first_or<S: Simd>(v: S::V, n: usize, other: f32) -> S::V {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        if n >= S::LANES {
            return v;
        }
        let mut lanes = [other; super::simd::MAX_LANES];
        S::store_first(lanes.as_mut_ptr(), v, n);
        S::load(lanes.as_ptr())
    }
}

/// Runs a body over the vectors of `0..length`, with the place and the number of lanes that exist. A macro, since a
/// closure would be compiled without the instruction set of the function around it.
macro_rules! vectors {
    ($length:expr, $at:ident, $n:ident => $body:block) => {{
        let mut $at = 0;
        while $at < $length {
            let $n = S::LANES.min($length - $at);
            $body
            $at += S::LANES;
        }
    }};
}

/// Softmax of each row.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn softmax<S: Simd>(p: &Softmax) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let scale = S::splat(p.scale);
        for row in 0..p.rows {
            let (x, y) = (p.input.add(row * p.in_row), p.output.add(row * p.out_row));
            let mask = if p.mask.is_null() { p.mask } else { p.mask.add(row * p.mask_row) };
            let mut most = S::splat(f32::NEG_INFINITY);
            vectors!(p.length, at, n => {
                let mut v = S::mul(S::load_up_to(x.add(at), n), scale);
                if !mask.is_null() {
                    v = S::add(v, S::load_up_to(mask.add(at), n));
                }
                S::store_up_to(y.add(at), v, n);
                most = S::max(first_or::<S>(v, n, f32::NEG_INFINITY), most);
            });
            // A row of nothing but minus infinity is NaN by its formula, and stays so.
            let most = S::splat(S::largest(most));
            let mut sum = S::splat(0.0);
            vectors!(p.length, at, n => {
                let e = S::exp_of_negative(S::sub(S::load_up_to(y.add(at), n), most));
                S::store_up_to(y.add(at), e, n);
                sum = S::add(sum, first_or::<S>(e, n, 0.0));
            });
            let factor = S::splat(1.0 / S::sum(sum));
            vectors!(p.length, at, n => {
                S::store_up_to(y.add(at), S::mul(S::load_up_to(y.add(at), n), factor), n);
            });
        }
    }
}

/// Rows that are brought to mean 0 and variance 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normalise {
    /// `[rows][length]`, next to each other.
    pub(crate) input: *const f32,
    /// Added to the input first, laid out the same; null for nothing.
    pub(crate) residual: *const f32,
    /// The results; may be the input.
    pub(crate) output: *mut f32,
    /// Rows.
    pub(crate) rows: usize,
    /// Floats in a row, at least 1.
    pub(crate) length: usize,
    /// Factors, `[length]`.
    pub(crate) scale: *const f32,
    /// Summands, `[length]`; null for none.
    pub(crate) bias: *const f32,
    /// Added to the variance.
    pub(crate) epsilon: f32,
    /// Whether the mean is left where it is (root mean square norm).
    pub(crate) keep_mean: bool,
}

/// Layer norm or root mean square norm of each row, in two passes for the variance.
///
/// # Safety
/// As [`softmax`].
#[inline(always)]
pub(crate) unsafe fn normalise<S: Simd>(p: &Normalise) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        #[expect(clippy::cast_precision_loss, reason = "rows are far shorter than 2^24")]
        let share = 1.0 / p.length as f32;
        for row in 0..p.rows {
            let (mut x, y) = (p.input.add(row * p.length), p.output.add(row * p.length));
            let mut total = S::splat(0.0);
            vectors!(p.length, at, n => {
                let mut v = S::load_up_to(x.add(at), n);
                if !p.residual.is_null() {
                    v = S::add(v, S::load_up_to(p.residual.add(row * p.length + at), n));
                    S::store_up_to(y.add(at), v, n);
                }
                total = S::add(total, v);
            });
            if !p.residual.is_null() {
                x = y;
            }
            let mean = S::splat(if p.keep_mean { 0.0 } else { S::sum(total) * share });
            let mut squares = S::splat(0.0);
            vectors!(p.length, at, n => {
                let d = first_or::<S>(S::sub(S::load_up_to(x.add(at), n), mean), n, 0.0);
                squares = S::fma(d, d, squares);
            });
            let factor = S::splat(1.0 / (S::sum(squares) * share + p.epsilon).sqrt());
            vectors!(p.length, at, n => {
                let d = S::mul(S::sub(S::load_up_to(x.add(at), n), mean), factor);
                let bias = if p.bias.is_null() { S::splat(0.0) } else { S::load_up_to(p.bias.add(at), n) };
                S::store_up_to(y.add(at), S::fma(d, S::load_up_to(p.scale.add(at), n), bias), n);
            });
        }
    }
}
