//! Steps in time of recurrent layers: LSTM, GRU, RNN.
//!
//! In: what the input adds to the gates, and the hidden state before. Out: the hidden state after, for LSTM also the
//! cell state, in place. Units are taken a vector at a time, a panel. First the products with the hidden state are added
//! to the gates, summed in registers; then the gates are applied, several panels at once, so that no function waits for
//! another.

mod gate;
mod sums;

use super::simd::Simd;
pub(crate) use gate::Gate;
use gate::{apply, each};
use sums::{Sums, sum_up, tile};

/// One step in time for some rows of a batch. Distances are in floats; a panel is a vector of units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Rows.
    pub(crate) rows: usize,
    /// Units of the hidden state, at least 1.
    pub(crate) units: usize,
    /// What the input and biases add to the gates, `[panels][gates][LANES]` for each row; sums are left here.
    pub(crate) gates: *mut f32,
    /// From one row to the next.
    pub(crate) gates_row: usize,
    /// Hidden state before, `[units]` for each row; not where `output` is.
    pub(crate) hidden: *const f32,
    /// From one row to the next; 0 where all share one.
    pub(crate) hidden_row: usize,
    /// Hidden state after, `[units]` for each row.
    pub(crate) output: *mut f32,
    /// From one row to the next.
    pub(crate) output_row: usize,
    /// LSTM: cell state, before and after, `[units]` for each row.
    pub(crate) cell: *mut f32,
    /// From one row to the next.
    pub(crate) cell_row: usize,
    /// Factors of the hidden state, `[panels][units][gates][LANES]`; for [`gru`] gates z and r so, then gate h so.
    pub(crate) weights: *const f32,
    /// LSTM: factors of the cell state for i, o and f, `[panels][3][LANES]`; null for none.
    pub(crate) peepholes: *const f32,
    /// GRU with `separate`: added to the products of gate h, `[panels][LANES]`.
    pub(crate) bias: *const f32,
    /// GRU: the reset state, or with `separate` the products of gate h, `[panels][LANES]` for each row.
    pub(crate) scratch: *mut f32,
    /// GRU: the products of gate h are summed before they are multiplied by r.
    pub(crate) separate: bool,
    /// LSTM: the forget gate is `1 - i`.
    pub(crate) input_forget: bool,
    /// Panels are taken from the last to the first, so that the weights that were read last are read first.
    pub(crate) backwards: bool,
    /// What goes into activations is held between this and its negative.
    pub(crate) bound: f32,
    /// Activations: LSTM f, g, h; GRU f, g; RNN f.
    pub(crate) activations: [Gate; 3],
}

/// Panels whose gates are applied at once.
const WIDE: usize = 4;

/// Applies an activation to what is held within the bound first.
#[inline(always)]
unsafe fn bounded<S: Simd, const N: usize>(p: &Moment, gate: Gate, mut list: [S::V; N]) -> [S::V; N] {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        if p.bound < f32::INFINITY {
            let (low, high) = (S::splat(-p.bound), S::splat(p.bound));
            each!(list, x => S::min(high, S::max(low, x)));
        }
        apply::<S, N>(gate, list)
    }
}

/// Runs a kernel over all rows and panels: several whole panels at once, else one, with the lanes that exist.
macro_rules! apply_all {
    ($p:expr, $kernel:ident) => {
        for row in 0..$p.rows {
            let mut unit = 0;
            while unit + WIDE * S::LANES <= $p.units {
                $kernel::<S, WIDE>($p, row, unit, S::LANES);
                unit += WIDE * S::LANES;
            }
            while unit < $p.units {
                $kernel::<S, 1>($p, row, unit, S::LANES.min($p.units - unit));
                unit += S::LANES;
            }
        }
    };
}

/// Vectors `distance` floats apart; of the last only `n` lanes.
#[inline(always)]
unsafe fn load<S: Simd, const N: usize>(from: *const f32, distance: usize, n: usize) -> [S::V; N] {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let mut list = [S::splat(0.0); N];
        for (i, slot) in list.iter_mut().enumerate() {
            *slot = S::load_up_to(from.wrapping_add(i * distance), n);
        }
        list
    }
}

