//! Models and workers for the tests.

use std::time::Duration;

use agentd_engine::{LoadSpec, Tensor};
use agentd_isolation::{Limits, ModelFile, Program, Worker};
use agentd_onnx::build::{Graph, Node};
use agentd_types::{ByteCount, Datatype::Fp32, EngineKind, Setting, TensorSpec};

/// Far more than any step takes, on any machine.
pub const SOON: Duration = Duration::from_secs(60);

pub fn real() -> Program {
    Program::at(env!("CARGO_BIN_EXE_agentd-worker"))
}

pub fn faulty() -> Program {
    Program::at(env!("CARGO_BIN_EXE_agentd-faulty-worker"))
}

pub fn limits() -> Limits {
    Limits::with_memory(ByteCount::mib(256))
}

pub fn tensor_spec(name: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype: Fp32, shape: shape.to_vec() }
}

pub fn spec(inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> LoadSpec {
    LoadSpec { setting: Setting { engine: EngineKind::Cpu, threads: 1, batch: 1 }, inputs, outputs }
}

/// `y = x + x` with a graph of this name, over `[n, 4]`.
pub fn double(name: &str) -> ModelFile {
    let file = Graph::new(name)
        .input("x", Fp32, &[-1, 4])
        .node(Node::new("Add").inputs(&["x", "x"]).outputs(&["y"]))
        .output("y", Fp32, &[-1, 4])
        .model(17);
    ModelFile::from_bytes(&file).unwrap()
}

pub fn double_spec() -> LoadSpec {
    spec(vec![tensor_spec("x", &[-1, 4])], vec![tensor_spec("y", &[-1, 4])])
}

pub fn four(value: f32) -> Tensor {
    Tensor::from_f32(vec![1, 4], &[value; 4]).unwrap()
}

pub async fn doubling(program: &Program, name: &str) -> Worker {
    let mut worker = Worker::start(program, &limits()).await.unwrap();
    worker.load(&double(name), &double_spec(), SOON).await.unwrap();
    worker
}
