//! Sequences and optionals, which only exist at import.

use super::{
    Binding,
    movement::{part, split_sizes},
    site::{Found, Site, found},
};
use crate::{array::Array, error::PlanError, graph::ValueId, op::Concat};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "SequenceEmpty" => Ok(Some(vec![Binding::Sequence(Vec::new())])),
        "SequenceConstruct" => Ok(Some(vec![Binding::Sequence(site.ids()?)])),
        "SequenceAt" => {
            let (list, at) = (list(site, 0)?, position(site, 1, 0)?);
            list.get(at)
                .map_or_else(|| Err(PlanError::value("a position outside its sequence")), |id| found(*id))
        }
        "SequenceLength" => {
            let length = i64::try_from(list(site, 0)?.len()).unwrap_or(i64::MAX);
            found(site.add(Array::scalar(length))?)
        }
        "SequenceInsert" => {
            let (mut list, id) = (list(site, 0)?, site.id(1)?);
            let at = if site.maybe(2).is_some() { position(site, 2, 1)? } else { list.len() };
            list.insert(at.min(list.len()), id);
            Ok(Some(vec![Binding::Sequence(list)]))
        }
        "SequenceErase" => {
            let mut list = list(site, 0)?;
            let at =
                if site.maybe(1).is_some() { position(site, 1, 0)? } else { list.len().saturating_sub(1) };
            if at >= list.len() {
                return Err(PlanError::value("a position outside its sequence"));
            }
            list.remove(at);
            Ok(Some(vec![Binding::Sequence(list)]))
        }
        "ConcatFromSequence" => concat(site),
        "SplitToSequence" => split(site),
        "SequenceMap" => map(site).map(Some),
        "Optional" => Ok(Some(vec![site.inputs.first().cloned().flatten().unwrap_or(Binding::Nothing)])),
        "OptionalGetElement" => match site.inputs.first() {
            Some(Some(Binding::Nothing)) | None | Some(None) => {
                Err(PlanError::value("an optional without value"))
            }
            Some(Some(binding)) => Ok(Some(vec![binding.clone()])),
        },
        "OptionalHasElement" => {
            let has = matches!(site.inputs.first(), Some(Some(Binding::Tensor(_) | Binding::Sequence(_))));
            found(site.add(Array::scalar(has))?)
        }
        _ => Ok(None),
    }
}

fn list(site: &Site<'_, '_, '_>, index: usize) -> Result<Vec<ValueId>, PlanError> {
    match site.inputs.get(index) {
        Some(Some(Binding::Sequence(list))) => Ok(list.clone()),
        _ => Err(PlanError::Graph(format!("input {index} is no sequence"))),
    }
}

/// A position in the sequence at input 0, from a constant that may count from the end.
fn position(site: &Site<'_, '_, '_>, index: usize, more: usize) -> Result<usize, PlanError> {
    let length = list(site, 0)?.len() + more;
    let at = site.constant(index)?.int()?;
    // Counted from the end of the sequence itself.
    let at = if at < 0 { at + i64::try_from(length - more).unwrap_or(0) } else { at };
    usize::try_from(at)
        .ok()
        .filter(|at| *at < length)
        .ok_or_else(|| PlanError::value("a position outside its sequence"))
}

fn concat(site: &mut Site<'_, '_, '_>) -> Found {
    let list = list(site, 0)?;
    let first = list.first().ok_or_else(|| PlanError::shape("an empty sequence joined"))?;
    let rank = site.fact_of(*first)?.rank();
    if site.flag("new_axis", false)? {
        let axis = site.axis(0, rank + 1)?;
        return found(super::control::stack(site, &list, axis)?);
    }
    let axis = site.axis(0, rank)?;
    found(site.one(Concat { axis }, &list)?)
}

fn split(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    let axis = site.axis(0, shape.len())?;
    let dim = shape.get(axis).copied().unwrap_or(0);
    let given = site.maybe_constant(1)?;
    let single = given.is_none();
    let sizes = match given {
        // One number: parts of that length, the last one shorter.
        Some(size) if size.shape().is_empty() => {
            let size = usize::try_from(size.int()?)
                .ok()
                .filter(|size| *size > 0)
                .ok_or_else(|| PlanError::value("parts of no length"))?;
            (0..dim.div_ceil(size).min(1 << 16)).map(|at| size.min(dim - at * size)).collect()
        }
        Some(_) => split_sizes(site, dim, 1)?,
        None => vec![1; dim.min(1 << 16)],
    };
    let keep = site.flag("keepdims", true)?;
    let (mut start, mut parts) = (0, Vec::new());
    for size in sizes {
        let mut slice = part(site, x, axis, start..start + size)?;
        start += size;
        if single && !keep {
            let mut shape = site.fact_of(slice)?.shape;
            shape.remove(axis);
            slice = site.reshape(slice, shape)?;
        }
        parts.push(slice);
    }
    Ok(Some(vec![Binding::Sequence(parts)]))
}

fn map(site: &mut Site<'_, '_, '_>) -> Result<Vec<Binding>, PlanError> {
    let body = site.graph("body")?;
    let length = list(site, 0)?.len();
    let mut outputs: Vec<Vec<ValueId>> = vec![Vec::new(); body.outputs.len()];
    for at in 0..length {
        let given = site.inputs.iter().map(|input| match input {
            Some(Binding::Sequence(list)) => list.get(at).copied().map(Binding::from),
            other => other.clone(),
        });
        let given =
            given.map(|binding| binding.ok_or_else(|| PlanError::shape("sequences of different lengths")));
        let results = site.importer.subgraph(&body, given.collect::<Result<_, _>>()?)?;
        for (list, result) in outputs.iter_mut().zip(results) {
            let Binding::Tensor(id) = result else {
                return Err(PlanError::unsupported("a map that gives no tensors"));
            };
            list.push(id);
        }
    }
    Ok(outputs.into_iter().map(Binding::Sequence).collect())
}
