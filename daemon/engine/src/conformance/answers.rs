//! Models with known answers.

use agentd_onnx::build::{Graph, Node, lstm, mlp};
use agentd_types::Datatype::{Bool, Fp16, Fp32, Fp64, Int32, Int64};

use super::{
    Case, Model, Outcome, answers, answers_if_offered, described, double, f32s, i64s, identical, model, run,
    same,
};
use crate::{Engine, Tensor};

pub(super) const CASES: &[Case] = &[
    ("adds", adds),
    ("multiplies matrices", multiplies_matrices),
    ("convolves with padding", convolves),
    ("takes a softmax", takes_a_softmax),
    ("takes any batch where the first dimension is free", takes_any_batch),
    ("gathers by integers", gathers),
    ("answers in booleans", answers_in_booleans),
    ("computes in other datatypes where it offers them", other_datatypes),
    ("takes a scalar input", takes_a_scalar),
    ("takes inputs in the order of the spec", inputs_in_order),
    ("gives outputs in the order of the spec, and only those", outputs_in_order),
    ("lets NaN through", lets_nan_through),
    ("recurrent state does not pass from one request to the next", recurrent_state_ends),
    ("sessions do not influence each other", sessions_are_apart),
    ("repeated runs are bit-equal", repeats_bit_equal),
];

fn adds(engine: &dyn Engine) -> Outcome {
    let graph = Graph::new("add").node(Node::new("Add").inputs(&["a", "b"]).outputs(&["y"]));
    let model = model(engine, graph, &[("a", Fp32, &[2, 2]), ("b", Fp32, &[2])], &[("y", Fp32, &[2, 2])]);
    let (a, b) = (f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0])?, f32s(&[2], &[10.0, 20.0])?);
    answers(engine, &model, &[&a, &b], &[f32s(&[2, 2], &[11.0, 22.0, 13.0, 24.0])?])
}

