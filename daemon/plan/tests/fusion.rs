//! Each pattern: what is fused has fewer nodes and computes the same.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper of tests is no test to the linter"
)]

use agentd_plan::{
    Array, Builder, Fact, Graph, Numerics, Op, ValueId, fuse,
    op::{
        BatchNorm, Binary, Cast, Concat, Conv, Dequantize, DynamicQuantize, IntegerMatMul, MatMul, Pad,
        Quantize, Reduce, Reshape, Softmax, Transpose, Unary, Window, movement::PadMode,
        quantize::Granularity, reduce::ReduceKind,
    },
};
use agentd_types::Datatype;

/// A graph in the making with one input.
struct Net {
    builder: Builder,
    seed: u64,
}

impl Net {
    fn noise(&mut self, shape: &[usize]) -> Array {
        let items = (0..shape.iter().product::<usize>()).map(|_| {
            self.seed =
                self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(self.seed >> 40).unwrap()) / f64::from(1 << 23) - 1.0
        });
        let items = items.collect();
        Array::from_reals(Datatype::Fp32, shape, items).unwrap()
    }

    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let array = self.noise(shape);
        self.builder.constant("", array).unwrap()
    }

    fn number(&mut self, number: f32) -> ValueId {
        self.builder.constant("", Array::scalar(number)).unwrap()
    }

    fn node(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> ValueId {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.builder.node(op, &inputs, "test").unwrap()[0]
    }

    fn binary(&mut self, op: Binary, a: ValueId, b: f32) -> ValueId {
        let b = self.number(b);
        self.node(op, &[a, b])
    }
}

/// Builds a graph over an input of `shape`, fuses it, compares both, and returns the names of the fused operators.
#[track_caller]
fn check(
    shape: &[usize],
    tolerance: f64,
    build: impl FnOnce(&mut Net, ValueId) -> ValueId,
) -> Vec<&'static str> {
    let mut net = Net { builder: Builder::new(), seed: 7 };
    let x = net.builder.input("x", Fact::new(Datatype::Fp32, shape)).unwrap();
    let y = build(&mut net, x);
    net.builder.output("y", y).unwrap();
    let input = net.noise(shape);
    let graph: Graph = net.builder.finish();
    let fused = fuse(&graph, Numerics::Fast).unwrap();
    let (before, after) = (graph.run(std::slice::from_ref(&input)).unwrap(), fused.run(&[input]).unwrap());
    assert_eq!(before[0].fact(), after[0].fact());
    for (a, b) in before[0].reals().unwrap().iter().zip(after[0].reals().unwrap()) {
        assert!((a - b).abs() <= tolerance * (1.0 + a.abs()), "{a} {b}");
    }
    fused.nodes().iter().map(|node| node.op.name()).collect()
}

fn conv(out: &mut Net, x: ValueId, channels: (usize, usize), kernel: usize) -> ValueId {
    let w = out.weight(&[channels.1, channels.0, kernel, kernel]);
    let mut window = Window::new([kernel, kernel]);
    window.pads_begin = vec![kernel / 2; 2];
    window.pads_end = vec![kernel / 2; 2];
    out.node(Conv { window, groups: 1, activation: None }, &[x, w])
}

#[test]
fn batch_norm_and_activation_go_into_a_convolution() {
    let names = check(&[1, 3, 5, 5], 1e-5, |net, x| {
        let y = conv(net, x, (3, 4), 3);
        let (scale, bias, mean) = (net.weight(&[4]), net.weight(&[4]), net.weight(&[4]));
        let variance = net.builder.constant("", Array::list(vec![0.5_f32, 1.0, 2.0, 0.1])).unwrap();
        let y = net.node(BatchNorm { epsilon: 1e-5, activation: None }, &[y, scale, bias, mean, variance]);
        net.node(Unary::Relu, &[y])
    });
    assert_eq!(names, ["Conv"]);
}

#[test]
fn what_is_done_to_channels_one_after_the_other_becomes_one_batch_norm() {
    let operators = check(&[2, 4, 3, 3], 1e-6, |net, x| {
        let (scale, bias, mean) = (net.weight(&[4]), net.weight(&[4]), net.weight(&[4]));
        let variance = net.builder.constant("", Array::list(vec![0.5_f32, 1.0, 2.0, 0.7])).unwrap();
        let y = net.node(BatchNorm { epsilon: 1e-5, activation: None }, &[x, scale, bias, mean, variance]);
        let (factor, offset) = (net.weight(&[4, 1, 1]), net.weight(&[1, 4, 1, 1]));
        let y = net.node(Binary::Mul, &[y, factor]);
        let y = net.node(Binary::Sub, &[y, offset]);
        net.node(Unary::Relu, &[y])
    });
    assert_eq!(operators, ["BatchNorm"]);
}

