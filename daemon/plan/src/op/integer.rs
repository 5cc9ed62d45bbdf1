//! Quantised numbers, more than one node at a time: functions of bytes, pairs of bytes, products scaled to floats.

use agentd_types::Datatype;

use super::{
    Binary, Inputs, Rule, Unary,
    conv::one,
    matmul::Sizes,
    need_shape, need_type,
    quantize::{Dequantize, Granularity, IntegerMatMul, Quantize, matmul_sums, need_byte},
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
};

/// The bytes of 8-bit integers.
fn bytes(array: &Array) -> Result<Vec<u8>, PlanError> {
    match array.datatype() {
        Datatype::Int8 => Ok(array.view::<i8>()?.iter().map(|item| item.cast_unsigned()).collect()),
        _ => Ok(array.view::<u8>()?.to_vec()),
    }
}

/// Refuses what is no table of 256 bytes.
pub(crate) fn check_table(table: Option<&Fact>) -> Result<(), PlanError> {
    let Some(table) = table else { return Ok(()) };
    need_byte(table)?;
    need_shape(table, &[256])
}

/// Each element of `x` by its bits, an unsigned byte, in `table`.
pub(crate) fn look_up(x: &Array, table: &Array) -> Result<Array, PlanError> {
    let entries = table.reals()?;
    let items = bytes(x)?.into_iter().map(|byte| entries.get(usize::from(byte)).copied().unwrap_or(0.0));
    Array::from_reals(table.datatype(), x.shape(), items.collect())
}

/// A function of an 8-bit integer, as a table.
///
/// Inputs: x, table `[256]`, of 8-bit integers each; an element's bits, read as an unsigned byte, are its place in the
/// table. Output: x's shape, the table's datatype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup;

impl Rule for Lookup {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (x, table) = (inputs.need(0)?, inputs.need(1)?);
        need_byte(x)?;
        check_table(Some(table))?;
        Ok(vec![x.with(table.datatype)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        Ok(vec![look_up(inputs.need(0)?, inputs.need(1)?)?])
    }
}

/// A function of two quantised tensors, broadcasting, quantised again.
///
/// Inputs: a, its scale and zero point, b, its scale and zero point, scale and zero point of the output; scales and zero
/// points are one number each. Output: the datatype of its zero point. In single precision between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizedBinary {
    /// The function.
    pub function: Binary,
}

impl Rule for QuantizedBinary {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(8..=8)?;
        for part in [0, 3] {
            need_byte(inputs.need(part)?)?;
            need_type(inputs.need(part + 2)?, inputs.need(part)?.datatype)?;
        }
        for number in [1, 2, 4, 5, 6, 7] {
            if inputs.need(number)?.elements() != 1 {
                return Err(PlanError::shape("a scale or zero point that is not one number"));
            }
        }
        for scale in [1, 4, 6] {
            need_type(inputs.need(scale)?, Datatype::Fp32)?;
        }
        need_byte(inputs.need(7)?)?;
        let real = |part: usize| Ok::<_, PlanError>(inputs.need(part)?.with(Datatype::Fp32));
        let (a, b) = (real(0)?, real(3)?);
        let result = self.function.outputs(&Inputs::new([Some(&a), Some(&b)]))?;
        Ok(vec![one(&result)?.with(inputs.need(7)?.datatype)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let output = one(outputs)?;
        let scalar = |index: usize| inputs.need(index)?.reshaped([]);
        let real = |part: usize| {
            let (x, scale, zero) = (inputs.need(part)?, scalar(part + 1)?, scalar(part + 2)?);
            let op = Dequantize { granularity: Granularity::Tensor };
            let fact = x.fact().with(Datatype::Fp32);
            op.run(&Inputs::new([Some(x), Some(&scale), Some(&zero)]), &[fact])
        };
        let (a, b) = (real(0)?, real(3)?);
        let fact = output.with(Datatype::Fp32);
        let result = self.function.run(&Inputs::new([a.first(), b.first()]), &[fact])?;
        let (scale, zero) = (scalar(6)?, scalar(7)?);
        let op = Quantize { granularity: Granularity::Tensor, to: output.datatype };
        op.run(&Inputs::new([result.first(), Some(&scale), Some(&zero)]), outputs)
    }
}

/// Product of 8-bit integer matrices less their zero points, scaled to floats.
///
/// Inputs: a `[.., M, K]`, b `[.., K, N]`, zero point of a (one) or absent, zero point of b (one, or one a column) or
/// absent, scale of a (one), scale of b (one, or one a column), bias `[N]` or absent, residual of the output's shape or
/// absent. Output: `[.., M, N]` as `FP32`: the sum times the product of both scales, plus bias, plus residual, then the
/// activation; rounded to single precision after each.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaledMatMul {
    /// Applied last.
    pub activation: Option<Unary>,
}

impl Rule for ScaledMatMul {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(6..=8)?;
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        let integers = Inputs::new((0..4).map(|index| inputs.get(index)));
        let sums = IntegerMatMul.outputs(&integers)?;
        let columns = Sizes::of(&a.shape, &b.shape, (false, false))?.n;
        let (scale_a, scale_b) = (inputs.need(4)?, inputs.need(5)?);
        need_type(scale_a, Datatype::Fp32)?;
        need_type(scale_b, Datatype::Fp32)?;
        let fits = scale_a.elements() == 1 && [1, columns].contains(&scale_b.elements());
        let bias = inputs.get(6).is_none_or(|bias| bias.elements() == columns);
        if !fits || !bias || inputs.get(2).is_some_and(|zero| zero.elements() != 1) {
            return Err(PlanError::shape("scales, zero points or bias of a product"));
        }
        let output = one(&sums)?.with(Datatype::Fp32);
        if let Some(residual) = inputs.get(7) {
            need_type(residual, Datatype::Fp32)?;
            need_shape(residual, &output.shape)?;
        }
        Ok(vec![output])
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounded to single precision after each operation")]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let output = one(outputs)?;
        let sums = matmul_sums((inputs.need(0)?, inputs.get(2)), (inputs.need(1)?, inputs.get(3)))?;
        let floats = |index: usize| inputs.get(index).map(Array::view::<f32>).transpose();
        let scale_a = floats(4)?.and_then(<[f32]>::first).copied().unwrap_or(1.0);
        let (scale_b, bias, residual) = (floats(5)?.unwrap_or_default(), floats(6)?, floats(7)?);
        let columns = output.shape.last().copied().unwrap_or(1).max(1);
        let items = sums.into_iter().enumerate().map(|(place, sum)| {
            let column = place % columns;
            let scale = scale_b.get(if scale_b.len() == 1 { 0 } else { column }).copied().unwrap_or(1.0);
            let mut item = sum as f32 * (scale_a * scale);
            if let Some(bias) = bias.and_then(|bias| bias.get(column)) {
                item += bias;
            }
            if let Some(residual) = residual.and_then(|residual| residual.get(place)) {
                item += residual;
            }
            item
        });
        let array = Array::new(output.shape.clone(), items.collect::<Vec<f32>>())?;
        match self.activation {
            Some(activation) => activation.run(&Inputs::new([Some(&array)]), outputs),
            None => Ok(vec![array]),
        }
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        IntegerMatMul.work(inputs, outputs)
    }
}