fn multiplies_matrices(engine: &dyn Engine) -> Outcome {
    let graph = Graph::new("matmul")
        .f32("w", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .node(Node::new("MatMul").inputs(&["x", "w"]).outputs(&["y"]));
    let model = model(engine, graph, &[("x", Fp32, &[1, 3])], &[("y", Fp32, &[1, 2])]);
    answers(engine, &model, &[&f32s(&[1, 3], &[1.0, 10.0, 100.0])?], &[f32s(&[1, 2], &[531.0, 642.0])?])
}

fn convolves(engine: &dyn Engine) -> Outcome {
    let conv = Node::new("Conv").inputs(&["x", "w"]).outputs(&["y"]);
    let conv = conv.ints("kernel_shape", &[3, 3]).ints("pads", &[1, 1, 1, 1]);
    let graph = Graph::new("conv").f32("w", &[1, 1, 3, 3], &[1.0; 9]).node(conv);
    let model = model(engine, graph, &[("x", Fp32, &[1, 1, 3, 3])], &[("y", Fp32, &[1, 1, 3, 3])]);
    let want = f32s(&[1, 1, 3, 3], &[4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0])?;
    answers(engine, &model, &[&f32s(&[1, 1, 3, 3], &[1.0; 9])?], &[want])
}

fn takes_a_softmax(engine: &dyn Engine) -> Outcome {
    let softmax = Node::new("Softmax").inputs(&["x"]).outputs(&["y"]).int("axis", -1);
    let model =
        model(engine, Graph::new("softmax").node(softmax), &[("x", Fp32, &[1, 3])], &[("y", Fp32, &[1, 3])]);
    let x = f32s(&[1, 3], &[0.0, 2.0_f32.ln(), 4.0_f32.ln()])?;
    answers(engine, &model, &[&x], &[f32s(&[1, 3], &[1.0 / 7.0, 2.0 / 7.0, 4.0 / 7.0])?])
}

fn small_mlp(engine: &dyn Engine, seed: u64) -> Model {
    described(engine, mlp(4, 8, 3, seed), &[("x", Fp32, &[-1, 4])], &[("y", Fp32, &[-1, 3])])
}

fn takes_any_batch(engine: &dyn Engine) -> Outcome {
    let mut session = small_mlp(engine, 1).load(engine)?;
    let values: Vec<f32> = (0_u8..28).map(|n| f32::from(n) / 10.0 - 1.4).collect();
    let mut rows = Vec::new();
    for row in values.chunks(4) {
        rows.extend(run(session.as_mut(), &[&f32s(&[1, 4], row)?])?);
    }
    for batch in [7, 2, 1, 7] {
        let some = values.get(..batch * 4).unwrap_or_default();
        let got = run(session.as_mut(), &[&f32s(&[batch, 4], some)?])?;
        let bytes = rows.iter().take(batch).flat_map(|row| row.bytes.iter().copied()).collect::<Vec<_>>();
        let want = Tensor::new(Fp32, vec![batch, 3], bytes).map_err(|error| error.to_string())?;
        same(&got, &[want])?;
    }
    Ok(())
}

fn gathers(engine: &dyn Engine) -> Outcome {
    let graph = Graph::new("gather")
        .f32("table", &[3, 2], &[0.0, 1.0, 10.0, 11.0, 20.0, 21.0])
        .node(Node::new("Gather").inputs(&["table", "ids"]).outputs(&["y"]).int("axis", 0));
    let model = model(engine, graph, &[("ids", Int64, &[3])], &[("y", Fp32, &[3, 2])]);
    let want = f32s(&[3, 2], &[20.0, 21.0, 0.0, 1.0, 20.0, 21.0])?;
    answers(engine, &model, &[&i64s(&[3], &[2, 0, 2])?], &[want])
}

fn answers_in_booleans(engine: &dyn Engine) -> Outcome {
    let graph = Graph::new("less").node(Node::new("Less").inputs(&["a", "b"]).outputs(&["y"]));
    let model = model(engine, graph, &[("a", Fp32, &[3]), ("b", Fp32, &[3])], &[("y", Bool, &[3])]);
    let want = Tensor::new(Bool, vec![3], vec![1, 0, 0]).map_err(|error| error.to_string())?;
    answers_if_offered(
        engine,
        &model,
        &[&f32s(&[3], &[1.0, 2.0, 3.0])?, &f32s(&[3], &[2.0, 2.0, 2.0])?],
        &[want],
    )
}

fn other_datatypes(engine: &dyn Engine) -> Outcome {
    let ones: [(_, &[u8], &[u8]); 4] = [
        (Fp64, &1.5_f64.to_le_bytes(), &3.0_f64.to_le_bytes()),
        (Fp16, &half::f16::from_f32(1.5).to_le_bytes(), &half::f16::from_f32(3.0).to_le_bytes()),
        (Int32, &21_i32.to_le_bytes(), &42_i32.to_le_bytes()),
        (Int64, &(1_i64 << 40).to_le_bytes(), &(1_i64 << 41).to_le_bytes()),
    ];
    for (datatype, one, two) in ones {
        let graph = Graph::new("double").node(Node::new("Add").inputs(&["x", "x"]).outputs(&["y"]));
        let model = model(engine, graph, &[("x", datatype, &[2])], &[("y", datatype, &[2])]);
        let tensor =
            |value: &[u8]| Tensor::new(datatype, vec![2], value.repeat(2)).map_err(|e| e.to_string());
        answers_if_offered(engine, &model, &[&tensor(one)?], &[tensor(two)?])
            .map_err(|reason| format!("{datatype}: {reason}"))?;
    }
    Ok(())
}

fn takes_a_scalar(engine: &dyn Engine) -> Outcome {
    let graph = Graph::new("scale").node(Node::new("Mul").inputs(&["x", "s"]).outputs(&["y"]));
    let model = model(engine, graph, &[("x", Fp32, &[2]), ("s", Fp32, &[])], &[("y", Fp32, &[2])]);
    answers(engine, &model, &[&f32s(&[2], &[1.0, 2.0])?, &f32s(&[], &[3.0])?], &[f32s(&[2], &[3.0, 6.0])?])
}

fn inputs_in_order(engine: &dyn Engine) -> Outcome {
    let graph = Graph::new("sub").node(Node::new("Sub").inputs(&["a", "b"]).outputs(&["y"]));
    let mut model = model(engine, graph, &[("a", Fp32, &[1]), ("b", Fp32, &[1])], &[("y", Fp32, &[1])]);
    model.spec.inputs.reverse();
    answers(engine, &model, &[&f32s(&[1], &[1.0])?, &f32s(&[1], &[10.0])?], &[f32s(&[1], &[9.0])?])
}

fn outputs_in_order(engine: &dyn Engine) -> Outcome {
    let graph = Graph::new("outputs")
        .node(Node::new("Add").inputs(&["x", "x"]).outputs(&["sum"]))
        .node(Node::new("Mul").inputs(&["x", "x"]).outputs(&["product"]))
        .node(Node::new("Neg").inputs(&["x"]).outputs(&["negative"]));
    let outputs: &[(&str, _, &[i64])] =
        &[("sum", Fp32, &[1]), ("product", Fp32, &[1]), ("negative", Fp32, &[1])];
    let mut model = model(engine, graph, &[("x", Fp32, &[1])], outputs);
    model.spec.outputs.reverse();
    model.spec.outputs.truncate(2);
    answers(engine, &model, &[&f32s(&[1], &[5.0])?], &[f32s(&[1], &[-5.0])?, f32s(&[1], &[25.0])?])
}

fn lets_nan_through(engine: &dyn Engine) -> Outcome {
    let x = f32s(&[4], &[f32::NAN, 1.0, f32::INFINITY, 0.0])?;
    answers(engine, &double(engine), &[&x], &[f32s(&[4], &[f32::NAN, 2.0, f32::INFINITY, 0.0])?])
}

fn recurrent_state_ends(engine: &dyn Engine) -> Outcome {
    let inputs: &[(&str, _, &[i64])] = &[("x", Fp32, &[3, 1, 4])];
    let model = described(engine, lstm(3, 4, 4, 5), inputs, &[("y", Fp32, &[3, 1, 1, 5])]);
    let mut session = model.load(engine)?;
    let x = f32s(&[3, 1, 4], &[0.5; 12])?;
    let other = f32s(&[3, 1, 4], &[-2.0; 12])?;
    let first = run(session.as_mut(), &[&x])?;
    identical(&run(session.as_mut(), &[&x])?, &first)?;
    let different = run(session.as_mut(), &[&other])?;
    if different == first {
        return Err("another input gives the same answer".into());
    }
    identical(&run(session.as_mut(), &[&x])?, &first)?;
    identical(&run(model.load(engine)?.as_mut(), &[&x])?, &first)
}

fn sessions_are_apart(engine: &dyn Engine) -> Outcome {
    let x = f32s(&[1, 4], &[0.1, 0.2, 0.3, 0.4])?;
    let mut one = small_mlp(engine, 1).load(engine)?;
    let first = run(one.as_mut(), &[&x])?;
    let mut two = small_mlp(engine, 2).load(engine)?;
    let second = run(two.as_mut(), &[&x])?;
    if first == second {
        return Err("two models give the same answer".into());
    }
    identical(&run(one.as_mut(), &[&x])?, &first)?;
    drop(one);
    identical(&run(two.as_mut(), &[&x])?, &second)
}

fn repeats_bit_equal(engine: &dyn Engine) -> Outcome {
    let mut session = small_mlp(engine, 3).load(engine)?;
    let x = f32s(&[1, 4], &[0.7, -0.1, 0.3, 2.0])?;
    let first = run(session.as_mut(), &[&x])?;
    (0..20).try_for_each(|_| identical(&run(session.as_mut(), &[&x])?, &first))
}
