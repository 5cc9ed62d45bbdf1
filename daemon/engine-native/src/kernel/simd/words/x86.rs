//! AVX2 and AVX-512.

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
    unsafe fn zip(even: __m256, odd: __m256) -> [__m256; 2] {
        // SAFETY: the caller owes a processor with AVX2.
        unsafe {
            let (low, high) = (_mm256_unpacklo_ps(even, odd), _mm256_unpackhi_ps(even, odd));
            [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)]
        }
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
    unsafe fn zip(even: __m512, odd: __m512) -> [__m512; 2] {
        // SAFETY: the caller owes a processor with AVX-512.
        unsafe {
            let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
            [_mm512_permutex2var_ps(even, first, odd), _mm512_permutex2var_ps(even, second, odd)]
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
