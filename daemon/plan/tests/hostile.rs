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

/// A node on `x`, with these weights.
fn on_x(node: Node, floats: &[(&str, &[i64], &[f32])], ints: &[(&str, &[i64])]) -> Vec<u8> {
    let graph = Graph::new("g").input("x", Fp32, &[1, 2, 4, 4]).node(node.outputs(&["y"]));
    let graph = floats.iter().fold(graph, |graph, (name, dims, items)| graph.f32(name, dims, items));
    let length = |items: &[i64]| i64::try_from(items.len()).unwrap();
    let graph = ints.iter().fold(graph, |graph, (name, items)| graph.i64(name, &[length(items)], items));
    graph.output("y", Fp32, &[1]).model(18)
}

const HUGE: [i64; 4] = [1 << 31, 1 << 40, i64::MAX, i64::MAX - 1];

#[test]
fn sizes_beyond_all_bounds_are_refused() {
    for huge in HUGE {
        let with = |operator: &str, sizes: &[i64]| {
            on_x(Node::new(operator).inputs(&["x", "s"]), &[], &[("s", sizes)])
        };
        refused(&with("Expand", &[huge, 1, 2, 4, 4]), "plan.too_large");
        refused(&with("Tile", &[huge, huge, 1, 1]), "plan.too_large");
        refused(&with("Pad", &[0, 0, 0, huge, 0, 0, 0, huge]), "plan.value");
        let zeros = |node: Node, sizes: &[i64]| {
            let length = i64::try_from(sizes.len()).unwrap();
            Graph::new("g")
                .i64("s", &[length], sizes)
                .node(node.outputs(&["y"]))
                .output("y", Fp32, &[1])
                .model(18)
        };
        refused(&zeros(Node::new("ConstantOfShape").inputs(&["s"]), &[huge, huge, 0]), "plan.too_large");
        refused(&zeros(Node::new("HannWindow").inputs(&["s"]), &[huge]), "plan.value");
        let col2im = Node::new("Col2Im").inputs(&["x", "image", "block"]);
        let image: (&str, &[i64]) = ("image", &[huge, 4]);
        let file = on_x(col2im, &[], &[image, ("block", &[1, 1])]);
        assert!(import(&file, &Given { limits: LIMITS, ..Given::default() }).is_err());
        let resize = Node::new("Resize").inputs(&["x", "", "", "s"]);
        let file = on_x(resize, &[], &[("s", &[1, 2, huge, huge])]);
        assert!(import(&file, &Given { limits: LIMITS, ..Given::default() }).is_err());
        let depth = on_x(
            Node::new("OneHot").inputs(&["s", "d", "v"]),
            &[("v", &[2], &[0.0, 1.0])],
            &[("s", &[0, 1]), ("d", &[huge])],
        );
        refused(&depth, "plan.too_large");
    }
    for scale in [1e30, f32::INFINITY, f32::NAN, -1.0, 0.0] {
        let node = Node::new("Resize").inputs(&["x", "", "s"]);
        let file = on_x(node, &[("s", &[4], &[1.0, 1.0, scale, 1.0])], &[]);
        assert!(import(&file, &Given { limits: LIMITS, ..Given::default() }).is_err(), "{scale}");
    }
}

