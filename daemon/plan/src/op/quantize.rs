//! Quantised numbers: `real = (quantised - zero point) * scale`.

use agentd_types::Datatype;

use super::{
    Inputs, Rule, Window,
    conv::{Operands, SUMS, check_bias, conv_shape, conv_work, convolve, one},
    integer::{check_table, look_up},
    matmul::{Product, Sizes, product},
    need_float, need_shape, need_type, same_type,
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    op::reduce::limits,
    shape,
};

/// Along which elements scales and zero points vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// One scale for all.
    Tensor,
    /// One for each index of an axis; scale `[dim]`.
    Axis(usize),
    /// One for so many neighbours along an axis; scale has x's rank.
    Block {
        /// The axis.
        axis: usize,
        /// Neighbours that share a scale.
        size: usize,
    },
}

impl Granularity {
    fn check(self, x: &Fact, scale: &Fact) -> Result<(), PlanError> {
        let fits = match self {
            Self::Tensor => scale.elements() == 1,
            Self::Axis(axis) => x.shape.get(axis).is_some_and(|dim| scale.shape == [*dim]),
            Self::Block { axis, size } => {
                size > 0
                    && scale.rank() == x.rank()
                    && x.shape.iter().zip(&scale.shape).enumerate().all(|(at, (dim, scales))| {
                        if at == axis { dim.div_ceil(size) == *scales } else { dim == scales }
                    })
            }
        };
        if fits {
            Ok(())
        } else {
            Err(PlanError::shape(format!("scales {:?} for {:?}", scale.shape, x.shape)))
        }
    }

    /// Which scale an element at row-major place `at` has.
    fn scale(self, at: usize, shape: &[usize], scales: &[usize]) -> usize {
        match self {
            Self::Tensor => 0,
            Self::Axis(axis) => {
                let inner: usize = shape.iter().skip(axis + 1).product();
                at / inner.max(1) % shape.get(axis).copied().unwrap_or(1).max(1)
            }
            Self::Block { axis, size } => {
                let steps = shape::strides(scales);
                let places = shape::strides(shape).into_iter().zip(shape).zip(steps).enumerate();
                places
                    .map(|(at_axis, ((stride, dim), step))| {
                        let place = at / stride.max(1) % (*dim).max(1);
                        if at_axis == axis { place / size * step } else { place * step }
                    })
                    .sum()
            }
        }
    }
}

/// Rounds `x / scale` to nearest (halves to even), adds the zero point, clamps.
///
/// The quotient is rounded to single precision first, as the models' own tools do: a value half way between two steps
/// is common after dequantising, and which way it goes must not depend on bits that they never had.
#[expect(clippy::cast_possible_truncation, reason = "said above")]
fn quantised(x: f64, scale: f64, zero: f64, datatype: Datatype) -> f64 {
    rounded(f64::from((x / scale) as f32), zero, datatype)
}

/// Rounds to nearest (halves to even), adds the zero point, clamps.
fn rounded(x: f64, zero: f64, datatype: Datatype) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "limits of at most 16 bits, or clamped anyway")]
    let (low, high) = (limits(datatype).0 as f64, limits(datatype).1 as f64);
    let value = x.round_ties_even() + zero;
    if value.is_nan() { zero } else { value.clamp(low, high) }
}

fn zero_points(zero: Option<&Array>) -> Result<Option<Vec<f64>>, PlanError> {
    zero.map(Array::reals).transpose()
}

fn at(list: Option<&Vec<f64>>, index: usize) -> f64 {
    list.and_then(|list| list.get(index)).copied().unwrap_or(0.0)
}

/// Floats to integers: `clamp(round(x / scale) + zero)`, halves to even.
///
/// Inputs: x, scale, zero point of datatype `to` or absent, of scale's shape. Output: x's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantize {
    /// Along which elements scales vary.
    pub granularity: Granularity,
    /// An integer datatype of 8 or 16 bits.
    pub to: Datatype,
}

impl Rule for Quantize {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=3)?;
        let (x, scale) = (inputs.need(0)?, inputs.need(1)?);
        need_float(scale)?;
        self.granularity.check(x, scale)?;
        if let Some(zero) = inputs.get(2) {
            need_type(zero, self.to)?;
            self.granularity.check(x, zero)?;
        }
        if limits(self.to) == (0, 0) || x.datatype == Datatype::Bytes {
            return Err(PlanError::datatype(format!("quantising to {}", self.to.as_str())));
        }
        Ok(vec![x.with(self.to)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, scale, output) = (inputs.need(0)?, inputs.need(1)?, one(outputs)?);
        let (scales, zeros) = (Some(scale.reals()?), zero_points(inputs.get(2))?);
        let items = x.reals()?.into_iter().enumerate().map(|(place, item)| {
            let which = self.granularity.scale(place, x.shape(), scale.shape());
            quantised(item, at(scales.as_ref(), which), at(zeros.as_ref(), which), self.to)
        });
        Ok(vec![Array::from_reals(self.to, output.shape.clone(), items.collect())?])
    }
}

