//! What a step touches: the first and last float of each operand.

mod integer;
mod recurrent;

use crate::{
    kernel::{along, isa::Kernels},
    pack,
    plan::Plan,
    step::{
        Along, At, BufferId, Combine, Convolve, Copy, Depthwise, Elements, Gather, Map, Operand, Parts,
        Plane, Pool, Resize, Sample, Scale, Source, Step, Turn, Weights, Winograd,
    },
};

/// What is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A buffer.
    Buffer(BufferId),
    /// The constants.
    Constants,
}

/// A range of floats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    pub(super) target: Target,
    /// The first float; `None` when it would lie before the target.
    pub(super) start: Option<usize>,
    /// After the last float.
    pub(super) end: usize,
}

/// All that a step touches.
#[derive(Debug, Default)]
pub(super) struct Touches(Vec<Touch>);

/// The float after the last one of nested loops, `(times, distance)` each, that touch `last` floats at a place.
fn end(start: usize, loops: &[(usize, usize)], last: usize) -> usize {
    if loops.iter().any(|(times, _)| *times == 0) {
        return 0;
    }
    let reach = loops.iter().map(|(times, distance)| (times - 1).saturating_mul(*distance));
    reach.fold(start, usize::saturating_add).saturating_add(last)
}

impl Touches {
    pub(super) fn all(&self) -> &[Touch] {
        &self.0
    }

    /// What `step` touches; `None` when no kernel fits its layout.
    pub(super) fn of(step: &Step, plan: &Plan) -> Option<Self> {
        let kernels = plan.isa.kernels();
        if kernels.isa != plan.isa {
            return None;
        }
        let mut t = Self::default();
        match step {
            Step::Convolve(step) => t.convolve(step, kernels)?,
            Step::Depthwise(step) => t.depthwise(step, kernels)?,
            Step::Winograd(step) => t.winograd(step, kernels)?,
            Step::Pool(step) => t.pool(step, kernels)?,
            Step::Resize(step) => t.resize(step, kernels)?,
            Step::Whole { input, output, .. } => {
                t.vectors(input, kernels)?;
                t.vectors(output, kernels)?;
                same(input, output, false)?;
            }
            Step::Reorder { from, to } => {
                let lanes = [from.lanes, to.lanes];
                let known = lanes.iter().all(|l| *l == 1 || *l == kernels.lanes);
                known.then_some(())?;
                same(from, to, true)?;
                t.map(from)?;
                t.map(to)?;
            }
            Step::Halo { map } => t.map(map)?,
            Step::MapFunction { input, output, .. } => {
                t.vectors(input, kernels)?;
                t.vectors(output, kernels)?;
                same(input, output, true)?;
            }
            Step::MapCombine { a, b, output, .. } => {
                for map in [a, b, output] {
                    t.vectors(map, kernels)?;
                    same(a, map, true)?;
                }
            }
            Step::Scale(step) => t.scale(step, kernels)?,
            Step::Function { input, output, count, .. } => {
                t.at(*input, *count);
                t.at(*output, *count);
            }
            Step::Combine(step) => t.combine(step)?,
            Step::Copy(step) => t.copy(step)?,
            Step::Along(step) => t.along(step)?,
            Step::Elements(step) => t.elements(step)?,
            Step::Gather(step) => t.gather(step, plan)?,
            Step::GroupNorm(step) => {
                let channels = step.groups.checked_mul(step.channels)?;
                let floats = step.images.checked_mul(channels)?.checked_mul(step.plane)?;
                t.at(step.input, floats);
                t.at(step.output, floats);
                t.constant(step.scale, channels);
                t.constant(step.bias, channels);
            }
            Step::LocalNorm(step) => {
                let floats = step.images.checked_mul(step.channels)?.checked_mul(step.plane)?;
                t.at(step.input, floats);
                t.at(step.output, floats);
                // A neighbour's number must not wrap.
                step.channels.checked_add(step.reach.1)?.checked_add(1)?;
            }
            Step::Softmax { input, output, rows, length, mask, mask_row, .. } => {
                (*length > 0).then_some(())?;
                mask.iter().for_each(|mask| t.operand(*mask, &[(*rows, *mask_row), (*length, 1)]));
                t.at(*input, rows.checked_mul(*length)?);
                t.at(*output, rows.checked_mul(*length)?);
            }
            Step::Normalise { input, residual, output, rows, length, scale, bias, .. } => {
                (*length > 0).then_some(())?;
                let floats = rows.checked_mul(*length)?;
                t.at(*input, floats);
                t.at(*output, floats);
                residual.iter().for_each(|at| t.at(*at, floats));
                t.constant(*scale, *length);
                bias.iter().for_each(|bias| t.constant(*bias, *length));
            }
            Step::Pack { from, row, column, rows, columns, parts, to, .. } => {
                let loops = [(parts.count, parts.input), (*rows, *row), (*columns, *column)];
                t.buffer(*from, 0, &loops, 1);
                let packed = pack::packed_length(*rows, *columns, kernels.lanes);
                t.buffer(*to, 0, &[(parts.count, parts.weights)], packed);
            }
            Step::Integer(step) => t.integer(step, kernels, &plan.constants)?,
            Step::Recurrent(step) => t.recurrent(step, kernels)?,
            Step::Reference { node, inputs, outputs } => t.reference(*node, inputs, outputs, plan)?,
        }
        Some(t)
    }

