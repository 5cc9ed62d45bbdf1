//! Numbers along one axis taken together, `[outer][count][inner]`: sums and the like, softmax, the place of the best.
//!
//! Where `inner` is 1 the numbers lie next to each other; else a vector holds neighbours along `inner`, one for each
//! result. The order of every sum is fixed by the extents alone.

use super::simd::{MAX_LANES, Simd};

/// How numbers are taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    /// Their sum.
    Sum,
    /// The sum of their magnitudes.
    Magnitudes,
    /// The sum of their squares.
    Squares,
    /// Their product.
    Product,
    /// The largest; NaN when any is.
    Maximum,
    /// The smallest; NaN when any is.
    Minimum,
}

/// What is done to the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Finish {
    /// Nothing.
    Keep,
    /// It is divided by this.
    Divide(f32),
    /// Its square root is taken.
    Root,
    /// Its natural logarithm is taken.
    Logarithm,
}

/// What is done along the axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// One number for all, `[outer][inner]`.
    Fold {
        /// How they are taken together.
        fold: Fold,
        /// What is done to the result.
        finish: Finish,
    },
    /// `e^x / sum e^x`, `[outer][count][inner]`.
    Softmax {
        /// The logarithm of it.
        log: bool,
    },
    /// The index of the best as two words, `[outer][inner]`.
    Arg {
        /// The largest is best.
        largest: bool,
        /// Of equals the last one is taken.
        last: bool,
    },
}

/// `[outer][count][inner]`, next to each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Along {
    /// The numbers.
    pub(crate) input: *const f32,
    /// The results; for softmax may be the input.
    pub(crate) output: *mut f32,
    /// Turns.
    pub(crate) outer: usize,
    /// Numbers along the axis, at least 1.
    pub(crate) count: usize,
    /// Neighbours.
    pub(crate) inner: usize,
    /// What is done.
    pub(crate) kind: Kind,
}

/// Does what `p.kind` says.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn along<S: Simd>(p: &Along) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        match p.kind {
            Kind::Fold { fold: Fold::Sum, finish } => folded::<S, SUM>(p, finish),
            Kind::Fold { fold: Fold::Magnitudes, finish } => folded::<S, MAGNITUDES>(p, finish),
            Kind::Fold { fold: Fold::Squares, finish } => folded::<S, SQUARES>(p, finish),
            Kind::Fold { fold: Fold::Product, finish } => folded::<S, PRODUCT>(p, finish),
            Kind::Fold { fold: Fold::Maximum, finish } => folded::<S, MAXIMUM>(p, finish),
            Kind::Fold { fold: Fold::Minimum, finish } => folded::<S, MINIMUM>(p, finish),
            Kind::Softmax { log } => softmax::<S>(p, log),
            Kind::Arg { largest, last } => arg(p, largest, last),
        }
    }
}

const SUM: u8 = 0;
const MAGNITUDES: u8 = 1;
const SQUARES: u8 = 2;
const PRODUCT: u8 = 3;
const MAXIMUM: u8 = 4;
const MINIMUM: u8 = 5;

/// What a fold starts from, and what stands for numbers that do not exist.
const fn neutral(fold: u8) -> f32 {
    match fold {
        PRODUCT => 1.0,
        MAXIMUM => f32::NEG_INFINITY,
        MINIMUM => f32::INFINITY,
        _ => 0.0,
    }
}

/// A number more.
#[inline(always)]
unsafe fn fold_in<S: Simd, const FOLD: u8>(all: S::V, x: S::V) -> S::V {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        match FOLD {
            MAGNITUDES => S::add(all, S::abs(x)),
            SQUARES => S::fma(x, x, all),
            _ => join::<S, FOLD>(all, x),
        }
    }
}

/// Two partial results.
#[inline(always)]
unsafe fn join<S: Simd, const FOLD: u8>(a: S::V, b: S::V) -> S::V {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        match FOLD {
            PRODUCT => S::mul(a, b),
            MAXIMUM => S::max_nan(a, b),
            MINIMUM => {
                let minus = S::splat(-1.0);
                S::mul(minus, S::max_nan(S::mul(minus, a), S::mul(minus, b)))
            }
            _ => S::add(a, b),
        }
    }
}

/// The results of a vector, finished and stored: `n` of them.
#[inline(always)]
unsafe fn store<S: Simd>(to: *mut f32, v: S::V, n: usize, finish: Finish) {
    // SAFETY: the caller owes the instruction set, and `n` floats.
    unsafe {
        let v = match finish {
            Finish::Keep => v,
            Finish::Divide(by) => S::div(v, S::splat(by)),
            Finish::Root => S::sqrt(v),
            Finish::Logarithm => logarithms::<S>(v),
        };
        S::store_up_to(to, v, n);
    }
}

