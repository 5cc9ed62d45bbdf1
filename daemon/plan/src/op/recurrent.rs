//! LSTM, GRU and RNN over a sequence.

use agentd_types::Datatype;

use super::{Inputs, Rule, Unary, conv::one, need_float, need_shape, need_type, same_type};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    op::unary::sigmoid,
};

/// What a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Gates i, o, f, c.
    Lstm {
        /// The forget gate is `1 - i`.
        input_forget: bool,
    },
    /// Gates z, r, h.
    Gru {
        /// The hidden product is computed before it is multiplied by r.
        linear_before_reset: bool,
    },
    /// One gate.
    Rnn,
}

impl Cell {
    /// How many gates it has.
    pub const fn gates(self) -> usize {
        match self {
            Self::Lstm { .. } => 4,
            Self::Gru { .. } => 3,
            Self::Rnn => 1,
        }
    }

    const fn activations(self) -> usize {
        match self {
            Self::Lstm { .. } => 3,
            Self::Gru { .. } => 2,
            Self::Rnn => 1,
        }
    }
}

/// In which order steps run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// First to last.
    Forward,
    /// Last to first.
    Reverse,
    /// Both; two sets of weights.
    Both,
}

impl Direction {
    /// How many sets of weights there are.
    pub const fn count(self) -> usize {
        match self {
            Self::Forward | Self::Reverse => 1,
            Self::Both => 2,
        }
    }
}

/// A recurrent layer. S steps, N batch, I features, H hidden size, G gates, D directions.
///
/// Inputs: x `[S, N, I]`, w `[D, G H, I]`, r `[D, G H, H]`, bias `[D, 2 G H]` or absent, lengths `[N]` (`INT32`) or absent,
/// first hidden state `[D, N, H]` or absent; for LSTM also the first cell state `[D, N, H]` or absent and the peepholes
/// `[D, 3 H]` (i, o, f) or absent. Outputs: y `[S, D, N, H]`, last hidden state `[D, N, H]`, for LSTM last cell state.
/// With `batch_first` x is `[N, S, I]`, states are `[N, D, H]` and y is `[N, S, D, H]`. Floats. Nothing is kept between runs.
///
/// Source: ONNX, LSTM 14, GRU 14, RNN 14.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    /// What a step computes.
    pub cell: Cell,
    /// In which order.
    pub direction: Direction,
    /// H.
    pub hidden: usize,
    /// Activations of each direction: LSTM f, g, h; GRU f, g; RNN f.
    pub activations: Vec<Unary>,
    /// Bound of what goes into activations; infinite for none.
    pub clip: f32,
    /// The batch is axis 0.
    pub batch_first: bool,
}

struct Sizes {
    steps: usize,
    batch: usize,
    features: usize,
}

impl Recurrent {
    fn sizes(&self, x: &[usize]) -> Result<Sizes, PlanError> {
        let [a, b, features] = x else {
            return Err(PlanError::shape(format!("a sequence of shape {x:?}")));
        };
        let (steps, batch) = if self.batch_first { (*b, *a) } else { (*a, *b) };
        Ok(Sizes { steps, batch, features: *features })
    }

    fn state(&self, batch: usize) -> [usize; 3] {
        let directions = self.direction.count();
        if self.batch_first { [batch, directions, self.hidden] } else { [directions, batch, self.hidden] }
    }
}

