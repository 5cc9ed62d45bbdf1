//! Elements and slices written by index.

use super::{
    Inputs, Rule,
    binary::Binary,
    conv::one,
    gather::{check_inside, element_places, need_indices, resolve, tuple_places},
    need_shape, same_type,
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
};

/// What is done where several updates, or an update and what was there, meet: `None` writes, else `Add`, `Mul`, `Max` or
/// `Min`.
pub type Combine = Option<Binary>;

/// Writes `updates` at `places` of `x`.
fn scatter(x: &Array, places: &[usize], updates: &Array, combine: Combine) -> Result<Array, PlanError> {
    let Some(combine) = combine else {
        // The last update of a place wins: find for each place what it holds.
        let mut sources: Vec<usize> = (0..x.len()).collect();
        for (update, place) in places.iter().enumerate() {
            if let Some(source) = sources.get_mut(*place) {
                *source = x.len() + update;
            }
        }
        return Array::chain(&[x, updates])?.pick(x.shape(), sources);
    };
    let fold = |x: &Array, update: &Array| {
        super::Op::Binary(combine)
            .run(&Inputs::new([Some(x), Some(update)]))?
            .into_iter()
            .next()
            .ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
    };
    // Round by round, so that no round writes a place twice.
    let mut result = x.clone();
    let mut left: Vec<(usize, usize)> = places.iter().copied().enumerate().collect();
    if crate::array::is_float(x.datatype()) {
        let (mut items, updates) = (x.reals()?, updates.reals()?);
        for (update, place) in left {
            if let (Some(item), Some(update)) = (items.get_mut(place), updates.get(update)) {
                *item = combine.apply(*item, *update);
            }
        }
        return Array::from_reals(x.datatype(), x.shape(), items);
    }
    while !left.is_empty() {
        let mut seen = std::collections::BTreeSet::new();
        let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, place)| seen.insert(*place));
        let old = result.pick([now.len()], now.iter().map(|(_, place)| *place))?;
        let new = fold(&old, &updates.pick([now.len()], now.iter().map(|(update, _)| *update))?)?;
        let places: Vec<usize> = now.iter().map(|(_, place)| *place).collect();
        result = scatter(&result, &places, &new, None)?;
        left = later;
    }
    Ok(result)
}

/// Elements written by index along an axis. Inputs: x, indices, updates of the shape of indices. Output: x's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scatter {
    /// The axis.
    pub axis: usize,
    /// What meets.
    pub combine: Combine,
}

impl Rule for Scatter {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(3..=3)?;
        let (x, indices, updates) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        need_indices(indices)?;
        same_type(x, updates)?;
        need_shape(updates, &indices.shape)?;
        if self.axis >= x.rank() {
            return Err(PlanError::attribute(format!("axis {} of rank {}", self.axis, x.rank())));
        }
        check_inside(&x.shape, &indices.shape, self.axis)?;
        Ok(vec![x.clone()])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, updates) = (inputs.need(0)?, inputs.need(2)?);
        let places = element_places(x.shape(), inputs.need(1)?, self.axis)?;
        Ok(vec![scatter(x, &places, updates, self.combine)?])
    }
}

/// Slices written by index tuples. Inputs: x, indices `[.., k]`, updates `[.., the axes of x after k]`. Output: x's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScatterNd {
    /// What meets.
    pub combine: Combine,
}

impl Rule for ScatterNd {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(3..=3)?;
        let (x, indices, updates) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        need_indices(indices)?;
        same_type(x, updates)?;
        let fault = || PlanError::shape(format!("tuples {:?} into {:?}", indices.shape, x.shape));
        let (tuple, leading) = indices.shape.split_last().ok_or_else(fault)?;
        need_shape(updates, &[leading, x.shape.get(*tuple..).ok_or_else(fault)?].concat())?;
        Ok(vec![x.clone()])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, indices, updates) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        let starts = tuple_places(x.shape(), indices, 0)?;
        let tuple = indices.shape().last().copied().unwrap_or(0);
        let size: usize = x.shape().iter().skip(tuple).product();
        let places: Vec<usize> = starts.into_iter().flat_map(|start| start..start + size).collect();
        Ok(vec![scatter(x, &places, updates, self.combine)?])
    }
}

/// A one at each index. Inputs: indices (may count from the end; those outside give no one), values `[off, on]`. Output:
/// indices' shape with an axis of `depth` put in at `axis`, of the datatype of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneHot {
    /// Where the new axis stands.
    pub axis: usize,
    /// Its length.
    pub depth: usize,
}

impl Rule for OneHot {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (indices, values) = (inputs.need(0)?, inputs.need(1)?);
        need_shape(values, &[2])?;
        let mut shape = indices.shape.clone();
        if self.axis > shape.len() {
            return Err(PlanError::attribute(format!("axis {} of rank {}", self.axis, shape.len() + 1)));
        }
        shape.insert(self.axis, self.depth);
        Ok(vec![values.shaped(shape)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let output = one(outputs)?;
        let indices: Vec<Option<usize>> =
            inputs.need(0)?.ints()?.into_iter().map(|index| resolve(index, self.depth).ok()).collect();
        let inner: usize = output.shape.iter().skip(self.axis + 1).product();
        let places = (0..output.elements()).map(|at| {
            let (row, slot, column) = (at / inner / self.depth, at / inner % self.depth, at % inner);
            usize::from(indices.get(row * inner + column).copied().flatten() == Some(slot))
        });
        Ok(vec![inputs.need(1)?.pick(output.shape.clone(), places)?])
    }
}
