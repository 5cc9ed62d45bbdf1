//! Small models that reach many kinds of operators.

use agentd_onnx::build::{Graph, Node, conv, lstm, mlp};
use agentd_types::Datatype::{Bool, Fp32, Int64};

/// Names and files.
pub(crate) fn ours() -> Vec<(String, Vec<u8>)> {
    [
        ("mlp", mlp(8, 16, 4, 1)),
        ("conv", conv(3, 4, 8, 2)),
        ("lstm", lstm(3, 4, 4, 5)),
        ("shapes", shapes()),
        ("pool", pool()),
        ("branch", branch()),
    ]
    .map(|(name, file)| (name.to_owned(), file))
    .to_vec()
}

/// Reshape, transpose, slice, concat, gather, tile, pad.
fn shapes() -> Vec<u8> {
    Graph::new("shapes")
        .input("x", Fp32, &[2, 6])
        .i64("to", &[3], &[2, 3, 2])
        .i64("starts", &[1], &[0])
        .i64("ends", &[1], &[2])
        .i64("axes", &[1], &[1])
        .i64("ids", &[2], &[1, 0])
        .i64("times", &[3], &[1, 1, 2])
        .i64("pads", &[6], &[0, 1, 0, 0, 1, 0])
        .node(Node::new("Reshape").inputs(&["x", "to"]).outputs(&["a"]))
        .node(Node::new("Transpose").inputs(&["a"]).outputs(&["b"]).ints("perm", &[0, 2, 1]))
        .node(Node::new("Slice").inputs(&["b", "starts", "ends", "axes"]).outputs(&["c"]))
        .node(Node::new("Concat").inputs(&["c", "b"]).outputs(&["d"]).int("axis", 1))
        .node(Node::new("Gather").inputs(&["d", "ids"]).outputs(&["e"]).int("axis", 0))
        .node(Node::new("Tile").inputs(&["e", "times"]).outputs(&["f"]))
        .node(Node::new("Pad").inputs(&["f", "pads"]).outputs(&["y"]))
        .output("y", Fp32, &[2, 6, 6])
        .model(17)
}

/// Pooling, transposed convolution, resize by attribute-laden operators, normalisation.
fn pool() -> Vec<u8> {
    let max = Node::new("MaxPool").inputs(&["x"]).outputs(&["a"]);
    let transposed = Node::new("ConvTranspose").inputs(&["a", "w"]).outputs(&["b"]);
    let average = Node::new("AveragePool").inputs(&["b"]).outputs(&["c"]);
    Graph::new("pool")
        .input("x", Fp32, &[1, 2, 8, 8])
        .f32("w", &[2, 3, 2, 2], &[0.1; 24])
        .f32("scales", &[4], &[1.0, 1.0, 2.0, 2.0])
        .node(max.ints("kernel_shape", &[2, 2]).ints("strides", &[2, 2]).ints("pads", &[0, 0, 0, 0]))
        .node(transposed.ints("strides", &[2, 2]).int("group", 1))
        .node(average.ints("kernel_shape", &[3, 3]).ints("pads", &[1, 1, 1, 1]).int("ceil_mode", 0))
        .node(Node::new("Resize").inputs(&["c", "", "scales"]).outputs(&["d"]).string("mode", "nearest"))
        .node(Node::new("ReduceMean").inputs(&["d"]).outputs(&["e"]).ints("axes", &[2, 3]).int("keepdims", 0))
        .node(Node::new("Softmax").inputs(&["e"]).outputs(&["y"]).int("axis", 1))
        .output("y", Fp32, &[1, 3])
        .model(17)
}

/// Integers, comparisons, a constant, a branch.
fn branch() -> Vec<u8> {
    let then =
        Graph::new("then").node(Node::new("Neg").inputs(&["x"]).outputs(&["t"])).output("t", Int64, &[3]);
    let other =
        Graph::new("else").node(Node::new("Abs").inputs(&["x"]).outputs(&["e"])).output("e", Int64, &[3]);
    let condition = Node::new("Constant").outputs(&["yes"]).tensor("value", Bool, &[], &[1]);
    let choose = Node::new("If").inputs(&["yes"]).outputs(&["z"]);
    Graph::new("branch")
        .input("x", Int64, &[3])
        .i64("one", &[1], &[1])
        .node(condition)
        .node(choose.graph("then_branch", then).graph("else_branch", other))
        .node(Node::new("Add").inputs(&["z", "one"]).outputs(&["y"]))
        .output("y", Int64, &[3])
        .model(16)
}
