//! Reductions, softmax, sorting, losses.

use agentd_types::Datatype;

use super::site::{Found, Site, all, found};
use crate::{
    array::Array,
    error::PlanError,
    graph::ValueId,
    op::{
        ArgReduce, Binary, Compare, CumSum, GatherElements, Hardmax, Reduce, Softmax, TopK, Unary, Where,
        reduce::{ReduceKind, resolve_axes},
    },
    shape,
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "ReduceSum" => reduce(site, ReduceKind::Sum, 13),
        "ReduceMean" => reduce(site, ReduceKind::Mean, 18),
        "ReduceMax" => reduce(site, ReduceKind::Max, 18),
        "ReduceMin" => reduce(site, ReduceKind::Min, 18),
        "ReduceProd" => reduce(site, ReduceKind::Product, 18),
        "ReduceL1" => reduce(site, ReduceKind::L1, 18),
        "ReduceL2" => reduce(site, ReduceKind::L2, 18),
        "ReduceSumSquare" => reduce(site, ReduceKind::SumSquare, 18),
        "ReduceLogSum" => reduce(site, ReduceKind::LogSum, 18),
        "ReduceLogSumExp" => reduce(site, ReduceKind::LogSumExp, 18),
        "ArgMax" => arg(site, true),
        "ArgMin" => arg(site, false),
        "CumSum" => cum_sum(site),
        "Softmax" => softmax(site, false),
        "LogSoftmax" => softmax(site, true),
        "Hardmax" => hardmax(site),
        "TopK" => top_k(site),
        "NegativeLogLikelihoodLoss" => {
            let (scores, labels) = (site.id(0)?, site.id(1)?);
            found(likelihood(site, scores, labels)?)
        }
        "SoftmaxCrossEntropyLoss" => {
            let (scores, labels) = (site.id(0)?, site.id(1)?);
            let logs = site.one(Softmax { axis: 1, log: true }, &[scores])?;
            let loss = likelihood(site, logs, labels)?;
            all(vec![loss, logs])
        }
        _ => Ok(None),
    }
}

fn reduce(site: &mut Site<'_, '_, '_>, kind: ReduceKind, _since: i64) -> Found {
    let (x, rank) = (site.id(0)?, site.rank(0)?);
    let axes = site.ints_at(1, "axes")?.filter(|axes| !axes.is_empty());
    if axes.is_none() && site.flag("noop_with_empty_axes", false)? {
        // Nothing is reduced, but the function of each element alone is applied.
        let op = Reduce { kind, axes: Vec::new(), keep: true };
        let plain = matches!(
            kind,
            ReduceKind::Sum | ReduceKind::Mean | ReduceKind::Max | ReduceKind::Min | ReduceKind::Product
        );
        return found(if plain { x } else { site.one(op, &[x])? });
    }
    let axes = axes.map_or(Ok((0..rank).collect()), |axes| resolve_axes(&axes, rank))?;
    found(site.one(Reduce { kind, axes, keep: site.flag("keepdims", true)? }, &[x])?)
}

fn arg(site: &mut Site<'_, '_, '_>, largest: bool) -> Found {
    let (x, rank) = (site.id(0)?, site.rank(0)?);
    let op = ArgReduce {
        largest,
        axis: site.axis(0, rank)?,
        keep: site.flag("keepdims", true)?,
        last: site.flag("select_last_index", false)?,
    };
    found(site.one(op, &[x])?)
}

fn cum_sum(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, rank) = (site.id(0)?, site.rank(0)?);
    let axis = shape::axis(site.constant(1)?.int()?, rank)?;
    let op =
        CumSum { axis, exclusive: site.flag("exclusive", false)?, reverse: site.flag("reverse", false)? };
    found(site.one(op, &[x])?)
}

