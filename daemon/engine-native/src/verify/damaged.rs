//! Damaged steps on plain values are refused.

use std::sync::Arc;

use agentd_plan::{
    Builder, Fact, Graph, ValueId,
    op::{ArgReduce, Reduce, Softmax, reduce::ReduceKind},
};
use agentd_types::Datatype::Fp32;

use super::verify;
use crate::{
    lower::{Options, plan_of},
    step::{At, Step},
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
