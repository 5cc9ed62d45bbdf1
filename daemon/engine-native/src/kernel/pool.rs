//! Maximum and average over windows and whole maps.

use super::simd::Simd;

/// One output row of one block of channels. Distances are in floats; the window is clipped at the map's edges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    /// The map's first pixel, without halo.
    pub(crate) input: *const f32,
    /// From one input row to the next.
    pub(crate) in_row: usize,
    /// Input rows of the window: the first, and the one after the last.
    pub(crate) rows: (usize, usize),
    /// Input columns.
    pub(crate) in_width: usize,
    /// Columns of the window.
    pub(crate) window: usize,
    /// Columns from one window to the next.
    pub(crate) stride: usize,
    /// Columns from one tap to the next.
    pub(crate) dilation: usize,
    /// Rows from one tap to the next.
    pub(crate) row_dilation: usize,
    /// Columns of padding at the left.
    pub(crate) padding: usize,
    /// The first output pixel.
    pub(crate) output: *mut f32,
    /// Output columns.
    pub(crate) width: usize,
    /// What an average divides by, when it is the same for all windows; 0 divides by the pixels seen.
    pub(crate) divisor: f32,
}

impl Pool {
    /// Input columns of the window of output column `x`: first, and after the last.
    #[inline(always)]
    fn columns(&self, x: usize) -> (usize, usize) {
        let start = x * self.stride;
        let end = (start + (self.window - 1) * self.dilation + 1).saturating_sub(self.padding);
        let first = if start >= self.padding {
            start - self.padding
        } else {
            // The first tap that is not in the padding.
            (start + (self.padding - start).div_ceil(self.dilation) * self.dilation) - self.padding
        };
        (first, end.min(self.in_width))
    }
}

/// The maximum of each window; NaN where the window holds one.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn maximum<S: Simd>(p: &Pool) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        for x in 0..p.width {
            let (from, to) = p.columns(x);
            let mut best = S::splat(f32::NEG_INFINITY);
            let whole = to == from + 3 && p.window == 3 && p.dilation == 1;
            let mut y = p.rows.0;
            while y < p.rows.1 {
                let line = p.input.add(y * p.in_row + from * S::LANES);
                if whole {
                    let a = S::max_nan(S::load(line), S::load(line.add(S::LANES)));
                    best = S::max_nan(S::max_nan(a, S::load(line.add(2 * S::LANES))), best);
                } else {
                    let mut column = from;
                    while column < to {
                        let here = S::load(p.input.add(y * p.in_row + column * S::LANES));
                        best = S::max_nan(here, best);
                        column += p.dilation;
                    }
                }
                y += p.row_dilation;
            }
            S::store(p.output.add(x * S::LANES), best);
        }
    }
}

/// The average of each window.
///
/// # Safety
/// As [`maximum`].
#[inline(always)]
pub(crate) unsafe fn average<S: Simd>(p: &Pool) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        for x in 0..p.width {
            let (from, to) = p.columns(x);
            let (mut sum, mut seen) = (S::splat(0.0), 0.0_f32);
            let mut y = p.rows.0;
            while y < p.rows.1 {
                let mut column = from;
                while column < to {
                    sum = S::add(sum, S::load(p.input.add(y * p.in_row + column * S::LANES)));
                    seen += 1.0;
                    column += p.dilation;
                }
                y += p.row_dilation;
            }
            let divisor = if p.divisor > 0.0 { p.divisor } else { seen };
            S::store(p.output.add(x * S::LANES), S::div(sum, S::splat(divisor)));
        }
    }
}

/// A whole map of one block of channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    /// The first pixel, without halo.
    pub(crate) input: *const f32,
    /// From one row to the next.
    pub(crate) in_row: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) width: usize,
    /// One vector.
    pub(crate) output: *mut f32,
    /// Whether the maximum is wanted instead of the mean.
    pub(crate) maximum: bool,
}

/// The mean or maximum over the map.
///
/// # Safety
/// As [`maximum`].
#[inline(always)]
pub(crate) unsafe fn whole<S: Simd>(p: &Whole) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let start = S::splat(if p.maximum { f32::NEG_INFINITY } else { 0.0 });
        let mut four = [start; 4];
        for y in 0..p.rows {
            let line = p.input.add(y * p.in_row);
            for x in 0..p.width {
                let here = S::load(line.add(x * S::LANES));
                let lane = &mut four[x % 4];
                *lane = if p.maximum { S::max_nan(here, *lane) } else { S::add(*lane, here) };
            }
        }
        let all = if p.maximum {
            S::max_nan(S::max_nan(four[0], four[1]), S::max_nan(four[2], four[3]))
        } else {
            S::add(S::add(four[0], four[1]), S::add(four[2], four[3]))
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "maps have far fewer than 2^24 pixels, and it is a mean"
        )]
        let scaled = if p.maximum { all } else { S::div(all, S::splat((p.rows * p.width) as f32)) };
        S::store(p.output, scaled);
    }
}