/// Before version 13 all axes from one on are one.
fn along(site: &mut Site<'_, '_, '_>, op: impl FnOnce(usize) -> crate::op::Op) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    if site.version >= 13 {
        let axis = site.axis(-1, shape.len())?;
        return found(site.one(op(axis), &[x])?);
    }
    let axis = site.axis(1, shape.len())?;
    let (outer, inner) = shape.split_at(axis);
    if inner.len() == 1 {
        return found(site.one(op(axis), &[x])?);
    }
    let flat = site.reshape(x, [outer.iter().product::<usize>(), inner.iter().product()])?;
    let result = site.one(op(1), &[flat])?;
    found(site.reshape(result, shape)?)
}

fn softmax(site: &mut Site<'_, '_, '_>, log: bool) -> Found {
    along(site, |axis| Softmax { axis, log }.into())
}

fn hardmax(site: &mut Site<'_, '_, '_>) -> Found {
    along(site, |axis| Hardmax { axis }.into())
}

fn top_k(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, rank) = (site.id(0)?, site.rank(0)?);
    let k = match site.maybe_int("k")? {
        Some(k) => k,
        None => site.constant(1)?.int()?,
    };
    let k = usize::try_from(k).map_err(|_| PlanError::value("a negative number of elements"))?;
    let op = TopK { axis: site.axis(-1, rank)?, k, largest: site.flag("largest", true)? };
    all(site.emit(op, &[Some(x)])?)
}

/// Minus the score of each label, weighted, and summed or averaged.
fn likelihood(site: &mut Site<'_, '_, '_>, scores: ValueId, labels: ValueId) -> Result<ValueId, PlanError> {
    let (fact, label_fact) = (site.fact_of(scores)?, site.fact_of(labels)?);
    let classes = fact.shape.get(1).copied().ok_or_else(|| PlanError::shape("scores without classes"))?;
    let labels = site.cast(labels, Datatype::Int64)?;
    let ignored = site.maybe_int("ignore_index")?;
    let zero = site.add(Array::scalar(0_i64))?;
    // Where a label is ignored, class 0 stands in for it with weight 0.
    let (safe, counts) = match ignored {
        Some(index) => {
            let index = site.add(Array::scalar(index))?;
            let skip = site.one(Compare::Equal, &[labels, index])?;
            (site.one(Where, &[skip, zero, labels])?, Some(skip))
        }
        None => (labels, None),
    };
    let mut column = label_fact.shape.clone();
    if column.is_empty() {
        return Err(PlanError::shape("labels without batch"));
    }
    column.insert(1, 1);
    let picks = site.reshape(safe, column)?;
    let picked = site.one(GatherElements { axis: 1 }, &[scores, picks])?;
    let picked = site.reshape(picked, label_fact.shape.clone())?;
    let mut loss = site.unary(Unary::Neg, picked)?;
    let ones = Array::from_reals(fact.datatype, [classes], vec![1.0; classes])?;
    let weights = match site.maybe(2) {
        Some(weights) => weights,
        None => site.add(ones)?,
    };
    let mut weight = site.one(crate::op::Gather { axis: 0 }, &[weights, safe])?;
    if let Some(skip) = counts {
        let none = site.number(fact.datatype, 0.0)?;
        weight = site.one(Where, &[skip, none, weight])?;
    }
    let is_weighted = site.maybe(2).is_some() || counts.is_some();
    if is_weighted {
        loss = site.binary(Binary::Mul, loss, weight)?;
    }
    let axes: Vec<usize> = (0..label_fact.rank()).collect();
    let sum = |site: &mut Site<'_, '_, '_>, x| {
        site.one(Reduce { kind: ReduceKind::Sum, axes: axes.clone(), keep: false }, &[x])
    };
    match site.text("reduction", "mean")?.as_str() {
        "none" => Ok(loss),
        "sum" => sum(site, loss),
        _ if is_weighted => {
            let (total, weights) = (sum(site, loss)?, sum(site, weight)?);
            site.binary(Binary::Div, total, weights)
        }
        _ => site.one(Reduce { kind: ReduceKind::Mean, axes: axes.clone(), keep: false }, &[loss]),
    }
}