/// Integers to floats: `(x - zero) * scale`.
///
/// Inputs: x, scale, zero point of x's datatype or absent, of scale's shape. Output: x's shape, scale's datatype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dequantize {
    /// Along which elements scales vary.
    pub granularity: Granularity,
}

impl Rule for Dequantize {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=3)?;
        let (x, scale) = (inputs.need(0)?, inputs.need(1)?);
        need_float(scale)?;
        self.granularity.check(x, scale)?;
        if let Some(zero) = inputs.get(2) {
            same_type(x, zero)?;
            self.granularity.check(x, zero)?;
        }
        if x.datatype == Datatype::Bytes {
            return Err(PlanError::datatype("dequantising text"));
        }
        Ok(vec![x.with(scale.datatype)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, scale, output) = (inputs.need(0)?, inputs.need(1)?, one(outputs)?);
        let (scales, zeros) = (Some(scale.reals()?), zero_points(inputs.get(2))?);
        let items = x.reals()?.into_iter().enumerate().map(|(place, item)| {
            let which = self.granularity.scale(place, x.shape(), scale.shape());
            (item - at(zeros.as_ref(), which)) * at(scales.as_ref(), which)
        });
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items.collect())?])
    }
}

/// Floats to `UINT8` with the scale that just covers them and 0.
///
/// Input: x, `FP32`. Outputs: quantised x, scale and zero point without dimensions.
///
/// Source: ONNX, DynamicQuantizeLinear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DynamicQuantize;

impl Rule for DynamicQuantize {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        need_type(x, Datatype::Fp32)?;
        Ok(vec![x.with(Datatype::Uint8), Fact::new(Datatype::Fp32, []), Fact::new(Datatype::Uint8, [])])
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the scale is FP32, the zero point is clamped"
    )]
    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let x = inputs.need(0)?;
        let items = x.view::<f32>()?;
        let high = items.iter().fold(0.0_f32, |a, b| a.max(*b));
        let low = items.iter().fold(0.0_f32, |a, b| a.min(*b));
        // In single precision, as the formula is given, since the scale decides each rounding after it.
        // Where all numbers are 0 the formula gives 0, by which models divide; ONNX Runtime's 1 means the same numbers.
        let scale = if high > low { (high - low) / 255.0 } else { 1.0 };
        let zero = if scale > 0.0 { (-low / scale).clamp(0.0, 255.0).round_ties_even() } else { 0.0 };
        let bytes = items.iter().map(|item| {
            let value = if scale > 0.0 { (item / scale).round_ties_even() + zero } else { zero };
            value.clamp(0.0, 255.0) as u8
        });
        Ok(vec![
            Array::new(x.shape(), bytes.collect::<Vec<u8>>())?,
            Array::scalar(scale),
            Array::scalar(zero as u8),
        ])
    }
}

/// The elements less their zero point, which is one number or one for each index of `axis`.
fn centred(x: &Array, zero: Option<&Array>, axis: usize) -> Result<Vec<f64>, PlanError> {
    let mut items = x.reals()?;
    let Some(zeros) = zero.map(Array::reals).transpose()? else { return Ok(items) };
    let granularity = if zeros.len() == 1 { Granularity::Tensor } else { Granularity::Axis(axis) };
    for (place, item) in items.iter_mut().enumerate() {
        *item -= zeros.get(granularity.scale(place, x.shape(), &[])).copied().unwrap_or(0.0);
    }
    Ok(items)
}

pub(crate) fn need_byte(fact: &Fact) -> Result<(), PlanError> {
    if matches!(fact.datatype, Datatype::Int8 | Datatype::Uint8) {
        return Ok(());
    }
    Err(PlanError::datatype(format!("{} where 8-bit integers are needed", fact.datatype.as_str())))
}

/// Refuses a parameter that is neither one number nor a list of `count`, or of another datatype than `like`.
fn check_parameter(fact: Option<&Fact>, count: usize, like: Option<Datatype>) -> Result<(), PlanError> {
    let Some(fact) = fact else { return Ok(()) };
    if let Some(like) = like {
        need_type(fact, like)?;
    }
    if fact.elements() == 1 || fact.elements() == count && fact.rank() <= 2 {
        return Ok(());
    }
    Err(PlanError::shape(format!("{:?} where one or {count} are needed", fact.shape)))
}

/// Product of 8-bit integer matrices less their zero points.
///
/// Inputs: a `[.., M, K]`, b `[.., K, N]`, zero point of a (one, or one a row) or absent, zero point of b (one, or one a
/// column) or absent. Output: `[.., M, N]` as `INT32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntegerMatMul;

