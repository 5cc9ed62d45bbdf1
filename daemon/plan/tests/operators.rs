//! Operators whose meaning lies in their import: attention, rotary positions, texts, n-grams, loops, scans.

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a helper of tests is no test to the linter")]

use agentd_onnx::build::{Graph, Message, Node};
use agentd_plan::{Array, Fact, Given, Numerics, fuse, import};
use agentd_types::{
    Coded as _,
    Datatype::{Bool, Bytes, Fp32, Int64},
};

/// Imports with these inputs given at run time, fuses, and runs both.
#[track_caller]
fn run(file: &[u8], inputs: &[(&str, Array)], constants: &[(&str, Array)]) -> Vec<Array> {
    let shapes: Vec<(&str, Fact)> = inputs.iter().map(|(name, array)| (*name, array.fact())).collect();
    let graph = import(file, &Given { shapes: &shapes, constants, ..Given::default() }).unwrap();
    let fused = fuse(&graph, Numerics::Strict).unwrap();
    let arrays: Vec<Array> = inputs.iter().map(|(_, array)| array.clone()).collect();
    let answers = graph.run(&arrays).unwrap();
    assert_eq!(answers, fused.run(&arrays).unwrap());
    answers
}

#[track_caller]
fn refused(file: &[u8], inputs: &[(&str, Fact)], code: &str) {
    let error = import(file, &Given { shapes: inputs, ..Given::default() }).unwrap_err();
    assert_eq!(error.code().as_str(), code, "{error:?}");
}

fn reals(shape: &[usize], items: &[f32]) -> Array {
    Array::new(shape, items.to_vec()).unwrap()
}

fn texts(items: &[&str]) -> Array {
    Array::list(items.iter().map(|item| item.as_bytes().to_vec()).collect::<Vec<_>>())
}

/// An attribute that is a list of texts or of floats.
fn listed(name: &str, texts: &[&str], floats: &[f32]) -> Message {
    let message = Message::new().bytes(1, name);
    let message = texts.iter().fold(message, |message, text| message.bytes(9, text));
    let message = floats.iter().fold(message, |message, float| message.float(7, *float));
    message.int(20, if texts.is_empty() { 6 } else { 8 })
}

const ATTRIBUTE: u32 = 5;

fn single(node: Node, inputs: &[(&str, agentd_types::Datatype)], outputs: &[&str], version: i64) -> Vec<u8> {
    let graph = Graph::new("g").node(node);
    let graph = inputs.iter().fold(graph, |graph, (name, datatype)| {
        let kind = Message::new().int(1, number(*datatype));
        let kind = Message::new().bytes(1, kind);
        graph.field(11, Message::new().bytes(1, name).bytes(2, kind))
    });
    outputs.iter().fold(graph, |graph, name| graph.output(name, Fp32, &[])).model(version)
}

fn number(datatype: agentd_types::Datatype) -> i64 {
    match datatype {
        Int64 => 7,
        Bytes => 8,
        Bool => 9,
        _ => 1,
    }
}

#[test]
fn attention_sees_the_past_and_its_own_token() {
    let node = Node::new("Attention").inputs(&["q", "k", "v", "", "pk", "pv"]).outputs(&["y", "k2", "v2"]);
    let floats = ["q", "k", "v", "pk", "pv"].map(|name| (name, Fp32));
    let file = single(node.int("is_causal", 1), &floats, &["y", "k2", "v2"], 23);
    // All scores are alike, so that each token gets the mean of what it sees: two past tokens, then its own and earlier ones.
    let zeros = |tokens: usize| Array::zeros(Fp32, [1, 1, tokens, 1]).unwrap();
    let inputs = [
        ("q", zeros(2)),
        ("k", zeros(2)),
        ("v", reals(&[1, 1, 2, 1], &[6.0, 9.0])),
        ("pk", zeros(2)),
        ("pv", reals(&[1, 1, 2, 1], &[0.0, 3.0])),
    ];
    let answers = run(&file, &inputs, &[]);
    assert_eq!(answers[0], reals(&[1, 1, 2, 1], &[3.0, 4.5]));
    assert_eq!(answers[2], reals(&[1, 1, 4, 1], &[0.0, 3.0, 6.0, 9.0]));
}

