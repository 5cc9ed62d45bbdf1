//! Every operator with kernels against the reference interpreter, over random shapes, on each instruction set that
//! this processor has.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    reason = "what fails here fails the test"
)]

#[path = "differential/along.rs"]
mod along;
#[path = "differential/norm.rs"]
mod norm;
mod support;
#[path = "differential/threads.rs"]
mod threads;
#[path = "differential/transposed.rs"]
mod transposed;
#[path = "differential/typed.rs"]
mod typed;

use std::sync::Arc;

use agentd_engine_native::{Isa, Model, Options};
use agentd_plan::{
    Array, Builder, Fact, Graph, Numerics, Op, ValueId,
    op::{
        Attention, BatchNorm, Binary, Concat, Conv, Expand, LayerNorm, MatMul, Pool, Reduce, RmsNorm, Slice,
        Softmax, Transpose, Unary, Window,
        pool::PoolKind,
        reduce::ReduceKind,
        resize::{Coordinates, Interpolation, Resize, Rounding},
    },
};
use agentd_types::Datatype::Fp32;
use proptest::prelude::*;

/// Numbers that look random, in -1..1, the same for the same seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f32::from(u16::try_from(state >> 48).unwrap()) / 32768.0 - 1.0
        })
        .collect()
}

fn array(shape: &[usize], seed: u64) -> Array {
    Array::new(shape.to_vec(), numbers(shape.iter().product(), seed)).unwrap()
}

/// A graph in the making, of `f32`.
struct Net {
    builder: Builder,
    seed: u64,
}

impl Net {
    fn new(seed: u64) -> Self {
        Self { builder: Builder::new(), seed }
    }

    fn input(&mut self, shape: &[usize]) -> ValueId {
        let name = format!("x{}", self.seed);
        self.seed += 1;
        self.builder.input(name, Fact::new(Fp32, shape.to_vec())).unwrap()
    }

    fn constant(&mut self, shape: &[usize]) -> ValueId {
        self.seed += 1;
        self.builder.constant("c", array(shape, self.seed)).unwrap()
    }

    fn node(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.builder.node(op, &inputs, "node").unwrap()[0]
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.builder.get(id).unwrap().fact.shape.clone()
    }

    fn conv(
        &mut self,
        x: ValueId,
        columns: usize,
        window: Window,
        groups: usize,
        activation: Option<Unary>,
    ) -> ValueId {
        let channels = self.shape(x)[1];
        let mut shape = vec![columns, channels / groups];
        shape.extend(&window.kernel);
        let (w, b) = (self.constant(&shape), self.constant(&[columns]));
        self.node(Conv { window, groups, activation }, &[x, w, b])
    }

    fn finish(mut self, output: ValueId) -> Graph {
        self.builder.output("y", output).unwrap();
        self.builder.finish()
    }
}

fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable].into_iter().filter(|isa| isa.available())
}

/// Holds the native results against the interpreter's; `within` is relative to the largest number.
#[track_caller]
fn check_with(graph: Graph, inputs: &[Array], numerics: Numerics, within: f64, native: bool) {
    let want = graph.run(inputs).unwrap();
    let graph = Arc::new(graph);
    for isa in isas() {
        let mut model = Model::new(Arc::clone(&graph), Options { isa, numerics }).unwrap();
        if native {
            assert_eq!(model.fallbacks(), Vec::<&str>::new());
        }
        // Twice: the second run finds the arena as the first left it.
        for _ in 0..2 {
            let got = model.run_arrays(inputs).unwrap();
            for (want, got) in want.iter().zip(&got) {
                assert_eq!(want.shape(), got.shape());
                let (want, got) = (want.reals().unwrap(), got.reals().unwrap());
                let scale = want.iter().filter(|x| x.is_finite()).fold(1e-3_f64, |most, x| most.max(x.abs()));
                for (at, (w, g)) in want.iter().zip(&got).enumerate() {
                    let same = w.is_nan() && g.is_nan() || w == g || (w - g).abs() <= within * scale;
                    assert!(same, "{isa:?}: element {at} is {g}, not {w}");
                }
            }
        }
    }
}

#[track_caller]
fn check(graph: Graph, seed: u64) {
    let inputs: Vec<Array> = graph
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, id)| array(&graph.value(*id).fact.shape, seed + i as u64))
        .collect();
    check_with(graph, &inputs, Numerics::Fast, 2e-5, true);
}