#[test]
fn of_two_convolutions_that_are_added_one_takes_the_other() {
    let names = check(&[1, 4, 5, 5], 1e-5, |net, x| {
        let (a, b) = (conv(net, x, (4, 4), 3), conv(net, x, (4, 4), 1));
        let sum = net.node(Binary::Add, &[a, b]);
        net.node(Unary::Relu, &[sum])
    });
    assert_eq!(names, ["Conv", "Conv"]);
}

#[test]
fn a_convolution_that_others_need_too_keeps_its_own_output() {
    let names = check(&[1, 4, 5, 5], 1e-5, |net, x| {
        let a = conv(net, x, (4, 4), 3);
        let b = net.node(Unary::Relu, &[a]);
        net.node(Binary::Add, &[a, b])
    });
    assert_eq!(names, ["Conv", "Unary", "Binary"]);
}

#[test]
fn padding_by_zeros_goes_into_a_convolution() {
    let names = check(&[1, 3, 5, 5], 1e-6, |net, x| {
        let before = vec![0, 0, 1, 2];
        let x = net.node(Pad { mode: PadMode::Constant, before, after: vec![0, 0, 0, 1] }, &[x]);
        conv(net, x, (3, 2), 3)
    });
    assert_eq!(names, ["Conv"]);
}

#[test]
fn spelled_out_activations_are_recognised() {
    let silu = |net: &mut Net, x| {
        let gate = net.node(Unary::Sigmoid, &[x]);
        net.node(Binary::Mul, &[x, gate])
    };
    assert_eq!(check(&[2, 9], 1e-6, silu), ["Unary"]);
    let hard_swish = |net: &mut Net, x| {
        let moved = net.binary(Binary::Add, x, 3.0);
        let clipped = net.node(Unary::Clip { low: 0.0, high: 6.0 }, &[moved]);
        let product = net.node(Binary::Mul, &[x, clipped]);
        net.binary(Binary::Div, product, 6.0)
    };
    assert_eq!(check(&[2, 9], 1e-6, hard_swish), ["Unary"]);
    let gelu = |net: &mut Net, x| {
        let scaled = net.binary(Binary::Div, x, std::f32::consts::SQRT_2);
        let curve = net.node(Unary::Erf, &[scaled]);
        let gate = net.binary(Binary::Add, curve, 1.0);
        let product = net.node(Binary::Mul, &[x, gate]);
        net.binary(Binary::Mul, product, 0.5)
    };
    assert_eq!(check(&[2, 9], 1e-6, gelu), ["Unary"]);
    let gelu_tanh = |net: &mut Net, x| {
        let cube = net.binary(Binary::Pow, x, 3.0);
        let small = net.binary(Binary::Mul, cube, 0.044_715);
        let sum = net.node(Binary::Add, &[x, small]);
        let inner = net.binary(Binary::Mul, sum, 0.797_884_6);
        let curve = net.node(Unary::Tanh, &[inner]);
        let gate = net.binary(Binary::Add, curve, 1.0);
        let half = net.binary(Binary::Mul, x, 0.5);
        net.node(Binary::Mul, &[half, gate])
    };
    assert_eq!(check(&[2, 9], 1e-6, gelu_tanh), ["Unary"]);
}

#[test]
fn layer_norm_in_nine_nodes_becomes_one() {
    let names = check(&[2, 3, 8], 1e-5, |net, x| {
        let mean = Reduce { kind: ReduceKind::Mean, axes: vec![2], keep: true };
        let middle = net.node(mean.clone(), &[x]);
        let centred = net.node(Binary::Sub, &[x, middle]);
        let square = net.binary(Binary::Pow, centred, 2.0);
        let variance = net.node(mean, &[square]);
        let floor = net.binary(Binary::Add, variance, 1e-5);
        let root = net.node(Unary::Sqrt, &[floor]);
        let y = net.node(Binary::Div, &[centred, root]);
        let (scale, bias) = (net.weight(&[8]), net.weight(&[8]));
        let y = net.node(Binary::Mul, &[y, scale]);
        net.node(Binary::Add, &[y, bias])
    });
    assert_eq!(names, ["LayerNorm"]);
}

