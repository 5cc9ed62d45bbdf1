//! What a step on quantised numbers touches.

use super::{Touches, end, same};
use crate::{
    kernel::{dot::UNROLLED, isa::Kernels},
    step::{
        Halo, Map, Operand,
        integer::{Bytes, Ending, Integer, Product, Requantise, WordDepthwise, WordPairs},
    },
};

/// Floats that a table of 256 halves takes.
const TABLE: usize = 128;

impl Touches {
    pub(super) fn integer(&mut self, step: &Integer, kernels: &Kernels, constants: &[f32]) -> Option<()> {
        match step {
            Integer::Product(step) => self.dot(step, kernels, constants),
            Integer::Depthwise(step) => self.word_depthwise(step, kernels),
            Integer::Quantise { from, to, .. } => self.halved(from, to, kernels),
            Integer::Dequantise { from, to, .. } => self.halved(to, from, kernels),
            Integer::Widen { from, to } => self.eights(from, to),
            Integer::Narrow { from, to } => self.eights(to, from),
            Integer::Table { input, output, table } => {
                self.vectors(input, kernels)?;
                self.vectors(output, kernels)?;
                same(input, output, true)?;
                self.constant(*table, TABLE);
                Some(())
            }
            Integer::Pairs(step) => self.word_pairs(step, kernels),
            Integer::Largest(step) => self.pool(step, kernels),
            Integer::Mean { input, output, channels, .. } => {
                self.vectors(input, kernels)?;
                (channels.div_ceil(2) == input.channels).then_some(())?;
                // Sums of numbers below 256 must fit into 31 bits.
                (input.rows.checked_mul(input.columns)? < 1 << 23).then_some(())?;
                self.at(*output, input.images.checked_mul(*channels)?);
                Some(())
            }
            Integer::Squeeze { from, to, .. } => self.squeeze(from, to),
            Integer::Cover { input, rows, length, output, bytes, scale, zero } => {
                let fits = output.images == 1 && output.rows == 1 && output.columns == *rows;
                let (lanes, of_word) = if *bytes { (kernels.lanes / 2, 4) } else { (kernels.lanes, 2) };
                let whole = output.lanes == lanes && output.block == lanes;
                (fits && whole && output.channels == length.div_ceil(of_word)).then_some(())?;
                self.at(*input, rows.checked_mul(*length)?);
                self.map(output)?;
                self.at(*scale, 1);
                self.at(*zero, 1);
                Some(())
            }
        }
    }

    fn dot(&mut self, p: &Product, kernels: &Kernels, constants: &[f32]) -> Option<()> {
        let out = &p.output;
        (out.columns > 0).then_some(())?;
        let reach = self.factors(p, kernels, constants)?;
        let loops = [(out.images, p.in_image), (out.rows, p.in_row), (out.columns, p.in_pixel)];
        self.buffer(p.input, 0, &loops, reach);
        let pair = kernels.lanes.checked_mul(2)?;
        let groups = match &p.ending {
            Ending::Quantise { how, table } => {
                (out.lanes == kernels.lanes).then_some(())?;
                self.map(out)?;
                let floats = out.blocks().checked_mul(pair)?;
                self.requantise(how, floats);
                if let Some(table) = table {
                    self.constant(*table, TABLE);
                }
                out.blocks()
            }
            Ending::Scale { scale, factors, zero, summands, residual, .. } => {
                self.float_rows(out)?;
                if let Some(residual) = residual {
                    same(residual, out, true)?;
                    self.float_rows(residual)?;
                    (residual.pixel == out.pixel && residual.row == out.row).then_some(())?;
                }
                match scale {
                    Operand::Buffer(at) => self.at(*at, 1),
                    Operand::Constant(start) => self.constant(*start, 1),
                }
                let groups = out.channels.div_ceil(pair);
                let floats = groups.checked_mul(pair)?;
                self.constant(*factors, floats);
                summands.iter().for_each(|summands| self.constant(*summands, floats));
                if let Some((at, sums)) = zero {
                    self.at(*at, 1);
                    self.constant(*sums, floats);
                }
                groups
            }
        };
        (p.groups.len() == groups).then_some(())?;
        self.constant(p.bias, groups.checked_mul(pair)?);
        Some(())
    }

