//! Functions along axes: sums and the like, arg-max, running sums, softmax.

use agentd_types::Datatype;

use super::{Inputs, Rule, conv::one, need_float};
use crate::{
    array::{Array, Fact, is_float, is_int},
    error::PlanError,
    shape,
};

/// What a reduction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceKind {
    /// Sum.
    Sum,
    /// Mean; of integers rounded towards 0.
    Mean,
    /// Largest; of booleans whether any holds.
    Max,
    /// Smallest; of booleans whether all hold.
    Min,
    /// Product.
    Product,
    /// Sum of sizes.
    L1,
    /// Root of the sum of squares.
    L2,
    /// Sum of squares.
    SumSquare,
    /// Logarithm of the sum.
    LogSum,
    /// Logarithm of the sum of exponentials.
    LogSumExp,
}

/// A function of all elements along `axes`. Input: x. Output: x's shape with those axes 1, or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// Ascending, each below x's rank; none reduces nothing (but applies the function to each element).
    pub axes: Vec<usize>,
    /// Whether the axes stay, with length 1.
    pub keep: bool,
}

/// Refuses axes that are not ascending or lie outside `rank`.
fn check_axes(axes: &[usize], rank: usize) -> Result<(), PlanError> {
    if axes.is_sorted_by(|a, b| a < b) && axes.iter().all(|axis| *axis < rank) {
        return Ok(());
    }
    Err(PlanError::attribute(format!("axes {axes:?} of rank {rank}")))
}

/// `shape` with `axes` 1, or gone.
fn reduced(shape: &[usize], axes: &[usize], keep: bool) -> Vec<usize> {
    let kept = |(axis, dim): (usize, &usize)| match (axes.contains(&axis), keep) {
        (false, _) => Some(*dim),
        (true, true) => Some(1),
        (true, false) => None,
    };
    shape.iter().enumerate().filter_map(kept).collect()
}

impl Reduce {
    fn reals(&self, items: &[f64]) -> f64 {
        let sum = |term: fn(f64) -> f64| items.iter().map(|item| term(*item)).sum::<f64>();
        let extreme = |start: f64, better: fn(f64, f64) -> bool| {
            let pick =
                |best: f64, item: &f64| if better(*item, best) || item.is_nan() { *item } else { best };
            items.iter().fold(start, pick)
        };
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 elements")]
        match self.kind {
            ReduceKind::Sum => sum(|x| x),
            ReduceKind::Mean => sum(|x| x) / items.len() as f64,
            ReduceKind::Max => extreme(f64::NEG_INFINITY, |a, b| a > b),
            ReduceKind::Min => extreme(f64::INFINITY, |a, b| a < b),
            ReduceKind::Product => items.iter().product(),
            ReduceKind::L1 => sum(f64::abs),
            ReduceKind::L2 => sum(|x| x * x).sqrt(),
            ReduceKind::SumSquare => sum(|x| x * x),
            ReduceKind::LogSum => sum(|x| x).ln(),
            ReduceKind::LogSumExp => {
                let top = extreme(f64::NEG_INFINITY, |a, b| a > b);
                let top = if top.is_finite() { top } else { 0.0 };
                items.iter().map(|item| (item - top).exp()).sum::<f64>().ln() + top
            }
        }
    }

    fn wholes(&self, items: &[i128], empty: (i128, i128)) -> Option<i128> {
        let sum =
            |term: fn(i128) -> i128| items.iter().fold(0_i128, |sum, item| sum.wrapping_add(term(*item)));
        Some(match self.kind {
            ReduceKind::Sum => sum(|x| x),
            ReduceKind::Mean => sum(|x| x).checked_div(i128::try_from(items.len()).ok()?).unwrap_or(0),
            ReduceKind::Max => items.iter().copied().max().unwrap_or(empty.0),
            ReduceKind::Min => items.iter().copied().min().unwrap_or(empty.1),
            ReduceKind::Product => items.iter().fold(1_i128, |product, item| product.wrapping_mul(*item)),
            ReduceKind::L1 => sum(i128::wrapping_abs),
            ReduceKind::SumSquare => sum(|x| x.wrapping_mul(x)),
            ReduceKind::L2 | ReduceKind::LogSum | ReduceKind::LogSumExp => return None,
        })
    }
}

