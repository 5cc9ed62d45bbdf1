//! From a graph to a plan: layouts, packed weights, steps, places in the arena.
//!
//! In: a fused [`Graph`]. Out: a [`VerifiedPlan`]. Each value lives in up to two forms: plain (row-major, as the graph
//! says) and as a map of blocks of channels with a halo of zeros as wide as its readers ask for. A node is lowered to
//! steps of its own where there are kernels, otherwise to [`Step::Reference`], the interpreter on plain forms.

mod along;
mod attention;
mod constants;
mod convolution;
mod elementwise;
mod gather;
mod integer;
mod movement;
mod needs;
mod norm;
mod pool;
mod product;
mod recurrent;
mod resize;
mod transposed;
mod typed;

use std::{collections::BTreeSet, sync::Arc};

use agentd_plan::{Array, Fact, Graph, Node, Numerics, Op, ValueId, op::Unary};
use agentd_types::Datatype;

use crate::{
    error::LowerError,
    kernel::{
        elements::Each,
        isa::{Isa, Kernels},
    },
    memory::{self, Aligned, Buffer, LINE},
    plan::{Plan, Port},
    step::{At, Axis, BufferId, Copy, Halo, Map, Operand, Source, Step},
    verify::{self, VerifiedPlan},
};
pub(crate) use constants::{Constants, ZEROS};
use needs::Need;

/// Floats of an arena, at most: 16 GiB.
const MOST_FLOATS: usize = 1 << 32;

/// How a graph is lowered.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The instruction set.
    pub isa: Isa,
    /// How exact sums must be: `Strict` forbids Winograd's method.
    pub numerics: Numerics,
}

impl Default for Options {
    fn default() -> Self {
        Self { isa: Isa::detect(), numerics: Numerics::Fast }
    }
}

/// Where a value is.
#[derive(Clone, Copy, Debug, Default)]
struct Form {
    plain: Option<At>,
    map: Option<Map>,
    /// Quantised, or a float that is still quantised.
    words: Option<integer::Words>,
}

/// A plan in the making.
pub(crate) struct Lowering<'a> {
    graph: &'a Graph,
    kernels: &'static Kernels,
    numerics: Numerics,
    needs: Vec<Need>,
    forms: Vec<Form>,
    buffers: Vec<usize>,
    constants: Constants,
    steps: Vec<Step>,
    origins: Vec<usize>,
    node: usize,
}

/// The plan of a draft, proved.
///
/// # Errors
/// [`LowerError::Verify`]: when the lowering itself is at fault.
pub(crate) fn complete(draft: Draft) -> Result<VerifiedPlan, LowerError> {
    Ok(verify::verify(written(draft))?)
}

/// The plan of `graph`, not verified yet.
#[cfg(test)]
pub(crate) fn plan_of(graph: Arc<Graph>, options: Options) -> Result<Plan, LowerError> {
    draft(graph, options).map(written)
}

/// The plan with its constants; the graph's weights are dropped as they are packed.
fn written(Draft { mut plan, constants }: Draft) -> Plan {
    let keep = kept(&plan.graph, &plan);
    let graph = Arc::unwrap_or_clone(std::mem::take(&mut plan.graph));
    plan.graph = Arc::new(graph.without_elements(|id| keep.contains(&id)));
    plan.constants = constants.write();
    plan
}

/// A plan whose constants have places, but no numbers yet.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The plan.
    pub(crate) plan: Plan,
    /// Its constants.
    pub(crate) constants: Constants,
}

/// Constants whose elements are needed while the plan runs: those of nodes for the interpreter, tables from which slices
/// are gathered, and those that are outputs.
pub(crate) fn kept(graph: &Graph, plan: &Plan) -> BTreeSet<ValueId> {
    let reference = |step: &Step| match step {
        Step::Reference { node, .. } => graph.nodes().get(*node),
        Step::Gather(gather) if matches!(gather.from, Source::Value(_)) => graph.nodes().get(gather.node),
        _ => None,
    };
    let inputs = plan.steps.iter().filter_map(reference).flat_map(|node| node.inputs.iter().flatten());
    inputs.chain(graph.outputs().iter().map(|(_, id)| id)).copied().collect()
}

