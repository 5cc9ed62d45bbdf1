//! Mutations: of a file's bytes, of the model that was read, and what is given to its inputs.

use agentd_onnx::{
    build::{Graph, Node as NodeOf, conv, lstm, mlp},
    read::{Attribute, Model, Node, Value},
};
use agentd_plan::{Array, Fact};
use agentd_types::Datatype::{self, Bool, Bytes, Fp32, Int64};

/// A stream of random numbers. Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, case: u64) -> Self {
        let mut random = Self(seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let _first = random.next();
        random
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        let bound = if bound == 0 { 1 } else { bound };
        (self.next() % bound as u64) as usize
    }

    pub(crate) const fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub(crate) fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const NUMBERS: [i64; 18] =
    [0, 1, -1, 2, 3, -2, 4, 5, 7, 8, 16, 31, 64, 255, 1 << 31, 1 << 40, i64::MAX, i64::MIN];
const DIMS: [usize; 18] = [0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33];
const FLOATS: [f32; 12] =
    [0.0, -0.0, 1.0, -1.0, 0.5, 1e-6, 100.0, 1e30, -1e30, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// Elements: squares and products of few of them stay within single precision.
const ELEMENTS: [f32; 12] =
    [0.0, -0.0, 1.0, -1.0, 0.5, 1e-6, 30.0, 10.0, -30.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// Models for which node tests have no like: several operators that fuse, and inner graphs.
pub(crate) fn own_seeds() -> Vec<(String, Vec<u8>)> {
    let shaped = Graph::new("g")
        .input("x", Fp32, &[-1, -1, -1, -1])
        .f32("w", &[4, 2, 3, 3], &[0.1; 72])
        .f32("s", &[4], &[1.0; 4])
        .node(NodeOf::new("Conv").inputs(&["x", "w"]).outputs(&["c"]).ints("pads", &[1, 1, 1, 1]))
        .node(NodeOf::new("BatchNormalization").inputs(&["c", "s", "s", "s", "s"]).outputs(&["b"]))
        .node(NodeOf::new("Relu").inputs(&["b"]).outputs(&["r"]))
        .node(NodeOf::new("GlobalAveragePool").inputs(&["r"]).outputs(&["p"]))
        .node(NodeOf::new("Mul").inputs(&["r", "p"]).outputs(&["m"]))
        .node(NodeOf::new("Add").inputs(&["m", "b"]).outputs(&["y"]))
        .output("y", Fp32, &[-1, -1, -1, -1])
        .model(17);
    let body = Graph::new("body")
        .input("i", Int64, &[])
        .input("c", Bool, &[])
        .input("s", Fp32, &[3])
        .node(NodeOf::new("Add").inputs(&["s", "s"]).outputs(&["s2"]))
        .node(NodeOf::new("ReduceMax").inputs(&["s2"]).outputs(&["top"]).int("keepdims", 0))
        .node(NodeOf::new("Less").inputs(&["top", "bound"]).outputs(&["c2"]))
        .output("c2", Bool, &[])
        .output("s2", Fp32, &[3]);
    let looped = Graph::new("g")
        .input("x", Fp32, &[3])
        .i64("n", &[], &[6])
        .f32("bound", &[], &[20.0])
        .node(NodeOf::new("Loop").inputs(&["n", "", "x"]).outputs(&["y"]).graph("body", body))
        .output("y", Fp32, &[3])
        .model(18);
    let list = [mlp(3, 4, 2, 1), conv(1, 2, 4, 1), lstm(2, 3, 3, 2), shaped, looped];
    (0..).zip(list).map(|(at, file)| (format!("own {at}"), file)).collect()
}

/// Changes some bytes.
pub(crate) fn bytes(random: &mut Random, file: &mut [u8]) {
    for _ in 0..random.below(3) {
        let at = random.below(file.len());
        match random.below(4) {
            0 => file[at] = random.next() as u8,
            1 => file[at] ^= 1 << random.below(8),
            2 => file[at] = random.below(9) as u8,
            _ => {
                let number = random.of(&NUMBERS).to_le_bytes();
                for (slot, byte) in file.iter_mut().skip(at).zip(number) {
                    *slot = byte;
                }
            }
        }
    }
}

const UNARY: [&str; 16] = [
    "Relu",
    "Sigmoid",
    "Tanh",
    "Neg",
    "Exp",
    "Softmax",
    "Identity",
    "Abs",
    "HardSwish",
    "Erf",
    "Floor",
    "Transpose",
    "Flatten",
    "Not",
    "ReduceMean",
    "Shape",
];
const BINARY: [&str; 8] = ["Add", "Mul", "Sub", "Div", "MatMul", "Max", "Concat", "Pow"];

/// Changes the model: attributes, wiring, nodes.
pub(crate) fn model<'a>(random: &mut Random, model: &mut Model<'a>) {
    for _ in 0..random.below(4) {
        let count = model.graph.nodes.len();
        if count == 0 {
            return;
        }
        match random.below(6) {
            0 | 1 => {
                let node = &mut model.graph.nodes[random.below(count)];
                if !node.attributes.is_empty() {
                    let at = random.below(node.attributes.len());
                    attribute(random, &mut node.attributes[at]);
                }
            }
            2 => rewire(random, model),
            3 => {
                let at = random.below(count);
                let node = &mut model.graph.nodes[at];
                if !node.attributes.is_empty() && random.one_in(2) {
                    node.attributes.remove(random.below(node.attributes.len()));
                } else if !node.inputs.is_empty() {
                    let input = random.below(node.inputs.len());
                    node.inputs[input] = "";
                }
            }
            4 => append(random, model),
            _ => {
                let at = random.below(count);
                model.graph.nodes[at].operator =
                    if random.one_in(2) { random.of(&UNARY) } else { random.of(&BINARY) };
            }
        }
    }
    // What the file claims of inputs and outputs would refuse most shapes.
    for input in &mut model.graph.inputs {
        if !random.one_in(8) {
            input.dims = None;
        }
    }
}

fn attribute(random: &mut Random, attribute: &mut Attribute<'_>) {
    match &mut attribute.value {
        Value::Int(int) => *int = random.of(&NUMBERS),
        Value::Float(float) => *float = random.of(&FLOATS),
        Value::Ints(ints) => match random.below(3) {
            0 if !ints.is_empty() => {
                let at = random.below(ints.len());
                ints[at] = random.of(&NUMBERS);
            }
            1 => ints.push(random.of(&NUMBERS)),
            _ => drop(ints.pop()),
        },
        Value::Floats(floats) if !floats.is_empty() => {
            let at = random.below(floats.len());
            floats[at] = random.of(&FLOATS);
        }
        Value::Graph(graph) if !graph.nodes.is_empty() => {
            let at = random.below(graph.nodes.len());
            let node = &mut graph.nodes[at];
            if !node.inputs.is_empty() {
                let input = random.below(node.inputs.len());
                node.inputs[input] = graph.inputs.first().map_or("", |input| input.name);
            }
        }
        _ => {}
    }
}

/// Names that something may take.
fn names<'a>(model: &Model<'a>) -> Vec<&'a str> {
    let inputs = model.graph.inputs.iter().map(|input| input.name);
    let weights = model.graph.weights.iter().map(|weight| weight.name());
    inputs.chain(weights).chain(model.graph.nodes.iter().flat_map(|node| node.outputs.clone())).collect()
}