    fn at(&mut self, at: At, floats: usize) {
        self.buffer(at, 0, &[], floats);
    }

    /// Loops from `before` floats ahead of a place.
    fn buffer(&mut self, at: At, before: usize, loops: &[(usize, usize)], last: usize) {
        let end = end(at.start.saturating_sub(before), loops, last);
        self.0.push(Touch { target: Target::Buffer(at.buffer), start: at.start.checked_sub(before), end });
    }

    fn constant(&mut self, start: usize, floats: usize) {
        let end = start.saturating_add(floats);
        self.0.push(Touch { target: Target::Constants, start: Some(start), end });
    }

    /// A whole map, its halo too.
    fn map(&mut self, map: &Map) -> Option<()> {
        let Map { halo, .. } = map;
        let columns = halo.left.checked_add(map.columns)?.checked_add(halo.right)?;
        let rows = halo.top.checked_add(map.rows)?.checked_add(halo.bottom)?;
        if *halo != crate::step::Halo::default() {
            // Halo rows are written as whole rows.
            (columns.checked_mul(map.pixel)? == map.row && map.pixel == map.lanes).then_some(())?;
        }
        (map.lanes > 0).then_some(())?;
        let lead = halo.top.checked_mul(map.row)?.checked_add(halo.left.checked_mul(map.pixel)?)?;
        let loops =
            [(map.images, map.image), (map.blocks(), map.block), (rows, map.row), (columns, map.pixel)];
        self.buffer(map.at, lead, &loops, map.lanes);
        Some(())
    }

    /// A map of whole vectors that lie next to each other along a row.
    fn vectors(&mut self, map: &Map, kernels: &Kernels) -> Option<()> {
        (map.lanes == kernels.lanes && map.pixel == map.lanes).then_some(())?;
        self.map(map)
    }

