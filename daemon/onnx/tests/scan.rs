//! The guard on models that are written by hand, good and hostile, one fault each.

use agentd_onnx::build::{Graph, Message, Node, conv, lstm, mlp};
use agentd_onnx::{ScanLimits, scan};
use agentd_types::{
    Coded,
    Datatype::{self, Bool, Fp32, Int8, Int64},
    TensorSpec, chain,
};

/// Scans `file`; `want` is `ok` or the code of the refusal, followed by a part of its message.
#[track_caller]
fn check(file: &[u8], want: &str) {
    let (want, part) = want.split_once(' ').unwrap_or((want, ""));
    match scan(file, &ScanLimits::default()) {
        Ok(_) => assert_eq!(want, "ok"),
        Err(error) => {
            assert_eq!(error.code().as_str(), want, "{}", chain(&error));
            assert!(chain(&error).contains(part), "`{}` lacks `{part}`", chain(&error));
        }
    }
}

/// A graph from `x [n, 4]` through `node` to `y [n, 4]`.
fn through(node: Node) -> Graph {
    Graph::new("g").input("x", Fp32, &[-1, 4]).node(node.name("n").inputs(&["x"]).outputs(&["y"])).output(
        "y",
        Fp32,
        &[-1, 4],
    )
}

fn identity() -> Graph {
    through(Node::new("Relu"))
}

/// A model whose weight is the `TensorProto` given.
fn with_tensor(tensor: Message) -> Vec<u8> {
    identity().field(5, tensor).model(17)
}

fn dims(dims: &[i64], number: i64) -> Message {
    dims.iter().fold(Message::new().bytes(8, "w").int(2, number), |tensor, dim| tensor.int(1, *dim))
}

#[test]
fn good_models_pass_and_are_told_as_they_are() {
    let got = scan(&mlp(4, 8, 3, 1), &ScanLimits::default()).unwrap();
    let spec =
        |name: &str, shape: &[i64]| TensorSpec { name: name.into(), datatype: Fp32, shape: shape.into() };
    assert_eq!(got.inputs, [spec("x", &[-1, 4])]);
    assert_eq!(got.outputs, [spec("y", &[-1, 3])]);
    assert_eq!(got.parameters, 4 * 8 + 8 + 8 * 3 + 3);
    assert_eq!(got.nodes, 4);
    assert_eq!(got.operators.get("Gemm"), Some(&2));
    assert_eq!(got.opsets.get("ai.onnx"), Some(&17));
    assert_eq!(got.producer, "agentd 1");
    assert!(!got.recurrent && got.unknown_operators.is_empty());
    check(&conv(3, 4, 8, 1), "ok");
    check(&lstm(5, 3, 3, 2), "ok");
}

#[test]
fn an_input_with_a_default_is_no_input() {
    let got = identity().input("w", Fp32, &[1]).f32("w", &[1], &[0.5]).model(17);
    assert_eq!(scan(&got, &ScanLimits::default()).unwrap().inputs.len(), 1);
}

#[test]
fn unknown_operators_are_reported_not_refused() {
    let file = through(Node::new("Frobnicate")).model(17);
    assert_eq!(scan(&file, &ScanLimits::default()).unwrap().unknown_operators, ["Frobnicate"]);
}

#[test]
fn what_is_no_model_is_refused() {
    check(b"", "onnx.ir_version");
    check(b"#!/bin/sh", "onnx.wire");
    check(&Message::new().int(1, 8).into_bytes(), "onnx.graph");
    check(&Message::new().int(1, 2).into_bytes(), "onnx.ir_version version 2");
    let file = identity().model(17);
    for cut in 1..file.len() {
        assert!(scan(&file[..cut], &ScanLimits::default()).is_err(), "cut at {cut}");
    }
    let small = ScanLimits { bytes: 10, ..ScanLimits::default() };
    assert_eq!(scan(&file, &small).unwrap_err().code().as_str(), "onnx.size");
}

#[test]
fn fields_that_readers_would_merge_or_overwrite_are_refused() {
    let twice = [identity().model(17), Message::new().bytes(7, "").into_bytes()].concat();
    check(&twice, "onnx.wire stands twice");
    check(&through(Node::new("Relu").field(4, "Conv")).model(17), "onnx.wire stands twice");
    check(&with_tensor(dims(&[1], 1).int(2, 1).bytes(9, [0; 4])), "onnx.wire stands twice");
}

