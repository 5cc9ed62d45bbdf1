//! Convolutions of integers.

use agentd_plan::{Node, ValueId, op::QuantizedConv};

use super::{Kind, Lowering, SHARE, Words, limits, range, weights::Weights};
use crate::{
    lower::{convolution::plane, sizes},
    pack,
    step::{
        At, Map, Plane, Step,
        integer::{Ending, Integer, Product, Requantise, WordDepthwise},
    },
};

/// Output channels from which bytes instead of halves pay for the conversion.
const MANY: usize = 32;

/// The first channel of a word, and its tap.
type Place = (usize, usize);

impl Lowering<'_> {
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
            plane: *plane,
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
        // The first channel that each output channel reads.
        let bases: Vec<usize> = (0..weights.columns).map(|column| column / per_out * per_in).collect();
        let factor = |places: &[Place], i: usize, part: usize, column: usize| {
            let (channel, tap) = places.get(i).copied().unwrap_or_default();
            // Words that none of a group's channels read are left out when they are packed.
            let base = bases.get(column).copied().unwrap_or(0);
            let channel = (channel + part).wrapping_sub(base);
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
        let groups = self.packed_words(groups);
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
}