    /// The lists of offsets and factors of a product; returns how many words a pixel reaches.
    fn factors(&mut self, p: &Product, kernels: &Kernels, constants: &[f32]) -> Option<usize> {
        let mut reach = 0;
        for group in &p.groups {
            group.inner.is_multiple_of(UNROLLED).then_some(())?;
            self.constant(group.offsets, group.inner);
            self.constant(group.weights, group.inner.checked_mul(kernels.lanes)?.checked_mul(2)?);
            let end = group.offsets.checked_add(group.inner)?;
            // What lies outside the constants is refused for that.
            let offsets = constants.get(group.offsets..end).unwrap_or_default();
            reach = offsets.iter().map(|offset| offset.to_bits()).fold(reach, u32::max);
        }
        usize::try_from(reach).ok()?.checked_add(1)
    }

    fn requantise(&mut self, how: &Requantise, floats: usize) {
        self.constant(how.factors, floats);
        self.constant(how.rests, floats);
    }

    /// Pixels of floats that lie next to each other, of which only those that exist are touched.
    fn float_rows(&mut self, map: &Map) -> Option<()> {
        (map.lanes >= map.channels && map.halo == Halo::default()).then_some(())?;
        let loops = [(map.images, map.image), (map.rows, map.row), (map.columns, map.pixel)];
        self.buffer(map.at, 0, &loops, map.channels);
        Some(())
    }

    fn word_depthwise(&mut self, d: &WordDepthwise, kernels: &Kernels) -> Option<()> {
        self.vectors(&d.input, kernels)?;
        self.vectors(&d.output, kernels)?;
        Self::window(&d.input, &d.output, &d.plane)?;
        (d.output.columns > 0).then_some(())?;
        let floats = d.output.blocks().checked_mul(kernels.lanes)?.checked_mul(2)?;
        self.constant(d.weights, floats.checked_mul(d.plane.taps.0)?.checked_mul(d.plane.taps.1)?);
        self.constant(d.bias, floats);
        self.requantise(&d.how, floats);
        if let Some(table) = d.table {
            self.constant(table, TABLE);
        }
        Some(())
    }

    /// Maps of halves and of bytes, of the same size and with the same halo, pixels next to each other.
    fn squeeze(&mut self, from: &Map, to: &Map) -> Option<()> {
        let halves = from.lanes.div_ceil(2) == to.lanes && from.blocks() == to.blocks();
        let next = from.pixel == from.lanes && to.pixel == to.lanes;
        (halves && next && from.halo == to.halo && from.images == to.images).then_some(())?;
        (from.rows == to.rows && from.columns == to.columns).then_some(())?;
        self.map(from)?;
        self.map(to)
    }

    /// Floats with one lane, or in blocks, and words of the same size.
    fn halved(&mut self, floats: &Map, words: &Map, kernels: &Kernels) -> Option<()> {
        let fits = floats.images == words.images && floats.channels.div_ceil(2) == words.channels;
        let pixels = floats.rows == words.rows && floats.columns == words.columns;
        (fits && pixels).then_some(())?;
        if floats.lanes > 1 {
            self.vectors(floats, kernels)?;
            return self.vectors(words, kernels);
        }
        let plain = floats.lanes == 1 && floats.halo == Halo::default();
        plain.then_some(())?;
        self.map(floats)?;
        self.map(words)
    }

    fn eights(&mut self, bytes: &Bytes, words: &Map) -> Option<()> {
        (bytes.channels.div_ceil(2) == words.channels).then_some(())?;
        let loops = [
            (words.images, bytes.image),
            (bytes.channels, bytes.channel),
            (words.rows, bytes.row),
            (words.columns, bytes.pixel),
        ];
        self.at(bytes.at, end(0, &loops, 1).div_ceil(size_of::<f32>()));
        self.map(words)
    }

