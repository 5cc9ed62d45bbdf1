//! Functions of elements.

use agentd_types::Datatype;

use super::site::{Found, Site, found};
use crate::{
    array::{Array, is_float},
    error::PlanError,
    graph::ValueId,
    op::{Binary, Cast, Compare, Logic, Unary, Where},
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    if let Some(function) = unary(site)? {
        let x = site.id(0)?;
        return found(site.unary(function, x)?);
    }
    if let Some(function) = binary(site)? {
        return pair(site, function);
    }
    match site.node.operator {
        "Sum" => variadic(site, Binary::Add),
        "Max" => variadic(site, Binary::Max),
        "Min" => variadic(site, Binary::Min),
        "Mean" => mean(site),
        "Equal" => compare(site, Compare::Equal),
        "Less" => compare(site, Compare::Less),
        "LessOrEqual" => compare(site, Compare::LessOrEqual),
        "Greater" => compare(site, Compare::Greater),
        "GreaterOrEqual" => compare(site, Compare::GreaterOrEqual),
        "And" => logic(site, Logic::And),
        "Or" => logic(site, Logic::Or),
        "Xor" => logic(site, Logic::Xor),
        "Where" => {
            let ids = site.ids()?;
            found(site.one(Where, &ids)?)
        }
        "Clip" => clip(site),
        "Cast" | "CastLike" => cast(site),
        "PRelu" => prelu(site),
        "Identity" => {
            Ok(Some(vec![site.inputs.first().cloned().flatten().unwrap_or(super::Binding::Nothing)]))
        }
        "Dropout" => dropout(site),
        _ => Ok(None),
    }
}

/// The function that the node is, where it takes one element.
fn unary(site: &Site<'_, '_, '_>) -> Result<Option<Unary>, PlanError> {
    Ok(Some(match site.node.operator {
        "Abs" => Unary::Abs,
        "Neg" => Unary::Neg,
        "Sign" => Unary::Sign,
        "Reciprocal" => Unary::Reciprocal,
        "Sqrt" => Unary::Sqrt,
        "Exp" => Unary::Exp,
        "Log" => Unary::Log,
        "Floor" => Unary::Floor,
        "Ceil" => Unary::Ceil,
        "Round" => Unary::Round,
        "Erf" => Unary::Erf,
        "Sin" => Unary::Sin,
        "Cos" => Unary::Cos,
        "Tan" => Unary::Tan,
        "Asin" => Unary::Asin,
        "Acos" => Unary::Acos,
        "Atan" => Unary::Atan,
        "Sinh" => Unary::Sinh,
        "Cosh" => Unary::Cosh,
        "Tanh" => Unary::Tanh,
        "Asinh" => Unary::Asinh,
        "Acosh" => Unary::Acosh,
        "Atanh" => Unary::Atanh,
        "Sigmoid" => Unary::Sigmoid,
        "Relu" => Unary::Relu,
        "Swish" => Unary::Swish { alpha: site.float("alpha", 1.0)? },
        "QuickGelu" => Unary::Swish { alpha: site.float("alpha", 1.702)? },
        "LeakyRelu" => Unary::LeakyRelu { alpha: site.float("alpha", 0.01)? },
        "Elu" => Unary::Elu { alpha: site.float("alpha", 1.0)? },
        "Celu" => Unary::Celu { alpha: site.float("alpha", 1.0)? },
        "Selu" => {
            Unary::Selu { alpha: site.float("alpha", 1.673_263_2)?, gamma: site.float("gamma", 1.050_701)? }
        }
        "HardSigmoid" => {
            Unary::HardSigmoid { alpha: site.float("alpha", 0.2)?, beta: site.float("beta", 0.5)? }
        }
        "HardSwish" => Unary::HardSwish,
        "Gelu" if site.text("approximate", "none")? == "tanh" => Unary::GeluTanh,
        "Gelu" => Unary::Gelu,
        "Mish" => Unary::Mish,
        "Softplus" => Unary::Softplus,
        "Softsign" => Unary::Softsign,
        "Shrink" => Unary::Shrink { bias: site.float("bias", 0.0)?, lambda: site.float("lambd", 0.5)? },
        "ThresholdedRelu" => Unary::ThresholdedRelu { alpha: site.float("alpha", 1.0)? },
        "IsNaN" => Unary::IsNan,
        "IsInf" => Unary::IsInf {
            negative: site.flag("detect_negative", true)?,
            positive: site.flag("detect_positive", true)?,
        },
        "Not" => Unary::Not,
        "BitwiseNot" => Unary::BitNot,
        _ => return Ok(None),
    }))
}