fn window(
    k: (usize, usize),
    s: (usize, usize),
    d: (usize, usize),
    before: (usize, usize),
    after: (usize, usize),
) -> Window {
    Window {
        kernel: vec![k.0, k.1],
        strides: vec![s.0, s.1],
        dilations: vec![d.0, d.1],
        pads_begin: vec![before.0, before.1],
        pads_end: vec![after.0, after.1],
    }
}

fn pair(most: usize) -> impl Strategy<Value = (usize, usize)> {
    (1..=most, 1..=most)
}

fn interpolation() -> impl Strategy<Value = Interpolation> {
    prop_oneof![
        Just(Interpolation::Nearest(Rounding::PreferFloor)),
        Just(Interpolation::Nearest(Rounding::PreferCeil)),
        Just(Interpolation::Nearest(Rounding::Floor)),
        Just(Interpolation::Nearest(Rounding::Ceil)),
        Just(Interpolation::Linear),
    ]
}

fn activation() -> impl Strategy<Value = Option<Unary>> {
    prop_oneof![
        Just(None),
        Just(Some(Unary::Relu)),
        Just(Some(Unary::Clip { low: 0.0, high: 0.5 })),
        Just(Some(Unary::Swish { alpha: 1.0 })),
        Just(Some(Unary::HardSwish)),
        Just(Some(Unary::Gelu)),
        Just(Some(Unary::LeakyRelu { alpha: 0.1 })),
        Just(Some(Unary::Swish { alpha: 1.7 })),
        Just(Some(Unary::Softplus)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_agree(
        (n, c, m) in (1..3_usize, 1..40_usize, 1..40_usize), size in pair(20), k in pair(4), s in pair(3), d in pair(2),
        (before, after) in ((0..3_usize, 0..3_usize), (0..3_usize, 0..3_usize)), act in activation(), seed in 0..1000_u64,
    ) {
        let window = window(k, s, d, before, after);
        prop_assume!(window.output(&[size.0, size.1]).is_ok());
        let mut net = Net::new(seed);
        let x = net.input(&[n, c, size.0, size.1]);
        let first = net.conv(x, m, window, 1, act);
        // The second one reads a map with a halo.
        let second = net.conv(first, 9, self::window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), 1, None);
        check(net.finish(second), seed);
    }

    #[test]
    fn convolutions_of_many_lines_agree(
        (n, groups, c, m) in (1..9_usize, 1..3_usize, 1..12_usize, 1..12_usize), size in 1..20_usize, k in 1..5_usize,
        s in 1..3_usize, pad in 0..3_usize, act in activation(), seed in 0..1000_u64,
    ) {
        let line = |k: usize, s: usize, pad: usize| Window {
            strides: vec![s], pads_begin: vec![pad], pads_end: vec![pad], ..Window::new(vec![k])
        };
        prop_assume!(line(k, s, pad).output(&[size]).is_ok());
        let mut net = Net::new(seed);
        let x = net.input(&[n, groups * c, size]);
        let first = net.conv(x, groups * m, line(k, s, pad), groups, act);
        let second = net.conv(first, 9, line(3, 1, 1), 1, None);
        let (w, bias) = (net.constant(&[9, 9, 1]), net.constant(&[9]));
        let one = Conv { window: Window::new([1]), groups: 1, activation: act };
        let third = net.node(one, &[second, w, bias, second]);
        check(net.finish(third), seed);
    }

    #[test]
    fn grouped_and_depthwise_convolutions_agree(
        (groups, per_in, per_out) in (1..30_usize, 1..6_usize, 1..6_usize), size in pair(20), k in pair(5), s in pair(3),
        d in pair(2), pad in (0..3_usize, 0..3_usize), act in activation(), seed in 0..1000_u64,
    ) {
        let window = window(k, s, d, pad, pad);
        prop_assume!(window.output(&[size.0, size.1]).is_ok());
        let mut net = Net::new(seed);
        let x = net.input(&[1, groups * per_in, size.0, size.1]);
        let y = net.conv(x, groups * per_out, window.clone(), groups, act);
        check(net.finish(y), seed);
        let mut net = Net::new(seed);
        let x = net.input(&[2, groups + 1, size.0, size.1]);
        let y = net.conv(x, groups + 1, window, groups + 1, act);
        check(net.finish(y), seed);
    }

    #[test]
    fn winograd_agrees_and_strict_forbids_it(
        (c, m) in (32..50_usize, 32..50_usize), size in (14..23_usize, 14..23_usize), relu in any::<bool>(), seed in 0..1000_u64,
    ) {
        // No activation that holds results in a narrow range: the error is relative to the sums before it.
        let act = relu.then_some(Unary::Relu);
        let build = || {
            let mut net = Net::new(seed);
            let x = net.input(&[1, c, size.0, size.1]);
            let y = net.conv(x, m, window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), 1, act);
            net.finish(y)
        };
        let inputs = [array(&[1, c, size.0, size.1], seed)];
        check_with(build(), &inputs, Numerics::Fast, 4e-5, true);
        check_with(build(), &inputs, Numerics::Strict, 2e-6, true);
    }

    #[test]
    fn residuals_joins_and_scales_agree(
        (c, m) in (1..5_usize, 1..20_usize), size in pair(9), act in activation(), seed in 0..1000_u64,
    ) {
        let mut net = Net::new(seed);
        let x = net.input(&[1, c * 8, size.0, size.1]);
        let three = || window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1));
        let a = net.conv(x, c * 8, three(), 1, act);
        let b = net.conv(x, c * 16, window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0)), 1, None);
        let joined = net.node(Concat { axis: 1 }, &[a, b]);
        let w = net.constant(&[c * 24, c * 24, 1, 1]);
        let bias = net.constant(&[c * 24]);
        let one = Conv { window: Window::new([1, 1]), groups: 1, activation: act };
        let sum = net.node(one, &[joined, w, bias, joined]);
        let mean = net.node(Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep: true }, &[sum]);
        let gate = net.conv(mean, c * 24, Window::new([1, 1]), 1, Some(Unary::Sigmoid));
        let scaled = net.node(Binary::Mul, &[sum, gate]);
        let again = net.conv(scaled, m, three(), 1, None);
        let both = net.node(Binary::Add, &[again, again]);
        let offset = net.constant(&[m, 1, 1]);
        let shifted = net.node(Binary::Sub, &[both, offset]);
        check(net.finish(shifted), seed);
    }

    #[test]
    fn pools_and_norms_agree(
        (n, c) in (1..3_usize, 1..20_usize), size in pair(20), k in pair(4), s in pair(3), pad in (0..2_usize, 0..2_usize),
        kind in 0..3_usize, seed in 0..1000_u64,
    ) {
        let window = window(k, s, (1, 1), pad, pad);
        let Ok(output) = window.output(&[size.0, size.1]) else { return Ok(()) };
        prop_assume!(pad.0 < k.0 && pad.1 < k.1);
        let mut net = Net::new(seed);
        let x = net.input(&[n, c, size.0, size.1]);
        let parameters: Vec<ValueId> = (0..3).map(|_| net.constant(&[c])).collect();
        let variance = net.builder.constant("v", Array::new(vec![c], vec![0.5_f32; c]).unwrap()).unwrap();
        let x = net.node(BatchNorm { epsilon: 1e-5, activation: None }, &[x, parameters[0], parameters[1], parameters[2], variance]);
        let kind = [PoolKind::Max, PoolKind::Average { count_padding: false }, PoolKind::Average { count_padding: true }][kind];
        let y = net.node(Pool { kind, window, output, indices: None }, &[x]);
        check(net.finish(y), seed);
    }

    #[test]
    fn resizes_agree(
        (n, c) in (1..3_usize, 1..20_usize), size in pair(9), to in pair(20), interpolation in interpolation(),
        coordinates in 0..5_usize, halo in any::<bool>(), seed in 0..1000_u64,
    ) {
        let coordinates = [
            Coordinates::HalfPixel, Coordinates::HalfPixelSymmetric, Coordinates::PytorchHalfPixel,
            Coordinates::AlignCorners, Coordinates::Asymmetric,
        ][coordinates];
        let mut net = Net::new(seed);
        let x = net.input(&[n, c, size.0, size.1]);
        let first = net.conv(x, c, Window::new([1, 1]), 1, None);
        let scale = |to: usize, from: usize| f32::from(to as u16) / f32::from(from as u16);
        let resize = Resize {
            interpolation,
            coordinates,
            output: vec![n, c, to.0, to.1],
            scales: vec![1.0, 1.0, scale(to.0, size.0), scale(to.1, size.1)],
            region: Vec::new(),
            exclude_outside: false,
            extrapolation: 0.0,
            antialias: false,
        };
        let mut y = net.node(resize, &[first]);
        if halo {
            y = net.conv(y, 5, window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), 1, None);
        }
        check(net.finish(y), seed);
    }

    #[test]
    fn products_agree(
        (batch, m, k, n) in (1..4_usize, 1..20_usize, 1..40_usize, 1..40_usize), (ta, tb) in (any::<bool>(), any::<bool>()),
        alpha in prop_oneof![Just(1.0_f32), Just(0.5)], act in activation(), seed in 0..1000_u64,
    ) {
        let swap = |t: bool, a: usize, b: usize| if t { [b, a] } else { [a, b] };
        let op = MatMul { transpose_a: ta, transpose_b: tb, alpha, activation: act };
        let ([a0, a1], [b0, b1]) = (swap(ta, m, k), swap(tb, k, n));
        let mut net = Net::new(seed);
        let (a, b) = (net.input(&[batch, a0, a1]), net.constant(&[b0, b1]));
        let (bias, residual) = (net.constant(&[n]), net.input(&[batch, m, n]));
        let y = net.node(op.clone(), &[a, b, bias, residual]);
        check(net.finish(y), seed);
        for b_batch in [1, batch] {
            let mut net = Net::new(seed);
            let (a, b) = (net.input(&[batch, a0, a1]), net.input(&[b_batch, b0, b1]));
            let y = net.node(op.clone(), &[a, b]);
            check(net.finish(y), seed);
        }
    }

    #[test]
    fn attention_agrees(
        (batch, heads, queries, keys, inner, values) in
            (1..3_usize, 1..4_usize, 1..20_usize, 1..20_usize, 1..20_usize, 1..20_usize),
        mask in 0..3_usize, seed in 0..1000_u64,
    ) {
        let mut net = Net::new(seed);
        let q = net.input(&[batch, queries, heads * inner]);
        let k = net.input(&[batch, keys, heads * inner]);
        let v = net.input(&[batch, keys, heads * values]);
        let mut inputs = vec![q, k, v];
        if mask > 0 {
            let shape = if mask == 1 { [batch, 1, 1, keys] } else { [1, heads, queries, keys] };
            inputs.push(net.input(&shape));
        }
        let y = net.node(Attention { heads, scale: 0.3 }, &inputs);
        check(net.finish(y), seed);
    }

    #[test]
    fn rows_agree(shape in prop::collection::vec(1..12_usize, 2..5), seed in 0..1000_u64) {
        let last = *shape.last().unwrap();
        let axis = shape.len() - 1;
        let mut net = Net::new(seed);
        let x = net.input(&shape);
        let (scale, bias) = (net.constant(&[last]), net.constant(&[last]));
        let normal = net.node(LayerNorm { axis, epsilon: 1e-3, statistics: false }, &[x, scale, bias]);
        let rms = net.node(RmsNorm { axis, epsilon: 1e-3 }, &[normal, scale]);
        let y = net.node(Softmax { axis, log: false }, &[rms]);
        check(net.finish(y), seed);
    }

    #[test]
    fn broadcasts_and_movements_agree(
        shape in prop::collection::vec(1..6_usize, 1..5), ones in prop::collection::vec(any::<bool>(), 5), op in 0..6_usize,
        seed in 0..1000_u64,
    ) {
        let op = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min][op];
        let part: Vec<usize> = shape.iter().zip(&ones).map(|(dim, one)| if *one { 1 } else { *dim }).collect();
        let cut = usize::from(ones[4]).min(part.len() - 1);
        let mut net = Net::new(seed);
        let (a, b, c) = (net.input(&shape), net.input(&part[cut..]), net.constant(&part));
        let sum = net.node(op, &[a, b]);
        let sum = net.node(op, &[c, sum]);
        let perm: Vec<usize> = (0..shape.len()).rev().collect();
        let turned = net.node(Transpose { perm }, &[sum]);
        let turned_shape = net.shape(turned);
        let joined = net.node(Concat { axis: shape.len() - 1 }, &[turned, turned]);
        let sliced = net.node(
            Slice {
                starts: turned_shape.iter().map(|dim| dim / 2).collect(),
                sizes: turned_shape.iter().map(|dim| dim - dim / 2).collect(),
                steps: vec![1; shape.len()],
            },
            &[joined],
        );
        let mut wide = vec![2];
        wide.extend(net.shape(sliced));
        let y = net.node(Expand { shape: wide }, &[sliced]);
        check(net.finish(y), seed);
    }
}

