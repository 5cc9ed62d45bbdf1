//! What a recurrent layer touches.

use super::{Touches, end};
use crate::{
    kernel::isa::Kernels,
    step::{Cell, Operand, Recurrent, State},
};

impl Touches {
    pub(super) fn recurrent(&mut self, r: &Recurrent, kernels: &Kernels) -> Option<()> {
        let directions = r.directions.len();
        let padded = r.units.checked_next_multiple_of(kernels.lanes)?;
        let gates = padded.checked_mul(r.cell.gates())?.checked_mul(directions)?;
        (gates > 0 && r.steps > 0 && r.rows > 0).then_some(())?;
        self.buffer(r.gates, 0, &[(r.steps, r.gates_step), (r.rows, r.gates_row)], gates);
        self.constant(r.weights, gates.checked_mul(r.units)?);
        let states = [(directions, r.last_direction), (r.rows, r.last_row)];
        match r.cell {
            Cell::Lstm { .. } => {
                if let Some(start) = r.peepholes {
                    self.constant(start, padded.checked_mul(3)?.checked_mul(directions)?);
                }
                self.state(&r.first_cell, r);
                self.buffer(r.last_cell, 0, &states, r.units);
            }
            Cell::Gru { separate } => {
                if separate {
                    self.constant(r.bias, padded.checked_mul(directions)?);
                }
                self.at(r.scratch?, r.rows.checked_mul(padded)?);
            }
            Cell::Rnn => {}
        }
        match r.lengths {
            Some(Operand::Buffer(at)) => self.at(at, r.rows),
            Some(Operand::Constant(start)) => self.constant(start, r.rows),
            None => {}
        }
        self.state(&r.first_hidden, r);
        self.buffer(r.last_hidden, 0, &states, r.units);
        let steps = [(r.steps, r.output_step), (directions, r.output_direction), (r.rows, r.output_row)];
        self.buffer(r.output, 0, &steps, r.units);
        Some(())
    }

    fn state(&mut self, state: &State, r: &Recurrent) {
        let loops = [(r.directions.len(), state.direction), (r.rows, state.row)];
        match state.at {
            Operand::Buffer(at) => self.buffer(at, 0, &loops, r.units),
            Operand::Constant(start) => self.constant(start, end(0, &loops, r.units)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentd_plan::{
        Array, Builder, Fact, Graph,
        op::{
            Recurrent as Layer, Unary,
            recurrent::{Cell as Kind, Direction},
        },
    };
    use agentd_types::Datatype::{Fp32, Int32};

    use crate::{
        lower::{Options, plan_of},
        step::{Cell, Operand, Recurrent, State, Step},
        verify::verify,
    };

    /// A layer in both directions over 3 steps and 2 rows, with everything that it can be given.
    fn graph(cell: Kind) -> Arc<Graph> {
        let gates = cell.gates() * 9;
        let mut b = Builder::new();
        let x = b.input("x", Fact::new(Fp32, vec![3, 2, 4])).unwrap();
        let lengths = b.input("lengths", Fact::new(Int32, vec![2])).unwrap();
        let hidden = b.input("h", Fact::new(Fp32, vec![2, 2, 9])).unwrap();
        let mut inputs = vec![Some(x)];
        for shape in [vec![2, gates, 4], vec![2, gates, 9], vec![2, 2 * gates]] {
            let items = vec![0.1_f32; shape.iter().product()];
            inputs.push(Some(b.constant("w", Array::new(shape, items).unwrap()).unwrap()));
        }
        inputs.extend([Some(lengths), Some(hidden)]);
        let mut activations = vec![Unary::Sigmoid, Unary::Tanh];
        if matches!(cell, Kind::Lstm { .. }) {
            activations.push(Unary::Tanh);
            let peepholes = Array::new(vec![2, 27], vec![0.1_f32; 54]).unwrap();
            inputs.extend([Some(hidden), Some(b.constant("p", peepholes).unwrap())]);
        }
        let activations = activations.repeat(2);
        let layer = Layer {
            cell,
            direction: Direction::Both,
            hidden: 9,
            activations,
            clip: f32::INFINITY,
            batch_first: false,
        };
        let y = b.node(layer, &inputs, "layer").unwrap()[0];
        b.output("y", y).unwrap();
        Arc::new(b.finish())
    }

    fn stretch(state: &mut State, kind: usize, far: usize) {
        match (kind % 3, &mut state.at) {
            (0, Operand::Buffer(at)) => at.start += far,
            (0, Operand::Constant(start)) => *start += far,
            (1, _) => state.row += far,
            _ => state.direction += far,
        }
    }

    /// Does something to a layer after which it would leave its memory.
    fn damage(r: &mut Recurrent, kind: usize, far: usize) {
        match kind % 20 {
            0 => r.units += far,
            1 => r.steps += far,
            2 => r.rows += far,
            3 => r.directions.extend_from_within(..),
            4 => r.directions.clear(),
            5 => r.gates.start += far,
            6 => r.gates_step += far,
            7 => r.gates_row += far,
            8 => r.weights += far,
            9 => match (&mut r.peepholes, &mut r.scratch) {
                (Some(start), _) => *start += far,
                (None, scratch) => *scratch = None,
            },
            10 => match (&mut r.scratch, r.cell) {
                (_, Cell::Gru { separate: true }) => r.bias += far,
                (Some(at), _) => at.start += far,
                (None, _) => r.output.buffer.0 += far,
            },
            11 => r.lengths = Some(Operand::Constant(far)),
            12 => stretch(&mut r.first_hidden, kind / 20, far),
            13 if r.peepholes.is_some() => stretch(&mut r.first_cell, kind / 20, far),
            14 if r.peepholes.is_some() => r.last_cell.start += far,
            13 | 14 => r.last_hidden.start += far,
            15 => r.last_row += far,
            16 => r.last_direction += far,
            17 => r.output_step += far,
            18 => r.output_row += far,
            _ => r.output_direction += far,
        }
    }

    #[test]
    fn damaged_layers_are_refused() {
        let kinds = [
            Kind::Lstm { input_forget: false },
            Kind::Gru { linear_before_reset: false },
            Kind::Gru { linear_before_reset: true },
        ];
        for (cell, turn) in kinds.into_iter().flat_map(|cell| (0..120_usize).map(move |turn| (cell, turn))) {
            let mut plan = plan_of(graph(cell), Options::default()).unwrap();
            let far = plan.arena + plan.constants.len() + turn;
            let layers = plan.steps.iter_mut().filter_map(|step| match step {
                Step::Recurrent(layer) => Some(layer),
                _ => None,
            });
            layers.for_each(|layer| damage(layer, turn, far));
            assert!(verify(plan).is_err(), "{cell:?}: turn {turn} was not refused");
            assert!(verify(plan_of(graph(cell), Options::default()).unwrap()).is_ok());
        }
    }
}
