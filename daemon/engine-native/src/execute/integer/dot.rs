//! Sums of products of integers.

use crate::{
    execute::{Run, convolve},
    kernel::{
        dot::{self, Dots, Scaled},
        quantised::maps::{Rows, look_up},
        simd::MAX_LANES,
    },
    step::{
        At,
        integer::{Ending, Factors, Product},
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
    pub(super) fn dot(&self, p: &Product) {
        let (pair, out) = (2 * self.kernels.lanes, &p.output);
        let inner: usize = p.groups.iter().map(|factors| factors.inner).sum();
        let pixels = out.rows * out.columns;
        let band = convolve::band_of(pixels, p.in_pixel.max(1), inner * pair, p.groups.len());
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
        let most = if follows { (convolve::SPAN / (group.length * widest)).max(1) } else { usize::MAX };
        for (first, wide, tiles) in convolve::runs(range.len(), widest) {
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
                    unsafe { look_up(&rows, self.constant(*table).cast()) }
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
}
