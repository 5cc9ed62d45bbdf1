//! Steps that are sums of products: convolutions, matrix products, Winograd's method, packing.

use std::ops::Range;

use super::Run;
use crate::{
    kernel::{
        activation::Function,
        conv::Tiles,
        winograd::{Input, Output},
    },
    memory::LINE,
    pack,
    step::{At, Convolve, Map, Parts, Weights, Winograd},
};

/// Output floats after which a function is applied to what was just written, so that it is still near.
pub(super) const SPAN: usize = 2048;

/// Products after which a sum is put down, so that weights and input of what runs stay near; more are split evenly.
const DEPTH: usize = 640;

/// Floats of input that are read again from near: 192 KiB.
const NEAR: usize = 48 << 10;

/// Output pixels after which the next group of channels takes its turn.
///
/// All of them where their input (`channels` floats each) stays near anyway, or where reading it again for each of the
/// groups costs less than reading all `weights` again for each band.
pub(super) fn band_of(pixels: usize, channels: usize, weights: usize, groups: usize) -> usize {
    // A multiple of every width of tiles.
    let band = (NEAR / channels.max(1)).next_multiple_of(24).max(24);
    let input = pixels * channels;
    let bands = pixels.div_ceil(band);
    if input <= NEAR || input * groups <= weights * bands + input { pixels.max(1) } else { band }
}

/// Some of the input channels of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Depth {
    /// The first channel.
    first: usize,
    /// How many.
    channels: usize,
    /// Floats from the input of channel 0 to that of the first.
    offset: usize,
    /// Whether sums start here: with bias and residual.
    is_first: bool,
    /// Whether sums end here: held in their range.
    is_last: bool,
}

/// The channels of a step in parts of about [`DEPTH`] products, cut between blocks (or anywhere in a single block).
fn depths(c: &Convolve) -> impl Iterator<Item = Depth> {
    let single = c.channel_block >= c.channels;
    let unit = if single { 8 } else { c.channel_block };
    let taps = (c.taps.0 * c.taps.1).max(1);
    let parts = (c.channels * taps).div_ceil(DEPTH).max(1);
    // With several rows of taps a single block lies in pieces; it is not cut.
    let parts = if single && taps > 1 { 1 } else { parts };
    let step = c.channels.div_ceil(parts).next_multiple_of(unit).max(1);
    let (channels, block, in_block) = (c.channels, c.channel_block, c.in_block);
    (0..channels).step_by(step).map(move |first| Depth {
        first,
        channels: step.min(channels - first),
        offset: if single { first } else { first / block * in_block },
        is_first: first == 0,
        is_last: first + step >= channels,
    })
}

/// Runs of tiles over `pixels` output pixels, at most `widest` at once: (first pixel, pixels of a tile, tiles).
///
/// The last two tiles share what is left, so that none is much narrower than the others.
pub(super) fn runs(pixels: usize, widest: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let (whole, rest) = (pixels / widest, pixels % widest);
    let (whole, last) = match (whole, rest) {
        (_, 0) | (0, _) => (whole, [rest, 0]),
        _ => (whole - 1, [(widest + rest).div_ceil(2), (widest + rest) / 2]),
    };
    let first = whole * widest;
    let all = [(0, widest, whole), (first, last[0], 1), (first + last[0], last[1], 1)];
    all.into_iter().filter(|(_, pixels, tiles)| *pixels > 0 && *tiles > 0)
}

