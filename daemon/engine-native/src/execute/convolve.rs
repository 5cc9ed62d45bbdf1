//! Sums of products, cut so that what runs stays near: convolutions of all kinds and matrix products.
//!
//! A step is cut into jobs: some of the input channels ([`Depth`]), some pixels, one group of output channels. The
//! weights of a job fit the nearest cache and are read once for each tile of pixels; meanwhile those of the next job are
//! asked for. Sums grow from one depth to the next, in the output itself.

use std::ops::Range;

use super::{Run, share::Share};
use crate::{
    kernel::{
        activation::Function,
        conv::{Tiles, UNROLLED},
    },
    pack,
    step::{Convolve, Map, Weights},
};

/// Output floats after which a function is applied to what was just written, so that it is still near.
pub(super) const SPAN: usize = 2048;

/// Products after which a sum is put down, so that the weights of a job stay near; more are split evenly.
const DEPTH: usize = 192;
/// The same where all channels of a pixel lie next to each other, and are brought near without being asked for.
const ROW_DEPTH: usize = 384;

/// Floats of input that are read again from near: 128 KiB.
const NEAR: usize = 32 << 10;

/// Pixels that share a job, at most: those whose input of `channels` floats each stays near, where it is read again for
/// each of the groups; all of them where that costs less than reading all `weights` again for each band.
pub(super) fn band_of(pixels: usize, channels: usize, weights: usize, groups: usize) -> usize {
    let input = pixels * channels;
    let bands = input.div_ceil(NEAR).min(pixels.div_ceil(UNIT)).max(1);
    if input * groups <= weights * bands + input {
        return pixels.max(1);
    }
    pixels.div_ceil(bands).next_multiple_of(UNIT)
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
    let parts = (c.channels * taps).div_ceil(if single { ROW_DEPTH } else { DEPTH }).max(1);
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

/// A group of blocks of output channels, `(first, count)`.
type Group = (usize, usize);

/// What one thread does of a step: parts, pixels and groups of output channels.
struct Work {
    parts: Range<usize>,
    pixels: Range<usize>,
    groups: Vec<Group>,
}

impl Work {
    /// The share of a thread: along the axis that is divided most evenly, whole parts first.
    fn of(c: &Convolve, groups: Vec<Group>, share: Share) -> Self {
        let all = c.output.rows * c.output.columns;
        let mut work = Self { parts: 0..c.parts.count, pixels: 0..all, groups };
        if share.count == 1 {
            return work;
        }
        // What the busiest thread does, in shares of an even division.
        let uneven = |n: usize| n.div_ceil(share.count) * share.count * 64 / n.max(1);
        let bands = all.div_ceil(UNIT);
        let choices = [uneven(work.parts.len()), uneven(bands), uneven(work.groups.len())];
        let least = choices.iter().copied().min().unwrap_or_default();
        if choices[0] <= least {
            work.parts = share.of(work.parts.len());
        } else if choices[1] <= least {
            let mine = share.of(bands);
            work.pixels = mine.start * UNIT..(mine.end * UNIT).min(all);
        } else {
            work.groups = work.groups.get(share.of(work.groups.len())).unwrap_or_default().to_vec();
        }
        work
    }
}

/// Pixels that are not divided between threads: a multiple of every width of tiles.
const UNIT: usize = 24;

/// What runs without a pause.
#[derive(Clone)]
struct Job {
    pixels: Range<usize>,
    group: Group,
    depth: Depth,
}

impl Run<'_> {
    pub(super) fn convolve(&self, c: &Convolve) {
        let groups = pack::groups(c.output.channels.div_ceil(self.kernels.lanes), self.kernels);
        let work = Work::of(c, groups, self.share);
        let jobs = jobs(c, &work);
        let last = work.parts.end;
        for part in work.parts {
            for image in 0..c.output.images {
                for (at, job) in jobs.iter().enumerate() {
                    let next = jobs.get(at + 1).map(|next| (part, next));
                    let next = next.or_else(|| Some((part + 1, jobs.first()?)));
                    self.job(c, part, image, job, next.filter(|(part, _)| *part < last));
                }
            }
        }
        self.zero_halo(&c.output);
    }

    /// The weights of a job: the first ones, from one product to the next, and all floats where they lie side by side.
    fn panel(&self, c: &Convolve, part: usize, job: &Job) -> (*const f32, usize, usize) {
        let lanes = self.kernels.lanes;
        let taps = c.taps.0 * c.taps.1;
        let (first, count) = job.group;
        let weights = match c.weights {
            Weights::Packed { start } => self.constant(start),
            Weights::Computed { at } | Weights::Rows { at, .. } => self.at(at),
        }
        .wrapping_add(part * c.parts.weights);
        let (group, step, floats) = match c.weights {
            Weights::Rows { step, .. } => (first * lanes, step, 0),
            _ => {
                let step = count * lanes;
                (first * lanes * c.channels * taps, step, job.depth.channels * taps * step)
            }
        };
        (weights.wrapping_add(group + job.depth.first * taps * step), step, floats)
    }

    fn job(&self, c: &Convolve, part: usize, image: usize, job: &Job, next: Option<(usize, &Job)>) {
        let (lanes, out, depth) = (self.kernels.lanes, &c.output, &job.depth);
        let (first, count) = job.group;
        let out_block = if out.lanes == lanes { out.block } else { lanes };
        let place = |map: &Map| self.at(map.at).wrapping_add(part * c.parts.output + image * map.image);
        let added = if depth.is_first { c.residual.as_ref() } else { Some(out) };
        let residual_block = added.map_or(0, |map| if map.lanes == lanes { map.block } else { lanes });
        let (weights, weight_step, _) = self.panel(c, part, job);
        let bias = if depth.is_first { c.bias + part * c.parts.bias + first * lanes } else { 0 };
        let (low, high) = if depth.is_last { c.range } else { (f32::NEG_INFINITY, f32::INFINITY) };
        // A map whose rows follow each other without a gap is one long row.
        let flat = |row: usize, pixel: usize| row == out.columns * pixel;
        let is_flat = flat(c.in_row, c.in_pixel)
            && flat(out.row, out.pixel)
            && added.is_none_or(|map| flat(map.row, map.pixel));
        let tiles = Tiles {
            input: self.at(c.input).wrapping_add(part * c.parts.input + image * c.in_image + depth.offset),
            in_pixel: c.in_pixel,
            in_row: c.in_row,
            in_block: c.in_block,
            channels: depth.channels,
            channel_block: c.channel_block.min(depth.channels),
            kernel_rows: c.taps.0,
            kernel_columns: c.taps.1,
            tap_row: c.tap_row,
            tap_column: c.tap_column,
            weights,
            weight_step,
            ahead: weights,
            ahead_step: 0,
            input_ahead: 0,
            bias: self.constant(bias),
            output: place(out).wrapping_add(first * out_block),
            out_pixel: out.pixel,
            out_row: out.row,
            out_block,
            residual: added
                .map_or(std::ptr::null(), |map| place(map).wrapping_add(first * residual_block).cast_const()),
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
            width: if is_flat { out.rows * out.columns } else { out.columns },
            column: 0,
            count: 0,
        };
        let tiles =
            Tiles { input_ahead: if is_flat { self.input_ahead(c, part, job, next) } else { 0 }, ..tiles };
        let (ahead, _, floats) = next.map_or((weights, 0, 0), |(part, next)| self.panel(c, part, next));
        let function = if depth.is_last { c.function } else { None };
        self.tiles(c, &tiles, job, (ahead, if ahead == weights { 0 } else { floats }), function);
    }

    /// Floats from the input of a tile to what is to be brought near meanwhile; 0 for nothing.
    fn input_ahead(&self, c: &Convolve, part: usize, job: &Job, next: Option<(usize, &Job)>) -> usize {
        let lanes = self.kernels.lanes;
        if c.channel_block != lanes || c.taps != (1, 1) || c.in_pixel != lanes {
            return 0;
        }
        let start = |job: &Job| (job.pixels.start * lanes).wrapping_add(job.depth.offset);
        let (first, count) = job.group;
        match next {
            // What the next job reads, where that is something else.
            Some((at, next)) if at == part && start(next) != start(job) => {
                start(next).wrapping_sub(start(job))
            }
            // What is read for the first time: the next tile.
            _ if first == 0 => self.kernels.tile_pixels.get(count).map_or(0, |pixels| pixels * lanes),
            _ => 0,
        }
    }

    /// All pixels of a job, while `ahead`, so many floats, are brought near.
    fn tiles(
        &self,
        c: &Convolve,
        whole: &Tiles,
        job: &Job,
        (ahead, floats): (*const f32, usize),
        function: Option<Function>,
    ) {
        let (lanes, blocks) = (self.kernels.lanes, job.group.1);
        let widest = self.kernels.tile_pixels.get(blocks).copied().unwrap_or(1);
        let most = if function.is_some() { (SPAN / (blocks * lanes * widest)).max(1) } else { usize::MAX };
        let lines = whole.channels / UNROLLED * whole.kernel_rows * whole.kernel_columns;
        let in_all = runs(job.pixels.len(), widest).map(|(_, _, tiles)| tiles).sum::<usize>() * lines;
        let ahead_step = floats.div_ceil(in_all.max(1));
        let mut ahead = ahead;
        for (first, wide, tiles) in runs(job.pixels.len(), widest) {
            let Some(kernel) = self.kernels.tiles(wide, blocks) else { return };
            let mut at = 0;
            while at < tiles {
                let count = (tiles - at).min(most);
                let pixel = job.pixels.start + first + at * wide;
                let (row, column) = (pixel / whole.width, pixel % whole.width);
                let p = Tiles {
                    input: whole.input.wrapping_add(row * whole.in_row + column * whole.in_pixel),
                    output: whole.output.wrapping_add(row * whole.out_row + column * whole.out_pixel),
                    residual: if whole.residual.is_null() {
                        whole.residual
                    } else {
                        whole.residual.wrapping_add(row * whole.residual_row + column * whole.residual_pixel)
                    },
                    ahead,
                    ahead_step,
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
                ahead = ahead.wrapping_add(count * lines * ahead_step);
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
}

/// The jobs of a thread in order: input channels outermost, then bands of pixels, then groups.
fn jobs(c: &Convolve, work: &Work) -> Vec<Job> {
    let taps = c.taps.0 * c.taps.1;
    let mut jobs = Vec::new();
    for depth in depths(c) {
        let weights = depth.channels * taps * c.output.channels;
        let band = band_of(work.pixels.len(), depth.channels, weights, work.groups.len());
        for first in work.pixels.clone().step_by(band) {
            let pixels = first..(first + band).min(work.pixels.end);
            jobs.extend(work.groups.iter().map(|group| Job { pixels: pixels.clone(), group: *group, depth }));
        }
    }
    jobs
}
