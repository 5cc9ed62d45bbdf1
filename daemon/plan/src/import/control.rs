//! Branches and loops, which dissolve.

use agentd_types::Datatype;

use super::{
    Binding,
    movement::part,
    site::{Found, Site},
};
use crate::{
    array::Array,
    error::PlanError,
    graph::ValueId,
    op::{Concat, Where},
    shape,
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "If" => branch(site).map(Some),
        "Loop" => repeat(site).map(Some),
        "Scan" if site.version >= 9 => scan(site).map(Some),
        _ => Ok(None),
    }
}

/// A known condition leaves one branch. Of an unknown one both are computed, since they have no effects, and chosen from.
fn branch(site: &mut Site<'_, '_, '_>) -> Result<Vec<Binding>, PlanError> {
    let condition = site.id(0)?;
    let (yes, no) = (site.graph("then_branch")?, site.graph("else_branch")?);
    if let Some(known) = site.known(condition) {
        let taken = if known.real()? != 0.0 { &yes } else { &no };
        return site.importer.subgraph(taken, Vec::new());
    }
    let yes = site.importer.subgraph(&yes, Vec::new())?;
    let no = site.importer.subgraph(&no, Vec::new())?;
    let condition = site.reshape(condition, [])?;
    let choose = |(a, b): (Binding, Binding)| {
        let (Binding::Tensor(a), Binding::Tensor(b)) = (a, b) else {
            return Err(PlanError::DataDependent("a branch that gives no tensor".to_owned()));
        };
        if site.fact_of(a)? != site.fact_of(b)? {
            return Err(PlanError::DataDependent("a branch whose sides have different shapes".to_owned()));
        }
        site.one(Where, &[condition, a, b]).map(Binding::from)
    };
    yes.into_iter().zip(no).map(choose).collect()
}

/// Written out round by round: how many there are must be known.
fn repeat(site: &mut Site<'_, '_, '_>) -> Result<Vec<Binding>, PlanError> {
    let body = site.graph("body")?;
    let rounds = site.maybe_constant(0)?.map(|rounds| rounds.int()).transpose()?;
    let condition =
        site.maybe_constant(1)?.map_or(Ok(true), |known| known.real().map(|known| known != 0.0))?;
    let mut carried: Vec<Binding> =
        site.inputs.iter().skip(2).map(|input| input.clone().unwrap_or(Binding::Nothing)).collect();
    let scanned = body.outputs.len().checked_sub(carried.len() + 1);
    let scanned =
        scanned.ok_or_else(|| PlanError::Graph("a loop that gives less than it carries".to_owned()))?;
    let mut collected: Vec<Vec<ValueId>> = vec![Vec::new(); scanned];
    let (mut round, mut goes_on) = (0_i64, condition);
    while goes_on && rounds.is_none_or(|rounds| round < rounds) {
        let number = site.add(Array::scalar(round))?;
        let flag = site.add(Array::scalar(true))?;
        let given = [number.into(), flag.into()].into_iter().chain(carried.iter().cloned()).collect();
        let mut outputs = site.importer.subgraph(&body, given)?.into_iter();
        goes_on = match outputs.next() {
            Some(Binding::Tensor(id)) => {
                site.known(id)
                    .ok_or_else(|| PlanError::DataDependent("the number of a loop's rounds".to_owned()))?
                    .real()?
                    != 0.0
            }
            _ => return Err(PlanError::Graph("a loop without condition".to_owned())),
        };
        carried = outputs.by_ref().take(carried.len()).collect();
        for (list, binding) in collected.iter_mut().zip(outputs) {
            let Binding::Tensor(id) = binding else {
                return Err(PlanError::unsupported("a loop that gathers no tensors"));
            };
            list.push(id);
        }
        round += 1;
    }
    for list in collected {
        carried.push(stack(site, &list, 0)?.into());
    }
    Ok(carried)
}

/// Tensors of one shape as slices along a new axis.
pub(crate) fn stack(site: &mut Site<'_, '_, '_>, ids: &[ValueId], axis: usize) -> Result<ValueId, PlanError> {
    let Some(first) = ids.first() else {
        // Nothing says which shape a loop without rounds would have given.
        return site.add(Array::zeros(Datatype::Fp32, [0])?);
    };
    let mut shape = site.fact_of(*first)?.shape;
    if axis > shape.len() {
        return Err(PlanError::attribute("an axis that does not exist"));
    }
    shape.insert(axis, 1);
    let wide = ids.iter().map(|id| site.reshape(*id, shape.clone())).collect::<Result<Vec<_>, _>>()?;
    if let [only] = wide[..] { Ok(only) } else { site.one(Concat { axis }, &wide) }
}

/// Scan: a loop over slices of its inputs, whose number of rounds their shape gives.
fn scan(site: &mut Site<'_, '_, '_>) -> Result<Vec<Binding>, PlanError> {
    let body = site.graph("body")?;
    let ids = site.ids()?;
    let scanned = site.size("num_scan_inputs", 0)?;
    let states = ids.len().checked_sub(scanned).filter(|_| scanned > 0);
    let states = states.ok_or_else(|| PlanError::attribute("more scanned inputs than inputs"))?;
    let (carried, sequences) = ids.split_at(states);
    let outputs = body.outputs.len().checked_sub(states);
    let outputs =
        outputs.ok_or_else(|| PlanError::Graph("a scan that gives less than it carries".to_owned()))?;
    let list =
        |name: &str, count: usize| Ok::<_, PlanError>(site.ints(name)?.unwrap_or_else(|| vec![0; count]));
    let (axes, out_axes) = (list("scan_input_axes", scanned)?, list("scan_output_axes", outputs)?);
    let (directions, out_directions) =
        (list("scan_input_directions", scanned)?, list("scan_output_directions", outputs)?);
    let mut places = Vec::new();
    for (id, axis) in sequences.iter().zip(&axes) {
        let shape = site.fact_of(*id)?.shape;
        let axis = shape::axis(*axis, shape.len())?;
        places.push((*id, axis, shape.get(axis).copied().unwrap_or(0)));
    }
    let rounds = places.first().map_or(0, |(_, _, rounds)| *rounds);
    if places.len() != scanned || places.iter().any(|(_, _, length)| *length != rounds) {
        return Err(PlanError::shape("sequences of different lengths"));
    }
    let mut carried: Vec<Binding> = carried.iter().copied().map(Binding::from).collect();
    let mut collected: Vec<Vec<ValueId>> = vec![Vec::new(); outputs];
    for round in 0..rounds {
        let mut given = carried.clone();
        for ((id, axis, _), direction) in places.iter().zip(&directions) {
            let at = if *direction == 0 { round } else { rounds - 1 - round };
            let slice = part(site, *id, *axis, at..at + 1)?;
            let mut shape = site.fact_of(slice)?.shape;
            shape.remove(*axis);
            given.push(site.reshape(slice, shape)?.into());
        }
        let mut results = site.importer.subgraph(&body, given)?.into_iter();
        carried = results.by_ref().take(states).collect();
        for (list, binding) in collected.iter_mut().zip(results) {
            let Binding::Tensor(id) = binding else {
                return Err(PlanError::unsupported("a scan that gathers no tensors"));
            };
            list.push(id);
        }
    }
    for ((mut list, axis), direction) in collected.into_iter().zip(out_axes).zip(out_directions) {
        if direction != 0 {
            list.reverse();
        }
        let rank = list.first().map_or(Ok(0), |id| site.fact_of(*id).map(|fact| fact.rank()))?;
        let axis = shape::axis(axis, rank + 1)?;
        carried.push(stack(site, &list, axis)?.into());
    }
    Ok(carried)
}
