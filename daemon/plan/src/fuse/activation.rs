//! Activations that files spell out: SiLU, hard-sigmoid and hard-swish, GELU by erf and by tanh.

use super::{Edit, edit::Work};
use crate::{
    error::PlanError,
    op::{Binary, Op, Unary},
};

/// Recognises activations, the outermost spelling first.
pub(super) fn fuse(edit: &mut Edit) -> Result<(), PlanError> {
    for at in 0..edit.len() {
        if let Some((function, x)) = edit.node(at).and_then(|node| hard_sigmoid(edit, node)) {
            edit.replace(at, function, vec![Some(x)]);
        }
    }
    for at in (0..edit.len()).rev() {
        let Some((function, x)) = edit.node(at).and_then(|node| activation(edit, node)) else { continue };
        edit.replace(at, function, vec![Some(x)]);
    }
    Ok(())
}

/// A product taken apart: a number and factors.
#[derive(Debug, Default)]
struct Product {
    number: f64,
    factors: Vec<usize>,
}

/// Takes products and quotients by numbers apart, up to eight factors.
fn product(edit: &Edit, value: usize) -> Product {
    let mut result = Product { number: 1.0, factors: Vec::new() };
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        if let Some(number) = edit.number(value) {
            result.number *= number;
            continue;
        }
        match edit.maker(value).map(|(_, node)| (&node.op, node.input(0), node.input(1))) {
            Some((Op::Binary(Binary::Mul), Some(a), Some(b))) if open.len() + result.factors.len() < 8 => {
                open.extend([a, b]);
            }
            Some((Op::Binary(Binary::Div), Some(a), Some(b))) if edit.number(b).is_some() => {
                result.number /= edit.number(b).unwrap_or(1.0);
                open.push(a);
            }
            _ => result.factors.push(value),
        }
    }
    result
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * b.abs()
}

/// The other operand of `value + number`.
fn plus(edit: &Edit, value: usize, number: f64) -> Option<usize> {
    let (_, node) = edit.maker(value)?;
    if node.op != Op::Binary(Binary::Add) {
        return None;
    }
    let is_number = |value: usize| edit.number(value).is_some_and(|found| near(found, number));
    edit.either(node, is_number).map(|(_, other)| other)
}

fn activation(edit: &Edit, node: &Work) -> Option<(Unary, usize)> {
    if !matches!(node.op, Op::Binary(Binary::Mul | Binary::Div)) {
        return None;
    }
    let Product { number, factors } = product(edit, node.output());
    let [a, b] = factors[..] else { return None };
    let shape = edit.shape(node.output());
    if edit.shape(a) != shape || edit.shape(b) != shape {
        return None;
    }
    gate(edit, number, a, b).or_else(|| gate(edit, number, b, a))
}

/// `number * x * gate(x)` as an activation.
fn gate(edit: &Edit, number: f64, x: usize, gate: usize) -> Option<(Unary, usize)> {
    let (_, maker) = edit.maker(gate)?;
    let function = match (&maker.op, maker.input(0)?) {
        (Op::Unary(Unary::Sigmoid), inner) if near(number, 1.0) => {
            if inner == x {
                Unary::Swish { alpha: 1.0 }
            } else {
                let Product { number, factors } = product(edit, inner);
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a number of the model, in single precision"
                )]
                let alpha = number as f32;
                if factors == [x] { Unary::Swish { alpha } } else { return None }
            }
        }
        (Op::Unary(Unary::HardSigmoid { alpha, beta }), inner) if near(number, 1.0) && inner == x => {
            let fits = near(f64::from(*alpha), 1.0 / 6.0) && near(f64::from(*beta), 0.5);
            if fits { Unary::HardSwish } else { return None }
        }
        (Op::Unary(Unary::Clip { low, high }), inner) if near(number, 1.0 / 6.0) => {
            let fits = *low == 0.0 && near(f64::from(*high), 6.0) && plus(edit, inner, 3.0) == Some(x);
            if fits { Unary::HardSwish } else { return None }
        }
        (Op::Binary(Binary::Add), _) if near(number, 0.5) => {
            let curve = plus(edit, gate, 1.0)?;
            if let Some(inner) = edit.operand(curve, Unary::Erf) {
                let Product { number, factors } = product(edit, inner);
                let fits = factors == [x] && near(number, std::f64::consts::FRAC_1_SQRT_2);
                if fits { Unary::Gelu } else { return None }
            } else {
                let inner = edit.operand(curve, Unary::Tanh)?;
                if is_tanh_argument(edit, inner, x) { Unary::GeluTanh } else { return None }
            }
        }
        _ => return None,
    };
    Some((function, x))
}

/// Whether a value is `sqrt(2 / pi) * (x + 0.044715 x^3)`.
fn is_tanh_argument(edit: &Edit, value: usize, x: usize) -> bool {
    let Product { number, factors } = product(edit, value);
    let [sum] = factors[..] else { return false };
    if !near(number, (2.0 / std::f64::consts::PI).sqrt()) {
        return false;
    }
    let Some((_, node)) = edit.maker(sum) else { return false };
    let Some((_, cube)) = edit.either(node, |value| value == x) else { return false };
    if node.op != Op::Binary(Binary::Add) {
        return false;
    }
    let Product { number, factors } = product(edit, cube);
    if !near(number, 0.044_715) {
        return false;
    }
    let is_power = |value: usize, power: f64| {
        let made = edit.maker(value).filter(|(_, node)| node.op == Op::Binary(Binary::Pow));
        made.is_some_and(|(_, node)| {
            node.input(0) == Some(x) && node.input(1).and_then(|p| edit.number(p)) == Some(power)
        })
    };
    match factors[..] {
        [only] => is_power(only, 3.0),
        [a, b, c] => a == x && b == x && c == x,
        _ => false,
    }
}

/// `clip(x + 3, 0, 6) / 6`
fn hard_sigmoid(edit: &Edit, node: &Work) -> Option<(Unary, usize)> {
    if !matches!(node.op, Op::Binary(Binary::Mul | Binary::Div)) {
        return None;
    }
    let Product { number, factors } = product(edit, node.output());
    let [clip] = factors[..] else { return None };
    let (_, maker) = edit.maker(clip)?;
    let Op::Unary(Unary::Clip { low, high }) = maker.op else { return None };
    let x = plus(edit, maker.input(0)?, 3.0)?;
    let fits = low == 0.0 && near(f64::from(high), 6.0) && near(number, 1.0 / 6.0);
    let same = edit.shape(x) == edit.shape(node.output());
    (fits && same).then_some((Unary::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, x))
}
