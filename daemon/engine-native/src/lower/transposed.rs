//! Transposed convolutions: for each place of an output pixel within a stride, a convolution by the taps that reach it.

use agentd_plan::{
    Array, Graph, Node,
    op::{ConvTranspose, Window},
};

use super::{
    Lowering,
    convolution::{Ending, Shape, dense, plane},
    sizes,
};
use crate::{
    kernel::activation::Function,
    step::{Halo, Map, Plane, Step, Weights},
};

/// Output rows (or columns) that the same taps reach: every `stride`th, from `place` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Phase {
    /// The first one.
    place: usize,
    /// How many there are.
    count: usize,
    /// The tap that reads the last of the input pixels.
    first: usize,
    /// From that tap to the one that reads the pixel before.
    step: usize,
    /// How many taps.
    taps: usize,
    /// Input pixels from one to the next.
    dilation: usize,
    /// Input pixels before the map that are read; fewer than none where the first ones are not.
    before: isize,
    /// Input pixels after the map that are read.
    after: usize,
}

/// The greatest common divisor.
const fn divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// The phases along one axis; `None` where one has no tap at all.
fn phases(axis: usize, window: &Plane, size: usize, output: usize) -> Option<Vec<Phase>> {
    let pick = |pair: (usize, usize)| if axis == 0 { pair.0 } else { pair.1 };
    let (kernel, stride, dilation) = (pick(window.taps), pick(window.strides), pick(window.dilations));
    let padding = pick(window.padding);
    let common = divisor(dilation, stride);
    let step = stride / common;
    let mut phases = Vec::new();
    // Output pixel `stride * q + place` is the sum over the taps k of input pixel (.. + padding - k * dilation) / stride.
    for place in 0..stride.min(output) {
        let first = (0..step.min(kernel)).find(|k| (place + padding) % stride == k * dilation % stride)?;
        let base = ((place + padding).checked_signed_diff(first * dilation)?) / stride.cast_signed();
        let taps = (kernel - first).div_ceil(step);
        let count = (output - place).div_ceil(stride);
        let reach = ((taps - 1) * (dilation / common)).cast_signed();
        let last = base + count.cast_signed() - size.cast_signed();
        phases.push(Phase {
            place,
            count,
            first,
            step,
            taps,
            dilation: dilation / common,
            before: reach - base,
            after: usize::try_from(last).unwrap_or(0),
        });
    }
    Some(phases)
}

/// The zeros that a transposed convolution reads around its input.
pub(super) fn halo(conv: &ConvTranspose, input: &[usize]) -> Option<Halo> {
    let (_, _, rows, columns) = sizes(input)?;
    let (vertical, horizontal) = both(conv, (rows, columns))?;
    let most = |phases: &[Phase]| {
        let before = phases.iter().map(|phase| usize::try_from(phase.before).unwrap_or(0)).max().unwrap_or(0);
        (before, phases.iter().map(|phase| phase.after).max().unwrap_or(0))
    };
    let ((top, bottom), (left, right)) = (most(&vertical), most(&horizontal));
    Some(Halo { top, left, bottom, right })
}

/// Whether the output is a map of blocks; one channel is written in plain form.
pub(super) fn is_spatial(graph: &Graph, node: &Node) -> bool {
    node.outputs
        .first()
        .and_then(|id| graph.value(*id).fact.shape.get(1))
        .is_some_and(|channels| *channels > 1)
}

/// The phases along both axes.
fn both(conv: &ConvTranspose, size: (usize, usize)) -> Option<(Vec<Phase>, Vec<Phase>)> {
    let window = plane(&conv.window)?;
    let output = match *conv.output.as_slice() {
        [rows, columns] => (rows, columns),
        [columns] => (1, columns),
        _ => return None,
    };
    Some((phases(0, &window, size.0, output.0)?, phases(1, &window, size.1, output.1)?))
}

/// Phases of the columns that can be computed as channels of one convolution: all of them, where they read the same.
fn together(phases: &[Phase], stride: usize) -> Vec<Vec<Phase>> {
    let alike = |a: &Phase, b: &Phase| {
        (a.count, a.taps, a.dilation, a.before) == (b.count, b.taps, b.dilation, b.before)
    };
    match phases {
        [first, rest @ ..] if phases.len() == stride && rest.iter().all(|phase| alike(first, phase)) => {
            vec![phases.to_vec()]
        }
        _ => phases.iter().map(|phase| vec![*phase]).collect(),
    }
}

/// What is the same for all phases.
struct Transposed<'a> {
    window: &'a Window,
    weights: &'a [f32],
    shape: Shape,
    bias: Option<&'a [f32]>,
    input: Map,
    output: Map,
    range: (f32, f32),
}