/// Vectors next to each other; of the last only `n` lanes.
#[inline(always)]
unsafe fn store<S: Simd, const N: usize>(to: *mut f32, list: [S::V; N], n: usize) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        for (i, v) in list.into_iter().enumerate() {
            S::store_up_to(to.wrapping_add(i * S::LANES), v, n);
        }
    }
}

/// `a * b + c`, vector by vector.
#[inline(always)]
unsafe fn fma<S: Simd, const N: usize>(a: [S::V; N], b: [S::V; N], mut c: [S::V; N]) -> [S::V; N] {
    // SAFETY: numbers in vectors ask for the instruction set alone, which the caller owes.
    unsafe {
        for ((c, a), b) in c.iter_mut().zip(a).zip(b) {
            *c = S::fma(a, b, *c);
        }
        c
    }
}

/// A step of an LSTM.
///
/// # Safety
/// The processor has the instruction set of `S`, and every pointer of `p` is valid for what the fields describe.
#[inline(always)]
pub(crate) unsafe fn lstm<S: Simd>(p: &Moment) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let sums = Sums {
            state: p.hidden,
            state_row: p.hidden_row,
            weights: p.weights,
            step: 4 * S::LANES,
            gates: p.gates,
            gates_row: p.gates_row,
        };
        sum_up!(p, sums, 4, 4, [1, 1, 2]);
        apply_all!(p, lstm_units);
    }
}

#[inline(always)]
unsafe fn lstm_units<S: Simd, const N: usize>(p: &Moment, row: usize, unit: usize, n: usize) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let [f, g, h] = p.activations;
        let gates = p.gates.wrapping_add(row * p.gates_row + unit * 4).cast_const();
        let cell = p.cell.wrapping_add(row * p.cell_row + unit);
        let old = load::<S, N>(cell, S::LANES, n);
        let gate = |index: usize| (gates.wrapping_add(index * S::LANES), 4 * S::LANES);
        let hole = |index: usize| (p.peepholes.wrapping_add(unit * 3 + index * S::LANES), 3 * S::LANES);
        macro_rules! sum {
            ($index:literal, $hole:literal, $state:expr) => {{
                let (at, distance) = gate($index);
                let sums = load::<S, N>(at, distance, S::LANES);
                if p.peepholes.is_null() {
                    sums
                } else {
                    let (at, distance) = hole($hole);
                    fma::<S, N>(load::<S, N>(at, distance, S::LANES), $state, sums)
                }
            }};
        }
        let i = bounded::<S, N>(p, f, sum!(0, 0, old));
        let (at, distance) = gate(3);
        let c = bounded::<S, N>(p, g, load::<S, N>(at, distance, S::LANES));
        let mut forget = i;
        if p.input_forget {
            each!(forget, i => S::sub(S::splat(1.0), i));
        } else {
            forget = bounded::<S, N>(p, f, sum!(2, 2, old));
        }
        let new = fma::<S, N>(forget, old, fma::<S, N>(i, c, [S::splat(0.0); N]));
        store::<S, N>(cell, new, n);
        let o = bounded::<S, N>(p, f, sum!(1, 1, new));
        let hidden = fma::<S, N>(o, apply::<S, N>(h, new), [S::splat(0.0); N]);
        store::<S, N>(p.output.wrapping_add(row * p.output_row + unit), hidden, n);
    }
}