/// Steps and places for `graph`; packs nothing.
///
/// # Errors
/// [`LowerError`]: when it needs more memory than can be addressed, or has what no plan has.
pub(crate) fn draft(graph: Arc<Graph>, options: Options) -> Result<Draft, LowerError> {
    let kernels = options.isa.kernels();
    let mut lowering = Lowering {
        graph: &graph,
        kernels,
        numerics: options.numerics,
        needs: needs::needs(&graph, kernels.lanes),
        forms: vec![Form::default(); graph.values().len()],
        buffers: Vec::new(),
        constants: Constants::default(),
        steps: Vec::new(),
        origins: Vec::new(),
        node: 0,
    };
    let mut inputs = Vec::new();
    for id in graph.inputs() {
        let at = lowering.new_plain(*id);
        inputs.push((graph.value(*id).fact.datatype != Datatype::Bytes).then_some(at));
    }
    for (index, node) in graph.nodes().iter().enumerate() {
        lowering.node = index;
        lowering.lower_node(node)?;
    }
    if let Some((name, _)) =
        graph.outputs().iter().find(|(_, id)| graph.value(*id).fact.datatype == Datatype::Bytes)
    {
        return Err(LowerError::Graph(format!("output {name} is texts")));
    }
    let outputs: Vec<Port> = graph.outputs().iter().map(|(_, id)| lowering.port(*id)).collect();
    let (buffers, constants, steps, origins) =
        (lowering.buffers, lowering.constants, lowering.steps, lowering.origins);
    let mut plan = Plan {
        isa: kernels.isa,
        graph: Arc::clone(&graph),
        buffers: Vec::new(),
        arena: 0,
        constants: Aligned::default(),
        steps,
        origins,
        inputs,
        outputs,
    };
    place(&mut plan, &buffers)?;
    Ok(Draft { plan, constants })
}

/// Gives every buffer its time and place.
fn place(plan: &mut Plan, lengths: &[usize]) -> Result<(), LowerError> {
    let unused = Buffer { offset: 0, length: 0, first: usize::MAX, last: 0 };
    let mut buffers: Vec<Buffer> =
        lengths.iter().map(|length| Buffer { length: *length, ..unused }).collect();
    let mut use_at = |id: BufferId, at: usize| {
        if let Some(buffer) = buffers.get_mut(id.0) {
            buffer.first = buffer.first.min(at);
            buffer.last = buffer.last.max(at);
        }
    };
    for (at, step) in plan.steps.iter().enumerate() {
        verify::buffers_of(step, plan).into_iter().for_each(|id| use_at(id, at));
    }
    for at in plan.inputs.iter().flatten() {
        use_at(at.buffer, 0);
    }
    for port in &plan.outputs {
        if let Port::Buffer(at) = port {
            use_at(at.buffer, plan.steps.len());
        }
    }
    if lengths.iter().fold(0_usize, |sum, length| sum.saturating_add(*length)) > MOST_FLOATS {
        return Err(LowerError::TooLarge);
    }
    plan.arena = memory::place(&mut buffers).ok_or(LowerError::TooLarge)?;
    plan.buffers = buffers;
    Ok(())
}

/// Floats that a value takes in a buffer.
pub(crate) fn floats(fact: &Fact) -> usize {
    fact.bytes().div_ceil(size_of::<f32>())
}

