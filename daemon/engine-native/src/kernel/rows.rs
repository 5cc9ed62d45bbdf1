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

/// Runs `f` over whole vectors of `0..length`, then over the rest with its number of lanes.
#[inline(always)]
unsafe fn vectors<S: Simd>(length: usize, mut whole: impl FnMut(usize), mut rest: impl FnMut(usize, usize)) {
    let mut at = 0;
    while at + S::LANES <= length {
        whole(at);
        at += S::LANES;
    }
    if at < length {
        rest(at, length - at);
    }
}

/// Softmax of each row.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn softmax<S: Simd>(p: &Softmax) {
    unsafe {
        let scale = S::splat(p.scale);
        for row in 0..p.rows {
            let (x, y) = (p.input.add(row * p.in_row), p.output.add(row * p.out_row));
            let mask = if p.mask.is_null() { p.mask } else { p.mask.add(row * p.mask_row) };
            let scaled = |at: usize, n: usize| {
                let load = |q: *const f32| if n < S::LANES { S::load_first(q, n) } else { S::load(q) };
                let v = S::mul(load(x.add(at)), scale);
                if mask.is_null() { v } else { S::add(v, load(mask.add(at))) }
            };
            let mut best = S::splat(f32::NEG_INFINITY);
            let mut most = f32::NEG_INFINITY;
            vectors::<S>(
                p.length,
                |at| {
                    let v = scaled(at, S::LANES);
                    S::store(y.add(at), v);
                    best = S::max(v, best);
                },
                |at, n| {
                    S::store_first(y.add(at), scaled(at, n), n);
                    for i in 0..n {
                        most = most.max(*y.add(at + i));
                    }
                },
            );
            let most = most.max(S::largest(best));
            // A row of only negative infinity would be NaN by its formula; so it is, as elsewhere.
            let most = S::splat(most);
            let mut sum = S::splat(0.0);
            let mut more = 0.0_f32;
            vectors::<S>(
                p.length,
                |at| {
                    let e = S::exp(S::sub(S::load(y.add(at)), most));
                    S::store(y.add(at), e);
                    sum = S::add(sum, e);
                },
                |at, n| {
                    S::store_first(y.add(at), S::exp(S::sub(S::load_first(y.add(at), n), most)), n);
                    for i in 0..n {
                        more += *y.add(at + i);
                    }
                },
            );
            let factor = S::splat(1.0 / (S::sum(sum) + more));
            vectors::<S>(
                p.length,
                |at| S::store(y.add(at), S::mul(S::load(y.add(at)), factor)),
                |at, n| S::store_first(y.add(at), S::mul(S::load_first(y.add(at), n), factor), n),
            );
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
    unsafe {
        #[expect(clippy::cast_precision_loss, reason = "rows are far shorter than 2^24")]
        let share = 1.0 / p.length as f32;
        for row in 0..p.rows {
            let (x, y) = (p.input.add(row * p.length), p.output.add(row * p.length));
            let mut total = S::splat(0.0);
            let load = |q: *const f32, n| if n < S::LANES { S::load_first(q, n) } else { S::load(q) };
            let store =
                |q: *mut f32, v, n| if n < S::LANES { S::store_first(q, v, n) } else { S::store(q, v) };
            let mut first = |at: usize, n: usize| {
                let mut v = load(x.add(at), n);
                if !p.residual.is_null() {
                    v = S::add(v, load(p.residual.add(row * p.length + at), n));
                    store(y.add(at), v, n);
                }
                total = S::add(total, v);
            };
            each::<S>(p.length, &mut first);
            let x = if p.residual.is_null() { x } else { y.cast_const() };
            let mean = S::splat(if p.keep_mean { 0.0 } else { S::sum(total) * share });
            let mut squares = S::splat(0.0);
            let mut second = |at: usize, n: usize| {
                let d = S::sub(load(x.add(at), n), mean);
                if n < S::LANES {
                    // The lanes that do not exist hold minus the mean: they must not count.
                    let mut kept = [0.0; super::simd::MAX_LANES];
                    S::store_first(kept.as_mut_ptr(), d, n);
                    let d = S::load(kept.as_ptr());
                    squares = S::fma(d, d, squares);
                } else {
                    squares = S::fma(d, d, squares);
                }
            };
            each::<S>(p.length, &mut second);
            let factor = S::splat(1.0 / (S::sum(squares) * share + p.epsilon).sqrt());
            let mut third = |at: usize, n: usize| {
                let d = S::mul(S::sub(load(x.add(at), n), mean), factor);
                let bias = if p.bias.is_null() { S::splat(0.0) } else { load(p.bias.add(at), n) };
                store(y.add(at), S::fma(d, load(p.scale.add(at), n), bias), n);
            };
            each::<S>(p.length, &mut third);
        }
    }
}

/// Runs `f(at, lanes)` over the vectors of `0..length`.
#[inline(always)]
fn each<S: Simd>(length: usize, f: &mut impl FnMut(usize, usize)) {
    let mut at = 0;
    while at < length {
        let n = S::LANES.min(length - at);
        f(at, n);
        at += n;
    }
}
