//! What every engine must do, as a table of tiny models with known answers.
//!
//! In: an engine. Out: what it gets wrong. The tests of each engine assert that this is nothing. An engine may say
//! that it does not offer a datatype; everything else is the same for all.

mod answers;
mod refusals;

use agentd_onnx::build::Graph;
use agentd_types::{
    Datatype::{self, Fp32},
    EngineKind, Setting, TensorSpec,
};

use crate::{Engine, EngineError, LoadSpec, Session, Tensor, TensorView, compare};

/// How far an answer may be from the known one, in millionths of the largest value.
const TOLERANCE_PPM: f64 = 20.0;

type Outcome = Result<(), String>;
type Case = (&'static str, fn(&dyn Engine) -> Outcome);

/// The names of the cases that `engine` fails, each with the reason; empty when it conforms.
pub fn failures(engine: &dyn Engine) -> Vec<String> {
    let cases = answers::CASES.iter().chain(refusals::CASES);
    let failed = |(name, case): &Case| case(engine).err().map(|reason| format!("{name}: {reason}"));
    cases.filter_map(failed).collect()
}

/// As [`failures`], with every session on `threads` threads.
pub fn failures_on(engine: &dyn Engine, threads: u16) -> Vec<String> {
    failures(&OnThreads { engine, threads })
}

/// An engine whose sessions all run on so many threads.
#[derive(Debug)]
struct OnThreads<'a> {
    engine: &'a dyn Engine,
    threads: u16,
}

impl Engine for OnThreads<'_> {
    fn kind(&self) -> EngineKind {
        self.engine.kind()
    }

    fn load(&self, model: &[u8], spec: &LoadSpec) -> Result<Box<dyn Session>, EngineError> {
        let setting = Setting { threads: self.threads, ..spec.setting };
        self.engine.load(model, &LoadSpec { setting, ..spec.clone() })
    }
}

/// A model, how it is loaded, and what is needed to ask it.
struct Model {
    file: Vec<u8>,
    spec: LoadSpec,
}

/// A model with the inputs and outputs of `graph`, which names them itself, at opset 17.
fn model(
    engine: &dyn Engine,
    graph: Graph,
    inputs: &[(&str, Datatype, &[i64])],
    outputs: &[(&str, Datatype, &[i64])],
) -> Model {
    let graph =
        inputs.iter().fold(graph, |graph, (name, datatype, shape)| graph.input(name, *datatype, shape));
    let graph =
        outputs.iter().fold(graph, |graph, (name, datatype, shape)| graph.output(name, *datatype, shape));
    described(engine, graph.model(17), inputs, outputs)
}

/// A file of which inputs and outputs are known.
fn described(
    engine: &dyn Engine,
    file: Vec<u8>,
    inputs: &[(&str, Datatype, &[i64])],
    outputs: &[(&str, Datatype, &[i64])],
) -> Model {
    let spec = |(name, datatype, shape): &(&str, Datatype, &[i64])| TensorSpec {
        name: (*name).into(),
        datatype: *datatype,
        shape: shape.to_vec(),
    };
    let setting = Setting { engine: engine.kind(), threads: 1, batch: 1 };
    let spec = LoadSpec {
        setting,
        inputs: inputs.iter().map(spec).collect(),
        outputs: outputs.iter().map(spec).collect(),
    };
    Model { file, spec }
}

impl Model {
    fn load(&self, engine: &dyn Engine) -> Result<Box<dyn Session>, String> {
        engine.load(&self.file, &self.spec).map_err(|error| error.to_string())
    }
}

fn f32s(shape: &[usize], values: &[f32]) -> Result<Tensor, String> {
    Tensor::from_f32(shape.to_vec(), values).map_err(|error| error.to_string())
}

fn i64s(shape: &[usize], values: &[i64]) -> Result<Tensor, String> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(Datatype::Int64, shape.to_vec(), bytes).map_err(|error| error.to_string())
}

fn run(session: &mut dyn Session, inputs: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let views: Vec<TensorView<'_>> = inputs.iter().map(|input| input.view()).collect();
    session.run(&views).map_err(|error| error.to_string())
}

/// Loads, asks once, and holds the answers against those wanted.
fn answers(engine: &dyn Engine, model: &Model, inputs: &[&Tensor], want: &[Tensor]) -> Outcome {
    let mut session = model.load(engine)?;
    same(&run(session.as_mut(), inputs)?, want)
}

/// The same, except that the engine may not offer the datatype.
fn answers_if_offered(engine: &dyn Engine, model: &Model, inputs: &[&Tensor], want: &[Tensor]) -> Outcome {
    match engine.load(&model.file, &model.spec) {
        Err(EngineError::Unsupported { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(mut session) => same(&run(session.as_mut(), inputs)?, want),
    }
}

fn same(got: &[Tensor], want: &[Tensor]) -> Outcome {
    if got.len() != want.len() {
        return Err(format!("{} outputs, not {}", got.len(), want.len()));
    }
    for (position, (got, want)) in got.iter().zip(want).enumerate() {
        let off = compare(want.view(), got.view());
        if off > TOLERANCE_PPM {
            let (got, want) = (got.view().to_f64(), want.view().to_f64());
            return Err(format!("output {position} is {got:?}, not {want:?} ({off} ppm)"));
        }
    }
    Ok(())
}

fn identical(got: &[Tensor], want: &[Tensor]) -> Outcome {
    if got == want { Ok(()) } else { Err(format!("answers differ: {got:?} and {want:?}")) }
}

/// `y = x + x` over four floats.
fn double(engine: &dyn Engine) -> Model {
    let graph =
        Graph::new("double").node(agentd_onnx::build::Node::new("Add").inputs(&["x", "x"]).outputs(&["y"]));
    model(engine, graph, &[("x", Fp32, &[4])], &[("y", Fp32, &[4])])
}
