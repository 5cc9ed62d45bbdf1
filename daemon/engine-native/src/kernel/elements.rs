//! What is done to elements of several datatypes: change of datatype, comparison, choice, whole numbers.
//!
//! One row at a time. The code is plain; compiled for each instruction set, the compiler makes vectors of it.

use agentd_plan::op::Compare;

use super::simd::Simd;

/// A datatype that the kernels read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A byte; anything but 0 holds.
    Bool,
    /// `u8`
    U8,
    /// `i8`
    I8,
    /// `i32`
    I32,
    /// `i64`
    I64,
    /// `f32`
    F32,
}

impl Kind {
    /// Bytes of an element.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::I32 | Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

/// A function of two whole numbers, which wrap around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    /// `a + b`
    Add,
    /// `a - b`
    Subtract,
    /// `a * b`
    Multiply,
    /// `a / b`, cut towards 0; `b` is never 0.
    Divide,
    /// The larger.
    Maximum,
    /// The smaller.
    Minimum,
}

/// A function of two truth values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    /// Both.
    And,
    /// At least one.
    Or,
    /// Exactly one.
    Xor,
}

/// What is done to each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Each {
    /// Another datatype.
    Cast {
        /// From which.
        from: Kind,
        /// To which.
        to: Kind,
    },
    /// Whether a comparison holds.
    Compare {
        /// Of which elements.
        of: Kind,
        /// Which comparison.
        how: Compare,
    },
    /// Whole numbers of 4 bytes, or 8.
    Whole {
        /// 8.
        wide: bool,
        /// What is computed.
        how: Whole,
    },
    /// Two truth values.
    Truth(Truth),
    /// The other truth value.
    Not,
    /// Whether a float is no number.
    IsNan,
    /// The second operand where the first holds, else the third: elements of so many bytes, 1, 4 or 8.
    Choose(usize),
}

impl Each {
    /// Bytes of an element of each operand, 0 where there is none, and of the output; `None` for sizes without a kernel.
    pub(crate) const fn sizes(self) -> Option<([usize; 3], usize)> {
        Some(match self {
            Self::Cast { from, to } => ([from.size(), 0, 0], to.size()),
            Self::Compare { of, .. } => ([of.size(), of.size(), 0], 1),
            Self::Whole { wide: true, .. } => ([8, 8, 0], 8),
            Self::Whole { wide: false, .. } => ([4, 4, 0], 4),
            Self::Truth(_) => ([1, 1, 0], 1),
            Self::Not => ([1, 0, 0], 1),
            Self::IsNan => ([4, 0, 0], 1),
            Self::Choose(size @ (1 | 4 | 8)) => ([1, size, size], size),
            Self::Choose(_) => return None,
        })
    }
}

/// A row of elements. Distances are in elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Up to three operands.
    pub(crate) operands: [*const u8; 3],
    /// From one element to the next; 0 where one is used along the row.
    pub(crate) steps: [usize; 3],
    /// The results, next to each other.
    pub(crate) output: *mut u8,
    /// How many.
    pub(crate) count: usize,
    /// What is done.
    pub(crate) each: Each,
}

/// One operand.
macro_rules! one {
    ($p:expr, $a:ty, $o:ty, $x:ident => $value:expr) => {{
        let (a, to, step) = ($p.operands[0].cast::<$a>(), $p.output.cast::<$o>(), $p.steps[0]);
        if step == 1 {
            for i in 0..$p.count {
                let $x = a.add(i).read_unaligned();
                to.add(i).write_unaligned($value);
            }
        } else {
            for i in 0..$p.count {
                let $x = a.add(i * step).read_unaligned();
                to.add(i).write_unaligned($value);
            }
        }
    }};
}

/// Two operands of one type.
macro_rules! two {
    ($p:expr, $a:ty, $o:ty, $x:ident, $y:ident => $value:expr) => {{
        let (a, b, to) = ($p.operands[0].cast::<$a>(), $p.operands[1].cast::<$a>(), $p.output.cast::<$o>());
        match ($p.steps[0], $p.steps[1]) {
            (1, 1) => {
                for i in 0..$p.count {
                    let ($x, $y) = (a.add(i).read_unaligned(), b.add(i).read_unaligned());
                    to.add(i).write_unaligned($value);
                }
            }
            (0, 1) if $p.count > 0 => {
                let $x = a.read_unaligned();
                for i in 0..$p.count {
                    let $y = b.add(i).read_unaligned();
                    to.add(i).write_unaligned($value);
                }
            }
            (1, 0) if $p.count > 0 => {
                let $y = b.read_unaligned();
                for i in 0..$p.count {
                    let $x = a.add(i).read_unaligned();
                    to.add(i).write_unaligned($value);
                }
            }
            (step_a, step_b) => {
                for i in 0..$p.count {
                    let ($x, $y) = (a.add(i * step_a).read_unaligned(), b.add(i * step_b).read_unaligned());
                    to.add(i).write_unaligned($value);
                }
            }
        }
    }};
}

