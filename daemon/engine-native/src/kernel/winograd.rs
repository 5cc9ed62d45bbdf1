//! Winograd's minimal filtering F(4x4, 3x3): 36 products for 16 outputs instead of 144.
//!
//! Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), with the points 0, 1, -1, 2
//! and -2. The 36 products over channels are done by [`super::conv`], tiles being its pixels.

use super::simd::Simd;

/// One 6x6 window of one block of channels, to be transformed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    /// The window's first pixel.
    pub(crate) input: *const f32,
    /// From one row to the next.
    pub(crate) in_row: usize,
    /// Rows of the window that exist; the others are zero.
    pub(crate) rows: usize,
    /// Columns of the window that exist; the others are zero.
    pub(crate) columns: usize,
    /// The first of 36 vectors.
    pub(crate) output: *mut f32,
    /// From one of the 36 vectors to the next.
    pub(crate) step: usize,
}

/// One 4x4 tile of one block of channels, to be transformed back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// The first of 36 vectors.
    pub(crate) input: *const f32,
    /// From one of the 36 vectors to the next.
    pub(crate) step: usize,
    /// Bias, one vector.
    pub(crate) bias: *const f32,
    /// The tile's first pixel.
    pub(crate) output: *mut f32,
    /// From one row to the next.
    pub(crate) out_row: usize,
    /// What is added; null for nothing.
    pub(crate) residual: *const f32,
    /// From one row of it to the next.
    pub(crate) residual_row: usize,
    /// Rows of the tile that are stored.
    pub(crate) rows: usize,
    /// Columns of the tile that are stored.
    pub(crate) columns: usize,
    /// Results below become this; NaN stays.
    pub(crate) low: f32,
    /// Results above become this; NaN stays.
    pub(crate) high: f32,
}

/// `B^T d` of one column or row.
#[inline(always)]
unsafe fn forward<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        let (four, minus_five) = (S::splat(4.0), S::splat(-5.0));
        let a = S::fma(d[2], S::splat(-4.0), d[4]);
        let b = S::fma(d[1], S::splat(-4.0), d[3]);
        let c = S::sub(d[4], d[2]);
        let e = S::mul(S::splat(2.0), S::sub(d[3], d[1]));
        [
            S::fma(four, d[0], S::fma(minus_five, d[2], d[4])),
            S::add(a, b),
            S::sub(a, b),
            S::add(c, e),
            S::sub(c, e),
            S::fma(four, d[1], S::fma(minus_five, d[3], d[5])),
        ]
    }
}

/// `A^T m` of one column or row.
#[inline(always)]
unsafe fn back<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        let (a, b) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (c, e) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(a, c)),
            S::fma(S::splat(2.0), e, b),
            S::fma(S::splat(4.0), c, a),
            S::add(S::fma(S::splat(8.0), e, b), m[5]),
        ]
    }
}

/// Transforms a window.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn transform<S: Simd>(p: &Input) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let zero = S::splat(0.0);
        let mut t = [[zero; 6]; 6];
        let whole = p.rows >= 6 && p.columns >= 6;
        for (y, t) in t.iter_mut().enumerate() {
            let mut d = [zero; 6];
            for (x, d) in d.iter_mut().enumerate() {
                if whole || (y < p.rows && x < p.columns) {
                    *d = S::load(p.input.add(y * p.in_row + x * S::LANES));
                }
            }
            *t = forward::<S>(d);
        }
        for x in 0..6 {
            let column = forward::<S>(t.map(|row| row[x]));
            for (y, v) in column.into_iter().enumerate() {
                S::store(p.output.add((y * 6 + x) * p.step), v);
            }
        }
    }
}

/// Transforms a tile back and finishes it: bias, residual, clamp.
///
/// # Safety
/// As [`transform`].
#[inline(always)]
pub(crate) unsafe fn restore<S: Simd>(p: &Output) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let zero = S::splat(0.0);
        let (low, high, bias) = (S::splat(p.low), S::splat(p.high), S::load(p.bias));
        let mut t = [[zero; 6]; 4];
        for x in 0..6 {
            let mut m = [zero; 6];
            for (y, m) in m.iter_mut().enumerate() {
                *m = S::load(p.input.add((y * 6 + x) * p.step));
            }
            for (row, v) in t.iter_mut().zip(back::<S>(m)) {
                row[x] = v;
            }
        }
        for (y, row) in t.into_iter().enumerate() {
            for (x, v) in back::<S>(row).into_iter().enumerate() {
                if y < p.rows && x < p.columns {
                    let mut v = S::add(v, bias);
                    if !p.residual.is_null() {
                        v = S::add(v, S::load(p.residual.add(y * p.residual_row + x * S::LANES)));
                    }
                    S::store(p.output.add(y * p.out_row + x * S::LANES), S::min(high, S::max(low, v)));
                }
            }
        }
    }
}
