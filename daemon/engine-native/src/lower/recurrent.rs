//! LSTM, GRU and RNN: one product for the input at all steps, then a step that walks through time.

use agentd_plan::{
    Array, Node, ValueId,
    op::{
        self, Unary,
        recurrent::{Cell as Kind, Direction},
    },
};

use super::{Lowering, product::Product};
use crate::{
    kernel::recurrent::Gate,
    pack,
    step::{Cell, Operand, Parts, Recurrent, State, Step, Weights},
};

/// The kernel's activation, where there is one.
fn gate(unary: Unary) -> Option<Gate> {
    Some(match unary {
        Unary::Sigmoid => Gate::Sigmoid,
        Unary::Tanh => Gate::Tanh { scale: 1.0, slope: 1.0 },
        Unary::ScaledTanh { alpha, beta } => Gate::Tanh { scale: alpha, slope: beta },
        Unary::Relu => Gate::Clamp { low: 0.0, high: f32::INFINITY },
        Unary::Clip { low, high } => Gate::Clamp { low, high },
        Unary::LeakyRelu { alpha } => Gate::LeakyRelu { slope: alpha },
        Unary::Elu { alpha } => Gate::Elu { slope: alpha },
        Unary::HardSigmoid { alpha, beta } => Gate::HardSigmoid { slope: alpha, offset: beta },
        Unary::Affine { alpha, beta } => Gate::Affine { slope: alpha, offset: beta },
        Unary::Softsign => Gate::Softsign,
        _ => return None,
    })
}

/// Each direction: whether time runs backwards, and its activations.
fn directions(layer: &op::Recurrent) -> Option<Vec<(bool, [Gate; 3])>> {
    let count = layer.direction.count();
    let each = layer.activations.len() / count;
    let one = |direction: usize| {
        let backwards = layer.direction == Direction::Reverse || direction == 1;
        let mut gates = [Gate::Sigmoid; 3];
        for (index, slot) in gates.iter_mut().enumerate().take(each) {
            *slot = gate(*layer.activations.get(direction * each + index)?)?;
        }
        Some((backwards, gates))
    };
    (0..count).map(one).collect()
}

/// The gates whose panels the kernel reads at once, in order.
const fn passes(cell: Cell) -> &'static [&'static [usize]] {
    match cell {
        Cell::Lstm { .. } => &[&[0, 1, 2, 3]],
        Cell::Gru { .. } => &[&[0, 1], &[2]],
        Cell::Rnn => &[&[0]],
    }
}

/// Sizes of a layer, and where a gate's unit is among the rows of its weights.
#[derive(Clone, Copy)]
struct Layer {
    cell: Cell,
    directions: usize,
    steps: usize,
    rows: usize,
    features: usize,
    units: usize,
    lanes: usize,
}

impl Layer {
    const fn panels(&self) -> usize {
        self.units.div_ceil(self.lanes)
    }

    /// Gates of all directions, in whole panels.
    const fn columns(&self) -> usize {
        self.directions * self.cell.gates() * self.panels() * self.lanes
    }

    /// The direction, gate and unit of a column, in the order `[direction][panel][gate][lane]`; `None` beyond the units.
    const fn column(&self, column: usize) -> Option<(usize, usize, usize)> {
        let (rest, lane) = (column / self.lanes, column % self.lanes);
        let (rest, gate) = (rest / self.cell.gates(), rest % self.cell.gates());
        let (direction, panel) = (rest / self.panels(), rest % self.panels());
        let unit = panel * self.lanes + lane;
        if unit < self.units { Some((direction, gate, unit)) } else { None }
    }

    const fn row(&self, (direction, gate, unit): (usize, usize, usize)) -> usize {
        (direction * self.cell.gates() + gate) * self.units + unit
    }

    /// One number for each gate of each unit.
    fn bias(&self, bias: &[f32]) -> Vec<f32> {
        let half = self.cell.gates() * self.units;
        let get = |place: usize| bias.get(place).copied().unwrap_or_default();
        let number = |place: (usize, usize, usize)| {
            let input = self.row(place) + place.0 * half;
            let apart = self.cell == Cell::Gru { separate: true } && place.1 == 2;
            get(input) + if apart { 0.0 } else { get(input + half) }
        };
        (0..self.columns()).map(|column| self.column(column).map_or(0.0, number)).collect()
    }