impl Lowering<'_> {
    pub(super) fn transposed(&mut self, conv: &ConvTranspose, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let weights = self.constant_of(node.inputs.get(1).copied()?)?;
        let bias = match node.inputs.get(2).copied().flatten() {
            Some(id) => Some(self.constant_of(Some(id))?),
            None => None,
        };
        let (range, function): Ending = Self::ending(conv.activation)?;
        let (_, channels, rows, columns) = sizes(&self.fact(x).shape)?;
        let (images, out_channels, out_rows, out_columns) = sizes(&self.fact(output).shape)?;
        let (vertical, horizontal) = both(conv, (rows, columns))?;
        let stride = *conv.window.strides.last()?;
        let input = self.map(x)?;
        let plain = out_channels == 1;
        let to = if plain {
            let at = self.new_plain(output);
            let image = out_rows * out_columns;
            Map {
                at,
                images,
                channels: 1,
                rows: out_rows,
                columns: out_columns,
                lanes: 1,
                image,
                block: image,
                row: out_columns,
                pixel: 1,
                halo: Halo::default(),
            }
        } else {
            self.new_map(output)?
        };
        let shape = Shape { channels, columns: out_channels, groups: conv.groups };
        let all = Transposed { window: &conv.window, weights, shape, bias, input, output: to, range };
        let horizontal =
            if plain { together(&horizontal, stride) } else { together(&horizontal, usize::MAX) };
        for rows in &vertical {
            for columns in &horizontal {
                self.phase(&all, rows, columns)?;
            }
        }
        self.end_transposed(to, function);
        Some(())
    }

    /// One convolution: the output rows of one phase, the columns of one (or of several, as channels).
    fn phase(&mut self, all: &Transposed<'_>, rows: &Phase, columns: &[Phase]) -> Option<()> {
        let first = columns.first()?;
        let (input, output, shape) = (all.input, all.output, &all.shape);
        let (stride, down) = match *all.window.strides.as_slice() {
            [down, stride] => (stride, down),
            [stride] => (stride, 1),
            _ => return None,
        };
        let window = Plane {
            taps: (rows.taps, first.taps),
            strides: (1, 1),
            dilations: (rows.dilation, first.dilation),
            padding: (usize::try_from(rows.before).unwrap_or(0), usize::try_from(first.before).unwrap_or(0)),
            after: (rows.after, first.after),
        };
        // Where even the first tap reads past the first pixels, the map starts later.
        let skipped = |phase: &Phase| usize::try_from(-phase.before).unwrap_or(0);
        let input =
            Map { at: input.at.plus(skipped(rows) * input.row + skipped(first) * input.pixel), ..input };
        let channels = shape.columns.max(columns.len());
        let view = Map {
            at: output.at.plus(rows.place * output.row + first.place * output.pixel),
            channels,
            rows: rows.count,
            columns: first.count,
            lanes: if output.lanes == 1 { channels } else { output.lanes },
            row: output.row * down,
            pixel: output.pixel * stride,
            halo: Halo::default(),
            ..output
        };
        let weights = all.weights_of(rows, columns)?;
        let ending = (all.range, None);
        if shape.groups > 1 {
            let weights = Array::list(weights);
            return self.grouped(&window, shape, &weights, all.bias, (input, view, None), ending);
        }
        let weights = Array::list(weights);
        let start =
            self.packed_convolution(&weights, (channels, shape.channels, window.taps.0 * window.taps.1));
        let spread = all.bias.map(|bias| match bias {
            [one] => vec![*one; channels],
            _ => bias.to_vec(),
        });
        let bias = self.channel_constants(spread.as_deref(), channels);
        let step = dense(&window, input, view, None, Weights::Packed { start }, bias, ending);
        self.push(Step::Convolve(Box::new(step)));
        Some(())
    }

    /// What follows the phases: the function, the zeros around the map.
    fn end_transposed(&mut self, output: Map, function: Option<Function>) {
        if output.lanes == 1 {
            if let Some(function) = function {
                let count = output.images * output.image;
                self.push(Step::Function { input: output.at, output: output.at, count, function });
            }
        } else if let Some(function) = function {
            self.push(Step::MapFunction { input: output, output, function });
        } else if output.halo != Halo::default() {
            self.push(Step::Halo { map: output });
        }
    }
}

impl Transposed<'_> {
    /// The factors of a phase as those of a convolution, `[channels out][channels in of a group][rows][columns]`.
    fn weights_of(&self, rows: &Phase, columns: &[Phase]) -> Option<Vec<f32>> {
        let (high, wide) = match *self.window.kernel.as_slice() {
            [high, wide] => (high, wide),
            [wide] => (1, wide),
            _ => return None,
        };
        let per_in = self.shape.channels / self.shape.groups;
        let per_out = self.shape.columns / self.shape.groups;
        let mut weights = Vec::new();
        for (channel, phase) in
            (0..self.shape.columns).flat_map(|channel| columns.iter().map(move |phase| (channel, phase)))
        {
            for c in 0..per_in {
                let row = (channel / per_out * per_in + c) * per_out + channel % per_out;
                for y in (0..rows.taps).rev() {
                    for x in (0..phase.taps).rev() {
                        let tap = (rows.first + y * rows.step) * wide + phase.first + x * phase.step;
                        weights.push(*self.weights.get(row * high * wide + tap)?);
                    }
                }
            }
        }
        Some(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stride_of_two_has_two_phases() {
        let window =
            Plane { taps: (4, 2), strides: (2, 2), dilations: (1, 1), padding: (1, 0), after: (1, 0) };
        let found = phases(0, &window, 5, 10).unwrap();
        let even = Phase { place: 0, count: 5, first: 1, step: 2, taps: 2, dilation: 1, before: 1, after: 0 };
        assert_eq!(found, [even, Phase { place: 1, first: 0, before: 0, after: 1, ..even }]);
        let across = phases(1, &window, 5, 10).unwrap();
        assert_eq!(together(&across, 2).len(), 1);
    }

    #[test]
    fn a_phase_without_taps_is_not_for_us() {
        let window =
            Plane { taps: (1, 1), strides: (2, 2), dilations: (1, 1), padding: (0, 0), after: (0, 0) };
        assert_eq!(phases(0, &window, 5, 9), None);
    }
}
