//! Lanes of 32-bit words that hold two 16-bit integers each: what products of integers need.
//!
//! A word is two neighbouring channels, the even one in its lower half. Sums are 32-bit integers, one a lane.

use super::{Portable, Simd};

/// Vectors of words and what kernels do with them.
///
/// # Safety
/// As [`Simd`]: the instruction set, and words for a whole vector where there is a pointer.
pub(crate) trait Words: Simd {
    /// A vector of [`Simd::LANES`] words or 32-bit integers.
    type W: Copy;
    /// Whether products of bytes take less than products of halves.
    const BYTES: bool;

    unsafe fn load_words(p: *const i32) -> Self::W;
    unsafe fn store_words(p: *mut i32, v: Self::W);
    unsafe fn splat_word(x: i32) -> Self::W;
    /// `sum + a.even * b.even + a.odd * b.odd` of each word; exact while the sum fits into 32 bits.
    unsafe fn dot(sum: Self::W, a: Self::W, b: Self::W) -> Self::W;
    /// The sum and the products of the four bytes of each word, those of `a` without signs, those of `b` with signs;
    /// exact where neither the lower nor the upper two products sum up to more than 16 bits hold.
    unsafe fn dot_bytes(sum: Self::W, a: Self::W, b: Self::W) -> Self::W;
    /// Stores halves in `0..=255` as bytes: half a vector.
    unsafe fn store_bytes(p: *mut i32, v: Self::W);
    /// Sums of 32-bit integers.
    unsafe fn add_words(a: Self::W, b: Self::W) -> Self::W;
    /// The lower halves, with their signs.
    unsafe fn even(v: Self::W) -> Self::W;
    /// The upper halves, with their signs.
    unsafe fn odd(v: Self::W) -> Self::W;
    /// Words of 32-bit integers that fit into 16 bits.
    unsafe fn pair(even: Self::W, odd: Self::W) -> Self::W;
    /// Words of 32-bit integers that fit into 16 bits, neighbours side by side: first those of `a`, then those of `b`.
    unsafe fn narrow(a: Self::W, b: Self::W) -> Self::W;
    /// The larger of both, half by half.
    unsafe fn larger(a: Self::W, b: Self::W) -> Self::W;
    /// 32-bit integers as floats.
    unsafe fn floats(v: Self::W) -> Self::V;
    /// The nearest 32-bit integers, ties to even.
    unsafe fn integers(v: Self::V) -> Self::W;

    /// `sum * (factor + rest)`, rounded to single precision as if it were exact; `rest` is what `factor` lacks.
    ///
    /// What the multiplication loses is found by a fused one and added together with the rest of the factor.
    #[inline(always)]
    unsafe fn scaled(sum: Self::W, factor: Self::V, rest: Self::V) -> Self::V {
        // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
        unsafe {
            let sum = Self::floats(sum);
            let near = Self::mul(sum, factor);
            let lost = Self::fma(sum, factor, Self::sub(Self::splat(0.0), near));
            Self::add(near, Self::fma(sum, rest, lost))
        }
    }
}

/// The halves of a word.
#[expect(clippy::cast_possible_truncation, reason = "halves of a word")]
const fn halves(word: i32) -> [i32; 2] {
    [word as i16 as i32, word >> 16]
}

const fn joined(even: i32, odd: i32) -> i32 {
    (even & 0xffff) | (odd << 16)
}

impl Words for Portable {
    type W = [i32; 8];
    const BYTES: bool = true;

