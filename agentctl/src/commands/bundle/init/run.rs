//! Runs the model on samples, in a worker process.

use std::time::Duration;

use agentd_engine::{LoadSpec, Tensor};
use agentd_isolation::{Limits, ModelFile, Program, Worker};
use agentd_onnx::ModelSummary;
use agentd_types::{ByteCount, EngineKind, Setting, TensorSpec};

use super::Vector;
use crate::{failure::Failure, ui::Ui};

/// Loading compiles the model, which takes seconds for large ones.
const LOAD: Duration = Duration::from_secs(120);
/// One answer; most take milliseconds.
const ANSWER: Duration = Duration::from_secs(60);
/// Memory for a model of any size that this tool packs.
const MEMORY: ByteCount = ByteCount(8 << 30);
/// Memory that a description asks for is a multiple of this, in MiB.
const STEP_MIB: u64 = 16;

/// What the model answered.
pub(super) struct Answered {
    pub(super) vectors: Vec<Vector>,
    /// Memory that a device should have for it.
    pub(super) mem_mib: u64,
}

/// Runs the model once for each sample.
pub(super) async fn answer(
    file: &[u8],
    model: &ModelSummary,
    samples: Vec<Vec<Tensor>>,
    ui: Ui,
) -> Result<Answered, Failure> {
    let what = "cannot make golden vectors";
    let program = Program::find().map_err(|error| {
        Failure::new(what).because(&error).hint("install agentd, which brings the worker program")
    })?;
    let file = ModelFile::from_bytes(file).map_err(|error| Failure::new(what).because(&error))?;
    let spinner = ui.spinner("running the model");
    let mut worker = Worker::start(&program, &Limits::with_memory(MEMORY))
        .await
        .map_err(|error| Failure::new(what).coded(&error))?;
    let spec = LoadSpec {
        setting: Setting { engine: EngineKind::Cpu, threads: 1, batch: 1 },
        inputs: model.inputs.clone(),
        outputs: model.outputs.iter().map(freed).collect(),
    };
    worker.load(&file, &spec, LOAD).await.map_err(|error| Failure::new(what).coded(&error))?;
    let mut vectors = Vec::with_capacity(samples.len());
    for inputs in samples {
        let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
        let outputs = worker.infer(&views, ANSWER).await.map_err(|error| Failure::new(what).coded(&error))?;
        check_outputs(&model.outputs, &outputs).map_err(|cause| Failure::new(what).cause(cause))?;
        vectors.push(Vector { inputs, outputs });
    }
    let peak = worker.memory().peak;
    worker.stop().await;
    spinner.finish_and_clear();
    Ok(Answered { vectors, mem_mib: advise(peak) })
}

/// Exporters often claim shapes of outputs that do not hold; only their number of dimensions is taken from the file.
fn freed(spec: &TensorSpec) -> TensorSpec {
    TensorSpec { shape: vec![-1; spec.shape.len()], ..spec.clone() }
}

fn check_outputs(specs: &[TensorSpec], outputs: &[Tensor]) -> Result<(), String> {
    for (spec, output) in specs.iter().zip(outputs) {
        if output.view().first_not_finite().is_some() {
            return Err(format!("the output `{}` is not a number or infinite", spec.name.escape_debug()));
        }
    }
    Ok(())
}

/// A quarter more than the worker needed here, rounded up.
fn advise(peak: ByteCount) -> u64 {
    let mib = (peak.0 + peak.0 / 4).div_ceil(1 << 20);
    mib.next_multiple_of(STEP_MIB).max(STEP_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_asked_for_has_room_to_spare() {
        for (peak_mib, want) in [(0, 16), (10, 16), (40, 64), (100, 128)] {
            assert_eq!(advise(ByteCount::mib(peak_mib)), want, "{peak_mib}");
        }
    }
}
