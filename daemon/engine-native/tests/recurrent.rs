//! Recurrent layers against the reference interpreter, over random shapes, on each instruction set that this processor
//! has.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the test")]

use std::sync::Arc;

use agentd_engine_native::{Isa, Model, Options};
use agentd_plan::{
    Array, Builder, Fact, Numerics,
    op::{
        Recurrent, Unary,
        recurrent::{Cell, Direction},
    },
};
use agentd_types::Datatype::{Fp32, Int32};
use proptest::prelude::*;

/// Numbers that look random, in -1..1, the same for the same seed.
fn array(shape: &[usize], seed: u64) -> Array {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let items = (0..shape.iter().product()).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f32::from(u16::try_from(state >> 48).unwrap()) / 32768.0 - 1.0
    });
    Array::new(shape.to_vec(), items.collect::<Vec<f32>>()).unwrap()
}

/// What a layer is given besides its input and weights.
#[derive(Clone, Copy, Debug)]
struct Given {
    bias: bool,
    states: bool,
    peepholes: bool,
    /// Lengths: none, a constant, or an input.
    lengths: usize,
}

/// A layer with its sizes: steps, rows, features.
#[derive(Clone, Debug)]
struct Case {
    layer: Recurrent,
    sizes: (usize, usize, usize),
    given: Given,
    seed: u64,
}

impl Case {
    /// Holds all outputs against the interpreter's.
    fn check(&self) {
        let (steps, rows, features) = self.sizes;
        let (layer, given) = (&self.layer, self.given);
        let is_lstm = matches!(layer.cell, Cell::Lstm { .. });
        let (d, h) = (layer.direction.count(), layer.hidden);
        let gates = layer.cell.gates() * h;
        let (x_shape, state) = if layer.batch_first {
            ([rows, steps, features], [rows, d, h])
        } else {
            ([steps, rows, features], [d, rows, h])
        };
        let mut b = Builder::new();
        let mut feed = vec![array(&x_shape, self.seed)];
        let mut inputs = vec![Some(b.input("x", Fact::new(Fp32, x_shape.to_vec())).unwrap())];
        let constant =
            |b: &mut Builder, shape: &[usize]| Some(b.constant("w", array(shape, self.seed + 7)).unwrap());
        inputs.push(constant(&mut b, &[d, gates, features]));
        inputs.push(constant(&mut b, &[d, gates, h]));
        inputs.push(if given.bias { constant(&mut b, &[d, 2 * gates]) } else { None });
        let lengths = (0..rows).map(|row| i32::try_from((row * 7 + 3) % (steps + 2)).unwrap() - 1);
        let lengths = Array::new(vec![rows], lengths.collect::<Vec<i32>>()).unwrap();
        inputs.push(match given.lengths {
            0 => None,
            1 => Some(b.constant("lengths", lengths).unwrap()),
            _ => {
                feed.push(lengths);
                Some(b.input("lengths", Fact::new(Int32, vec![rows])).unwrap())
            }
        });
        for name in if is_lstm { &["h", "c"][..] } else { &["h"] } {
            inputs.push(given.states.then(|| {
                feed.push(array(&state, self.seed + 3));
                b.input(*name, Fact::new(Fp32, state.to_vec())).unwrap()
            }));
        }
        if is_lstm {
            inputs.push(if given.peepholes { constant(&mut b, &[d, 3 * h]) } else { None });
        }
        let outputs = b.node(layer.clone(), &inputs, "layer").unwrap();
        for (index, id) in outputs.iter().enumerate() {
            b.output(format!("y{index}"), *id).unwrap();
        }
        let graph = Arc::new(b.finish());
        let want = graph.run(&feed).unwrap();
        for isa in
            [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable].into_iter().filter(|isa| isa.available())
        {
            let mut model =
                Model::new(Arc::clone(&graph), Options { isa, numerics: Numerics::Fast }).unwrap();
            assert_eq!(model.fallbacks(), Vec::<&str>::new());
            // Twice: the second run finds the arena as the first left it.
            for _ in 0..2 {
                let got = model.run_arrays(&feed).unwrap();
                for (index, (want, got)) in want.iter().zip(&got).enumerate() {
                    assert_eq!(want.shape(), got.shape());
                    for (at, (w, g)) in want.reals().unwrap().iter().zip(&got.reals().unwrap()).enumerate() {
                        let near = (w - g).abs() <= 3e-5 * w.abs().max(1.0);
                        assert!(near, "{isa:?}: output {index}, element {at} is {g}, not {w}; {self:?}");
                    }
                }
            }
        }
    }
}

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        3 => any::<bool>().prop_map(|input_forget| Cell::Lstm { input_forget }),
        2 => any::<bool>().prop_map(|linear_before_reset| Cell::Gru { linear_before_reset }),
        1 => Just(Cell::Rnn),
    ]
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Forward), Just(Direction::Reverse), Just(Direction::Both)]
}

