//! Quantised operators against the reference interpreter, over random shapes, on each instruction set that this
//! processor has.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "what fails here fails the test"
)]

mod support;

use std::sync::Arc;

use agentd_engine_native::{Isa, Model, Options};
use agentd_plan::{
    Array, Builder, Fact, Graph, Numerics, Op, ValueId,
    op::{
        Binary, Concat, Dequantize, DynamicQuantize, Lookup, Pool, Quantize, QuantizedBinary, QuantizedConv,
        QuantizedMatMul, Reduce, Reshape, ScaledMatMul, Unary, Window, pool::PoolKind, quantize::Granularity,
        reduce::ReduceKind,
    },
};
use agentd_types::Datatype::{self, Fp32, Int8, Int32, Uint8};
use proptest::prelude::*;

/// A graph in the making.
struct Net {
    builder: Builder,
    state: u64,
}

/// A quantised value: the integers, scale and zero point.
type Parts = [ValueId; 3];

impl Net {
    fn new(seed: u64) -> Self {
        Self { builder: Builder::new(), state: seed.wrapping_mul(2).wrapping_add(1) }
    }

    /// A number in -1..1.
    fn number(&mut self) -> f64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u16::try_from(self.state >> 48).unwrap()) / 32768.0 - 1.0
    }

    fn array(&mut self, datatype: Datatype, shape: &[usize], most: f64) -> Array {
        let items = (0..shape.iter().product()).map(|_| (self.number() * most).round()).collect();
        Array::from_reals(datatype, shape, items).unwrap()
    }

    /// 8-bit integers over their whole range.
    fn eight(&mut self, datatype: Datatype, shape: &[usize]) -> Array {
        let offset = if datatype == Uint8 { 127.5 } else { -0.5 };
        let items = (0..shape.iter().product()).map(|_| (self.number() * 127.9 + offset).round()).collect();
        Array::from_reals(datatype, shape, items).unwrap()
    }

    /// Weights and their zero points: all over the range, or small but for a few, which kernels may take as bytes.
    fn weights(&mut self, shape: &[usize], per: &[usize]) -> [ValueId; 2] {
        if self.number() < 0.0 {
            let (w, zero) = (self.eight(Int8, shape), self.eight(Int8, per));
            return [self.constant(w), self.constant(zero)];
        }
        let items = (0..shape.iter().product()).map(|_| {
            let most = if self.number() > 0.995 { 127.0 } else { 30.0 };
            (self.number() * most).round()
        });
        let w = Array::from_reals(Int8, shape, items.collect()).unwrap();
        let zero = self.array(Int8, per, 3.0);
        [self.constant(w), self.constant(zero)]
    }

    fn constant(&mut self, array: Array) -> ValueId {
        self.builder.constant("c", array).unwrap()
    }

    fn zero(&mut self, datatype: Datatype, shape: &[usize]) -> ValueId {
        let array = self.eight(datatype, shape);
        self.constant(array)
    }

    fn scale(&mut self, shape: &[usize], about: f64) -> ValueId {
        let items = (0..shape.iter().product()).map(|_| about * (1.0 + self.number() / 2.0)).collect();
        let array = Array::from_reals(Fp32, shape, items).unwrap();
        self.constant(array)
    }

    fn node(&mut self, op: impl Into<Op>, inputs: &[Option<ValueId>]) -> ValueId {
        self.builder.node(op, inputs, "node").unwrap()[0]
    }

    fn input(&mut self, datatype: Datatype, shape: &[usize]) -> ValueId {
        let name = format!("x{}", self.state);
        self.number();
        self.builder.input(name, Fact::new(datatype, shape.to_vec())).unwrap()
    }

    /// Bytes from outside.
    fn bytes(&mut self, datatype: Datatype, shape: &[usize]) -> Parts {
        [self.input(datatype, shape), self.scale(&[], 0.05), self.zero(datatype, &[])]
    }

    fn quantize(&mut self, x: ValueId, to: Datatype, about: f64) -> Parts {
        let (scale, zero) = (self.scale(&[], about), self.zero(to, &[]));
        let op = Quantize { granularity: Granularity::Tensor, to };
        [self.node(op, &[Some(x), Some(scale), Some(zero)]), scale, zero]
    }

    fn floats(&mut self, x: Parts) -> ValueId {
        self.node(Dequantize { granularity: Granularity::Tensor }, &x.map(Some))
    }

    fn conv(&mut self, x: Parts, columns: usize, window: Window, groups: usize, to: Datatype) -> Parts {
        let channels = self.builder.get(x[0]).unwrap().fact.shape[1];
        let mut shape = vec![columns, channels / groups];
        shape.extend(&window.kernel);
        let inner: usize = shape.iter().skip(1).product();
        let per = if columns.is_multiple_of(2) { vec![columns] } else { vec![] };
        let ([w, zero_w], scale_w) = (self.weights(&shape, &per), self.scale(&per, 0.01));
        let bias = self.array(Int32, &[columns], 20_000.0);
        let bias = self.constant(bias);
        // A power of two, so that what is made of the results is exact in single precision, halves among it.
        let scale = (0.02 * (inner as f64).sqrt()).log2().round().exp2();
        let scale = self.constant(Array::scalar(scale as f32));
        let zero = self.zero(to, &[]);
        let inputs = [x[0], x[1], x[2], w, scale_w, zero_w, scale, zero, bias].map(Some);
        [self.node(QuantizedConv { window, groups }, &inputs), scale, zero]
    }

    fn finish(mut self, outputs: &[ValueId]) -> Graph {
        for (at, output) in outputs.iter().enumerate() {
            self.builder.output(format!("y{at}"), *output).unwrap();
        }
        self.builder.finish()
    }
}

