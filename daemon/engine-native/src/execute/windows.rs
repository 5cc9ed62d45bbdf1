//! Steps on maps: depthwise convolution, pooling, change of layout, halos.

use super::Run;
use crate::{
    kernel::{
        activation::{Function, Interleave, Map as Rows},
        depthwise,
        isa::DEPTHWISE_COLUMNS,
        pool::{Pool as Window, Whole},
    },
    step::{Depthwise, Halo, Map, Pool, Resize, Sample},
};

/// Columns computed at once for rows of `width`, at most `most` (4 or more): the number that wastes least, the larger of equals.
pub(super) fn columns_at_once(width: usize, most: usize) -> usize {
    let wasted = |n: usize| width.div_ceil(n) * n - width;
    (1..=most.min(width)).rev().filter(|n| *n >= 4 || width < 4).min_by_key(|n| wasted(*n)).unwrap_or(1)
}

/// Resizes one block of `N` lanes, whose step the verifier proved.
fn resize_block<const N: usize>(step: &Resize, from: *const f32, to: *mut f32) {
    let mix = |a: [f32; N], b: [f32; N], weights: (f32, f32)| -> [f32; N] {
        let mut mixed = a;
        mixed.iter_mut().zip(b).for_each(|(a, b)| *a = *a * weights.0 + b * weights.1);
        mixed
    };
    let along = |row: usize, column: &Sample| -> [f32; N] {
        // SAFETY: the verifier proved the input, that its pixels are `N` floats and that samples lie within it.
        let pixel = |place: usize| unsafe {
            from.wrapping_add(row * step.input.row + place * N).cast::<[f32; N]>().read()
        };
        if column.weights.1 == 0.0 {
            return pixel(column.places.0);
        }
        mix(pixel(column.places.0), pixel(column.places.1), column.weights)
    };
    for (y, row) in step.rows.iter().enumerate() {
        let line = to.wrapping_add(y * step.output.row);
        for (x, column) in step.columns.iter().enumerate() {
            let mut pixel = along(row.places.0, column);
            if row.weights.1 != 0.0 {
                pixel = mix(pixel, along(row.places.1, column), row.weights);
            }
            // SAFETY: as above; there are as many samples as rows and columns of the output.
            unsafe { line.wrapping_add(x * N).cast::<[f32; N]>().write(pixel) }
        }
    }
}