/// The logarithm of each lane.
#[inline(always)]
unsafe fn logarithms<S: Simd>(v: S::V) -> S::V {
    // SAFETY: the caller owes the instruction set; the array holds a vector.
    unsafe {
        let mut lanes = [0.0; MAX_LANES];
        S::store(lanes.as_mut_ptr(), v);
        lanes.iter_mut().take(S::LANES).for_each(|lane| *lane = lane.ln());
        S::load(lanes.as_ptr())
    }
}

/// All lanes taken together, in a fixed order, in every lane.
#[inline(always)]
unsafe fn across<S: Simd, const FOLD: u8>(v: S::V) -> S::V {
    // SAFETY: the caller owes the instruction set; the array holds two vectors.
    unsafe {
        let mut lanes = [neutral(FOLD); 2 * MAX_LANES];
        let (mut v, mut width) = (v, S::LANES);
        while width > 1 {
            width /= 2;
            S::store(lanes.as_mut_ptr(), v);
            v = join::<S, FOLD>(v, S::load(lanes.as_ptr().add(width)));
        }
        S::store(lanes.as_mut_ptr(), v);
        S::splat_from(lanes.as_ptr())
    }
}

/// `n` numbers, the neutral one in the lanes after them.
#[inline(always)]
unsafe fn part<S: Simd, const FOLD: u8>(from: *const f32, n: usize) -> S::V {
    // SAFETY: the caller owes the instruction set, and `n` floats; the array holds a vector.
    unsafe {
        let mut lanes = [neutral(FOLD); MAX_LANES];
        std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
        S::load(lanes.as_ptr())
    }
}

/// One number for each row or for each lane.
#[inline(always)]
unsafe fn folded<S: Simd, const FOLD: u8>(p: &Along, finish: Finish) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        for outer in 0..p.outer {
            let from = p.input.add(outer * p.count * p.inner);
            let to = p.output.add(outer * p.inner);
            if p.inner == 1 {
                store::<S>(to, row::<S, FOLD>(from, p.count), 1, finish);
                continue;
            }
            let mut at = 0;
            while at + 4 * S::LANES <= p.inner {
                let mut all = [S::splat(neutral(FOLD)); 4];
                for i in 0..p.count {
                    for (v, all) in all.iter_mut().enumerate() {
                        *all = fold_in::<S, FOLD>(*all, S::load(from.add(i * p.inner + at + v * S::LANES)));
                    }
                }
                for (v, all) in all.iter().enumerate() {
                    store::<S>(to.add(at + v * S::LANES), *all, S::LANES, finish);
                }
                at += 4 * S::LANES;
            }
            while at < p.inner {
                let n = S::LANES.min(p.inner - at);
                let mut all = S::splat(neutral(FOLD));
                for i in 0..p.count {
                    all = fold_in::<S, FOLD>(all, S::load_up_to(from.add(i * p.inner + at), n));
                }
                store::<S>(to.add(at), all, n, finish);
                at += n;
            }
        }
    }
}

/// The fold of numbers that lie next to each other, in every lane.
#[inline(always)]
unsafe fn row<S: Simd, const FOLD: u8>(from: *const f32, count: usize) -> S::V {
    // SAFETY: the caller owes the instruction set, and `count` floats.
    unsafe {
        let mut four = [S::splat(neutral(FOLD)); 4];
        let mut at = 0;
        while at + 4 * S::LANES <= count {
            for (v, all) in four.iter_mut().enumerate() {
                *all = fold_in::<S, FOLD>(*all, S::load(from.add(at + v * S::LANES)));
            }
            at += 4 * S::LANES;
        }
        while at < count {
            let n = S::LANES.min(count - at);
            four[0] = fold_in::<S, FOLD>(four[0], part::<S, FOLD>(from.add(at), n));
            at += n;
        }
        let (a, b) = (join::<S, FOLD>(four[0], four[1]), join::<S, FOLD>(four[2], four[3]));
        across::<S, FOLD>(join::<S, FOLD>(a, b))
    }
}

/// The sum of numbers that lie next to each other.
///
/// # Safety
/// The processor has the instruction set of `S`, and `from` is valid for `count` floats.
#[inline(always)]
pub(super) unsafe fn total<S: Simd>(from: *const f32, count: usize) -> f32 {
    // SAFETY: the caller owes the instruction set, and the floats; the array holds a vector.
    unsafe {
        let mut lanes = [0.0; MAX_LANES];
        S::store(lanes.as_mut_ptr(), row::<S, SUM>(from, count));
        lanes[0]
    }
}