/// Holds the native results against the interpreter's: integers must be the same; floats may differ by `within`, relative
/// to the largest.
#[track_caller]
fn check(graph: Graph, seed: u64, within: f64) {
    let mut net = Net::new(seed + 77);
    let inputs: Vec<Array> = graph
        .inputs()
        .iter()
        .map(|id| {
            let fact = &graph.value(*id).fact;
            if fact.datatype == Fp32 {
                let items = (0..fact.elements()).map(|_| net.number() * 2.0).collect();
                Array::from_reals(Fp32, fact.shape.clone(), items).unwrap()
            } else {
                net.eight(fact.datatype, &fact.shape)
            }
        })
        .collect();
    let want = graph.run(&inputs).unwrap();
    let graph = Arc::new(graph);
    for isa in [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable].into_iter().filter(|isa| isa.available()) {
        let options = Options { isa, numerics: Numerics::Fast };
        let mut model = Model::new(Arc::clone(&graph), options).unwrap();
        assert_eq!(model.fallbacks(), Vec::<&str>::new());
        for _ in 0..2 {
            let got = model.run_arrays(&inputs).unwrap();
            for (want, got) in want.iter().zip(&got) {
                assert_eq!(want.fact(), got.fact());
                let (items, found) = (want.reals().unwrap(), got.reals().unwrap());
                let most = items.iter().fold(0.1_f64, |most, x| most.max(x.abs()));
                let within = if want.datatype() == Fp32 { within * most } else { 0.0 };
                for (at, (w, g)) in items.iter().zip(&found).enumerate() {
                    assert!((w - g).abs() <= within, "{isa:?}: element {at} is {g}, not {w}");
                }
            }
        }
    }
}

