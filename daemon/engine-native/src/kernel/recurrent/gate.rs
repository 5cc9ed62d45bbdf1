//! Activations of gates, for several vectors at once.

use crate::kernel::simd::Simd;

/// What is done to a gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Gate {
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `scale * tanh(slope * x)`.
    Tanh { scale: f32, slope: f32 },
    /// Held between two ends; NaN stays.
    Clamp { low: f32, high: f32 },
    /// `x`, or `slope * x` below zero.
    LeakyRelu { slope: f32 },
    /// `slope * (e^x - 1)` below zero, else `x`.
    Elu { slope: f32 },
    /// `max(0, min(1, slope * x + offset))`.
    HardSigmoid { slope: f32, offset: f32 },
    /// `slope * x + offset`.
    Affine { slope: f32, offset: f32 },
    /// `x / (1 + |x|)`.
    Softsign,
}

/// Applies an expression to all vectors of a list. A macro, since a closure would be compiled without the instruction
/// set of the function around it.
macro_rules! each {
    ($list:expr, $x:ident => $value:expr) => {
        for slot in $list.iter_mut() {
            let $x = *slot;
            *slot = $value;
        }
    };
}

/// Applies an activation.
///
/// # Safety
/// The processor has the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn apply<S: Simd, const N: usize>(gate: Gate, mut list: [S::V; N]) -> [S::V; N] {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        match gate {
            Gate::Sigmoid => each!(list, x => S::sigmoid(x)),
            Gate::Tanh { scale, slope } => {
                let (scale, slope) = (S::splat(scale), S::splat(slope));
                each!(list, x => S::mul(scale, S::tanh(S::mul(slope, x))));
            }
            Gate::Clamp { low, high } => {
                let (low, high) = (S::splat(low), S::splat(high));
                each!(list, x => S::min(high, S::max(low, x)));
            }
            Gate::LeakyRelu { slope } => {
                let slope = S::splat(slope);
                each!(list, x => S::select_less(x, zero, S::mul(x, slope), x));
            }
            Gate::Elu { slope } => {
                let slope = S::splat(slope);
                each!(list, x => S::select_less(x, zero, S::mul(slope, S::sub(S::exp(x), one)), x));
            }
            Gate::HardSigmoid { slope, offset } => {
                let (slope, offset) = (S::splat(slope), S::splat(offset));
                each!(list, x => S::min(one, S::max(zero, S::fma(x, slope, offset))));
            }
            Gate::Affine { slope, offset } => {
                let (slope, offset) = (S::splat(slope), S::splat(offset));
                each!(list, x => S::fma(x, slope, offset));
            }
            Gate::Softsign => each!(list, x => S::div(x, S::add(one, S::abs(x)))),
        }
        list
    }
}

pub(super) use each;
