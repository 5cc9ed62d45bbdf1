//! Quantised operators, of ONNX and of ONNX Runtime's own domain.

use agentd_types::Datatype;

use super::{
    linear::{pool, spatial, window},
    site::{Found, Site, all, found},
};
use crate::{
    error::PlanError,
    graph::ValueId,
    op::{
        Binary, Concat, Dequantize, DynamicQuantize, IntegerConv, IntegerMatMul, Quantize, QuantizedConv,
        QuantizedMatMul, Reduce, Softmax, Unary, pool::PoolKind, quantize::Granularity, reduce::ReduceKind,
    },
    shape,
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "QuantizeLinear" => quantize(site),
        "DequantizeLinear" => dequantize(site),
        "DynamicQuantizeLinear" => {
            let x = site.id(0)?;
            all(site.emit(DynamicQuantize, &[Some(x)])?)
        }
        "MatMulInteger" => {
            let inputs: Vec<_> = (0..site.len()).map(|index| site.maybe(index)).collect();
            found(integer_matmul(site, &inputs)?)
        }
        "ConvInteger" => {
            let window = window(site, &spatial(site, 1)?, &spatial(site, 0)?)?;
            let op = IntegerConv { window, groups: site.size("group", 1)? };
            let inputs: Vec<_> = (0..site.len()).map(|index| site.maybe(index)).collect();
            all(site.emit(op, &inputs)?)
        }
        "QLinearConv" => {
            let window = window(site, &spatial(site, 3)?, &spatial(site, 0)?)?;
            let op = QuantizedConv { window, groups: site.size("group", 1)? };
            let inputs: Vec<_> = (0..site.len()).map(|index| site.maybe(index)).collect();
            all(site.emit(op, &inputs)?)
        }
        "QLinearMatMul" => {
            let ids = site.ids()?;
            found(site.one(QuantizedMatMul, &ids)?)
        }
        _ if site.node.domain == "com.microsoft" => microsoft(site),
        _ => Ok(None),
    }
}

fn microsoft(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "QLinearAdd" => pair(site, Binary::Add),
        "QLinearMul" => pair(site, Binary::Mul),
        "QLinearLeakyRelu" => {
            let alpha = site.float("alpha", 0.01)?;
            map(site, |site, x| site.unary(Unary::LeakyRelu { alpha }, x))
        }
        "QLinearSigmoid" => map(site, |site, x| site.unary(Unary::Sigmoid, x)),
        "QLinearSoftmax" => {
            let axis = site.axis(-1, site.rank(0)?)?;
            map(site, |site, x| site.one(Softmax { axis, log: false }, &[x]))
        }
        "QLinearGlobalAveragePool" => {
            let rank = site.rank(0)?;
            let axes = if site.flag("channels_last", false)? {
                (1..rank - 1).collect()
            } else {
                (2..rank).collect()
            };
            map(site, |site, x| site.one(Reduce { kind: ReduceKind::Mean, axes, keep: true }, &[x]))
        }
        "QLinearAveragePool" if !site.flag("channels_last", false)? => average_pool(site),
        "QLinearConcat" => concat(site),
        "QLinearReduceMean" => {
            let axes = site
                .ints("axes")?
                .unwrap_or_else(|| (0..i64::try_from(site.rank(0).unwrap_or(0)).unwrap_or(0)).collect());
            let axes = crate::op::reduce::resolve_axes(&axes, site.rank(0)?)?;
            let keep = site.flag("keepdims", true)?;
            map(site, |site, x| site.one(Reduce { kind: ReduceKind::Mean, axes, keep }, &[x]))
        }
        "QGemm" => qgemm(site),
        "MatMulIntegerToFloat" => matmul_to_float(site),
        "DynamicQuantizeMatMul" => dynamic_matmul(site),
        _ => Ok(None),
    }
}

/// How scales vary: from their shape, an axis and a block size.
fn granularity(site: &Site<'_, '_, '_>, index: usize) -> Result<Granularity, PlanError> {
    let (x, scale) = (site.fact(0)?, site.fact(index)?);
    if scale.elements() == 1 && scale.rank() <= 1 {
        return Ok(Granularity::Tensor);
    }
    let axis = shape::axis(site.int("axis", 1)?, x.rank())?;
    Ok(match site.size("block_size", 0)? {
        0 => Granularity::Axis(axis),
        size => Granularity::Block { axis, size },
    })
}

