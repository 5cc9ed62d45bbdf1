//! Shapes: how many elements, how far apart, and how one broadcasts to another.

use crate::error::PlanError;

/// No value of a plan has more elements than this.
pub const MAX_ELEMENTS: usize = 1 << 30;
/// No value of a plan has more dimensions than this.
pub const MAX_RANK: usize = 32;

/// How many elements a shape has.
///
/// # Errors
/// [`PlanError::TooLarge`] beyond [`MAX_ELEMENTS`] or [`MAX_RANK`]; dimensions of 0 do not excuse the others.
pub fn count(shape: &[usize]) -> Result<usize, PlanError> {
    if shape.len() > MAX_RANK {
        return Err(PlanError::TooLarge {
            what: format!("a rank of {}", shape.len()),
            limit: MAX_RANK as u64,
        });
    }
    let bound = shape
        .iter()
        .try_fold(1_usize, |product, dim| {
            product.checked_mul((*dim).max(1)).filter(|product| *product <= MAX_ELEMENTS)
        })
        .ok_or_else(|| PlanError::TooLarge {
            what: format!("a tensor of shape {shape:?}"),
            limit: MAX_ELEMENTS as u64,
        })?;
    Ok(if shape.contains(&0) { 0 } else { bound })
}

/// Elements from one index to the next along each axis, row-major.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut step = 1_usize;
    for (stride, dim) in strides.iter_mut().zip(shape).rev() {
        *stride = step;
        step = step.saturating_mul((*dim).max(1));
    }
    strides
}

/// The shape to which `a` and `b` broadcast, as numpy does.
///
/// # Errors
/// [`PlanError::Shape`] when they do not.
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, PlanError> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], axis: usize| {
        (axis + shape.len()).checked_sub(rank).and_then(|axis| shape.get(axis)).copied().unwrap_or(1)
    };
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(PlanError::shape(format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

/// The strides by which an array of shape `from` is read as if it had shape `to`, to which it broadcasts.
///
/// # Errors
/// [`PlanError::Shape`] when it does not broadcast to exactly `to`.
pub fn broadcast_strides(from: &[usize], to: &[usize]) -> Result<Vec<usize>, PlanError> {
    let fault = || PlanError::shape(format!("shape {from:?} does not broadcast to {to:?}"));
    let skip = to.len().checked_sub(from.len()).ok_or_else(fault)?;
    let mut result = vec![0; to.len()];
    for ((out, (dim, stride)), want) in
        result.iter_mut().skip(skip).zip(from.iter().zip(strides(from))).zip(to.iter().skip(skip))
    {
        if dim == want {
            *out = if *dim == 1 { 0 } else { stride };
        } else if *dim != 1 {
            return Err(fault());
        }
    }
    Ok(result)
}

/// An axis that may count from the end, as an index.
///
/// # Errors
/// [`PlanError::Attribute`] when it lies outside `-rank..rank`.
pub fn axis(axis: i64, rank: usize) -> Result<usize, PlanError> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let index = if axis < 0 { axis.saturating_add(signed) } else { axis };
    usize::try_from(index)
        .ok()
        .filter(|index| *index < rank)
        .ok_or_else(|| PlanError::attribute(format!("axis {axis} does not exist in rank {rank}")))
}

/// The offsets of the elements of a strided view, in row-major order.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Length, step and place of each axis.
    axes: Vec<(usize, isize, usize)>,
    offset: isize,
    left: usize,
}

impl Walk {
    /// A walk over `shape` with `steps` (elements from one index to the next, may be negative) from `offset`.
    ///
    /// `steps` has the length of `shape`; missing ones count as 0.
    pub fn new(shape: &[usize], steps: impl IntoIterator<Item = isize>, offset: isize) -> Self {
        let mut steps = steps.into_iter();
        let axes = shape.iter().map(|dim| (*dim, steps.next().unwrap_or(0), 0)).collect();
        Self { axes, offset, left: shape.iter().product() }
    }

    /// A walk over `shape` with unsigned `steps` from 0.
    pub fn forward(shape: &[usize], steps: &[usize]) -> Self {
        Self::new(shape, steps.iter().map(|step| step.cast_signed()), 0)
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let now = self.offset;
        for (dim, step, place) in self.axes.iter_mut().rev() {
            *place += 1;
            self.offset += *step;
            if *place < *dim {
                break;
            }
            self.offset -= *step * place.cast_signed();
            *place = 0;
        }
        Some(now.cast_unsigned())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Walk {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_broadcast_as_numpy_says() {
        assert_eq!(broadcast(&[2, 1, 3], &[4, 1]), Ok(vec![2, 4, 3]));
        assert_eq!(broadcast(&[0], &[1]), Ok(vec![0]));
        assert!(broadcast(&[2], &[3]).is_err());
        assert_eq!(broadcast_strides(&[4, 1], &[2, 4, 3]), Ok(vec![0, 1, 0]));
    }

    #[test]
    fn a_walk_visits_a_transposed_view() {
        assert_eq!(Walk::forward(&[3, 2], &[1, 3]).collect::<Vec<_>>(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(Walk::new(&[3], [-1], 2).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(Walk::forward(&[2, 0], &[1, 1]).count(), 0);
        assert_eq!(Walk::forward(&[], &[]).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn huge_shapes_are_refused() {
        assert!(count(&[1 << 40, 0]).is_err());
        assert!(count(&[usize::MAX, usize::MAX]).is_err());
        assert_eq!(count(&[3, 0]), Ok(0));
    }
}