impl<'a> Lowering<'a> {
    fn fact(&self, id: ValueId) -> &'a Fact {
        &self.graph.value(id).fact
    }

    fn is_f32(&self, id: ValueId) -> bool {
        self.fact(id).datatype == Datatype::Fp32
    }

    /// The elements of a constant of `f32`.
    fn constant_of(&self, id: Option<ValueId>) -> Option<&'a [f32]> {
        self.array_of(id)?.items::<f32>()
    }

    /// A constant of `f32`.
    fn array_of(&self, id: Option<ValueId>) -> Option<&'a Array> {
        self.graph.value(id?).constant.as_ref().filter(|array| array.datatype() == Datatype::Fp32)
    }

    /// A place among the constants for the bits of a constant of any datatype, and how many floats it takes.
    fn constant_bits(&mut self, id: ValueId) -> Option<(usize, usize)> {
        if let Some(array) = self.array_of(Some(id)) {
            return Some((self.whole_constant(array), array.len()));
        }
        let array = self.graph.value(id).constant.as_ref()?;
        let mut bytes = vec![0; floats(self.fact(id)) * size_of::<f32>()];
        array.write_bytes(&mut bytes);
        let words: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|word| f32::from_bits(u32::from_ne_bytes(*word))).collect();
        Some((self.constants(&words), words.len()))
    }

    fn form(&self, id: ValueId) -> Form {
        self.forms.get(id.index()).copied().unwrap_or_default()
    }

    fn form_mut(&mut self, id: ValueId) -> Option<&mut Form> {
        self.forms.get_mut(id.index())
    }

    fn push(&mut self, step: Step) {
        self.steps.push(step);
        self.origins.push(self.node);
    }

    /// A new buffer of so many floats, with room for one vector more.
    fn buffer(&mut self, floats: usize) -> At {
        self.buffers.push(floats.saturating_add(LINE));
        At { buffer: BufferId(self.buffers.len() - 1), start: 0 }
    }

    /// Adds constants, from the start of a cache line; returns where they are.
    fn constants(&mut self, items: &[f32]) -> usize {
        self.constants.add(items.to_vec())
    }

    /// Adds a constant of the graph as it is.
    fn whole_constant(&mut self, array: &Array) -> usize {
        self.constants.later(array.clone(), array.len(), |to, items| to.copy_from_slice(items))
    }

    /// Adds `length` floats that are packed from `weights` when the plan is complete; returns where they will be.
    fn packed(
        &mut self,
        weights: &Array,
        length: usize,
        pack: impl FnOnce(&mut [f32], &[f32]) + Send + 'static,
    ) -> usize {
        self.constants.later(weights.clone(), length, pack)
    }

    /// One number a channel, padded to whole vectors.
    fn channel_constants(&mut self, items: Option<&[f32]>, channels: usize) -> usize {
        let mut padded = items.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        padded.resize(channels.next_multiple_of(self.kernels.lanes), 0.0);
        self.constants.add(padded)
    }

    /// A plain place for a value that a step is about to write.
    fn new_plain(&mut self, id: ValueId) -> At {
        let at = self.buffer(floats(self.fact(id)));
        if let Some(form) = self.form_mut(id) {
            form.plain = Some(at);
        }
        at
    }

    /// The value in plain form, reordered or copied there if it must be.
    fn plain(&mut self, id: ValueId) -> At {
        let form = self.form(id);
        if let Some(at) = form.plain {
            return at;
        }
        let fact = self.fact(id);
        let at = self.new_plain(id);
        if let Some(words) = form.words {
            self.plain_of_words(id, words, at);
        } else if let Some(map) = form.map {
            if let Some(to) = plain_map(at, &fact.shape, Halo::default()) {
                self.push(Step::Reorder { from: map, to });
            }
        } else if let Some((start, count)) = self.constant_bits(id) {
            let axes = vec![Axis { count, a: 1, b: 0, out: 1 }];
            self.push(Step::Copy(Box::new(Copy { from: Operand::Constant(start), to: at, axes })));
        }
        at
    }

    /// The value as an operand: among the constants or in plain form.
    fn operand(&mut self, id: ValueId) -> Operand {
        if self.form(id).plain.is_none()
            && let Some((start, _)) = self.constant_bits(id)
        {
            return Operand::Constant(start);
        }
        Operand::Buffer(self.plain(id))
    }

    /// The value as a map of blocks, reordered if it must be; `None` for shapes that are no maps.
    fn map(&mut self, id: ValueId) -> Option<Map> {
        if let Some(map) = self.form(id).map {
            return Some(map);
        }
        if !self.is_f32(id) {
            return None;
        }
        if let Some(map) = self.map_of_words(id) {
            return Some(map);
        }
        let from = plain_map(At { buffer: BufferId(0), start: 0 }, &self.fact(id).shape, Halo::default())?;
        let plain = self.plain(id);
        let to = self.free_map(id)?;
        if let Some(form) = self.form_mut(id) {
            form.map = Some(to);
        }
        self.push(Step::Reorder { from: Map { at: plain, ..from }, to });
        Some(to)
    }

    /// A map for a value, with the halo that its readers ask for, in a buffer of its own.
    fn free_map(&mut self, id: ValueId) -> Option<Map> {
        let halo = self.needs.get(id.index())?.halo;
        let (images, channels, rows, columns) = sizes(&self.fact(id).shape)?;
        let lanes = self.kernels.lanes;
        let row = (columns + halo.left + halo.right) * lanes;
        let block = (rows + halo.top + halo.bottom) * row;
        let image = channels.div_ceil(lanes) * block;
        let start = self.buffer(images.checked_mul(image)?);
        let at = start.plus(halo.top * row + halo.left * lanes);
        Some(Map { at, images, channels, rows, columns, lanes, image, block, row, pixel: lanes, halo })
    }

    /// A map for a value that a step is about to write: a part of the map that joins it, where there is one.
    fn new_map(&mut self, id: ValueId) -> Option<Map> {
        if let Some(map) = self.form(id).map {
            return Some(map);
        }
        let need = self.needs.get(id.index())?.clone();
        let map = match need.part_of {
            Some((whole, first)) => {
                let parent = self.new_map(whole)?;
                let (_, channels, ..) = sizes(&self.fact(id).shape)?;
                let at = parent.at.plus(first / parent.lanes * parent.block);
                Map { at, channels, ..parent }
            }
            None => self.free_map(id)?,
        };
        if let Some(form) = self.form_mut(id) {
            form.map = Some(map);
        }
        Some(map)
    }

    fn port(&mut self, id: ValueId) -> Port {
        let value = self.graph.value(id);
        if value.constant.is_some()
            || self.graph.inputs().contains(&id)
            || value.fact.datatype == Datatype::Bytes
        {
            return Port::Direct(id.index());
        }
        Port::Buffer(self.plain(id))
    }

    fn lower_node(&mut self, node: &Node) -> Result<(), LowerError> {
        if self.native(node).is_none() {
            self.reference(node)?;
        }
        Ok(())
    }

    /// Lowers a node to steps with kernels; `None`, and no step that writes its outputs, where there are none.
    fn native(&mut self, node: &Node) -> Option<()> {
        let output = *node.outputs.first()?;
        if self.fact(output).elements() == 0 {
            return None;
        }
        if self.integer(node).is_some() {
            return Some(());
        }
        match &node.op {
            Op::Conv(conv) => self.convolution(conv, node),
            Op::ConvTranspose(conv) => self.transposed(conv, node),
            Op::Pool(pool) => self.pool(pool, node),
            Op::Resize(resize) => self.resize(resize, node),
            Op::MatMul(product) => self.product(product, node),
            Op::Attention(attention) => self.attention(*attention, node),
            Op::Unary(Unary::Not) => self.truth(Each::Not, node),
            Op::Unary(Unary::IsNan) => self.truth(Each::IsNan, node),
            Op::Unary(unary) => self.unary(*unary, node),
            Op::Recurrent(layer) => self.recurrent(layer, node),
            Op::Binary(binary) => self.binary(*binary, node).or_else(|| self.whole(*binary, node)),
            Op::BatchNorm(norm) => self.batch_norm(norm, node),
            Op::LayerNorm(norm) if !norm.statistics => self.layer_norm(norm.axis, norm.epsilon, false, node),
            Op::RmsNorm(norm) => self.layer_norm(norm.axis, norm.epsilon, true, node),
            Op::Softmax(softmax) => (!softmax.log)
                .then_some(())
                .and_then(|()| self.softmax(softmax.axis, node))
                .or_else(|| self.softmax_along(*softmax, node)),
            Op::Reduce(reduce) => self.reduce(reduce, node).or_else(|| self.reduce_plain(reduce, node)),
            Op::ArgReduce(arg) => self.arg_reduce(*arg, node),
            Op::GroupNorm(norm) => self.group_norm(*norm, node),
            Op::LocalResponseNorm(norm) => self.local_norm(*norm, node),
            Op::Concat(concat) => self.concat(concat.axis, node),
            Op::Reshape(_) => self.reshape(node),
            Op::Transpose(transpose) => self.transpose(&transpose.perm, node),
            Op::Slice(slice) => self.slice(slice, node).or_else(|| self.slice_backwards(slice, node)),
            Op::Expand(_) => self.expand(node),
            Op::Gather(gather) => self.gather(gather.axis, node),
            Op::Pad(pad) => self.pad(pad, node),
            Op::Tile(tile) => self.tile(&tile.repeats, node),
            Op::Cast(cast) => self.cast(cast.to, node),
            Op::Compare(compare) => self.compare(*compare, node),
            Op::Logic(logic) => self.logic(*logic, node),
            Op::Where(_) => self.choose(node),
            _ => None,
        }
    }

    /// A node by the interpreter.
    fn reference(&mut self, node: &Node) -> Result<(), LowerError> {
        let mut inputs = Vec::new();
        for id in &node.inputs {
            inputs.push(match id {
                Some(id) if self.graph.value(*id).constant.is_none() => Some(self.plain(*id)),
                _ => None,
            });
        }
        let texts = |id: &ValueId| self.fact(*id).datatype == Datatype::Bytes;
        if node.inputs.iter().flatten().any(texts) || node.outputs.iter().any(texts) {
            return Err(LowerError::Graph(format!("node {} works on texts", node.origin)));
        }
        for id in &node.outputs {
            if let Some(form) = self.form_mut(*id) {
                (form.map, form.words) = (None, None);
            }
        }
        let outputs = node.outputs.iter().map(|id| self.new_plain(*id)).collect();
        self.push(Step::Reference { node: self.node, inputs, outputs });
        Ok(())
    }
}

/// Images, channels, rows and columns of a shape of three or four dimensions, none of which is 0.
pub(crate) fn sizes(shape: &[usize]) -> Option<(usize, usize, usize, usize)> {
    let sizes = match *shape {
        [n, c, h, w] => (n, c, h, w),
        [n, c, w] => (n, c, 1, w),
        _ => return None,
    };
    (!shape.contains(&0)).then_some(sizes)
}

/// A plain value as a map with one lane, with a halo.
fn plain_map(at: At, shape: &[usize], halo: Halo) -> Option<Map> {
    let (images, channels, rows, columns) = sizes(shape)?;
    let row = columns + halo.left + halo.right;
    let block = (rows + halo.top + halo.bottom) * row;
    let at = at.plus(halo.top * row + halo.left);
    let image = channels * block;
    Some(Map { at, images, channels, rows, columns, lanes: 1, image, block, row, pixel: 1, halo })
}
