//! Lanes of `f32`: one trait, one implementation for each instruction set.
//!
//! Everything a kernel does with numbers goes through [`Simd`], so a kernel is written once. The mathematical
//! functions are here too, since their accuracy must be the same wherever they are used.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
pub(crate) mod words;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::Portable;

/// The largest [`Simd::LANES`] of any implementation.
pub(crate) const MAX_LANES: usize = 16;

/// Vectors of `f32` and what kernels do with them.
///
/// # Safety
/// All functions need a processor that has the instruction set. Those that take a pointer need it valid for
/// [`Simd::LANES`] floats (one for [`Simd::splat_from`], `n` for [`Simd::load_first`] and [`Simd::store_first`]);
/// no alignment is asked for.
///
/// NaN: `max(a, b)` and `min(a, b)` return `b` when either is NaN, so that a value given as `b` keeps its NaN.
pub(crate) trait Simd: Copy + 'static {
    /// A vector of [`Simd::LANES`] floats.
    type V: Copy;
    /// Floats in a vector.
    const LANES: usize;

    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The first `n` lanes, `n <= LANES`; the others are zero.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n` lanes, `n <= LANES`.
    unsafe fn store_first(p: *mut f32, v: Self::V, n: usize);
    unsafe fn splat_from(p: *const f32) -> Self::V;
    unsafe fn splat(x: f32) -> Self::V;
    /// `a * b + c`, rounded once where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The larger, or NaN when either is NaN.
    unsafe fn max_nan(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    unsafe fn floor(a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n`, where `a` and the result are normal numbers, or `a` is NaN.
    unsafe fn scale_by_power(a: Self::V, n: Self::V) -> Self::V;
    unsafe fn abs(a: Self::V) -> Self::V;
    /// Lane by lane: `x` where `a < b`, else `y` (also where either is NaN).
    unsafe fn select_less(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The sum of the lanes, in a fixed order.
    unsafe fn sum(a: Self::V) -> f32;
    /// The largest lane; NaN lanes may be skipped.
    unsafe fn largest(a: Self::V) -> f32;
    /// `1 / a` by estimate and one Newton step, to about 2e-7 relative, for `a` in `1..1e37`.
    unsafe fn reciprocal_fast(a: Self::V) -> Self::V;
    /// Asks for the cache line at `p` to be brought near; `p` may be any address.
    unsafe fn prefetch(p: *const f32);

    /// As many rows of [`Simd::LANES`] floats as there are lanes, turned into columns; rows are so many floats apart.
    #[inline(always)]
    unsafe fn turn(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        // SAFETY: the caller owes the rows of both.
        unsafe {
            for row in 0..Self::LANES {
                for column in 0..Self::LANES {
                    to.add(column * to_row + row).write(from.add(row * from_row + column).read());
                }
            }
        }
    }

    /// As [`Simd::load`] where all lanes exist, else as [`Simd::load_first`].
    #[inline(always)]
    unsafe fn load_up_to(p: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller owes the instruction set, and `n` floats at `p` or a whole vector.
        unsafe { if n < Self::LANES { Self::load_first(p, n) } else { Self::load(p) } }
    }

    /// As [`Simd::store`] where all lanes exist, else as [`Simd::store_first`].
    #[inline(always)]
    unsafe fn store_up_to(p: *mut f32, v: Self::V, n: usize) {
        // SAFETY: the caller owes the instruction set, and `n` floats at `p` or a whole vector.
        unsafe { if n < Self::LANES { Self::store_first(p, v, n) } else { Self::store(p, v) } }
    }

    /// `e^x` to about 2e-7 relative: 0 and infinity where it leaves the range, NaN stays NaN.
    ///
    /// `2^n` times a polynomial; the power is applied in two halves so that results near both ends of the range are right.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
        unsafe {
            let x = Self::min(Self::splat(89.0), Self::max(Self::splat(-104.0), x));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let half = Self::floor(Self::mul(n, Self::splat(0.5)));
            let one = Self::splat(1.0);
            let rest = Self::scale_by_power(one, Self::sub(n, half));
            Self::mul(Self::mul(exp_of_rest::<Self>(x, n), Self::scale_by_power(one, half)), rest)
        }
    }

    /// As [`Simd::exp`] within `-87..=88`, held at the ends outside.
    #[inline(always)]
    unsafe fn exp_held(x: Self::V) -> Self::V {
        // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
        unsafe {
            let x = Self::min(Self::splat(88.0), Self::max(Self::splat(-87.0), x));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            Self::scale_by_power(exp_of_rest::<Self>(x, n), n)
        }
    }

    /// As [`Simd::exp`] for `x <= 0`; 0 below -87.
    #[inline(always)]
    unsafe fn exp_of_negative(x: Self::V) -> Self::V {
        // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
        unsafe { Self::select_less(x, Self::splat(-87.0), Self::splat(0.0), Self::exp_held(x)) }
    }

    /// `1 / (1 + e^-x)`, to about 1e-6 relative.
    #[inline(always)]
    unsafe fn sigmoid(x: Self::V) -> Self::V {
        // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
        unsafe {
            let x = Self::min(Self::splat(87.0), Self::max(Self::splat(-85.0), x));
            let n = Self::round(Self::mul(x, Self::splat(-std::f32::consts::LOG2_E)));
            let e = Self::scale_by_power(exp2_of_rest::<Self>(x, n), n);
            Self::reciprocal_fast(Self::add(Self::splat(1.0), e))
        }
    }

    /// Hyperbolic tangent, to 3e-7 relative: a rational function on -9..9, fitted for the least relative error (2e-8).
    #[inline(always)]
    unsafe fn tanh(x: Self::V) -> Self::V {
        // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
        unsafe {
            let x = Self::min(Self::splat(9.0), Self::max(Self::splat(-9.0), x));
            let s = Self::mul(x, x);
            let over = [1.335_447_5e-8, 2.060_894_8e-5, 3.495_58e-3, 1.338_101_9e-1, 1.0];
            let under = [7.776_482e-7, 3.285_621_6e-4, 2.587_695e-2, 4.671_433_6e-1, 1.0];
            let ratio =
                Self::mul(polynomial::<Self>(s, &over), Self::reciprocal_fast(polynomial::<Self>(s, &under)));
            Self::min(Self::splat(1.0), Self::max(Self::splat(-1.0), Self::mul(x, ratio)))
        }
    }

    /// The error function, to 4e-7 relative: a rational function on -3.92..3.92, fitted for the least relative error (2e-8).
    #[inline(always)]
    unsafe fn erf(x: Self::V) -> Self::V {
        // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
        unsafe {
            let x = Self::min(Self::splat(3.92), Self::max(Self::splat(-3.92), x));
            let s = Self::mul(x, x);
            let over = [
                2.050_051_8e-6,
                2.848_82e-4,
                3.765_666_9e-3,
                5.274_886_6e-2,
                1.904_078_9e-1,
                std::f32::consts::FRAC_2_SQRT_PI,
            ];
            let under = [3.809_131e-5, 1.162_544_2e-3, 1.496_931_6e-2, 1.141_096_6e-1, 5.020_773_4e-1, 1.0];
            let ratio =
                Self::mul(polynomial::<Self>(s, &over), Self::reciprocal_fast(polynomial::<Self>(s, &under)));
            Self::min(Self::splat(1.0), Self::max(Self::splat(-1.0), Self::mul(x, ratio)))
        }
    }

    /// `x / 2 * (1 + erf(x / sqrt 2))`, to 2e-7 of the larger of 1 and `|x|`.
    #[inline(always)]
    unsafe fn gelu(x: Self::V) -> Self::V {
        // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
        unsafe {
            let e = Self::erf(Self::mul(x, Self::splat(std::f32::consts::FRAC_1_SQRT_2)));
            let h = Self::mul(x, Self::splat(0.5));
            Self::fma(h, e, h)
        }
    }

    /// GELU by its tanh form: `x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    #[inline(always)]
    unsafe fn gelu_tanh(x: Self::V) -> Self::V {
        // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
        unsafe {
            let cube = Self::mul(Self::mul(x, x), x);
            let inner = Self::fma(cube, Self::splat(0.044_715), x);
            let t = Self::tanh(Self::mul(inner, Self::splat(0.797_884_6)));
            let h = Self::mul(x, Self::splat(0.5));
            Self::fma(h, t, h)
        }
    }
}

