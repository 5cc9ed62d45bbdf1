//! A residual sum and an activation go into what is before them: bias, residual, activation.

use super::Edit;
use crate::{
    error::PlanError,
    op::{Binary, Op, Unary},
};

/// Takes residuals and activations into convolutions, products and batch normalisations.
pub(super) fn fuse(edit: &mut Edit) -> Result<(), PlanError> {
    // From the end, so that of two convolutions that are added the later one takes the other as its residual.
    for at in (0..edit.len()).rev() {
        take_residual(edit, at);
    }
    for at in 0..edit.len() {
        take_activation(edit, at);
    }
    Ok(())
}

fn activation(op: &mut Op) -> Option<&mut Option<Unary>> {
    match op {
        Op::Conv(op) => Some(&mut op.activation),
        Op::ConvTranspose(op) => Some(&mut op.activation),
        Op::MatMul(op) => Some(&mut op.activation),
        Op::BatchNorm(op) => Some(&mut op.activation),
        Op::ScaledMatMul(op) => Some(&mut op.activation),
        _ => None,
    }
}

/// Activations that every back end can apply to a result before it is stored.
const fn is_epilogue(function: Unary) -> bool {
    matches!(
        function,
        Unary::Relu
            | Unary::Clip { .. }
            | Unary::LeakyRelu { .. }
            | Unary::Sigmoid
            | Unary::Tanh
            | Unary::Swish { .. }
            | Unary::HardSigmoid { .. }
            | Unary::HardSwish
            | Unary::Gelu
            | Unary::GeluTanh
    )
}

fn take_residual(edit: &mut Edit, at: usize) {
    let Some(node) = edit.node(at) else { return };
    let mut op = node.op.clone();
    let place = match op {
        Op::Conv(_) | Op::MatMul(_) => 3,
        Op::ScaledMatMul(_) => 7,
        _ => return,
    };
    if node.input(place).is_some() {
        return;
    }
    if activation(&mut op).is_none_or(|activation| activation.is_some()) {
        return;
    }
    let (mut inputs, y) = (node.inputs.clone(), node.output());
    let Some(next) = edit.only_user(y).and_then(|user| edit.node(user)) else { return };
    let Some((_, other)) = edit.either(next, |value| value == y) else { return };
    let is_float = edit.fact(y).is_some_and(|fact| crate::array::is_float(fact.datatype));
    if next.op != Op::Binary(Binary::Add) || edit.fact(other) != edit.fact(y) || !is_float {
        return;
    }
    let to = next.output();
    inputs.resize(place, None);
    inputs.push(Some(other));
    edit.replace(at, op, inputs);
    edit.redefine(at, to);
}

fn take_activation(edit: &mut Edit, at: usize) {
    let Some(node) = edit.node(at) else { return };
    let (mut op, inputs, y) = (node.op.clone(), node.inputs.clone(), node.output());
    let Some(slot @ None) = activation(&mut op) else { return };
    let Some(next) = edit.only_user(y).and_then(|user| edit.node(user)) else { return };
    let (Op::Unary(function), to) = (&next.op, next.output()) else { return };
    let is_float = edit.fact(y).is_some_and(|fact| crate::array::is_float(fact.datatype));
    if !is_epilogue(*function) || !is_float {
        return;
    }
    *slot = Some(*function);
    edit.replace(at, op, inputs);
    edit.redefine(at, to);
}