fn rewire(random: &mut Random, model: &mut Model<'_>) {
    let names = names(model);
    let at = random.below(model.graph.nodes.len());
    let node = &mut model.graph.nodes[at];
    if !node.inputs.is_empty() && !names.is_empty() {
        let input = random.below(node.inputs.len());
        node.inputs[input] = random.of(&names);
    }
}

/// A node behind the others, whose output takes the place of one of the model's.
fn append(random: &mut Random, model: &mut Model<'_>) {
    const NEW: [&str; 6] = ["new 0", "new 1", "new 2", "new 3", "new 4", "new 5"];
    let names = names(model);
    let Some(free) = NEW.into_iter().find(|name| !names.contains(name)) else { return };
    let Some(first) = model.graph.outputs.first().copied() else { return };
    let (operator, inputs) = if random.one_in(2) {
        (random.of(&UNARY), vec![first])
    } else {
        (random.of(&BINARY), vec![first, random.of(&names)])
    };
    let attributes = if operator == "Concat" {
        vec![Attribute { name: "axis", value: Value::Int(0) }]
    } else {
        Vec::new()
    };
    model.graph.nodes.push(Node { name: "", operator, domain: "", inputs, outputs: vec![free], attributes });
    if random.one_in(2) {
        model.graph.outputs[0] = free;
    } else {
        model.graph.outputs.push(free);
    }
}

/// What an input is given.
pub(crate) fn fact(random: &mut Random, datatype: Datatype, claimed: Option<&[Option<i64>]>) -> Fact {
    let datatype = if random.one_in(40) { Fp32 } else { datatype };
    let known = claimed.map(|dims| {
        dims.iter().map(|dim| dim.and_then(|dim| usize::try_from(dim).ok()).unwrap_or(3)).collect::<Vec<_>>()
    });
    let mut shape = match known {
        Some(shape) if !random.one_in(12) => shape,
        _ => (0..random.below(5)).map(|_| random.of(&DIMS)).collect(),
    };
    for dim in &mut shape {
        if random.one_in(4) {
            *dim = random.of(&DIMS);
        }
    }
    // All of one length now and then, since many operators want equal ones.
    if random.one_in(16) {
        let dim = random.of(&DIMS);
        shape.iter_mut().for_each(|slot| *slot = dim);
    }
    Fact::new(datatype, shape)
}

/// Elements: mostly small numbers, now and then what is no number.
pub(crate) fn array(random: &mut Random, fact: &Fact) -> Option<Array> {
    if fact.elements() > 1 << 15 {
        return None;
    }
    if fact.datatype == Bytes {
        let texts =
            (0..fact.elements()).map(|_| random.of(&["", "a", "b c", "A"]).as_bytes().to_vec()).collect();
        return Array::new::<Vec<u8>>(fact.shape.clone(), texts).ok();
    }
    let float = agentd_plan::array::is_float(fact.datatype);
    let wild = random.one_in(10);
    let items = (0..fact.elements()).map(|_| {
        if wild && random.one_in(5) {
            return if float { f64::from(random.of(&ELEMENTS)) } else { random.of(&NUMBERS) as f64 };
        }
        if float { random.below(4_001) as f64 / 1_000.0 - 2.0 } else { random.below(4) as f64 }
    });
    Array::from_reals(fact.datatype, fact.shape.clone(), items.collect()).ok()
}