#[test]
fn functions_agree_on_extreme_numbers_too() {
    let all = [
        Unary::Relu,
        Unary::Clip { low: -1.0, high: 2.0 },
        Unary::LeakyRelu { alpha: 0.2 },
        Unary::Elu { alpha: 1.5 },
        Unary::Selu { alpha: 1.5, gamma: 1.1 },
        Unary::Affine { alpha: 0.5, beta: -2.0 },
        Unary::Mish,
        Unary::Softsign,
        Unary::Ceil,
        Unary::Sign,
        Unary::Log,
        Unary::Softplus,
        Unary::Sin,
        Unary::ThresholdedRelu { alpha: 0.5 },
        Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Unary::Sigmoid,
        Unary::Tanh,
        Unary::Erf,
        Unary::Exp,
        Unary::Sqrt,
        Unary::Reciprocal,
        Unary::Abs,
        Unary::Neg,
        Unary::Floor,
        Unary::Round,
    ];
    let extremes = [
        0.0,
        -0.0,
        1e-40,
        -1e-40,
        f32::MIN_POSITIVE,
        0.1,
        -0.7,
        3.5,
        -20.0,
        90.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for unary in all {
        for x in extremes {
            let mut net = Net::new(1);
            let id = net.input(&[19]);
            let y = net.node(unary, &[id]);
            let input = Array::new(vec![19], vec![x; 19]).unwrap();
            check_with(net.finish(y), &[input], Numerics::Fast, 2e-6, true);
        }
    }
}

#[test]
fn nan_and_infinity_pass_through_convolutions_and_pools() {
    for x in [f32::NAN, f32::INFINITY, 1e-41] {
        let mut net = Net::new(3);
        let id = net.input(&[1, 9, 6, 6]);
        let y = net.conv(id, 5, window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), 1, Some(Unary::Relu));
        let output = vec![3, 3];
        let y = net.node(
            Pool {
                kind: PoolKind::Max,
                window: window((2, 2), (2, 2), (1, 1), (0, 0), (0, 0)),
                output,
                indices: None,
            },
            &[y],
        );
        let mut items = numbers(9 * 36, 1);
        items[40] = x;
        check_with(
            net.finish(y),
            &[Array::new(vec![1, 9, 6, 6], items).unwrap()],
            Numerics::Strict,
            2e-5,
            true,
        );
    }
}

