//! The largest or smallest elements.

use agentd_types::Datatype;

use super::{Inputs, Rule, reduce::lanes};
use crate::{
    array::{Array, Fact, is_float, is_int},
    error::PlanError,
    op::conv::one,
};

/// The `k` largest or smallest elements along an axis, best first; of equal ones the one with the lower index.
///
/// Input: x. Outputs: the elements and their indices (`INT64`), x's shape with `axis` k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK {
    /// The axis.
    pub axis: usize,
    /// How many; at most the axis' length.
    pub k: usize,
    /// Largest, not smallest.
    pub largest: bool,
}

impl Rule for TopK {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        let mut shape = x.shape.clone();
        let fits = is_float(x.datatype) || is_int(x.datatype);
        match shape.get_mut(self.axis) {
            Some(dim) if *dim >= self.k && fits => *dim = self.k,
            _ => {
                return Err(PlanError::shape(format!(
                    "the {} best of {:?} along {}",
                    self.k, x.shape, self.axis
                )));
            }
        }
        let values = x.shaped(shape);
        Ok(vec![values.clone(), values.with(Datatype::Int64)])
    }

    #[expect(clippy::cast_possible_wrap, reason = "indices are below 2^30")]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let (reals, wholes) =
            if is_int(x.datatype()) { (None, Some(x.wholes()?)) } else { (Some(x.reals()?), None) };
        let mut sources = vec![0; output.elements()];
        let mut indices = vec![0_i64; output.elements()];
        for (lane, out) in lanes(x.shape(), self.axis).zip(lanes(&output.shape, self.axis)) {
            let mut places: Vec<(usize, usize)> = lane.enumerate().collect();
            places.sort_by(|(_, a), (_, b)| {
                let order = match (&reals, &wholes) {
                    (Some(items), _) => order(items.get(*a), items.get(*b)),
                    (_, Some(items)) => items.get(*a).cmp(&items.get(*b)),
                    _ => std::cmp::Ordering::Equal,
                };
                if self.largest { order.reverse() } else { order }
            });
            for (place, (index, source)) in out.zip(places) {
                if let (Some(slot), Some(number)) = (sources.get_mut(place), indices.get_mut(place)) {
                    *slot = source;
                    *number = index as i64;
                }
            }
        }
        let values = x.pick(output.shape.clone(), sources)?;
        Ok(vec![values, Array::new(output.shape.clone(), indices)?])
    }
}

/// Total order of numbers in which 0 and -0 are equal and NaN is largest.
fn order(a: Option<&f64>, b: Option<&f64>) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.map(|a| a.is_nan()).cmp(&b.map(|b| b.is_nan())))
}
