//! Normalisations.

use super::site::{Found, Site, all, found};
use crate::{
    error::PlanError,
    op::{
        BatchNorm, Binary, GroupNorm, LayerNorm, LocalResponseNorm, Reduce, RmsNorm, Unary,
        reduce::{ReduceKind, resolve_axes},
    },
    shape,
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "BatchNormalization" => batch(site),
        "LayerNormalization" => layer(site),
        "RMSNormalization" | "SimplifiedLayerNormalization" => rms(site),
        "InstanceNormalization" => {
            let ids = site.ids()?;
            let groups = site.fact(0)?.shape.get(1).copied().unwrap_or(0);
            found(site.one(GroupNorm { groups, epsilon: site.float("epsilon", 1e-5)? }, &ids)?)
        }
        "GroupNormalization" => group(site),
        "LRN" => {
            let x = site.id(0)?;
            let op = LocalResponseNorm {
                size: site.size("size", 0)?,
                alpha: site.float("alpha", 1e-4)?,
                beta: site.float("beta", 0.75)?,
                bias: site.float("bias", 1.0)?,
            };
            found(site.one(op, &[x])?)
        }
        "LpNormalization" => lp(site),
        "MeanVarianceNormalization" => mean_variance(site),
        _ => Ok(None),
    }
}

fn batch(site: &mut Site<'_, '_, '_>) -> Found {
    if site.flag("training_mode", false)? {
        return batch_training(site);
    }
    let ids = site.ids()?;
    found(site.one(BatchNorm { epsilon: site.float("epsilon", 1e-5)?, activation: None }, &ids)?)
}

/// With the statistics of the batch itself; running statistics are outputs.
fn batch_training(site: &mut Site<'_, '_, '_>) -> Found {
    let ids = site.ids()?;
    let [x, scale, bias, mean, variance] = ids[..] else {
        return Err(PlanError::Graph("five inputs are needed".to_owned()));
    };
    let axes: Vec<usize> = (0..site.rank(0)?).filter(|axis| *axis != 1).collect();
    let momentum = f64::from(site.float("momentum", 0.9)?);
    let reduce = |keep| Reduce { kind: ReduceKind::Mean, axes: axes.clone(), keep };
    let wide = site.one(reduce(true), &[x])?;
    let centred = site.binary(Binary::Sub, x, wide)?;
    let square = site.binary(Binary::Mul, centred, centred)?;
    let (now_mean, now_variance) = (site.one(reduce(false), &[x])?, site.one(reduce(false), &[square])?);
    let y = site.one(
        BatchNorm { epsilon: site.float("epsilon", 1e-5)?, activation: None },
        &[x, scale, bias, now_mean, now_variance],
    )?;
    let mix = |site: &mut Site<'_, '_, '_>, old, new| {
        let to = site.fact_of(old)?.datatype;
        let new = site.cast(new, to)?;
        let old = site.with_number(Binary::Mul, old, momentum)?;
        let new = site.with_number(Binary::Mul, new, 1.0 - momentum)?;
        site.binary(Binary::Add, old, new)
    };
    let running = (mix(site, mean, now_mean)?, mix(site, variance, now_variance)?);
    all(vec![y, running.0, running.1])
}

fn layer(site: &mut Site<'_, '_, '_>) -> Found {
    let axis = site.axis(-1, site.rank(0)?)?;
    let op =
        LayerNorm { axis, epsilon: site.float("epsilon", 1e-5)?, statistics: site.wants(1) || site.wants(2) };
    let inputs: Vec<_> = (0..site.len()).map(|index| site.maybe(index)).collect();
    all(site.emit(op, &inputs)?)
}

fn rms(site: &mut Site<'_, '_, '_>) -> Found {
    let ids = site.ids()?;
    let axis = site.axis(-1, site.rank(0)?)?;
    found(site.one(RmsNorm { axis, epsilon: site.float("epsilon", 1e-5)? }, &ids)?)
}

fn group(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, mut scale, mut bias) = (site.id(0)?, site.id(1)?, site.id(2)?);
    let (groups, channels) = (site.size("num_groups", 1)?, site.fact(0)?.shape.get(1).copied().unwrap_or(0));
    let epsilon = site.float("epsilon", 1e-5)?;
    // Before version 21 scale and bias belong to groups.
    if site.version < 21 && groups > 0 && channels % groups == 0 && groups != channels {
        let repeat = |site: &mut Site<'_, '_, '_>, id| {
            let column = site.reshape(id, [groups, 1])?;
            let wide = site.one(crate::op::Expand { shape: vec![groups, channels / groups] }, &[column])?;
            site.reshape(wide, [channels])
        };
        if site.fact(1)?.shape == [groups] {
            (scale, bias) = (repeat(site, scale)?, repeat(site, bias)?);
        }
    }
    found(site.one(GroupNorm { groups, epsilon }, &[x, scale, bias])?)
}

fn lp(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, rank) = (site.id(0)?, site.rank(0)?);
    let axis = shape::axis(site.int("axis", -1)?, rank)?;
    let kind = if site.int("p", 2)? == 1 { ReduceKind::L1 } else { ReduceKind::L2 };
    let norm = site.one(Reduce { kind, axes: vec![axis], keep: true }, &[x])?;
    found(site.binary(Binary::Div, x, norm)?)
}

fn mean_variance(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, rank) = (site.id(0)?, site.rank(0)?);
    let axes = resolve_axes(&site.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]), rank)?;
    let mean = site.one(Reduce { kind: ReduceKind::Mean, axes: axes.clone(), keep: true }, &[x])?;
    let centred = site.binary(Binary::Sub, x, mean)?;
    let square = site.binary(Binary::Mul, centred, centred)?;
    let variance = site.one(Reduce { kind: ReduceKind::Mean, axes, keep: true }, &[square])?;
    let deviation = site.unary(Unary::Sqrt, variance)?;
    let floor = site.with_number(Binary::Add, deviation, 1e-9)?;
    found(site.binary(Binary::Div, centred, floor)?)
}