    fn word_pairs(&mut self, p: &WordPairs, kernels: &Kernels) -> Option<()> {
        for map in [&p.a, &p.b, &p.output] {
            self.vectors(map, kernels)?;
        }
        same(&p.a, &p.output, true)?;
        same(&p.b, &p.output, (p.b.rows, p.b.columns) != (1, 1))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentd_plan::{
        Array, Builder, Fact, Graph, ValueId,
        op::{
            Binary, Dequantize, DynamicQuantize, Lookup, Pool, Quantize, QuantizedBinary, QuantizedConv,
            Reduce, ScaledMatMul, Unary, Window, pool::PoolKind, quantize::Granularity, reduce::ReduceKind,
        },
    };
    use agentd_types::Datatype::{Fp32, Uint8};

    use super::*;
    use crate::{
        lower::{Options, plan_of},
        step::Step,
        verify::verify,
    };

    fn numbers(b: &mut Builder) -> [ValueId; 2] {
        let scale = b.constant("s", Array::scalar(0.05_f32)).unwrap();
        [scale, b.constant("z", Array::scalar(7_u8)).unwrap()]
    }

    /// A net with a step of every kind.
    fn graph() -> Arc<Graph> {
        let mut b = Builder::new();
        let [scale, zero] = numbers(&mut b);
        let weights = |b: &mut Builder, shape: &[usize]| {
            let w = Array::new(shape.to_vec(), vec![3_i8; shape.iter().product()]).unwrap();
            let zero = b.constant("z", Array::scalar(0_i8)).unwrap();
            [b.constant("w", w).unwrap(), scale, zero]
        };
        let x = b.input("x", Fact::new(Fp32, vec![1, 3, 12, 12])).unwrap();
        let op = Quantize { granularity: Granularity::Tensor, to: Uint8 };
        let mut last = b.node(op, &[Some(x), Some(scale), Some(zero)], "quantise").unwrap()[0];
        let table = b.constant("t", Array::new([256], vec![9_u8; 256]).unwrap()).unwrap();
        for (shape, groups) in [([40, 3, 3, 3], 1), ([40, 1, 3, 3], 40), ([40, 40, 1, 1], 1)] {
            let w = weights(&mut b, &shape);
            let mut window = Window::new([shape[2], shape[3]]);
            window.pads_begin = vec![shape[2] / 2; 2];
            window.pads_end = vec![shape[2] / 2; 2];
            let inputs = [last, scale, zero, w[0], w[1], w[2], scale, zero].map(Some);
            let inputs = [&inputs[..], &[None, Some(table)]].concat();
            last = b.node(QuantizedConv { window, groups }, &inputs, "conv").unwrap()[0];
        }
        let bytes = b.input("bytes", Fact::new(Uint8, vec![1, 40, 12, 12])).unwrap();
        let inputs = [last, scale, zero, bytes, scale, zero, scale, zero].map(Some);
        last = b.node(QuantizedBinary { function: Binary::Add }, &inputs, "add").unwrap()[0];
        last = b.node(Lookup, &[Some(last), Some(table)], "table").unwrap()[0];
        let real = Dequantize { granularity: Granularity::Tensor };
        last = b.node(real, &[Some(last), Some(scale), Some(zero)], "real").unwrap()[0];
        let window = Window { strides: vec![2, 2], ..Window::new([2, 2]) };
        let pool = Pool { kind: PoolKind::Max, window, output: vec![6, 6], indices: None };
        last = b.node(pool, &[Some(last)], "pool").unwrap()[0];
        b.output("map", last).unwrap();
        let op = Quantize { granularity: Granularity::Tensor, to: Uint8 };
        let narrow = b.node(op, &[Some(last), Some(scale), Some(zero)], "same").unwrap()[0];
        b.output("bytes", narrow).unwrap();
        let mean = Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep: false };
        last = b.node(mean, &[Some(last)], "mean").unwrap()[0];
        let parts = b.node(DynamicQuantize, &[Some(last)], "dynamic").unwrap();
        let w = Array::new(vec![40, 20], vec![3_i8; 800]).unwrap();
        let w = b.constant("w", w).unwrap();
        let residual = b.input("residual", Fact::new(Fp32, vec![1, 20])).unwrap();
        let bias = b.constant("bias", Array::new([20], vec![0.5_f32; 20]).unwrap()).unwrap();
        let inputs = [
            Some(parts[0]),
            Some(w),
            Some(parts[2]),
            None,
            Some(parts[1]),
            Some(scale),
            Some(bias),
            Some(residual),
        ];
        let product = ScaledMatMul { activation: Some(Unary::Relu) };
        let y = b.node(product, &inputs, "product").unwrap()[0];
        b.output("y", y).unwrap();
        Arc::new(b.finish())
    }

    fn damage_map(map: &mut Map, kind: usize, far: usize) {
        match kind % 6 {
            0 => map.at.start += far,
            1 => map.channels += far,
            2 => map.rows += far,
            3 => map.lanes = 0,
            4 => map.columns += far,
            _ => map.at.buffer.0 += 1000,
        }
    }

    fn damage_how(how: &mut Requantise, kind: usize, far: usize) {
        *if kind.is_multiple_of(2) { &mut how.factors } else { &mut how.rests } += far;
    }

