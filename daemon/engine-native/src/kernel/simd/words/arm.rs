//! NEON. Compiled for the target, never run on such a processor by us.

use std::arch::aarch64::*;

use super::{Simd, Words};
use crate::kernel::simd::Neon;

/// Two registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Both(int32x4_t, int32x4_t);

#[inline(always)]
fn halves(v: int32x4_t) -> int16x8_t {
    // SAFETY: NEON is part of the architecture.
    unsafe { vreinterpretq_s16_s32(v) }
}

/// The even and the odd halves of eight words.
#[inline(always)]
fn parted(v: Both) -> [int16x8_t; 2] {
    // SAFETY: NEON is part of the architecture.
    unsafe { [vuzp1q_s16(halves(v.0), halves(v.1)), vuzp2q_s16(halves(v.0), halves(v.1))] }
}

#[inline(always)]
fn dot_bytes(sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: NEON is part of the architecture.
    unsafe {
        let (a, b) = (vreinterpretq_u8_s32(a), vreinterpretq_s8_s32(b));
        let a_low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a)));
        let a_high = vreinterpretq_s16_u16(vmovl_high_u8(a));
        let (b_low, b_high) = (vmovl_s8(vget_low_s8(b)), vmovl_high_s8(b));
        let low =
            vpaddq_s32(vmull_s16(vget_low_s16(a_low), vget_low_s16(b_low)), vmull_high_s16(a_low, b_low));
        let high =
            vpaddq_s32(vmull_s16(vget_low_s16(a_high), vget_low_s16(b_high)), vmull_high_s16(a_high, b_high));
        vaddq_s32(sum, vpaddq_s32(low, high))
    }
}

impl Words for Neon {
    type W = Both;
    const BYTES: bool = false;

    #[inline(always)]
    unsafe fn load_words(p: *const i32) -> Both {
        // SAFETY: the caller owes memory at `p` for a vector.
        unsafe { Both(vld1q_s32(p), vld1q_s32(p.add(4))) }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut i32, v: Both) {
        // SAFETY: the caller owes memory at `p` for a vector.
        unsafe {
            vst1q_s32(p, v.0);
            vst1q_s32(p.add(4), v.1);
        }
    }
    #[inline(always)]
    unsafe fn splat_word(x: i32) -> Both {
        // SAFETY: NEON is part of the architecture.
        unsafe { Both(vdupq_n_s32(x), vdupq_n_s32(x)) }
    }
    #[inline(always)]
    unsafe fn dot(sum: Both, a: Both, b: Both) -> Both {
        // Of one and the same vector the halves are parted once, wherever it is used.
        let ([even_a, odd_a], [even_b, odd_b]) = (parted(a), parted(b));
        // SAFETY: NEON is part of the architecture.
        unsafe {
            let low = vmlal_s16(sum.0, vget_low_s16(even_a), vget_low_s16(even_b));
            let high = vmlal_high_s16(sum.1, even_a, even_b);
            Both(vmlal_s16(low, vget_low_s16(odd_a), vget_low_s16(odd_b)), vmlal_high_s16(high, odd_a, odd_b))
        }
    }
    #[inline(always)]
    unsafe fn dot_bytes(sum: Both, a: Both, b: Both) -> Both {
        Both(dot_bytes(sum.0, a.0, b.0), dot_bytes(sum.1, a.1, b.1))
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut i32, v: Both) {
        // SAFETY: the caller owes memory at `p` for half a vector.
        unsafe {
            let p = p.cast::<i8>();
            vst1_s8(p, vmovn_s16(halves(v.0)));
            vst1_s8(p.add(8), vmovn_s16(halves(v.1)));
        }
    }
    #[inline(always)]
    unsafe fn add_words(a: Both, b: Both) -> Both {
        // SAFETY: NEON is part of the architecture.
        unsafe { Both(vaddq_s32(a.0, b.0), vaddq_s32(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn even(v: Both) -> Both {
        // SAFETY: NEON is part of the architecture.
        unsafe {
            let even = |v| vshrq_n_s32::<16>(vshlq_n_s32::<16>(v));
            Both(even(v.0), even(v.1))
        }
    }
    #[inline(always)]
    unsafe fn odd(v: Both) -> Both {
        // SAFETY: NEON is part of the architecture.
        unsafe { Both(vshrq_n_s32::<16>(v.0), vshrq_n_s32::<16>(v.1)) }
    }
    #[inline(always)]
    unsafe fn pair(even: Both, odd: Both) -> Both {
        // SAFETY: NEON is part of the architecture.
        unsafe { Both(vsliq_n_s32::<16>(even.0, odd.0), vsliq_n_s32::<16>(even.1, odd.1)) }
    }
    #[inline(always)]
    unsafe fn narrow(a: Both, b: Both) -> Both {
        // SAFETY: NEON is part of the architecture.
        unsafe {
            let join = |v: Both| vreinterpretq_s32_s16(vcombine_s16(vmovn_s32(v.0), vmovn_s32(v.1)));
            Both(join(a), join(b))
        }
    }
    #[inline(always)]
    unsafe fn zip(even: Self::V, odd: Self::V) -> [Self::V; 2] {
        // SAFETY: a vector of floats has as many lanes as the arrays have elements.
        unsafe {
            let (mut parts, mut all) = ([[0.0_f32; Self::LANES]; 2], [0.0_f32; 2 * Self::LANES]);
            Self::store(parts[0].as_mut_ptr(), even);
            Self::store(parts[1].as_mut_ptr(), odd);
            for (i, item) in all.iter_mut().enumerate() {
                *item = parts[i % 2][i / 2];
            }
            [Self::load(all.as_ptr()), Self::load(all.as_ptr().add(Self::LANES))]
        }
    }
    #[inline(always)]
    unsafe fn larger(a: Both, b: Both) -> Both {
        // SAFETY: NEON is part of the architecture.
        unsafe {
            let larger = |a, b| vreinterpretq_s32_s16(vmaxq_s16(halves(a), halves(b)));
            Both(larger(a.0, b.0), larger(a.1, b.1))
        }
    }
    #[inline(always)]
    unsafe fn floats(v: Both) -> Self::V {
        // SAFETY: NEON is part of the architecture; a vector of floats has as many lanes.
        unsafe {
            let mut floats = [0.0_f32; Self::LANES];
            vst1q_f32(floats.as_mut_ptr(), vcvtq_f32_s32(v.0));
            vst1q_f32(floats.as_mut_ptr().add(4), vcvtq_f32_s32(v.1));
            Self::load(floats.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn integers(v: Self::V) -> Both {
        // SAFETY: as above.
        unsafe {
            let mut floats = [0.0_f32; Self::LANES];
            Self::store(floats.as_mut_ptr(), v);
            Both(
                vcvtnq_s32_f32(vld1q_f32(floats.as_ptr())),
                vcvtnq_s32_f32(vld1q_f32(floats.as_ptr().add(4))),
            )
        }
    }
}