#[test]
fn parts_that_nobody_checks_are_refused() {
    let with = |field, bytes: &[u8]| {
        [identity().model(17), Message::new().bytes(field, bytes).into_bytes()].concat()
    };
    check(&with(25, b""), "onnx.functions");
    check(&with(20, b""), "onnx.training");
    check(&identity().field(15, "").model(17), "onnx.sparse");
    check(
        &through(Node::new("Relu").field(5, Message::new().bytes(1, "a").bytes(22, ""))).model(17),
        "onnx.attribute",
    );
}

#[test]
fn operator_sets_out_of_bounds_are_refused() {
    for (opsets, want) in [
        (&[("", 5)][..], "onnx.opset ai.onnx version 5"),
        (&[("", 29)], "onnx.opset version 29"),
        (&[("ai.onnx", 17)], "ok"),
        (&[("", 17), ("ai.onnx", 17)], "onnx.duplicate"),
        (&[("", 17), ("my.own", 1)], "ok"),
        (&[], "onnx.opset Relu"),
    ] {
        check(&identity().model_with(opsets), want);
    }
    let own = through(Node::new("Relu").domain("my.own"));
    check(
        &own.clone().model_with(&[("", 17), ("my.own", 1)]),
        "onnx.domain `n` (Relu) is of domain `my.own`",
    );
    let ours = through(Node::new("Gelu").domain("com.microsoft"));
    check(&ours.clone().model(17), "onnx.opset com.microsoft:Gelu");
    check(&ours.model_with(&[("", 17), ("com.microsoft", 1)]), "ok");
}

#[test]
fn every_name_must_be_defined_once_and_before_its_use() {
    let add = |a: &str, b: &str, y: &str| Node::new("Add").inputs(&[a, b]).outputs(&[y]);
    let graph = || Graph::new("g").input("x", Fp32, &[1]).output("y", Fp32, &[1]);
    for (file, want) in [
        (graph().node(add("x", "x", "y")), "ok"),
        (graph().node(add("x", "ghost", "y")), "onnx.unresolved node `y` (Add) takes `ghost`"),
        (graph().node(add("x", "z", "y")).node(add("x", "y", "z")), "onnx.order node `y` (Add) takes `z`"),
        (graph().node(add("x", "y", "y")), "onnx.order"),
        (graph().node(add("x", "x", "y")).node(add("x", "x", "y")), "onnx.duplicate"),
        (graph().node(add("x", "x", "x")), "onnx.duplicate"),
        (graph().f32("w", &[1], &[1.0]).f32("w", &[1], &[1.0]), "onnx.duplicate weight"),
        (graph().input("x", Fp32, &[1]), "onnx.duplicate input"),
        (graph().node(add("x", "x", "y")).output("y", Fp32, &[1]), "onnx.duplicate output"),
        (graph(), "onnx.unresolved the main graph takes `y`"),
        (graph().f32("", &[1], &[1.0]), "onnx.name"),
        (graph().node(add("x", "x", &"y".repeat(2000))), "onnx.name 2000 bytes"),
        (Graph::new("g").input("x", Fp32, &[1]), "onnx.interface"),
    ] {
        check(&file.model(17), want);
    }
}

#[test]
fn graphs_within_graphs_see_the_outer_names_and_end_somewhere() {
    let branch = |takes: &str| {
        Graph::new("b").node(Node::new("Relu").inputs(&[takes]).outputs(&["b"])).output("b", Fp32, &[1])
    };
    let outer = |body: Graph| {
        Graph::new("g")
            .input("x", Fp32, &[1])
            .input("c", Bool, &[])
            .node(
                Node::new("If")
                    .inputs(&["c"])
                    .outputs(&["y"])
                    .graph("then_branch", body.clone())
                    .graph("else_branch", body),
            )
            .output("y", Fp32, &[1])
            .model(17)
    };
    check(&outer(branch("x")), "ok");
    check(&outer(branch("y")), "onnx.unresolved");
    check(&outer(branch("ghost")), "onnx.unresolved");
    check(&outer(branch("x").node(Node::new("Relu").inputs(&["b"]).outputs(&["x"]))), "onnx.duplicate");
    let mut nested = branch("x");
    for _ in 0..8 {
        nested = Graph::new("b")
            .node(Node::new("If").inputs(&["c"]).outputs(&["b2"]).graph("then_branch", nested));
    }
    check(&outer(nested), "onnx.depth more than 8 deep");
}

