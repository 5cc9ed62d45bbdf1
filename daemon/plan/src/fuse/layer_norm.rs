//! Layer normalisation that files spell out in nine nodes.

use super::{Edit, edit::Work};
use crate::{
    error::PlanError,
    op::{Binary, LayerNorm, Op, Unary, reduce::ReduceKind},
};

/// Recognises normalisations, then takes scale and bias in.
pub(super) fn fuse(edit: &mut Edit) -> Result<(), PlanError> {
    for at in 0..edit.len() {
        if let Some((op, x)) = edit.node(at).and_then(|node| normalised(edit, node)) {
            edit.replace(at, op, vec![Some(x)]);
        }
    }
    for at in 0..edit.len() {
        take(edit, at, Binary::Mul, 1);
        take(edit, at, Binary::Add, 2);
    }
    Ok(())
}

/// `x - mean(x)`: x and the axes.
fn centred(edit: &Edit, value: usize) -> Option<(usize, Vec<usize>)> {
    let (_, node) = edit.maker(value)?;
    let (x, mean) = (node.input(0)?, node.input(1)?);
    let (source, axes) = mean_of(edit, mean)?;
    (node.op == Op::Binary(Binary::Sub) && source == x).then_some((x, axes))
}

/// What a value is the mean of, with the axes kept.
fn mean_of(edit: &Edit, value: usize) -> Option<(usize, Vec<usize>)> {
    let (_, node) = edit.maker(value)?;
    match &node.op {
        Op::Reduce(reduce) if reduce.kind == ReduceKind::Mean && reduce.keep => {
            Some((node.input(0)?, reduce.axes.clone()))
        }
        _ => None,
    }
}

/// What a value is the square of.
fn square_of(edit: &Edit, value: usize) -> Option<usize> {
    let (_, node) = edit.maker(value)?;
    let (a, b) = (node.input(0)?, node.input(1)?);
    match node.op {
        Op::Binary(Binary::Mul) if a == b => Some(a),
        Op::Binary(Binary::Pow) if edit.number(b) == Some(2.0) => Some(a),
        _ => None,
    }
}

fn normalised(edit: &Edit, node: &Work) -> Option<(LayerNorm, usize)> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    let (difference, root) = match node.op {
        Op::Binary(Binary::Div) => (a, edit.operand(b, Unary::Sqrt)?),
        Op::Binary(Binary::Mul) => {
            let inverse = |value: usize| edit.operand(edit.operand(value, Unary::Reciprocal)?, Unary::Sqrt);
            match (inverse(a), inverse(b)) {
                (Some(root), _) => (b, root),
                (_, Some(root)) => (a, root),
                _ => return None,
            }
        }
        _ => return None,
    };
    let (x, axes) = centred(edit, difference)?;
    let (_, sum) = edit.maker(root)?;
    let (epsilon, variance) = edit.either(sum, |value| edit.number(value).is_some())?;
    let (square, square_axes) = mean_of(edit, variance)?;
    // The square may be of the same difference computed twice.
    let (other, other_axes) = centred(edit, square_of(edit, square)?)?;
    let first = *axes.first()?;
    let is_tail = axes.iter().copied().eq(first..edit.shape(x).len());
    let fits = sum.op == Op::Binary(Binary::Add)
        && other == x
        && axes == square_axes
        && axes == other_axes
        && is_tail;
    #[expect(clippy::cast_possible_truncation, reason = "a number of the model, in single precision")]
    let epsilon = edit.number(epsilon)? as f32;
    fits.then_some((LayerNorm { axis: first, epsilon, statistics: false }, x))
}

/// Takes the scale or bias that the only user of a normalisation applies.
fn take(edit: &mut Edit, at: usize, function: Binary, slot: usize) {
    let Some(node) = edit.node(at) else { return };
    let Op::LayerNorm(op) = node.op.clone() else { return };
    let (mut inputs, y) = (node.inputs.clone(), node.output());
    if op.statistics || inputs.len() > slot || slot == 1 && inputs.len() != 1 {
        return;
    }
    let Some(user) = edit.only_user(y) else { return };
    let Some(next) = edit.node(user) else { return };
    if next.op != Op::Binary(function) {
        return;
    }
    let Some((_, parameter)) = edit.either(next, |value| value == y) else { return };
    let tail = edit.shape(y).get(op.axis..).unwrap_or_default();
    if edit.constant(parameter).is_none() || edit.shape(parameter) != tail {
        return;
    }
    let to = next.output();
    inputs.resize(slot, None);
    inputs.push(Some(parameter));
    edit.replace(at, op, inputs);
    edit.redefine(at, to);
}
