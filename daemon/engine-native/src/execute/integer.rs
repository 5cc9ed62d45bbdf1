//! Steps on quantised numbers.

mod convert;
mod dot;

use super::{Run, windows::columns_at_once};
use crate::{
    kernel::{
        dot::{DotsDepthwise, Requantise as Requantised},
        isa::WORD_COLUMNS,
        quantised::{
            convert::Cover,
            maps::{Maximum, Mean, Pairs, Rows, look_up},
        },
    },
    step::{
        At, Map, Pool,
        integer::{Integer, Requantise, WordDepthwise, WordPairs},
    },
};

impl Run<'_> {
    pub(super) fn integer(&self, step: &Integer) {
        match step {
            Integer::Product(step) => self.dot(step),
            Integer::Depthwise(step) => self.word_depthwise(step),
            Integer::Quantise { from, to, scale, range } => {
                if from.lanes > 1 {
                    self.float_blocks(from, to, *scale, *range, self.kernels.quantise_blocks);
                } else {
                    self.channels(from, to, *scale, *range, self.kernels.quantise);
                }
                self.zero_halo(to);
            }
            Integer::Dequantise { from, to, scale } => {
                if to.lanes > 1 {
                    self.float_blocks(to, from, *scale, (0.0, 0.0), self.kernels.dequantise_blocks);
                } else {
                    self.channels(to, from, *scale, (0.0, 0.0), self.kernels.dequantise);
                }
                self.zero_halo(to);
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

    fn requantise(&self, how: &Requantise, first: usize) -> Requantised {
        Requantised {
            factors: self.constant(how.factors + first),
            rests: self.constant(how.rests + first),
            low: how.range.0,
            high: how.range.1,
        }
    }

    fn word_depthwise(&self, d: &WordDepthwise) {
        let (input, output, plane, pair) = (&d.input, &d.output, &d.plane, 2 * self.kernels.lanes);
        let columns = columns_at_once(output.columns, WORD_COLUMNS);
        let square = if plane.taps.0 == plane.taps.1 { plane.taps.0 } else { 0 };
        let kernel = self.kernels.dots_depthwise(square, columns);
        let Some(kernel) = kernel.or_else(|| self.kernels.dots_depthwise(0, columns)) else { return };
        let taps = plane.count();
        self.blocks(output, |image, block| {
            let first = self.at(input.at).wrapping_add(image * input.image + block * input.block);
            let to = self.at(output.at).wrapping_add(image * output.image + block * output.block);
            let p = DotsDepthwise {
                input: first.wrapping_sub(plane.padding.0 * input.row + plane.padding.1 * input.pixel).cast(),
                in_row: plane.strides.0 * input.row,
                in_pixel: plane.strides.1 * input.pixel,
                kernel_rows: plane.taps.0,
                kernel_columns: plane.taps.1,
                tap_row: plane.dilations.0 * input.row,
                tap_column: plane.dilations.1 * input.pixel,
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
                unsafe { look_up(&rows, self.constant(table).cast()) }
            }
        });
        self.zero_halo(output);
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
            unsafe { look_up(&rows, self.constant(table).cast()) }
        });
        self.zero_halo(output);
    }

    fn word_pairs(&self, step: &WordPairs) {
        let (a, b, output) = (&step.a, &step.b, &step.output);
        let single = (b.rows, b.columns) == (1, 1) && (a.rows, a.columns) != (1, 1);
        self.blocks(output, |image, block| {
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
                function: step.function,
            };
            // SAFETY: the processor has the plan's instruction set; the verifier proved the maps, of one size but
            // for the second, which may have one pixel an image.
            unsafe { (self.kernels.pairs)(&p) }
        });
        self.zero_halo(output);
    }

    fn largest(&self, p: &Pool) {
        let (input, output, plane) = (&p.input, &p.output, &p.plane);
        self.each_block(input, output, |from, to| {
            for y in 0..output.rows {
                let window = Maximum {
                    input: from.cast(),
                    in_row: input.row,
                    rows: plane.rows(y, input.rows),
                    row_dilation: plane.dilations.0,
                    in_width: input.columns,
                    window: plane.taps.1,
                    stride: plane.strides.1,
                    dilation: plane.dilations.1,
                    padding: plane.padding.1,
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
        self.blocks(input, |image, block| {
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
        });
    }
}