#[test]
fn steps_of_zero_and_wild_numbers_are_answered() {
    for wild in HUGE.into_iter().chain([0, -1, i64::MIN, i64::MIN + 1]) {
        let ints: &[(&str, &[i64])] = &[("a", &[0]), ("e", &[4]), ("w", &[wild])];
        let tries = [
            Node::new("Slice").inputs(&["x", "a", "e", "a", "w"]),
            Node::new("Slice").inputs(&["x", "w", "e", "a"]),
            Node::new("Slice").inputs(&["x", "a", "w", "a"]),
            Node::new("Slice").inputs(&["x", "a", "e", "w"]),
            Node::new("Reshape").inputs(&["x", "w"]),
            Node::new("Flatten").inputs(&["x"]).int("axis", wild),
            Node::new("Concat").inputs(&["x", "x"]).int("axis", wild),
            Node::new("Softmax").inputs(&["x"]).int("axis", wild),
            Node::new("Gather").inputs(&["x", "w"]).int("axis", 2),
            Node::new("Split").inputs(&["x"]).int("num_outputs", wild),
            Node::new("Trilu").inputs(&["x", "w"]),
            Node::new("TopK").inputs(&["x", "w"]),
            Node::new("CumSum").inputs(&["x", "w"]),
            Node::new("ReduceSum").inputs(&["x", "w"]),
            Node::new("Squeeze").inputs(&["x", "w"]),
            Node::new("Unsqueeze").inputs(&["x", "w"]),
            Node::new("Shape").inputs(&["x"]).int("start", wild).int("end", wild),
            Node::new("DepthToSpace").inputs(&["x"]).int("blocksize", wild),
            Node::new("SpaceToDepth").inputs(&["x"]).int("blocksize", wild),
            Node::new("LRN").inputs(&["x"]).int("size", wild),
            Node::new("LpPool").inputs(&["x"]).ints("kernel_shape", &[2, 2]).int("p", wild),
            Node::new("CenterCropPad").inputs(&["x", "w"]).ints("axes", &[2]),
            Node::new("DFT").inputs(&["x", "w"]).int("axis", 1),
            Node::new("AveragePool")
                .inputs(&["x"])
                .ints("kernel_shape", &[2, 2])
                .ints("dilations", &[wild, 1]),
            Node::new("MaxPool").inputs(&["x"]).ints("kernel_shape", &[2, 2]).ints("pads", &[wild, 0, 0, 0]),
            Node::new("Range").inputs(&["a", "e", "w"]),
        ];
        for node in tries {
            digest(&on_x(node, &[], ints), &[1, 2, 4, 4]);
        }
        let conv = Node::new("Conv").inputs(&["x", "k"]);
        let tries = [
            conv.clone().int("group", wild),
            conv.clone().ints("strides", &[wild, wild]),
            conv.clone().ints("dilations", &[1, wild]),
            conv.clone().ints("pads", &[wild, wild, 0, 0]),
            conv.ints("kernel_shape", &[wild, 1]),
        ];
        for node in tries {
            digest(&on_x(node, &[("k", &[2, 2, 2, 2], &[1.0; 16])], &[]), &[1, 2, 4, 4]);
        }
        let turned = Node::new("ConvTranspose").inputs(&["x", "k"]);
        for node in
            [turned.clone().ints("output_padding", &[wild, 0]), turned.ints("output_shape", &[wild, 4])]
        {
            digest(&on_x(node, &[("k", &[2, 2, 2, 2], &[1.0; 16])], &[]), &[1, 2, 4, 4]);
        }
    }
    // A step of 0 is no slice.
    let node = Node::new("Slice").inputs(&["x", "a", "e", "a", "w"]);
    refused(&on_x(node, &[], &[("a", &[0]), ("e", &[4]), ("w", &[0])]), "plan.value");
}

#[test]
fn lengths_that_run_past_their_sequence_are_refused() {
    let node = Node::new("ReverseSequence").inputs(&["x", "n"]).int("batch_axis", 0).int("time_axis", 1);
    for length in [3, -1, i64::MAX, i64::MIN] {
        let file = on_x(node.clone(), &[], &[("n", &[length])]);
        let graph = import(&file, &Given { limits: LIMITS, ..Given::default() });
        let ran = graph.and_then(|graph| graph.run(&[Array::zeros(Fp32, [1, 2, 4, 4]).unwrap()]));
        assert_eq!(ran.unwrap_err().code().as_str(), "plan.value", "{length}");
    }
}

