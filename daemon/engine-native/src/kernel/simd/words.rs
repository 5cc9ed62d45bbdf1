//! Lanes of 32-bit words that hold two 16-bit integers each: what products of integers need.
//!
//! A word is two neighbouring channels, the even one in its lower half. Sums are 32-bit integers, one a lane.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

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
    /// Floats of even and of odd places in one order: the first half of them, then the second.
    unsafe fn zip(even: Self::V, odd: Self::V) -> [Self::V; 2];
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
    unsafe fn zip(even: [f32; 8], odd: [f32; 8]) -> [[f32; 8]; 2] {
        std::array::from_fn(|half| {
            std::array::from_fn(|i| if i % 2 == 0 { even[half * 4 + i / 2] } else { odd[half * 4 + i / 2] })
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
