//! Convolutions.

use agentd_plan::{
    Array, Node, Numerics,
    op::{Conv, Unary, Window},
};

use super::{Lowering, plain_map, sizes};
use crate::{
    kernel::activation::Function,
    pack,
    step::{self, Convolve, Depthwise, Halo, Map, Parts, Plane, Step, Weights, Winograd},
};

/// Maps at least this high and wide gain by Winograd's method; below, its weights cost more than it saves.
const WINOGRAD_PIXELS: usize = 14;
/// Channels from which the transforms pay.
const WINOGRAD_CHANNELS: usize = 32;
/// Floats of transformed tiles that are worked on at once: 1 MiB.
const WINOGRAD_SCRATCH: usize = 1 << 18;

/// A window over one or two spatial axes; `None` for more.
pub(super) fn plane(window: &Window) -> Option<Plane> {
    let pair = |items: &[usize], missing: usize| match *items {
        [a, b] => Some((a, b)),
        [b] => Some((missing, b)),
        _ => None,
    };
    Some(Plane {
        taps: pair(&window.kernel, 1)?,
        strides: pair(&window.strides, 1)?,
        dilations: pair(&window.dilations, 1)?,
        padding: pair(&window.pads_begin, 0)?,
        after: pair(&window.pads_end, 0)?,
    })
}

/// What follows a sum: a range to hold it in, and a function.
pub(super) type Ending = ((f32, f32), Option<Function>);

