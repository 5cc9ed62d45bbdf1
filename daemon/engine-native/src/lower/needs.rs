//! What the readers of each value ask of it, found before anything is lowered.

use agentd_plan::{Graph, Node, Op, ValueId};
use agentd_types::Datatype;

use super::{sizes, transposed};
use crate::step::Halo;

/// What is asked of a value.
#[derive(Clone, Debug, Default)]
pub(super) struct Need {
    /// Zeros around it, when it is a map.
    pub(super) halo: Halo,
    /// The value that joins it with others along the channels, and its first channel there.
    pub(super) part_of: Option<(ValueId, usize)>,
    /// Whether it is expected to be written as a map.
    pub(super) spatial: bool,
}

/// The needs of every value of `graph`.
pub(super) fn needs(graph: &Graph, lanes: usize) -> Vec<Need> {
    let mut needs = vec![Need::default(); graph.values().len()];
    for node in graph.nodes() {
        if writes_map(graph, node, &needs)
            && let Some(need) = node.outputs.first().and_then(|id| needs.get_mut(id.index()))
        {
            need.spatial = true;
        }
    }
    for node in graph.nodes() {
        let window = match &node.op {
            Op::Conv(conv) => Some(&conv.window),
            Op::QuantizedConv(conv) => Some(&conv.window),
            _ => None,
        };
        if let Some(Some(input)) = node.inputs.first()
            && let Some(halo) = window.and_then(halo)
            && let Some(need) = needs.get_mut(input.index())
        {
            need.halo = need.halo.max(halo);
        }
        if let Op::ConvTranspose(conv) = &node.op
            && let Some(Some(input)) = node.inputs.first()
            && let Some(halo) = transposed::halo(conv, &graph.value(*input).fact.shape)
            && let Some(need) = needs.get_mut(input.index())
        {
            need.halo = need.halo.max(halo);
        }
        join(graph, node, lanes, &mut needs);
    }
    pass_on_halos(graph, &mut needs);
    share_halos(graph, &mut needs);
    needs
}

/// What is quantised or dequantised may stay where it is, so its halo is asked of what comes before.
fn pass_on_halos(graph: &Graph, needs: &mut [Need]) {
    for node in graph.nodes().iter().rev() {
        if let (Op::Quantize(_) | Op::Dequantize(_), Some(Some(input)), Some(output)) =
            (&node.op, node.inputs.first(), node.outputs.first())
            && let Some(halo) = needs.get(output.index()).map(|need| need.halo)
            && let Some(need) = needs.get_mut(input.index())
        {
            need.halo = need.halo.max(halo);
        }
    }
}

/// The padding of a window as a halo.
fn halo(window: &agentd_plan::op::Window) -> Option<Halo> {
    match (window.pads_begin.as_slice(), window.pads_end.as_slice()) {
        ([top, left], [bottom, right]) => {
            Some(Halo { top: *top, left: *left, bottom: *bottom, right: *right })
        }
        ([left], [right]) => Some(Halo { top: 0, left: *left, bottom: 0, right: *right }),
        _ => None,
    }
}

fn writes_map(graph: &Graph, node: &Node, needs: &[Need]) -> bool {
    let Some(output) = node.outputs.first() else { return false };
    let fact = &graph.value(*output).fact;
    if fact.datatype != Datatype::Fp32 || sizes(&fact.shape).is_none() {
        return false;
    }
    let spatial = |index: usize| {
        let id = node.inputs.get(index).copied().flatten();
        id.and_then(|id| needs.get(id.index())).is_some_and(|need| need.spatial)
    };
    match &node.op {
        Op::Conv(_) => true,
        Op::ConvTranspose(_) => transposed::is_spatial(graph, node),
        Op::Pool(_) | Op::Resize(_) | Op::Unary(_) | Op::BatchNorm(_) => spatial(0),
        Op::Binary(_) => spatial(0) || spatial(1),
        Op::Concat(concat) => concat.axis == 1 && (0..node.inputs.len()).all(spatial),
        _ => false,
    }
}

/// Notes that values joined along whole blocks of channels may be written in place.
fn join(graph: &Graph, node: &Node, lanes: usize, needs: &mut [Need]) {
    let (Op::Concat(concat), Some(output)) = (&node.op, node.outputs.first()) else { return };
    if concat.axis != 1 || !needs.get(output.index()).is_some_and(|need| need.spatial) {
        return;
    }
    let mut first = 0;
    for id in node.inputs.iter().flatten() {
        let channels = graph.value(*id).fact.shape.get(1).copied().unwrap_or(0);
        if let Some(need) = needs.get_mut(id.index())
            && first % lanes == 0
            && need.part_of.is_none()
            && (channels % lanes == 0 || Some(id) == node.inputs.last().and_then(Option::as_ref))
        {
            need.part_of = Some((*output, first));
        }
        first += channels;
    }
}

/// Gives all parts of one map the same halo.
fn share_halos(graph: &Graph, needs: &mut [Need]) {
    let root = |mut at: usize, needs: &[Need]| {
        while let Some((whole, _)) = needs.get(at).and_then(|need| need.part_of) {
            at = whole.index();
        }
        at
    };
    for at in 0..graph.values().len() {
        let (from, halo) = (root(at, needs), needs.get(at).map_or(Halo::default(), |need| need.halo));
        if let Some(need) = needs.get_mut(from) {
            need.halo = need.halo.max(halo);
        }
    }
    for at in 0..graph.values().len() {
        let halo = needs.get(root(at, needs)).map_or(Halo::default(), |need| need.halo);
        if let Some(need) = needs.get_mut(at) {
            need.halo = halo;
        }
    }
}