    fn convolve(&mut self, c: &Convolve, kernels: &Kernels) -> Option<()> {
        let (lanes, out) = (kernels.lanes, &c.output);
        let known = c.channel_block > 0 && (out.lanes == lanes || out.lanes >= out.channels);
        known.then_some(())?;
        let (rows, columns) = c.taps;
        let inner = c.channels.checked_mul(rows)?.checked_mul(columns)?;
        let blocks = out.channels.div_ceil(lanes);
        let padded = blocks.checked_mul(lanes)?;
        self.buffer(
            c.input,
            0,
            &[
                (c.parts.count, c.parts.input),
                (out.images, c.in_image),
                (out.rows, c.in_row),
                (out.columns, c.in_pixel),
                (c.channels.div_ceil(c.channel_block), c.in_block),
                (rows, c.tap_row),
                (columns, c.tap_column),
            ],
            c.channel_block.min(c.channels),
        );
        let part = (c.parts.count, c.parts.weights);
        match c.weights {
            Weights::Packed { start } => self.constant(start, end(0, &[part], inner.checked_mul(padded)?)),
            Weights::Computed { at } => self.buffer(at, 0, &[part], inner.checked_mul(padded)?),
            Weights::Rows { at, step } => self.buffer(at, 0, &[part, (inner, step)], padded),
        }
        self.constant(c.bias, end(0, &[(c.parts.count, c.parts.bias)], padded));
        self.constant(0, crate::lower::ZEROS);
        self.output(out, c.parts, lanes)?;
        if let Some(residual) = &c.residual {
            same(residual, out, true)?;
            (residual.lanes == out.lanes).then_some(())?;
            self.output(residual, c.parts, lanes)?;
        }
        Some(())
    }

    /// The output of products: whole vectors but for rows of features, of which only those that exist are stored.
    fn output(&mut self, map: &Map, parts: Parts, lanes: usize) -> Option<()> {
        let part = (parts.count, parts.output);
        if map.lanes == lanes {
            let before = self.0.len();
            self.map(map)?;
            let whole = self.0.get_mut(before)?;
            whole.end = whole.end.saturating_add(end(0, &[part], 0));
            return Some(());
        }
        let plain = map.halo == crate::step::Halo::default();
        plain.then_some(())?;
        let loops = [part, (map.images, map.image), (map.rows, map.row), (map.columns, map.pixel)];
        self.buffer(map.at, 0, &loops, map.channels);
        Some(())
    }

    /// Input pixels that a window reads from a map with its padding, which must lie in the halo.
    fn window(
        input: &Map,
        output: &Map,
        Plane { taps, strides, dilations, padding, .. }: &Plane,
    ) -> Option<()> {
        let reach = |count: usize, stride: usize, taps: usize, dilation: usize| {
            let last = count.checked_sub(1)?.checked_mul(stride)?;
            last.checked_add(taps.checked_sub(1)?.checked_mul(dilation)?)?.checked_add(1)
        };
        let rows = reach(output.rows, strides.0, taps.0, dilations.0)?;
        let columns = reach(output.columns, strides.1, taps.1, dilations.1)?;
        let fits = padding.0 <= input.halo.top
            && padding.1 <= input.halo.left
            && rows <= padding.0 + input.rows + input.halo.bottom
            && columns <= padding.1 + input.columns + input.halo.right;
        (fits && input.images == output.images && input.channels == output.channels).then_some(())
    }

    fn depthwise(&mut self, d: &Depthwise, kernels: &Kernels) -> Option<()> {
        self.vectors(&d.input, kernels)?;
        self.vectors(&d.output, kernels)?;
        Self::window(&d.input, &d.output, &d.plane)?;
        (d.output.columns > 0).then_some(())?;
        let padded = d.output.blocks().checked_mul(kernels.lanes)?;
        self.constant(d.weights, padded.checked_mul(d.plane.taps.0)?.checked_mul(d.plane.taps.1)?);
        self.constant(d.bias, padded);
        Some(())
    }

    fn winograd(&mut self, w: &Winograd, kernels: &Kernels) -> Option<()> {
        self.vectors(&w.input, kernels)?;
        self.vectors(&w.output, kernels)?;
        let (input, output) = (&w.input, &w.output);
        let sizes =
            input.images == output.images && input.rows == output.rows && input.columns == output.columns;
        let halo =
            input.halo.top >= 1 && input.halo.left >= 1 && input.halo.bottom >= 1 && input.halo.right >= 1;
        (sizes && halo && w.band > 0 && output.rows > 0 && output.columns > 0).then_some(())?;
        if let Some(residual) = &w.residual {
            self.vectors(residual, kernels)?;
            same(residual, output, true)?;
        }
        let tiles = w.band.min(output.rows.div_ceil(4)).checked_mul(output.columns.div_ceil(4))?;
        let blocks = input.blocks().checked_add(output.blocks())?;
        let floats = tiles.checked_mul(36)?.checked_mul(kernels.lanes)?.checked_mul(blocks)?;
        self.at(w.scratch, floats);
        let padded = output.blocks().checked_mul(kernels.lanes)?;
        self.constant(w.weights, padded.checked_mul(36)?.checked_mul(input.channels)?);
        self.constant(w.bias, padded);
        self.constant(w.zeros, padded);
        Some(())
    }