/// A step of a GRU.
///
/// # Safety
/// As [`lstm`].
#[inline(always)]
pub(crate) unsafe fn gru<S: Simd>(p: &Moment) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let padded = p.units.next_multiple_of(S::LANES);
        let resets = Sums {
            state: p.hidden,
            state_row: p.hidden_row,
            weights: p.weights,
            step: 2 * S::LANES,
            gates: p.gates,
            gates_row: p.gates_row,
        };
        sum_up!(p, resets, 3, 2, [1, 2, 4]);
        let last = Sums { weights: p.weights.wrapping_add(2 * padded * p.units), step: S::LANES, ..resets };
        if p.separate {
            for row in 0..p.rows {
                std::ptr::copy_nonoverlapping(p.bias, p.scratch.wrapping_add(row * padded), padded);
            }
            sum_up!(p, Sums { gates: p.scratch, gates_row: padded, ..last }, 1, 1, [2, 4, 8]);
        } else {
            apply_all!(p, reset_units);
            let gates = p.gates.wrapping_add(2 * S::LANES);
            sum_up!(p, Sums { state: p.scratch, state_row: padded, gates, ..last }, 3, 1, [2, 4, 8]);
        }
        apply_all!(p, gru_units);
    }
}

/// The hidden state times gate r.
#[inline(always)]
unsafe fn reset_units<S: Simd, const N: usize>(p: &Moment, row: usize, unit: usize, n: usize) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let gates = p.gates.wrapping_add(row * p.gates_row + unit * 3 + S::LANES);
        let r = bounded::<S, N>(p, p.activations[0], load::<S, N>(gates, 3 * S::LANES, S::LANES));
        let old = load::<S, N>(p.hidden.wrapping_add(row * p.hidden_row + unit), S::LANES, n);
        let to = p.scratch.wrapping_add(row * p.units.next_multiple_of(S::LANES) + unit);
        store::<S, N>(to, fma::<S, N>(r, old, [S::splat(0.0); N]), S::LANES);
    }
}

/// `(1 - z) * h + z * hidden`.
#[inline(always)]
unsafe fn gru_units<S: Simd, const N: usize>(p: &Moment, row: usize, unit: usize, n: usize) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let [f, g, _] = p.activations;
        let gates = p.gates.wrapping_add(row * p.gates_row + unit * 3);
        let gate = |index: usize| gates.wrapping_add(index * S::LANES).cast_const();
        let mut h = load::<S, N>(gate(2), 3 * S::LANES, S::LANES);
        if p.separate {
            let r = bounded::<S, N>(p, f, load::<S, N>(gate(1), 3 * S::LANES, S::LANES));
            let from = p.scratch.wrapping_add(row * p.units.next_multiple_of(S::LANES) + unit);
            h = fma::<S, N>(r, load::<S, N>(from, S::LANES, S::LANES), h);
        }
        let h = bounded::<S, N>(p, g, h);
        let z = bounded::<S, N>(p, f, load::<S, N>(gate(0), 3 * S::LANES, S::LANES));
        let old = load::<S, N>(p.hidden.wrapping_add(row * p.hidden_row + unit), S::LANES, n);
        let mut rest = z;
        each!(rest, z => S::sub(S::splat(1.0), z));
        let next = fma::<S, N>(z, old, fma::<S, N>(rest, h, [S::splat(0.0); N]));
        store::<S, N>(p.output.wrapping_add(row * p.output_row + unit), next, n);
    }
}

/// A step of an RNN.
///
/// # Safety
/// As [`lstm`].
#[inline(always)]
pub(crate) unsafe fn rnn<S: Simd>(p: &Moment) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let sums = Sums {
            state: p.hidden,
            state_row: p.hidden_row,
            weights: p.weights,
            step: S::LANES,
            gates: p.gates,
            gates_row: p.gates_row,
        };
        sum_up!(p, sums, 1, 1, [2, 4, 8]);
        apply_all!(p, rnn_units);
    }
}

#[inline(always)]
unsafe fn rnn_units<S: Simd, const N: usize>(p: &Moment, row: usize, unit: usize, n: usize) {
    // SAFETY: the caller owes the instruction set, and memory for all that the parameters describe.
    unsafe {
        let gates = p.gates.wrapping_add(row * p.gates_row + unit);
        let next = bounded::<S, N>(p, p.activations[0], load::<S, N>(gates, S::LANES, S::LANES));
        store::<S, N>(p.output.wrapping_add(row * p.output_row + unit), next, n);
    }
}