#[test]
fn weights_must_be_what_they_claim() {
    for (tensor, want) in [
        (dims(&[2], 1).bytes(9, [0; 8]), "ok"),
        (dims(&[2], 1).bytes(9, [0; 7]), "onnx.data holds 7 bytes where its dimensions need 8"),
        (dims(&[2], 1).bytes(9, [0; 9]), "onnx.data"),
        (dims(&[2], 1), "onnx.data holds 0 elements"),
        (dims(&[0], 1), "ok"),
        (dims(&[], 1).bytes(9, [0; 4]), "ok"),
        (dims(&[2], 1).bytes(4, [0; 8]), "ok"),
        (dims(&[2], 1).float(4, 1.0).float(4, 2.0), "ok"),
        (dims(&[2], 1).bytes(4, [0; 7]), "onnx.data"),
        (dims(&[2], 1).bytes(4, [0; 4]), "onnx.data holds 1 elements"),
        (dims(&[2], 1).packed(7, &[1, 2]), "onnx.data another datatype"),
        (dims(&[2], 1).bytes(4, [0; 8]).bytes(9, [0; 8]), "onnx.data another datatype"),
        (dims(&[2], 7).packed(7, &[1, -1]), "ok"),
        (dims(&[2], 7).int(7, 1).int(7, -1), "ok"),
        (dims(&[2], 3).packed(5, &[1, 2]), "ok"),
        (dims(&[2], 3).packed(5, &[1, 2, 3]), "onnx.data"),
        (dims(&[3], 22).bytes(9, [0; 2]), "ok"),
        (dims(&[3], 22).bytes(9, [0; 3]), "onnx.data"),
        (dims(&[2], 8).bytes(6, "a").bytes(6, "b"), "ok"),
        (dims(&[2], 8).bytes(9, "ab"), "onnx.data"),
        (dims(&[2], 9).bytes(9, [0, 1]), "ok"),
        (dims(&[2], 9).bytes(9, [0, 2]), "onnx.data boolean"),
        (dims(&[2], 0).bytes(9, [0; 8]), "onnx.datatype unknown datatype 0"),
        (dims(&[2], 99).bytes(9, [0; 8]), "onnx.datatype"),
        (dims(&[-1], 1).bytes(9, [0; 8]), "onnx.dims"),
        (dims(&[1 << 32, 2], 1), "onnx.dims"),
        (dims(&[0, 1 << 33], 1), "onnx.dims"),
        (dims(&[i64::MAX, i64::MAX], 1), "onnx.dims"),
        (dims(&[1; 33], 1).bytes(9, [0; 4]), "onnx.dims"),
        (dims(&[2], 1).int(14, 1), "onnx.external_data"),
        (dims(&[2], 1).bytes(9, [0; 8]).bytes(13, ""), "onnx.external_data outside the file"),
        (dims(&[2], 1).bytes(9, [0; 8]).bytes(3, ""), "onnx.segment"),
    ] {
        check(&with_tensor(tensor), want);
    }
    let constant = Graph::new("g")
        .node(Node::new("Constant").outputs(&["y"]).tensor("value", Int8, &[2], &[0; 3]))
        .output("y", Int8, &[2]);
    check(&constant.model(17), "onnx.data");
}