/// The smallest and largest number of an integer datatype.
pub(crate) fn limits(datatype: Datatype) -> (i128, i128) {
    match datatype {
        Datatype::Uint8 => (0, u8::MAX.into()),
        Datatype::Uint16 => (0, u16::MAX.into()),
        Datatype::Uint32 => (0, u32::MAX.into()),
        Datatype::Uint64 => (0, u64::MAX.into()),
        Datatype::Int8 => (i8::MIN.into(), i8::MAX.into()),
        Datatype::Int16 => (i16::MIN.into(), i16::MAX.into()),
        Datatype::Int32 => (i32::MIN.into(), i32::MAX.into()),
        Datatype::Int64 => (i64::MIN.into(), i64::MAX.into()),
        Datatype::Bool => (0, 1),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 | Datatype::Bytes => (0, 0),
    }
}

/// `items` of shape `shape` with `axes` moved to the end, so that what is reduced together lies together.
fn gathered(x: &Array, axes: &[usize]) -> Result<Array, PlanError> {
    let kept = (0..x.shape().len()).filter(|axis| !axes.contains(axis));
    super::movement::transposed(x, &kept.chain(axes.iter().copied()).collect::<Vec<_>>())
}

impl Rule for Reduce {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        check_axes(&self.axes, x.rank())?;
        let fits = match x.datatype {
            Datatype::Bytes => false,
            Datatype::Bool => matches!(self.kind, ReduceKind::Max | ReduceKind::Min),
            _ => true,
        };
        if !fits {
            return Err(PlanError::datatype(format!("reduction of {}", x.datatype.as_str())));
        }
        Ok(vec![x.shaped(reduced(&x.shape, &self.axes, self.keep))])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (gathered(inputs.need(0)?, &self.axes)?, one(outputs)?);
        let size = x.len().checked_div(output.elements()).unwrap_or(0);
        let is_whole = is_int(x.datatype()) || x.datatype() == Datatype::Bool;
        if is_whole && self.wholes(&[], (0, 0)).is_some() {
            let items = x.wholes()?;
            let groups = groups(&items, size, output.elements());
            let sums = groups.filter_map(|items| self.wholes(items, limits(output.datatype))).collect();
            return Ok(vec![Array::from_wholes(output.datatype, output.shape.clone(), sums)?]);
        }
        let items = x.reals()?;
        let sums = groups(&items, size, output.elements()).map(|items| self.reals(items)).collect();
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), sums)?])
    }
}

/// `count` groups of `size` items each; empty ones too.
fn groups<T>(items: &[T], size: usize, count: usize) -> impl Iterator<Item = &[T]> {
    (0..count).map(move |group| items.get(group * size..(group + 1) * size).unwrap_or_default())
}

/// The index of the largest or smallest element. Input: x. Output: `INT64`, x's shape with `axis` 1, or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgReduce {
    /// Largest, not smallest.
    pub largest: bool,
    /// The axis.
    pub axis: usize,
    /// Whether the axis stays, with length 1.
    pub keep: bool,
    /// Of equal elements the last counts.
    pub last: bool,
}

impl Rule for ArgReduce {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        check_axes(&[self.axis], x.rank())?;
        if x.datatype == Datatype::Bytes || x.shape.get(self.axis) == Some(&0) {
            return Err(PlanError::shape("arg-max of text or of no elements"));
        }
        Ok(vec![Fact::new(Datatype::Int64, reduced(&x.shape, &[self.axis], self.keep))])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (gathered(inputs.need(0)?, &[self.axis])?, one(outputs)?);
        let items = x.reals()?;
        let size = x.len().checked_div(output.elements()).unwrap_or(0);
        let best = |items: &[f64]| {
            let mut best = (0_i64, items.first().copied().unwrap_or_default());
            for (index, item) in (0_i64..).zip(items).skip(1) {
                let better = if self.largest { *item > best.1 } else { *item < best.1 };
                if better || self.last && *item >= best.1 && *item <= best.1 {
                    best = (index, *item);
                }
            }
            best.0
        };
        let indices = groups(&items, size, output.elements()).map(best).collect();
        Ok(vec![Array::new::<i64>(output.shape.clone(), indices)?])
    }
}