#[test]
fn products_of_sizes_that_do_not_fit_are_refused() {
    let k: (&str, &[i64], &[f32]) = ("k", &[3, 5], &[1.0; 15]);
    refused(&on_x(Node::new("MatMul").inputs(&["x", "k"]), &[k], &[]), "plan.shape");
    refused(
        &on_x(Node::new("Conv").inputs(&["x", "k"]), &[("k", &[2, 3, 1, 1], &[1.0; 6])], &[]),
        "plan.shape",
    );
    refused(
        &on_x(Node::new("ConvTranspose").inputs(&["x", "k"]), &[("k", &[3, 2, 1, 1], &[1.0; 6])], &[]),
        "plan.shape",
    );
    let einsum = Node::new("Einsum").inputs(&["x", "k"]).string("equation", "abcd,de->abce");
    refused(&on_x(einsum, &[k], &[]), "plan.shape");
    let norm = Node::new("BatchNormalization").inputs(&["x", "k", "k", "k", "k"]);
    refused(&on_x(norm, &[k], &[]), "plan.shape");
    // Recurrent layers, with the features that a request gives.
    for operator in ["LSTM", "GRU", "RNN"] {
        let gates = match operator {
            "LSTM" => 4,
            "GRU" => 3,
            _ => 1,
        };
        let file = Graph::new("g")
            .input("x", Fp32, &[2, 1, -1])
            .f32("w", &[1, gates * 2, 3], &vec![0.1; usize::try_from(gates * 6).unwrap()])
            .f32("r", &[1, gates * 2, 2], &vec![0.1; usize::try_from(gates * 4).unwrap()])
            .node(Node::new(operator).inputs(&["x", "w", "r"]).outputs(&["y"]).int("hidden_size", 2))
            .output("y", Fp32, &[2, 1, 1, 2])
            .model(14);
        for features in [0, 1, 2, 4, 64, 1_000, 100_000] {
            let shapes = [("x", Fact::new(Fp32, [2, 1, features]))];
            let error = import(&file, &Given { shapes: &shapes, ..Given::default() }).unwrap_err();
            assert_eq!(error.code().as_str(), "plan.shape", "{operator} {features}");
        }
    }
}

#[test]
fn attributes_of_another_kind_or_meaning_are_refused() {
    let x = |node: Node| on_x(node.inputs(&["x"]), &[], &[]);
    refused(&x(Node::new("LeakyRelu").string("alpha", "much")), "plan.attribute");
    refused(&x(Node::new("Softmax").float("axis", 1.0)), "plan.attribute");
    refused(&x(Node::new("MaxPool").int("kernel_shape", 3)), "plan.attribute");
    refused(
        &x(Node::new("MaxPool").ints("kernel_shape", &[2, 2]).string("auto_pad", "SOME")),
        "plan.attribute",
    );
    refused(&x(Node::new("MaxPool")), "plan.attribute");
    refused(&x(Node::new("Cast").int("to", 1_000)), "plan.unsupported");
    refused(&x(Node::new("Cast").int("to", 17)), "plan.unsupported");
    refused(&x(Node::new("If").int("then_branch", 1)), "plan.attribute");
    let resize = Node::new("Resize").inputs(&["x", "", "", "s"]);
    let sizes: &[(&str, &[i64])] = &[("s", &[1, 2, 2, 2])];
    for (name, value) in
        [("mode", "best"), ("coordinate_transformation_mode", "own"), ("nearest_mode", "far")]
    {
        let file = on_x(resize.clone().string(name, value), &[], sizes);
        let error = import(&file, &Given { limits: LIMITS, ..Given::default() }).unwrap_err();
        assert!(matches!(error.code().as_str(), "plan.attribute" | "plan.unsupported"), "{name}: {error:?}");
    }
}

#[test]
fn a_function_that_calls_itself_is_refused() {
    use agentd_onnx::build::Message;
    let call = Message::new().bytes(1, "a").bytes(2, "b").bytes(4, "Again").bytes(7, "own");
    let function =
        Message::new().bytes(1, "Again").bytes(4, "a").bytes(5, "b").bytes(7, call).bytes(10, "own");
    let mut file = Graph::new("g")
        .input("x", Fp32, &[1])
        .node(Node::new("Again").domain("own").inputs(&["x"]).outputs(&["y"]))
        .output("y", Fp32, &[1])
        .model_with(&[("", 18), ("own", 1)]);
    file.extend(Message::new().bytes(25, function).into_bytes());
    refused(&file, "plan.too_large");
}

#[test]
fn graphs_in_each_other_end_somewhere() {
    let mut body =
        Graph::new("last").node(Node::new("Identity").inputs(&["x"]).outputs(&["y"])).output("y", Fp32, &[1]);
    for _ in 0..200 {
        let node = Node::new("If").inputs(&["c"]).outputs(&["y"]);
        let node = node.graph("then_branch", body.clone()).graph("else_branch", Graph::new("none"));
        body = Graph::new("next").node(node).output("y", Fp32, &[1]);
    }
    let file = body.input("x", Fp32, &[1]).input("c", agentd_types::Datatype::Bool, &[]).model(18);
    let error = import(&file, &Given { limits: LIMITS, ..Given::default() }).unwrap_err();
    assert!(
        matches!(error.code().as_str(), "plan.too_large" | "onnx.depth" | "onnx.graph" | "onnx.wire"),
        "{error:?}"
    );
}

