//! Functions of one element.

use super::{Inputs, Rule, conv::one};
use crate::{
    array::{Array, Fact, is_float, is_int},
    error::PlanError,
};

/// A function of one element.
///
/// Input and output: one tensor of any shape, the same datatype, but for `IsNan` and `IsInf` (output `BOOL`). Floats;
/// `Abs`, `Neg`, `Sign`, `Relu`, `Clip` also integers; `Not` booleans, `BitNot` integers.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Unary {
    /// `|x|`
    Abs,
    /// `-x`
    Neg,
    /// -1, 0 or 1; NaN stays.
    Sign,
    /// `1 / x`
    Reciprocal,
    /// Square root; NaN below 0.
    Sqrt,
    /// `e^x`
    Exp,
    /// Natural logarithm.
    Log,
    /// Largest whole number not above.
    Floor,
    /// Smallest whole number not below.
    Ceil,
    /// Nearest whole number, halves to even.
    Round,
    /// Error function.
    Erf,
    /// Sine of radians.
    Sin,
    /// Cosine of radians.
    Cos,
    /// Tangent of radians.
    Tan,
    /// Inverse of `Sin`.
    Asin,
    /// Inverse of `Cos`.
    Acos,
    /// Inverse of `Tan`.
    Atan,
    /// Hyperbolic sine.
    Sinh,
    /// Hyperbolic cosine.
    Cosh,
    /// Hyperbolic tangent.
    Tanh,
    /// Inverse of `Sinh`.
    Asinh,
    /// Inverse of `Cosh`.
    Acosh,
    /// Inverse of `Tanh`.
    Atanh,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `x * sigmoid(alpha * x)`; alpha 1 is SiLU.
    Swish {
        /// Multiplies x inside.
        alpha: f32,
    },
    /// `max(x, 0)`; NaN stays.
    Relu,
    /// `min(max(x, low), high)`; NaN stays; for integers the bounds are rounded to `f32`.
    Clip {
        /// Lower bound; may be minus infinity.
        low: f32,
        /// Upper bound; may be infinity. Wins where it is below `low`.
        high: f32,
    },
    /// `x` from 0, else `alpha * x`.
    LeakyRelu {
        /// The slope below 0.
        alpha: f32,
    },
    /// `x` from 0, else `alpha * (e^x - 1)`.
    Elu {
        /// The factor below 0.
        alpha: f32,
    },
    /// `max(0, x) + min(0, alpha * (e^(x / alpha) - 1))`
    Celu {
        /// The factor below 0.
        alpha: f32,
    },
    /// `gamma * x` above 0, else `gamma * alpha * (e^x - 1)`.
    Selu {
        /// The factor below 0.
        alpha: f32,
        /// The factor everywhere.
        gamma: f32,
    },
    /// `max(0, min(1, alpha * x + beta))`
    HardSigmoid {
        /// The slope.
        alpha: f32,
        /// The value at 0.
        beta: f32,
    },
    /// `x * max(0, min(1, x / 6 + 1 / 2))`
    HardSwish,
    /// `x / 2 * (1 + erf(x / sqrt 2))`
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`
    GeluTanh,
    /// `x * tanh(ln(1 + e^x))`
    Mish,
    /// `ln(1 + e^x)`
    Softplus,
    /// `alpha * tanh(beta * x)`, an activation of recurrent operators.
    ScaledTanh {
        /// Multiplies the result.
        alpha: f32,
        /// Multiplies x.
        beta: f32,
    },
    /// `alpha * x + beta`
    Affine {
        /// The slope.
        alpha: f32,
        /// The value at 0.
        beta: f32,
    },
    /// `x / (1 + |x|)`
    Softsign,
    /// `x + bias` below `-lambda`, `x - bias` above `lambda`, else 0.
    Shrink {
        /// Moves what is left towards 0.
        bias: f32,
        /// Half the width of the gap.
        lambda: f32,
    },
    /// `x` above `alpha`, else 0.
    ThresholdedRelu {
        /// The threshold.
        alpha: f32,
    },
    /// Whether x is not a number.
    IsNan,
    /// Whether x is infinite with one of the signs asked for.
    IsInf {
        /// Minus infinity counts.
        negative: bool,
        /// Infinity counts.
        positive: bool,
    },
    /// Logical not.
    Not,
    /// Every bit turned over.
    BitNot,
}

impl Unary {
    /// The function's value; predicates give 0 or 1.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Self::Abs => x.abs(),
            Self::Neg => -x,
            Self::Sign if x == 0.0 || x.is_nan() => x,
            Self::Sign => x.signum(),
            Self::Reciprocal => 1.0 / x,
            Self::Sqrt => x.sqrt(),
            Self::Exp => x.exp(),
            Self::Log => x.ln(),
            Self::Floor => x.floor(),
            Self::Ceil => x.ceil(),
            Self::Round => x.round_ties_even(),
            Self::Erf => erf(x),
            Self::Sin => x.sin(),
            Self::Cos => x.cos(),
            Self::Tan => x.tan(),
            Self::Asin => x.asin(),
            Self::Acos => x.acos(),
            Self::Atan => x.atan(),
            Self::Sinh => x.sinh(),
            Self::Cosh => x.cosh(),
            Self::Tanh => x.tanh(),
            Self::Asinh => x.asinh(),
            Self::Acosh => x.acosh(),
            Self::Atanh => x.atanh(),
            Self::IsNan => f64::from(u8::from(x.is_nan())),
            Self::IsInf { negative, positive } => {
                let counts = if x > 0.0 { positive } else { negative };
                f64::from(u8::from(x.is_infinite() && counts))
            }
            Self::Not => f64::from(u8::from(x == 0.0)),
            Self::BitNot => x,
            _ => self.activate(x),
        }
    }

    fn activate(self, x: f64) -> f64 {
        let real = f64::from;
        match self {
            Self::Sigmoid => sigmoid(x),
            Self::Swish { alpha } => x * sigmoid(real(alpha) * x),
            Self::Relu if x.is_nan() => x,
            Self::Relu => x.max(0.0),
            Self::Clip { .. } if x.is_nan() => x,
            Self::Clip { low, high } => x.max(real(low)).min(real(high)),
            Self::LeakyRelu { alpha } if x < 0.0 => real(alpha) * x,
            Self::Elu { alpha } if x < 0.0 => real(alpha) * x.exp_m1(),
            Self::Celu { alpha } => x.max(0.0) + (real(alpha) * (x / real(alpha)).exp_m1()).min(0.0),
            Self::Selu { alpha, gamma } if x <= 0.0 => real(gamma) * real(alpha) * x.exp_m1(),
            Self::Selu { gamma, .. } => real(gamma) * x,
            Self::HardSigmoid { alpha, beta } => hard(real(alpha) * x + real(beta)),
            Self::HardSwish => x * hard(x / 6.0 + 0.5),
            Self::Gelu => x / 2.0 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                x / 2.0 * (1.0 + inner.tanh())
            }
            Self::Mish => x * softplus(x).tanh(),
            Self::Softplus => softplus(x),
            Self::ScaledTanh { alpha, beta } => real(alpha) * (real(beta) * x).tanh(),
            Self::Affine { alpha, beta } => real(alpha) * x + real(beta),
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Shrink { bias, lambda } if x < -real(lambda) => x + real(bias),
            Self::Shrink { bias, lambda } if x > real(lambda) => x - real(bias),
            Self::Shrink { .. } => 0.0,
            Self::ThresholdedRelu { alpha } if x <= real(alpha) => 0.0,
            _ => x,
        }
    }

    fn whole(self, x: i128) -> Option<i128> {
        Some(match self {
            Self::Abs => x.wrapping_abs(),
            Self::Neg => x.wrapping_neg(),
            Self::Sign => x.signum(),
            Self::Relu => x.max(0),
            Self::BitNot => !x,
            Self::Clip { low, high } => x.max(bound(low)).min(bound(high)),
            Self::Floor | Self::Ceil | Self::Round => x,
            _ => return None,
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "infinite bounds become the widest integers")]
fn bound(x: f32) -> i128 {
    x as i128
}

fn hard(x: f64) -> f64 {
    if x.is_nan() { x } else { x.clamp(0.0, 1.0) }
}

/// `1 / (1 + e^-x)` without overflow.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

/// The error function, to about 1e-15.
///
/// Source: Abramowitz and Stegun (1964), 7.1.5 (series, below 2) and 7.1.14 (continued fraction of erfc, from 2).
pub(crate) fn erf(x: f64) -> f64 {
    let size = x.abs();
    if x.is_nan() {
        return x;
    }
    if size > 6.0 {
        return x.signum();
    }
    if size < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100_u8 {
            let n = f64::from(n);
            term *= -x * x / n;
            let step = term / (2.0 * n + 1.0);
            sum += step;
            if step.abs() <= sum.abs() * 1e-17 {
                break;
            }
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let tail = (1..=120_u8).rev().fold(0.0, |tail, k| f64::from(k) / 2.0 / (size + tail));
    let erfc = (-size * size).exp() / (size + tail) * std::f64::consts::FRAC_2_SQRT_PI / 2.0;
    (1.0 - erfc) * x.signum()
}

impl Rule for Unary {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        use agentd_types::Datatype::Bool;
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        let fits = match self {
            Self::Not => x.datatype == Bool,
            Self::BitNot => is_int(x.datatype),
            _ => is_float(x.datatype) || (is_int(x.datatype) && self.whole(0).is_some()),
        };
        if !fits {
            return Err(PlanError::datatype(format!("{self:?} of {}", x.datatype.as_str())));
        }
        let is_predicate = matches!(self, Self::IsNan | Self::IsInf { .. });
        Ok(vec![if is_predicate { x.with(Bool) } else { x.clone() }])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        if is_int(x.datatype()) {
            let items = x.wholes()?.into_iter().map(|item| self.whole(item).unwrap_or(item)).collect();
            return Ok(vec![Array::from_wholes(output.datatype, output.shape.clone(), items)?]);
        }
        let items = x.reals()?.into_iter().map(|item| self.apply(item)).collect();
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_is_right_to_the_last_digits() {
        for (x, want) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.9, 0.999_958_902_121_900_6),
            (3.1, 0.999_988_351_342_632_8),
            (-2.0, -0.995_322_265_018_952_7),
        ] {
            assert!((erf(x) - want).abs() < 4e-15, "{x}: {} {want}", erf(x));
        }
    }
}