#[test]
fn groups_of_queries_share_a_head_of_keys() {
    let node = Node::new("Attention").inputs(&["q", "k", "v"]).outputs(&["y"]);
    let file = single(
        node.int("q_num_heads", 4).int("kv_num_heads", 2),
        &["q", "k", "v"].map(|name| (name, Fp32)),
        &["y"],
        23,
    );
    let inputs = [
        ("q", reals(&[1, 1, 4], &[1.0; 4])),
        ("k", reals(&[1, 1, 2], &[1.0; 2])),
        ("v", reals(&[1, 1, 2], &[5.0, 7.0])),
    ];
    // One token: its own value, of the head's group.
    assert_eq!(run(&file, &inputs, &[])[0], reals(&[1, 1, 4], &[5.0, 5.0, 7.0, 7.0]));
    let odd = ["q", "k", "v"].map(|name| (name, Fact::new(Fp32, [1, 1, 3])));
    refused(&file, &odd, "plan.shape");
}

#[test]
fn rotary_positions_turn_pairs_of_features() {
    let node = || Node::new("RotaryEmbedding").inputs(&["x", "cos", "sin", "at"]).outputs(&["y"]);
    let inputs = [("x", Fp32), ("cos", Fp32), ("sin", Fp32), ("at", Int64)];
    let given = |tokens: usize| {
        [
            ("x", reals(&[1, 1, tokens, 4], &[1.0, 2.0, 3.0, 4.0])),
            // A quarter of a turn at position 1.
            ("cos", reals(&[2, 2], &[1.0, 1.0, 0.0, 0.0])),
            ("sin", reals(&[2, 2], &[0.0, 0.0, 1.0, 1.0])),
            ("at", Array::new([1, 1], vec![1_i64]).unwrap()),
        ]
    };
    let halves = single(node(), &inputs, &["y"], 23);
    assert_eq!(run(&halves, &given(1), &[])[0], reals(&[1, 1, 1, 4], &[-3.0, -4.0, 1.0, 2.0]));
    let turns = single(node().int("interleaved", 1), &inputs, &["y"], 23);
    assert_eq!(run(&turns, &given(1), &[])[0], reals(&[1, 1, 1, 4], &[-2.0, 1.0, -4.0, 3.0]));
    let part = single(node().int("rotary_embedding_dim", 2), &inputs, &["y"], 23);
    assert_eq!(run(&part, &given(1), &[])[0], reals(&[1, 1, 1, 4], &[-2.0, 1.0, 3.0, 4.0]));
    for dims in [3, 6, 1 << 40, -2] {
        let file = single(node().int("rotary_embedding_dim", dims), &inputs, &["y"], 23);
        let shapes: Vec<(&str, Fact)> = given(1).iter().map(|(name, array)| (*name, array.fact())).collect();
        refused(&file, &shapes, if dims < 0 { "plan.attribute" } else { "plan.shape" });
    }
}

fn ngrams(mode: &str) -> Node {
    // Single tokens 2 and 3; pairs (5, 6) and (7, 8), of which the latter counts first.
    Node::new("TfIdfVectorizer")
        .inputs(&["x"])
        .outputs(&["y"])
        .string("mode", mode)
        .ints("ngram_counts", &[0, 2])
        .ints("ngram_indexes", &[1, 2, 3, 0])
        .ints("pool_int64s", &[2, 3, 5, 6, 7, 8])
        .field(ATTRIBUTE, listed("weights", &[], &[0.5, 1.0, 1.0, 2.0]))
}

#[test]
fn ngrams_are_counted_with_what_lies_between() {
    let count = |mode: &str, skips: i64| {
        let node =
            ngrams(mode).int("min_gram_length", 1).int("max_gram_length", 2).int("max_skip_count", skips);
        let x = Array::list(vec![2_i64, 5, 6, 5, 4, 6, 2]);
        run(&single(node, &[("x", Int64)], &["y"], 9), &[("x", x)], &[]).swap_remove(0)
    };
    assert_eq!(count("TF", 0), reals(&[4], &[0.0, 2.0, 0.0, 1.0]));
    // With one token between, (5, _, 6) counts as well; single tokens count once.
    assert_eq!(count("TF", 1), reals(&[4], &[0.0, 2.0, 0.0, 2.0]));
    assert_eq!(count("IDF", 1), reals(&[4], &[0.0, 1.0, 0.0, 2.0]));
    assert_eq!(count("TFIDF", i64::MAX), reals(&[4], &[0.0, 2.0, 0.0, 6.0]));
    let node = |counts: &[i64], columns: &[i64]| {
        let node = Node::new("TfIdfVectorizer").inputs(&["x"]).outputs(&["y"]).ints("ngram_counts", counts);
        let node = node.ints("ngram_indexes", columns).ints("pool_int64s", &[1, 2, 3]);
        single(node.int("min_gram_length", 1).int("max_gram_length", 1), &[("x", Int64)], &["y"], 9)
    };
    let x = [("x", Fact::new(Int64, [4]))];
    refused(&node(&[0], &[0, 1]), &x, "plan.attribute");
    refused(&node(&[4], &[0]), &x, "plan.attribute");
    refused(&node(&[2, 1], &[0]), &x, "plan.attribute");
    refused(&node(&[0], &[0, 1, i64::MAX]), &x, "plan.too_large");
    refused(&node(&[-1], &[0, 1, 2]), &x, "plan.value");
    refused(&node(&[0], &[0, 1, 2]), &[("x", Fact::new(Int64, [2, 2, 2]))], "plan.shape");
}