impl Rule for Recurrent {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        let is_lstm = matches!(self.cell, Cell::Lstm { .. });
        inputs.arity(3..=if is_lstm { 8 } else { 6 })?;
        let x = inputs.need(0)?;
        need_float(x)?;
        let sizes = self.sizes(&x.shape)?;
        let (d, h) = (self.direction.count(), self.hidden);
        let gates = self.cell.gates().checked_mul(h).filter(|gates| *gates > 0 && *gates <= 1 << 24);
        let gates = gates.ok_or_else(|| PlanError::attribute(format!("a hidden size of {h}")))?;
        if self.activations.len() != d * self.cell.activations() || self.clip.is_nan() {
            return Err(PlanError::attribute("activations of another number than gates"));
        }
        // That x has as many features as w is what keeps kernels inside their weights.
        need_shape(inputs.need(1)?, &[d, gates, sizes.features])?;
        need_shape(inputs.need(2)?, &[d, gates, h])?;
        let state = self.state(sizes.batch);
        for (index, shape) in
            [(3, &[d, 2 * gates][..]), (4, &[sizes.batch]), (5, &state), (6, &state), (7, &[d, 3 * h])]
        {
            if let Some(fact) = inputs.get(index) {
                need_shape(fact, shape)?;
                if index == 4 { need_type(fact, Datatype::Int32)? } else { same_type(x, fact)? }
            }
        }
        same_type(x, inputs.need(1)?)?;
        same_type(x, inputs.need(2)?)?;
        let y = if self.batch_first {
            [sizes.batch, sizes.steps, d, h]
        } else {
            [sizes.steps, d, sizes.batch, h]
        };
        let states = if is_lstm { 2 } else { 1 };
        Ok([x.shaped(y)].into_iter().chain(vec![x.shaped(state); states]).collect())
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let x_array = inputs.need(0)?;
        let sizes = self.sizes(x_array.shape())?;
        let list = |index| inputs.get(index).map(Array::reals).transpose();
        let (x, w, r) = (x_array.reals()?, inputs.need(1)?.reals()?, inputs.need(2)?.reals()?);
        let (bias, first_h, first_c, peepholes) = (list(3)?, list(5)?, list(6)?, list(7)?);
        let lengths = inputs.get(4).map(Array::ints).transpose()?;
        let (h, gates, d) = (self.hidden, self.cell.gates() * self.hidden, self.direction.count());
        let mut y = vec![0.0; one(outputs)?.elements()];
        let mut last_h = vec![0.0; d * sizes.batch * h];
        let mut last_c = last_h.clone();
        let state_at = |direction: usize, n: usize| {
            if self.batch_first { n * d + direction } else { direction * sizes.batch + n }
        };
        for direction in 0..d {
            let reverse = self.direction == Direction::Reverse || direction == 1;
            let weights = Weights {
                w: part(&w, direction, gates * sizes.features),
                r: part(&r, direction, gates * h),
                bias: bias.as_ref().map(|bias| part(bias, direction, 2 * gates)),
                peepholes: peepholes.as_ref().map(|list| part(list, direction, 3 * h)),
                activations: self.activations.get(direction * self.cell.activations()..).unwrap_or_default(),
            };
            for n in 0..sizes.batch {
                let place = state_at(direction, n);
                let start = |list: &Option<Vec<f64>>| {
                    list.as_ref().map_or(vec![0.0; h], |list| part(list, place, h).to_vec())
                };
                let (mut hidden, mut cell) = (start(&first_h), start(&first_c));
                let length = lengths.as_ref().and_then(|lengths| lengths.get(n)).copied();
                let length = length
                    .map_or(sizes.steps, |length| usize::try_from(length).unwrap_or(0).min(sizes.steps));
                for step in 0..length {
                    let step = if reverse { length - 1 - step } else { step };
                    let token =
                        if self.batch_first { n * sizes.steps + step } else { step * sizes.batch + n };
                    self.step(&weights, part(&x, token, sizes.features), &mut hidden, &mut cell);
                    let out = if self.batch_first {
                        token * d + direction
                    } else {
                        (step * d + direction) * sizes.batch + n
                    };
                    if let Some(slot) = y.get_mut(out * h..(out + 1) * h) {
                        slot.copy_from_slice(&hidden);
                    }
                }
                for (last, state) in [(&mut last_h, &hidden), (&mut last_c, &cell)] {
                    if let Some(slot) = last.get_mut(place * h..(place + 1) * h) {
                        slot.copy_from_slice(state);
                    }
                }
            }
        }
        let results = outputs.iter().zip([y, last_h, last_c]);
        results.map(|(fact, items)| Array::from_reals(fact.datatype, fact.shape.clone(), items)).collect()
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        let features = inputs.get(0).and_then(|x| x.shape.last()).copied().unwrap_or(0);
        let per_output = (features + self.hidden).saturating_mul(self.cell.gates()) as u64;
        outputs.first().map_or(0, |y| y.elements() as u64).saturating_mul(per_output)
    }
}

