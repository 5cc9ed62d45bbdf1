//! Branches and loops, which dissolve.

use agentd_onnx::read;
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
    op::{Concat, Logic, Where},
    shape,
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "If" => branch(site).map(Some),
        "Loop" => repeat(site).map(Some),
        "Scan" if site.version >= 9 => scan(site).map(Some),
        "Scan" => scan_of_batch(site).map(Some),
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

/// Rounds of a loop of which only the run knows how many there are; more are not written out.
const MAX_UNKNOWN_ROUNDS: i64 = 1_024;

/// Whether a loop goes on.
#[derive(Clone, Copy)]
enum Active {
    Known(bool),
    /// The run knows.
    Unknown(ValueId),
}

impl Active {
    fn of(site: &Site<'_, '_, '_>, id: ValueId) -> Result<Self, PlanError> {
        Ok(match site.known(id) {
            Some(known) => Self::Known(known.real()? != 0.0),
            None => Self::Unknown(id),
        })
    }

    fn and(self, site: &mut Site<'_, '_, '_>, other: Self) -> Result<Self, PlanError> {
        Ok(match (self, other) {
            (Self::Known(false), _) | (_, Self::Known(false)) => Self::Known(false),
            (Self::Known(true), other) | (other, Self::Known(true)) => other,
            (Self::Unknown(a), Self::Unknown(b)) => {
                let (a, b) = (site.reshape(a, [])?, site.reshape(b, [])?);
                Self::Unknown(site.one(Logic::And, &[a, b])?)
            }
        })
    }
}

