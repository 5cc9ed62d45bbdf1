//! Dequantise, operator, quantise becomes the quantised operator, or a table where it is a function of one byte.

use super::{Edit, edit::Work};
use crate::{
    array::Array,
    error::PlanError,
    op::{
        Binary, Concat, Dequantize, Inputs, Lookup, Op, Quantize, QuantizedBinary, QuantizedConv,
        QuantizedMatMul, Unary, quantize::Granularity, reduce::limits,
    },
};

/// Recognises quantised convolutions and products.
pub(super) fn fuse(edit: &mut Edit) -> Result<(), PlanError> {
    for at in 0..edit.len() {
        let rewrite = match table(edit, at) {
            None => match join(edit, at)? {
                None => quantised(edit, at)?,
                some => some,
            },
            some => some,
        };
        if let Some((op, inputs)) = rewrite {
            edit.replace(at, op, inputs);
        }
    }
    for at in 0..edit.len() {
        take_table(edit, at);
    }
    Ok(())
}

/// How scales vary; the integers, scale and zero point.
type Source = (Granularity, [Option<usize>; 3]);

/// What a value is dequantised from: the integers, scale and zero point.
fn source(edit: &Edit, value: usize) -> Option<Source> {
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
    let Some((granularity_a, a)) =
        source(edit, a).filter(|(granularity, _)| *granularity == Granularity::Tensor)
    else {
        return Ok(None);
    };
    let turned = matches!(&inner.op, Op::MatMul(op) if op.transpose_b);
    let found = if turned { turned_source(edit, b)? } else { source(edit, b) };
    let Some((granularity_b, b)) = found else { return Ok(None) };
    let a = filled(edit, a)?;
    let b = filled(edit, b)?;
    let inputs = [a, b].concat();
    let bias = |edit: &mut Edit| match inner.input(2) {
        Some(bias) => whole_bias(edit, bias, &inputs).map(|found| found.map(Some)),
        None => Ok(Some(None)),
    };
    match &inner.op {
        Op::Conv(conv) if conv.activation.is_none() && inner.input(3).is_none() => {
            if !matches!(granularity_b, Granularity::Tensor | Granularity::Axis(0)) {
                return Ok(None);
            }
            let Some(bias) = bias(edit)? else { return Ok(None) };
            let op = QuantizedConv { window: conv.window.clone(), groups: conv.groups };
            Ok(Some((op.into(), inputs, bias)))
        }
        Op::MatMul(op) if inner.input(3).is_none() => {
            let plain = crate::op::MatMul { transpose_b: op.transpose_b, ..crate::op::MatMul::default() };
            let columns =
                inputs.get(3).copied().flatten().map_or(0, |b| edit.shape(b).len()).saturating_sub(1);
            let by_column =
                granularity_b == Granularity::Tensor || granularity_b == Granularity::Axis(columns);
            if *op != plain || granularity_a != Granularity::Tensor || !by_column {
                return Ok(None);
            }
            if let Some(bias) = inner.input(2)
                && edit.shape(bias) != edit.shape(inner.output()).last().map_or(&[][..], std::slice::from_ref)
            {
                return Ok(None);
            }
            let Some(bias) = bias(edit)? else { return Ok(None) };
            Ok(Some((QuantizedMatMul.into(), inputs, bias)))
        }
        Op::Binary(function) => {
            let known =
                matches!(function, Binary::Add | Binary::Sub | Binary::Mul | Binary::Max | Binary::Min);
            let numbers = [1, 2, 4, 5]
                .iter()
                .all(|at| inputs.get(*at).copied().flatten().and_then(|value| edit.number(value)).is_some());
            // A function of one value alone becomes a table.
            let two = inputs.first() != inputs.get(3) && granularity_b == Granularity::Tensor;
            let fits = known && numbers && two && pixel_by_pixel(edit, &inputs);
            Ok(fits.then(|| (QuantizedBinary { function: *function }.into(), inputs, None)))
        }
        _ => Ok(None),
    }
}

/// Whether both operands have the same shape, or one of them has one number a channel.
fn pixel_by_pixel(edit: &Edit, inputs: &[Option<usize>]) -> bool {
    let shape = |at: usize| inputs.get(at).copied().flatten().map_or(&[][..], |value| edit.shape(value));
    let (a, b) = (shape(0), shape(3));
    let is_one = |one: &[usize], whole: &[usize]| {
        one.len() == whole.len()
            && one.len() > 2
            && one.get(..2) == whole.get(..2)
            && one.iter().skip(2).all(|dim| *dim == 1)
    };
    a == b || is_one(a, b) || is_one(b, a)
}