fn quantize(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, scale, zero) = (site.id(0)?, site.id(1)?, site.maybe(2));
    let to = match (zero, site.int("output_dtype", 0)?) {
        (Some(zero), _) => site.fact_of(zero)?.datatype,
        (None, 0) => Datatype::Uint8,
        (None, number) => super::elementwise::datatype(number)?,
    };
    let granularity = granularity(site, 1)?;
    all(site.emit(Quantize { granularity, to }, &[Some(x), Some(scale), zero])?)
}

fn dequantize(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, scale, zero) = (site.id(0)?, site.id(1)?, site.maybe(2));
    let granularity = granularity(site, 1)?;
    all(site.emit(Dequantize { granularity }, &[Some(x), Some(scale), zero])?)
}

/// Lists become matrices, as numpy says, and back.
pub(crate) fn integer_matmul(
    site: &mut Site<'_, '_, '_>,
    inputs: &[Option<ValueId>],
) -> Result<ValueId, PlanError> {
    let outputs = site.emit(IntegerMatMul, inputs)?;
    outputs.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
}

/// `(x - zero) * scale` in single precision of inputs `at`, `at + 1` and `at + 2`.
pub(crate) fn real(site: &mut Site<'_, '_, '_>, at: usize) -> Result<ValueId, PlanError> {
    let (x, scale, zero) = (site.id(at)?, site.id(at + 1)?, site.maybe(at + 2));
    let scale = scalar(site, scale)?;
    let zero = zero.map(|zero| scalar(site, zero)).transpose()?;
    let outputs =
        site.emit(Dequantize { granularity: Granularity::Tensor }, &[Some(x), Some(scale), zero])?;
    outputs.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
}

fn scalar(site: &mut Site<'_, '_, '_>, id: ValueId) -> Result<ValueId, PlanError> {
    if site.fact_of(id)?.elements() == 1 { site.reshape(id, []) } else { Ok(id) }
}

/// Quantises by the scale and zero point at inputs `at` and `at + 1`.
fn back(site: &mut Site<'_, '_, '_>, x: ValueId, at: usize) -> Found {
    let (scale, zero) = (site.id(at)?, site.maybe(at + 1));
    let scale = scalar(site, scale)?;
    let zero = zero.map(|zero| scalar(site, zero)).transpose()?;
    let to = match zero {
        Some(zero) => site.fact_of(zero)?.datatype,
        None => site.fact(0)?.datatype,
    };
    all(site.emit(Quantize { granularity: Granularity::Tensor, to }, &[Some(x), Some(scale), zero])?)
}

fn pair(site: &mut Site<'_, '_, '_>, function: Binary) -> Found {
    let (a, b) = (real(site, 0)?, real(site, 3)?);
    let c = site.binary(function, a, b)?;
    back(site, c, 6)
}