    /// Does something to a step after which it would leave its memory, or does not fit its kernel.
    fn damage(step: &mut Integer, kind: usize, far: usize) {
        match step {
            Integer::Product(p) => match kind % 9 {
                0 => p.input.start += far,
                1 if p.output.columns > 1 => p.in_pixel += far,
                1 => p.input.start += far,
                2 => p.groups[0].inner += 1,
                3 => p.groups[0].inner += 2 * far,
                4 => p.groups.clear(),
                5 => p.groups[0].weights += far,
                6 => p.bias += far,
                7 => damage_map(&mut p.output, kind / 9, far),
                _ => match &mut p.ending {
                    Ending::Quantise { how, table } => match (table, kind / 9 % 2) {
                        (Some(table), 0) => *table += far,
                        _ => damage_how(how, kind / 18, far),
                    },
                    Ending::Scale { scale, factors, summands, residual, .. } => {
                        match (kind / 9 % 4, scale, summands, residual) {
                            (0, Operand::Buffer(at), ..) => at.start += far,
                            (1, _, Some(summands), _) => *summands += far,
                            (2, _, _, Some(residual)) => residual.at.start += far,
                            _ => *factors += far,
                        }
                    }
                },
            },
            Integer::Depthwise(d) => match kind % 8 {
                0 => d.weights += far,
                1 => d.bias += far,
                2 => d.plane.padding.0 += far,
                3 => d.plane.strides.1 += far,
                4 => damage_how(&mut d.how, kind / 8, far),
                5 => d.table = Some(far),
                6 => d.input.halo.left = 0,
                _ => damage_map(&mut d.output, kind / 8, far),
            },
            Integer::Quantise { from, to, .. } | Integer::Dequantise { from, to, .. } => {
                damage_map(if kind.is_multiple_of(2) { from } else { to }, kind / 2, far);
            }
            Integer::Widen { from: bytes, to: words } | Integer::Narrow { from: words, to: bytes } => {
                match kind % 4 {
                    0 => bytes.at.start += far,
                    1 => bytes.channel += 4 * far,
                    2 => bytes.pixel += 4 * far,
                    _ => damage_map(words, kind / 4, far),
                }
            }
            Integer::Table { input, output, table } => match kind % 3 {
                0 => *table += far,
                1 => damage_map(input, kind / 3, far),
                _ => damage_map(output, kind / 3, far),
            },
            Integer::Pairs(p) => match kind % 3 {
                0 => damage_map(&mut p.a, kind / 3, far),
                1 => damage_map(&mut p.b, kind / 3, far),
                _ => damage_map(&mut p.output, kind / 3, far),
            },
            Integer::Largest(p) => match kind % 3 {
                0 => p.plane.strides.0 += far,
                1 => p.plane.dilations.1 = 0,
                _ => damage_map(&mut p.output, kind / 3, far),
            },
            Integer::Mean { input, output, channels, .. } => match kind % 3 {
                0 => output.start += far,
                1 => *channels += far,
                _ => damage_map(input, kind / 3, far),
            },
            Integer::Squeeze { from, to, .. } => match kind % 3 {
                0 => to.halo.left += 1,
                1 => damage_map(from, kind / 3, far),
                _ => damage_map(to, kind / 3, far),
            },
            Integer::Cover { input, rows, length, output, scale, zero, .. } => match kind % 6 {
                0 => input.start += far,
                1 => *rows += far,
                2 => *length += far,
                3 => scale.start += far,
                4 => zero.start += far,
                _ => damage_map(output, kind / 6, far),
            },
        }
    }

    #[test]
    fn a_thousand_damaged_steps_on_integers_are_refused() {
        let graph = graph();
        let whole = plan_of(Arc::clone(&graph), Options::default()).unwrap();
        let kinds: Vec<&str> = whole.steps.iter().map(Step::name).collect();
        for kind in [
            "dot",
            "dot depthwise",
            "quantise",
            "dequantise",
            "bytes",
            "table",
            "pairs",
            "largest",
            "mean",
            "squeeze",
            "cover",
        ] {
            assert!(kinds.contains(&kind), "{kind} is not among {kinds:?}");
        }
        assert!(verify(whole).is_ok());
        for turn in 0..1000_usize {
            let mut plan = plan_of(Arc::clone(&graph), Options::default()).unwrap();
            let far = plan.arena + plan.constants.len() + turn;
            let mut steps: Vec<&mut Integer> = plan
                .steps
                .iter_mut()
                .filter_map(|step| if let Step::Integer(step) = step { Some(step) } else { None })
                .collect();
            let count = steps.len();
            damage(steps[turn % count], turn / count, far);
            assert!(verify(plan).is_err(), "turn {turn} was not refused");
        }
    }
}
