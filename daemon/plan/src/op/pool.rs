//! Pooling by a window over the spatial axes.

use agentd_types::Datatype;

use super::{
    Inputs, Rule, Window,
    conv::{leading, one},
    need_float, need_type,
    window::cube_shape,
};
use crate::{
    array::{Array, Fact, is_float, is_int},
    error::PlanError,
    shape,
};

/// What pooling makes of the elements in a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PoolKind {
    /// The largest.
    Max,
    /// The mean; of the elements inside alone, or of the padding too (which counts as 0, up to the padded border).
    Average {
        /// Whether padding counts.
        count_padding: bool,
    },
    /// `(sum |x|^p)^(1/p)`
    Lp {
        /// The power, at least 1.
        p: u32,
    },
}

/// How the second output of max pooling counts elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexOrder {
    /// Over the whole tensor, row-major.
    RowMajor,
    /// As row-major, but with the spatial axes in reverse order.
    ColumnMajor,
}

/// Pooling. Input: x `[N, C, spatial..]`. Output: `[N, C, output..]`, and the indices of the largest elements as `INT64`
/// when asked for.
///
/// Windows may reach beyond the padded input (rounding up); what they find there counts for nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// What is computed.
    pub kind: PoolKind,
    /// The window.
    pub window: Window,
    /// Spatial size of the output.
    pub output: Vec<usize>,
    /// Asks for the second output.
    pub indices: Option<IndexOrder>,
}

impl Rule for Pool {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        if !(is_float(x.datatype) || is_int(x.datatype) && self.kind == PoolKind::Max) {
            return Err(PlanError::datatype(format!("pooling of {}", x.datatype.as_str())));
        }
        self.window.check()?;
        let (n, c) =
            leading(&x.shape).ok_or_else(|| PlanError::shape("pooling of a tensor without channels"))?;
        if x.rank() != self.window.rank() + 2 || self.output.len() != self.window.rank() {
            return Err(PlanError::shape(format!(
                "a window over {} axes on {:?}",
                self.window.rank(),
                x.shape
            )));
        }
        let ends =
            self.output.iter().zip(&self.window.strides).map(|(size, stride)| size.checked_mul(*stride));
        if ends.into_iter().any(|end| end.is_none_or(|end| end > shape::MAX_ELEMENTS)) {
            return Err(PlanError::shape("a pooling output out of bounds"));
        }
        let mut shape = vec![n, c];
        shape.extend(&self.output);
        let output = x.shaped(shape);
        let indices = self.indices.map(|_| output.with(Datatype::Int64));
        Ok([output].into_iter().chain(indices).collect())
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of taps")]
    #[expect(clippy::cast_possible_wrap, reason = "indices are below 2^30")]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let items = x.reals()?;
        let size = cube_shape(x.shape());
        let (plane, cube) = (size.iter().product::<usize>(), self.window.cube());
        let out = cube_shape(&output.shape);
        let padded = self.padded(size);
        let mut pooled = Vec::with_capacity(output.elements());
        let mut indices = Vec::new();
        for at in 0..output.elements() {
            let place = [at / (out[1] * out[2]) % out[0], at / out[2] % out[1], at % out[2]];
            let first = at / (out[0] * out[1] * out[2]) * plane;
            let (mut sum, mut inside, mut counted) = (0.0, 0_usize, 0_usize);
            let mut best = (f64::NEG_INFINITY, None);
            for tap in 0..self.window.taps() {
                let [_, ky, kx] = cube.kernel;
                let tap = [tap / (ky * kx), tap / kx % ky, tap % kx];
                let reach = |axis: usize| {
                    place.get(axis).copied().unwrap_or(0) * cube.strides.get(axis).copied().unwrap_or(1)
                        + tap.get(axis).copied().unwrap_or(0) * cube.dilations.get(axis).copied().unwrap_or(1)
                };
                counted += usize::from((0..3).all(|axis| Some(&reach(axis)) < padded.get(axis)));
                let spot = (0..3).map(|axis| {
                    let size = size.get(axis).copied().unwrap_or(1);
                    reach(axis)
                        .checked_sub(cube.pads.get(axis).copied().unwrap_or(0))
                        .filter(|spot| *spot < size)
                });
                let Some(spot) = spot.collect::<Option<Vec<_>>>() else { continue };
                let offset = spot.iter().zip(size).fold(0, |offset, (spot, size)| offset * size + spot);
                let Some(item) = items.get(first + offset) else { continue };
                inside += 1;
                match self.kind {
                    PoolKind::Max
                        if best.1.is_none() || *item > best.0 || item.is_nan() && !best.0.is_nan() =>
                    {
                        best = (*item, Some(spot));
                    }
                    PoolKind::Max => {}
                    PoolKind::Average { .. } => sum += item,
                    PoolKind::Lp { p } => sum += item.abs().powi(p.cast_signed()),
                }
            }
            pooled.push(match self.kind {
                PoolKind::Max => best.0,
                PoolKind::Average { count_padding: true } => sum / counted as f64,
                PoolKind::Average { count_padding: false } => sum / inside as f64,
                PoolKind::Lp { p } => sum.powf(1.0 / f64::from(p)),
            });
            if let Some(order) = self.indices {
                let spot = best.1.unwrap_or_default();
                let pairs: Vec<_> = spot.iter().zip(size).collect();
                let fold = |offset: usize, (spot, size): &(&usize, usize)| offset * size + **spot;
                let offset = match order {
                    IndexOrder::RowMajor => pairs.iter().fold(0, fold),
                    IndexOrder::ColumnMajor => pairs.iter().rev().fold(0, fold),
                };
                indices.push((first + offset) as i64);
            }
        }
        let mut arrays = vec![Array::from_reals(output.datatype, output.shape.clone(), pooled)?];
        if self.indices.is_some() {
            arrays.push(Array::new(output.shape.clone(), indices)?);
        }
        Ok(arrays)
    }

    fn work(&self, _: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        let elements = outputs.first().map_or(0, Fact::elements) as u64;
        elements.saturating_mul(self.window.taps() as u64)
    }
}

