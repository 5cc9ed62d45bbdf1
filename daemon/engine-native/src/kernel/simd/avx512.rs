//! AVX-512 F: sixteen floats.

use std::arch::x86_64::*;

use super::Simd;

/// AVX-512 F.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512;

/// The mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    u16::try_from((1_u32 << n) - 1).unwrap_or(u16::MAX)
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512, and memory at `p` for the lanes in question.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: the caller owes a processor with AVX-512, and memory at `p` for the lanes in question.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512, and memory at `p` for the lanes in question.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: __m512, n: usize) {
        // SAFETY: the caller owes a processor with AVX-512, and memory at `p` for the lanes in question.
        unsafe { _mm512_mask_storeu_ps(p, first(n), v) }
    }
    #[inline(always)]
    unsafe fn splat_from(p: *const f32) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512, and memory at `p` for the lanes in question.
        unsafe { _mm512_set1_ps(*p) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max_nan(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), _mm512_max_ps(a, b), a) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn floor(a: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn scale_by_power(a: __m512, n: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    unsafe fn select_less(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
    }
    #[inline(always)]
    unsafe fn sum(a: __m512) -> f32 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_reduce_add_ps(a) }
    }
    #[inline(always)]
    unsafe fn largest(a: __m512) -> f32 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { _mm512_reduce_max_ps(a) }
    }
    #[inline(always)]
    unsafe fn reciprocal_fast(a: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe {
            let r = _mm512_rcp14_ps(a);
            _mm512_mul_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(2.0)))
        }
    }
    #[inline(always)]
    unsafe fn turn(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        // SAFETY: the caller owes a processor with AVX-512, which has AVX2, and sixteen rows of sixteen floats at both.
        unsafe {
            for (row, column) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                let (from, to) = (from.add(row * from_row + column), to.add(column * to_row + row));
                super::avx2::turn(from, from_row, to, to_row);
            }
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        // SAFETY: the caller owes a processor with AVX-512; a hint may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    /// `2^(x log2 e)`: the scaling instruction saturates, so that nothing is held at the ends of the range.
    #[inline(always)]
    unsafe fn exp(x: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe {
            // Infinities would make the remainder NaN.
            let x = _mm512_min_ps(_mm512_set1_ps(1e4), _mm512_max_ps(_mm512_set1_ps(-1e4), x));
            let n = Self::round(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
            _mm512_scalef_ps(super::exp_of_rest::<Self>(x, n), n)
        }
    }
    #[inline(always)]
    unsafe fn exp_held(x: __m512) -> __m512 {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe { Self::exp(x) }
    }
}