#[test]
fn texts_are_split_and_normalised() {
    let split = |node: Node, x: &[&str]| {
        let file = single(node.inputs(&["x"]).outputs(&["y", "n"]), &[("x", Bytes)], &["y", "n"], 20);
        run(&file, &[], &[("x", texts(x))])
    };
    let answers = split(Node::new("StringSplit").string("delimiter", ","), &["a,b,", "c", ""]);
    assert_eq!(answers[0], texts(&["a", "b", "", "c", "", "", "", "", ""]).reshaped([3, 3]).unwrap());
    assert_eq!(answers[1], Array::list(vec![3_i64, 1, 0]));
    let answers = split(Node::new("StringSplit").int("maxsplit", 1), &["  a  b c", "d"]);
    assert_eq!(answers[0], texts(&["a", "b c", "d", ""]).reshaped([2, 2]).unwrap());
    let node =
        Node::new("StringNormalizer").inputs(&["x"]).outputs(&["y"]).string("case_change_action", "UPPER");
    let upper = single(node.clone(), &[("x", Bytes)], &["y"], 10);
    assert_eq!(run(&upper, &[("x", texts(&["ab", "Ä", "ß"]))], &[])[0], texts(&["AB", "Ä", "ß"]));
    let stops = node.field(ATTRIBUTE, listed("stopwords", &["AB"], &[]));
    let stops = single(stops, &[("x", Bytes)], &["y"], 10);
    assert_eq!(run(&stops, &[], &[("x", texts(&["ab", "c"]))])[0], texts(&["C"]));
    assert_eq!(run(&stops, &[], &[("x", texts(&["aB"]))])[0], texts(&[""]));
    // How many are left is not known before.
    refused(&stops, &[("x", Fact::new(Bytes, [2]))], "plan.data_dependent");
    // What is no UTF-8 has no letters.
    let graph =
        import(&upper, &Given { shapes: &[("x", Fact::new(Bytes, [1]))], ..Given::default() }).unwrap();
    let error = graph.run(&[Array::list(vec![vec![0xff_u8]])]).unwrap_err();
    assert_eq!(error.code().as_str(), "plan.value");
}

/// Doubles `s` while it is below 20, at most `rounds` times.
fn doubling(rounds: i64, gathers: bool) -> Vec<u8> {
    let body = Graph::new("body")
        .input("i", Int64, &[])
        .input("c", Bool, &[])
        .input("s", Fp32, &[1])
        .node(Node::new("Add").inputs(&["s", "s"]).outputs(&["s2"]))
        .node(Node::new("Less").inputs(&["s2", "bound"]).outputs(&["c2"]))
        .output("c2", Bool, &[])
        .output("s2", Fp32, &[1]);
    let body = if gathers { body.output("s2", Fp32, &[1]) } else { body };
    let outputs: &[&str] = if gathers { &["y", "all"] } else { &["y"] };
    let graph = Graph::new("g")
        .input("x", Fp32, &[1])
        .i64("n", &[], &[rounds])
        .f32("bound", &[], &[20.0])
        .node(Node::new("Loop").inputs(&["n", "", "x"]).outputs(outputs).graph("body", body));
    outputs.iter().fold(graph, |graph, name| graph.output(name, Fp32, &[1])).model(18)
}