fn binary(site: &Site<'_, '_, '_>) -> Result<Option<Binary>, PlanError> {
    Ok(Some(match site.node.operator {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Pow" => Binary::Pow,
        "Mod" if site.flag("fmod", false)? => Binary::Fmod,
        "Mod" => Binary::Mod,
        "BitwiseAnd" => Binary::BitAnd,
        "BitwiseOr" => Binary::BitOr,
        "BitwiseXor" => Binary::BitXor,
        "BitShift" => match site.text("direction", "")?.as_str() {
            "LEFT" => Binary::ShiftLeft,
            "RIGHT" => Binary::ShiftRight,
            other => return Err(PlanError::attribute(format!("a shift to `{other}`"))),
        },
        _ => return Ok(None),
    }))
}

/// The two inputs; before version 7 the second one's shape stands at an axis of the first.
fn operands(site: &mut Site<'_, '_, '_>) -> Result<(ValueId, ValueId), PlanError> {
    let (a, b) = (site.id(0)?, site.id(1)?);
    let old = site.node.domain.is_empty() && site.version < 7 && site.flag("broadcast", false)?;
    if !old || !site.has("axis") {
        return Ok((a, b));
    }
    let (rank, mut shape) = (site.rank(0)?, site.fact(1)?.shape);
    let axis = site.axis(0, rank)?;
    let behind =
        rank.checked_sub(axis + shape.len()).ok_or_else(|| PlanError::shape("a broadcast beyond the end"))?;
    shape.extend(vec![1; behind]);
    Ok((a, site.reshape(b, shape)?))
}

fn pair(site: &mut Site<'_, '_, '_>, function: Binary) -> Found {
    let (a, b) = operands(site)?;
    found(site.binary(function, a, b)?)
}

fn compare(site: &mut Site<'_, '_, '_>, compare: Compare) -> Found {
    let (a, b) = operands(site)?;
    found(site.one(compare, &[a, b])?)
}

fn logic(site: &mut Site<'_, '_, '_>, logic: Logic) -> Found {
    let (a, b) = operands(site)?;
    found(site.one(logic, &[a, b])?)
}

fn fold(site: &mut Site<'_, '_, '_>, function: Binary) -> Result<(ValueId, usize), PlanError> {
    let ids = site.ids()?;
    let (first, rest) = ids.split_first().ok_or_else(|| PlanError::Graph("no inputs".to_owned()))?;
    let mut sum = *first;
    for id in rest {
        sum = site.binary(function, sum, *id)?;
    }
    Ok((sum, ids.len()))
}

fn variadic(site: &mut Site<'_, '_, '_>, function: Binary) -> Found {
    found(fold(site, function)?.0)
}

fn mean(site: &mut Site<'_, '_, '_>) -> Found {
    let (sum, count) = fold(site, Binary::Add)?;
    #[expect(clippy::cast_precision_loss, reason = "a count of inputs")]
    found(site.with_number(Binary::Div, sum, count as f64)?)
}