impl Run<'_> {
    pub(super) fn convolve(&self, c: &Convolve) {
        for part in 0..c.parts.count {
            for image in 0..c.output.images {
                for depth in depths(c) {
                    self.slab(c, part, image, &depth);
                }
            }
        }
        self.zero_halo(&c.output);
    }

    /// One image of one part, over some of the input channels.
    fn slab(&self, c: &Convolve, part: usize, image: usize, depth: &Depth) {
        let (lanes, out) = (self.kernels.lanes, &c.output);
        let taps = c.taps.0 * c.taps.1;
        let inner = c.channels * taps;
        let out_block = if out.lanes == lanes { out.block } else { lanes };
        let weights = match c.weights {
            Weights::Packed { start } => self.constant(start),
            Weights::Computed { at } | Weights::Rows { at, .. } => self.at(at),
        }
        .wrapping_add(part * c.parts.weights);
        let place = |map: &Map| self.at(map.at).wrapping_add(part * c.parts.output + image * map.image);
        let output = place(out);
        let added = if depth.is_first { c.residual.as_ref() } else { Some(out) };
        let residual_block = added.map_or(0, |map| if map.lanes == lanes { map.block } else { lanes });
        let groups = pack::groups(out.channels.div_ceil(lanes), self.kernels);
        let pixels = out.rows * out.columns;
        let band = band_of(pixels, depth.channels, depth.channels * taps * out.channels, groups.len());
        let bands = (0..pixels).step_by(band).map(|first| first..(first + band).min(pixels));
        for (pixels, (first, count)) in
            bands.flat_map(|band| groups.iter().map(move |group| (band.clone(), *group)))
        {
            let (weights, weight_step) = match c.weights {
                Weights::Rows { step, .. } => (weights.wrapping_add(first * lanes), step),
                _ => (weights.wrapping_add(first * lanes * inner), count * lanes),
            };
            let bias = if depth.is_first { c.bias + part * c.parts.bias + first * lanes } else { 0 };
            let (low, high) = if depth.is_last { c.range } else { (f32::NEG_INFINITY, f32::INFINITY) };
            let tiles = Tiles {
                input: self
                    .at(c.input)
                    .wrapping_add(part * c.parts.input + image * c.in_image + depth.offset),
                in_pixel: c.in_pixel,
                in_row: c.in_row,
                in_block: c.in_block,
                channels: depth.channels,
                channel_block: c.channel_block.min(depth.channels),
                kernel_rows: c.taps.0,
                kernel_columns: c.taps.1,
                tap_row: c.tap_row,
                tap_column: c.tap_column,
                weights: weights.wrapping_add(depth.first * taps * weight_step),
                weight_step,
                prefetch: 0,
                bias: self.constant(bias),
                output: output.wrapping_add(first * out_block),
                out_pixel: out.pixel,
                out_row: out.row,
                out_block,
                residual: added.map_or(std::ptr::null(), |map| {
                    place(map).wrapping_add(first * residual_block).cast_const()
                }),
                residual_pixel: added.map_or(0, |map| map.pixel),
                residual_row: added.map_or(0, |map| map.row),
                residual_block,
                low,
                high,
                tail: if out.lanes == lanes {
                    lanes
                } else {
                    lanes.min(out.channels - (first + count - 1) * lanes)
                },
                width: out.columns,
                column: 0,
                count: 0,
            };
            let function = if depth.is_last { c.function } else { None };
            self.group(c, &tiles, count, inner, function, pixels);
        }
    }

    /// All pixels of one group of output channels.
    fn group(
        &self,
        c: &Convolve,
        whole: &Tiles,
        blocks: usize,
        inner: usize,
        function: Option<Function>,
        range: Range<usize>,
    ) {
        let lanes = self.kernels.lanes;
        let widest = self.kernels.tile_pixels.get(blocks).copied().unwrap_or(1);
        let pixels = range.len();
        // While the last tiles run, the weights of the next group are brought near, a cache line each step.
        let lines = (blocks * lanes).div_ceil(LINE);
        let most = if function.is_some() { (SPAN / (blocks * lanes * widest)).max(1) } else { usize::MAX };
        let tiles_in_all: usize = runs(pixels, widest).map(|(_, _, tiles)| tiles).sum();
        let mut done = 0;
        for (first, wide, tiles) in runs(pixels, widest) {
            let Some(kernel) = self.kernels.tiles(wide, blocks) else { return };
            let mut at = 0;
            while at < tiles {
                let left = tiles_in_all - done;
                let (count, prefetch) = if left > lines {
                    ((tiles - at).min(left - lines).min(most), 0)
                } else {
                    (1, inner * whole.weight_step + (lines - left) * LINE)
                };
                let pixel = range.start + first + at * wide;
                let (row, column) = (pixel / whole.width, pixel % whole.width);
                let p = Tiles {
                    input: whole.input.wrapping_add(row * whole.in_row + column * whole.in_pixel),
                    output: whole.output.wrapping_add(row * whole.out_row + column * whole.out_pixel),
                    residual: if whole.residual.is_null() {
                        whole.residual
                    } else {
                        whole.residual.wrapping_add(row * whole.residual_row + column * whole.residual_pixel)
                    },
                    prefetch,
                    column,
                    count,
                    ..*whole
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved the input under every tap,
                // the packed weights, the bias, the output and the residual; a prefetch may be anywhere.
                unsafe { kernel(&p) }
                if let Some(function) = function {
                    self.finish(c, &p, blocks, pixel, count * wide, function);
                }
                at += count;
                done += count;
            }
        }
    }

    /// Applies the function to pixels that were just written.
    fn finish(
        &self,
        c: &Convolve,
        p: &Tiles,
        blocks: usize,
        first: usize,
        pixels: usize,
        function: Function,
    ) {
        let lanes = self.kernels.lanes;
        let (mut pixel, mut at) = (first, p.output);
        while pixel < first + pixels {
            let here = (p.width - pixel % p.width).min(first + pixels - pixel);
            if c.output.lanes == lanes {
                self.rows(at, p.out_block, blocks, here * lanes, function);
            } else {
                self.rows(at, p.out_pixel, here, (blocks - 1) * lanes + p.tail, function);
            }
            pixel += here;
            at = at
                .wrapping_add(here * p.out_pixel)
                .wrapping_add(p.out_row)
                .wrapping_sub(p.width * p.out_pixel);
        }
    }

    /// Packs matrices of the arena as [`pack::pack`] does those among the constants.
    pub(super) fn pack(
        &self,
        from: At,
        (row, column): (usize, usize),
        (rows, columns): (usize, usize),
        parts: Parts,
        to: At,
        scale: f32,
    ) {
        let lanes = self.kernels.lanes;
        for part in 0..parts.count {
            let from = self.at(from).wrapping_add(part * parts.input);
            let mut to = self.at(to).wrapping_add(part * parts.weights);
            for (first, count) in pack::groups(columns.div_ceil(lanes), self.kernels) {
                for i in 0..rows {
                    for j in first * lanes..(first + count) * lanes {
                        let source = from.wrapping_add(i * row + j * column);
                        // SAFETY: the verifier proved rows times columns of the source and the packed size.
                        unsafe {
                            to.write(if j < columns { source.read() * scale } else { 0.0 });
                        }
                        to = to.wrapping_add(1);
                    }
                }
            }
        }
    }

    pub(super) fn winograd(&self, w: &Winograd) {
        let (output, lanes) = (&w.output, self.kernels.lanes);
        let (wide, high) = (output.columns.div_ceil(4), output.rows.div_ceil(4));
        for image in 0..output.images {
            let mut band = 0;
            while band < high {
                let rows = w.band.min(high - band);
                self.winograd_band(w, image, band, rows, wide);
                if let Some(function) = w.function {
                    let (first, last) = (band * 4, ((band + rows) * 4).min(output.rows));
                    for block in 0..output.blocks() {
                        let at = self
                            .at(output.at)
                            .wrapping_add(image * output.image + block * output.block + first * output.row);
                        self.rows(at, output.row, last - first, output.columns * lanes, function);
                    }
                }
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
        for block in 0..input.blocks() {
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
        self.convolve(&c);
        for block in 0..output.blocks() {
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
        }
    }
}
