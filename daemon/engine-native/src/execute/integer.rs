//! Steps on quantised numbers.

use super::{Run, products, windows::columns_at_once};
use crate::{
    kernel::{
        dot::{self, Dots, DotsDepthwise, Scaled},
        isa::WORD_COLUMNS,
        quantised::{self, Channels, Cover, Maximum, Mean, Pairs, Rows, Squeeze},
        simd::MAX_LANES,
    },
    step::{
        At, Map, Pool,
        integer::{Bytes, Ending, Factors, Integer, Product, Requantise, WordDepthwise, WordPairs},
    },
};

/// One group of output channels over a range of pixels.
struct Group<'a> {
    step: &'a Product,
    dots: Dots,
    /// What sums start from, where that is computed.
    start: Option<[i32; 2 * MAX_LANES]>,
    /// Words or floats of the group that one pixel has.
    length: usize,
}

impl Run<'_> {
    pub(super) fn integer(&self, step: &Integer) {
        match step {
            Integer::Product(step) => self.dot(step),
            Integer::Depthwise(step) => self.word_depthwise(step),
            Integer::Quantise { from, to, scale, range } => {
                self.channels(from, to, *scale, *range, self.kernels.quantise);
                self.zero_halo(to);
            }
            Integer::Dequantise { from, to, scale } => {
                self.channels(to, from, *scale, (0.0, 0.0), self.kernels.dequantise);
            }
            Integer::Widen { from, to } => self.widen(from, to),
            Integer::Narrow { from, to } => self.narrow(from, to),
            Integer::Table { input, output, table } => self.table(input, output, *table),
            Integer::Pairs(step) => self.word_pairs(step),
            Integer::Largest(step) => self.largest(step),
            Integer::Mean { input, output, channels, scale } => {
                self.word_mean(input, *output, *channels, *scale);
            }
            Integer::Squeeze { from, to, low } => self.squeeze(from, to, *low),
            Integer::Cover { input, rows, length, output, bytes, scale, zero } => {
                let p = Cover {
                    input: self.at(*input),
                    rows: *rows,
                    length: *length,
                    output: self.at(output.at).cast(),
                    out_row: output.pixel,
                    bytes: *bytes,
                    scale: self.at(*scale),
                    zero: self.at(*zero).cast(),
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved the rows, whole vectors of
                // words for each, and a place for scale and zero point.
                unsafe { (self.kernels.cover)(&p) }
            }
        }
    }

    fn requantise(&self, how: &Requantise, first: usize) -> dot::Requantise {
        dot::Requantise {
            factors: self.constant(how.factors + first),
            rests: self.constant(how.rests + first),
            low: how.range.0,
            high: how.range.1,
        }
    }

    fn dot(&self, p: &Product) {
        let (pair, out) = (2 * self.kernels.lanes, &p.output);
        let inner: usize = p.groups.iter().map(|factors| factors.inner).sum();
        let pixels = out.rows * out.columns;
        let band = products::band_of(pixels, p.in_pixel.max(1), inner * pair, p.groups.len());
        for image in 0..out.images {
            for first in (0..pixels).step_by(band) {
                for (group, factors) in p.groups.iter().enumerate() {
                    let part = self.group_of(p, image, group, factors);
                    self.dot_group(&part, first..(first + band).min(pixels));
                }
            }
        }
        if let Ending::Quantise { .. } = p.ending {
            self.zero_halo(out);
        }
    }

    fn group_of<'a>(&self, p: &'a Product, image: usize, group: usize, factors: &Factors) -> Group<'a> {
        let (pair, out) = (2 * self.kernels.lanes, &p.output);
        let first = group * pair;
        let mut start = None;
        let (ending, out_block, length) = match &p.ending {
            Ending::Quantise { how, .. } => {
                (dot::Ending::Quantise(self.requantise(how, first)), out.block, out.lanes)
            }
            Ending::Scale { scale, factors, zero, summands, residual, .. } => {
                start = zero.map(|(zero, sums)| self.less(zero, sums + first));
                let tail = (out.channels - first).min(pair);
                let scaled = Scaled {
                    scale: self.operand(*scale),
                    factors: self.constant(factors + first),
                    summands: summands.map_or(std::ptr::null(), |at| self.constant(at + first)),
                    residual: residual.map_or(std::ptr::null(), |map| {
                        self.at(map.at).wrapping_add(image * map.image + first).cast_const()
                    }),
                    tail,
                };
                (dot::Ending::Scale(scaled), pair, tail)
            }
        };
        let dots = Dots {
            input: self.at(p.input).wrapping_add(image * p.in_image).cast(),
            in_pixel: p.in_pixel,
            in_row: p.in_row,
            offsets: self.constant(factors.offsets).cast(),
            inner: factors.inner,
            weights: self.constant(factors.weights).cast(),
            bias: self.constant(p.bias + first).cast(),
            ending,
            output: self.at(out.at).wrapping_add(image * out.image + group * out_block).cast(),
            out_pixel: out.pixel,
            out_row: out.row,
            width: out.columns,
            column: 0,
            count: 0,
        };
        Group { step: p, dots, start, length }
    }

    /// What integer sums start from so that a byte is taken from each byte of the input.
    fn less(&self, zero: At, sums: usize) -> [i32; 2 * MAX_LANES] {
        // SAFETY: the verifier proved a place for the zero point.
        let zero = unsafe { self.at(zero).cast::<u8>().read() };
        let sums = self.constant(sums).cast::<i32>();
        let mut start = [0; 2 * MAX_LANES];
        for (at, start) in start.iter_mut().enumerate().take(2 * self.kernels.lanes) {
            // SAFETY: the verifier proved two vectors of sums.
            *start = unsafe { sums.wrapping_add(at).read() }.wrapping_mul(-i32::from(zero));
        }
        start
    }

    /// A range of pixels of one group of output channels.
    fn dot_group(&self, group: &Group<'_>, range: std::ops::Range<usize>) {
        let whole = &group.dots;
        let widest = self.kernels.tile_pixels.get(2).copied().unwrap_or(1);
        let follows = match &group.step.ending {
            Ending::Quantise { table, .. } => table.is_some(),
            Ending::Scale { function, .. } => function.is_some(),
        };
        let most = if follows { (products::SPAN / (group.length * widest)).max(1) } else { usize::MAX };
        for (first, wide, tiles) in products::runs(range.len(), widest) {
            let Some(kernel) = self.kernels.dots(wide, group.step.bytes) else { return };
            let mut at = 0;
            while at < tiles {
                let count = (tiles - at).min(most);
                let pixel = range.start + first + at * wide;
                let (row, column) = (pixel / whole.width, pixel % whole.width);
                let out = row * whole.out_row + column * whole.out_pixel;
                let mut p = Dots {
                    input: whole.input.wrapping_add(row * whole.in_row + column * whole.in_pixel),
                    output: whole.output.wrapping_add(out),
                    bias: group.start.as_ref().map_or(whole.bias, |start| start.as_ptr()),
                    column,
                    count,
                    ..*whole
                };
                if let dot::Ending::Scale(scaled) = &mut p.ending
                    && !scaled.residual.is_null()
                {
                    scaled.residual = scaled.residual.wrapping_add(out);
                }
                // SAFETY: the processor has the plan's instruction set; the verifier proved the input under every tap,
                // the packed weights, bias, factors and summands, the output and the residual.
                unsafe { kernel(&p) }
                if follows {
                    self.follow(group, &p, count * wide);
                }
                at += count;
            }
        }
    }

    /// Applies a table or a function to pixels that were just written.
    fn follow(&self, group: &Group<'_>, p: &Dots, pixels: usize) {
        let (mut column, mut left, mut at) = (p.column, pixels, p.output);
        while left > 0 {
            let here = (p.width - column).min(left);
            match &group.step.ending {
                Ending::Quantise { table: Some(table), .. } => {
                    let rows = Rows {
                        input: at,
                        in_row: p.out_pixel,
                        output: at,
                        out_row: p.out_pixel,
                        rows: here,
                        length: group.length,
                    };
                    // SAFETY: these pixels were just written; the verifier proved the table.
                    unsafe { quantised::look_up(&rows, self.constant(*table).cast()) }
                }
                Ending::Scale { function: Some(function), .. } => {
                    self.rows(at.cast(), p.out_pixel, here, group.length, *function);
                }
                _ => {}
            }
            left -= here;
            column = 0;
            at = at
                .wrapping_add(here * p.out_pixel)
                .wrapping_add(p.out_row)
                .wrapping_sub(p.width * p.out_pixel);
        }
    }

    fn word_depthwise(&self, d: &WordDepthwise) {
        let (input, output, pair) = (&d.input, &d.output, 2 * self.kernels.lanes);
        let columns = columns_at_once(output.columns, WORD_COLUMNS);
        let square = if d.taps.0 == d.taps.1 { d.taps.0 } else { 0 };
        let kernel = self.kernels.dots_depthwise(square, columns);
        let Some(kernel) = kernel.or_else(|| self.kernels.dots_depthwise(0, columns)) else { return };
        let taps = d.taps.0 * d.taps.1;
        for image in 0..output.images {
            for block in 0..output.blocks() {
                let first = self.at(input.at).wrapping_add(image * input.image + block * input.block);
                let to = self.at(output.at).wrapping_add(image * output.image + block * output.block);
                let p = DotsDepthwise {
                    input: first.wrapping_sub(d.padding.0 * input.row + d.padding.1 * input.pixel).cast(),
                    in_row: d.strides.0 * input.row,
                    in_pixel: d.strides.1 * input.pixel,
                    kernel_rows: d.taps.0,
                    kernel_columns: d.taps.1,
                    tap_row: d.dilations.0 * input.row,
                    tap_column: d.dilations.1 * input.pixel,
                    weights: self.constant(d.weights + block * taps * pair).cast(),
                    bias: self.constant(d.bias + block * pair).cast(),
                    ending: self.requantise(&d.how, block * pair),
                    output: to.cast(),
                    out_row: output.row,
                    out_pixel: output.pixel,
                    rows: output.rows,
                    width: output.columns,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved both maps, that the window
                // stays within the input's halo, and the weights, bias and factors of each block.
                unsafe { kernel(&p) }
                if let Some(table) = d.table {
                    let rows = Rows {
                        input: to.cast(),
                        in_row: output.row,
                        output: to.cast(),
                        out_row: output.row,
                        rows: output.rows,
                        length: output.columns * output.lanes,
                    };
                    // SAFETY: the block was just written; the verifier proved the table.
                    unsafe { quantised::look_up(&rows, self.constant(table).cast()) }
                }
            }
        }
        self.zero_halo(output);
    }

    /// Calls a kernel for each pair of channels of floats and words.
    fn channels(
        &self,
        floats: &Map,
        words: &Map,
        scale: f32,
        (low, high): (f32, f32),
        kernel: unsafe fn(&Channels),
    ) {
        for image in 0..words.images {
            for word in 0..words.channels {
                let even = self.at(floats.at).wrapping_add(image * floats.image + 2 * word * floats.block);
                let place = image * words.image + word / words.lanes * words.block + word % words.lanes;
                let p = Channels {
                    even,
                    odd: if 2 * word + 1 < floats.channels {
                        even.wrapping_add(floats.block)
                    } else {
                        std::ptr::null_mut()
                    },
                    float_row: floats.row,
                    float_pixel: floats.pixel,
                    word: self.at(words.at).wrapping_add(place).cast(),
                    word_row: words.row,
                    word_pixel: words.pixel,
                    rows: words.rows,
                    width: words.columns,
                    scale,
                    low,
                    high,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved both maps, of one size.
                unsafe { kernel(&p) }
            }
        }
    }

    /// Calls `f` with the place of each word and those of its one or two bytes.
    fn each_word(&self, bytes: &Bytes, words: &Map, mut f: impl FnMut(*mut i32, *mut u8, Option<*mut u8>)) {
        let (first, from) = (self.at(bytes.at).cast::<u8>(), self.at(words.at).cast::<i32>());
        for image in 0..words.images {
            for word in 0..words.channels {
                let place = image * words.image + word / words.lanes * words.block + word % words.lanes;
                let channel = first.wrapping_add(image * bytes.image + 2 * word * bytes.channel);
                let both = 2 * word + 1 < bytes.channels;
                for y in 0..words.rows {
                    for x in 0..words.columns {
                        let even = channel.wrapping_add(y * bytes.row + x * bytes.pixel);
                        let odd = both.then(|| even.wrapping_add(bytes.channel));
                        f(from.wrapping_add(place + y * words.row + x * words.pixel), even, odd);
                    }
                }
            }
        }
    }

    fn widen(&self, from: &Bytes, to: &Map) {
        let number = |byte: u8| {
            let value = if from.signed { i16::from(byte.cast_signed()) } else { i16::from(byte) };
            u32::from((value - from.zero).cast_unsigned())
        };
        self.each_word(from, to, |word, even, odd| {
            // SAFETY: the verifier proved bytes and words, of one size.
            unsafe {
                let odd = odd.map_or(0, |odd| number(odd.read()));
                word.write((number(even.read()) | odd << 16).cast_signed());
            }
        });
        self.zero_halo(to);
    }

    fn narrow(&self, from: &Map, to: &Bytes) {
        // What was quantised to 8 bits has 8 bits, so the lower bytes are enough.
        let [zero, _] = to.zero.to_le_bytes();
        self.each_word(to, from, |word, even, odd| {
            // SAFETY: the verifier proved bytes and words, of one size.
            unsafe {
                let [low, _, high, _] = word.read().to_le_bytes();
                even.write(low.wrapping_add(zero));
                if let Some(odd) = odd {
                    odd.write(high.wrapping_add(zero));
                }
            }
        });
    }

    fn squeeze(&self, from: &Map, to: &Map, low: i16) {
        let rows = from.halo.top + from.rows + from.halo.bottom;
        self.each_block(from, to, |halves, bytes| {
            let (halves, bytes) = (halves.wrapping_sub(from.lead()), bytes.wrapping_sub(to.lead()));
            for row in 0..rows {
                let p = Squeeze {
                    input: halves.wrapping_add(row * from.row).cast(),
                    lanes: from.lanes,
                    low,
                    output: bytes.wrapping_add(row * to.row).cast(),
                    count: from.halo.left + from.columns + from.halo.right,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved both maps with their halos.
                unsafe { (self.kernels.squeeze)(&p) }
            }
        });
    }

    fn table(&self, input: &Map, output: &Map, table: usize) {
        self.each_block(input, output, |from, to| {
            let rows = Rows {
                input: from.cast(),
                in_row: input.row,
                output: to.cast(),
                out_row: output.row,
                rows: input.rows,
                length: input.columns * input.lanes,
            };
            // SAFETY: the verifier proved both maps, of one size, and the table.
            unsafe { quantised::look_up(&rows, self.constant(table).cast()) }
        });
        self.zero_halo(output);
    }

    fn word_pairs(&self, step: &WordPairs) {
        let (a, b, output) = (&step.a, &step.b, &step.output);
        let single = (b.rows, b.columns) == (1, 1) && (a.rows, a.columns) != (1, 1);
        for image in 0..output.images {
            for block in 0..output.blocks() {
                let at = |map: &Map| self.at(map.at).wrapping_add(image * map.image + block * map.block);
                let p = Pairs {
                    a: at(a).cast(),
                    a_row: a.row,
                    scale_a: step.scales[0],
                    b: at(b).cast(),
                    b_row: if single { 0 } else { b.row },
                    b_step: if single { 0 } else { b.lanes },
                    scale_b: step.scales[1],
                    output: at(output).cast(),
                    out_row: output.row,
                    scale: step.scales[2],
                    low: step.range.0,
                    high: step.range.1,
                    rows: output.rows,
                    length: output.columns * output.lanes,
                    pairwise: step.pairwise,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved the maps, of one size but
                // for the second, which may have one pixel an image.
                unsafe { (self.kernels.pairs)(&p) }
            }
        }
        self.zero_halo(output);
    }

    fn largest(&self, p: &Pool) {
        let (input, output) = (&p.input, &p.output);
        self.each_block(input, output, |from, to| {
            for y in 0..output.rows {
                let start = y * p.strides.0;
                let end = (start + (p.window.0 - 1) * p.dilations.0 + 1).saturating_sub(p.padding.0);
                let skipped = p.padding.0.saturating_sub(start).div_ceil(p.dilations.0) * p.dilations.0;
                let window = Maximum {
                    input: from.cast(),
                    in_row: input.row,
                    rows: ((start + skipped).saturating_sub(p.padding.0), end.min(input.rows)),
                    row_dilation: p.dilations.0,
                    in_width: input.columns,
                    window: p.window.1,
                    stride: p.strides.1,
                    dilation: p.dilations.1,
                    padding: p.padding.1,
                    output: to.wrapping_add(y * output.row).cast(),
                    width: output.columns,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved both maps; the window is
                // clipped to the input's pixels.
                unsafe { (self.kernels.largest)(&window) }
            }
        });
        self.zero_halo(output);
    }

    fn word_mean(&self, input: &Map, output: At, channels: usize, scale: f32) {
        let pair = 2 * self.kernels.lanes;
        for image in 0..input.images {
            for block in 0..input.blocks() {
                let p = Mean {
                    input: self.at(input.at).wrapping_add(image * input.image + block * input.block).cast(),
                    in_row: input.row,
                    rows: input.rows,
                    width: input.columns,
                    scale,
                    output: self.at(output).wrapping_add(image * channels + block * pair),
                    channels: (channels - block * pair).min(pair),
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved the map and a float for
                // each channel.
                unsafe { (self.kernels.mean)(&p) }
            }
        }
    }
}