impl Run<'_> {
    /// Calls `f` with image and block of each block of a map that is this thread's.
    pub(super) fn blocks(&self, map: &Map, mut f: impl FnMut(usize, usize)) {
        let blocks = map.blocks();
        self.share.of(map.images * blocks).for_each(|at| f(at / blocks, at % blocks));
    }

    /// Calls `f` with the first pixel of each block of two maps.
    pub(super) fn each_block(&self, a: &Map, b: &Map, mut f: impl FnMut(*mut f32, *mut f32)) {
        self.blocks(b, |image, block| {
            let at = |map: &Map| self.at(map.at).wrapping_add(image * map.image + block * map.block);
            f(at(a), at(b));
        });
    }

    /// Writes the zeros around a map.
    pub(super) fn zero_halo(&self, map: &Map) {
        if map.halo == Halo::default() {
            return;
        }
        let Halo { top, left, bottom, right } = map.halo;
        self.each_block(map, map, |first, _| {
            let start = first.wrapping_sub(map.lead());
            let zero = |offset: usize, floats: usize| {
                // SAFETY: the verifier proved the map with its halo, and that its rows are as long as its columns.
                unsafe { start.wrapping_add(offset).write_bytes(0, floats) }
            };
            zero(0, top * map.row + left * map.pixel);
            for row in 1..map.rows {
                zero((top + row) * map.row - right * map.pixel, (right + left) * map.pixel);
            }
            let end = (top + map.rows) * map.row;
            zero(end - right * map.pixel, right * map.pixel + bottom * map.row);
        });
    }

    pub(super) fn depthwise(&self, d: &Depthwise) {
        let (input, output, plane, lanes) = (&d.input, &d.output, &d.plane, self.kernels.lanes);
        let columns = columns_at_once(output.columns, DEPTHWISE_COLUMNS);
        let special = plane.taps.0 == plane.taps.1 && plane.dilations == (1, 1);
        let square = if special { plane.taps.0 } else { 0 };
        let kernel = self.kernels.depthwise(square, plane.strides.1, columns);
        let Some(kernel) = kernel.or_else(|| self.kernels.depthwise(0, 1, columns)) else { return };
        let taps = plane.count();
        self.blocks(output, |image, block| {
            let first = self.at(input.at).wrapping_add(image * input.image + block * input.block);
            let to = self.at(output.at).wrapping_add(image * output.image + block * output.block);
            let p = depthwise::Depthwise {
                input: first.wrapping_sub(plane.padding.0 * input.row + plane.padding.1 * input.pixel),
                in_row: input.row,
                stride_row: plane.strides.0,
                in_pixel: plane.strides.1 * input.pixel,
                kernel_rows: plane.taps.0,
                kernel_columns: plane.taps.1,
                tap_row: plane.dilations.0 * input.row,
                tap_column: plane.dilations.1 * input.pixel,
                weights: self.constant(d.weights + block * taps * lanes),
                bias: self.constant(d.bias + block * lanes),
                output: to,
                out_row: output.row,
                out_pixel: output.pixel,
                rows: output.rows,
                width: output.columns,
                low: d.range.0,
                high: d.range.1,
            };
            // SAFETY: the processor has the plan's instruction set; the verifier proved both maps, that the window
            // stays within the input's halo, and the weights of each block.
            unsafe { kernel(&p) }
            if let Some(function) = d.function {
                self.rows(to, output.row, output.rows, output.columns * lanes, function);
            }
        });
        self.zero_halo(output);
    }

    /// Applies a function in place to rows whose range the verifier proved.
    pub(super) fn rows(&self, at: *mut f32, row: usize, rows: usize, length: usize, function: Function) {
        let p = Rows { input: at, in_row: row, output: at, out_row: row, rows, length, function };
        // SAFETY: the processor has the plan's instruction set; the caller's step was proved to write these rows.
        unsafe { (self.kernels.map)(&p) }
    }

    pub(super) fn pool(&self, p: &Pool) {
        let (input, output, plane) = (&p.input, &p.output, &p.plane);
        let kernel = if p.maximum { self.kernels.maximum } else { self.kernels.average };
        self.each_block(input, output, |from, to| {
            for y in 0..output.rows {
                let window = Window {
                    input: from,
                    in_row: input.row,
                    rows: plane.rows(y, input.rows),
                    in_width: input.columns,
                    window: plane.taps.1,
                    stride: plane.strides.1,
                    dilation: plane.dilations.1,
                    row_dilation: plane.dilations.0,
                    padding: plane.padding.1,
                    output: to.wrapping_add(y * output.row),
                    width: output.columns,
                    divisor: p.divisor,
                };
                // SAFETY: the processor has the plan's instruction set; the verifier proved both maps; the window is
                // clipped to the input's pixels.
                unsafe { kernel(&window) }
            }
        });
        self.zero_halo(output);
    }

    pub(super) fn resize(&self, step: &Resize) {
        let (input, output) = (&step.input, &step.output);
        self.each_block(input, output, |from, to| match output.lanes {
            16 => resize_block::<16>(step, from, to),
            _ => resize_block::<8>(step, from, to),
        });
        self.zero_halo(output);
    }

    pub(super) fn whole(&self, input: &Map, output: &Map, maximum: bool) {
        self.each_block(input, output, |from, to| {
            let p = Whole {
                input: from,
                in_row: input.row,
                rows: input.rows,
                width: input.columns,
                output: to,
                maximum,
            };
            // SAFETY: the processor has the plan's instruction set; the verifier proved both maps.
            unsafe { (self.kernels.whole)(&p) }
        });
        self.zero_halo(output);
    }

    pub(super) fn reorder(&self, from: &Map, to: &Map) {
        if from.lanes == to.lanes {
            self.each_block(from, to, |a, b| {
                for y in 0..to.rows {
                    let (a, b) = (a.wrapping_add(y * from.row), b.wrapping_add(y * to.row));
                    let length = (to.columns - 1) * to.pixel + to.lanes;
                    if from.pixel == to.pixel {
                        // SAFETY: the verifier proved both maps, of one size; `copy` allows overlap.
                        unsafe { std::ptr::copy(a, b, length) }
                    }
                }
            });
        } else {
            let (plain, blocked, inwards) = if to.lanes > 1 { (from, to, true) } else { (to, from, false) };
            self.blocks(blocked, |image, block| {
                let channel = block * blocked.lanes;
                let p = Interleave {
                    plain: self.at(plain.at).wrapping_add(image * plain.image + channel * plain.block),
                    plain_channel: plain.block,
                    plain_row: plain.row,
                    blocked: self.at(blocked.at).wrapping_add(image * blocked.image + block * blocked.block),
                    blocked_row: blocked.row,
                    rows: to.rows,
                    width: to.columns,
                    channels: blocked.lanes.min(to.channels - channel),
                };
                let kernel = if inwards { self.kernels.interleave } else { self.kernels.separate };
                // SAFETY: the processor has the plan's instruction set; the verifier proved both maps, of one size.
                unsafe { kernel(&p) }
            });
        }
        self.zero_halo(to);
    }
}