/// Softmax or its logarithm, a vector of neighbours at a time.
#[inline(always)]
unsafe fn softmax<S: Simd>(p: &Along, log: bool) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        for outer in 0..p.outer {
            let start = outer * p.count * p.inner;
            let (from, to) = (p.input.add(start), p.output.add(start));
            if p.inner == 1 {
                softmax_row::<S>(from, to, p.count, log);
                continue;
            }
            let mut at = 0;
            while at < p.inner {
                let n = S::LANES.min(p.inner - at);
                let mut most = S::splat(f32::NEG_INFINITY);
                for i in 0..p.count {
                    most = S::max(S::load_up_to(from.add(i * p.inner + at), n), most);
                }
                let mut sum = S::splat(0.0);
                for i in 0..p.count {
                    let place = i * p.inner + at;
                    let x = S::sub(S::load_up_to(from.add(place), n), most);
                    let e = S::exp(x);
                    S::store_up_to(to.add(place), if log { x } else { e }, n);
                    sum = S::add(sum, e);
                }
                let by = if log { logarithms::<S>(sum) } else { S::div(S::splat(1.0), sum) };
                for i in 0..p.count {
                    let here = to.add(i * p.inner + at);
                    let x = S::load_up_to(here, n);
                    S::store_up_to(here, if log { S::sub(x, by) } else { S::mul(x, by) }, n);
                }
                at += n;
            }
        }
    }
}

/// Softmax or its logarithm of numbers that lie next to each other.
#[inline(always)]
unsafe fn softmax_row<S: Simd>(from: *const f32, to: *mut f32, count: usize, log: bool) {
    // SAFETY: the caller owes the instruction set, and `count` floats at both.
    unsafe {
        let most = row::<S, MAXIMUM>(from, count);
        let mut sum = S::splat(0.0);
        let mut at = 0;
        while at < count {
            let n = S::LANES.min(count - at);
            // Lanes that do not exist are minus infinity, of which the exponential is 0.
            let x = S::sub(part::<S, MAXIMUM>(from.add(at), n), most);
            let e = S::exp(x);
            S::store_up_to(to.add(at), if log { x } else { e }, n);
            sum = S::add(sum, if n < S::LANES { first::<S>(e, n) } else { e });
            at += n;
        }
        let sum = across::<S, SUM>(sum);
        let by = if log { logarithms::<S>(sum) } else { S::div(S::splat(1.0), sum) };
        at = 0;
        while at < count {
            let n = S::LANES.min(count - at);
            let x = S::load_up_to(to.add(at), n);
            S::store_up_to(to.add(at), if log { S::sub(x, by) } else { S::mul(x, by) }, n);
            at += n;
        }
    }
}

/// The first `n` lanes; the others are zero.
#[inline(always)]
unsafe fn first<S: Simd>(v: S::V, n: usize) -> S::V {
    // SAFETY: the caller owes the instruction set; the array holds a vector.
    unsafe {
        let mut lanes = [0.0; MAX_LANES];
        S::store_first(lanes.as_mut_ptr(), v, n);
        S::load(lanes.as_ptr())
    }
}

/// Results that are looked for at once.
const WIDE: usize = 64;

/// The index of the best, as the interpreter finds it: what is no number is never better than another.
#[inline(always)]
unsafe fn arg(p: &Along, largest: bool, last: bool) {
    // SAFETY: the caller owes memory for all that the parameters describe.
    unsafe {
        for outer in 0..p.outer {
            let from = p.input.add(outer * p.count * p.inner);
            let to = p.output.cast::<i64>().add(outer * p.inner);
            let mut at = 0;
            while at < p.inner {
                let n = WIDE.min(p.inner - at);
                let (mut best, mut index) = ([0.0_f32; WIDE], [0_u32; WIDE]);
                std::ptr::copy_nonoverlapping(from.add(at), best.as_mut_ptr(), n);
                for i in 1..p.count {
                    for lane in 0..n {
                        let x = *from.add(i * p.inner + at + lane);
                        let better = if largest { x > best[lane] } else { x < best[lane] };
                        #[expect(clippy::float_cmp, reason = "equals are meant")]
                        let taken = better | (last & (x == best[lane]));
                        best[lane] = if taken { x } else { best[lane] };
                        #[expect(
                            clippy::cast_possible_truncation,
                            reason = "a plan has fewer than 2^32 numbers"
                        )]
                        let here = i as u32;
                        index[lane] = if taken { here } else { index[lane] };
                    }
                }
                for (lane, index) in index.iter().enumerate().take(n) {
                    to.add(at + lane).write_unaligned(i64::from(*index));
                }
                at += n;
            }
        }
    }
}
