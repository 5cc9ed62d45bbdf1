//! Same input, same bits, whatever the number of threads.

use std::sync::Arc;

use agentd_plan::{
    Graph,
    op::{Binary, LayerNorm, MatMul, Pool, Softmax, Unary, Window, pool::PoolKind},
};

use super::{Net, array, support::same_bits_on_any_number_of_threads, window};

#[track_caller]
fn check(graph: Graph, seed: u64) {
    let inputs: Vec<_> = graph.inputs().iter().map(|id| array(&graph.value(*id).fact.shape, seed)).collect();
    same_bits_on_any_number_of_threads(&Arc::new(graph), &inputs);
}

fn square(kernel: usize, stride: usize, pad: usize) -> Window {
    window((kernel, kernel), (stride, stride), (1, 1), (pad, pad), (pad, pad))
}

#[test]
fn convolutions_of_all_kinds() {
    let mut net = Net::new(1);
    let x = net.input(&[2, 3, 40, 36]);
    let x = net.conv(x, 40, square(3, 2, 1), 1, Some(Unary::Relu));
    let y = net.conv(x, 40, square(3, 1, 1), 40, Some(Unary::HardSwish));
    let y = net.conv(y, 72, square(1, 1, 0), 1, Some(Unary::Swish { alpha: 1.0 }));
    let y = net.conv(y, 40, square(3, 1, 1), 1, Some(Unary::Gelu));
    let y = net.node(Binary::Add, &[x, y]);
    let y = net.conv(y, 48, square(3, 1, 1), 2, None);
    let y = net.node(
        Pool { kind: PoolKind::Max, window: square(3, 2, 1), output: vec![10, 9], indices: None },
        &[y],
    );
    let y = net.node(Unary::Tanh, &[y]);
    check(net.finish(y), 5);
}

#[test]
fn products_norms_and_softmax() {
    let mut net = Net::new(2);
    let x = net.input(&[2, 65, 96]);
    let (w, v) = (net.constant(&[96, 200]), net.constant(&[200, 96]));
    let product = MatMul::default;
    let y = net.node(product(), &[x, w]);
    let y = net.node(Unary::Gelu, &[y]);
    let y = net.node(product(), &[y, v]);
    let (scale, bias) = (net.constant(&[96]), net.constant(&[96]));
    let y = net.node(LayerNorm { axis: 2, epsilon: 1e-5, statistics: false }, &[y, scale, bias]);
    let y = net.node(MatMul { transpose_b: true, ..product() }, &[y, x]);
    let y = net.node(Softmax { axis: 2, log: false }, &[y]);
    check(net.finish(y), 6);
}
