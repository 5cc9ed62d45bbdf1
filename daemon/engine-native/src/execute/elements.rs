//! Steps on numbers one by one, on rows of them, and copies.

use super::Run;
use crate::{
    kernel::{
        activation::{Combine as Pairs, Function, Map as Rows, Pairwise, Vector},
        along,
        rows::{Normalise, Softmax},
    },
    memory::LINE,
    step::{Along, Axis, Combine, Copy, Map, Scale, Step},
};

/// Calls `f` with the offsets of each turn of the loops.
fn walk(axes: &[Axis], offsets: [usize; 3], f: &mut impl FnMut([usize; 3])) {
    let Some((axis, rest)) = axes.split_first() else { return f(offsets) };
    let mut here = offsets;
    for _ in 0..axis.count {
        walk(rest, here, f);
        here = [here[0] + axis.a, here[1] + axis.b, here[2] + axis.out];
    }
}

impl Run<'_> {
    /// Applies a function to `count` numbers next to each other.
    pub(super) fn function(&self, input: *const f32, output: *mut f32, count: usize, function: Function) {
        // Whole cache lines each.
        let lines = self.share.of(count.div_ceil(LINE));
        let first = lines.start * LINE;
        let length = (lines.end * LINE).min(count).saturating_sub(first);
        let (input, output) = (input.wrapping_add(first), output.wrapping_add(first));
        let p = Rows { input, in_row: 0, output, out_row: 0, rows: 1, length, function };
        // SAFETY: the processor has the plan's instruction set, and the verifier proved both ranges.
        unsafe { (self.kernels.map)(&p) }
    }

    pub(super) fn map_function(&self, input: &Map, output: &Map, function: Function) {
        self.each_block(input, output, |from, to| {
            let p = Rows {
                input: from,
                in_row: input.row,
                output: to,
                out_row: output.row,
                rows: input.rows,
                length: input.columns * input.lanes,
                function,
            };
            // SAFETY: the processor has the plan's instruction set; the verifier proved both maps, of one size.
            unsafe { (self.kernels.map)(&p) }
        });
        self.zero_halo(output);
    }

    pub(super) fn map_combine(&self, a: &Map, b: &Map, output: &Map, pairwise: Pairwise, range: (f32, f32)) {
        self.blocks(output, |image, block| {
            let at = |map: &Map| self.at(map.at).wrapping_add(image * map.image + block * map.block);
            let p = Pairs {
                a: at(a),
                a_row: a.row,
                a_step: 1,
                b: at(b),
                b_row: b.row,
                b_step: 1,
                output: at(output),
                out_row: output.row,
                rows: output.rows,
                length: output.columns * output.lanes,
                pairwise,
                low: range.0,
                high: range.1,
            };
            // SAFETY: the processor has the plan's instruction set; the verifier proved the maps, of one size.
            unsafe { (self.kernels.combine)(&p) }
        });
        self.zero_halo(output);
    }

    pub(super) fn combine(&self, step: &Combine) {
        let Some((last, outer)) = step.axes.split_last() else { return };
        let (a, b, output) = (self.operand(step.a), self.operand(step.b), self.at(step.output));
        // The last axis but one runs in the kernel too.
        let (row, outer) =
            outer.split_last().map_or((Axis { count: 1, a: 0, b: 0, out: 0 }, outer), |(r, o)| (*r, o));
        walk(outer, [0; 3], &mut |[at_a, at_b, out]| {
            let p = Pairs {
                a: a.wrapping_add(at_a),
                a_row: row.a,
                a_step: last.a,
                b: b.wrapping_add(at_b),
                b_row: row.b,
                b_step: last.b,
                output: output.wrapping_add(out),
                out_row: row.out,
                rows: row.count,
                length: last.count,
                pairwise: step.pairwise,
                low: step.range.0,
                high: step.range.1,
            };
            // SAFETY: the processor has the plan's instruction set; the verifier proved the loops over all operands.
            unsafe { (self.kernels.combine)(&p) }
        });
    }

    pub(super) fn scale(&self, step: &Scale) {
        let (input, output) = (&step.input, &step.output);
        self.blocks(input, |image, block| {
            let lanes = block * input.lanes;
            let p = Vector {
                input: self.at(input.at).wrapping_add(image * input.image + block * input.block),
                in_row: input.row,
                vector: self.operand(step.vector).wrapping_add(image * step.vector_image + lanes),
                offset: step.offset.map_or(std::ptr::null(), |offset| self.constant(offset + lanes)),
                output: self.at(output.at).wrapping_add(image * output.image + block * output.block),
                out_row: output.row,
                rows: input.rows,
                width: input.columns,
                pairwise: step.pairwise,
                low: step.range.0,
                high: step.range.1,
            };
            // SAFETY: the processor has the plan's instruction set; the verifier proved both maps, of one size, and
            // a vector for each block.
            unsafe { (self.kernels.vector)(&p) }
        });
        self.zero_halo(output);
    }

    pub(super) fn copy(&self, step: &Copy) {
        let (from, to) = (self.operand(step.from), self.at(step.to));
        let Some((last, outer)) = step.axes.split_last() else { return };
        walk(outer, [0; 3], &mut |[a, _, out]| {
            let (from, to) = (from.wrapping_add(a), to.wrapping_add(out));
            if last.a == 1 && last.out == 1 {
                // SAFETY: the verifier proved the loops over both operands; `copy` allows overlap.
                unsafe { std::ptr::copy(from, to, last.count) }
            } else {
                for i in 0..last.count {
                    // SAFETY: as above.
                    unsafe { to.wrapping_add(i * last.out).write(from.wrapping_add(i * last.a).read()) }
                }
            }
        });
    }

    pub(super) fn along(&self, step: &Along) {
        let Along { input, output, outer, count, inner, kind } = *step;
        let p = along::Along { input: self.at(input), output: self.at(output), outer, count, inner, kind };
        // SAFETY: the processor has the plan's instruction set; the verifier proved both ranges and that there is at
        // least one number along the axis.
        unsafe { (self.kernels.along)(&p) }
    }

    pub(super) fn softmax(&self, step: &Step) {
        let Step::Softmax { input, output, rows, length, scale, mask, mask_row } = step else { return };
        let mine = self.share.of(*rows);
        let first = mine.start * length;
        let p = Softmax {
            input: self.at(*input).wrapping_add(first),
            in_row: *length,
            output: self.at(*output).wrapping_add(first),
            out_row: *length,
            rows: mine.len(),
            length: *length,
            scale: *scale,
            mask: mask
                .map_or(std::ptr::null(), |mask| self.operand(mask).wrapping_add(mine.start * mask_row)),
            mask_row: *mask_row,
        };
        // SAFETY: the processor has the plan's instruction set; the verifier proved every range and that rows are not
        // empty.
        unsafe { (self.kernels.softmax)(&p) }
    }

    pub(super) fn normalise(&self, step: &Step) {
        let Step::Normalise { input, residual, output, rows, length, scale, bias, epsilon, keep_mean } = step
        else {
            return;
        };
        let mine = self.share.of(*rows);
        let first = mine.start * length;
        let p = Normalise {
            input: self.at(*input).wrapping_add(first),
            residual: residual.map_or(std::ptr::null(), |at| self.at(at).wrapping_add(first).cast_const()),
            output: self.at(*output).wrapping_add(first),
            rows: mine.len(),
            length: *length,
            scale: self.constant(*scale),
            bias: bias.map_or(std::ptr::null(), |bias| self.constant(bias)),
            epsilon: *epsilon,
            keep_mean: *keep_mean,
        };
        // SAFETY: the processor has the plan's instruction set; the verifier proved every range and that rows are not
        // empty.
        unsafe { (self.kernels.normalise)(&p) }
    }
}
