//! Quantised operators.
//!
//! An 8-bit value lives as a map of words, two channels each, less its zero point ([`crate::step::integer`]). What
//! dequantises it costs nothing until somebody asks for the floats: the float value only remembers words and scale.

mod convolution;
mod elements;
mod matmul;
mod weights;

use agentd_plan::{Node, Op, ValueId, op::quantize::Granularity};
use agentd_types::Datatype;

use super::{Lowering, sizes};
use crate::step::{
    At, Axis, Copy, Halo, Map, Operand, Step,
    integer::{Bytes, Integer},
};

/// Words of factors of bytes for each word of the input below which they take less than twice as many words of halves.
const SHARE: f32 = 1.3;

/// Nodes that only move a value, one after the other, that are looked through.
const MOST_READERS: usize = 8;

/// How words are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Images of blocks of channels.
    Blocks,
    /// Rows of a matrix, all columns of a row next to each other: a row is a pixel.
    Rows,
}

/// What is subtracted from the bytes in words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Zero {
    /// A number.
    Known(i16),
    /// The number that is computed along with them.
    Of(ValueId),
}

/// A value as words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    pub(super) map: Map,
    pub(super) kind: Kind,
    pub(super) zero: Zero,
    /// What one step is worth, of a float value; 1 for the integers themselves.
    pub(super) scale: f32,
    /// The same as bytes, four a word, less the least integer.
    pub(super) bytes: Option<Map>,
}

impl Words {
    /// The map for what is done to each word by itself: rows as one long row of vectors.
    fn flat(&self) -> Map {
        let Map { lanes, pixel, columns, row, .. } = self.map;
        match self.kind {
            Kind::Blocks => self.map,
            Kind::Rows => Map {
                channels: lanes,
                columns: columns * pixel / lanes,
                pixel: lanes,
                block: row,
                ..self.map
            },
        }
    }
}

/// Images, channels, rows and columns of a value as words of a kind.
fn word_sizes(shape: &[usize], kind: Kind) -> Option<(usize, usize, usize, usize)> {
    match kind {
        Kind::Blocks => sizes(shape),
        Kind::Rows => {
            let (columns, rows) = shape.split_last()?;
            let rows = rows.iter().product();
            (*columns > 0 && rows > 0 && shape.len() > 1).then_some((1, *columns, 1, rows))
        }
    }
}

/// The least and the greatest integer of 8 bits.
const fn limits(datatype: Datatype) -> Option<(i16, i16)> {
    match datatype {
        Datatype::Int8 => Some((-128, 127)),
        Datatype::Uint8 => Some((0, 255)),
        _ => None,
    }
}

/// The range of what is stored.
fn range(datatype: Datatype, zero: i16) -> Option<(f32, f32)> {
    let (low, high) = limits(datatype)?;
    Some((f32::from(low - zero), f32::from(high - zero)))
}