impl Pool {
    /// The padded size along each of three axes.
    fn padded(&self, size: [usize; 3]) -> [usize; 3] {
        let mut padded = size;
        let pads = self.window.pads_begin.iter().zip(&self.window.pads_end).rev();
        for (size, (a, b)) in padded.iter_mut().rev().zip(pads) {
            *size += a + b;
        }
        padded
    }
}

/// The inverse of max pooling: each element goes to its index, zero elsewhere.
///
/// Inputs: x, indices of the same shape as `INT64`. Output: shape `output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaxUnpool {
    /// The output's shape.
    pub output: Vec<usize>,
    /// The shape over which indices count: that of what was pooled. Elements keep their place in it, from the start.
    pub counted: Vec<usize>,
}

impl Rule for MaxUnpool {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (x, indices) = (inputs.need(0)?, inputs.need(1)?);
        need_float(x)?;
        need_type(indices, Datatype::Int64)?;
        super::need_shape(indices, &x.shape)?;
        if self.counted.len() != self.output.len()
            || self.counted.iter().zip(&self.output).any(|(a, b)| a > b)
        {
            return Err(PlanError::shape("an output smaller than what was pooled"));
        }
        Ok(vec![x.shaped(self.output.clone())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let mut items = vec![0.0; output.elements()];
        let (from, to) = (shape::strides(&self.counted), shape::strides(&self.output));
        for (item, index) in x.reals()?.into_iter().zip(inputs.need(1)?.ints()?) {
            let fault = || PlanError::value(format!("index {index} lies outside {:?}", self.counted));
            let index = usize::try_from(index).map_err(|_| fault())?;
            if index >= self.counted.iter().product() {
                return Err(fault());
            }
            let axes = self.counted.iter().zip(from.iter().zip(&to));
            let place: usize = axes.map(|(dim, (from, to))| index / from % dim * to).sum();
            *items.get_mut(place).ok_or_else(fault)? = item;
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items)?])
    }
}