impl Lowering<'_> {
    /// The ending of an activation; `None` when there is no kernel for it.
    pub(super) fn ending(activation: Option<Unary>) -> Option<Ending> {
        let everything = (f32::NEG_INFINITY, f32::INFINITY);
        let Some(activation) = activation else { return Some((everything, None)) };
        match super::elementwise::function(activation)? {
            Function::Clamp { low, high } => Some(((low, high), None)),
            function => Some((everything, Some(function))),
        }
    }

    pub(super) fn convolution(&mut self, conv: &Conv, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let weights = self.array_of(node.inputs.get(1).copied()?)?;
        let bias = match node.inputs.get(2).copied().flatten() {
            Some(id) => Some(self.constant_of(Some(id))?),
            None => None,
        };
        let plane = plane(&conv.window)?;
        let ending = Self::ending(conv.activation)?;
        let (_, channels, ..) = sizes(&self.fact(x).shape)?;
        let (_, columns, ..) = sizes(&self.fact(output).shape)?;
        if !self.is_f32(x) {
            return None;
        }
        let residual = match node.inputs.get(3).copied().flatten() {
            Some(id) => Some(self.map(id)?),
            None => None,
        };
        let shape = Shape { channels, columns, groups: conv.groups };
        if conv.groups == channels && columns == channels && residual.is_none() && channels > 1 {
            let (input, output) = (self.map(x)?, self.new_map(output)?);
            return self.depthwise(&plane, weights, bias, (input, output), ending);
        }
        if conv.groups > 1 {
            let (input, output) = (self.map(x)?, self.new_map(output)?);
            return self.grouped(&plane, &shape, weights, bias, (input, output, residual), ending);
        }
        if self.form(x).map.is_none() && channels < self.kernels.lanes && plane.dilations.1 == 1 {
            return self.stem(&plane, &shape, weights, bias, (x, residual), output, ending);
        }
        let (input, output) = (self.map(x)?, self.new_map(output)?);
        if self.suits_winograd(&plane, &shape, &output) {
            return self.winograd(&shape, weights, bias, (input, output, residual), ending);
        }
        let start = self.packed_convolution(weights, (columns, channels, plane.taps.0 * plane.taps.1));
        let weights = Weights::Packed { start };
        let bias = self.channel_constants(bias, columns);
        let step = dense(&plane, input, output, residual, weights, bias, ending);
        self.push_convolution(step);
        Some(())
    }

    /// A convolution; images of one row become rows of one image, so that they share the weights that are near.
    fn push_convolution(&mut self, step: Convolve) {
        let output = step.output;
        if output.images == 1 || output.rows != 1 || step.taps.0 != 1 {
            self.push(Step::Convolve(Box::new(step)));
            return;
        }
        let rows = |map: Map| Map {
            images: 1,
            rows: map.images,
            image: 0,
            row: map.image,
            halo: Halo::default(),
            ..map
        };
        let step = Convolve {
            in_image: 0,
            in_row: step.in_image,
            output: rows(output),
            residual: step.residual.map(rows),
            ..step
        };
        self.push(Step::Convolve(Box::new(step)));
        if output.halo != Halo::default() {
            self.push(Step::Halo { map: output });
        }
    }

    /// Packs weights of `[columns][channels][taps]`.
    pub(super) fn packed_convolution(
        &mut self,
        weights: &Array,
        (columns, channels, taps): (usize, usize, usize),
    ) -> usize {
        let kernels = self.kernels;
        let length = pack::packed_length(channels * taps, columns, kernels.lanes);
        self.packed(weights, length, move |to, items| {
            pack::pack_convolution(to, items, (columns, channels, taps), kernels);
        })
    }

    /// Few input channels, read from the plain form: the taps of a row are taken as channels that lie next to each other.
    #[expect(clippy::too_many_arguments, reason = "what a convolution is")]
    fn stem(
        &mut self,
        plane: &Plane,
        shape: &Shape,
        weights: &Array,
        bias: Option<&[f32]>,
        (x, residual): (agentd_plan::ValueId, Option<Map>),
        output: agentd_plan::ValueId,
        (range, function): Ending,
    ) -> Option<()> {
        let halo = plane.halo();
        let fact = self.fact(x);
        let plain = self.plain(x);
        let from = plain_map(plain, &fact.shape, Halo::default())?;
        let input = if halo == Halo::default() {
            from
        } else {
            let sized = plain_map(plain, &fact.shape, halo)?;
            let at = self.buffer(sized.images.checked_mul(sized.image)?);
            let to = plain_map(at, &fact.shape, halo)?;
            self.push(Step::Reorder { from, to });
            to
        };
        let inner = shape.channels * plane.taps.0 * plane.taps.1;
        // Channel by channel, each tap after the other: as one tap of so many channels.
        let start = self.packed_convolution(weights, (shape.columns, inner, 1));
        let weights = Weights::Packed { start };
        let bias = self.channel_constants(bias, shape.columns);
        let output = self.new_map(output)?;
        let step = Convolve {
            channels: shape.channels * plane.taps.1,
            channel_block: plane.taps.1,
            taps: (plane.taps.0, 1),
            range,
            function,
            ..dense(plane, input, output, residual, weights, bias, (range, function))
        };
        self.push_convolution(step);
        Some(())
    }

    /// Groups of channels: for each group of output blocks, a convolution over the input blocks that its channels read,
    /// with factors of 0 where they do not.
    pub(super) fn grouped(
        &mut self,
        plane: &Plane,
        shape: &Shape,
        weights: &Array,
        bias: Option<&[f32]>,
        (input, output, residual): (Map, Map, Option<Map>),
        ending: Ending,
    ) -> Option<()> {
        let (lanes, kernels) = (self.kernels.lanes, self.kernels);
        let (per_in, per_out) = (shape.channels / shape.groups, shape.columns / shape.groups);
        let taps = plane.taps.0 * plane.taps.1;
        for (first, count) in pack::groups(shape.columns.div_ceil(lanes), kernels) {
            let columns = (first * lanes, ((first + count) * lanes).min(shape.columns));
            let from = columns.0 / per_out * per_in / lanes * lanes;
            let to = (((columns.1 - 1) / per_out + 1) * per_in).min(shape.channels);
            let part = GroupPart { columns, from, to, per_in, per_out, taps };
            let (wide, inner) = (columns.1 - columns.0, (to - from) * taps);
            let length = pack::packed_length(inner, wide, lanes);
            let start = self.packed(weights, length, move |place, items| {
                let dense = part.dense(items);
                pack::pack_convolution(place, &dense, (wide, part.to - part.from, taps), kernels);
            });
            let bias =
                bias.map(|bias| bias.get(columns.0..columns.1)).map_or(Some(None), |part| part.map(Some))?;
            let bias = self.channel_constants(bias, columns.1 - columns.0);
            let part = |map: Map, from: usize, to: usize| Map {
                at: map.at.plus(from / lanes * map.block),
                channels: to - from,
                ..map
            };
            let step = dense(
                plane,
                part(input, from, to),
                part(output, columns.0, columns.1),
                residual.map(|map| part(map, columns.0, columns.1)),
                Weights::Packed { start },
                bias,
                ending,
            );
            self.push_convolution(step);
        }
        Some(())
    }

    fn depthwise(
        &mut self,
        plane: &Plane,
        weights: &Array,
        bias: Option<&[f32]>,
        (input, output): (Map, Map),
        (range, function): Ending,
    ) -> Option<()> {
        let taps = plane.taps.0 * plane.taps.1;
        let lanes = self.kernels.lanes;
        let length = output.channels.next_multiple_of(lanes) * taps;
        let weights =
            self.packed(weights, length, move |to, items| pack::pack_depthwise(to, items, taps, lanes));
        let bias = self.channel_constants(bias, output.channels);
        let step = Depthwise { input, output, plane: *plane, weights, bias, range, function };
        self.push(Step::Depthwise(Box::new(step)));
        Some(())
    }

    fn suits_winograd(&self, plane: &Plane, shape: &Shape, output: &Map) -> bool {
        let ones = plane.strides == (1, 1) && plane.dilations == (1, 1);
        self.numerics == Numerics::Fast
            && plane.taps == (3, 3)
            && ones
            && plane.padding == (1, 1)
            && plane.after == (1, 1)
            && output.rows.min(output.columns) >= WINOGRAD_PIXELS
            && shape.channels.min(shape.columns) >= WINOGRAD_CHANNELS
    }

    fn winograd(
        &mut self,
        shape: &Shape,
        weights: &Array,
        bias: Option<&[f32]>,
        (input, output, residual): (Map, Map, Option<Map>),
        (range, function): Ending,
    ) -> Option<()> {
        let (columns, channels, kernels) = (shape.columns, shape.channels, self.kernels);
        let length = pack::winograd_length(columns, channels, kernels);
        let weights = self.packed(weights, length, move |to, items| {
            pack::pack_winograd(to, items, (columns, channels), kernels);
        });
        let bias = self.channel_constants(bias, shape.columns);
        let zeros = self.channel_constants(None, shape.columns);
        let (wide, high) = (output.columns.div_ceil(4), output.rows.div_ceil(4));
        let of_a_row = 36 * self.kernels.lanes * (input.blocks() + output.blocks()) * wide;
        let band = (WINOGRAD_SCRATCH / of_a_row).clamp(1, high);
        let scratch = self.buffer(of_a_row.checked_mul(band)?);
        let step = Winograd { input, output, residual, weights, bias, zeros, scratch, band, range, function };
        self.push(Step::Winograd(Box::new(step)));
        Some(())
    }
}

