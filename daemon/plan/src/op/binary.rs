//! Functions of two elements, choice, and change of datatype.

use agentd_types::Datatype;

use super::{Inputs, Rule, conv::one, need_type, same_type};
use crate::{
    array::{Array, Element, Fact, each, is_float, is_int},
    error::PlanError,
    shape::{self, Walk},
};

/// A function of two elements.
///
/// Inputs: a and b, which broadcast to the output and share their datatype (`Pow`: b may be of another; output has a's).
/// Output: the shape both broadcast to. Integers wrap around; division of integers by 0 is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`; integers are cut towards 0.
    Div,
    /// `a` to the power of `b`.
    Pow,
    /// The larger; NaN where either is.
    Max,
    /// The smaller; NaN where either is.
    Min,
    /// Remainder with the sign of b.
    Mod,
    /// Remainder with the sign of a.
    Fmod,
    /// `a` from 0, else `a * b`.
    PRelu,
    /// Bits of integers.
    BitAnd,
    /// Bits of integers.
    BitOr,
    /// Bits of integers.
    BitXor,
    /// `a << b`; 0 from the number of bits on. Unsigned.
    ShiftLeft,
    /// `a >> b`; 0 from the number of bits on. Unsigned.
    ShiftRight,
}

impl Binary {
    /// The function's value.
    pub fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Pow => a.powf(b),
            Self::Max | Self::Min if a.is_nan() || b.is_nan() => f64::NAN,
            Self::Max => a.max(b),
            Self::Min => a.min(b),
            Self::Mod => a - (a / b).floor() * b,
            Self::Fmod => a % b,
            Self::PRelu if a < 0.0 => a * b,
            Self::PRelu | Self::BitAnd | Self::BitOr | Self::BitXor | Self::ShiftLeft | Self::ShiftRight => a,
        }
    }

    /// The function of whole numbers; `None` for a division by 0.
    fn whole(self, a: i128, b: i128) -> Option<i128> {
        let bits = u32::try_from(b).ok().filter(|bits| *bits < 64);
        Some(match self {
            Self::Add => a.wrapping_add(b),
            Self::Sub => a.wrapping_sub(b),
            Self::Mul => a.wrapping_mul(b),
            Self::Div => a.checked_div(b)?,
            Self::Pow => u32::try_from(b).map_or(i128::from(a == 1), |b| a.wrapping_pow(b)),
            Self::Max => a.max(b),
            Self::Min => a.min(b),
            Self::Mod => {
                let rest = a.checked_rem(b)?;
                if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }
            }
            Self::Fmod => a.checked_rem(b)?,
            Self::PRelu if a < 0 => a.wrapping_mul(b),
            Self::PRelu => a,
            Self::BitAnd => a & b,
            Self::BitOr => a | b,
            Self::BitXor => a ^ b,
            Self::ShiftLeft => bits.map_or(0, |bits| a << bits),
            Self::ShiftRight => bits.map_or(0, |bits| a >> bits),
        })
    }

    const fn is_bits(self) -> bool {
        matches!(self, Self::BitAnd | Self::BitOr | Self::BitXor | Self::ShiftLeft | Self::ShiftRight)
    }
}

/// Both operands read as if they had the output's shape.
fn pairs(a: &Array, b: &Array, output: &[usize]) -> Result<(Walk, Walk), PlanError> {
    let steps = |array: &Array| shape::broadcast_strides(array.shape(), output);
    Ok((Walk::forward(output, &steps(a)?), Walk::forward(output, &steps(b)?)))
}

/// `function` of every pair.
fn zip<T: Copy + Default, R>(
    (a, b): (&[T], &[T]),
    (walk_a, walk_b): (Walk, Walk),
    function: impl Fn(T, T) -> R,
) -> Vec<R> {
    let at = |items: &[T], place| items.get(place).copied().unwrap_or_default();
    walk_a.zip(walk_b).map(|(x, y)| function(at(a, x), at(b, y))).collect()
}

impl Rule for Binary {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        let numbers = |fact: &Fact| is_int(fact.datatype) || is_float(fact.datatype) && !self.is_bits();
        if *self != Self::Pow {
            same_type(a, b)?;
        }
        if !numbers(a) || !numbers(b) {
            return Err(PlanError::datatype(format!("{self:?} of {}", a.datatype.as_str())));
        }
        Ok(vec![a.shaped(shape::broadcast(&a.shape, &b.shape)?)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (a, b, output) = (inputs.need(0)?, inputs.need(1)?, one(outputs)?);
        let walks = pairs(a, b, &output.shape)?;
        if is_int(a.datatype()) && is_int(b.datatype()) {
            let items = zip((&a.wholes()?, &b.wholes()?), walks, |a, b| self.whole(a, b));
            let items = items.into_iter().collect::<Option<Vec<_>>>();
            let items = items.ok_or_else(|| PlanError::value("division of integers by 0"))?;
            return Ok(vec![Array::from_wholes(output.datatype, output.shape.clone(), items)?]);
        }
        let items = zip((&a.reals()?, &b.reals()?), walks, |a, b| self.apply(a, b));
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items)?])
    }
}