#[test]
fn a_classifier_of_endless_pairs_is_refused() {
    use agentd_onnx::build::Message;
    let floats = |name: &str| Message::new().bytes(1, name).int(20, 6);
    let classes = vec![0_i64; 100_000];
    let node = Node::new("SVMClassifier")
        .domain("ai.onnx.ml")
        .inputs(&["x"])
        .ints("classlabels_ints", &classes)
        .ints("vectors_per_class", &classes)
        .field(5, floats("coefficients"))
        .field(5, floats("rho"))
        .field(5, floats("support_vectors"));
    let file = Graph::new("g")
        .input("x", Fp32, &[1, 2])
        .node(node.outputs(&["y", "z"]))
        .output("y", Int64, &[1])
        .model_with(&[("", 18), ("ai.onnx.ml", 3)]);
    refused(&file, "plan.too_large");
}

/// Weights and inputs that are no numbers go through; quantisation, sorting and folding do not stumble on them.
#[test]
fn what_is_no_number_goes_through() {
    let wild = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38, -0.0, 1e-45];
    let weights: Vec<f32> = (0..16).map(|at| wild[at % wild.len()]).collect();
    let k: (&str, &[i64], &[f32]) = ("k", &[2, 2, 2, 2], &weights);
    let row: (&str, &[i64], &[f32]) = ("r", &[1, 2, 1, 4], &weights[..8]);
    let one: (&str, &[i64], &[f32]) = ("o", &[], &[f32::NAN]);
    let few: (&str, &[i64], &[f32]) = ("f", &[2], &weights[..2]);
    let list = [
        Node::new("Conv").inputs(&["x", "k"]),
        Node::new("ConvTranspose").inputs(&["x", "k"]),
        Node::new("MatMul").inputs(&["x", "x"]),
        Node::new("Clip").inputs(&["x", "o", "o"]),
        Node::new("BatchNormalization").inputs(&["x", "f", "f", "f", "f"]),
        Node::new("QuantizeLinear").inputs(&["x", "o"]),
        Node::new("DynamicQuantizeLinear").inputs(&["r"]),
        Node::new("TopK").inputs(&["r", "n"]),
        Node::new("ArgMax").inputs(&["r"]).int("axis", 3),
        Node::new("Softmax").inputs(&["r"]),
        Node::new("Cast").inputs(&["r"]).int("to", 7),
        Node::new("CumSum").inputs(&["r", "n"]),
        Node::new("Pow").inputs(&["r", "r"]),
        Node::new("Mod").inputs(&["r", "r"]).int("fmod", 1),
        Node::new("Unique").inputs(&["r"]),
        Node::new("GridSample").inputs(&["x", "g"]),
        Node::new("Range").inputs(&["o", "o", "o"]),
        Node::new("RoiAlign").inputs(&["x", "b", "n"]).int("output_height", 2).int("output_width", 2),
        Node::new("NonMaxSuppression").inputs(&["m", "m", "n"]),
    ];
    let grid: (&str, &[i64], &[f32]) = ("g", &[1, 2, 2, 2], &weights[..8]);
    let boxes: (&str, &[i64], &[f32]) = ("b", &[1, 4], &weights[..4]);
    let many: (&str, &[i64], &[f32]) = ("m", &[1, 2, 4], &weights[..8]);
    for node in list {
        let file = on_x(node, &[k, row, one, few, grid, boxes, many], &[("n", &[0])]);
        digest(&file, &[1, 2, 4, 4]);
    }
    let relu = on_x(Node::new("Add").inputs(&["x", "r"]), &[row], &[]);
    let graph = import(&relu, &Given::default()).unwrap();
    let y = graph.run(&[Array::zeros(Fp32, [1, 2, 4, 4]).unwrap()]).unwrap().swap_remove(0);
    assert!(y.reals().unwrap().iter().any(|item| item.is_nan()));
}

