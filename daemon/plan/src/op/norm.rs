//! Normalisations.

use super::{
    Inputs, Rule, Unary,
    conv::{finish, leading, one},
    need_float, need_shape, same_type,
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    shape,
};

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` by channel, then activation.
///
/// Inputs: x `[N, C, ..]`, scale, bias, mean, variance, each `[C]`. Output: x's shape. Floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance.
    pub epsilon: f32,
    /// Applied last.
    pub activation: Option<Unary>,
}

/// The channels of a tensor: axis 1, or 1 where there is none.
fn channels(x: &Fact) -> usize {
    x.shape.get(1).copied().unwrap_or(1)
}

impl Rule for BatchNorm {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(5..=5)?;
        let x = inputs.need(0)?;
        need_float(x)?;
        for index in 1..5 {
            let parameter = inputs.need(index)?;
            need_float(parameter)?;
            need_shape(parameter, &[channels(x)])?;
        }
        Ok(vec![x.clone()])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let list = |index| inputs.need(index).and_then(Array::reals);
        let (scale, bias, mean, variance) = (list(1)?, list(2)?, list(3)?, list(4)?);
        let parameters = scale.iter().zip(&bias).zip(mean.iter().zip(&variance));
        let lines: Vec<(f64, f64)> = parameters
            .map(|((scale, bias), (mean, variance))| {
                let factor = scale / (variance + f64::from(self.epsilon)).sqrt();
                (factor, bias - mean * factor)
            })
            .collect();
        let mut items = x.reals()?;
        let inner: usize = x.shape().iter().skip(2).product();
        for (at, item) in items.iter_mut().enumerate() {
            let channel = at.checked_div(inner).unwrap_or(0) % lines.len().max(1);
            let (factor, offset) = lines.get(channel).copied().unwrap_or((1.0, 0.0));
            *item = *item * factor + offset;
        }
        finish(&mut items, self.activation);
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items)?])
    }
}

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` over the axes from `axis` on.
///
/// Inputs: x, scale, bias or absent; both broadcast to x. Output: x's shape; then, where asked for, the means and the
/// factors `1 / sqrt(variance + epsilon)`, with the normalised axes 1. Floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// The first axis that is normalised over.
    pub axis: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Asks for the second and third output.
    pub statistics: bool,
}

/// Refuses scale and bias that do not broadcast to x.
fn check_affine(inputs: &Inputs<'_, Fact>, x: &Fact) -> Result<(), PlanError> {
    for index in 1..inputs.len() {
        if let Some(parameter) = inputs.get(index) {
            need_float(parameter)?;
            let _steps = shape::broadcast_strides(&parameter.shape, &x.shape)?;
        }
    }
    Ok(())
}

/// Multiplies by input 1 and adds input 2, where there are any.
fn affine(items: &mut [f64], inputs: &Inputs<'_, Array>, shape: &[usize]) -> Result<(), PlanError> {
    if let Some(scale) = inputs.get(1) {
        items.iter_mut().zip(scale.broadcast(shape)?.reals()?).for_each(|(item, scale)| *item *= scale);
    }
    if let Some(bias) = inputs.get(2) {
        items.iter_mut().zip(bias.broadcast(shape)?.reals()?).for_each(|(item, bias)| *item += bias);
    }
    Ok(())
}

/// Mean and `1 / sqrt(variance + epsilon)`.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 elements")]
fn statistics(items: &[f64], epsilon: f32) -> (f64, f64) {
    let count = items.len() as f64;
    let mean = items.iter().sum::<f64>() / count;
    let variance = items.iter().map(|item| (item - mean) * (item - mean)).sum::<f64>() / count;
    (mean, 1.0 / (variance + f64::from(epsilon)).sqrt())
}

impl Rule for LayerNorm {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=3)?;
        let x = inputs.need(0)?;
        need_float(x)?;
        if self.axis >= x.rank() {
            return Err(PlanError::attribute(format!("axis {} of rank {}", self.axis, x.rank())));
        }
        check_affine(inputs, x)?;
        if !self.statistics {
            return Ok(vec![x.clone()]);
        }
        let kept = x.shape.iter().enumerate().map(|(axis, dim)| if axis < self.axis { *dim } else { 1 });
        let kept = x.shaped(kept.collect::<Vec<_>>());
        let kept = if x.datatype == agentd_types::Datatype::Fp64 {
            kept
        } else {
            kept.with(agentd_types::Datatype::Fp32)
        };
        Ok(vec![x.clone(), kept.clone(), kept])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let mut items = x.reals()?;
        let size: usize = x.shape().iter().skip(self.axis).product();
        let (mut means, mut factors) = (Vec::new(), Vec::new());
        for group in items.chunks_mut(size.max(1)) {
            let (mean, factor) = statistics(group, self.epsilon);
            group.iter_mut().for_each(|item| *item = (*item - mean) * factor);
            means.push(mean);
            factors.push(factor);
        }
        affine(&mut items, inputs, x.shape())?;
        let mut arrays = vec![Array::from_reals(output.datatype, output.shape.clone(), items)?];
        for (fact, list) in outputs.iter().skip(1).zip([means, factors]) {
            arrays.push(Array::from_reals(fact.datatype, fact.shape.clone(), list)?);
        }
        Ok(arrays)
    }
}