fn eights() -> impl Strategy<Value = Datatype> {
    prop_oneof![Just(Int8), Just(Uint8)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn convolutions(
        (from, to) in (eights(), eights()),
        (images, channels, columns) in (1_usize..3, 1_usize..40, 1_usize..70),
        (rows, width) in (1_usize..16, 1_usize..16),
        (kernel, strides, dilations) in ((1_usize..5, 1_usize..5), (1_usize..3, 1_usize..3), (1_usize..3, 1_usize..3)),
        (before, after) in ((0_usize..3, 0_usize..3), (0_usize..3, 0_usize..3)),
        (depthwise, grouped, floats, seed) in (any::<bool>(), 0_usize..5, any::<bool>(), any::<u64>()),
    ) {
        let reach = ((kernel.0 - 1) * dilations.0 + 1, (kernel.1 - 1) * dilations.1 + 1);
        prop_assume!(reach.0 <= rows + before.0 + after.0 && reach.1 <= width + before.1 + after.1);
        let window = Window {
            strides: vec![strides.0, strides.1],
            dilations: vec![dilations.0, dilations.1],
            pads_begin: vec![before.0, before.1],
            pads_end: vec![after.0, after.1],
            ..Window::new([kernel.0, kernel.1])
        };
        let mut net = Net::new(seed);
        let grouped = if grouped > 1 { grouped } else { 1 };
        let (channels, columns) = (channels * grouped, columns * grouped);
        let shape = [images, channels, rows, width];
        let x = if floats {
            let x = net.input(Fp32, &shape);
            net.quantize(x, from, 0.02)
        } else {
            net.bytes(from, &shape)
        };
        let (columns, groups) = if depthwise && channels > 1 { (channels, channels) } else { (columns, grouped) };
        let y = net.conv(x, columns, window, groups, to);
        let real = net.floats(y);
        check(net.finish(&[y[0], real]), seed, 0.0);
    }

    #[test]
    fn chains_with_a_residual_a_table_and_a_mean(
        (from, to) in (eights(), eights()),
        (images, channels) in (1_usize..3, 2_usize..40),
        (rows, width) in (1_usize..12, 1_usize..12),
        (function, seed) in (0_usize..4, any::<u64>()),
    ) {
        let function = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Max][function];
        let mut net = Net::new(seed);
        let x = net.bytes(from, &[images, channels, rows, width]);
        let window = Window { pads_begin: vec![1, 1], pads_end: vec![1, 1], ..Window::new([3, 3]) };
        let a = net.conv(x, channels, window.clone(), channels, to);
        let b = net.conv(a, channels, window, 1, from);
        let (scale, zero) = (net.constant(Array::scalar(0.25_f32)), net.zero(to, &[]));
        let inputs = [a[0], a[1], a[2], b[0], b[1], b[2], scale, zero].map(Some);
        let sum = [net.node(QuantizedBinary { function }, &inputs), scale, zero];
        let table = net.eight(to, &[256]);
        let table = net.constant(table);
        let looked = net.node(Lookup, &[Some(sum[0]), Some(table)]);
        let given = net.eight(from, &[1, channels, 1, 1]);
        let given = [net.constant(given), net.scale(&[], 0.1), net.zero(from, &[])];
        let (factor, none) = (net.scale(&[], 0.5), net.zero(from, &[]));
        let inputs = [a[0], a[1], a[2], given[0], given[1], given[2], factor, none].map(Some);
        let shifted = net.node(QuantizedBinary { function: Binary::Add }, &inputs);
        let c = net.conv([looked, scale, zero], 5, Window::new([1, 1]), 1, to);
        // An excitation: the mean of each channel, quantised, scales the map.
        let real = net.floats(sum);
        let mean = net.node(Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep: true }, &[Some(real)]);
        let q = net.quantize(mean, from, 0.037);
        let (scale, zero) = (net.scale(&[], 0.4), net.zero(to, &[]));
        let inputs = [q[0], q[1], q[2], sum[0], sum[1], sum[2], scale, zero].map(Some);
        let scaled = net.node(QuantizedBinary { function: Binary::Mul }, &inputs);
        prop_assume!(function != Binary::Sub || rows * width > 1);
        if images == 1 {
            check(net.finish(&[c[0], scaled, shifted]), seed, 0.0);
        } else {
            check(net.finish(&[c[0], scaled]), seed, 0.0);
        }
    }

    #[test]
    fn a_table_after_a_convolution(
        (from, to) in (eights(), eights()),
        (channels, columns, rows, width) in (2_usize..40, 1_usize..40, 1_usize..30, 1_usize..30),
        (depthwise, seed) in (any::<bool>(), any::<u64>()),
    ) {
        let mut net = Net::new(seed);
        let x = net.bytes(from, &[1, channels, rows, width]);
        let (columns, groups) = if depthwise { (channels, channels) } else { (columns, 1) };
        let [w, zero_w] = net.weights(&[columns, channels / groups, 1, 1], &[]);
        let (scale_w, scale, zero) = (net.scale(&[], 0.02), net.scale(&[], 0.1), net.zero(to, &[]));
        let table = net.eight(from, &[256]);
        let table = net.constant(table);
        let inputs = [x[0], x[1], x[2], w, scale_w, zero_w, scale, zero].map(Some);
        let inputs = [&inputs[..], &[None, Some(table)]].concat();
        let y = net.node(QuantizedConv { window: Window::new([1, 1]), groups }, &inputs);
        check(net.finish(&[y]), seed, 0.0);
    }

    #[test]
    fn a_maximum_and_a_fully_connected_layer(
        (from, to) in (eights(), eights()),
        (images, channels, columns) in (1_usize..4, 1_usize..40, 1_usize..70),
        (rows, width, window) in (2_usize..12, 2_usize..12, 1_usize..4),
        (stride, quantised, seed) in (1_usize..3, any::<bool>(), any::<u64>()),
    ) {
        let mut net = Net::new(seed);
        let pad = window / 2;
        prop_assume!(window <= rows + 2 * pad && window <= width + 2 * pad);
        let x = net.bytes(from, &[images, channels, rows, width]);
        let y = net.conv(x, channels, Window::new([1, 1]), 1, to);
        let out = |size: usize| (size + 2 * pad - window) / stride + 1;
        let pool = Pool {
            kind: PoolKind::Max,
            window: Window {
                strides: vec![stride; 2],
                pads_begin: vec![pad; 2],
                pads_end: vec![pad; 2],
                ..Window::new([window, window])
            },
            output: vec![out(rows), out(width)],
            indices: None,
        };
        let most = if quantised {
            let most = net.node(pool, &[Some(y[0])]);
            net.floats([most, y[1], y[2]])
        } else {
            let real = net.floats(y);
            net.node(pool, &[Some(real)])
        };
        let mean = net.node(Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep: true }, &[Some(most)]);
        let q = net.quantize(mean, to, 0.04);
        let real = net.floats(q);
        let flat = net.node(Reshape { shape: vec![images, channels] }, &[Some(real)]);
        let op = Quantize { granularity: Granularity::Tensor, to };
        let flat = net.node(op, &[Some(flat), Some(q[1]), Some(q[2])]);
        let [w, zero_w] = net.weights(&[channels, columns], &[columns]);
        let scale_w = net.scale(&[columns], 0.02);
        let (scale, zero) = (net.scale(&[], 0.2), net.zero(from, &[]));
        let bias = net.array(Int32, &[columns], 9000.0);
        let bias = net.constant(bias);
        let inputs = [flat, q[1], q[2], w, scale_w, zero_w, scale, zero, bias].map(Some);
        let product = net.node(QuantizedMatMul, &inputs);
        let real = net.floats([product, scale, zero]);
        check(net.finish(&[product, real]), seed, 0.0);
    }

    #[test]
    fn parts_joined_along_the_channels(
        (from, to) in (eights(), eights()),
        (images, blocks, last) in (1_usize..3, 1_usize..3, 1_usize..40),
        (rows, width, columns, seed) in (1_usize..9, 1_usize..9, 1_usize..40, any::<u64>()),
    ) {
        let mut net = Net::new(seed);
        let a = net.bytes(from, &[images, blocks * 32, rows, width]);
        let b = net.conv(a, last, Window::new([1, 1]), 1, to);
        let table = net.eight(to, &[256]);
        let table = net.constant(table);
        let a = net.node(Lookup, &[Some(a[0]), Some(table)]);
        let joined = net.node(Concat { axis: 1 }, &[Some(a), Some(b[0])]);
        let window = Window { pads_begin: vec![1, 1], pads_end: vec![1, 1], ..Window::new([3, 3]) };
        let y = net.conv([joined, b[1], b[2]], columns, window, 1, from);
        check(net.finish(&[joined, y[0]]), seed, 0.0);
    }

    #[test]
    fn floats_between_are_blocks(
        (from, to) in (eights(), eights()),
        (images, channels, columns) in (1_usize..3, 1_usize..40, 1_usize..40),
        (rows, width, seed) in (1_usize..6, 1_usize..6, any::<u64>()),
    ) {
        let mut net = Net::new(seed);
        let x = net.bytes(from, &[images, channels, 2 * rows, 2 * width]);
        let a = net.conv(x, columns, Window::new([1, 1]), 1, to);
        let real = net.floats(a);
        // A mean of four is exact in single precision.
        let pool = Pool {
            kind: PoolKind::Average { count_padding: false },
            window: Window { strides: vec![2, 2], ..Window::new([2, 2]) },
            output: vec![rows, width],
            indices: None,
        };
        let mean = net.node(pool, &[Some(real)]);
        let q = net.quantize(mean, from, 0.05);
        let window = Window { pads_begin: vec![1, 1], pads_end: vec![1, 1], ..Window::new([3, 3]) };
        let y = net.conv(q, channels, window, 1, to);
        check(net.finish(&[q[0], y[0]]), seed, 0.0);
    }

    #[test]
    fn rows_by_themselves(
        (from, to) in (eights(), eights()),
        (rows, columns) in (1_usize..6, 1_usize..70),
        (function, seed) in (0_usize..4, any::<u64>()),
    ) {
        let function = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Min][function];
        let mut net = Net::new(seed);
        let (a, b) = (net.bytes(from, &[rows, columns]), net.bytes(to, &[rows, columns]));
        let (scale, zero) = (net.scale(&[], 0.1), net.zero(to, &[]));
        let inputs = [a[0], a[1], a[2], b[0], b[1], b[2], scale, zero].map(Some);
        let sum = net.node(QuantizedBinary { function }, &inputs);
        let table = net.eight(from, &[256]);
        let table = net.constant(table);
        let looked = net.node(Lookup, &[Some(sum), Some(table)]);
        check(net.finish(&[sum, looked]), seed, 0.0);
    }

    #[test]
    fn products_with_a_scale_found_on_the_way(
        (batch, rows, inner, columns) in (1_usize..3, 1_usize..30, 1_usize..80, 1_usize..80),
        (biased, added, activation) in (any::<bool>(), any::<bool>(), 0_usize..3),
        seed in any::<u64>(),
    ) {
        let activation = [None, Some(Unary::Gelu), Some(Unary::Relu)][activation];
        let mut net = Net::new(seed);
        let x = net.input(Fp32, &[batch, rows, inner]);
        let parts = net.builder.node(DynamicQuantize, &[Some(x)], "quantise").unwrap();
        let ([b, zero_b], scale_b) = (net.weights(&[inner, columns], &[]), net.scale(&[columns], 0.01));
        let bias = net.scale(&[columns], 0.5);
        let residual = net.input(Fp32, &[batch, rows, columns]);
        let inputs = [
            Some(parts[0]),
            Some(b),
            Some(parts[2]),
            Some(zero_b),
            Some(parts[1]),
            Some(scale_b),
            biased.then_some(bias),
            added.then_some(residual),
        ];
        let y = net.node(ScaledMatMul { activation }, &inputs);
        // The activation is an approximation.
        check(net.finish(&[y]), seed, 2e-5);
    }
}