#[test]
fn a_product_takes_bias_residual_and_activation() {
    let names = check(&[1, 6, 8], 1e-5, |net, x| {
        let (w, bias) = (net.weight(&[8, 8]), net.weight(&[8]));
        let y = net.node(MatMul::default(), &[x, w]);
        let y = net.node(Binary::Add, &[y, bias]);
        let y = net.node(Binary::Add, &[y, x]);
        net.node(Unary::Relu, &[y])
    });
    assert_eq!(names, ["MatMul"]);
}

#[test]
fn attention_in_many_nodes_becomes_one() {
    let names = check(&[2, 5, 8], 1e-5, |net, x| {
        let head = |net: &mut Net, perm: [usize; 4]| {
            let (w, bias) = (net.weight(&[8, 8]), net.weight(&[8]));
            let y = net.node(MatMul::default(), &[x, w]);
            let y = net.node(Binary::Add, &[y, bias]);
            let y = net.node(Reshape { shape: vec![2, 5, 2, 4] }, &[y]);
            net.node(Transpose { perm: perm.to_vec() }, &[y])
        };
        let (q, k, v) = (head(net, [0, 2, 1, 3]), head(net, [0, 2, 3, 1]), head(net, [0, 2, 1, 3]));
        let scores = net.node(MatMul::default(), &[q, k]);
        let scores = net.binary(Binary::Div, scores, 2.0);
        let mask = net.weight(&[2, 1, 1, 5]);
        let scores = net.node(Binary::Add, &[scores, mask]);
        let weights = net.node(Softmax { axis: 3, log: false }, &[scores]);
        let mixed = net.node(MatMul::default(), &[weights, v]);
        let turned = net.node(Transpose { perm: vec![0, 2, 1, 3] }, &[mixed]);
        net.node(Reshape { shape: vec![2, 5, 8] }, &[turned])
    });
    assert_eq!(names, ["MatMul", "MatMul", "MatMul", "Attention"]);
}

#[test]
fn a_quantised_convolution_is_recognised() {
    let names = check(&[1, 2, 4, 4], 1e-6, |net, x| {
        let tensor = Granularity::Tensor;
        let (scale, zero) = (net.number(0.01), net.builder.constant("", Array::scalar(128_u8)).unwrap());
        let x = net.node(Quantize { granularity: tensor, to: Datatype::Uint8 }, &[x, scale, zero]);
        let x = net.node(Dequantize { granularity: tensor }, &[x, scale, zero]);
        let weights: Vec<i8> = (0..36).map(|at| i8::try_from(at * 7 % 200 - 100).unwrap()).collect();
        let w = net.builder.constant("", Array::new([2, 2, 3, 3], weights).unwrap()).unwrap();
        let (w_scale, w_zero) = (net.number(0.02), net.builder.constant("", Array::scalar(0_i8)).unwrap());
        let w = net.node(Dequantize { granularity: tensor }, &[w, w_scale, w_zero]);
        let y = net.node(Conv { window: Window::new([3, 3]), groups: 1, activation: None }, &[x, w]);
        let (y_scale, y_zero) = (net.number(0.1), net.builder.constant("", Array::scalar(100_u8)).unwrap());
        let y = net.node(Quantize { granularity: tensor, to: Datatype::Uint8 }, &[y, y_scale, y_zero]);
        net.node(Dequantize { granularity: tensor }, &[y, y_scale, y_zero])
    });
    assert_eq!(names, ["Quantize", "QuantizedConv", "Dequantize"]);
}

/// A value that is quantised by one scale and zero point, and dequantised again.
fn through_bytes(net: &mut Net, x: ValueId, scale: f32) -> ValueId {
    let granularity = Granularity::Tensor;
    let (scale, zero) = (net.number(scale), net.builder.constant("", Array::scalar(120_u8)).unwrap());
    let x = net.node(Quantize { granularity, to: Datatype::Uint8 }, &[x, scale, zero]);
    net.node(Dequantize { granularity }, &[x, scale, zero])
}

#[test]
fn a_function_of_one_quantised_value_is_a_table() {
    let names = check(&[1, 2, 4, 4], 0.0, |net, x| {
        let x = through_bytes(net, x, 0.01);
        let gate = net.node(Unary::Sigmoid, &[x]);
        let gate = through_bytes(net, gate, 0.004);
        let y = net.node(Binary::Mul, &[x, gate]);
        through_bytes(net, y, 0.01)
    });
    assert_eq!(names, ["Quantize", "Lookup", "Dequantize"]);
}

