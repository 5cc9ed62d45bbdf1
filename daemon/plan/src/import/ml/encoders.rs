//! Operators that prepare features and labels.

use agentd_types::Datatype;

use super::{need_floats, rows};
use crate::{
    array::{Array, is_float},
    error::PlanError,
    import::site::{Found, Site, found},
    op::{Binary, Compare, Concat, Gather, LabelEncode, Reduce, Unary, Where, reduce::ReduceKind},
};

pub(super) fn scaler(site: &mut Site<'_, '_, '_>) -> Found {
    let x = rows(site)?;
    let (offset, scale) = (need_floats(site, "offset")?, need_floats(site, "scale")?);
    let (offset, scale) = (site.list(offset)?, site.list(scale)?);
    let moved = site.binary(Binary::Sub, x, offset)?;
    found(site.binary(Binary::Mul, moved, scale)?)
}

pub(super) fn imputer(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let datatype = site.fact(0)?.datatype;
    let (values, replaced) = if is_float(datatype) {
        (
            Array::list(need_floats(site, "imputed_value_floats")?),
            f64::from(site.float("replaced_value_float", 0.0)?),
        )
    } else {
        let values = site.ints("imputed_value_int64s")?.unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "markers are small numbers")]
        let replaced = site.int("replaced_value_int64", 0)? as f64;
        (Array::list(values), replaced)
    };
    let values = site.add(values)?;
    let values = site.cast(values, datatype)?;
    let values = if site.fact_of(values)?.shape == [1] { site.reshape(values, [])? } else { values };
    let missing = if replaced.is_nan() {
        site.unary(Unary::IsNan, x)?
    } else {
        let marker = site.number(datatype, replaced)?;
        site.one(Compare::Equal, &[x, marker])?
    };
    found(site.one(Where, &[missing, values, x])?)
}

pub(super) fn binarizer(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let datatype = site.fact(0)?.datatype;
    let threshold = site.float("threshold", 0.0)?;
    let threshold = site.number(datatype, f64::from(threshold))?;
    let above = site.one(Compare::Greater, &[x, threshold])?;
    found(site.cast(above, datatype)?)
}

pub(super) fn normalizer(site: &mut Site<'_, '_, '_>) -> Found {
    let x = rows(site)?;
    let kind = match site.text("norm", "MAX")?.as_str() {
        "MAX" => ReduceKind::Max,
        "L1" => ReduceKind::L1,
        "L2" => ReduceKind::L2,
        other => return Err(PlanError::attribute(format!("the norm `{other}`"))),
    };
    let sized = if kind == ReduceKind::Max { site.unary(Unary::Abs, x)? } else { x };
    let norm = site.one(Reduce { kind, axes: vec![1], keep: true }, &[sized])?;
    // Rows of zeros stay.
    let (zero, unit) = (site.number(Datatype::Fp32, 0.0)?, site.number(Datatype::Fp32, 1.0)?);
    let empty = site.one(Compare::Equal, &[norm, zero])?;
    let divisor = site.one(Where, &[empty, unit, norm])?;
    found(site.binary(Binary::Div, x, divisor)?)
}

/// A list from one of the attributes `prefix_strings`, `_int64s`, `_floats` or the tensor `prefix_tensor`.
fn list(site: &Site<'_, '_, '_>, prefix: &str) -> Result<Option<Array>, PlanError> {
    if let Some(texts) = site.texts(&format!("{prefix}_strings"))? {
        return Ok(Some(Array::list(texts)));
    }
    if let Some(ints) = site.ints(&format!("{prefix}_int64s"))? {
        return Ok(Some(Array::list(ints)));
    }
    if let Some(floats) = site.floats(&format!("{prefix}_floats"))? {
        return Ok(Some(Array::list(floats)));
    }
    site.tensor(&format!("{prefix}_tensor"))
}

pub(super) fn label_encoder(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let from = site.fact(0)?.datatype;
    let (keys, values) = match (list(site, "keys")?, list(site, "values")?) {
        (Some(keys), Some(values)) => (keys, values),
        // Version 1: positions and names.
        _ => {
            let names = Array::list(site.texts("classes_strings")?.unwrap_or_default());
            let places = Array::list((0..).take(names.len()).collect::<Vec<i64>>());
            if from == Datatype::Bytes { (names, places) } else { (places, names) }
        }
    };
    let default = match (site.tensor("default_tensor")?, values.datatype()) {
        (Some(default), _) => default.reshaped([])?,
        (None, Datatype::Bytes) => Array::scalar(site.text("default_string", "_Unused")?.into_bytes()),
        (None, Datatype::Int64) => Array::scalar(site.int("default_int64", -1)?),
        (None, Datatype::Fp32) => Array::scalar(site.float("default_float", -0.0)?),
        (None, datatype) => Array::zeros(datatype, [])?,
    };
    found(site.one(LabelEncode { keys, values, default }, &[x])?)
}

/// One column a category; what is none of them has zeros alone, also where the model would refuse it (`zeros` is 0).
pub(super) fn one_hot(site: &mut Site<'_, '_, '_>) -> Found {
    let (mut x, fact) = (site.id(0)?, site.fact(0)?);
    let keys = match (site.texts("cats_strings")?, site.ints("cats_int64s")?) {
        (Some(texts), _) if fact.datatype == Datatype::Bytes => Array::list(texts),
        (_, Some(ints)) => Array::list(ints),
        _ => return Err(PlanError::attribute("no categories")),
    };
    if keys.datatype() == Datatype::Int64 {
        x = site.cast(x, Datatype::Int64)?;
    }
    let keys = site.add(keys)?;
    let column = site.reshape(x, [fact.shape.as_slice(), &[1]].concat())?;
    let hot = site.one(Compare::Equal, &[column, keys])?;
    found(site.cast(hot, Datatype::Fp32)?)
}

pub(super) fn extract(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, indices, fact) = (site.id(0)?, site.id(1)?, site.fact(0)?);
    let x = if fact.rank() == 1 { site.reshape(x, [1, fact.elements()])? } else { x };
    let count = site.fact(1)?.elements();
    let indices = site.reshape(indices, [count])?;
    let axis = site.fact_of(x)?.rank().saturating_sub(1);
    found(site.one(Gather { axis }, &[x, indices])?)
}

pub(super) fn vectorize(site: &mut Site<'_, '_, '_>) -> Found {
    let mut parts = Vec::new();
    for id in site.ids()? {
        let fact = site.fact_of(id)?;
        let rows = fact.shape.first().copied().unwrap_or(1);
        let part = site.reshape(id, [rows, fact.elements().checked_div(rows).unwrap_or(0)])?;
        parts.push(site.cast(part, Datatype::Fp32)?);
    }
    found(site.one(Concat { axis: 1 }, &parts)?)
}
