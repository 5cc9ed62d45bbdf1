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
        integer::{Ending, Factors, Integer, Product, Requantise, WordDepthwise},
    },
};

/// Output channels from which bytes instead of halves pay for the conversion.
const MANY: usize = 32;

/// Words of factors of bytes for each word of the input below which they take less than twice as many words of halves.
const SHARE: f32 = 1.3;

/// The first channel of a word, and its tap.
type Place = (usize, usize);

/// Weights less their zero points, `[columns][rest]` or `[rest][columns]`.
struct Weights {
    items: Vec<i32>,
    columns: usize,
    /// Whether a column's factors follow each other.
    by_column: bool,
}

impl Weights {
    fn get(&self, column: usize, place: usize) -> i32 {
        let inner = self.items.len() / self.columns.max(1);
        let at = if self.by_column { column * inner + place } else { place * self.columns + column };
        if place < inner { self.items.get(at).copied().unwrap_or(0) } else { 0 }
    }

    /// The sum of a column.
    fn sum(&self, column: usize) -> i32 {
        let inner = self.items.len() / self.columns.max(1);
        (0..inner).fold(0, |sum: i32, place| sum.wrapping_add(self.get(column, place)))
    }
}

impl Lowering<'_> {
    /// Constant 8-bit weights less their zero points, which are one or one a column.
    #[expect(clippy::cast_possible_truncation, reason = "8-bit integers")]
    fn factors(&self, w: ValueId, zero: Option<ValueId>, by_column: bool) -> Option<Weights> {
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
        Some(Weights { items: items.collect(), columns, by_column })
    }

    /// The bias of integer sums, if no sum of `factors` with 8-bit numbers and the bias can leave 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "32-bit integers")]
    fn whole_bias(&self, bias: Option<ValueId>, factors: &Weights) -> Option<Vec<i32>> {
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
        let from = self.words(x, Kind::Blocks, zero_x)?;
        (!depthwise || from.lanes == self.kernels.lanes).then_some(())?;
        let how = self.requantise(node, columns, range)?;
        let zero = if input(9).is_some() { self.reader_zero(output) } else { zero_y };
        let table = match input(9) {
            Some(table) => Some(self.table(table, zero_y, zero)?),
            None => None,
        };
        let to = self.new_words(output, Kind::Blocks)?;
        let step = if depthwise {
            let bias = self.bias_words(&bias, true);
            self.depthwise_words(&plane, &factors, bias, (from, to), (how, table))
        } else {
            self.dense_words(
                &plane,
                (x, zero_x, (channels, conv.groups)),
                &factors,
                &bias,
                (from, to),
                (how, table),
            )?
        };
        self.push(Step::Integer(step));
        self.set_integers(output, to, Kind::Blocks, zero)
    }

    fn depthwise_words(
        &mut self,
        plane: &Plane,
        factors: &Weights,
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

    /// The words of a window: where each is, its first channel and its tap.
    fn window_words(plane: &Plane, input: &Map, parts: usize) -> Option<(Vec<u32>, Vec<Place>)> {
        let (mut offsets, mut places) = (Vec::new(), Vec::new());
        for first in (0..input.channels).step_by(input.lanes) {
            for tap in 0..plane.taps.0 * plane.taps.1 {
                let (y, x) = (tap / plane.taps.1, tap % plane.taps.1);
                let at = first / input.lanes * input.block
                    + y * plane.dilations.0 * input.row
                    + x * plane.dilations.1 * input.pixel;
                for word in first..(first + input.lanes).min(input.channels) {
                    offsets.push(u32::try_from(at + word - first).ok()?);
                    places.push((parts * word, tap));
                }
            }
        }
        Some((offsets, places))
    }

    /// Packed products among the constants; groups that read the same words share the list of them.
    fn packed(&mut self, groups: Vec<pack::Group>) -> Vec<Factors> {
        let mut last: Option<(Vec<f32>, usize)> = None;
        let mut placed = Vec::with_capacity(groups.len());
        for group in groups {
            let inner = group.offsets.len();
            let offsets = match &last {
                Some((list, at)) if *list == group.offsets => *at,
                _ => {
                    let at = self.constants(&group.offsets);
                    last = Some((group.offsets, at));
                    at
                }
            };
            placed.push(Factors { offsets, weights: self.constants(&group.weights), inner });
        }
        placed
    }

    /// The same map as bytes, less the least integer.
    fn squeezed(&mut self, x: ValueId, from: Map, low: i16) -> Option<Map> {
        let words = self.form(x).words.filter(|words| words.map == from);
        if let Some(Words { bytes: Some(bytes), .. }) = words {
            return Some(bytes);
        }
        let lanes = from.lanes.div_ceil(2);
        let halo = from.halo;
        let row = (halo.left + from.columns + halo.right) * lanes;
        let block = (halo.top + from.rows + halo.bottom) * row;
        let image = from.blocks() * block;
        let at = self.buffer(from.images.checked_mul(image)?).plus(halo.top * row + halo.left * lanes);
        // Whole blocks of words are whole blocks of bytes; of the last one only words with channels count.
        let channels =
            (from.blocks() - 1) * lanes + (from.channels - (from.blocks() - 1) * from.lanes).div_ceil(2);
        let to = Map { at, channels, lanes, image, block, row, pixel: lanes, ..from };
        self.push(Step::Integer(Integer::Squeeze { from, to, low }));
        if let Some(words) = words {
            self.set_words(x, Words { bytes: Some(to), ..words })?;
        }
        Some(to)
    }

    fn dense_words(
        &mut self,
        plane: &Plane,
        (x, zero_x, (channels, groups)): (ValueId, i16, (usize, usize)),
        weights: &Weights,
        bias: &[i32],
        (input, output): (Map, Map),
        (how, table): (Requantise, Option<usize>),
    ) -> Option<Integer> {
        let taps = plane.taps.0 * plane.taps.1;
        let (per_in, per_out) = (channels / groups.max(1), (weights.columns / groups.max(1)).max(1));
        let factor = |places: &[Place], i: usize, part: usize, column: usize| {
            let (channel, tap) = places.get(i).copied().unwrap_or_default();
            // Words that none of a group's channels read are left out when they are packed.
            let channel = (channel + part).wrapping_sub(column / per_out * per_in);
            if channel < per_in { weights.get(column, channel * taps + tap) } else { 0 }
        };
        let (lanes, columns) = (self.kernels.lanes, weights.columns);
        let (low, _) = limits(self.fact(x).datatype)?;
        let low = low - zero_x;
        let squeezed = input.pixel == input.lanes && columns >= MANY && self.kernels.bytes;
        let (mut bytes, mut map, mut bias) = (false, input, bias.to_vec());
        let mut groups = Vec::new();
        if squeezed {
            let as_bytes =
                Map { lanes: input.lanes.div_ceil(2), channels: input.channels.div_ceil(2), ..input };
            let (offsets, places) = Self::window_words(plane, &as_bytes, 4)?;
            let factor = |i: usize, part: usize, column: usize| factor(&places, i, part, column);
            let products = pack::Products { offsets: &offsets, columns, lanes, interleaved: true, factor };
            bytes = products.share() < SHARE;
        }
        if bytes {
            map = self.squeezed(x, input, low)?;
            let (offsets, places) = Self::window_words(plane, &map, 4)?;
            let factor = |i: usize, part: usize, column: usize| factor(&places, i, part, column);
            groups = pack::Products { offsets: &offsets, columns, lanes, interleaved: true, factor }.bytes();
            for (column, bias) in bias.iter_mut().enumerate() {
                *bias = bias.wrapping_add(i32::from(low).wrapping_mul(weights.sum(column)));
            }
        } else {
            let (offsets, places) = Self::window_words(plane, &map, 2)?;
            let factor = |i: usize, part: usize, column: usize| factor(&places, i, part, column);
            groups.extend(
                pack::Products { offsets: &offsets, columns, lanes, interleaved: true, factor }.halves(),
            );
        }
        let groups = self.packed(groups);
        let bias = self.bias_words(&bias, true);
        let back = plane.padding.0 * map.row + plane.padding.1 * map.pixel;
        Some(Integer::Product(Box::new(Product {
            input: At { start: map.at.start.saturating_sub(back), ..map.at },
            in_image: map.image,
            in_row: plane.strides.0 * map.row,
            in_pixel: plane.strides.1 * map.pixel,
            bytes,
            groups,
            bias,
            ending: Ending::Quantise { how, table },
            output,
        })))
    }

    /// A product whose input is rows of words.
    fn rows_product(
        &mut self,
        input: &Map,
        bytes: bool,
        weights: &Weights,
        bias: usize,
        interleaved: bool,
        (ending, output): (Ending, Map),
    ) -> Option<Integer> {
        let parts = if bytes { 4 } else { 2 };
        let offsets = (0..u32::try_from(input.channels).ok()?).collect::<Vec<_>>();
        let products = pack::Products {
            offsets: &offsets,
            columns: weights.columns,
            lanes: self.kernels.lanes,
            interleaved,
            factor: |i: usize, part: usize, column: usize| weights.get(column, parts * i + part),
        };
        let groups = if bytes { products.bytes() } else { products.halves() };
        let groups = self.packed(groups);
        Some(Integer::Product(Box::new(Product {
            input: input.at,
            in_image: 0,
            in_row: 0,
            in_pixel: input.pixel,
            bytes,
            groups,
            bias,
            ending,
            output,
        })))
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
        let step = self.rows_product(&from, false, &factors, bias, true, (ending, to))?;
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
        let halves = self.word_map(shape, Kind::Rows, Halo::default(), false)?;
        let readers = self.graph.nodes().iter().filter(|n| n.inputs.first() == Some(&Some(bytes)));
        let as_bytes = self.kernels.bytes && readers.clone().all(|reader| self.suits_bytes(reader));
        let map = if as_bytes {
            // Four to a word: half the words, in half the lanes.
            let (lanes, pixel) = (halves.lanes / 2, halves.pixel / 2);
            let row = halves.row / 2;
            Map { channels: length.div_ceil(4), lanes, image: row, block: lanes, row, pixel, ..halves }
        } else {
            halves
        };
        let (scale, zero_at) = (self.new_plain(scale), self.new_plain(zero));
        let step = Integer::Cover { input, rows, length, output: map, bytes: as_bytes, scale, zero: zero_at };
        self.push(Step::Integer(step));
        let kept = as_bytes.then_some(map);
        self.set_words(bytes, Words { map, kind: Kind::Rows, zero: Zero::Of(zero), scale: 1.0, bytes: kept })
    }

    /// Whether the weights of a scaled product take less time as bytes.
    fn suits_bytes(&self, node: &Node) -> bool {
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let Some(weights) = input(1).and_then(|b| self.factors(b, input(3), false)) else { return false };
        let words = weights.items.len() / weights.columns.max(1);
        let offsets = vec![0; words.div_ceil(4)];
        let products = pack::Products {
            offsets: &offsets,
            columns: weights.columns,
            lanes: self.kernels.lanes,
            interleaved: false,
            factor: |i: usize, part: usize, column: usize| weights.get(column, 4 * i + part),
        };
        products.share() < SHARE
    }

    pub(super) fn scaled_matmul(&mut self, product: &ScaledMatMul, node: &Node) -> Option<()> {
        let (a, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        self.suits_rows(node).then_some(())?;
        let (from, zero) = match self.form(a).words {
            Some(Words { map, zero: Zero::Of(zero), bytes, .. }) => {
                (Some(zero) == input(2)).then_some(())?;
                (map, bytes.map(|_| zero))
            }
            _ => (self.words(a, Kind::Rows, self.zero_of(input(2))?)?, None),
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
        let zero = zero.map(|zero| {
            let sums: Vec<i32> = (0..columns).map(|column| factors.sum(column)).collect();
            (self.plain(zero), self.bias_words(&sums, false))
        });
        let ending = Ending::Scale { scale, factors: scales, zero, summands, residual, function };
        let step = self.rows_product(&from, zero.is_some(), &factors, bias, false, (ending, to))?;
        self.push(Step::Integer(step));
        Some(())
    }
}
