//! Damaged steps on plain values are refused.

use std::sync::Arc;

use agentd_plan::{
    Array, Builder, Fact, Graph, ValueId,
    op::{
        ArgReduce, Binary, Cast, Compare, Gather, GroupNorm, LocalResponseNorm, Pad, Reduce, Softmax, Tile,
        Where, movement::PadMode, reduce::ReduceKind,
    },
};
use agentd_types::Datatype::{Fp32, Int64};

use super::verify;
use crate::{
    kernel::elements::Each,
    lower::{Options, plan_of},
    step::{At, Operand, Source, Step},
};

/// A net with every kind of step on plain values that is damaged here.
fn graph() -> Arc<Graph> {
    let mut b = Builder::new();
    let x = b.input("x", Fact::new(Fp32, vec![3, 5, 7])).unwrap();
    let mut add = |op: agentd_plan::Op, inputs: &[ValueId]| {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        let id = b.node(op, &inputs, "node").unwrap()[0];
        b.output(format!("y{}", id.index()), id).unwrap();
        id
    };
    let soft = add(Softmax { axis: 1, log: false }.into(), &[x]);
    add(Softmax { axis: 2, log: true }.into(), &[soft]);
    add(Reduce { kind: ReduceKind::L2, axes: vec![0, 2], keep: false }.into(), &[soft]);
    add(ArgReduce { largest: true, axis: 1, keep: false, last: false }.into(), &[soft]);
    let index = add(Cast { to: Int64 }.into(), &[soft]);
    let doubled = add(Binary::Add.into(), &[index, index]);
    let flags = add(Compare::Less.into(), &[index, doubled]);
    add(Where.into(), &[flags, soft, x]);
    add(Gather { axis: 1 }.into(), &[soft, doubled]);
    add(Tile { repeats: vec![1, 2, 1] }.into(), &[x]);
    let (before, after) = (vec![1, 0, 2], vec![0, 1, 0]);
    add(Pad { mode: PadMode::Reflect, before, after }.into(), &[x]);
    let norm = LocalResponseNorm { size: 3, alpha: 1e-4, beta: 0.75, bias: 1.0 };
    add(norm.into(), &[x]);
    let per_channel = b.constant("c", Array::new(vec![5], vec![1.0_f32; 5]).unwrap()).unwrap();
    let norm = GroupNorm { groups: 5, epsilon: 1e-5 };
    let y = b.node(norm, &[Some(x), Some(per_channel), Some(per_channel)], "norm").unwrap()[0];
    b.output("norm", y).unwrap();
    Arc::new(b.finish())
}

/// Does something to a step after which it would leave its memory; whether it knows the step.
#[allow(clippy::wildcard_enum_match_arm, reason = "the other steps are damaged elsewhere")]
fn damage(step: &mut Step, kind: usize, far: usize) -> bool {
    let away =
        |at: &mut At, kind: usize| if kind.is_multiple_of(2) { at.start += far } else { at.buffer.0 += 1000 };
    match step {
        Step::Along(along) => match kind % 6 {
            0 => along.count += far,
            1 => along.count = 0,
            2 => along.outer += far,
            3 => along.inner = usize::MAX / 2,
            4 => away(&mut along.input, kind / 6),
            _ => away(&mut along.output, kind / 6),
        },
        Step::Elements(elements) => match kind % 4 {
            0 => elements.turns[0].count += far,
            1 => elements.turns.clear(),
            2 => elements.each = Each::Choose(3),
            _ => away(&mut elements.output, kind / 4),
        },
        Step::Gather(gather) => match kind % 6 {
            0 => gather.count += far,
            1 => gather.size += far,
            2 => gather.inner = usize::MAX / 3,
            3 => gather.from = Source::Value(usize::MAX),
            4 => gather.indices = Operand::Constant(far),
            _ => away(&mut gather.to, kind / 6),
        },
        Step::GroupNorm(norm) => match kind % 5 {
            0 => norm.groups += far,
            1 => norm.plane += far,
            2 => norm.scale += far,
            3 => norm.bias = usize::MAX,
            _ => away(&mut norm.output, kind / 5),
        },
        Step::LocalNorm(norm) => match kind % 4 {
            0 => norm.images += far,
            1 => norm.channels = usize::MAX / 2,
            2 => norm.reach.1 = usize::MAX,
            _ => away(&mut norm.input, kind / 4),
        },
        Step::Copy(copy) => match kind % 3 {
            0 => copy.axes[0].count += far,
            1 => copy.axes.clear(),
            _ => away(&mut copy.to, kind / 3),
        },
        _ => return false,
    }
    true
}

#[test]
fn damaged_steps_on_plain_values_are_refused() {
    let graph = graph();
    let whole = plan_of(Arc::clone(&graph), Options::default()).unwrap();
    let steps = whole.steps.len();
    assert!(verify(whole).is_ok());
    let mut damaged = 0;
    for turn in 0..steps * 24 {
        let mut plan = plan_of(Arc::clone(&graph), Options::default()).unwrap();
        let far = plan.arena + plan.constants.len() + turn;
        if damage(&mut plan.steps[turn % steps], turn / steps, far) {
            damaged += 1;
            assert!(verify(plan).is_err(), "turn {turn} was not refused");
        }
    }
    assert!(damaged > 24, "only {damaged} steps were damaged");
}