/// The weights of one direction.
struct Weights<'a> {
    w: &'a [f64],
    r: &'a [f64],
    bias: Option<&'a [f64]>,
    peepholes: Option<&'a [f64]>,
    activations: &'a [Unary],
}

fn part(list: &[f64], index: usize, size: usize) -> &[f64] {
    list.get(index * size..(index + 1) * size).unwrap_or_default()
}

fn get(list: &[f64], index: usize) -> f64 {
    list.get(index).copied().unwrap_or(0.0)
}

impl Weights<'_> {
    /// Row `row` of w times x, with the first bias.
    fn input_product(&self, row: usize, x: &[f64]) -> f64 {
        dot(part(self.w, row, x.len()), x) + self.bias.map_or(0.0, |bias| get(bias, row))
    }

    /// Row `row` of r times the hidden state, with the second bias.
    fn hidden_product(&self, row: usize, hidden: &[f64]) -> f64 {
        let biases = self.bias.map_or(0.0, |bias| get(bias, bias.len() / 2 + row));
        dot(part(self.r, row, hidden.len()), hidden) + biases
    }

    fn peephole(&self, gate: usize, unit: usize, hidden: usize) -> f64 {
        self.peepholes.map_or(0.0, |list| get(list, gate * hidden + unit))
    }

    fn activate(&self, which: usize, x: f64) -> f64 {
        self.activations.get(which).map_or_else(|| sigmoid(x), |activation| activation.apply(x))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Recurrent {
    fn bounded(&self, x: f64) -> f64 {
        let bound = f64::from(self.clip.abs());
        if x.is_nan() { x } else { x.clamp(-bound, bound) }
    }

    fn step(&self, weights: &Weights<'_>, x: &[f64], hidden: &mut Vec<f64>, cell: &mut [f64]) {
        let h = self.hidden;
        let gate = |gate: usize, unit: usize, hidden: &[f64]| {
            weights.input_product(gate * h + unit, x) + weights.hidden_product(gate * h + unit, hidden)
        };
        match self.cell {
            Cell::Rnn => {
                *hidden =
                    (0..h).map(|unit| weights.activate(0, self.bounded(gate(0, unit, hidden)))).collect();
            }
            Cell::Lstm { input_forget } => {
                let mut next = Vec::with_capacity(h);
                for unit in 0..h {
                    let old = get(cell, unit);
                    let i = gate(0, unit, hidden) + weights.peephole(0, unit, h) * old;
                    let i = weights.activate(0, self.bounded(i));
                    let f = gate(2, unit, hidden) + weights.peephole(2, unit, h) * old;
                    let f = if input_forget { 1.0 - i } else { weights.activate(0, self.bounded(f)) };
                    let c = weights.activate(1, self.bounded(gate(3, unit, hidden)));
                    let new = f * old + i * c;
                    let o = gate(1, unit, hidden) + weights.peephole(1, unit, h) * new;
                    let o = weights.activate(0, self.bounded(o));
                    if let Some(slot) = cell.get_mut(unit) {
                        *slot = new;
                    }
                    next.push(o * weights.activate(2, new));
                }
                *hidden = next;
            }
            Cell::Gru { linear_before_reset } => {
                let gates = |which: usize| -> Vec<f64> {
                    (0..h).map(|unit| weights.activate(0, self.bounded(gate(which, unit, hidden)))).collect()
                };
                let (z, r) = (gates(0), gates(1));
                let reset: Vec<f64> = hidden.iter().zip(&r).map(|(hidden, r)| hidden * r).collect();
                let next = (0..h).map(|unit| {
                    let row = 2 * h + unit;
                    let product = if linear_before_reset {
                        get(&r, unit) * weights.hidden_product(row, hidden)
                    } else {
                        weights.hidden_product(row, &reset)
                    };
                    let new = weights.activate(1, self.bounded(weights.input_product(row, x) + product));
                    (1.0 - get(&z, unit)) * new + get(&z, unit) * get(hidden, unit)
                });
                *hidden = next.collect();
            }
        }
    }
}