/// Tensors without elements, in every place of a shape.
#[test]
fn tensors_without_elements_are_answered() {
    let k: (&str, &[i64], &[f32]) = ("k", &[2, 2, 2, 2], &[1.0; 16]);
    let f: (&str, &[i64], &[f32]) = ("f", &[2], &[1.0; 2]);
    let list = [
        Node::new("Conv").inputs(&["x", "k"]).ints("pads", &[1, 1, 1, 1]),
        Node::new("ConvTranspose").inputs(&["x", "k"]),
        Node::new("MaxPool").inputs(&["x"]).ints("kernel_shape", &[2, 2]).ints("pads", &[1, 1, 1, 1]),
        Node::new("GlobalAveragePool").inputs(&["x"]),
        Node::new("GlobalMaxPool").inputs(&["x"]),
        Node::new("BatchNormalization").inputs(&["x", "f", "f", "f", "f"]),
        Node::new("InstanceNormalization").inputs(&["x", "f", "f"]),
        Node::new("LayerNormalization").inputs(&["x", "o"]),
        Node::new("RMSNormalization").inputs(&["x", "o"]),
        Node::new("LRN").inputs(&["x"]).int("size", 3),
        Node::new("Softmax").inputs(&["x"]).int("axis", 1),
        Node::new("ReduceMax").inputs(&["x"]),
        Node::new("ReduceMean").inputs(&["x", "n"]),
        Node::new("ReduceProd").inputs(&["x"]),
        Node::new("ArgMax").inputs(&["x"]).int("axis", 2),
        Node::new("TopK").inputs(&["x", "n"]),
        Node::new("MatMul").inputs(&["x", "x"]),
        Node::new("Einsum").inputs(&["x"]).string("equation", "abcd->dcba"),
        Node::new("Transpose").inputs(&["x"]),
        Node::new("Flatten").inputs(&["x"]),
        Node::new("Concat").inputs(&["x", "x"]).int("axis", 2),
        Node::new("Gather").inputs(&["x", "n"]).int("axis", 2),
        Node::new("GatherElements").inputs(&["x", "n"]),
        Node::new("CumSum").inputs(&["x", "n"]),
        Node::new("Tile").inputs(&["x", "z"]),
        Node::new("Split").inputs(&["x"]).int("num_outputs", 1),
        Node::new("DepthToSpace").inputs(&["x"]).int("blocksize", 2),
        Node::new("Resize").inputs(&["x", "", "s"]),
        Node::new("DynamicQuantizeLinear").inputs(&["x"]),
        Node::new("Unique").inputs(&["x"]),
        Node::new("Det").inputs(&["x"]),
        Node::new("GridSample").inputs(&["x", "x"]),
        Node::new("Mean").inputs(&["x"]),
        Node::new("Attention").inputs(&["x", "x", "x"]),
        Node::new("RotaryEmbedding").inputs(&["x", "x", "x"]),
        Node::new("Hardmax").inputs(&["x"]),
        Node::new("LogSoftmax").inputs(&["x"]).int("axis", 3),
        Node::new("ReverseSequence").inputs(&["x", "n"]),
        Node::new("LpNormalization").inputs(&["x"]),
        Node::new("MeanVarianceNormalization").inputs(&["x"]),
        Node::new("SplitToSequence").inputs(&["x"]).int("axis", 3),
        Node::new("NonZero").inputs(&["x"]),
        Node::new("DFT").inputs(&["x"]).int("axis", 1),
        Node::new("Shrink").inputs(&["x"]),
        Node::new("Trilu").inputs(&["x"]),
    ];
    let shapes: [&[usize]; 8] = [
        &[0, 2, 4, 4],
        &[1, 0, 4, 4],
        &[1, 2, 0, 4],
        &[1, 2, 4, 0],
        &[0, 0, 0, 0],
        &[1, 2, 0, 0],
        &[0],
        &[2, 0],
    ];
    for node in list {
        let graph = Graph::new("g").input("x", Fp32, &[-1, -1, -1, -1]).node(node.outputs(&["y"]));
        let graph = [k, f, ("o", &[], &[1.0]), ("s", &[4], &[1.0, 1.0, 2.0, 2.0])]
            .iter()
            .fold(graph, |graph, (name, dims, items)| graph.f32(name, dims, items));
        let graph = graph.i64("n", &[1], &[0]).i64("z", &[4], &[0, 1, 2, 3]).output("y", Fp32, &[1]);
        let file = graph.model(23);
        for shape in shapes {
            digest(&file, shape);
        }
    }
}