/// Activations of one direction; what grows without end is held in the case by short sequences.
fn activations(cell: Cell, other: Option<Unary>) -> Vec<Unary> {
    let other = other.unwrap_or(Unary::Tanh);
    match cell {
        Cell::Lstm { .. } => vec![Unary::Sigmoid, other, other],
        Cell::Gru { .. } => vec![Unary::Sigmoid, other],
        Cell::Rnn => vec![other],
    }
}

fn other() -> impl Strategy<Value = Option<Unary>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(Unary::Sigmoid)),
        1 => Just(Some(Unary::HardSigmoid { alpha: 0.3, beta: 0.4 })),
        1 => Just(Some(Unary::ScaledTanh { alpha: 0.7, beta: 0.6 })),
        1 => Just(Some(Unary::Softsign)),
        1 => Just(Some(Unary::Clip { low: -0.5, high: 0.7 })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_agree(
        (cell, direction, other) in (cell(), direction(), other()), sizes in (1..6_usize, 1..8_usize, 1..12_usize),
        hidden in 1..40_usize, clip in prop_oneof![Just(f32::INFINITY), Just(0.8_f32)], batch_first in any::<bool>(),
        (bias, states, peepholes) in any::<(bool, bool, bool)>(), lengths in 0..3_usize, seed in 0..1000_u64,
    ) {
        let activations = activations(cell, other).repeat(direction.count());
        let layer = Recurrent { cell, direction, hidden, activations, clip, batch_first };
        Case { layer, sizes, given: Given { bias, states, peepholes, lengths }, seed }.check();
    }
}

#[test]
fn activations_without_bounds_agree() {
    let all = [
        Unary::Relu,
        Unary::LeakyRelu { alpha: 0.1 },
        Unary::Elu { alpha: 0.5 },
        Unary::Affine { alpha: 0.4, beta: 0.1 },
    ];
    for (cell, unary) in
        [Cell::Lstm { input_forget: false }, Cell::Gru { linear_before_reset: true }, Cell::Rnn]
            .into_iter()
            .flat_map(|cell| all.map(|unary| (cell, unary)))
    {
        let layer = Recurrent {
            cell,
            direction: Direction::Both,
            hidden: 5,
            activations: activations(cell, Some(unary)).repeat(2),
            clip: f32::INFINITY,
            batch_first: false,
        };
        let given = Given { bias: true, states: true, peepholes: false, lengths: 0 };
        Case { layer, sizes: (3, 2, 4), given, seed: 5 }.check();
    }
}

#[test]
fn long_sequences_and_many_units_agree() {
    for (cell, hidden) in [
        (Cell::Lstm { input_forget: false }, 130),
        (Cell::Gru { linear_before_reset: false }, 100),
        (Cell::Gru { linear_before_reset: true }, 64),
        (Cell::Rnn, 70),
    ] {
        let layer = Recurrent {
            cell,
            direction: Direction::Forward,
            hidden,
            activations: activations(cell, None),
            clip: f32::INFINITY,
            batch_first: false,
        };
        let given = Given { bias: true, states: false, peepholes: false, lengths: 0 };
        // Weights as wide as these would make the state chaotic over many steps.
        Case { layer, sizes: (6, 5, 33), given, seed: 9 }.check();
    }
}