#[test]
fn a_loop_may_end_when_the_run_says_so() {
    let file = doubling(6, false);
    for (x, y) in [(3.0, 24.0), (30.0, 60.0), (0.25, 16.0)] {
        assert_eq!(run(&file, &[("x", reals(&[1], &[x]))], &[])[0], reals(&[1], &[y]));
    }
    // Rounds without bound, and as many slices as there are rounds.
    refused(&doubling(i64::MAX, false), &[], "plan.data_dependent");
    refused(&doubling(6, true), &[], "plan.data_dependent");
    assert_eq!(run(&doubling(6, true), &[], &[("x", reals(&[1], &[6.0]))])[1], reals(&[2, 1], &[12.0, 24.0]));
}

fn summing(inputs: &[&str], directions: &[i64]) -> Vec<u8> {
    let body = Graph::new("body")
        .input("sum", Fp32, &[])
        .input("next", Fp32, &[])
        .node(Node::new("Add").inputs(&["sum", "next"]).outputs(&["out"]))
        .node(Node::new("Identity").inputs(&["out"]).outputs(&["each"]))
        .output("out", Fp32, &[])
        .output("each", Fp32, &[]);
    let node = Node::new("Scan").inputs(inputs).outputs(&["y", "all"]).int("num_scan_inputs", 1);
    let node = node.ints("directions", directions).graph("body", body);
    single(node, &[("start", Fp32), ("x", Fp32), ("n", Int64)], &["y", "all"], 8)
}

#[test]
fn a_scan_of_a_batch_goes_along_each_sample() {
    let inputs = [("start", reals(&[2], &[0.0, 10.0])), ("x", reals(&[2, 2], &[1.0, 2.0, 3.0, 4.0]))];
    let answers = run(&summing(&["", "start", "x"], &[1]), &inputs, &[("n", Array::scalar(0_i64))]);
    assert_eq!(answers[0], reals(&[2], &[3.0, 17.0]));
    assert_eq!(answers[1], reals(&[2, 2], &[2.0, 3.0, 14.0, 17.0]));
    let shapes = inputs.map(|(name, array)| (name, array.fact()));
    let with = |lengths: Vec<i64>| {
        let constants = [("n", Array::list(lengths))];
        let given = Given { shapes: &shapes, constants: &constants, ..Given::default() };
        import(&summing(&["n", "start", "x"], &[0]), &given)
    };
    assert!(with(vec![2, 2]).is_ok());
    for lengths in [vec![1, 2], vec![-1, 2], vec![3, 2]] {
        assert_eq!(with(lengths).unwrap_err().code().as_str(), "plan.unsupported");
    }
    let given = Given { shapes: &shapes, constants: &[("n", Array::scalar(0_i64))], ..Given::default() };
    let error = import(&summing(&["", "start", "x"], &[0, 0]), &given).unwrap_err();
    assert_eq!(error.code().as_str(), "plan.attribute");
}

#[test]
fn mel_bands_are_triangles_inside_the_spectrum() {
    let names = ["bands", "length", "rate", "low", "high"];
    let node = Node::new("MelWeightMatrix").inputs(&names).outputs(&["y"]);
    let kinds = [Int64, Int64, Int64, Fp32, Fp32];
    let inputs: Vec<_> = names.into_iter().zip(kinds).collect();
    let file = single(node, &inputs, &["y"], 17);
    let with = |bands: i64, length: i64, rate: i64, high: f32| {
        let whole = [("bands", bands), ("length", length), ("rate", rate)];
        let mut constants: Vec<(&str, Array)> =
            whole.into_iter().map(|(name, number)| (name, Array::scalar(number))).collect();
        constants.extend([("low", Array::scalar(0.0_f32)), ("high", Array::scalar(high))]);
        import(&file, &Given { constants: &constants, ..Given::default() })
            .map(|graph| graph.run(&[]).unwrap())
    };
    let weights = with(8, 16, 8192, 4096.0).unwrap().swap_remove(0);
    assert_eq!(weights.shape(), [9, 8]);
    assert!(weights.reals().unwrap().iter().all(|weight| (0.0..=1.0).contains(weight)));
    let code = |bands, length, rate, high| with(bands, length, rate, high).unwrap_err().code().to_string();
    assert_eq!(code(8, 16, 0, 4096.0), "plan.value");
    assert_eq!(code(8, 16, 8192, 1e9), "plan.value");
    assert_eq!(code(8, 16, 8192, f32::NAN), "plan.value");
    assert_eq!(code(-1, 16, 8192, 4096.0), "plan.value");
    assert_eq!(code(1 << 27, 1 << 27, 8192, 4096.0), "plan.too_large");
}
