//! NEON: eight floats as two registers of four, so that layouts are those of AVX2.
//!
//! Compiled for the target, never run on such a processor by us.

use std::arch::aarch64::*;

use super::Simd;

/// NEON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neon;

/// Two registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair(float32x4_t, float32x4_t);

macro_rules! both {
    // SAFETY: the caller owes a processor with NEON.
    ($f:ident($($a:expr),+)) => { unsafe { Pair($f($($a.0),+), $f($($a.1),+)) } };
}

impl Simd for Neon {
    type V = Pair;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Pair {
        // SAFETY: the caller owes a processor with NEON, and memory at `p` for the lanes in question.
        unsafe { Pair(vld1q_f32(p), vld1q_f32(p.add(4))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Pair) {
        // SAFETY: the caller owes a processor with NEON, and memory at `p` for the lanes in question.
        unsafe {
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
        }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Pair {
        // SAFETY: the caller owes a processor with NEON, and memory at `p` for the lanes in question.
        unsafe {
            let mut whole = [0.0; 8];
            whole.as_mut_ptr().copy_from_nonoverlapping(p, n);
            Self::load(whole.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: Pair, n: usize) {
        // SAFETY: the caller owes a processor with NEON, and memory at `p` for the lanes in question.
        unsafe {
            let mut whole = [0.0; 8];
            Self::store(whole.as_mut_ptr(), v);
            p.copy_from_nonoverlapping(whole.as_ptr(), n);
        }
    }
    #[inline(always)]
    unsafe fn splat_from(p: *const f32) -> Pair {
        // SAFETY: the caller owes a processor with NEON, and memory at `p` for the lanes in question.
        unsafe {
            let v = vld1q_dup_f32(p);
            Pair(v, v)
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Pair {
        // SAFETY: the caller owes a processor with NEON.
        unsafe {
            let v = vdupq_n_f32(x);
            Pair(v, v)
        }
    }
    #[inline(always)]
    unsafe fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
        both!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    unsafe fn add(a: Pair, b: Pair) -> Pair {
        both!(vaddq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: Pair, b: Pair) -> Pair {
        both!(vsubq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: Pair, b: Pair) -> Pair {
        both!(vmulq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: Pair, b: Pair) -> Pair {
        both!(vdivq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn sqrt(a: Pair) -> Pair {
        both!(vsqrtq_f32(a))
    }
    #[inline(always)]
    unsafe fn max(a: Pair, b: Pair) -> Pair {
        both!(vmaxq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn min(a: Pair, b: Pair) -> Pair {
        both!(vminq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn max_nan(a: Pair, b: Pair) -> Pair {
        both!(vmaxq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn round(a: Pair) -> Pair {
        both!(vrndnq_f32(a))
    }
    #[inline(always)]
    unsafe fn floor(a: Pair) -> Pair {
        both!(vrndmq_f32(a))
    }
    #[inline(always)]
    unsafe fn scale_by_power(a: Pair, n: Pair) -> Pair {
        #[inline(always)]
        unsafe fn four(a: float32x4_t, n: float32x4_t) -> float32x4_t {
            // SAFETY: the caller owes a processor with NEON.
            unsafe {
                let power = vshlq_n_s32::<23>(vcvtq_s32_f32(n));
                vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(a), power))
            }
        }
        both!(four(a, n))
    }
    #[inline(always)]
    unsafe fn abs(a: Pair) -> Pair {
        both!(vabsq_f32(a))
    }
    #[inline(always)]
    unsafe fn select_less(a: Pair, b: Pair, x: Pair, y: Pair) -> Pair {
        // SAFETY: the caller owes a processor with NEON.
        unsafe { Pair(vbslq_f32(vcltq_f32(a.0, b.0), x.0, y.0), vbslq_f32(vcltq_f32(a.1, b.1), x.1, y.1)) }
    }
    #[inline(always)]
    unsafe fn sum(a: Pair) -> f32 {
        // SAFETY: the caller owes a processor with NEON.
        unsafe { vaddvq_f32(vaddq_f32(a.0, a.1)) }
    }
    #[inline(always)]
    unsafe fn largest(a: Pair) -> f32 {
        // SAFETY: the caller owes a processor with NEON.
        unsafe { vmaxvq_f32(vmaxq_f32(a.0, a.1)) }
    }
    #[inline(always)]
    unsafe fn reciprocal_fast(a: Pair) -> Pair {
        #[inline(always)]
        unsafe fn four(a: float32x4_t) -> float32x4_t {
            // SAFETY: the caller owes a processor with NEON.
            unsafe {
                let r = vrecpeq_f32(a);
                let r = vmulq_f32(r, vrecpsq_f32(a, r));
                vmulq_f32(r, vrecpsq_f32(a, r))
            }
        }
        both!(four(a))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
}