/// As [`source`] of constant weights that a product takes transposed, turned.
fn turned_source(edit: &mut Edit, value: usize) -> Result<Option<Source>, PlanError> {
    let Some((granularity, [Some(x), scale, zero])) = source(edit, value) else { return Ok(None) };
    let granularity = match granularity {
        Granularity::Tensor => Granularity::Tensor,
        Granularity::Axis(0) => Granularity::Axis(1),
        _ => return Ok(None),
    };
    let Some(array) = edit.constant(x) else { return Ok(None) };
    let &[rows, columns] = array.shape() else { return Ok(None) };
    let op = crate::op::Transpose { perm: vec![1, 0] };
    let turned = Op::from(op).run(&Inputs::new([Some(array)]))?;
    debug_assert_eq!(turned.first().map(Array::shape), Some(&[columns, rows][..]));
    Ok(turned.into_iter().next().map(|array| (granularity, [Some(edit.add(array)), scale, zero])))
}

/// Nodes that a table stands for, at most.
const CONE: usize = 16;

/// The 8-bit value of which alone `value` is a function, element by element, and all its elements for the 256 bytes.
///
/// `None` where there is no such value, or more than [`CONE`] nodes (`left`) lie between.
fn function(edit: &Edit, value: usize, left: &mut usize) -> Option<(usize, Array)> {
    let (_, node) = edit.maker(value)?;
    *left = left.checked_sub(1)?;
    let number = |index: usize| {
        let array = edit.constant(node.input(index)?)?;
        (array.len() == 1).then(|| array.reshaped([]).ok())?
    };
    let run = |inputs: &[Option<&Array>]| {
        let results = node.op.run(&Inputs::new(inputs.iter().copied())).ok()?;
        results.into_iter().next().filter(|array| array.shape() == [256])
    };
    match &node.op {
        Op::Dequantize(op) if op.granularity == Granularity::Tensor => {
            let x = node.input(0)?;
            let (source, bytes) = match function(edit, x, left) {
                Some(found) => found,
                None => (x, all_bytes(edit.fact(x)?.datatype)?),
            };
            let (scale, zero) = (number(1)?, number(2));
            (zero.is_some() == node.input(2).is_some()).then_some(())?;
            Some((source, run(&[Some(&bytes), Some(&scale), zero.as_ref()])?))
        }
        Op::Quantize(op) if op.granularity == Granularity::Tensor => {
            let (source, x) = function(edit, node.input(0)?, left)?;
            let (scale, zero) = (number(1)?, number(2));
            (zero.is_some() == node.input(2).is_some()).then_some(())?;
            Some((source, run(&[Some(&x), Some(&scale), zero.as_ref()])?))
        }
        Op::Lookup(_) => {
            let x = node.input(0)?;
            let (source, bytes) = match function(edit, x, left) {
                Some(found) => found,
                None => (x, all_bytes(edit.fact(x)?.datatype)?),
            };
            Some((source, run(&[Some(&bytes), edit.constant(node.input(1)?)])?))
        }
        Op::Unary(_) => {
            let (source, x) = function(edit, node.input(0)?, left)?;
            Some((source, run(&[Some(&x)])?))
        }
        Op::Binary(_) => {
            let (a, b) = (node.input(0)?, node.input(1)?);
            match (number(0), number(1)) {
                (Some(a), None) => {
                    let (source, b) = function(edit, b, left)?;
                    Some((source, run(&[Some(&a), Some(&b)])?))
                }
                (None, Some(b)) => {
                    let (source, a) = function(edit, a, left)?;
                    Some((source, run(&[Some(&a), Some(&b)])?))
                }
                (None, None) => {
                    let ((source, a), (other, b)) = (function(edit, a, left)?, function(edit, b, left)?);
                    (source == other).then(|| run(&[Some(&a), Some(&b)]))?.map(|array| (source, array))
                }
                (Some(_), Some(_)) => None,
            }
        }
        _ => None,
    }
}

/// The 8-bit integers in the order of their bits as unsigned bytes.
fn all_bytes(datatype: agentd_types::Datatype) -> Option<Array> {
    match datatype {
        agentd_types::Datatype::Uint8 => Array::new([256], (0..=u8::MAX).collect::<Vec<u8>>()).ok(),
        agentd_types::Datatype::Int8 => {
            Array::new([256], (0..=u8::MAX).map(u8::cast_signed).collect::<Vec<i8>>()).ok()
        }
        _ => None,
    }
}