#[test]
fn attributes_that_size_loops_are_bounded() {
    for (node, want) in [
        (Node::new("MaxPool").ints("kernel_shape", &[3, 3]).ints("pads", &[0, 1, 0, 1]), "ok"),
        (
            Node::new("MaxPool").ints("kernel_shape", &[1 << 40]),
            "onnx.attribute node `n` (MaxPool): attribute `kernel_shape`",
        ),
        (Node::new("MaxPool").ints("kernel_shape", &[1 << 16, 1 << 16]), "onnx.attribute 2^20 taps"),
        (Node::new("MaxPool").ints("kernel_shape", &[0]), "onnx.attribute"),
        (Node::new("Conv").ints("strides", &[0]), "onnx.attribute"),
        (Node::new("Conv").ints("dilations", &[1; 17]), "onnx.attribute too long"),
        (Node::new("Conv").ints("pads", &[-1]), "onnx.attribute"),
        (Node::new("Pad").ints("pads", &[-1]), "ok"),
        (Node::new("Conv").int("group", 0), "onnx.attribute"),
        (Node::new("Softmax").int("axis", -1), "ok"),
        (Node::new("Softmax").int("axis", 1 << 31), "onnx.attribute"),
        (Node::new("Transpose").ints("perm", &[1, 0]), "ok"),
        (Node::new("Transpose").ints("perm", &[0, 0]), "onnx.attribute permutation"),
        (Node::new("Relu").string("s", &"s".repeat(2 << 20)), "onnx.attribute 1 MiB"),
        (Node::new("Relu").int("a", 1).int("a", 2), "onnx.attribute stands twice"),
        (
            Node::new("Relu").field(5, Message::new().bytes(1, "a").int(3, 1).int(8, 2)),
            "onnx.attribute another kind",
        ),
        (
            Node::new("Relu").field(5, Message::new().bytes(1, "a").int(3, 1).int(20, 7)),
            "onnx.attribute another kind",
        ),
        (Node::new("Relu").field(5, Message::new().bytes(1, "a").bytes(21, "b")), "onnx.attribute function"),
        ((0..65).fold(Node::new("Relu"), |node, n| node.int(&format!("a{n}"), n)), "onnx.limit attributes"),
        (Node::new(""), "onnx.operator"),
    ] {
        check(&through(node).model(17), want);
    }
}

#[test]
fn inputs_and_outputs_are_tensors_that_can_be_served() {
    let graph = |field, message: Message| identity().field(field, message).model(17);
    let value = |kind: Message| Message::new().bytes(1, "v").bytes(2, kind);
    let tensor = |number| Message::new().bytes(1, Message::new().int(1, number).bytes(2, ""));
    check(&graph(11, value(tensor(1))), "ok");
    check(&graph(11, value(tensor(14))), "onnx.interface input `v` has a datatype");
    check(&graph(11, value(Message::new().bytes(4, ""))), "onnx.interface zipmap");
    check(
        &graph(11, value(Message::new().bytes(1, Message::new().int(1, 1)))),
        "onnx.interface has no shape",
    );
    check(&graph(11, Message::new().bytes(1, "v")), "onnx.interface has no type");
    check(&identity().input("v", Fp32, &[1 << 20, 1 << 20]).model(17), "onnx.interface");
    let many = (0..300).fold(identity(), |graph, n| graph.input(&format!("i{n}"), Fp32, &[1]));
    check(&many.model(17), "onnx.limit inputs");
}

#[test]
fn recurrent_weights_must_fit_each_other_and_their_input() {
    let zeros = |count: usize| vec![0.0; count];
    let node =
        || Node::new("LSTM").name("l").inputs(&["x", "w", "r", "b"]).outputs(&["y"]).int("hidden_size", 2);
    let model = |w: &[i64], r: &[i64], b: &[i64], node: Node| {
        let size = |dims: &[i64]| usize::try_from(dims.iter().product::<i64>()).unwrap();
        Graph::new("g")
            .input("x", Fp32, &[5, 1, 3])
            .f32("w", w, &zeros(size(w)))
            .f32("r", r, &zeros(size(r)))
            .f32("b", b, &zeros(size(b)))
            .node(node)
            .output("y", Fp32, &[5, 1, 1, 2])
            .model(14)
    };
    for (w, r, b, want) in [
        (&[1, 8, 3][..], &[1, 8, 2][..], &[1, 16][..], "ok"),
        (
            &[1, 8, 1000],
            &[1, 8, 2],
            &[1, 16],
            "onnx.recurrent X has 3 features, but its weights are for 1000",
        ),
        (&[1, 7, 3], &[1, 8, 2], &[1, 16], "onnx.recurrent W has shape"),
        (&[1, 8, 3], &[1, 8, 3], &[1, 16], "onnx.recurrent R has shape"),
        (&[1, 8, 3], &[1, 8, 2], &[1, 8], "onnx.recurrent B has shape"),
        (&[2, 8, 3], &[1, 8, 2], &[1, 16], "onnx.recurrent"),
        (&[8, 3], &[1, 8, 2], &[1, 16], "onnx.recurrent W has 2 dimensions"),
    ] {
        check(&model(w, r, b, node()), want);
    }
    let both = node().string("direction", "bidirectional");
    check(&model(&[2, 8, 3], &[2, 8, 2], &[2, 16], both.clone()), "ok");
    check(&model(&[1, 8, 3], &[1, 8, 2], &[1, 16], both), "onnx.recurrent");
    check(&lstm(5, 64, 3, 2), "onnx.recurrent X has 64 features");
}

