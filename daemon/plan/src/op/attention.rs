//! Scaled dot-product attention.

use super::{Inputs, Rule, conv::one, need_float, same_type};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    shape,
};

/// `softmax(scale * Q K^T + mask) V` for each head.
///
/// Inputs: q `[B, Sq, heads * D]`, k `[B, Sk, heads * D]`, v `[B, Sk, heads * Dv]`: head h is features `h * D..(h + 1) * D`;
/// mask or absent, which broadcasts to `[B, heads, Sq, Sk]` and is added. Output: `[B, Sq, heads * Dv]`. Floats.
///
/// Source: Vaswani et al., "Attention Is All You Need" (2017), equation 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads; divides the features of q, k and v.
    pub heads: usize,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
}

struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    features: usize,
    values: usize,
}

impl Attention {
    fn sizes(self, q: &[usize], k: &[usize], v: &[usize]) -> Result<Sizes, PlanError> {
        let fault =
            || PlanError::shape(format!("attention of {q:?}, {k:?} and {v:?} in {} heads", self.heads));
        let ([b, queries, fq], [bk, keys, fk], [bv, sv, fv]) = (q, k, v) else { return Err(fault()) };
        let fits = b == bk && b == bv && fq == fk && keys == sv && self.heads > 0;
        if !fits || fq % self.heads != 0 || fv % self.heads != 0 {
            return Err(fault());
        }
        let (features, values) = (fq / self.heads, fv / self.heads);
        Ok(Sizes { batch: *b, queries: *queries, keys: *keys, features, values })
    }
}

impl Rule for Attention {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(3..=4)?;
        let (q, k, v) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        need_float(q)?;
        same_type(q, k)?;
        same_type(q, v)?;
        let sizes = self.sizes(&q.shape, &k.shape, &v.shape)?;
        if let Some(mask) = inputs.get(3) {
            same_type(q, mask)?;
            let scores = [sizes.batch, self.heads, sizes.queries, sizes.keys];
            let _steps = shape::broadcast_strides(&mask.shape, &scores)?;
        }
        Ok(vec![q.shaped([sizes.batch, sizes.queries, self.heads * sizes.values])])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (q, k, v, output) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?, one(outputs)?);
        let sizes = self.sizes(q.shape(), k.shape(), v.shape())?;
        let (q, k, v) = (q.reals()?, k.reals()?, v.reals()?);
        let scores_shape = [sizes.batch, self.heads, sizes.queries, sizes.keys];
        let mask = inputs.get(3).map(|mask| mask.broadcast(&scores_shape)?.reals()).transpose()?;
        let row = |items: &[f64], token: usize, head: usize, size: usize| -> Vec<f64> {
            let start = token * self.heads * size + head * size;
            items.get(start..start + size).unwrap_or_default().to_vec()
        };
        let mut result = Vec::with_capacity(output.elements());
        for token in 0..sizes.batch * sizes.queries {
            let (b, query) = (token / sizes.queries, token % sizes.queries);
            for head in 0..self.heads {
                let asked = row(&q, token, head, sizes.features);
                let mut scores: Vec<f64> = (0..sizes.keys)
                    .map(|key| {
                        let held = row(&k, b * sizes.keys + key, head, sizes.features);
                        let product: f64 = asked.iter().zip(&held).map(|(a, b)| a * b).sum();
                        let at = ((b * self.heads + head) * sizes.queries + query) * sizes.keys + key;
                        let mask = mask.as_ref().and_then(|mask| mask.get(at)).copied().unwrap_or(0.0);
                        product * f64::from(self.scale) + mask
                    })
                    .collect();
                let top = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
                scores.iter_mut().for_each(|score| *score = (*score - top).exp());
                let sum: f64 = scores.iter().sum();
                let mut mixed = vec![0.0; sizes.values];
                for (key, score) in scores.iter().enumerate() {
                    let value = row(&v, b * sizes.keys + key, head, sizes.values);
                    mixed.iter_mut().zip(value).for_each(|(mixed, value)| *mixed += score / sum * value);
                }
                result.extend(mixed);
            }
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), result)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        let keys = inputs.get(1).and_then(|k| k.shape.get(1)).copied().unwrap_or(1) as u64;
        let touched = inputs.get(0).into_iter().chain(outputs).map(|fact| fact.elements() as u64);
        touched.fold(0, u64::saturating_add).saturating_mul(keys)
    }
}
