//! What is done to each number by itself, or to two numbers at the same place.

use agentd_plan::op::{Binary, Unary};

use super::simd::{MAX_LANES, Simd};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Function {
    /// Held between two ends; NaN stays.
    Clamp { low: f32, high: f32 },
    /// `x`, or `slope * x` below zero.
    LeakyRelu { slope: f32 },
    /// `max(0, min(1, slope * x + offset))`.
    HardSigmoid { slope: f32, offset: f32 },
    /// `x * max(0, min(1, x / 6 + 1 / 2))`.
    HardSwish,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x * sigmoid(x)`.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
    /// By the error function.
    Gelu,
    /// By its tanh form.
    GeluTanh,
    /// The error function.
    Erf,
    /// `e^x`.
    Exp,
    /// The square root.
    Sqrt,
    /// `1 / x`.
    Reciprocal,
    /// The magnitude.
    Abs,
    /// The negative.
    Negative,
    /// Down to an integer.
    Floor,
    /// To the nearest integer, ties to even.
    Round,
    /// `slope * (e^x - 1)` below zero, else `x`.
    Elu { slope: f32 },
    /// `factor * slope * (e^x - 1)` below zero, else `factor * x`.
    Selu { slope: f32, factor: f32 },
    /// `slope * x + offset`.
    Affine { slope: f32, offset: f32 },
    /// `x * sigmoid(slope * x)`.
    Swish { slope: f32 },
    /// `x * tanh(ln(1 + e^x))`.
    Mish,
    /// `x / (1 + |x|)`.
    Softsign,
    /// Up to an integer.
    Ceiling,
    /// -1, 0 or 1; NaN stays.
    Sign,
    /// Any other one, number by number, as the interpreter computes it.
    Other(Unary),
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairwise {
    /// `a + b`.
    Add,
    /// `a - b`.
    Subtract,
    /// `a * b`.
    Multiply,
    /// `a / b`.
    Divide,
    /// The larger; NaN when either is.
    Maximum,
    /// The smaller; NaN when either is.
    Minimum,
    /// `a`, or `a * b` where `a` is below zero.
    Leaky,
    /// Any other one, number by number, as the interpreter computes it.
    Other(Binary),
}

/// Rows of numbers, each changed by a function; in place or not. Distances are in floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map {
    /// `[rows][length]`.
    pub(crate) input: *const f32,
    /// From one row to the next.
    pub(crate) in_row: usize,
    /// The results; may be the input.
    pub(crate) output: *mut f32,
    /// From one row to the next.
    pub(crate) out_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Floats in a row.
    pub(crate) length: usize,
    /// What is done.
    pub(crate) function: Function,
}

/// Rows of pairs. Distances are in floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Combine {
    /// `[rows][length]`, or `[rows][1]` where `a_step` is 0.
    pub(crate) a: *const f32,
    /// From one row to the next.
    pub(crate) a_row: usize,
    /// 1, or 0 where one number is used along the row.
    pub(crate) a_step: usize,
    /// As `a`.
    pub(crate) b: *const f32,
    /// From one row to the next.
    pub(crate) b_row: usize,
    /// As `a_step`.
    pub(crate) b_step: usize,
    /// The results; may be `a` or `b` where that has the same layout.
    pub(crate) output: *mut f32,
    /// From one row to the next.
    pub(crate) out_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Floats in a row.
    pub(crate) length: usize,
    /// What is done to the pairs.
    pub(crate) pairwise: Pairwise,
    /// What is done to the results, between two ends; NaN stays.
    pub(crate) low: f32,
    /// The upper end.
    pub(crate) high: f32,
}

/// Rows of one block of channels, each pixel multiplied by the same vector. Distances are in floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector {
    /// The first pixel.
    pub(crate) input: *const f32,
    /// From one row to the next.
    pub(crate) in_row: usize,
    /// The vector.
    pub(crate) vector: *const f32,
    /// A second vector, that is added for `multiply-add`; null for none.
    pub(crate) offset: *const f32,
    /// The results; may be the input.
    pub(crate) output: *mut f32,
    /// From one row to the next.
    pub(crate) out_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Pixels in a row.
    pub(crate) width: usize,
    /// What is done to each pair.
    pub(crate) pairwise: Pairwise,
    /// Results below become this; NaN stays.
    pub(crate) low: f32,
    /// Results above become this; NaN stays.
    pub(crate) high: f32,
}

/// Applies an expression to every number of the rows. A macro, as are the loops below: a closure would be compiled
/// without the instruction set of the function around it.
macro_rules! each {
    ($p:expr, $x:ident => $value:expr) => {
        for row in 0..$p.rows {
            let (from, to) = ($p.input.add(row * $p.in_row), $p.output.add(row * $p.out_row));
            let mut at = 0;
            while at + 2 * S::LANES <= $p.length {
                let $x = S::load(from.add(at));
                let first = $value;
                let $x = S::load(from.add(at + S::LANES));
                let second = $value;
                S::store(to.add(at), first);
                S::store(to.add(at + S::LANES), second);
                at += 2 * S::LANES;
            }
            while at < $p.length {
                let n = S::LANES.min($p.length - at);
                let $x = S::load_up_to(from.add(at), n);
                S::store_up_to(to.add(at), $value, n);
                at += n;
            }
        }
    };
}

/// Applies the function to all rows.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn map<S: Simd>(p: &Map) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        match p.function {
            Function::Clamp { low, high } => {
                let (low, high) = (S::splat(low), S::splat(high));
                each!(p, x => S::min(high, S::max(low, x)));
            }
            Function::LeakyRelu { slope } => {
                let slope = S::splat(slope);
                each!(p, x => S::select_less(x, zero, S::mul(x, slope), x));
            }
            Function::HardSigmoid { slope, offset } => {
                let (slope, offset) = (S::splat(slope), S::splat(offset));
                each!(p, x => S::min(one, S::max(zero, S::fma(x, slope, offset))));
            }
            Function::HardSwish => {
                let (sixth, half) = (S::splat(1.0 / 6.0), S::splat(0.5));
                each!(p, x => S::mul(x, S::min(one, S::max(zero, S::fma(x, sixth, half)))));
            }
            Function::Sigmoid => each!(p, x => S::sigmoid(x)),
            Function::Silu => each!(p, x => S::mul(x, S::sigmoid(x))),
            Function::Tanh => each!(p, x => S::tanh(x)),
            Function::Gelu => each!(p, x => S::gelu(x)),
            Function::GeluTanh => each!(p, x => S::gelu_tanh(x)),
            Function::Erf => each!(p, x => S::erf(x)),
            Function::Exp => each!(p, x => S::exp(x)),
            Function::Sqrt => each!(p, x => S::sqrt(x)),
            Function::Reciprocal => each!(p, x => S::div(one, x)),
            Function::Abs => each!(p, x => S::abs(x)),
            Function::Negative => {
                let minus = S::splat(-1.0);
                each!(p, x => S::mul(x, minus));
            }
            Function::Floor => each!(p, x => S::floor(x)),
            Function::Round => each!(p, x => S::round(x)),
            Function::Elu { slope } => {
                let slope = S::splat(slope);
                each!(p, x => S::select_less(x, zero, S::mul(slope, S::sub(S::exp(x), one)), x));
            }
            Function::Selu { slope, factor } => {
                let (below, factor) = (S::splat(factor * slope), S::splat(factor));
                each!(p, x => S::select_less(x, zero, S::mul(below, S::sub(S::exp(x), one)), S::mul(factor, x)));
            }
            Function::Affine { slope, offset } => {
                let (slope, offset) = (S::splat(slope), S::splat(offset));
                each!(p, x => S::fma(slope, x, offset));
            }
            Function::Swish { slope } => {
                let slope = S::splat(slope);
                each!(p, x => S::mul(x, S::sigmoid(S::mul(slope, x))));
            }
            Function::Mish => {
                // tanh(ln(1 + e)) is n / (n + 2) with n = e * (e + 2), and 1 from where e is large.
                let (two, most) = (S::splat(2.0), S::splat(20.0));
                each!(p, x => {
                    let e = S::exp(S::min(most, x));
                    let n = S::mul(e, S::add(e, two));
                    S::mul(x, S::div(n, S::add(n, two)))
                });
            }
            Function::Softsign => each!(p, x => S::div(x, S::add(one, S::abs(x)))),
            Function::Ceiling => {
                let minus = S::splat(-1.0);
                each!(p, x => S::mul(minus, S::floor(S::mul(minus, x))));
            }
            Function::Sign => {
                let minus = S::splat(-1.0);
                each!(p, x => S::select_less(x, zero, minus, S::select_less(zero, x, one, x)));
            }
            Function::Other(unary) => {
                for row in 0..p.rows {
                    for at in 0..p.length {
                        let x = f64::from(*p.input.add(row * p.in_row + at));
                        #[expect(
                            clippy::cast_possible_truncation,
                            reason = "rounded once, as the interpreter does"
                        )]
                        p.output.add(row * p.out_row + at).write(unary.apply(x) as f32);
                    }
                }
            }
        }
    }
}

/// Applies an expression to every pair of the rows.
macro_rules! pairs {
    ($p:expr, $u:ident, $v:ident => $value:expr) => {{
        let (low, high) = (S::splat($p.low), S::splat($p.high));
        for row in 0..$p.rows {
            let (a, b) = ($p.a.add(row * $p.a_row), $p.b.add(row * $p.b_row));
            let to = $p.output.add(row * $p.out_row);
            let mut at = 0;
            while at < $p.length {
                let n = S::LANES.min($p.length - at);
                let $u = if $p.a_step == 0 { S::splat_from(a) } else { S::load_up_to(a.add(at), n) };
                let $v = if $p.b_step == 0 { S::splat_from(b) } else { S::load_up_to(b.add(at), n) };
                S::store_up_to(to.add(at), S::min(high, S::max(low, $value)), n);
                at += n;
            }
        }
    }};
}

/// One function of two vectors.
#[inline(always)]
unsafe fn pairwise<S: Simd>(kind: Pairwise, a: S::V, b: S::V) -> S::V {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        match kind {
            Pairwise::Add => S::add(a, b),
            Pairwise::Subtract => S::sub(a, b),
            Pairwise::Multiply => S::mul(a, b),
            Pairwise::Divide => S::div(a, b),
            Pairwise::Maximum => S::max_nan(a, b),
            Pairwise::Minimum => {
                let minus = S::splat(-1.0);
                S::mul(minus, S::max_nan(S::mul(minus, a), S::mul(minus, b)))
            }
            Pairwise::Leaky => S::select_less(a, S::splat(0.0), S::mul(a, b), a),
            Pairwise::Other(binary) => one_by_one::<S>(binary, a, b),
        }
    }
}

/// A function of two vectors, lane by lane, as the interpreter computes it.
#[inline(always)]
unsafe fn one_by_one<S: Simd>(binary: Binary, a: S::V, b: S::V) -> S::V {
    // SAFETY: the caller owes the instruction set; the arrays hold a vector each.
    unsafe {
        let (mut x, mut y) = ([0.0_f32; MAX_LANES], [0.0_f32; MAX_LANES]);
        S::store(x.as_mut_ptr(), a);
        S::store(y.as_mut_ptr(), b);
        for (x, y) in x.iter_mut().zip(y).take(S::LANES) {
            #[expect(clippy::cast_possible_truncation, reason = "rounded once, as the interpreter does")]
            let value = binary.apply(f64::from(*x), f64::from(y)) as f32;
            *x = value;
        }
        S::load(x.as_ptr())
    }
}

/// Combines all rows.
///
/// # Safety
/// As [`map`].
#[inline(always)]
pub(crate) unsafe fn combine<S: Simd>(p: &Combine) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        match p.pairwise {
            Pairwise::Add => pairs!(p, u, v => S::add(u, v)),
            Pairwise::Multiply => pairs!(p, u, v => S::mul(u, v)),
            kind => pairs!(p, u, v => pairwise::<S>(kind, u, v)),
        }
    }
}

/// Combines each pixel of one block of channels with one vector.
///
/// # Safety
/// As [`map`].
#[inline(always)]
pub(crate) unsafe fn vector<S: Simd>(p: &Vector) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let (low, high, v) = (S::splat(p.low), S::splat(p.high), S::load(p.vector));
        let offset = if p.offset.is_null() { S::splat(0.0) } else { S::load(p.offset) };
        for row in 0..p.rows {
            let (x, y) = (p.input.add(row * p.in_row), p.output.add(row * p.out_row));
            for pixel in 0..p.width {
                let here = S::load(x.add(pixel * S::LANES));
                let value = if p.offset.is_null() {
                    pairwise::<S>(p.pairwise, here, v)
                } else {
                    S::fma(here, v, offset)
                };
                S::store(y.add(pixel * S::LANES), S::min(high, S::max(low, value)));
            }
        }
    }
}

/// Pixels of one block of channels between a plain map (channel by channel) and a blocked one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interleave {
    /// The first pixel of the block's first channel in the plain map.
    pub(crate) plain: *mut f32,
    /// From one channel to the next in the plain map.
    pub(crate) plain_channel: usize,
    /// From one row to the next in the plain map.
    pub(crate) plain_row: usize,
    /// The first pixel in the blocked map.
    pub(crate) blocked: *mut f32,
    /// From one row to the next in the blocked map.
    pub(crate) blocked_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Pixels in a row.
    pub(crate) width: usize,
    /// Channels of the block that exist.
    pub(crate) channels: usize,
}

/// Plain to blocked; lanes of channels that do not exist become 0.
///
/// # Safety
/// As [`map`].
#[inline(always)]
pub(crate) unsafe fn interleave<S: Simd>(p: &Interleave) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        for y in 0..p.rows {
            let (from, to) = (p.plain.add(y * p.plain_row), p.blocked.add(y * p.blocked_row));
            let mut done = 0;
            while p.channels == S::LANES && done + S::LANES <= p.width {
                S::turn(from.add(done), p.plain_channel, to.add(done * S::LANES), S::LANES);
                done += S::LANES;
            }
            for x in done..p.width {
                let mut lanes = [0.0; super::simd::MAX_LANES];
                for (c, lane) in lanes.iter_mut().enumerate().take(p.channels) {
                    *lane = *from.add(c * p.plain_channel + x);
                }
                S::store(to.add(x * S::LANES), S::load(lanes.as_ptr()));
            }
        }
    }
}

/// Blocked to plain.
///
/// # Safety
/// As [`map`].
#[inline(always)]
pub(crate) unsafe fn separate<S: Simd>(p: &Interleave) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        for y in 0..p.rows {
            let (to, from) = (p.plain.add(y * p.plain_row), p.blocked.add(y * p.blocked_row));
            let mut done = 0;
            while p.channels == S::LANES && done + S::LANES <= p.width {
                S::turn(from.add(done * S::LANES), S::LANES, to.add(done), p.plain_channel);
                done += S::LANES;
            }
            for c in 0..p.channels {
                for x in done..p.width {
                    *to.add(c * p.plain_channel + x) = *from.add(x * S::LANES + c);
                }
            }
        }
    }
}