/// Another datatype, as `as` has it.
macro_rules! cast {
    ($p:expr, $from:ty, $to:expr) => {
        match $to {
            Kind::Bool => one!($p, $from, u8, x => u8::from(x != <$from>::default())),
            Kind::U8 => one!($p, $from, u8, x => x as u8),
            Kind::I8 => one!($p, $from, i8, x => x as i8),
            Kind::I32 => one!($p, $from, i32, x => x as i32),
            Kind::I64 => one!($p, $from, i64, x => x as i64),
            // By way of `f64`, as the interpreter rounds.
            Kind::F32 => one!($p, $from, f32, x => x as f64 as f32),
        }
    };
}

/// A comparison of one type.
macro_rules! compare {
    ($p:expr, $of:ty, $how:expr) => {
        match $how {
            Compare::Equal => two!($p, $of, u8, x, y => u8::from(x == y)),
            Compare::Less => two!($p, $of, u8, x, y => u8::from(x < y)),
            Compare::LessOrEqual => two!($p, $of, u8, x, y => u8::from(x <= y)),
            Compare::Greater => two!($p, $of, u8, x, y => u8::from(x > y)),
            Compare::GreaterOrEqual => two!($p, $of, u8, x, y => u8::from(x >= y)),
        }
    };
}

/// Whole numbers of one type.
macro_rules! whole {
    ($p:expr, $of:ty, $how:expr) => {
        match $how {
            Whole::Add => two!($p, $of, $of, x, y => x.wrapping_add(y)),
            Whole::Subtract => two!($p, $of, $of, x, y => x.wrapping_sub(y)),
            Whole::Multiply => two!($p, $of, $of, x, y => x.wrapping_mul(y)),
            Whole::Divide => two!($p, $of, $of, x, y => if y == 0 { 0 } else { x.wrapping_div(y) }),
            Whole::Maximum => two!($p, $of, $of, x, y => x.max(y)),
            Whole::Minimum => two!($p, $of, $of, x, y => x.min(y)),
        }
    };
}

/// A choice between elements of one size.
macro_rules! choose {
    ($p:expr, $of:ty) => {{
        let (a, b) = ($p.operands[1].cast::<$of>(), $p.operands[2].cast::<$of>());
        let ([step, step_a, step_b], to) = ($p.steps, $p.output.cast::<$of>());
        for i in 0..$p.count {
            let (x, y) = (a.add(i * step_a).read_unaligned(), b.add(i * step_b).read_unaligned());
            to.add(i).write_unaligned(if *$p.operands[0].add(i * step) != 0 { x } else { y });
        }
    }};
}

/// Does what `p.each` says.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_lossless,
    clippy::float_cmp,
    reason = "casts saturate or wrap around as the operator says"
)]
pub(crate) unsafe fn elements<S: Simd>(p: &Row) {
    // SAFETY: the caller owes memory for all that the parameters describe.
    unsafe {
        match p.each {
            Each::Cast { from: Kind::Bool, to } => match to {
                Kind::Bool | Kind::U8 | Kind::I8 => one!(p, u8, u8, x => u8::from(x != 0)),
                Kind::I32 => one!(p, u8, i32, x => i32::from(x != 0)),
                Kind::I64 => one!(p, u8, i64, x => i64::from(x != 0)),
                Kind::F32 => one!(p, u8, f32, x => if x != 0 { 1.0 } else { 0.0 }),
            },
            Each::Cast { from: Kind::U8, to } => cast!(p, u8, to),
            Each::Cast { from: Kind::I8, to } => cast!(p, i8, to),
            Each::Cast { from: Kind::I32, to } => cast!(p, i32, to),
            Each::Cast { from: Kind::I64, to } => cast!(p, i64, to),
            Each::Cast { from: Kind::F32, to } => cast!(p, f32, to),
            Each::Compare { of: Kind::Bool | Kind::U8, how } => compare!(p, u8, how),
            Each::Compare { of: Kind::I8, how } => compare!(p, i8, how),
            Each::Compare { of: Kind::I32, how } => compare!(p, i32, how),
            Each::Compare { of: Kind::I64, how } => compare!(p, i64, how),
            Each::Compare { of: Kind::F32, how } => compare!(p, f32, how),
            Each::Whole { wide: true, how } => whole!(p, i64, how),
            Each::Whole { wide: false, how } => whole!(p, i32, how),
            Each::Truth(Truth::And) => two!(p, u8, u8, x, y => u8::from((x != 0) & (y != 0))),
            Each::Truth(Truth::Or) => two!(p, u8, u8, x, y => u8::from((x | y) != 0)),
            Each::Truth(Truth::Xor) => two!(p, u8, u8, x, y => u8::from((x != 0) != (y != 0))),
            Each::Not => one!(p, u8, u8, x => u8::from(x == 0)),
            Each::IsNan => one!(p, f32, u8, x => u8::from(x.is_nan())),
            Each::Choose(1) => choose!(p, u8),
            Each::Choose(4) => choose!(p, u32),
            Each::Choose(_) => choose!(p, u64),
        }
    }
}