#[test]
fn a_free_feature_dimension_is_fixed_by_the_weights() {
    let got = scan(&lstm(5, -1, 3, 2), &ScanLimits::default()).unwrap();
    assert_eq!(got.inputs[0].shape, [5, 1, 3]);
    assert!(got.recurrent && got.recurrences[0].proved);
    assert_eq!(got.recurrences[0].features, Some(3));
}

#[test]
fn features_are_followed_through_convolutions_and_said_where_they_get_lost() {
    let crnn = |lost: bool| {
        let mut graph = Graph::new("crnn")
            .input("x", Fp32, &[1, 1, 4, -1])
            .f32("k", &[6, 1, 3, 3], &[0.0; 54])
            .i64("axes", &[1], &[2])
            .f32("w", &[1, 8, 6], &[0.0; 48])
            .f32("r", &[1, 8, 2], &[0.0; 16])
            .node(Node::new("Conv").inputs(&["x", "k"]).outputs(&["c"]))
            .node(Node::new("MaxPool").inputs(&["c"]).outputs(&["p"]).ints("kernel_shape", &[4, 1]))
            .node(Node::new("Squeeze").inputs(&["p", "axes"]).outputs(&["s"]))
            .node(Node::new("Transpose").inputs(&["s"]).outputs(&["t"]).ints("perm", &[2, 0, 1]));
        if lost {
            graph = graph.node(Node::new("Reshape").inputs(&["t", "axes"]).outputs(&["u"]));
        }
        let input = if lost { "u" } else { "t" };
        graph
            .node(Node::new("LSTM").inputs(&[input, "w", "r"]).outputs(&["y"]).int("hidden_size", 2))
            .output("y", Fp32, &[-1, 1, 1, 2])
            .model(14)
    };
    for (lost, proved) in [(false, true), (true, false)] {
        let got = scan(&crnn(lost), &ScanLimits::default()).unwrap();
        assert_eq!(got.recurrences[0].proved, proved);
        assert_eq!(got.recurrences[0].features, Some(6));
    }
}

#[test]
fn a_description_must_have_the_models_inputs_and_outputs() {
    let model = scan(&mlp(4, 8, 3, 1), &ScanLimits::default()).unwrap();
    let spec = |name: &str, datatype: Datatype, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.into(),
    };
    let (x, y) = (spec("x", Fp32, &[-1, 4]), spec("y", Fp32, &[-1, 3]));
    for (inputs, outputs, want) in [
        (vec![x.clone()], vec![y.clone()], ""),
        (vec![spec("x", Fp32, &[1, 4])], vec![y.clone()], ""),
        (vec![spec("x", Fp32, &[-1, -1])], vec![y.clone()], "input `x` has shape [-1, 4], not [-1, -1]"),
        (vec![spec("x", Fp32, &[4])], vec![y.clone()], "input `x` has shape"),
        (vec![spec("x", Int64, &[-1, 4])], vec![y.clone()], "is FP32, not INT64"),
        (vec![], vec![y.clone()], "input `x` is missing"),
        (vec![x.clone(), spec("z", Fp32, &[1])], vec![y], "input `z` does not exist"),
        (vec![x], vec![spec("z", Fp32, &[1])], "output `z` does not exist"),
    ] {
        let got =
            model.check_interface(&inputs, &outputs).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(got.contains(want) && got.is_empty() == want.is_empty(), "`{got}` is not `{want}`");
    }
}

#[test]
fn limits_hold_for_the_model_as_a_whole() {
    let chain = (0..20).fold(Graph::new("g").input("v0", Fp32, &[1]), |graph, n| {
        graph.node(Node::new("Relu").inputs(&[&format!("v{n}")]).outputs(&[&format!("v{}", n + 1)]))
    });
    let file = chain.output("v20", Fp32, &[1]).model(17);
    let limits = ScanLimits::default();
    for (limits, want) in [
        (ScanLimits { nodes: 19, ..limits }, "onnx.limit"),
        (ScanLimits { names: 20, ..limits }, "onnx.limit"),
        (ScanLimits { operators: 0, ..limits }, "onnx.limit"),
        (ScanLimits { nodes: 20, names: 21, operators: 1, ..limits }, "ok"),
    ] {
        let got = scan(&file, &limits).map_or_else(|error| error.code().to_string(), |_| "ok".into());
        assert_eq!(got, want);
    }
}
