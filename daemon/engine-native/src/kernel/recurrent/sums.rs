//! Products with the hidden state, panel by panel.

use crate::{kernel::simd::Simd, memory::LINE};

/// How far ahead of the weights in use a cache line is asked for: into the next page, where processors do not look.
const AHEAD: usize = 768;

/// Numbers of the state that are taken at once, at least.
const UNROLL: usize = 4;

/// Products that are added to gates, for all panels and rows. Distances are in floats.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// `[units]` for each row.
    pub(super) state: *const f32,
    /// From one row to the next.
    pub(super) state_row: usize,
    /// Weights, `[panels][units][gates][LANES]`.
    pub(super) weights: *const f32,
    /// From one number of the state to the next, in the weights.
    pub(super) step: usize,
    /// The gates of the first panel and row, vector by vector.
    pub(super) gates: *mut f32,
    /// From one row to the next.
    pub(super) gates_row: usize,
}

impl Sums {
    /// The same from a row and a gate on, and of another panel.
    #[inline(always)]
    pub(super) const fn further(&self, row: usize, weights: usize, gates: usize) -> Self {
        Self {
            state: self.state.wrapping_add(row * self.state_row),
            weights: self.weights.wrapping_add(weights),
            gates: self.gates.wrapping_add(row * self.gates_row + gates),
            ..*self
        }
    }
}

/// Adds the products of `units` numbers of each row to the gates of a panel.
///
/// Sums are split over `SPLIT` registers each, so that additions need not wait for each other.
#[inline(always)]
pub(super) unsafe fn tile<S: Simd, const ROWS: usize, const GATES: usize, const SPLIT: usize>(
    t: &Sums,
    units: usize,
) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let place = |row: usize, gate: usize| t.gates.wrapping_add(row * t.gates_row + gate * S::LANES);
        let mut rows = [t.state; ROWS];
        let mut sums = [[[S::splat(0.0); GATES]; ROWS]; SPLIT];
        for (row, (state, sums)) in rows.iter_mut().zip(&mut sums[0]).enumerate() {
            *state = t.state.wrapping_add(row * t.state_row);
            for (gate, sum) in sums.iter_mut().enumerate() {
                *sum = S::load(place(row, gate));
            }
        }
        let (mut at, mut weights) = (0, t.weights);
        while at + UNROLL.max(SPLIT) <= units {
            // Several numbers at once also where sums are not split: fewer instructions that only count.
            for _ in 0..UNROLL.div_ceil(SPLIT) {
                for (turn, sums) in sums.iter_mut().enumerate() {
                    products::<S, ROWS, GATES>(weights.wrapping_add(turn * t.step), &rows, at + turn, sums);
                }
                at += SPLIT;
                weights = weights.wrapping_add(SPLIT * t.step);
            }
        }
        while at < units {
            products::<S, ROWS, GATES>(weights, &rows, at, &mut sums[0]);
            at += 1;
            weights = weights.wrapping_add(t.step);
        }
        for (row, first) in sums[0].iter().enumerate() {
            for (gate, first) in first.iter().enumerate() {
                let mut total = *first;
                for part in &sums[1..] {
                    total = S::add(total, part[row][gate]);
                }
                S::store(place(row, gate), total);
            }
        }
    }
}

/// The products of one number of each row.
#[inline(always)]
unsafe fn products<S: Simd, const ROWS: usize, const GATES: usize>(
    weights: *const f32,
    rows: &[*const f32; ROWS],
    at: usize,
    sums: &mut [[S::V; GATES]; ROWS],
) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let mut w = [S::splat(0.0); GATES];
        for (gate, w) in w.iter_mut().enumerate() {
            *w = S::load(weights.wrapping_add(gate * S::LANES));
            if GATES > 1 && gate * S::LANES % LINE == 0 {
                S::prefetch(weights.wrapping_add(AHEAD + gate * S::LANES));
            }
        }
        for (row, sums) in rows.iter().zip(sums) {
            let x = S::splat_from(row.wrapping_add(at));
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = S::fma(x, w, *sum);
            }
        }
    }
}

/// Adds products for all panels in order, and in each for all rows: four, two or one at a time, with sums in `$four`,
/// `$two` or `$one` parts. Panels of the gates are `$distance` vectors apart.
macro_rules! sum_up {
    ($p:expr, $sums:expr, $distance:expr, $gates:literal, [$four:literal, $two:literal, $one:literal]) => {{
        let (p, all) = ($p, $sums);
        let panels = p.units.div_ceil(S::LANES);
        for turn in 0..panels {
            let panel = if p.backwards { panels - 1 - turn } else { turn };
            let (weights, gates) = (panel * p.units * all.step, panel * $distance * S::LANES);
            let mut row = 0;
            while row + 4 <= p.rows {
                let t = all.further(row, weights, gates);
                // With few registers two of four gates at a time.
                if $gates == 4 && S::LANES < 16 {
                    tile::<S, 4, 2, 1>(&t, p.units);
                    tile::<S, 4, 2, 1>(&t.further(0, 2 * S::LANES, 2 * S::LANES), p.units);
                } else {
                    tile::<S, 4, $gates, $four>(&t, p.units);
                }
                row += 4;
            }
            if row + 2 <= p.rows {
                tile::<S, 2, $gates, $two>(&all.further(row, weights, gates), p.units);
                row += 2;
            }
            if row < p.rows {
                tile::<S, 1, $gates, $one>(&all.further(row, weights, gates), p.units);
            }
        }
    }};
}

pub(super) use sum_up;