/// A polynomial, the highest coefficient first.
#[inline(always)]
unsafe fn polynomial<S: Simd>(x: S::V, coefficients: &[f32]) -> S::V {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        let mut value = S::splat(0.0);
        for (at, c) in coefficients.iter().enumerate() {
            value = if at == 0 { S::splat(*c) } else { S::fma(value, x, S::splat(*c)) };
        }
        value
    }
}

/// `2^f` on -0.5..=0.5, fitted for the least relative error (9e-8) among those that are 1 at 0.
const EXP2: [f32; 6] =
    [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, std::f32::consts::LN_2, 1.0];

/// `e^(x - n ln 2)`, with the logarithm of 2 in two parts.
#[inline(always)]
unsafe fn exp_of_rest<S: Simd>(x: S::V, n: S::V) -> S::V {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        polynomial::<S>(S::mul(r, S::splat(std::f32::consts::LOG2_E)), &EXP2)
    }
}

/// `2^(-x log2 e - n)`, the product rounded once.
#[inline(always)]
unsafe fn exp2_of_rest<S: Simd>(x: S::V, n: S::V) -> S::V {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        let f = S::fma(x, S::splat(-std::f32::consts::LOG2_E), S::sub(S::splat(0.0), n));
        polynomial::<S>(f, &EXP2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies a function of the portable lanes to each value.
    fn apply(f: unsafe fn([f32; 8]) -> [f32; 8], x: f32) -> f32 {
        // SAFETY: portable lanes ask nothing of the processor.
        unsafe { f([x; 8])[0] }
    }

    #[track_caller]
    fn check(f: unsafe fn([f32; 8]) -> [f32; 8], exact: fn(f64) -> f64, from: f32, to: f32, within: f64) {
        let mut worst = (0.0, 0.0_f32);
        for i in 0_u16..=2000 {
            let x = from + (to - from) * f32::from(i) / 2000.0;
            let (got, want) = (f64::from(apply(f, x)), exact(f64::from(x)));
            let off = (got - want).abs() / want.abs().max(1e-3);
            if off > worst.0 {
                worst = (off, x);
            }
        }
        assert!(worst.0 <= within, "off by {} at {}", worst.0, worst.1);
    }

    #[test]
    fn functions_are_as_accurate_as_they_say() {
        check(Portable::exp, f64::exp, -20.0, 20.0, 3e-7);
        check(Portable::sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -20.0, 20.0, 1e-6);
        check(Portable::tanh, f64::tanh, -10.0, 10.0, 4e-7);
        check(Portable::tanh, f64::tanh, -0.01, 0.01, 4e-7);
        check(Portable::erf, erf, -4.0, 4.0, 4e-7);
        check(Portable::gelu, |x| x / 2.0 * (1.0 + erf(x / 2.0_f64.sqrt())), 0.0, 6.0, 1e-6);
    }

    #[test]
    fn the_ends_of_the_range_and_nan_come_out_as_defined() {
        for (x, want) in [(f32::NEG_INFINITY, 0.0), (f32::INFINITY, f32::INFINITY), (-200.0, 0.0), (0.0, 1.0)]
        {
            assert_eq!(apply(Portable::exp, x).to_bits(), want.to_bits(), "exp {x}");
        }
        for f in [Portable::exp, Portable::sigmoid, Portable::tanh, Portable::erf, Portable::gelu] {
            assert!(apply(f, f32::NAN).is_nan());
        }
        for (x, want) in [(f32::INFINITY, 1.0), (f32::NEG_INFINITY, -1.0)] {
            assert!((apply(Portable::tanh, x) - want).abs() < 1e-6);
            assert!((apply(Portable::erf, x) - want).abs() < 1e-6);
        }
    }

    /// The error function by its series, in double precision.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200_u32 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }
}