    #[inline(always)]
    unsafe fn load_words(p: *const i32) -> [i32; 8] {
        // SAFETY: the caller owes memory at `p` for a vector.
        unsafe { p.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut i32, v: [i32; 8]) {
        // SAFETY: the caller owes memory at `p` for a vector.
        unsafe { p.cast::<[i32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat_word(x: i32) -> [i32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn dot(sum: [i32; 8], a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| {
            let ([a, c], [b, d]) = (halves(a[i]), halves(b[i]));
            sum[i].wrapping_add((a * b).wrapping_add(c * d))
        })
    }
    #[inline(always)]
    unsafe fn dot_bytes(sum: [i32; 8], a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| {
            let products = a[i].to_le_bytes().into_iter().zip(b[i].to_le_bytes());
            products.fold(sum[i], |sum, (a, b)| sum.wrapping_add(i32::from(a) * i32::from(b.cast_signed())))
        })
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut i32, v: [i32; 8]) {
        let halves = v.map(|word| word.to_le_bytes());
        for (i, pair) in halves.as_chunks::<2>().0.iter().enumerate() {
            let [[a, _, b, _], [c, _, d, _]] = *pair;
            // SAFETY: the caller owes memory at `p` for half a vector.
            unsafe { p.add(i).write(i32::from_le_bytes([a, b, c, d])) }
        }
    }
    #[inline(always)]
    unsafe fn add_words(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn even(v: [i32; 8]) -> [i32; 8] {
        v.map(|word| halves(word)[0])
    }
    #[inline(always)]
    unsafe fn odd(v: [i32; 8]) -> [i32; 8] {
        v.map(|word| halves(word)[1])
    }
    #[inline(always)]
    unsafe fn pair(even: [i32; 8], odd: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| joined(even[i], odd[i]))
    }
    #[inline(always)]
    unsafe fn narrow(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| {
            let from = if i < 4 { &a } else { &b };
            joined(from[2 * i % 8], from[2 * i % 8 + 1])
        })
    }
    #[inline(always)]
    unsafe fn larger(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| {
            let ([a, c], [b, d]) = (halves(a[i]), halves(b[i]));
            joined(a.max(b), c.max(d))
        })
    }
    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "rounded, as the conversion says")]
    unsafe fn floats(v: [i32; 8]) -> [f32; 8] {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "callers hold the numbers within the range")]
    unsafe fn integers(v: [f32; 8]) -> [i32; 8] {
        v.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "rounded, as the function says")]
    unsafe fn scaled(sum: [i32; 8], factor: [f32; 8], rest: [f32; 8]) -> [f32; 8] {
        // There is no fused multiplication here, but there are 53 bits.
        std::array::from_fn(|i| (f64::from(sum[i]) * (f64::from(factor[i]) + f64::from(rest[i]))) as f32)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Words;
    use crate::kernel::simd::{Avx2, Avx512};

    impl Words for Avx2 {
        type W = __m256i;
        const BYTES: bool = true;

        #[inline(always)]
        unsafe fn load_words(p: *const i32) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2, and memory at `p` for a vector.
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store_words(p: *mut i32, v: __m256i) {
            // SAFETY: the caller owes a processor with AVX2, and memory at `p` for a vector.
            unsafe { _mm256_storeu_si256(p.cast(), v) }
        }
        #[inline(always)]
        unsafe fn splat_word(x: i32) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn dot(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
        }
        #[inline(always)]
        unsafe fn dot_bytes(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe {
                let pairs = _mm256_maddubs_epi16(a, b);
                _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut i32, v: __m256i) {
            // SAFETY: the caller owes a processor with AVX2, and memory at `p` for half a vector.
            unsafe {
                let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi16(v, v));
                _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(bytes));
            }
        }
        #[inline(always)]
        unsafe fn add_words(a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn even(v: __m256i) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(v)) }
        }
        #[inline(always)]
        unsafe fn odd(v: __m256i) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_srai_epi32::<16>(v) }
        }
        #[inline(always)]
        unsafe fn pair(even: __m256i, odd: __m256i) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_blend_epi16::<0b1010_1010>(even, _mm256_slli_epi32::<16>(odd)) }
        }
        #[inline(always)]
        unsafe fn narrow(a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b)) }
        }
        #[inline(always)]
        unsafe fn larger(a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_max_epi16(a, b) }
        }
        #[inline(always)]
        unsafe fn floats(v: __m256i) -> __m256 {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_cvtepi32_ps(v) }
        }
        #[inline(always)]
        unsafe fn integers(v: __m256) -> __m256i {
            // SAFETY: the caller owes a processor with AVX2.
            unsafe { _mm256_cvtps_epi32(v) }
        }
    }

    impl Words for Avx512 {
        type W = __m512i;
        const BYTES: bool = true;

        #[inline(always)]
        unsafe fn load_words(p: *const i32) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512, and memory at `p` for a vector.
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store_words(p: *mut i32, v: __m512i) {
            // SAFETY: the caller owes a processor with AVX-512, and memory at `p` for a vector.
            unsafe { _mm512_storeu_si512(p.cast(), v) }
        }
        #[inline(always)]
        unsafe fn splat_word(x: i32) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512.
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn dot(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512 and its instructions on bytes and halves.
            unsafe { _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)) }
        }
        #[inline(always)]
        unsafe fn dot_bytes(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512 and its instructions on bytes and halves.
            unsafe {
                let pairs = _mm512_maddubs_epi16(a, b);
                _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
            }
        }
        #[inline(always)]
        unsafe fn store_bytes(p: *mut i32, v: __m512i) {
            // SAFETY: the caller owes a processor with AVX-512 and its instructions on bytes and halves, and memory at
            // `p` for half a vector.
            unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtepi16_epi8(v)) }
        }
        #[inline(always)]
        unsafe fn add_words(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512.
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn even(v: __m512i) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512.
            unsafe { _mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(v)) }
        }
        #[inline(always)]
        unsafe fn odd(v: __m512i) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512.
            unsafe { _mm512_srai_epi32::<16>(v) }
        }
        #[inline(always)]
        unsafe fn pair(even: __m512i, odd: __m512i) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512.
            unsafe {
                let low = _mm512_and_si512(even, _mm512_set1_epi32(0xffff));
                _mm512_or_si512(low, _mm512_slli_epi32::<16>(odd))
            }
        }
        #[inline(always)]
        unsafe fn narrow(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512.
            unsafe {
                let low = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(a));
                _mm512_inserti64x4::<1>(low, _mm512_cvtepi32_epi16(b))
            }
        }
        #[inline(always)]
        unsafe fn larger(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512 and its instructions on bytes and halves.
            unsafe { _mm512_max_epi16(a, b) }
        }
        #[inline(always)]
        unsafe fn floats(v: __m512i) -> __m512 {
            // SAFETY: the caller owes a processor with AVX-512.
            unsafe { _mm512_cvtepi32_ps(v) }
        }
        #[inline(always)]
        unsafe fn integers(v: __m512) -> __m512i {
            // SAFETY: the caller owes a processor with AVX-512.
            unsafe { _mm512_cvtps_epi32(v) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
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

    #[inline(always)]
    fn dot(sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        let (a, b) = (halves(a), halves(b));
        // SAFETY: NEON is part of the architecture.
        unsafe {
            let low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
            vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(a, b)))
        }
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
            let high = vpaddq_s32(
                vmull_s16(vget_low_s16(a_high), vget_low_s16(b_high)),
                vmull_high_s16(a_high, b_high),
            );
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
            Both(dot(sum.0, a.0, b.0), dot(sum.1, a.1, b.1))
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
}
