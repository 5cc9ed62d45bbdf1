//! Convolutions and matrix products of integers.

use agentd_plan::{
    Node, Op, ValueId,
    op::{QuantizedConv, ScaledMatMul},
};

use super::{Kind, Lowering, Words, Zero, limits, range, word_sizes};
use crate::{
    lower::{
        convolution::{Plane, plane},
        elementwise, sizes,
    },
    pack,
    step::{
        At, Halo, Map, Step,
        integer::{Ending, Integer, Product, Requantise, WordDepthwise},
    },
};

/// Weights less their zero points, `[columns][rest]` or `[rest][columns]`.
struct Factors {
    items: Vec<i32>,
    columns: usize,
    /// Whether a column's factors follow each other.
    by_column: bool,
}

impl Factors {
    fn get(&self, column: usize, place: usize) -> i32 {
        let inner = self.items.len() / self.columns.max(1);
        let at = if self.by_column { column * inner + place } else { place * self.columns + column };
        if place < inner { self.items.get(at).copied().unwrap_or(0) } else { 0 }
    }
}

impl Lowering<'_> {
    /// Constant 8-bit weights less their zero points, which are one or one a column.
    #[expect(clippy::cast_possible_truncation, reason = "8-bit integers")]
    fn factors(&self, w: ValueId, zero: Option<ValueId>, by_column: bool) -> Option<Factors> {
        limits(self.fact(w).datatype)?;
        let array = self.graph.value(w).constant.as_ref()?;
        let zeros = match zero {
            Some(id) => self.graph.value(id).constant.as_ref()?.reals().ok()?,
            None => vec![0.0],
        };
        let columns = *if by_column { array.shape().first()? } else { array.shape().last()? };
        let inner = array.len() / columns.max(1);
        let column = |at: usize| if by_column { at / inner.max(1) } else { at % columns.max(1) };
        let items = array.reals().ok()?.into_iter().enumerate().map(|(at, item)| {
            let zero = zeros.get(if zeros.len() == 1 { 0 } else { column(at) }).copied().unwrap_or(0.0);
            (item - zero) as i32
        });
        Some(Factors { items: items.collect(), columns, by_column })
    }

    /// The bias of integer sums, if no sum of `factors` with 8-bit numbers and the bias can leave 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "32-bit integers")]
    fn whole_bias(&self, bias: Option<ValueId>, factors: &Factors) -> Option<Vec<i32>> {
        let columns = factors.columns;
        let bias: Vec<i32> = match bias {
            Some(id) => {
                let reals = self.graph.value(id).constant.as_ref()?.reals().ok()?;
                reals.into_iter().map(|item| item as i32).collect()
            }
            None => vec![0; columns],
        };
        let mut most: Vec<u64> = bias.iter().map(|bias| u64::from(bias.unsigned_abs())).collect();
        (most.len() == columns).then_some(())?;
        let inner = factors.items.len() / columns.max(1);
        for (at, item) in factors.items.iter().enumerate() {
            let column = if factors.by_column { at / inner.max(1) } else { at % columns.max(1) };
            if let Some(most) = most.get_mut(column) {
                *most += 255 * u64::from(item.unsigned_abs());
            }
        }
        most.iter().all(|most| *most < 1 << 31).then_some(bias)
    }

    /// Integers among the constants, in the order of packed words.
    fn bias_words(&mut self, bias: &[i32], interleaved: bool) -> usize {
        let bits = |column: usize| f32::from_bits(bias.get(column).copied().unwrap_or(0).cast_unsigned());
        let items = pack::by_pairs(bias.len(), self.kernels.lanes, interleaved, bits);
        self.constants(&items)
    }

    /// The factors `scale x * scale w / scale` of a quantised operator, in two parts.
    #[expect(clippy::cast_possible_truncation, reason = "what is lost is kept")]
    fn requantise(&mut self, node: &Node, columns: usize, range: (f32, f32)) -> Option<Requantise> {
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let (x, y) = (self.number(input(1))?, self.number(input(6))?);
        let w = self.graph.value(input(4)?).constant.as_ref()?.reals().ok()?;
        let factor = |column: usize| {
            let w = w.get(if w.len() == 1 { 0 } else { column }).copied().unwrap_or(1.0);
            x * w / y
        };
        let all = (0..columns).all(|column| factor(column).is_finite() && factor(column).abs() < 1e30);
        all.then_some(())?;
        let lanes = self.kernels.lanes;
        let near = pack::by_pairs(columns, lanes, true, |column| factor(column) as f32);
        let rests = pack::by_pairs(columns, lanes, true, |column| {
            let factor = factor(column);
            (factor - f64::from(factor as f32)) as f32
        });
        Some(Requantise { factors: self.constants(&near), rests: self.constants(&rests), range })
    }

    pub(super) fn quantized_conv(&mut self, conv: &QuantizedConv, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let (zero_x, zero_y) = (self.zero_of(input(2))?, self.zero_of(input(7))?);
        self.scale_of(input(1))?;
        self.scale_of(input(6))?;
        let range = range(self.fact(input(7)?).datatype, zero_y)?;
        let plane = plane(&conv.window)?;
        let (_, channels, ..) = sizes(&self.fact(x).shape)?;
        let (_, columns, ..) = sizes(&self.fact(output).shape)?;
        let factors = self.factors(input(3)?, input(5), true)?;
        let bias = self.whole_bias(input(8), &factors)?;
        let depthwise = conv.groups == channels && columns == channels && channels > 1;
        if conv.groups > 1 && !depthwise {
            return None;
        }
        let from = self.words(x, Kind::Blocks, zero_x)?;
        (!depthwise || from.lanes == self.kernels.lanes).then_some(())?;
        let how = self.requantise(node, columns, range)?;
        let zero = if input(9).is_some() { self.reader_zero(output) } else { zero_y };
        let table = match input(9) {
            Some(table) => Some(self.table(table, zero_y, zero)?),
            None => None,
        };
        let bias = self.bias_words(&bias, true);
        let to = self.new_words(output, Kind::Blocks)?;
        let step = if depthwise {
            self.depthwise_words(&plane, &factors, bias, (from, to), (how, table))
        } else {
            self.dense_words(&plane, channels, &factors, bias, (from, to), (how, table))
        };
        self.push(Step::Integer(step));
        self.set_integers(output, to, Kind::Blocks, zero)
    }

    fn depthwise_words(
        &mut self,
        plane: &Plane,
        factors: &Factors,
        bias: usize,
        (input, output): (Map, Map),
        (how, table): (Requantise, Option<usize>),
    ) -> Integer {
        let taps = plane.taps.0 * plane.taps.1;
        let packed = pack::depthwise_words(factors.columns, taps, self.kernels.lanes, |channel, tap| {
            factors.get(channel, tap)
        });
        let weights = self.constants(&packed);
        Integer::Depthwise(Box::new(WordDepthwise {
            input,
            output,
            taps: plane.taps,
            strides: plane.strides,
            dilations: plane.dilations,
            padding: plane.padding,
            weights,
            bias,
            how,
            table,
        }))
    }

    fn dense_words(
        &mut self,
        plane: &Plane,
        channels: usize,
        factors: &Factors,
        bias: usize,
        (input, output): (Map, Map),
        (how, table): (Requantise, Option<usize>),
    ) -> Integer {
        let taps = plane.taps.0 * plane.taps.1;
        let mut places = Vec::with_capacity(input.channels * taps);
        for first in (0..input.channels).step_by(input.lanes) {
            for tap in 0..taps {
                let words = first..(first + input.lanes).min(input.channels);
                places.extend(words.map(|word| (2 * word, tap)));
            }
        }
        let lanes = self.kernels.lanes;
        let packed = pack::words(places.len(), factors.columns, lanes, true, |i, half, column| {
            let (channel, tap) = places.get(i).copied().unwrap_or_default();
            if channel + half < channels { factors.get(column, (channel + half) * taps + tap) } else { 0 }
        });
        let weights = self.constants(&packed);
        let back = plane.padding.0 * input.row + plane.padding.1 * input.pixel;
        // The taps of a row follow each other where all the words of a pixel are one block: they are taken as one.
        let merged = input.lanes == input.channels && input.pixel == input.lanes && plane.dilations.1 == 1;
        let (taps, words) = if merged {
            ((plane.taps.0, 1), input.channels * plane.taps.1)
        } else {
            (plane.taps, input.channels)
        };
        Integer::Product(Box::new(Product {
            input: At { start: input.at.start.saturating_sub(back), ..input.at },
            in_image: input.image,
            in_row: plane.strides.0 * input.row,
            in_pixel: plane.strides.1 * input.pixel,
            in_block: input.block,
            channels: words,
            channel_block: if merged { words } else { input.lanes },
            taps,
            tap_row: plane.dilations.0 * input.row,
            tap_column: plane.dilations.1 * input.pixel,
            weights,
            bias,
            ending: Ending::Quantise { how, table },
            output,
        }))
    }

    /// The geometry of a product whose input is rows of words.
    fn rows_product(
        &mut self,
        input: &Map,
        factors: &Factors,
        bias: usize,
        interleaved: bool,
        (ending, output): (Ending, Map),
    ) -> Integer {
        let packed = pack::words(
            input.channels,
            factors.columns,
            self.kernels.lanes,
            interleaved,
            |i, half, column| factors.get(column, 2 * i + half),
        );
        let weights = self.constants(&packed);
        Integer::Product(Box::new(Product {
            input: input.at,
            in_image: 0,
            in_row: 0,
            in_pixel: input.pixel,
            in_block: 0,
            channels: input.channels,
            channel_block: input.channels,
            taps: (1, 1),
            tap_row: 0,
            tap_column: 0,
            weights,
            bias,
            ending,
            output,
        }))
    }

    pub(super) fn quantized_matmul(&mut self, node: &Node) -> Option<()> {
        let (a, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let (zero_a, zero_y) = (self.zero_of(input(2))?, self.zero_of(input(7))?);
        self.scale_of(input(1))?;
        self.scale_of(input(6))?;
        let range = range(self.fact(output).datatype, zero_y)?;
        let b = input(3)?;
        (self.fact(b).rank() == 2).then_some(())?;
        let factors = self.factors(b, input(5), false)?;
        let bias = self.whole_bias(input(8), &factors)?;
        let from = self.words(a, Kind::Rows, zero_a)?;
        let how = self.requantise(node, factors.columns, range)?;
        let bias = self.bias_words(&bias, true);
        let to = self.word_map(&self.fact(output).shape, Kind::Rows, Halo::default(), false)?;
        let ending = Ending::Quantise { how, table: None };
        let step = self.rows_product(&from, &factors, bias, true, (ending, to));
        self.push(Step::Integer(step));
        self.set_integers(output, to, Kind::Rows, zero_y)
    }

    /// Whether a scaled product can take its first factor as rows of words.
    fn suits_rows(&self, node: &Node) -> bool {
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let Op::ScaledMatMul(op) = &node.op else { return false };
        let function = op.activation.is_none_or(|activation| elementwise::function(activation).is_some());
        let (Some(b), Some(output)) = (input(1), node.outputs.first()) else { return false };
        let Some(factors) = self.factors(b, input(3), false) else { return false };
        let constant = |at: usize| input(at).is_none_or(|id| self.constant_of(Some(id)).is_some());
        let sums = self.whole_bias(None, &factors).is_some();
        function && sums && self.fact(b).rank() == 2 && constant(5) && constant(6) && self.is_f32(*output)
    }

    pub(super) fn dynamic_quantize(&mut self, node: &Node) -> Option<()> {
        let x = node.inputs.first().copied()??;
        let &[bytes, scale, zero] = node.outputs.as_slice() else { return None };
        let suits = |reader: &Node| {
            reader.inputs.first() == Some(&Some(bytes))
                && reader.inputs.get(2) == Some(&Some(zero))
                && self.suits_rows(reader)
        };
        let all = self.graph.nodes().iter().filter(|n| n.inputs.contains(&Some(bytes))).all(suits);
        let outputs = self.graph.outputs().iter().any(|(_, id)| [bytes, zero].contains(id));
        let only_zero = self
            .graph
            .nodes()
            .iter()
            .all(|n| !n.inputs.contains(&Some(zero)) || n.inputs.first() == Some(&Some(bytes)));
        let shape = &self.fact(x).shape;
        let (_, length, _, rows) = word_sizes(shape, Kind::Rows)?;
        (all && !outputs && only_zero && self.is_f32(x)).then_some(())?;
        let input = self.plain(x);
        let map = self.word_map(shape, Kind::Rows, Halo::default(), false)?;
        let (scale, zero_at) = (self.new_plain(scale), self.new_plain(zero));
        let step = Integer::Cover { input, rows, length, output: map, scale, zero: zero_at };
        self.push(Step::Integer(step));
        self.set_words(bytes, Words { map, kind: Kind::Rows, zero: Zero::Of(zero), scale: 1.0 })
    }

    pub(super) fn scaled_matmul(&mut self, product: &ScaledMatMul, node: &Node) -> Option<()> {
        let (a, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        self.suits_rows(node).then_some(())?;
        let from = match self.form(a).words {
            Some(Words { map, zero: Zero::Of(zero), .. }) => (Some(zero) == input(2)).then_some(map)?,
            _ => self.words(a, Kind::Rows, self.zero_of(input(2))?)?,
        };
        let factors = self.factors(input(1)?, input(3), false)?;
        let (columns, lanes) = (factors.columns, self.kernels.lanes);
        let list = |lowering: &mut Self, items: &[f32]| {
            let packed = pack::by_pairs(columns, lanes, false, |column| {
                items.get(if items.len() == 1 { 0 } else { column }).copied().unwrap_or(0.0)
            });
            lowering.constants(&packed)
        };
        let scales = self.constant_of(input(5))?;
        let scales = list(self, scales);
        let summands = self.constant_of(input(6)).map(|items| list(self, items));
        let scale = self.operand(input(4)?);
        let residual = input(7).map(|id| self.plain(id));
        let bias = self.bias_words(&vec![0; columns], false);
        let function = match product.activation {
            Some(activation) => Some(elementwise::function(activation)?),
            None => None,
        };
        let rows = |at: At| Map {
            at,
            images: 1,
            channels: columns,
            rows: 1,
            columns: from.columns,
            lanes: columns,
            image: 0,
            block: 0,
            row: 0,
            pixel: columns,
            halo: Halo::default(),
        };
        let residual = residual.map(rows);
        let to = rows(self.new_plain(output));
        let ending = Ending::Scale { scale, factors: scales, summands, residual, function };
        let step = self.rows_product(&from, &factors, bias, false, (ending, to));
        self.push(Step::Integer(step));
        Some(())
    }
}
