//! Reductions, softmax and the place of the best along axes.

use agentd_plan::op::ArgReduce;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reductions_agree(
        shape in prop::collection::vec(1..9_usize, 1..5), wide in 0..4_usize, reduced in prop::collection::vec(any::<bool>(), 5),
        kind in 0..9_usize, seed in 0..1000_u64,
    ) {
        use ReduceKind::{L1, L2, LogSum, Max, Mean, Min, Product, Sum, SumSquare};
        let kind = [Sum, Mean, Max, Min, Product, L1, L2, SumSquare, LogSum][kind];
        let mut shape = shape;
        let rank = shape.len();
        shape[wide % rank] *= 11;
        let axes: Vec<usize> = (0..rank).filter(|axis| reduced[*axis]).collect();
        let mut net = Net::new(seed);
        let x = net.input(&shape);
        // Logarithms and products of positive numbers near 1.
        let x = if matches!(kind, LogSum | Product) { net.node(Unary::Sigmoid, &[x]) } else { x };
        let y = net.node(Reduce { kind, axes, keep: reduced[4] }, &[x]);
        check(net.finish(y), seed);
    }

    #[test]
    fn softmax_along_any_axis_agrees(
        shape in prop::collection::vec(1..9_usize, 1..5), axis in 0..4_usize, long in any::<bool>(), log in any::<bool>(),
        seed in 0..1000_u64,
    ) {
        let (mut shape, axis) = (shape.clone(), axis % shape.len());
        if long {
            shape[axis] *= 13;
        }
        let mut net = Net::new(seed);
        let x = net.input(&shape);
        let y = net.node(Softmax { axis, log }, &[x]);
        check(net.finish(y), seed);
    }

    #[test]
    fn the_place_of_the_best_agrees(
        shape in prop::collection::vec(1..9_usize, 1..4), axis in 0..4_usize, wide in any::<bool>(),
        (largest, keep, last) in (any::<bool>(), any::<bool>(), any::<bool>()), seed in 0..1000_u64,
    ) {
        let (mut shape, axis) = (shape.clone(), axis % shape.len());
        if wide {
            *shape.last_mut().unwrap() *= 21;
        }
        let mut net = Net::new(seed);
        let x = net.input(&shape);
        // Few different numbers, so that some are equal.
        let three = net.node(Unary::Clip { low: -0.3, high: 0.3 }, &[x]);
        let y = net.node(ArgReduce { largest, axis, keep, last }, &[three]);
        check(net.finish(y), seed);
    }
}

#[test]
fn numbers_that_are_none_are_found() {
    for at in 0..20 {
        for (shape, axis) in [(vec![1, 20], 1), (vec![20, 1], 0), (vec![2, 10], 1), (vec![10, 2], 0)] {
            let mut items = numbers(20, 3);
            items[at] = f32::NAN;
            let input = Array::new(shape.clone(), items).unwrap();
            for kind in [ReduceKind::Max, ReduceKind::Min, ReduceKind::Sum] {
                let mut net = Net::new(1);
                let x = net.input(&shape);
                let y = net.node(Reduce { kind, axes: vec![axis], keep: false }, &[x]);
                check_with(net.finish(y), std::slice::from_ref(&input), Numerics::Fast, 2e-5, true);
            }
            let mut net = Net::new(1);
            let x = net.input(&shape);
            let y = net.node(ArgReduce { largest: true, axis, keep: false, last: true }, &[x]);
            check_with(net.finish(y), &[input], Numerics::Fast, 0.0, true);
        }
    }
}