    /// Numbers of each unit, `lists` after each other for each direction, as `[directions][panels][lists][LANES]`.
    fn by_unit(&self, lists: usize, number: impl Fn(usize, usize, usize) -> f32) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.directions * lists * self.panels() * self.lanes);
        for direction in 0..self.directions {
            for first in (0..self.units).step_by(self.lanes) {
                for list in 0..lists {
                    let units = first..first + self.lanes;
                    all.extend(
                        units.map(|unit| if unit < self.units { number(direction, list, unit) } else { 0.0 }),
                    );
                }
            }
        }
        all
    }

    /// Factors of the hidden state, `[direction][pass][panel][unit before][gate][lane]`, into zeros.
    fn hidden_weights(&self, to: &mut [f32], weights: &[f32]) {
        let mut rest = to;
        for direction in 0..self.directions {
            for gates in passes(self.cell) {
                let wide = gates.len() * self.lanes;
                for first in (0..self.units).step_by(self.lanes) {
                    let Some((panel, after)) =
                        std::mem::take(&mut rest).split_at_mut_checked(self.units * wide)
                    else {
                        return;
                    };
                    rest = after;
                    let units = first..(first + self.lanes).min(self.units);
                    let lanes = gates.iter().zip(0..).flat_map(|(gate, turn)| {
                        let place = turn * self.lanes;
                        units.clone().map(move |unit| (place + unit - first, *gate, unit))
                    });
                    for (lane, gate, unit) in lanes {
                        let row = self.row((direction, gate, unit)) * self.units;
                        let from = weights.get(row..row + self.units).unwrap_or_default();
                        panel
                            .iter_mut()
                            .skip(lane)
                            .step_by(wide)
                            .zip(from)
                            .for_each(|(place, item)| *place = *item);
                    }
                }
            }
        }
    }
}

