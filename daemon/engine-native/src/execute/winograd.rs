//! Convolutions by Winograd's method: windows transformed, 36 products, results transformed back.

use super::Run;
use crate::{
    kernel::winograd::{Input, Output},
    pack,
    step::{At, Convolve, Map, Parts, Weights, Winograd},
};

impl Run<'_> {
    pub(super) fn winograd(&self, w: &Winograd) {
        let output = &w.output;
        let (wide, high) = (output.columns.div_ceil(4), output.rows.div_ceil(4));
        for image in 0..output.images {
            let mut band = 0;
            while band < high {
                let rows = w.band.min(high - band);
                self.winograd_band(w, image, band, rows, wide);
                band += rows;
            }
        }
        self.zero_halo(output);
    }

    fn winograd_band(&self, w: &Winograd, image: usize, band: usize, rows: usize, wide: usize) {
        let (input, output, lanes) = (&w.input, &w.output, self.kernels.lanes);
        let tiles = rows * wide;
        let transformed = self.at(w.scratch);
        let step_in = input.blocks() * tiles * lanes;
        let products = transformed.wrapping_add(36 * step_in);
        let step_out = output.blocks() * tiles * lanes;
        let place = |map: &Map, block: usize, y: usize, x: usize| {
            self.at(map.at).wrapping_add(image * map.image + block * map.block + y * map.row + x * map.pixel)
        };
        for block in self.share.of(input.blocks()) {
            for tile in 0..tiles {
                let (y, x) = ((band + tile / wide) * 4, tile % wide * 4);
                let p = Input {
                    input: place(input, block, y, x).wrapping_sub(input.row + input.pixel),
                    in_row: input.row,
                    rows: input.rows + 2 - y,
                    columns: input.columns + 2 - x,
                    output: transformed.wrapping_add((block * tiles + tile) * lanes),
                    step: step_in,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved the input with a halo of 1
                // on each side and the scratch for a band of tiles.
                unsafe { (self.kernels.transform)(&p) }
            }
        }
        let flat = |at: At, blocks: usize, channels: usize| Map {
            at,
            images: 1,
            channels,
            rows: 1,
            columns: tiles,
            lanes,
            image: blocks * tiles * lanes,
            block: tiles * lanes,
            row: tiles * lanes,
            pixel: lanes,
            halo: crate::step::Halo::default(),
        };
        let packed = pack::packed_length(input.channels, output.channels, lanes);
        let c = Convolve {
            parts: Parts { count: 36, input: step_in, weights: packed, bias: 0, output: step_out },
            input: w.scratch,
            in_image: 0,
            in_row: 0,
            in_pixel: lanes,
            in_block: tiles * lanes,
            channels: input.channels,
            channel_block: lanes,
            taps: (1, 1),
            tap_row: 0,
            tap_column: 0,
            weights: Weights::Packed { start: w.weights },
            bias: w.zeros,
            output: flat(w.scratch.plus(36 * step_in), output.blocks(), output.channels),
            residual: None,
            range: (f32::NEG_INFINITY, f32::INFINITY),
            function: None,
        };
        self.barrier.wait();
        self.convolve(&c);
        self.barrier.wait();
        let (first, last) = (band * 4, ((band + rows) * 4).min(output.rows));
        for block in self.share.of(output.blocks()) {
            for tile in 0..tiles {
                let (y, x) = ((band + tile / wide) * 4, tile % wide * 4);
                let p = Output {
                    input: products.wrapping_add((block * tiles + tile) * lanes),
                    step: step_out,
                    bias: self.constant(w.bias + block * lanes),
                    output: place(output, block, y, x),
                    out_row: output.row,
                    residual: w
                        .residual
                        .as_ref()
                        .map_or(std::ptr::null(), |map| place(map, block, y, x).cast_const()),
                    residual_row: w.residual.as_ref().map_or(0, |map| map.row),
                    rows: output.rows - y,
                    columns: output.columns - x,
                    low: w.range.0,
                    high: w.range.1,
                };
                // SAFETY: as above; rows and columns beyond the output are not stored.
                unsafe { (self.kernels.restore)(&p) }
            }
            if let Some(function) = w.function {
                let at = place(output, block, first, 0);
                self.rows(at, output.row, last - first, output.columns * lanes, function);
            }
        }
    }
}
