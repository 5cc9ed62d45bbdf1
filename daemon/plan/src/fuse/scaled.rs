//! A product of integers that becomes floats, is scaled and gets a bias: one node.

use agentd_types::Datatype;

use super::Edit;
use crate::{
    array::Array,
    op::{Binary, Op, ScaledMatMul},
};

/// Recognises scaled products.
pub(super) fn fuse(edit: &mut Edit) {
    for at in 0..edit.len() {
        if let Some(inputs) = scaled(edit, at) {
            edit.replace(at, ScaledMatMul { activation: None }, inputs);
            take_bias(edit, at);
        }
    }
}

/// The inputs of the product that a multiplication scales.
fn scaled(edit: &mut Edit, at: usize) -> Option<Vec<Option<usize>>> {
    let node = edit.node(at)?;
    if node.op != Op::Binary(Binary::Mul) {
        return None;
    }
    let output = edit.shape(node.output()).to_vec();
    let is_cast =
        |value: usize| matches!(edit.maker(value), Some((_, work)) if matches!(work.op, Op::Cast(_)));
    let (sums, scale) = edit.either(node, is_cast)?;
    let (cast_at, cast) = edit.maker(sums)?;
    let product = cast.input(0)?;
    let (_, work) = edit.maker(product)?;
    let alone = edit.is_only_for(sums, at) && edit.is_only_for(product, cast_at);
    let known = matches!(work.op, Op::IntegerMatMul(_)) && edit.fact(sums)?.datatype == Datatype::Fp32;
    if !alone || !known || edit.shape(product) != output {
        return None;
    }
    let mut inputs = work.inputs.clone();
    inputs.resize(4, None);
    if inputs.get(2).copied().flatten().is_some_and(|zero| edit.fact(zero).is_none_or(|f| f.elements() != 1))
    {
        return None;
    }
    let columns = *output.last()?;
    let one = |value: usize| edit.fact(value).is_some_and(|fact| fact.elements() == 1);
    let by_column = |value: usize| {
        let shape = edit.shape(value);
        one(value) || shape.iter().product::<usize>() == columns && shape.last() == Some(&columns)
    };
    let scales =
        edit.maker(scale).filter(|(_, work)| work.op == Op::Binary(Binary::Mul)).and_then(|(_, work)| {
            let (a, b) = edit.either(work, one)?;
            by_column(b).then_some((a, b))
        });
    let (a, b) = match scales {
        Some(scales) => scales,
        None if one(scale) => (scale, edit.add(Array::scalar(1.0_f32))),
        None => return None,
    };
    inputs.extend([Some(a), Some(b)]);
    Some(inputs)
}

/// Takes the bias that the only user of a scaled product adds.
fn take_bias(edit: &mut Edit, at: usize) {
    let Some(node) = edit.node(at) else { return };
    let (op, mut inputs, y) = (node.op.clone(), node.inputs.clone(), node.output());
    let Some(next) = edit.only_user(y).and_then(|user| edit.node(user)) else { return };
    let Some((_, bias)) = edit.either(next, |value| value == y) else { return };
    let (to, columns) = (next.output(), edit.shape(y).last().copied());
    let row = edit.shape(bias).last().copied() == columns
        && Some(edit.shape(bias).iter().product()) == columns
        && edit.fact(bias).is_some_and(|fact| fact.datatype == Datatype::Fp32);
    if next.op != Op::Binary(Binary::Add)
        || edit.constant(bias).is_none()
        || !row
        || edit.shape(to) != edit.shape(y)
    {
        return;
    }
    inputs.push(Some(bias));
    edit.replace(at, op, inputs);
    edit.redefine(at, to);
}
