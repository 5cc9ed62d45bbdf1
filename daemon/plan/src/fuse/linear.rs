//! What stands around a matrix product goes into it: a bias, a factor, a transposed operand.

use super::{Edit, edit::Work};
use crate::{
    error::PlanError,
    op::{Binary, MatMul, Op},
};

/// Takes transposes, factors and biases into products.
pub(super) fn fuse(edit: &mut Edit) -> Result<(), PlanError> {
    for at in 0..edit.len() {
        take_transposes(edit, at);
        while take_next(edit, at) {}
    }
    Ok(())
}

fn product(edit: &Edit, at: usize) -> Option<(MatMul, &Work)> {
    let node = edit.node(at)?;
    let Op::MatMul(op) = &node.op else { return None };
    let is_float = edit.fact(node.output()).is_some_and(|fact| crate::array::is_float(fact.datatype));
    (is_float && op.activation.is_none()).then(|| (op.clone(), node))
}

fn take_transposes(edit: &mut Edit, at: usize) {
    for side in 0..2 {
        let Some((mut op, node)) = product(edit, at) else { return };
        let mut inputs = node.inputs.clone();
        let Some((_, before)) = node.input(side).and_then(|input| edit.maker(input)) else { continue };
        let Op::Transpose(transpose) = &before.op else { continue };
        let rank = transpose.perm.len();
        let swaps = rank >= 2 && transpose.perm.iter().copied().eq((0..rank - 2).chain([rank - 1, rank - 2]));
        if !swaps {
            continue;
        }
        let flag = if side == 0 { &mut op.transpose_a } else { &mut op.transpose_b };
        *flag = !*flag;
        if let Some(slot) = inputs.get_mut(side) {
            *slot = before.input(0);
        }
        edit.replace(at, op, inputs);
    }
}

/// Takes the factor or bias that the only user of a product applies.
fn take_next(edit: &mut Edit, at: usize) -> bool {
    let Some((mut op, node)) = product(edit, at) else { return false };
    let (mut inputs, y) = (node.inputs.clone(), node.output());
    if node.input(2).is_some() || node.input(3).is_some() {
        return false;
    }
    let Some(next) = edit.only_user(y).and_then(|user| edit.node(user)) else { return false };
    let Some((_, other)) = edit.either(next, |value| value == y) else { return false };
    let to = next.output();
    if edit.shape(to) != edit.shape(y) {
        return false;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a number of the model, in single precision")]
    match (&next.op, edit.number(other)) {
        (Op::Binary(Binary::Mul), Some(number)) => op.alpha *= number as f32,
        (Op::Binary(Binary::Div), Some(number)) if next.input(0) == Some(y) && number != 0.0 => {
            op.alpha = (f64::from(op.alpha) / number) as f32;
        }
        (Op::Binary(Binary::Add), _) if edit.constant(other).is_some() && is_row(edit, other, y) => {
            inputs.truncate(2);
            inputs.push(Some(other));
        }
        _ => return false,
    }
    edit.replace(at, op, inputs);
    edit.redefine(at, to);
    true
}

/// Whether a bias is one number for each column.
fn is_row(edit: &Edit, bias: usize, y: usize) -> bool {
    let shape = edit.shape(bias);
    let (Some(last), columns) = (shape.last(), edit.shape(y).last()) else { return false };
    Some(last) == columns && shape.iter().rev().skip(1).all(|dim| *dim == 1)
}