impl Lowering<'_> {
    pub(super) fn recurrent(&mut self, layer: &op::Recurrent, node: &Node) -> Option<()> {
        let id = |index: usize| node.inputs.get(index).copied().flatten();
        let (x, outputs) = (id(0)?, node.outputs.as_slice());
        let &[a, b, features] = self.fact(x).shape.as_slice() else { return None };
        let (steps, rows) = if layer.batch_first { (b, a) } else { (a, b) };
        let cell = match layer.cell {
            Kind::Lstm { input_forget } => Cell::Lstm { input_forget },
            Kind::Gru { linear_before_reset } => Cell::Gru { separate: linear_before_reset },
            Kind::Rnn => Cell::Rnn,
        };
        let directions = directions(layer)?;
        let sizes = Layer {
            cell,
            directions: directions.len(),
            steps,
            rows,
            features,
            units: layer.hidden,
            lanes: self.kernels.lanes,
        };
        // The input, its weights and those of the hidden state; what is absent is no numbers.
        let fixed = |index: usize| match id(index) {
            Some(id) => self.constant_of(Some(id)),
            None => Some(&[][..]),
        };
        let (w, r, bias, peepholes) = (self.array_of(id(1))?, self.array_of(id(2))?, fixed(3)?, fixed(7)?);
        let real = [id(0), id(5), id(6)].into_iter().flatten().all(|id| self.is_f32(id));
        (real && features > 0 && steps > 0 && rows > 0).then_some(())?;
        let lengths = self.lengths(id(4), steps)?;
        let gates = self.input_product(&sizes, x, w, bias)?;
        let length = sizes.columns() * sizes.units;
        let weights = self.packed(r, length, move |to, items| sizes.hidden_weights(to, items));
        let peepholes = (!peepholes.is_empty()).then(|| {
            let place =
                |direction: usize, list: usize, unit: usize| (direction * 3 + list) * layer.hidden + unit;
            let number = |d: usize, list: usize, unit: usize| peepholes.get(place(d, list, unit)).copied();
            sizes.by_unit(3, |d, list, unit| number(d, list, unit).unwrap_or_default())
        });
        let peepholes = peepholes.map(|items| self.constants(&items));
        let apart = sizes.by_unit(1, |direction, _, unit| {
            let place = (direction * 6 + 5) * layer.hidden + unit;
            bias.get(place).copied().unwrap_or_default()
        });
        let bias = if cell == (Cell::Gru { separate: true }) { self.constants(&apart) } else { 0 };
        let scratch = matches!(cell, Cell::Gru { .. })
            .then(|| self.buffer(rows * layer.hidden.next_multiple_of(sizes.lanes)));
        let (d, columns) = (sizes.directions, sizes.columns());
        let (h, all) = (layer.hidden, d * layer.hidden);
        let ((gates_row, gates_step), (output_row, output_step), (last_row, last_direction)) =
            if layer.batch_first {
                ((steps * columns, columns), (steps * all, all), (all, h))
            } else {
                ((columns, rows * columns), (h, rows * all), (h, rows * h))
            };
        let first_hidden = self.first_state(id(5), layer.hidden, (last_row, last_direction));
        let first_cell = match cell {
            Cell::Lstm { .. } => self.first_state(id(6), layer.hidden, (last_row, last_direction)),
            _ => first_hidden,
        };
        let output = self.new_plain(*outputs.first()?);
        let last_hidden = self.new_plain(*outputs.get(1)?);
        let last_cell = outputs.get(2).map_or(last_hidden, |id| self.new_plain(*id));
        self.push(Step::Recurrent(Box::new(Recurrent {
            cell,
            units: layer.hidden,
            steps,
            rows,
            directions,
            gates,
            gates_step,
            gates_row,
            weights,
            peepholes,
            bias,
            lengths,
            first_hidden,
            first_cell,
            output,
            output_step,
            output_row,
            output_direction: last_direction,
            last_hidden,
            last_cell,
            last_row,
            last_direction,
            scratch,
            bound: layer.clip.abs(),
        })));
        Some(())
    }

    /// What the input and biases add to the gates, at all steps: `[token][directions][panels][gates][LANES]`.
    fn input_product(
        &mut self,
        sizes: &Layer,
        x: ValueId,
        w: &Array,
        bias: &[f32],
    ) -> Option<crate::step::At> {
        let (tokens, columns) = (sizes.steps.checked_mul(sizes.rows)?, sizes.columns());
        let (kernels, sizes) = (self.kernels, *sizes);
        let length = pack::packed_length(sizes.features, columns, kernels.lanes);
        let start = self.packed(w, length, move |to, items| {
            pack::pack(to, (sizes.features, columns), kernels, |feature, column| {
                let place = sizes.column(column).map(|place| sizes.row(place) * sizes.features + feature);
                place.and_then(|place| items.get(place)).copied().unwrap_or_default()
            });
        });
        let weights = Weights::Packed { start };
        let bias = self.constants(&sizes.bias(bias));
        let gates = self.buffer(tokens.checked_mul(columns)?);
        let product = Product {
            a: self.plain(x),
            a_row: sizes.features,
            rows: tokens,
            inner: sizes.features,
            columns,
            output: gates,
            out_row: columns,
        };
        self.push(Step::Convolve(Box::new(product.step(weights, bias, Parts::ONE))));
        Some(gates)
    }

    /// How many steps each row has: `Some(None)` where all have all of them.
    fn lengths(&mut self, id: Option<ValueId>, steps: usize) -> Option<Option<Operand>> {
        let Some(id) = id else { return Some(None) };
        let Some(constant) = &self.graph.value(id).constant else {
            return Some(Some(Operand::Buffer(self.plain(id))));
        };
        let lengths = constant.items::<i32>()?;
        if lengths.iter().all(|length| usize::try_from(*length).is_ok_and(|length| length >= steps)) {
            return Some(None);
        }
        // Kept bit by bit among the floats.
        let bits: Vec<f32> = lengths.iter().map(|length| f32::from_bits(length.cast_unsigned())).collect();
        Some(Some(Operand::Constant(self.constants(&bits))))
    }

    /// A state at first: as given, or one row of zeros for all.
    fn first_state(&mut self, id: Option<ValueId>, units: usize, (row, direction): (usize, usize)) -> State {
        match id {
            Some(id) => State { at: self.operand(id), row, direction },
            None => {
                let zeros = self.channel_constants(None, units);
                State { at: Operand::Constant(zeros), row: 0, direction: 0 }
            }
        }
    }
}
