//! Eight floats in an array: any processor, and the instance that tests run under an interpreter.

use super::Simd;

/// Lanes without vector instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

type V = [f32; 8];

#[inline(always)]
fn each(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = V;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> V {
        // SAFETY: the caller owes memory at `p` for the lanes in question.
        unsafe { p.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: V) {
        // SAFETY: the caller owes memory at `p` for the lanes in question.
        unsafe { p.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> V {
        // SAFETY: the caller owes memory at `p` for the lanes in question.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: V, n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: the caller owes memory at `p` for the lanes in question.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn splat_from(p: *const f32) -> V {
        // SAFETY: the caller owes memory at `p` for the lanes in question.
        unsafe { [*p; 8] }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn fma(a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        each(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        each(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        each(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        each(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn sqrt(a: V) -> V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        each(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        each(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn max_nan(a: V, b: V) -> V {
        each(a, b, |x, y| if x > y || x.is_nan() { x } else { y })
    }
    #[inline(always)]
    unsafe fn round(a: V) -> V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn floor(a: V) -> V {
        a.map(f32::floor)
    }
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "integral and in -252..=252")]
    unsafe fn scale_by_power(a: V, n: V) -> V {
        each(a, n, |a, n| f32::from_bits(a.to_bits().wrapping_add((n as i32 as u32) << 23)))
    }
    #[inline(always)]
    unsafe fn abs(a: V) -> V {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn select_less(a: V, b: V, x: V, y: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn sum(a: V) -> f32 {
        ((a[0] + a[4]) + (a[1] + a[5])) + ((a[2] + a[6]) + (a[3] + a[7]))
    }
    #[inline(always)]
    unsafe fn largest(a: V) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn reciprocal_fast(a: V) -> V {
        a.map(f32::recip)
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
}
