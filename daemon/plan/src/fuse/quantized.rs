//! Dequantise, operator, quantise becomes the quantised operator.

use super::{Edit, edit::Work};
use crate::{
    array::Array,
    error::PlanError,
    op::{Op, QuantizedConv, QuantizedMatMul, Unary, quantize::Granularity, reduce::limits},
};

/// Recognises quantised convolutions and products.
pub(super) fn fuse(edit: &mut Edit) -> Result<(), PlanError> {
    for at in 0..edit.len() {
        if let Some((op, inputs)) = quantised(edit, at)? {
            edit.replace(at, op, inputs);
        }
    }
    Ok(())
}

/// What a value is dequantised from: the integers, scale and zero point.
fn source(edit: &Edit, value: usize) -> Option<(Granularity, [Option<usize>; 3])> {
    let (_, node) = edit.maker(value)?;
    let Op::Dequantize(op) = &node.op else { return None };
    let eight = edit.fact(node.input(0)?).is_some_and(|fact| fact.datatype.size() == Some(1));
    eight.then(|| (op.granularity, [node.input(0), node.input(1), node.input(2)]))
}

type Rewrite = (Op, Vec<Option<usize>>);

fn quantised(edit: &mut Edit, at: usize) -> Result<Option<Rewrite>, PlanError> {
    let Some(node) = edit.node(at) else { return Ok(None) };
    let Op::Quantize(quantize) = &node.op else { return Ok(None) };
    let (Some(x), Some(scale), Some(zero)) = (node.input(0), node.input(1), node.input(2)) else {
        return Ok(None);
    };
    if quantize.granularity != Granularity::Tensor || quantize.to.size() != Some(1) {
        return Ok(None);
    }
    let Some((_, before)) = edit.maker(x) else { return Ok(None) };
    let inner = match &before.op {
        Op::Unary(function) if is_clamped(edit, *function, quantize.to, scale, zero) => {
            let inner = before.input(0).filter(|inner| edit.only_user(*inner).is_some());
            inner.and_then(|inner| edit.maker(inner)).map(|(_, work)| work.clone())
        }
        _ => Some(before.clone()),
    };
    let Some(inner) = inner.filter(|_| edit.is_only_for(x, at)) else { return Ok(None) };
    let Some((op, mut inputs, bias)) = operator(edit, &inner)? else { return Ok(None) };
    inputs.extend([Some(scale), Some(zero)]);
    inputs.extend(bias.map(Some));
    Ok(Some((op, inputs)))
}

/// Whether quantising clamps at least as much as an activation does.
fn is_clamped(edit: &Edit, function: Unary, to: agentd_types::Datatype, scale: usize, zero: usize) -> bool {
    let (Some(scale), Some(zero)) = (edit.number(scale), edit.number(zero)) else { return false };
    #[expect(clippy::cast_precision_loss, reason = "limits of 8 bits")]
    let (low, high) = ((limits(to).0 as f64 - zero) * scale, (limits(to).1 as f64 - zero) * scale);
    match function {
        Unary::Relu => low >= 0.0,
        Unary::Clip { low: least, high: most } => low >= f64::from(least) && high <= f64::from(most),
        _ => false,
    }
}

type Operator = (Op, Vec<Option<usize>>, Option<usize>);

fn operator(edit: &mut Edit, inner: &Work) -> Result<Option<Operator>, PlanError> {
    let (Some(a), Some(b)) = (inner.input(0), inner.input(1)) else { return Ok(None) };
    let (Some((granularity_a, a)), Some((granularity_b, b))) = (source(edit, a), source(edit, b)) else {
        return Ok(None);
    };
    let a = filled(edit, a)?;
    let b = filled(edit, b)?;
    let inputs = [a, b].concat();
    match &inner.op {
        Op::Conv(conv) if conv.activation.is_none() && inner.input(3).is_none() => {
            let by_channel = matches!(granularity_b, Granularity::Tensor | Granularity::Axis(0));
            if granularity_a != Granularity::Tensor || !by_channel {
                return Ok(None);
            }
            let bias = match inner.input(2) {
                Some(bias) => match whole_bias(edit, bias, &inputs)? {
                    Some(bias) => Some(bias),
                    None => return Ok(None),
                },
                None => None,
            };
            let op = QuantizedConv { window: conv.window.clone(), groups: conv.groups };
            Ok(Some((op.into(), inputs, bias)))
        }
        Op::MatMul(op) if *op == crate::op::MatMul::default() && inner.inputs.len() == 2 => {
            let columns = edit.fact(inner.output()).map_or(0, |fact| fact.rank()).saturating_sub(1);
            let by_column =
                granularity_b == Granularity::Tensor || granularity_b == Granularity::Axis(columns);
            let fits = granularity_a == Granularity::Tensor && by_column;
            Ok(fits.then(|| (QuantizedMatMul.into(), inputs, None)))
        }
        _ => Ok(None),
    }
}

/// Integers, scale and zero point, the latter made up where it is absent.
fn filled(edit: &mut Edit, parts: [Option<usize>; 3]) -> Result<Vec<Option<usize>>, PlanError> {
    let [x, scale, zero] = parts;
    let datatype = x.and_then(|x| edit.fact(x)).map(|fact| fact.datatype);
    let zero = match (zero, datatype) {
        (None, Some(datatype)) => Some(edit.add(Array::zeros(datatype, [])?)),
        (zero, _) => zero,
    };
    Ok(vec![x, scale, zero])
}

/// A bias as whole multiples of the product of both scales.
fn whole_bias(edit: &mut Edit, bias: usize, inputs: &[Option<usize>]) -> Result<Option<usize>, PlanError> {
    let list = |value: Option<usize>| {
        value.and_then(|value| edit.constant(value)).and_then(|array| array.reals().ok())
    };
    let (Some(scale_x), Some(scale_w)) =
        (list(inputs.get(1).copied().flatten()), list(inputs.get(4).copied().flatten()))
    else {
        return Ok(None);
    };
    if let Some((_, node)) = edit.maker(bias)
        && matches!(node.op, Op::Dequantize(_))
        && let Some(whole) = node.input(0)
        && edit.fact(whole).is_some_and(|fact| fact.datatype == agentd_types::Datatype::Int32)
    {
        return Ok(Some(whole));
    }
    let Some(real) = list(Some(bias)) else { return Ok(None) };
    let (Some(x), count) = (scale_x.first(), real.len()) else { return Ok(None) };
    let pick = |at: usize| scale_w.get(if scale_w.len() == 1 { 0 } else { at }).copied().unwrap_or(1.0);
    let whole = real.iter().enumerate().map(|(at, bias)| (bias / (x * pick(at))).round_ties_even()).collect();
    Ok(Some(edit.add(Array::from_reals(agentd_types::Datatype::Int32, [count], whole)?)))
}
