//! Recurrent layers.

use super::{At, Operand};
use crate::kernel::recurrent::Gate;

/// What a recurrent layer computes in a step in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Gates i, o, f, c.
    Lstm {
        /// The forget gate is `1 - i`.
        input_forget: bool,
    },
    /// Gates z, r, h.
    Gru {
        /// The products of gate h are summed before they are multiplied by r.
        separate: bool,
    },
    /// One gate.
    Rnn,
}

impl Cell {
    /// How many gates it has.
    pub(crate) const fn gates(self) -> usize {
        match self {
            Self::Lstm { .. } => 4,
            Self::Gru { .. } => 3,
            Self::Rnn => 1,
        }
    }
}

/// States of a recurrent layer, `[units]` for each row and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The first direction's first row.
    pub(crate) at: Operand,
    /// From one row to the next.
    pub(crate) row: usize,
    /// From one direction to the next.
    pub(crate) direction: usize,
}

/// LSTM, GRU or RNN over a sequence, from what its input adds to the gates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recurrent {
    /// What is computed.
    pub(crate) cell: Cell,
    /// Units of the hidden state.
    pub(crate) units: usize,
    /// Steps in time.
    pub(crate) steps: usize,
    /// Rows of the batch.
    pub(crate) rows: usize,
    /// For each direction whether time runs backwards, and its activations.
    pub(crate) directions: Vec<(bool, [Gate; 3])>,
    /// What the input and biases add, `[directions][panels][gates][LANES]` for each step and row; overwritten.
    pub(crate) gates: At,
    /// From one step to the next.
    pub(crate) gates_step: usize,
    /// From one row to the next.
    pub(crate) gates_row: usize,
    /// Factors of the hidden state among the constants, as the kernel reads them, `units` times all gates for each
    /// direction.
    pub(crate) weights: usize,
    /// LSTM: factors of the cell state among the constants, `[directions][panels][3][LANES]`.
    pub(crate) peepholes: Option<usize>,
    /// GRU: the bias of gate h that belongs to the hidden state, among the constants, `[directions][panels][LANES]`.
    pub(crate) bias: usize,
    /// How many steps each row has (`i32`); `None` for all.
    pub(crate) lengths: Option<Operand>,
    /// The hidden state at first.
    pub(crate) first_hidden: State,
    /// LSTM: the cell state at first.
    pub(crate) first_cell: State,
    /// The hidden state after each step, `[units]` for each step, direction and row.
    pub(crate) output: At,
    /// From one step to the next.
    pub(crate) output_step: usize,
    /// From one row to the next.
    pub(crate) output_row: usize,
    /// From one direction to the next.
    pub(crate) output_direction: usize,
    /// The hidden state in the end, laid out as `last_cell`.
    pub(crate) last_hidden: At,
    /// LSTM: the cell state in the end, and meanwhile.
    pub(crate) last_cell: At,
    /// From one row to the next in states in the end.
    pub(crate) last_row: usize,
    /// From one direction to the next in states in the end.
    pub(crate) last_direction: usize,
    /// GRU: `[rows][panels * LANES]`.
    pub(crate) scratch: Option<At>,
    /// What goes into activations is held between this and its negative.
    pub(crate) bound: f32,
}