#[test]
fn a_table_goes_into_the_convolution_before_it() {
    let names = check(&[1, 2, 4, 4], 1e-6, |net, x| {
        let x = through_bytes(net, x, 0.01);
        let weights: Vec<i8> = (0..8).map(|at| at * 7 - 20).collect();
        let w = net.builder.constant("", Array::new([4, 2, 1, 1], weights).unwrap()).unwrap();
        let (scale, zero) = (net.number(0.02), net.builder.constant("", Array::scalar(0_i8)).unwrap());
        let w = net.node(Dequantize { granularity: Granularity::Tensor }, &[w, scale, zero]);
        let y = net.node(Conv { window: Window::new([1, 1]), groups: 1, activation: None }, &[x, w]);
        let y = through_bytes(net, y, 0.01);
        let y = net.node(Unary::Tanh, &[y]);
        through_bytes(net, y, 0.01)
    });
    assert_eq!(names, ["Quantize", "QuantizedConv", "Dequantize"]);
}

#[test]
fn two_quantised_values_make_a_quantised_one() {
    let names = check(&[1, 2, 4, 4], 0.0, |net, x| {
        let a = through_bytes(net, x, 0.01);
        let b = net.node(Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep: true }, &[x]);
        let b = through_bytes(net, b, 0.02);
        let y = net.node(Binary::Mul, &[a, b]);
        through_bytes(net, y, 0.01)
    });
    assert_eq!(names.iter().filter(|name| **name == "QuantizedBinary").count(), 1);
    assert!(!names.contains(&"Binary"));
}

#[test]
fn quantised_values_are_joined_without_floats() {
    let names = check(&[1, 32, 2, 2], 0.0, |net, x| {
        let (a, b, c) =
            (through_bytes(net, x, 0.01), through_bytes(net, x, 0.02), through_bytes(net, x, 0.03));
        let joined = net.node(Concat { axis: 1 }, &[a, b, c]);
        through_bytes(net, joined, 0.02)
    });
    let count = |name| names.iter().filter(|found| **found == name).count();
    assert_eq!((count("Quantize"), count("Lookup"), count("Concat"), count("Dequantize")), (3, 2, 1, 1));
}

#[test]
fn a_quantised_product_takes_turned_weights_and_its_bias() {
    let names = check(&[3, 4], 1e-6, |net, x| {
        let x = through_bytes(net, x, 0.01);
        let weights: Vec<i8> = (0..20).map(|at| at * 6 - 60).collect();
        let w = net.builder.constant("", Array::new([5, 4], weights).unwrap()).unwrap();
        let list = |net: &mut Net, factor: f32| {
            let items = [1.0, 2.0, 3.0, 4.0, 5.0].map(|item: f32| item * factor).to_vec();
            net.builder.constant("", Array::new([5], items).unwrap()).unwrap()
        };
        let zero = net.builder.constant("", Array::new([5], vec![0_i8; 5]).unwrap()).unwrap();
        let (scale, unit) = (list(net, 0.5), list(net, 0.005));
        let w = net.node(Dequantize { granularity: Granularity::Axis(0) }, &[w, scale, zero]);
        let bias = net.builder.constant("", Array::new([5], vec![100_i32; 5]).unwrap()).unwrap();
        let bias = net.node(Dequantize { granularity: Granularity::Axis(0) }, &[bias, unit]);
        let product = MatMul { transpose_b: true, ..MatMul::default() };
        let y = net.node(product, &[x, w, bias]);
        through_bytes(net, y, 1.0)
    });
    assert_eq!(names, ["Quantize", "QuantizedMatMul", "Dequantize"]);
}

#[test]
fn an_integer_product_that_is_scaled_is_one_node() {
    let names = check(&[3, 4], 0.0, |net, x| {
        let parts = net.builder.node(DynamicQuantize, &[Some(x)], "test").unwrap();
        let weights: Vec<i8> = (0..16).map(|at| at * 7 - 50).collect();
        let w = net.builder.constant("", Array::new([4, 4], weights).unwrap()).unwrap();
        let zero = net.builder.constant("", Array::scalar(3_i8)).unwrap();
        let sums = net.node(IntegerMatMul, &[parts[0], w, parts[2], zero]);
        let sums = net.node(Cast { to: Datatype::Fp32 }, &[sums]);
        let scale = net.binary(Binary::Mul, parts[1], 0.02);
        let scaled = net.node(Binary::Mul, &[sums, scale]);
        let bias = net.weight(&[4]);
        let y = net.node(Binary::Add, &[bias, scaled]);
        let y = net.node(Binary::Add, &[y, x]);
        net.node(Unary::Relu, &[y])
    });
    assert_eq!(names, ["DynamicQuantize", "ScaledMatMul"]);
}