impl Lowering<'_> {
    /// Lowers a node that works on quantised values; `None`, and no step that writes its outputs, where it does not.
    pub(super) fn integer(&mut self, node: &Node) -> Option<()> {
        match &node.op {
            Op::Quantize(op) if op.granularity == Granularity::Tensor => self.quantize(op.to, node),
            Op::Dequantize(op) if op.granularity == Granularity::Tensor => self.dequantize(node),
            Op::QuantizedConv(op) => self.quantized_conv(op, node),
            Op::QuantizedMatMul(_) => self.quantized_matmul(node),
            Op::QuantizedBinary(op) => self.quantized_binary(op.function, node),
            Op::Lookup(_) => self.lookup(node),
            Op::DynamicQuantize(_) => self.dynamic_quantize(node),
            Op::ScaledMatMul(op) => self.scaled_matmul(op, node),
            Op::Pool(op) => self.word_pool(op, node),
            Op::Reduce(op) => self.word_reduce(op, node),
            Op::Reshape(_) => self.word_reshape(node),
            Op::Concat(op) if op.axis == 1 => self.word_concat(node),
            _ => None,
        }
    }

    fn number(&self, id: Option<ValueId>) -> Option<f64> {
        let array = self.graph.value(id?).constant.as_ref()?;
        (array.len() == 1).then(|| array.real().ok())?
    }

    /// A scale in single precision: positive and finite.
    #[expect(clippy::cast_possible_truncation, reason = "scales are given in single precision")]
    fn scale_of(&self, id: Option<ValueId>) -> Option<f32> {
        let scale = self.number(id)? as f32;
        (scale > 0.0 && scale.is_finite()).then_some(scale)
    }

    /// The zero point of 8-bit integers; 0 where there is none.
    #[expect(clippy::cast_possible_truncation, reason = "an 8-bit integer")]
    fn zero_of(&self, id: Option<ValueId>) -> Option<i16> {
        let Some(id) = id else { return Some(0) };
        limits(self.fact(id).datatype)?;
        Some(self.number(Some(id))? as i16)
    }

    /// The zero point by which the first reader of a value takes it; 0 where nobody says.
    fn reader_zero(&self, id: ValueId) -> i16 {
        self.zero_asked(id, MOST_READERS).unwrap_or(0)
    }

    /// The zero point that a reader of a value, or of what only moves it, asks for.
    fn zero_asked(&self, id: ValueId, left: usize) -> Option<i16> {
        let left = left.checked_sub(1)?;
        let zero = |node: &Node| {
            let at = node.inputs.iter().position(|input| *input == Some(id))?;
            match &node.op {
                Op::Concat(_) | Op::Pool(_) | Op::Reshape(_) => {
                    return self.zero_asked(*node.outputs.first()?, left);
                }
                Op::Dequantize(_) | Op::QuantizedConv(_) if at == 0 => {}
                Op::QuantizedMatMul(_) | Op::QuantizedBinary(_) if at == 0 || at == 3 => {}
                _ => return None,
            }
            self.zero_of(node.inputs.get(at + 2).copied().flatten())
        };
        self.graph.nodes().iter().find_map(zero)
    }

    /// A map of words in a buffer of its own.
    fn word_map(&mut self, shape: &[usize], kind: Kind, halo: Halo, narrow: bool) -> Option<Map> {
        let (images, channels, rows, columns) = word_sizes(shape, kind)?;
        let channels = channels.div_ceil(2);
        let lanes = if narrow { self.kernels.lanes.min(channels) } else { self.kernels.lanes };
        if kind == Kind::Rows {
            let pixel = channels.next_multiple_of(lanes);
            let row = columns.checked_mul(pixel)?;
            let at = self.buffer(row);
            return Some(Map {
                at,
                images,
                channels,
                rows,
                columns,
                lanes,
                image: row,
                block: lanes,
                row,
                pixel,
                halo: Halo::default(),
            });
        }
        let row = (columns + halo.left + halo.right).checked_mul(lanes)?;
        let block = (rows + halo.top + halo.bottom).checked_mul(row)?;
        let image = channels.div_ceil(lanes).checked_mul(block)?;
        let start = self.buffer(images.checked_mul(image)?);
        let at = start.plus(halo.top * row + halo.left * lanes);
        Some(Map { at, images, channels, rows, columns, lanes, image, block, row, pixel: lanes, halo })
    }

    /// A map of words for a value that a step is about to write, with the halo that its readers ask for.
    fn new_words(&mut self, id: ValueId, kind: Kind) -> Option<Map> {
        let halo = self.needs.get(id.index())?.halo;
        self.word_map(&self.fact(id).shape, kind, halo, false)
    }

    fn set_words(&mut self, id: ValueId, words: Words) -> Option<()> {
        self.form_mut(id)?.words = Some(words);
        Some(())
    }

    fn set_integers(&mut self, id: ValueId, map: Map, kind: Kind, zero: i16) -> Option<()> {
        self.set_words(id, Words { map, kind, zero: Zero::Known(zero), scale: 1.0, bytes: None })
    }

    /// The 8-bit value as words of a kind, less a zero point; widened from bytes if it must be.
    fn words(&mut self, id: ValueId, kind: Kind, zero: i16) -> Option<Map> {
        let halo = self.needs.get(id.index())?.halo;
        if let Some(words) = self.form(id).words
            && words.kind == kind
            && words.zero == Zero::Known(zero)
        {
            if kind == Kind::Rows || words.map.halo.max(halo) == words.map.halo {
                return Some(words.map);
            }
            (words.map.lanes == self.kernels.lanes).then_some(())?;
            let to = self.new_words(id, kind)?;
            self.push(Step::Reorder { from: words.map, to });
            self.set_words(id, Words { map: to, bytes: None, ..words })?;
            return Some(to);
        }
        limits(self.fact(id).datatype)?;
        if self.graph.value(id).constant.is_some() {
            return self.constant_words(id, kind, zero);
        }
        word_sizes(&self.fact(id).shape, kind)?;
        let plain = self.plain(id);
        let to = self.new_words(id, kind)?;
        let from = self.bytes_of(id, plain, kind, zero)?;
        self.push(Step::Integer(Integer::Widen { from, to }));
        if self.form(id).words.is_none() {
            self.set_integers(id, to, kind, zero)?;
        }
        Some(to)
    }

    /// A constant as words, copied from the constants into a buffer.
    fn constant_words(&mut self, id: ValueId, kind: Kind, zero: i16) -> Option<Map> {
        let array = self.graph.value(id).constant.as_ref()?;
        let (items, shape) = (weights::eights(array)?, array.shape());
        let (images, channels, rows, columns) = word_sizes(shape, kind)?;
        let map = self.word_map(shape, kind, Halo::default(), false)?;
        let mut words = vec![0_u32; images.checked_mul(map.image)?];
        for (at, item) in items.into_iter().enumerate() {
            let (x, rest) = (at % columns, at / columns);
            let (y, rest) = (rest % rows, rest / rows);
            let (channel, image) = (rest % channels, rest / channels);
            let (image, channel, y, x) = match kind {
                Kind::Blocks => (image, channel, y, x),
                Kind::Rows => (0, at % channels, 0, at / channels),
            };
            let (word, half) = (channel / 2, channel % 2);
            let block = word / map.lanes * map.block + word % map.lanes;
            let place = image * map.image + block + y * map.row + x * map.pixel;
            *words.get_mut(place)? |= u32::from((item - zero).cast_unsigned()) << (16 * half);
        }
        let words: Vec<f32> = words.into_iter().map(f32::from_bits).collect();
        let axes = vec![Axis { count: words.len(), a: 1, b: 0, out: 1 }];
        let from = Operand::Constant(self.constants(&words));
        self.push(Step::Copy(Box::new(Copy { from, to: map.at, axes })));
        self.set_integers(id, map, kind, zero)?;
        Some(map)
    }

    /// The bytes of a value in plain form.
    fn bytes_of(&self, id: ValueId, at: At, kind: Kind, zero: i16) -> Option<Bytes> {
        let fact = self.fact(id);
        let (_, channels, rows, columns) = word_sizes(&fact.shape, kind)?;
        let signed = fact.datatype == Datatype::Int8;
        Some(match kind {
            Kind::Blocks => Bytes {
                at,
                channels,
                image: channels * rows * columns,
                channel: rows * columns,
                row: columns,
                pixel: 1,
                signed,
                zero,
            },
            Kind::Rows => Bytes { at, channels, image: 0, channel: 1, row: 0, pixel: channels, signed, zero },
        })
    }

    /// Plain floats as a map with one lane.
    fn floats_of(&self, id: ValueId, at: At, kind: Kind) -> Option<Map> {
        let (images, channels, rows, columns) = word_sizes(&self.fact(id).shape, kind)?;
        let plane = rows * columns;
        let base = Map {
            at,
            images,
            channels,
            rows,
            columns,
            lanes: 1,
            image: channels * plane,
            block: plane,
            row: columns,
            pixel: 1,
            halo: Halo::default(),
        };
        Some(match kind {
            Kind::Blocks => base,
            Kind::Rows => Map { image: 0, block: 1, row: 0, pixel: channels, ..base },
        })
    }

    /// Writes a value that is words to its plain place.
    pub(super) fn plain_of_words(&mut self, id: ValueId, words: Words, at: At) {
        let from = words.map;
        let step = if self.is_f32(id) {
            self.floats_of(id, at, words.kind).map(|to| Integer::Dequantise { from, to, scale: words.scale })
        } else if let Zero::Known(zero) = words.zero {
            self.bytes_of(id, at, words.kind, zero).map(|to| Integer::Narrow { from, to })
        } else {
            None
        };
        if let Some(step) = step {
            self.push(Step::Integer(step));
        }
    }

    /// The blocks of floats of a value that is words, where its words are blocks too.
    pub(super) fn map_of_words(&mut self, id: ValueId) -> Option<Map> {
        let words = self.form(id).words.filter(|words| words.kind == Kind::Blocks)?;
        (words.map.lanes == self.kernels.lanes && self.form(id).plain.is_none()).then_some(())?;
        let to = self.free_map(id)?;
        self.push(Step::Integer(Integer::Dequantise { from: words.map, to, scale: words.scale }));
        self.form_mut(id)?.map = Some(to);
        Some(to)
    }

    /// Whether all that read a value are convolutions over all its channels.
    fn only_dense(&self, id: ValueId) -> bool {
        let mut readers = self.graph.nodes().iter().filter(|node| node.inputs.contains(&Some(id)));
        let output = self.graph.outputs().iter().any(|(_, output)| *output == id);
        !output && readers.all(|node| matches!(&node.op, Op::QuantizedConv(op) if op.groups == 1))
    }

    fn quantize(&mut self, to: Datatype, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let (scale, zero) = (self.scale_of(input(1))?, self.zero_of(input(2))?);
        let range = range(to, zero)?;
        if !self.is_f32(x) || self.graph.value(x).constant.is_some() {
            return None;
        }
        if let Some(words) = self.form(x).words {
            let same = words.scale.to_bits() == scale.to_bits() && words.zero == Zero::Known(zero);
            if same {
                return self.set_integers(output, words.map, words.kind, zero);
            }
        }
        let kind = if self.fact(x).rank() < 3 { Kind::Rows } else { Kind::Blocks };
        word_sizes(&self.fact(x).shape, kind)?;
        let blocked = self.form(x).map.filter(|map| {
            let whole = map.lanes == self.kernels.lanes && map.pixel == map.lanes;
            kind == Kind::Blocks && self.form(x).plain.is_none() && whole
        });
        let from = match blocked {
            Some(map) => map,
            None => {
                let plain = self.plain(x);
                self.floats_of(x, plain, kind)?
            }
        };
        let narrow = kind == Kind::Blocks && from.lanes == 1 && self.only_dense(output);
        let halo = self.needs.get(output.index())?.halo;
        let to = self.word_map(&self.fact(x).shape, kind, halo, narrow)?;
        self.push(Step::Integer(Integer::Quantise { from, to, scale, range }));
        self.set_integers(output, to, kind, zero)
    }

    fn dequantize(&mut self, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let input = |at: usize| node.inputs.get(at).copied().flatten();
        let (scale, zero) = (self.scale_of(input(1))?, self.zero_of(input(2))?);
        if !self.is_f32(output) {
            return None;
        }
        let kind = match self.form(x).words {
            Some(words) => words.kind,
            None if self.fact(x).rank() < 3 => Kind::Rows,
            None => Kind::Blocks,
        };
        let map = self.words(x, kind, zero)?;
        self.set_words(output, Words { map, kind, zero: Zero::Known(zero), scale, bytes: None })
    }

    /// A table of bytes as halves less a zero point, in the order of the lower bytes of words less `before`.
    fn table(&mut self, table: ValueId, before: i16, zero: i16) -> Option<usize> {
        let entries = self.graph.value(table).constant.as_ref()?.reals().ok()?;
        #[expect(clippy::cast_possible_truncation, reason = "8-bit integers")]
        let half = |stored: u16| {
            let byte = stored.wrapping_add_signed(before) & 0xff;
            let entry = entries.get(usize::from(byte)).copied().unwrap_or(0.0) as i16;
            u32::from((entry - zero).cast_unsigned())
        };
        let words: Vec<f32> =
            (0..128).map(|at| f32::from_bits(half(2 * at) | half(2 * at + 1) << 16)).collect();
        Some(self.constants(&words))
    }
}
