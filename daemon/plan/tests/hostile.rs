//! Damaged and hostile models: import, fusion and the interpreter answer, in bounded time and memory, and never panic.

#![allow(clippy::unwrap_used, reason = "a helper of tests is no test to the linter")]

use agentd_onnx::build::{Graph, Node, conv, lstm, mlp};
use agentd_plan::{Array, Fact, Given, ImportLimits, Numerics, fuse, import};
use agentd_types::{
    Coded as _,
    Datatype::{Fp32, Int64},
};
use proptest::prelude::*;

const LIMITS: ImportLimits =
    ImportLimits { nodes: 2_000, folded_bytes: 1 << 22, value_bytes: 1 << 22, folded_work: 1 << 22 };

/// Imports, fuses and, where it is small, runs.
fn digest(file: &[u8], dims: &[usize]) {
    let read = agentd_onnx::Model::read(file);
    let Ok(model) = read else { return };
    let inputs = model.graph.inputs.iter().map(|input| input.name);
    let shapes: Vec<(&str, Fact)> = inputs.map(|name| (name, Fact::new(Fp32, dims))).collect();
    for shapes in [&[][..], &shapes] {
        let graph = match import(file, &Given { shapes, constants: &[], limits: LIMITS }) {
            Ok(graph) => graph,
            Err(error) => {
                assert!(!error.code().as_str().is_empty());
                continue;
            }
        };
        let fused = fuse(&graph, Numerics::Fast).unwrap();
        if graph.work() > 1 << 22 {
            continue;
        }
        let given = |graph: &agentd_plan::Graph| -> Vec<Array> {
            let facts = graph.inputs().iter().map(|id| graph.value(*id).fact.clone());
            facts.map(|fact| Array::zeros(fact.datatype, fact.shape).unwrap()).collect()
        };
        let (before, after) = (graph.run(&given(&graph)), fused.run(&given(&fused)));
        assert_eq!(before.is_ok(), after.is_ok(), "{before:?} {after:?}");
    }
}

fn samples() -> Vec<Vec<u8>> {
    let body = Graph::new("body")
        .input("i", Int64, &[])
        .input("c", agentd_types::Datatype::Bool, &[])
        .input("s", Fp32, &[2])
        .node(Node::new("Identity").inputs(&["c"]).outputs(&["c2"]))
        .node(Node::new("Add").inputs(&["s", "s"]).outputs(&["s2"]))
        .output("c2", agentd_types::Datatype::Bool, &[])
        .output("s2", Fp32, &[2]);
    let loops = Graph::new("g")
        .input("x", Fp32, &[2])
        .i64("n", &[], &[3])
        .node(Node::new("Loop").inputs(&["n", "", "x"]).outputs(&["y"]).graph("body", body))
        .output("y", Fp32, &[2])
        .model(18);
    let shapes = Graph::new("g")
        .input("x", Fp32, &[2, 3, 4])
        .i64("s", &[2], &[-1, 4])
        .i64("a", &[1], &[1])
        .i64("p", &[4], &[1, 0, 0, 1])
        .node(Node::new("Shape").inputs(&["x"]).outputs(&["d"]))
        .node(Node::new("Reshape").inputs(&["x", "s"]).outputs(&["r"]))
        .node(Node::new("Pad").inputs(&["r", "p"]).outputs(&["q"]))
        .node(Node::new("Slice").inputs(&["q", "a", "a", "a"]).outputs(&["t"]))
        .node(Node::new("Expand").inputs(&["x", "d"]).outputs(&["e"]))
        .node(Node::new("Tile").inputs(&["q", "s"]).outputs(&["u"]))
        .output("q", Fp32, &[7, 5])
        .output("e", Fp32, &[2, 3, 4])
        .model(18);
    vec![mlp(3, 4, 2, 1), conv(1, 2, 4, 1), lstm(2, 3, 3, 2), loops, shapes]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_models_are_answered(
        sample in 0_usize..5,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        dims in proptest::collection::vec(0_usize..6, 0..5),
    ) {
        let mut file = samples().swap_remove(sample);
        for (place, byte) in damage {
            let at = place.index(file.len());
            file[at] = byte;
        }
        digest(&file, &dims);
    }

    #[test]
    fn damaged_numbers_are_answered(
        sample in 0_usize..5,
        place in any::<prop::sample::Index>(),
        number in prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(-1), Just(1 << 40), any::<i64>()],
    ) {
        let mut file = samples().swap_remove(sample);
        let at = place.index(file.len().saturating_sub(8).max(1));
        if let Some(slot) = file.get_mut(at..at + 8) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        digest(&file, &[2, 3]);
    }
}

#[track_caller]
fn refused(file: &[u8], code: &str) {
    let error = import(file, &Given { limits: LIMITS, ..Given::default() }).unwrap_err();
    assert_eq!(error.code().as_str(), code, "{error:?}");
}

#[test]
fn known_ways_to_hurt_an_engine_are_refused() {
    let one = |node: Node| {
        Graph::new("g").input("x", Fp32, &[1, 1, 4, 4]).node(node).output("y", Fp32, &[1]).model(18)
    };
    refused(&one(Node::new("Relu").inputs(&["nowhere"]).outputs(&["y"])), "plan.unresolved");
    refused(&one(Node::new("Relu").inputs(&["y"]).outputs(&["y"])), "plan.unresolved");
    refused(&one(Node::new("NoSuch").inputs(&["x"]).outputs(&["y"])), "plan.unsupported");
    let pool =
        |kernel: &[i64]| Node::new("MaxPool").inputs(&["x"]).outputs(&["y"]).ints("kernel_shape", kernel);
    refused(&one(pool(&[1 << 40, 1])), "plan.attribute");
    refused(&one(pool(&[3, 3]).ints("strides", &[0, 1])), "plan.attribute");
    refused(&one(pool(&[5, 5])), "plan.shape");
    refused(
        &one(Node::new("Transpose").inputs(&["x"]).outputs(&["y"]).ints("perm", &[0, 0, 1, 2])),
        "plan.attribute",
    );
    // Recurrent weights of fewer features than the input has.
    refused(&lstm(2, 3, 1_000, 2), "plan.shape");
    let huge = Graph::new("g")
        .i64("s", &[2], &[1 << 20, 1 << 20])
        .node(Node::new("ConstantOfShape").inputs(&["s"]).outputs(&["y"]))
        .output("y", Fp32, &[1])
        .model(18);
    refused(&huge, "plan.too_large");
    let range = Graph::new("g")
        .i64("a", &[], &[0])
        .i64("b", &[], &[i64::MAX])
        .i64("c", &[], &[1])
        .node(Node::new("Range").inputs(&["a", "b", "c"]).outputs(&["y"]))
        .output("y", Int64, &[1])
        .model(18);
    refused(&range, "plan.too_large");
}

#[test]
fn a_loop_without_end_is_refused() {
    let body = Graph::new("body")
        .input("i", Int64, &[])
        .input("c", agentd_types::Datatype::Bool, &[])
        .output("c", agentd_types::Datatype::Bool, &[]);
    let file = Graph::new("g")
        .i64("n", &[], &[i64::MAX])
        .node(Node::new("Loop").inputs(&["n", ""]).outputs(&["y"]).graph("body", body))
        .output("y", Fp32, &[2])
        .model(18);
    refused(&file, "plan.too_large");
}