/// Weights of a range of a grouped convolution's output channels, as of one over the input channels `from..to`.
#[derive(Clone, Copy)]
struct GroupPart {
    columns: (usize, usize),
    from: usize,
    to: usize,
    per_in: usize,
    per_out: usize,
    taps: usize,
}

impl GroupPart {
    fn dense(&self, weights: &[f32]) -> Vec<f32> {
        let Self { columns, from, to, per_in, per_out, taps } = *self;
        let mut dense = vec![0.0; (columns.1 - columns.0) * (to - from) * taps];
        for column in columns.0..columns.1 {
            let base = column / per_out * per_in;
            let length = per_in * taps;
            let place = ((column - columns.0) * (to - from) + base - from) * taps;
            let source = weights.get(column * length..(column + 1) * length);
            if let (Some(place), Some(source)) = (dense.get_mut(place..place + length), source) {
                place.copy_from_slice(source);
            }
        }
        dense
    }
}

/// Channels in, channels out, groups.
pub(super) struct Shape {
    pub(super) channels: usize,
    pub(super) columns: usize,
    pub(super) groups: usize,
}

/// A convolution over all channels of `input`.
pub(super) fn dense(
    plane: &Plane,
    input: Map,
    output: Map,
    residual: Option<Map>,
    weights: Weights,
    bias: usize,
    (range, function): Ending,
) -> Convolve {
    let back = plane.padding.0 * input.row + plane.padding.1 * input.pixel;
    Convolve {
        parts: Parts::ONE,
        input: step::At { start: input.at.start.saturating_sub(back), ..input.at },
        in_image: input.image,
        in_row: plane.strides.0 * input.row,
        in_pixel: plane.strides.1 * input.pixel,
        in_block: input.block,
        channels: input.channels,
        channel_block: input.lanes,
        taps: plane.taps,
        tap_row: plane.dilations.0 * input.row,
        tap_column: plane.dilations.1 * input.pixel,
        weights,
        bias,
        output,
        residual,
        range,
        function,
    }
}