/// The axis along which a list of zero points varies: rows of a.
fn row_axis(x: &Array) -> usize {
    x.shape().len().saturating_sub(2)
}

fn column_axis(x: &Array) -> usize {
    x.shape().len().saturating_sub(1)
}

/// The exact sums of an integer matrix product.
pub(crate) fn matmul_sums(
    (a, zero_a): (&Array, Option<&Array>),
    (b, zero_b): (&Array, Option<&Array>),
) -> Result<Vec<f64>, PlanError> {
    let sizes = Sizes::of(a.shape(), b.shape(), (false, false))?;
    let (x, y) = (centred(a, zero_a, row_axis(a))?, centred(b, zero_b, column_axis(b))?);
    let operands = Product { a: (&x, a.shape()), b: (&y, b.shape()), transpose: (false, false) };
    product(&operands, &sizes, |sum, x: f64, y| *sum += x * y)
}

impl Rule for IntegerMatMul {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=4)?;
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        need_byte(a)?;
        need_byte(b)?;
        let sizes = Sizes::of(&a.shape, &b.shape, (false, false))?;
        check_parameter(inputs.get(2), sizes.m, Some(a.datatype))?;
        check_parameter(inputs.get(3), sizes.n, Some(b.datatype))?;
        Ok(vec![Fact::new(SUMS, sizes.output())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let output = one(outputs)?;
        let sums = matmul_sums((inputs.need(0)?, inputs.get(2)), (inputs.need(1)?, inputs.get(3)))?;
        Ok(vec![Array::from_reals(SUMS, output.shape.clone(), sums)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        let inner = inputs.get(0).and_then(|a| a.shape.last()).copied().unwrap_or(1) as u64;
        outputs.first().map_or(0, |output| output.elements() as u64).saturating_mul(inner)
    }
}

/// Convolution of 8-bit integers less their zero points.
///
/// Inputs: x `[N, C, spatial..]`, w `[M, C / groups, kernel..]`, zero point of x (one) or absent, zero point of w (one, or
/// one for each of M) or absent. Output: `INT32`. Padding counts as x's zero point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntegerConv {
    /// The window.
    pub window: Window,
    /// Groups of channels that do not mix.
    pub groups: usize,
}

fn conv_sums(
    (x, zero_x): (&Array, Option<&Array>),
    (w, zero_w): (&Array, Option<&Array>),
    (window, groups): (&Window, usize),
    output: &[usize],
) -> Result<Vec<f64>, PlanError> {
    let (items, weights) = (centred(x, zero_x, 0)?, centred(w, zero_w, 0)?);
    Ok(convolve(&Operands { x: &items, x_shape: x.shape(), w: &weights, bias: None, output, window, groups }))
}

impl Rule for IntegerConv {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=4)?;
        let (x, w) = (inputs.need(0)?, inputs.need(1)?);
        need_byte(x)?;
        need_byte(w)?;
        let shape = conv_shape(x, w, &self.window, self.groups)?;
        check_parameter(inputs.get(2), 1, Some(x.datatype))?;
        check_parameter(inputs.get(3), shape.get(1).copied().unwrap_or(0), Some(w.datatype))?;
        Ok(vec![Fact::new(SUMS, shape)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let output = one(outputs)?;
        let (x, w) = ((inputs.need(0)?, inputs.get(2)), (inputs.need(1)?, inputs.get(3)));
        let sums = conv_sums(x, w, (&self.window, self.groups), &output.shape)?;
        Ok(vec![Array::from_reals(SUMS, output.shape.clone(), sums)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        conv_work(inputs.get(1), outputs)
    }
}

/// Facts 1, 2 and 4, 5 and 6, 7 of the quantised operators: scale and zero point of a, b and the output.
fn check_quantised(inputs: &Inputs<'_, Fact>, rows: usize, columns: usize) -> Result<Datatype, PlanError> {
    let (a, b, zero) = (inputs.need(0)?, inputs.need(3)?, inputs.need(7)?);
    need_byte(a)?;
    need_byte(b)?;
    need_byte(zero)?;
    for (scale, count) in [(1, rows), (4, columns), (6, 1)] {
        need_float(inputs.need(scale)?)?;
        check_parameter(inputs.get(scale), count, None)?;
    }
    check_parameter(inputs.get(2), rows, Some(a.datatype))?;
    check_parameter(inputs.get(5), columns, Some(b.datatype))?;
    check_parameter(inputs.get(7), 1, Some(zero.datatype))?;
    Ok(zero.datatype)
}

/// Product of quantised matrices, quantised again.
///
/// Inputs: a, its scale and zero point, b, its scale and zero point, scale and zero point of the output. Scales and zero
/// points are one number, or a list: of a one a row, of b one a column. Then a bias `[N]` as `INT32` of scale
/// `scale a x scale b` or absent; where there is one, the scale of a is one number. Output: the datatype of its zero point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizedMatMul;

impl Rule for QuantizedMatMul {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(8..=9)?;
        let sizes = Sizes::of(&inputs.need(0)?.shape, &inputs.need(3)?.shape, (false, false))?;
        if let Some(bias) = inputs.get(8) {
            need_type(bias, SUMS)?;
            need_shape(bias, &[sizes.n])?;
            check_parameter(inputs.get(1), 1, None)?;
        }
        Ok(vec![Fact::new(check_quantised(inputs, sizes.m, sizes.n)?, sizes.output())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let output = one(outputs)?;
        let list = |index| inputs.need(index).and_then(Array::reals);
        let (scale_a, scale_b, scale, zero) =
            (list(1)?, list(4)?, inputs.need(6)?.real()?, inputs.need(7)?.real()?);
        let bias = inputs.get(8).map(Array::reals).transpose()?;
        let sums = matmul_sums((inputs.need(0)?, inputs.get(2)), (inputs.need(3)?, inputs.get(5)))?;
        let [.., rows, columns] = output.shape.as_slice() else { return Err(PlanError::shape("no matrix")) };
        let pick = |list: &[f64], index: usize| {
            list.get(if list.len() == 1 { 0 } else { index }).copied().unwrap_or(1.0)
        };
        let items = sums.into_iter().enumerate().map(|(place, sum)| {
            let factor = pick(&scale_a, place / columns % rows) * pick(&scale_b, place % columns);
            quantised((sum + at(bias.as_ref(), place % columns)) * factor, scale, zero, output.datatype)
        });
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items.collect())?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        IntegerMatMul.work(inputs, outputs)
    }
}

/// Convolution of quantised tensors, quantised again.
///
/// Inputs: x, its scale and zero point, w, its scale and zero point (one number, or one for each of M), scale and zero
/// point of the output, bias `[M]` as `INT32` of scale `scale x * scale w` or absent, a table of 256 bytes as of
/// [`Lookup`](super::Lookup) for the quantised results or absent. Output: the table's or else its zero point's datatype.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizedConv {
    /// The window.
    pub window: Window,
    /// Groups of channels that do not mix.
    pub groups: usize,
}

impl Rule for QuantizedConv {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(8..=10)?;
        let shape = conv_shape(inputs.need(0)?, inputs.need(3)?, &self.window, self.groups)?;
        let channels = shape.get(1).copied().unwrap_or(0);
        let datatype = check_quantised(inputs, 1, channels)?;
        if let Some(bias) = inputs.get(8) {
            need_type(bias, SUMS)?;
            need_shape(bias, &[channels])?;
        }
        check_bias(inputs.get(8), channels)?;
        check_table(inputs.get(9))?;
        Ok(vec![Fact::new(inputs.get(9).map_or(datatype, |table| table.datatype), shape)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let output = one(outputs)?;
        let list = |index| inputs.need(index).and_then(Array::reals);
        let (scale_x, scale_w) = (inputs.need(1)?.real()?, list(4)?);
        let (scale, zero) = (inputs.need(6)?.real()?, inputs.need(7)?.real()?);
        let datatype = inputs.need(7)?.datatype();
        let bias = inputs.get(8).map(Array::reals).transpose()?;
        let (x, w) = ((inputs.need(0)?, inputs.get(2)), (inputs.need(3)?, inputs.get(5)));
        let sums = conv_sums(x, w, (&self.window, self.groups), &output.shape)?;
        let plane: usize = output.shape.iter().skip(2).product();
        let channels = output.shape.get(1).copied().unwrap_or(1);
        let items = sums.into_iter().enumerate().map(|(place, sum)| {
            let channel = place / plane % channels;
            let scale_w = scale_w.get(if scale_w.len() == 1 { 0 } else { channel }).copied().unwrap_or(1.0);
            quantised((sum + at(bias.as_ref(), channel)) * (scale_x * scale_w), scale, zero, datatype)
        });
        let results = Array::from_reals(datatype, output.shape.clone(), items.collect())?;
        Ok(vec![match inputs.get(9) {
            Some(table) => look_up(&results, table)?,
            None => results,
        }])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        conv_work(inputs.get(3), outputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_quantised_by_a_scale_that_can_be_divided_by() {
        let zeros = Array::new(vec![3], vec![0.0_f32; 3]).unwrap();
        let parts = DynamicQuantize.run(&Inputs::new([Some(&zeros)]), &[]).unwrap();
        let numbers: Vec<Vec<f64>> = parts.iter().map(|part| part.reals().unwrap()).collect();
        assert_eq!(numbers, [vec![0.0; 3], vec![1.0], vec![0.0]]);
    }
}