#[test]
fn threads_share_a_quantised_net_and_give_the_same_bits() {
    let mut net = Net::new(11);
    let x = net.input(Fp32, &[2, 3, 40, 36]);
    let x = net.quantize(x, Uint8, 0.02);
    let window = Window { pads_begin: vec![1, 1], pads_end: vec![1, 1], ..Window::new([3, 3]) };
    let a = net.conv(x, 72, window.clone(), 1, Int8);
    let b = net.conv(a, 72, window.clone(), 72, Int8);
    let c = net.conv(b, 72, window, 1, Int8);
    let (scale, zero) = (net.scale(&[], 0.3), net.zero(Int8, &[]));
    let inputs = [a[0], a[1], a[2], c[0], c[1], c[2], scale, zero].map(Some);
    let sum = net.node(QuantizedBinary { function: Binary::Add }, &inputs);
    let table = net.eight(Uint8, &[256]);
    let table = net.constant(table);
    let looked = net.node(Lookup, &[Some(sum), Some(table)]);
    let none = net.zero(Uint8, &[]);
    let pool = Pool {
        kind: PoolKind::Max,
        window: Window { strides: vec![2, 2], ..Window::new([2, 2]) },
        output: vec![20, 18],
        indices: None,
    };
    let most = net.node(pool, &[Some(looked)]);
    let y = net.conv([most, scale, none], 130, Window::new([1, 1]), 1, Uint8);
    let real = net.floats(y);
    let mean = net.node(Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep: false }, &[Some(real)]);
    let tokens = net.input(Fp32, &[90, 130]);
    let parts = net.builder.node(DynamicQuantize, &[Some(tokens)], "quantise").unwrap();
    let ([w, zero_w], scale_w) = (net.weights(&[130, 70], &[]), net.scale(&[70], 0.01));
    let inputs = [parts[0], w, parts[2], zero_w, parts[1], scale_w].map(Some);
    let product = net.node(ScaledMatMul { activation: Some(Unary::Gelu) }, &inputs);
    let graph = Arc::new(net.finish(&[y[0], mean, product]));
    let mut net = Net::new(12);
    let inputs: Vec<Array> = graph
        .inputs()
        .iter()
        .map(|id| {
            let fact = &graph.value(*id).fact;
            let items = (0..fact.elements()).map(|_| net.number()).collect();
            Array::from_reals(Fp32, fact.shape.clone(), items).unwrap()
        })
        .collect();
    support::same_bits_on_any_number_of_threads(&graph, &inputs);
}