/// Written out round by round. Where only the run knows when it ends, all rounds that there may be are written out, and
/// those after the end change nothing.
fn repeat(site: &mut Site<'_, '_, '_>) -> Result<Vec<Binding>, PlanError> {
    let body = site.graph("body")?;
    let rounds = site.maybe_constant(0)?.map(|rounds| rounds.int()).transpose()?;
    let mut active = site.maybe(1).map_or(Ok(Active::Known(true)), |id| Active::of(site, id))?;
    let mut carried: Vec<Binding> =
        site.inputs.iter().skip(2).map(|input| input.clone().unwrap_or(Binding::Nothing)).collect();
    let scanned = body.outputs.len().checked_sub(carried.len() + 1);
    let scanned =
        scanned.ok_or_else(|| PlanError::Graph("a loop that gives less than it carries".to_owned()))?;
    let mut collected: Vec<Vec<ValueId>> = vec![Vec::new(); scanned];
    let mut round = 0_i64;
    while rounds.is_none_or(|rounds| round < rounds) {
        let flag = match active {
            Active::Known(false) => break,
            Active::Known(true) => site.add(Array::scalar(true))?,
            Active::Unknown(id)
                if scanned == 0 && rounds.is_some_and(|rounds| rounds <= MAX_UNKNOWN_ROUNDS) =>
            {
                id
            }
            Active::Unknown(_) => {
                return Err(PlanError::DataDependent("the number of a loop's rounds".to_owned()));
            }
        };
        let number = site.add(Array::scalar(round))?;
        let given = [number.into(), flag.into()].into_iter().chain(carried.iter().cloned()).collect();
        let mut outputs = site.importer.subgraph(&body, given)?.into_iter();
        let Some(Binding::Tensor(goes_on)) = outputs.next() else {
            return Err(PlanError::Graph("a loop without condition".to_owned()));
        };
        let after: Vec<Binding> = outputs.by_ref().take(carried.len()).collect();
        carried = match active {
            Active::Unknown(active) => kept_after_end(site, active, after, carried)?,
            Active::Known(_) => after,
        };
        let goes_on = Active::of(site, goes_on)?;
        active = active.and(site, goes_on)?;
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

/// What a loop carries after a round that may lie behind its end.
fn kept_after_end(
    site: &mut Site<'_, '_, '_>,
    active: ValueId,
    after: Vec<Binding>,
    before: Vec<Binding>,
) -> Result<Vec<Binding>, PlanError> {
    let active = site.reshape(active, [])?;
    let choose = |(after, before)| {
        let (Binding::Tensor(after), Binding::Tensor(before)) = (after, before) else {
            return Err(PlanError::DataDependent("a loop that carries no tensor".to_owned()));
        };
        if after == before {
            return Ok(Binding::from(after));
        }
        if site.fact_of(after)? != site.fact_of(before)? {
            return Err(PlanError::DataDependent("the shape of what a loop carries".to_owned()));
        }
        site.one(Where, &[active, after, before]).map(Binding::from)
    };
    after.into_iter().zip(before).map(choose).collect()
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

/// A tensor that a scan walks along.
#[derive(Clone, Copy)]
struct Track {
    id: ValueId,
    axis: usize,
    backwards: bool,
}

impl Track {
    fn length(self, site: &Site<'_, '_, '_>) -> Result<usize, PlanError> {
        Ok(site.fact_of(self.id)?.shape.get(self.axis).copied().unwrap_or(0))
    }
}

/// The slice at `at` of an axis, without that axis.
fn slice_at(site: &mut Site<'_, '_, '_>, x: ValueId, axis: usize, at: usize) -> Result<ValueId, PlanError> {
    let slice = part(site, x, axis, at..at + 1)?;
    let mut shape = site.fact_of(slice)?.shape;
    if axis >= shape.len() {
        return Err(PlanError::shape("an axis that does not exist"));
    }
    shape.remove(axis);
    site.reshape(slice, shape)
}

/// What is carried after `rounds` of a scan, and what each output gathered.
fn rounds_of_scan<'a>(
    site: &mut Site<'_, 'a, '_>,
    body: &read::Graph<'a>,
    states: Vec<ValueId>,
    tracks: &[Track],
    rounds: usize,
) -> Result<(Vec<Binding>, Vec<Vec<ValueId>>), PlanError> {
    let outputs = body.outputs.len().checked_sub(states.len());
    let outputs =
        outputs.ok_or_else(|| PlanError::Graph("a scan that gives less than it carries".to_owned()))?;
    let mut collected: Vec<Vec<ValueId>> = vec![Vec::new(); outputs];
    let count = states.len();
    let mut carried: Vec<Binding> = states.into_iter().map(Binding::from).collect();
    for round in 0..rounds {
        let mut given = carried.clone();
        for track in tracks {
            let length = track.length(site)?;
            let at = if track.backwards { length.saturating_sub(1 + round) } else { round };
            given.push(slice_at(site, track.id, track.axis, at)?.into());
        }
        let mut results = site.importer.subgraph(body, given)?.into_iter();
        carried = results.by_ref().take(count).collect();
        for (list, binding) in collected.iter_mut().zip(results) {
            let Binding::Tensor(id) = binding else {
                return Err(PlanError::unsupported("a scan that gathers no tensors"));
            };
            list.push(id);
        }
    }
    Ok((carried, collected))
}

/// How many rounds all tracks give.
fn common_length(site: &Site<'_, '_, '_>, tracks: &[Track]) -> Result<usize, PlanError> {
    let lengths = tracks.iter().map(|track| track.length(site)).collect::<Result<Vec<_>, _>>()?;
    match lengths.first() {
        Some(first) if lengths.iter().all(|length| length == first) => Ok(*first),
        _ => Err(PlanError::shape("sequences of different lengths, or none")),
    }
}

/// How many of `inputs` are carried, the others being scanned.
fn carried_of_scan(site: &Site<'_, '_, '_>, inputs: usize) -> Result<usize, PlanError> {
    let scanned = site.size("num_scan_inputs", 0)?;
    let states = inputs.checked_sub(scanned).filter(|_| scanned > 0);
    states.ok_or_else(|| PlanError::attribute("more scanned inputs than inputs"))
}

/// Scan: a loop over slices of its inputs, whose number of rounds their shape gives.
fn scan(site: &mut Site<'_, '_, '_>) -> Result<Vec<Binding>, PlanError> {
    let body = site.graph("body")?;
    let ids = site.ids()?;
    let (states, sequences) = ids.split_at(carried_of_scan(site, ids.len())?);
    let outputs = body.outputs.len().saturating_sub(states.len());
    let list =
        |name: &str, count: usize| Ok::<_, PlanError>(site.ints(name)?.unwrap_or_else(|| vec![0; count]));
    let scanned = sequences.len();
    let (axes, out_axes) = (list("scan_input_axes", scanned)?, list("scan_output_axes", outputs)?);
    let (directions, out_directions) =
        (list("scan_input_directions", scanned)?, list("scan_output_directions", outputs)?);
    if axes.len() != scanned || directions.len() != scanned {
        return Err(PlanError::attribute("axes or directions for other than the scanned inputs"));
    }
    if out_axes.len() != outputs || out_directions.len() != outputs {
        return Err(PlanError::attribute("axes or directions for other than the scan's outputs"));
    }
    let mut tracks = Vec::new();
    for ((id, axis), direction) in sequences.iter().zip(&axes).zip(&directions) {
        let axis = shape::axis(*axis, site.fact_of(*id)?.rank())?;
        tracks.push(Track { id: *id, axis, backwards: *direction != 0 });
    }
    let rounds = common_length(site, &tracks)?;
    let (mut carried, collected) = rounds_of_scan(site, &body, states.to_vec(), &tracks, rounds)?;
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

/// Scan as version 8 has it: of each sample of a batch, along the axis after it, as far as the sample's length.
fn scan_of_batch(site: &mut Site<'_, '_, '_>) -> Result<Vec<Binding>, PlanError> {
    let body = site.graph("body")?;
    let lengths = site.maybe_constant(0)?.map(|lengths| lengths.ints()).transpose()?;
    let ids = (1..site.len()).map(|index| site.id(index)).collect::<Result<Vec<_>, _>>()?;
    let (states, sequences) = ids.split_at(carried_of_scan(site, ids.len())?);
    let directions = site.ints("directions")?.unwrap_or_else(|| vec![0; sequences.len()]);
    if directions.len() != sequences.len() {
        return Err(PlanError::attribute("directions for other than the scanned inputs"));
    }
    let batch = sequences
        .first()
        .map_or(Ok(0), |id| site.fact_of(*id).map(|fact| fact.shape.first().copied().unwrap_or(0)))?;
    let outputs = body.outputs.len();
    let mut found: Vec<Vec<ValueId>> = vec![Vec::new(); outputs];
    for sample in 0..batch {
        let own = |site: &mut Site<'_, '_, '_>, id: &ValueId| slice_at(site, *id, 0, sample);
        let states = states.iter().map(|id| own(site, id)).collect::<Result<Vec<_>, _>>()?;
        let mut tracks = Vec::new();
        for (id, direction) in sequences.iter().zip(&directions) {
            tracks.push(Track { id: own(site, id)?, axis: 0, backwards: *direction != 0 });
        }
        let longest = common_length(site, &tracks)?;
        let length =
            lengths.as_ref().and_then(|lengths| lengths.get(sample)).map(|length| usize::try_from(*length));
        if length.is_some_and(|length| length != Ok(longest)) {
            return Err(PlanError::unsupported("a scan of samples shorter than their sequence"));
        }
        let (carried, collected) = rounds_of_scan(site, &body, states, &tracks, longest)?;
        let mut results = carried;
        for list in collected {
            results.push(stack(site, &list, 0)?.into());
        }
        for (list, binding) in found.iter_mut().zip(results) {
            let Binding::Tensor(id) = binding else {
                return Err(PlanError::unsupported("a scan that carries no tensors"));
            };
            list.push(id);
        }
    }
    found.iter().map(|list| stack(site, list, 0).map(Binding::from)).collect()
}
