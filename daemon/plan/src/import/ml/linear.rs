//! Linear models.

use super::{binary, classes, largest, need_floats, rows, transformed};
use crate::{
    array::Array,
    error::PlanError,
    graph::ValueId,
    import::site::{Found, Site, all},
    op::MatMul,
};

/// `x w^T + b` for coefficients `[targets, features]`.
fn linear(site: &mut Site<'_, '_, '_>, targets: usize) -> Result<ValueId, PlanError> {
    let x = rows(site)?;
    let features = site.fact_of(x)?.shape.get(1).copied().unwrap_or(0);
    let weights = site.add(Array::new([targets, features], need_floats(site, "coefficients")?)?)?;
    let mut inputs = vec![Some(x), Some(weights)];
    if let Some(intercepts) = site.floats("intercepts")? {
        inputs.push(Some(site.list(intercepts)?));
    }
    let scores = site.emit(MatMul { transpose_b: true, ..MatMul::default() }, &inputs)?;
    scores.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
}

pub(super) fn regressor(site: &mut Site<'_, '_, '_>) -> Found {
    let scores = linear(site, site.size("targets", 1)?)?;
    transformed(site, scores).map(|id| Some(vec![id.into()]))
}

pub(super) fn classifier(site: &mut Site<'_, '_, '_>) -> Found {
    let labels = classes(site)?;
    let features = rows(site)?;
    let features = site.fact_of(features)?.shape.get(1).copied().unwrap_or(1).max(1);
    let targets = need_floats(site, "coefficients")?.len() / features;
    let scores = linear(site, targets)?;
    if targets == 1 && labels.len() == 2 {
        return binary(site, scores, labels, 0.0, false);
    }
    let label = largest(site, scores, labels)?;
    let scores = transformed(site, scores)?;
    all(vec![label, scores])
}