    fn pool(&mut self, p: &Pool, kernels: &Kernels) -> Option<()> {
        self.vectors(&p.input, kernels)?;
        self.vectors(&p.output, kernels)?;
        same(&p.input, &p.output, false)?;
        let positive = [
            p.plane.taps.0,
            p.plane.taps.1,
            p.plane.strides.0,
            p.plane.strides.1,
            p.plane.dilations.0,
            p.plane.dilations.1,
        ];
        // The kernel clips the window at the map's edges; a column beyond them would wrap.
        let last = p.output.columns.checked_sub(1)?.checked_mul(p.plane.strides.1)?;
        let rows = p.output.rows.checked_sub(1)?.checked_mul(p.plane.strides.0)?;
        let starts = last < p.plane.padding.1.checked_add(p.input.columns)?
            && rows < p.plane.padding.0.checked_add(p.input.rows)?;
        (positive.iter().all(|n| *n > 0) && starts).then_some(())
    }

    fn resize(&mut self, r: &Resize, kernels: &Kernels) -> Option<()> {
        self.vectors(&r.input, kernels)?;
        self.vectors(&r.output, kernels)?;
        same(&r.input, &r.output, false)?;
        let inside = |samples: &[Sample], from: usize, to: usize| {
            let reads = |sample: &Sample| sample.places.0 < from && sample.places.1 < from;
            samples.len() == to && samples.iter().all(reads)
        };
        let known = matches!(kernels.lanes, 8 | 16);
        let rows = inside(&r.rows, r.input.rows, r.output.rows);
        (known && rows && inside(&r.columns, r.input.columns, r.output.columns)).then_some(())
    }

    fn scale(&mut self, s: &Scale, kernels: &Kernels) -> Option<()> {
        self.vectors(&s.input, kernels)?;
        self.vectors(&s.output, kernels)?;
        same(&s.input, &s.output, true)?;
        let padded = s.input.blocks().checked_mul(kernels.lanes)?;
        let images = (s.input.images, s.vector_image);
        match s.vector {
            Operand::Buffer(at) => self.buffer(at, 0, &[images], padded),
            Operand::Constant(start) => self.constant(start, end(0, &[images], padded)),
        }
        s.offset.iter().for_each(|offset| self.constant(*offset, padded));
        Some(())
    }

    fn operand(&mut self, operand: Operand, loops: &[(usize, usize)]) {
        match operand {
            Operand::Buffer(at) => self.buffer(at, 0, loops, 1),
            Operand::Constant(start) => self.constant(start, end(0, loops, 1)),
        }
    }

    fn combine(&mut self, c: &Combine) -> Option<()> {
        let last = c.axes.last()?;
        (last.out == 1 && last.a <= 1 && last.b <= 1).then_some(())?;
        let loops = |pick: fn(&crate::step::Axis) -> usize| -> Vec<(usize, usize)> {
            c.axes.iter().map(|axis| (axis.count, pick(axis))).collect()
        };
        self.operand(c.a, &loops(|axis| axis.a));
        self.operand(c.b, &loops(|axis| axis.b));
        self.buffer(c.output, 0, &loops(|axis| axis.out), 1);
        Some(())
    }

    fn copy(&mut self, c: &Copy) -> Option<()> {
        let from: Vec<_> = c.axes.iter().map(|axis| (axis.count, axis.a)).collect();
        let to: Vec<_> = c.axes.iter().map(|axis| (axis.count, axis.out)).collect();
        (!c.axes.is_empty()).then_some(())?;
        self.operand(c.from, &from);
        self.buffer(c.to, 0, &to, 1);
        Some(())
    }

