//! Ready-made models for tests: small, complete, the same bytes for the same arguments.

use agentd_types::Datatype::Fp32;

use super::{Graph, Node};

/// A classifier: `x [n, inputs]` -> hidden layer with ReLU -> softmax `y [n, outputs]`, opset 17.
///
/// Weights are drawn from `seed`; two seeds give two models of equal layout.
pub fn mlp(inputs: i64, hidden: i64, outputs: i64, seed: u64) -> Vec<u8> {
    let mut weights = Weights(seed);
    Graph::new("mlp")
        .input("x", Fp32, &[-1, inputs])
        .f32("w1", &[inputs, hidden], &weights.take(inputs * hidden))
        .f32("b1", &[hidden], &weights.take(hidden))
        .f32("w2", &[hidden, outputs], &weights.take(hidden * outputs))
        .f32("b2", &[outputs], &weights.take(outputs))
        .node(Node::new("Gemm").name("hidden").inputs(&["x", "w1", "b1"]).outputs(&["h"]))
        .node(Node::new("Relu").name("relu").inputs(&["h"]).outputs(&["r"]))
        .node(Node::new("Gemm").name("classifier").inputs(&["r", "w2", "b2"]).outputs(&["logits"]))
        .node(Node::new("Softmax").name("softmax").inputs(&["logits"]).outputs(&["y"]).int("axis", -1))
        .output("y", Fp32, &[-1, outputs])
        .model(17)
}

/// A convolution of 3 x 3 over `x [n, channels, size, size]`, padded to the same size, then a global mean:
/// `y [n, filters, 1, 1]`, opset 17. Weights are drawn from `seed`.
pub fn conv(channels: i64, filters: i64, size: i64, seed: u64) -> Vec<u8> {
    let mut weights = Weights(seed);
    let conv = Node::new("Conv")
        .name("conv")
        .inputs(&["x", "w", "b"])
        .outputs(&["c"])
        .ints("kernel_shape", &[3, 3])
        .ints("pads", &[1, 1, 1, 1])
        .ints("strides", &[1, 1]);
    Graph::new("conv")
        .input("x", Fp32, &[-1, channels, size, size])
        .f32("w", &[filters, channels, 3, 3], &weights.take(filters * channels * 9))
        .f32("b", &[filters], &weights.take(filters))
        .node(conv)
        .node(Node::new("Relu").name("relu").inputs(&["c"]).outputs(&["r"]))
        .node(Node::new("GlobalAveragePool").name("mean").inputs(&["r"]).outputs(&["y"]))
        .output("y", Fp32, &[-1, filters, 1, 1])
        .model(17)
}

/// An LSTM over `x [steps, 1, features]` with `hidden` units whose weights are for `weight_features`:
/// `y [steps, 1, 1, hidden]`, opset 14. With two different numbers of features the file is hostile.
pub fn lstm(steps: i64, features: i64, weight_features: i64, hidden: i64) -> Vec<u8> {
    let mut weights = Weights(7);
    let lstm =
        Node::new("LSTM").name("lstm").inputs(&["x", "w", "r"]).outputs(&["y"]).int("hidden_size", hidden);
    Graph::new("lstm")
        .input("x", Fp32, &[steps, 1, features])
        .f32("w", &[1, 4 * hidden, weight_features], &weights.take(4 * hidden * weight_features))
        .f32("r", &[1, 4 * hidden, hidden], &weights.take(4 * hidden * hidden))
        .node(lstm)
        .output("y", Fp32, &[steps, 1, 1, hidden])
        .model(14)
}

/// Numbers in `-0.5..0.5` that look random.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), SplitMix64.
struct Weights(u64);

impl Weights {
    fn take(&mut self, count: i64) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 40) as f32 / (1 << 24) as f32 - 0.5
    }
}