fn clip(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let fact = site.fact(0)?;
    let bound = |index: usize| site.maybe(index).map(|id| site.known(id));
    let (low, high) = (bound(1), bound(2));
    let is_known = |bound: &Option<Option<Array>>| !matches!(bound, Some(None));
    // Bounds in the function itself where they are constant and exact in single precision.
    if is_float(fact.datatype) && fact.datatype != Datatype::Fp64 && is_known(&low) && is_known(&high) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "bounds of a type no wider than single precision"
        )]
        let value = |bound: Option<Option<Array>>, default: f32| match bound.flatten() {
            Some(array) => array.real().map(|real| real as f32),
            None => Ok(default),
        };
        let low = value(low, site.float("min", f32::NEG_INFINITY)?)?;
        let high = value(high, site.float("max", f32::INFINITY)?)?;
        let relu = low == 0.0 && high == f32::INFINITY;
        return found(site.unary(if relu { Unary::Relu } else { Unary::Clip { low, high } }, x)?);
    }
    let mut clipped = x;
    for (index, name, function) in [(1, "min", Binary::Max), (2, "max", Binary::Min)] {
        if let Some(bound) = site.maybe(index) {
            let bound = site.reshape(bound, [])?;
            clipped = site.binary(function, clipped, bound)?;
        } else if site.has(name) {
            let bound = site.float(name, 0.0)?;
            clipped = site.with_number(function, clipped, f64::from(bound))?;
        }
    }
    found(clipped)
}

/// ONNX's number of a datatype.
pub(crate) fn datatype(number: i64) -> Result<Datatype, PlanError> {
    Ok(match number {
        1 => Datatype::Fp32,
        2 => Datatype::Uint8,
        3 => Datatype::Int8,
        4 => Datatype::Uint16,
        5 => Datatype::Int16,
        6 => Datatype::Int32,
        7 => Datatype::Int64,
        8 => Datatype::Bytes,
        9 => Datatype::Bool,
        10 => Datatype::Fp16,
        11 => Datatype::Fp64,
        12 => Datatype::Uint32,
        13 => Datatype::Uint64,
        16 => Datatype::Bf16,
        _ => return Err(PlanError::unsupported(format!("datatype {number}"))),
    })
}

fn cast(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let to = match site.node.operator {
        "CastLike" => site.fact(1)?.datatype,
        // Before version 6 it is a name.
        _ if site.version < 6 && site.node.domain.is_empty() => named(&site.text("to", "")?)?,
        _ => datatype(site.int("to", 0)?)?,
    };
    if site.fact(0)?.datatype == to {
        return found(x);
    }
    found(site.one(Cast { to }, &[x])?)
}

fn named(name: &str) -> Result<Datatype, PlanError> {
    Ok(match name {
        "FLOAT" => Datatype::Fp32,
        "DOUBLE" => Datatype::Fp64,
        "INT32" => Datatype::Int32,
        "INT64" => Datatype::Int64,
        "BOOL" => Datatype::Bool,
        "UINT8" => Datatype::Uint8,
        "INT8" => Datatype::Int8,
        "FLOAT16" => Datatype::Fp16,
        _ => return Err(PlanError::unsupported(format!("datatype {name}"))),
    })
}

fn prelu(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, mut slope) = (site.id(0)?, site.id(1)?);
    let (rank, shape) = (site.rank(0)?, site.fact(1)?.shape);
    // Before version 7 a slope of one axis belongs to the channels.
    if site.version < 7 && shape.len() == 1 && rank > 2 {
        slope = site.reshape(slope, [shape, vec![1; rank - 2]].concat())?;
    }
    found(site.binary(Binary::PRelu, x, slope)?)
}

fn dropout(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let training = site.maybe_constant(2)?.is_some_and(|flag| flag.int() == Ok(1));
    let ratio = site.maybe_constant(1)?.map_or(Ok(0.5), |ratio| ratio.real())?;
    if training && ratio > 0.0 {
        return Err(PlanError::unsupported("dropout in training"));
    }
    let mask = if site.wants(1) {
        let fact = site.fact(0)?;
        site.add(Array::new(fact.shape.clone(), vec![true; fact.elements()])?)?
    } else {
        x
    };
    Ok(Some(vec![x.into(), mask.into()]))
}
