//! What is done to quantised maps besides products.
//!
//! A word is two channels as 16-bit integers less their zero point, the even one below.

pub(crate) mod convert;
pub(crate) mod maps;

use super::simd::words::Words;

/// The nearest steps of numbers, held in a range; NaN becomes 0.
#[inline(always)]
unsafe fn steps<S: Words>(x: S::V, scale: S::V, low: S::V, high: S::V) -> S::W {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        let held = S::min(high, S::max(low, S::div(x, scale)));
        let is_number = S::select_less(held, S::splat(f32::INFINITY), held, S::splat(0.0));
        S::integers(is_number)
    }
}
