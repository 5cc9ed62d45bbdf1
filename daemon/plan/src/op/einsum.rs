//! Sums of products over named axes.

use super::{Inputs, Rule, conv::one, same_type};
use crate::{
    array::{Array, Fact, is_float},
    error::PlanError,
    shape::{self, Walk},
};

/// A sum of products. Inputs: one or more of one datatype; axis j of input i is called `terms[i][j]`. Output: an axis for
/// each name in `output`; what is not named there is summed over. Axes of one name have one length, or 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Einsum {
    /// Names of the axes of each input; a name may stand twice in one (the diagonal).
    pub terms: Vec<Vec<u16>>,
    /// Names of the axes of the output, none twice.
    pub output: Vec<u16>,
}

impl Einsum {
    /// Every name with its length, those of the output first.
    fn sizes(&self, shapes: &[&[usize]]) -> Result<Vec<(u16, usize)>, PlanError> {
        let fault = || PlanError::shape(format!("sum {:?} over {shapes:?}", self.terms));
        let mut sizes: Vec<(u16, usize)> = self.output.iter().map(|name| (*name, 1)).collect();
        if self.terms.len() != shapes.len() {
            return Err(fault());
        }
        let mut seen = Vec::new();
        for (term, shape) in self.terms.iter().zip(shapes) {
            if term.len() != shape.len() {
                return Err(fault());
            }
            for (name, dim) in term.iter().zip(*shape) {
                seen.push(*name);
                match sizes.iter_mut().find(|(known, _)| known == name) {
                    Some((_, size)) if *size == 1 => *size = *dim,
                    Some((_, size)) if *size == *dim || *dim == 1 => {}
                    Some(_) => return Err(fault()),
                    None => sizes.push((*name, *dim)),
                }
            }
        }
        if self.output.iter().any(|name| !seen.contains(name)) {
            return Err(PlanError::attribute("an output axis that no input has"));
        }
        Ok(sizes)
    }
}

impl Rule for Einsum {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        let facts = inputs.all()?;
        let first = inputs.need(0)?;
        for fact in &facts {
            same_type(first, fact)?;
        }
        let shapes: Vec<&[usize]> = facts.iter().map(|fact| fact.shape.as_slice()).collect();
        let sizes = self.sizes(&shapes)?;
        let all: Vec<usize> = sizes.iter().map(|(_, size)| *size).collect();
        // Every combination is visited, so their number is bounded like that of elements.
        let _count = all
            .iter()
            .try_fold(1_usize, |product, size| product.checked_mul((*size).max(1)))
            .filter(|product| *product <= 1 << 40)
            .ok_or_else(|| PlanError::TooLarge { what: "a sum of products".to_owned(), limit: 1 << 40 })?;
        Ok(vec![first.shaped(all.into_iter().take(self.output.len()).collect::<Vec<_>>())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (arrays, output) = (inputs.all()?, one(outputs)?);
        let shapes: Vec<&[usize]> = arrays.iter().map(|array| array.shape()).collect();
        let sizes = self.sizes(&shapes)?;
        let all: Vec<usize> = sizes.iter().map(|(_, size)| *size).collect();
        let inner: usize = all.iter().skip(self.output.len()).product();
        let walks: Vec<Walk> = self
            .terms
            .iter()
            .zip(&shapes)
            .map(|(term, shape)| {
                let strides = shape::strides(shape);
                let steps = sizes.iter().map(|(name, _)| {
                    let axes = term.iter().zip(&strides).zip(*shape);
                    axes.filter(|((axis, _), dim)| *axis == name && **dim != 1)
                        .map(|((_, stride), _)| *stride)
                        .sum()
                });
                Walk::forward(&all, &steps.collect::<Vec<usize>>())
            })
            .collect();
        if is_float(output.datatype) {
            let items = arrays.iter().map(|array| array.reals()).collect::<Result<Vec<_>, _>>()?;
            let sums = sums(&items, walks, inner, output.elements(), 1.0, |a, b| a * b, |a, b| a + b);
            return Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), sums)?]);
        }
        let items = arrays.iter().map(|array| array.wholes()).collect::<Result<Vec<_>, _>>()?;
        let sums = sums(&items, walks, inner, output.elements(), 1, i128::wrapping_mul, i128::wrapping_add);
        Ok(vec![Array::from_wholes(output.datatype, output.shape.clone(), sums)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, _: &[Fact]) -> u64 {
        let Ok(facts) = inputs.all() else { return 0 };
        let shapes: Vec<&[usize]> = facts.iter().map(|fact| fact.shape.as_slice()).collect();
        let sizes = self.sizes(&shapes).unwrap_or_default();
        sizes.iter().fold(1, |product, (_, size)| product.saturating_mul(*size as u64))
    }
}

fn sums<T: Copy + Default>(
    items: &[Vec<T>],
    mut walks: Vec<Walk>,
    inner: usize,
    count: usize,
    unit: T,
    multiply: impl Fn(T, T) -> T,
    add: impl Fn(T, T) -> T,
) -> Vec<T> {
    (0..count)
        .map(|_| {
            (0..inner).fold(T::default(), |sum, _| {
                let factors =
                    items.iter().zip(&mut walks).filter_map(|(items, walk)| items.get(walk.next()?).copied());
                add(sum, factors.fold(unit, &multiply))
            })
        })
        .collect()
}