#[test]
fn a_window_that_lies_in_the_padding_alone_is_answered() {
    let mut net = Net::new(8);
    let x = net.input(&[1, 9, 4, 4]);
    let window = window((5, 1), (1, 1), (1, 1), (2, 2), (2, 2));
    let pool = Pool { kind: PoolKind::Max, window, output: vec![4, 8], indices: None };
    let y = net.node(pool, &[x]);
    check_with(net.finish(y), &[array(&[1, 9, 4, 4], 3)], Numerics::Fast, 0.0, false);
}

#[test]
fn sums_over_many_channels_agree() {
    let mut net = Net::new(5);
    let x = net.input(&[1, 700, 5, 4]);
    let y = net.conv(x, 20, window((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), 1, Some(Unary::Relu));
    let z = net.conv(y, 24, Window::new([1, 1]), 1, Some(Unary::Gelu));
    check(net.finish(z), 1);
    let mut net = Net::new(6);
    let (a, b) = (net.input(&[7, 1500]), net.constant(&[1500, 21]));
    let (bias, residual) = (net.constant(&[21]), net.input(&[7, 21]));
    let op = MatMul { activation: Some(Unary::Gelu), ..MatMul::default() };
    let y = net.node(op, &[a, b, bias, residual]);
    check(net.finish(y), 2);
}

#[test]
fn tensors_without_elements_are_answered() {
    let mut net = Net::new(1);
    let x = net.input(&[0, 4]);
    let y = net.node(Unary::Relu, &[x]);
    let z = net.node(Binary::Add, &[y, x]);
    check_with(net.finish(z), &[array(&[0, 4], 1)], Numerics::Fast, 0.0, false);
}