/// Quantising a function of one quantised value: a table.
fn table(edit: &mut Edit, at: usize) -> Option<Rewrite> {
    let node = edit.node(at)?;
    let Op::Quantize(quantize) = &node.op else { return None };
    let output = node.output();
    let (_, between) = edit.maker(node.input(0)?)?;
    let eight = quantize.to.size() == Some(1) && node.input(2).is_some();
    (eight && matches!(between.op, Op::Unary(_) | Op::Binary(_))).then_some(())?;
    let mut left = CONE;
    let (source, table) = function(edit, output, &mut left)?;
    (edit.shape(source) == edit.shape(output)).then_some(())?;
    let table = edit.add(table);
    Some((Lookup.into(), vec![Some(source), Some(table)]))
}

/// Channels that every back end has whole blocks of.
const BLOCK: usize = 32;

/// Quantising dequantised values joined along the channels: they are joined as they are, or after a table where they
/// have another scale or zero point.
fn join(edit: &mut Edit, at: usize) -> Result<Option<Rewrite>, PlanError> {
    let Some((quantize, concat, parts, [scale, zero])) = joined(edit, at) else { return Ok(None) };
    let origin = edit.node(at).map_or_else(String::new, |node| node.origin.clone());
    let mut inputs = Vec::with_capacity(parts.len());
    for [x, scale_x, zero_x] in parts {
        let Some(x) = x else { return Ok(None) };
        let number = |value: Option<usize>| value.and_then(|value| edit.number(value));
        let datatype = edit.fact(x).map(|fact| fact.datatype);
        let same = number(scale_x) == number(Some(scale))
            && number(zero_x) == number(Some(zero))
            && datatype == Some(quantize.to);
        if same {
            inputs.push(Some(x));
            continue;
        }
        let scalar = |value: usize| edit.constant(value).and_then(|array| array.reshaped([]).ok());
        let parameters = (scale_x.and_then(scalar), zero_x.and_then(scalar), scalar(scale), scalar(zero));
        let (Some(scale_x), Some(zero_x), Some(scale), Some(zero)) = parameters else { return Ok(None) };
        let Some(bytes) = datatype.and_then(all_bytes) else { return Ok(None) };
        let real = Op::from(Dequantize { granularity: Granularity::Tensor });
        let real = real.run(&Inputs::new([Some(&bytes), Some(&scale_x), Some(&zero_x)]))?;
        let table = Op::from(quantize).run(&Inputs::new([real.first(), Some(&scale), Some(&zero)]))?;
        let Some(table) = table.into_iter().next() else { return Ok(None) };
        let table = edit.add(table);
        inputs.push(Some(edit.insert(Lookup, vec![Some(x), Some(table)], &origin)?));
    }
    Ok(Some((concat.into(), inputs)))
}

/// How values are quantised, how they are joined before, what they are dequantised from, and the scale and zero point.
type Joined = (Quantize, Concat, Vec<[Option<usize>; 3]>, [usize; 2]);

/// What [`join`] is about, when the node at `at` is such a one.
fn joined(edit: &Edit, at: usize) -> Option<Joined> {
    let node = edit.node(at)?;
    let Op::Quantize(quantize) = &node.op else { return None };
    let (x, scale, zero) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let (_, before) = edit.maker(x)?;
    let Op::Concat(concat) = &before.op else { return None };
    let eight = quantize.to.size() == Some(1) && quantize.granularity == Granularity::Tensor;
    (eight && concat.axis == 1 && edit.is_only_for(x, at)).then_some(())?;
    edit.number(scale)?;
    edit.number(zero)?;
    let mut parts = Vec::with_capacity(before.inputs.len());
    for (place, input) in before.inputs.iter().enumerate() {
        let (granularity, part) = source(edit, (*input)?)?;
        let known = part.iter().skip(1).all(|value| value.is_some_and(|value| edit.number(value).is_some()));
        let last = place + 1 == before.inputs.len();
        let whole = edit.shape(part.first().copied()??).get(1)?.is_multiple_of(BLOCK);
        (granularity == Granularity::Tensor && known && (whole || last)).then_some(())?;
        parts.push(part);
    }
    Some((*quantize, *concat, parts, [scale, zero]))
}

/// A table goes into the convolution before it.
fn take_table(edit: &mut Edit, at: usize) {
    let Some(node) = edit.node(at) else { return };
    let (Op::Lookup(_), Some(x), table, output) = (&node.op, node.input(0), node.input(1), node.output())
    else {
        return;
    };
    if !edit.is_only_for(x, at) {
        return;
    }
    let Some((before, work)) = edit.maker(x) else { return };
    let (op, mut inputs) = (work.op.clone(), work.inputs.clone());
    if !matches!(op, Op::QuantizedConv(_)) || work.input(9).is_some() {
        return;
    }
    inputs.resize(9, None);
    inputs.push(table);
    edit.replace(before, op, inputs);
    edit.redefine(before, output);
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