    /// Loops in bytes over an operand.
    fn bytes(&mut self, operand: Operand, loops: &[(usize, usize)], size: usize) {
        let floats = end(0, loops, size).div_ceil(size_of::<f32>());
        match operand {
            Operand::Buffer(at) => self.at(at, floats),
            Operand::Constant(start) => self.constant(start, floats),
        }
    }

    fn elements(&mut self, step: &Elements) -> Option<()> {
        let (sizes, out_size) = step.each.sizes()?;
        (step.turns.last()?.out == 1).then_some(())?;
        let loops = |pick: &dyn Fn(&Turn) -> Option<usize>, size: usize| {
            let turn = |turn: &Turn| Some((turn.count, pick(turn)?.checked_mul(size)?));
            step.turns.iter().map(turn).collect::<Option<Vec<_>>>()
        };
        for (at, (operand, size)) in
            step.operands.iter().zip(sizes).enumerate().filter(|(_, (_, size))| *size > 0)
        {
            self.bytes(*operand, &loops(&|turn| turn.steps.get(at).copied(), size)?, size);
        }
        self.bytes(Operand::Buffer(step.output), &loops(&|turn| Some(turn.out), out_size)?, out_size);
        Some(())
    }

    fn gather(&mut self, step: &Gather, plan: &Plan) -> Option<()> {
        let slices = step.outer.checked_mul(step.inner)?;
        let floats = slices.checked_mul(step.size)?;
        match step.from {
            Source::Operand(Operand::Buffer(at)) => self.at(at, floats),
            Source::Operand(Operand::Constant(start)) => self.constant(start, floats),
            Source::Value(index) => {
                let items = plan.graph.values().get(index)?.constant.as_ref()?.items::<f32>()?;
                (items.len() >= floats).then_some(())?;
            }
        }
        let words = step.count.checked_mul(if step.wide { 2 } else { 1 })?;
        match step.indices {
            Operand::Buffer(at) => self.at(at, words),
            Operand::Constant(start) => self.constant(start, words),
        }
        self.at(step.to, slices.checked_mul(step.count)?);
        Some(())
    }

    fn along(&mut self, step: &Along) -> Option<()> {
        (step.count > 0).then_some(())?;
        let results = step.outer.checked_mul(step.inner)?;
        let numbers = results.checked_mul(step.count)?;
        self.at(step.input, numbers);
        let written = match step.kind {
            along::Kind::Fold { .. } => results,
            along::Kind::Softmax { .. } => numbers,
            // An index has two words, and is counted in 32 bits until then.
            along::Kind::Arg { .. } => {
                u32::try_from(step.count).ok()?;
                results.checked_mul(2)?
            }
        };
        self.at(step.output, written);
        Some(())
    }

    fn reference(&mut self, node: usize, inputs: &[Option<At>], outputs: &[At], plan: &Plan) -> Option<()> {
        let node = plan.graph.nodes().get(node)?;
        (inputs.len() == node.inputs.len() && outputs.len() == node.outputs.len()).then_some(())?;
        let floats = |id| plan.graph.value(id).fact.bytes().div_ceil(size_of::<f32>());
        for (id, at) in node.inputs.iter().zip(inputs) {
            if let (Some(id), Some(at)) = (id, at) {
                self.at(*at, floats(*id));
            }
        }
        for (id, at) in node.outputs.iter().zip(outputs) {
            self.at(*at, floats(*id));
        }
        Some(())
    }
}

/// Holds two maps against each other: images and channels, and the pixels too where `pixels` is set.
fn same(a: &Map, b: &Map, pixels: bool) -> Option<()> {
    let fits = a.images == b.images && a.channels == b.channels;
    let pixels = !pixels || (a.rows == b.rows && a.columns == b.columns);
    (fits && pixels).then_some(())
}