/// `x / sqrt(mean(x^2) + epsilon) * scale` over the axes from `axis` on.
///
/// Inputs: x, scale or absent, which broadcasts to x. Output: x's shape. Floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// The first axis that is normalised over.
    pub axis: usize,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl Rule for RmsNorm {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=2)?;
        let x = inputs.need(0)?;
        need_float(x)?;
        if self.axis >= x.rank() {
            return Err(PlanError::attribute(format!("axis {} of rank {}", self.axis, x.rank())));
        }
        check_affine(inputs, x)?;
        Ok(vec![x.clone()])
    }

    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 elements")]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let mut items = x.reals()?;
        let size: usize = x.shape().iter().skip(self.axis).product();
        for group in items.chunks_mut(size.max(1)) {
            let square = group.iter().map(|item| item * item).sum::<f64>() / group.len() as f64;
            let factor = 1.0 / (square + f64::from(self.epsilon)).sqrt();
            group.iter_mut().for_each(|item| *item *= factor);
        }
        affine(&mut items, inputs, x.shape())?;
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items)?])
    }
}

/// Normalisation over each group of channels and all spatial axes; instance normalisation has as many groups as channels.
///
/// Inputs: x `[N, C, ..]`, scale `[C]`, bias `[C]`. Output: x's shape. Floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups; divides C.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

impl Rule for GroupNorm {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(3..=3)?;
        let x = inputs.need(0)?;
        need_float(x)?;
        let (_, channels) = leading(&x.shape).ok_or_else(|| PlanError::shape("a tensor without channels"))?;
        if self.groups == 0 || channels % self.groups != 0 {
            return Err(PlanError::attribute(format!("{} groups of {channels} channels", self.groups)));
        }
        for index in 1..3 {
            same_type(x, inputs.need(index)?)?;
            need_shape(inputs.need(index)?, &[channels])?;
        }
        Ok(vec![x.clone()])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let (scale, bias) = (inputs.need(1)?.reals()?, inputs.need(2)?.reals()?);
        let mut items = x.reals()?;
        let plane: usize = x.shape().iter().skip(2).product();
        let size = scale.len() / self.groups * plane;
        for group in items.chunks_mut(size.max(1)) {
            let (mean, factor) = statistics(group, self.epsilon);
            group.iter_mut().for_each(|item| *item = (*item - mean) * factor);
        }
        for (channel, items) in items.chunks_mut(plane.max(1)).enumerate() {
            let channel = channel % scale.len().max(1);
            let (scale, bias) =
                (scale.get(channel).copied().unwrap_or(1.0), bias.get(channel).copied().unwrap_or(0.0));
            items.iter_mut().for_each(|item| *item = *item * scale + bias);
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items)?])
    }
}

/// `x / (bias + alpha / size * sum of squares of neighbouring channels)^beta`.
///
/// Input: x `[N, C, ..]`. Output: x's shape. Floats. Channel c's neighbours are `c - floor((size - 1) / 2)` to
/// `c + ceil((size - 1) / 2)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalResponseNorm {
    /// How many channels are summed over; at least 1.
    pub size: usize,
    /// The factor of the sum.
    pub alpha: f32,
    /// The power.
    pub beta: f32,
    /// Added to the sum.
    pub bias: f32,
}

impl Rule for LocalResponseNorm {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        need_float(x)?;
        if x.rank() < 2 || self.size == 0 || self.size > super::window::MAX_STEP {
            return Err(PlanError::shape("normalisation over no channels"));
        }
        Ok(vec![x.clone()])
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of channels")]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let items = x.reals()?;
        let (_, channels) = leading(x.shape()).unwrap_or((0, 0));
        let plane: usize = x.shape().iter().skip(2).product();
        let normalised = items.iter().enumerate().map(|(at, item)| {
            let channel = at.checked_div(plane).unwrap_or(0) % channels.max(1);
            let first = channel.saturating_sub((self.size - 1) / 2);
            let last = (channel + self.size / 2).min(channels - 1);
            let start = at - channel * plane;
            let squares = (first..=last)
                .filter_map(|channel| items.get(start + channel * plane))
                .map(|item| item * item);
            let sum = f64::from(self.alpha) / self.size as f64 * squares.sum::<f64>();
            item / (f64::from(self.bias) + sum).powf(f64::from(self.beta))
        });
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), normalised.collect())?])
    }
}