/// One lane of a tensor along an axis: places of its elements.
pub(crate) fn lanes(
    shape: &[usize],
    axis: usize,
) -> impl Iterator<Item = impl Iterator<Item = usize> + Clone> {
    let length = shape.get(axis).copied().unwrap_or(1);
    let inner: usize = shape.iter().skip(axis + 1).product();
    let outer: usize = shape.iter().take(axis).product();
    (0..outer * inner).map(move |lane| {
        let first =
            lane.checked_div(inner).unwrap_or(0) * inner * length + lane.checked_rem(inner).unwrap_or(0);
        (0..length).map(move |index| first + index * inner)
    })
}

/// Running sums (or products) along an axis. Input: x. Output: the same shape and datatype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CumSum {
    /// The axis.
    pub axis: usize,
    /// Each sum leaves out its own element.
    pub exclusive: bool,
    /// From the end.
    pub reverse: bool,
}

impl Rule for CumSum {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        check_axes(&[self.axis], x.rank())?;
        if !is_float(x.datatype) && !is_int(x.datatype) {
            return Err(PlanError::datatype("running sums of no numbers"));
        }
        Ok(vec![x.clone()])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let x = inputs.need(0)?;
        let shape = x.shape().to_vec();
        if is_int(x.datatype()) {
            let sums = self.sums(&x.wholes()?, &shape, i128::wrapping_add);
            return Ok(vec![Array::from_wholes(x.datatype(), shape, sums)?]);
        }
        let sums = self.sums(&x.reals()?, &shape, |a, b| a + b);
        Ok(vec![Array::from_reals(x.datatype(), shape, sums)?])
    }
}

impl CumSum {
    fn sums<T: Copy + Default>(self, items: &[T], shape: &[usize], add: impl Fn(T, T) -> T) -> Vec<T> {
        let mut sums = vec![T::default(); items.len()];
        for lane in lanes(shape, self.axis) {
            let mut places: Vec<usize> = lane.collect();
            if self.reverse {
                places.reverse();
            }
            let mut sum = T::default();
            for place in places {
                let before = sum;
                sum = add(sum, items.get(place).copied().unwrap_or_default());
                if let Some(slot) = sums.get_mut(place) {
                    *slot = if self.exclusive { before } else { sum };
                }
            }
        }
        sums
    }
}

/// `e^x / sum e^x` along an axis, or its logarithm. Input: x, floats. Output: the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softmax {
    /// The axis.
    pub axis: usize,
    /// The logarithm of it.
    pub log: bool,
}

impl Rule for Softmax {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        need_float(x)?;
        check_axes(&[self.axis], x.rank())?;
        Ok(vec![x.clone()])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let x = inputs.need(0)?;
        let mut items = x.reals()?;
        for lane in lanes(x.shape(), self.axis) {
            let top =
                lane.clone().filter_map(|place| items.get(place)).fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            let sum: f64 =
                lane.clone().filter_map(|place| items.get(place)).map(|item| (item - top).exp()).sum();
            for place in lane {
                if let Some(item) = items.get_mut(place) {
                    *item = if self.log { *item - top - sum.ln() } else { (*item - top).exp() / sum };
                }
            }
        }
        Ok(vec![Array::from_reals(x.datatype(), x.shape(), items)?])
    }
}

/// One at the first largest element along an axis, zero elsewhere. Input: x, floats. Output: the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardmax {
    /// The axis.
    pub axis: usize,
}

impl Rule for Hardmax {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        Softmax { axis: self.axis, log: false }.outputs(inputs)
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let x = inputs.need(0)?;
        let items = x.reals()?;
        let mut ones = vec![0.0; items.len()];
        for lane in lanes(x.shape(), self.axis) {
            let mut best: Option<(usize, f64)> = None;
            for place in lane {
                let item = items.get(place).copied().unwrap_or_default();
                if best.is_none_or(|(_, top)| item > top) {
                    best = Some((place, item));
                }
            }
            if let Some(slot) = best.and_then(|(place, _)| ones.get_mut(place)) {
                *slot = 1.0;
            }
        }
        Ok(vec![Array::from_reals(x.datatype(), x.shape(), ones)?])
    }
}

/// Axes from attributes or inputs, that may count from the end: ascending indices.
pub(crate) fn resolve_axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, PlanError> {
    let mut resolved = axes.iter().map(|axis| shape::axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?;
    resolved.sort_unstable();
    let length = resolved.len();
    resolved.dedup();
    if resolved.len() == length { Ok(resolved) } else { Err(PlanError::attribute("an axis stands twice")) }
}