/// A comparison. Inputs: a and b of one datatype, which broadcast. Output: `BOOL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// `a == b`; texts too.
    Equal,
    /// `a < b`
    Less,
    /// `a <= b`
    LessOrEqual,
    /// `a > b`
    Greater,
    /// `a >= b`
    GreaterOrEqual,
}

impl Compare {
    /// The comparison's answer; false where either is not a number.
    pub fn holds<T: PartialOrd>(self, a: &T, b: &T) -> bool {
        match self {
            Self::Equal => a == b,
            Self::Less => a < b,
            Self::LessOrEqual => a <= b,
            Self::Greater => a > b,
            Self::GreaterOrEqual => a >= b,
        }
    }
}

impl Rule for Compare {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        same_type(a, b)?;
        Ok(vec![Fact::new(Datatype::Bool, shape::broadcast(&a.shape, &b.shape)?)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        fn compare<T: Element + PartialOrd>(
            compare: Compare,
            a: &[T],
            b: &Array,
            (walk_a, walk_b): (Walk, Walk),
        ) -> Result<Vec<bool>, PlanError> {
            let b = b.view::<T>()?;
            Ok(walk_a.zip(walk_b).map(|(x, y)| compare.holds(&a.get(x), &b.get(y))).collect())
        }
        let (a, b, output) = (inputs.need(0)?, inputs.need(1)?, one(outputs)?);
        let walks = pairs(a, b, &output.shape)?;
        use crate::array::Data;
        let items = each!(a.data(), items => compare(*self, items, b, walks))?;
        Ok(vec![Array::new(output.shape.clone(), items)?])
    }
}

/// A function of two booleans. Inputs: a and b, `BOOL`, which broadcast. Output: `BOOL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logic {
    /// Both.
    And,
    /// At least one.
    Or,
    /// Exactly one.
    Xor,
}

impl Rule for Logic {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        need_type(a, Datatype::Bool)?;
        need_type(b, Datatype::Bool)?;
        Ok(vec![a.shaped(shape::broadcast(&a.shape, &b.shape)?)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (a, b, output) = (inputs.need(0)?, inputs.need(1)?, one(outputs)?);
        let walks = pairs(a, b, &output.shape)?;
        let items = zip((a.view::<bool>()?, b.view::<bool>()?), walks, |a, b| match self {
            Self::And => a && b,
            Self::Or => a || b,
            Self::Xor => a != b,
        });
        Ok(vec![Array::new(output.shape.clone(), items)?])
    }
}

/// Choice. Inputs: condition `BOOL`, a where it holds, b elsewhere (one datatype); all broadcast to the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where;

impl Rule for Where {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(3..=3)?;
        let (condition, a, b) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        need_type(condition, Datatype::Bool)?;
        same_type(a, b)?;
        let shape = shape::broadcast(&a.shape, &b.shape)?;
        Ok(vec![a.shaped(shape::broadcast(&condition.shape, &shape)?)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (condition, a, b) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        let output = one(outputs)?;
        let both = Array::chain(&[a, b])?;
        let (walk_a, walk_b) = pairs(a, b, &output.shape)?;
        let condition = condition.broadcast(&output.shape)?;
        let places = condition.view::<bool>()?.iter().zip(walk_a.zip(walk_b));
        let places = places.map(|(holds, (x, y))| if *holds { x } else { a.len() + y });
        Ok(vec![both.pick(output.shape.clone(), places)?])
    }
}

/// Change of datatype. Input: one tensor. Output: the same shape, of datatype `to`.
///
/// Floats become integers by cutting the fraction off, clamped where they are too large (as a saturating cast) unless the
/// source is an integer, which wraps around; anything but 0 becomes `true`. Texts are read as and written like C's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    /// The new datatype.
    pub to: Datatype,
}

impl Rule for Cast {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        Ok(vec![inputs.need(0)?.with(self.to)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let x = inputs.need(0)?;
        let shape = x.shape().to_vec();
        Ok(vec![if x.datatype() == self.to {
            x.clone()
        } else if let Some(texts) = x.items::<Vec<u8>>() {
            let reals = texts.iter().map(|text| super::text::parse(text)).collect::<Result<_, _>>()?;
            Array::from_reals(self.to, shape, reals)?
        } else if self.to == Datatype::Bytes {
            Array::new(shape, super::text::format(x)?)?
        } else if is_float(x.datatype()) {
            Array::from_reals(self.to, shape, x.reals()?)?
        } else {
            Array::from_wholes(self.to, shape, x.wholes()?)?
        }])
    }
}
