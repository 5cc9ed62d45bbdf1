//! Recurrent layers, step by step in time.

use super::Run;
use crate::{
    kernel::recurrent::Moment,
    step::{Cell, Recurrent, State},
};

/// Some rows of one direction.
#[derive(Clone, Copy)]
struct Part {
    direction: usize,
    first_row: usize,
    rows: usize,
    /// Steps that these rows have.
    length: usize,
}

impl Run<'_> {
    pub(super) fn recurrent(&self, r: &Recurrent) {
        for direction in 0..r.directions.len() {
            let Some(lengths) = r.lengths else {
                self.part(r, Part { direction, first_row: 0, rows: r.rows, length: r.steps });
                continue;
            };
            for first_row in 0..r.rows {
                let from = self.operand(lengths).cast::<i32>().wrapping_add(first_row);
                // SAFETY: the verifier proved a number for each row.
                let length = unsafe { from.read() };
                let length = usize::try_from(length).unwrap_or(0).min(r.steps);
                self.part(r, Part { direction, first_row, rows: 1, length });
            }
        }
    }

    fn part(&self, r: &Recurrent, part: Part) {
        let output = |step: usize| self.output_of(r, part, step);
        let is_lstm = matches!(r.cell, Cell::Lstm { .. });
        let last = part.direction * r.last_direction + part.first_row * r.last_row;
        if is_lstm {
            let (from, row) = self.state(r.first_cell, part);
            self.copy_rows(r, part.rows, (from, row), (self.at(r.last_cell).wrapping_add(last), r.last_row));
        }
        let backwards = r.directions.get(part.direction).is_some_and(|(backwards, _)| *backwards);
        let (mut hidden, mut hidden_row) = self.state(r.first_hidden, part);
        for turn in 0..part.length {
            let step = if backwards { part.length - 1 - turn } else { turn };
            self.moment(r, part, step, turn % 2 == 1, (hidden, hidden_row));
            (hidden, hidden_row) = (output(step).cast_const(), r.output_row);
        }
        self.copy_rows(
            r,
            part.rows,
            (hidden, hidden_row),
            (self.at(r.last_hidden).wrapping_add(last), r.last_row),
        );
        for step in part.length..r.steps {
            for row in 0..part.rows {
                let to = output(step).wrapping_add(row * r.output_row);
                // SAFETY: the verifier proved `units` floats of output for every step, direction and row.
                unsafe { to.write_bytes(0, r.units) }
            }
        }
    }

    fn output_of(&self, r: &Recurrent, part: Part, step: usize) -> *mut f32 {
        let place =
            step * r.output_step + part.direction * r.output_direction + part.first_row * r.output_row;
        self.at(r.output).wrapping_add(place)
    }

    /// The first row of a part in a state, and the distance between rows.
    fn state(&self, state: State, part: Part) -> (*const f32, usize) {
        let place = part.direction * state.direction + part.first_row * state.row;
        (self.operand(state.at).wrapping_add(place), state.row)
    }

    /// Copies rows of states.
    fn copy_rows(&self, r: &Recurrent, rows: usize, from: (*const f32, usize), to: (*mut f32, usize)) {
        for row in 0..rows {
            let (from, to) = (from.0.wrapping_add(row * from.1), to.0.wrapping_add(row * to.1));
            // SAFETY: the verifier proved `units` floats of every state for every row and direction; `copy` allows overlap.
            unsafe { std::ptr::copy(from, to, r.units) }
        }
    }

    fn moment(
        &self,
        r: &Recurrent,
        part: Part,
        step: usize,
        backwards: bool,
        (hidden, hidden_row): (*const f32, usize),
    ) {
        let Some((_, activations)) = r.directions.get(part.direction) else { return };
        let padded = r.units.next_multiple_of(self.kernels.lanes);
        let gates = r.cell.gates() * padded;
        let place = step * r.gates_step + part.first_row * r.gates_row + part.direction * gates;
        let last = part.direction * r.last_direction + part.first_row * r.last_row;
        let (kernel, input_forget, separate) = match r.cell {
            Cell::Lstm { input_forget } => (self.kernels.lstm, input_forget, false),
            Cell::Gru { separate } => (self.kernels.gru, false, separate),
            Cell::Rnn => (self.kernels.rnn, false, false),
        };
        let p = Moment {
            rows: part.rows,
            units: r.units,
            gates: self.at(r.gates).wrapping_add(place),
            gates_row: r.gates_row,
            hidden,
            hidden_row,
            output: self.output_of(r, part, step),
            output_row: r.output_row,
            cell: self.at(r.last_cell).wrapping_add(last),
            cell_row: r.last_row,
            weights: self.constant(r.weights + part.direction * gates * r.units),
            peepholes: r
                .peepholes
                .map_or(std::ptr::null(), |start| self.constant(start + part.direction * 3 * padded)),
            bias: self.constant(r.bias + part.direction * padded),
            scratch: r.scratch.map_or(std::ptr::null_mut(), |at| self.at(at)),
            separate,
            input_forget,
            backwards,
            bound: r.bound,
            activations: *activations,
        };
        // SAFETY: the processor has the plan's instruction set; the verifier proved gates, states and output of every
        // step, direction and row, the packed weights, and what else the cell needs; the hidden state before is that at
        // first, or the output of another step.
        unsafe { kernel(&p) }
    }
}
