//! Elements and slices by index.

use agentd_types::Datatype;

use super::{Inputs, Rule, conv::one};
use crate::{
    array::{Array, Fact, is_int},
    error::PlanError,
    shape::{self, Walk},
};

/// Refuses indices that are no integers.
pub(crate) fn need_indices(fact: &Fact) -> Result<(), PlanError> {
    if is_int(fact.datatype) && matches!(fact.datatype, Datatype::Int32 | Datatype::Int64) {
        return Ok(());
    }
    Err(PlanError::datatype(format!("{} where indices are needed", fact.datatype.as_str())))
}

/// An index that may count from the end.
pub(crate) fn resolve(index: i64, dim: usize) -> Result<usize, PlanError> {
    let size = i64::try_from(dim).unwrap_or(i64::MAX);
    let at = if index < 0 { index.saturating_add(size) } else { index };
    usize::try_from(at)
        .ok()
        .filter(|at| *at < dim)
        .ok_or_else(|| PlanError::value(format!("index {index} lies outside 0..{dim}")))
}

fn dim(shape: &[usize], axis: usize) -> Result<usize, PlanError> {
    shape.get(axis).copied().ok_or_else(|| PlanError::attribute(format!("axis {axis} of {shape:?}")))
}

/// Slices by index along an axis. Inputs: x, indices (may count from the end). Output: x's shape with `axis` replaced by
/// the shape of indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    /// The axis.
    pub axis: usize,
}

impl Rule for Gather {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (x, indices) = (inputs.need(0)?, inputs.need(1)?);
        need_indices(indices)?;
        let _dim = dim(&x.shape, self.axis)?;
        let (before, rest) = x.shape.split_at(self.axis);
        let shape = [before, &indices.shape, rest.get(1..).unwrap_or_default()].concat();
        Ok(vec![x.shaped(shape)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let size = dim(x.shape(), self.axis)?;
        let indices = inputs.need(1)?.ints()?;
        let indices = indices.into_iter().map(|index| resolve(index, size)).collect::<Result<Vec<_>, _>>()?;
        let outer: usize = x.shape().iter().take(self.axis).product();
        let inner: usize = x.shape().iter().skip(self.axis + 1).product();
        let places = (0..outer).flat_map(|row| {
            indices.iter().flat_map(move |index| {
                let start = (row * size + index) * inner;
                start..start + inner
            })
        });
        Ok(vec![x.pick(output.shape.clone(), places)?])
    }
}

/// Elements by index along an axis. Inputs: x, indices of the same rank. Output: the shape of indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherElements {
    /// The axis.
    pub axis: usize,
}

impl Rule for GatherElements {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (x, indices) = (inputs.need(0)?, inputs.need(1)?);
        need_indices(indices)?;
        let _dim = dim(&x.shape, self.axis)?;
        check_inside(&x.shape, &indices.shape, self.axis)?;
        Ok(vec![x.shaped(indices.shape.clone())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let places = element_places(x.shape(), inputs.need(1)?, self.axis)?;
        Ok(vec![x.pick(output.shape.clone(), places)?])
    }
}

/// Refuses indices of another rank than x, or longer than x along another axis than `axis`.
pub(crate) fn check_inside(x: &[usize], indices: &[usize], axis: usize) -> Result<(), PlanError> {
    let inside = x.iter().zip(indices).enumerate().all(|(at, (x, index))| at == axis || index <= x);
    if x.len() == indices.len() && inside {
        return Ok(());
    }
    Err(PlanError::shape(format!("indices {indices:?} into {x:?} along axis {axis}")))
}

/// Where in x each index points.
pub(crate) fn element_places(x: &[usize], indices: &Array, axis: usize) -> Result<Vec<usize>, PlanError> {
    let size = dim(x, axis)?;
    let mut steps = shape::strides(x);
    let stride = steps.get_mut(axis).map_or(0, std::mem::take);
    let walk = Walk::forward(indices.shape(), &steps);
    indices
        .ints()?
        .into_iter()
        .zip(walk)
        .map(|(index, place)| Ok(place + resolve(index, size)? * stride))
        .collect()
}

/// Slices by index tuples. Inputs: x, indices `[.., k]`. Output: indices' shape without its last axis, then the axes of x
/// that a tuple does not name. The first `batch` axes of both go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatherNd {
    /// Axes that x and indices share.
    pub batch: usize,
}

impl Rule for GatherNd {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (x, indices) = (inputs.need(0)?, inputs.need(1)?);
        need_indices(indices)?;
        let fault = || PlanError::shape(format!("tuples {:?} into {:?}", indices.shape, x.shape));
        let (tuple, leading) = indices.shape.split_last().ok_or_else(fault)?;
        let rest = x.shape.get(self.batch.saturating_add(*tuple)..).ok_or_else(fault)?;
        if leading.get(..self.batch) != x.shape.get(..self.batch) || leading.len() < self.batch {
            return Err(fault());
        }
        Ok(vec![x.shaped([leading, rest].concat())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, indices, output) = (inputs.need(0)?, inputs.need(1)?, one(outputs)?);
        let starts = tuple_places(x.shape(), indices, self.batch)?;
        let tuple = indices.shape().last().copied().unwrap_or(0);
        let size: usize = x.shape().iter().skip(self.batch + tuple).product();
        let places = starts.into_iter().flat_map(|start| start..start + size);
        Ok(vec![x.pick(output.shape.clone(), places)?])
    }
}

/// Where in x the slice of each tuple starts.
pub(crate) fn tuple_places(x: &[usize], indices: &Array, batch: usize) -> Result<Vec<usize>, PlanError> {
    let tuple = indices.shape().last().copied().unwrap_or(0);
    let leading = indices.shape().split_last().map_or(&[][..], |(_, leading)| leading);
    let tuples: usize = leading.iter().product();
    let per_batch: usize = leading.iter().skip(batch).product();
    let strides = shape::strides(x);
    let batch_size: usize = x.iter().skip(batch).product();
    let items = indices.ints()?;
    (0..tuples)
        .map(|at| {
            let row = items.get(at * tuple..(at + 1) * tuple).unwrap_or_default();
            let axes = x.iter().zip(&strides).skip(batch);
            let start = at.checked_div(per_batch).unwrap_or(0) * batch_size;
            row.iter()
                .zip(axes)
                .try_fold(start, |sum, (index, (dim, stride))| Ok(sum + resolve(*index, *dim)? * stride))
        })
        .collect()
}