fn map<'a, 'm>(
    site: &mut Site<'_, 'a, 'm>,
    function: impl FnOnce(&mut Site<'_, 'a, 'm>, ValueId) -> Result<ValueId, PlanError>,
) -> Found {
    let x = real(site, 0)?;
    let y = function(site, x)?;
    back(site, y, 3)
}

fn average_pool(site: &mut Site<'_, '_, '_>) -> Found {
    // The pool reads its input from the node; the real one has the same shape.
    let x = real(site, 0)?;
    let kind = PoolKind::Average { count_padding: site.flag("count_include_pad", false)? };
    let quantised = site.inputs.clone();
    site.inputs = vec![Some(x.into())];
    let pooled = pool(site, kind, None)?;
    site.inputs = quantised;
    match pooled.as_deref() {
        Some([super::Binding::Tensor(id)]) => back(site, *id, 3),
        _ => Ok(None),
    }
}

fn concat(site: &mut Site<'_, '_, '_>) -> Found {
    let count = (site.len().saturating_sub(2)) / 3;
    let parts = (0..count).map(|part| real(site, 2 + 3 * part)).collect::<Result<Vec<_>, _>>()?;
    let rank = site.rank(2)?;
    let axis = site.axis(0, rank)?;
    let joined = site.one(Concat { axis }, &parts)?;
    back(site, joined, 0)
}

fn qgemm(site: &mut Site<'_, '_, '_>) -> Found {
    // a, scale, zero, b, scale, zero, c, scale of y, zero of y.
    if let Some(quantised) = quantised_gemm(site)? {
        return found(quantised);
    }
    let (mut a, mut b) = (real(site, 0)?, real_weights(site, 3)?);
    if site.flag("transA", false)? {
        a = site.transpose(a, &[1, 0])?;
    }
    if site.flag("transB", false)? {
        b = site.transpose(b, &[1, 0])?;
    }
    let mut sum = super::linear::matmul(site, a, b)?;
    let alpha = site.float("alpha", 1.0)?;
    if alpha.to_bits() != 1.0_f32.to_bits() {
        sum = site.with_number(Binary::Mul, sum, f64::from(alpha))?;
    }
    if let Some(c) = site.maybe(6) {
        let (scale_a, scale_b) = (site.id(1)?, site.id(4)?);
        let (scale_a, scale_b) = (scalar(site, scale_a)?, scalar(site, scale_b)?);
        let scale = site.binary(Binary::Mul, scale_a, scale_b)?;
        let c = site.cast(c, Datatype::Fp32)?;
        let c = site.binary(Binary::Mul, c, scale)?;
        sum = site.binary(Binary::Add, sum, c)?;
    }
    if site.maybe(7).is_some() { back(site, sum, 7) } else { found(sum) }
}

/// A `QGemm` that is quantised again, without transposes of a and factors; `None` for any other.
fn quantised_gemm(site: &mut Site<'_, '_, '_>) -> Result<Option<ValueId>, PlanError> {
    let known = site.len() > 8 && (0..9).all(|at| at == 6 || site.maybe(at).is_some());
    let plain = !site.flag("transA", false)? && site.float("alpha", 1.0)?.to_bits() == 1.0_f32.to_bits();
    if !known || !plain || site.fact(1)?.elements() != 1 || site.rank(3)? != 2 {
        return Ok(None);
    }
    let mut b = site.id(3)?;
    if site.flag("transB", false)? {
        b = site.transpose(b, &[1, 0])?;
    }
    let columns = site.fact_of(b)?.shape.last().copied().unwrap_or(0);
    let bias = match site.maybe(6) {
        Some(c) if site.fact_of(c)?.elements() == columns => Some(site.reshape(c, [columns])?),
        Some(_) => return Ok(None),
        None => None,
    };
    let mut inputs: Vec<Option<ValueId>> = (0..6).map(|at| site.maybe(at)).collect();
    if let Some(slot) = inputs.get_mut(3) {
        *slot = Some(b);
    }
    inputs.extend([site.maybe(7), site.maybe(8), bias]);
    Ok(site.emit(QuantizedMatMul, &inputs)?.first().copied())
}

/// Weights that have a scale for each column.
fn real_weights(site: &mut Site<'_, '_, '_>, at: usize) -> Result<ValueId, PlanError> {
    if site.fact(at + 1)?.elements() == 1 {
        return real(site, at);
    }
    let (x, scale, zero) = (site.id(at)?, site.id(at + 1)?, site.maybe(at + 2));
    let rank = site.rank(at)?;
    let columns =
        if site.node.operator == "QGemm" && site.flag("transB", false)? { 0 } else { rank.saturating_sub(1) };
    let op = Dequantize { granularity: Granularity::Axis(columns) };
    let outputs = site.emit(op, &[Some(x), Some(scale), zero])?;
    outputs.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
}

/// The integer product times both scales, plus bias.
fn scaled(
    site: &mut Site<'_, '_, '_>,
    product: ValueId,
    scales: (ValueId, ValueId),
    bias: Option<ValueId>,
) -> Found {
    let (scale_a, scale_b) = (scalar(site, scales.0)?, scalar(site, scales.1)?);
    let scale = site.binary(Binary::Mul, scale_a, scale_b)?;
    let sums = site.cast(product, Datatype::Fp32)?;
    let mut y = site.binary(Binary::Mul, sums, scale)?;
    if let Some(bias) = bias {
        y = site.binary(Binary::Add, y, bias)?;
    }
    found(y)
}

fn matmul_to_float(site: &mut Site<'_, '_, '_>) -> Found {
    let (a, b, scale_a, scale_b) = (site.id(0)?, site.id(1)?, site.id(2)?, site.id(3)?);
    let product = integer_matmul(site, &[Some(a), Some(b), site.maybe(4), site.maybe(5)])?;
    scaled(site, product, (scale_a, scale_b), site.maybe(6))
}

fn dynamic_matmul(site: &mut Site<'_, '_, '_>) -> Found {
    let (a, b, scale_b) = (site.id(0)?, site.id(1)?, site.id(2)?);
    let parts = site.emit(DynamicQuantize, &[Some(a)])?;
    let [bytes, scale_a, zero_a] = parts[..] else {
        return Err(PlanError::Graph("three outputs".to_owned()));
    };
    let product = integer_matmul(site, &[Some(bytes), Some(b), Some(zero_a), site.maybe(3)])?;
    scaled(site, product, (scale_a, scale_b), site.maybe(4))
}
