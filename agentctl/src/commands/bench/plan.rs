//! `bench --plan`: what the native engine does for one request, step by step, beside what this machine can do at best.
//!
//! In: a file that was scanned, and inputs. Out: a table of steps. A worker plans and measures, as for every benchmark;
//! what it says is held against what can be before it comes here.

mod table;

use std::time::Duration;

use agentd_engine::{LoadSpec, Profile, Tensor};
use agentd_isolation::{Limits, ModelFile, Program, Worker, WorkerError};
use agentd_onnx::ModelSummary;
use agentd_placement::{GoldenSet, GoldenVector};
use agentd_types::{ByteCount, Code, EngineKind, Setting};
use serde::Serialize;

use super::Args;
use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// For measuring the machine, beyond the runs themselves.
const PEAK_WITHIN: Duration = Duration::from_secs(30);

/// A plan that was measured.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    setting: Setting,
    /// The shapes that were measured, in the order of the inputs.
    shapes: Vec<Vec<usize>>,
    profile: Profile,
}

/// Measures the plan and prints it.
pub(super) fn run(
    args: &Args,
    context: &Context,
    summary: &ModelSummary,
    tensors: Vec<Tensor>,
    model: &ModelFile,
    memory: ByteCount,
) -> Result<Exit, Failure> {
    let what = format!("cannot measure the plan of `{}`", args.file.display());
    let unusable =
        |cause: &str| Failure::new(&what).code(Code::new("bench.input")).cause(cause).exit_with(Exit::Usage);
    let one = |given: &[u16], name: &str| match given {
        [] => Ok(1),
        [one] => Ok(*one),
        _ => Err(unusable(&format!("a plan is for one number of {name}"))),
    };
    let (threads, batch) = (one(&args.threads, "threads")?, one(&args.batch, "samples")?);
    let setting = Setting { engine: EngineKind::Native, threads, batch };
    let golden =
        GoldenSet { vectors: vec![GoldenVector { inputs: tensors, outputs: Vec::new(), tol_ppm: 0 }] };
    let inputs = golden.sample(&summary.inputs, batch).ok_or_else(|| unusable("the inputs are too large"))?;
    let spec = LoadSpec { setting, inputs: summary.inputs.clone(), outputs: summary.outputs.clone() };
    let limits = Limits::with_memory(memory);
    let spinner = context.ui().spinner(&format!("measuring each step of {setting}"));
    let profile = context.block_on(async {
        let program = Program::find().map_err(|error| Failure::new(&what).because(&error))?;
        let mut worker =
            Worker::start(&program, &limits).await.map_err(|error| Failure::new(&what).coded(&error))?;
        let profile = async {
            worker.load(model, &spec, args.load_timeout).await?;
            let deadline = args.time.saturating_add(args.answer_timeout * 2).saturating_add(PEAK_WITHIN);
            worker.profile(&inputs, args.time, deadline).await
        }
        .await;
        worker.stop().await;
        profile.map_err(|error: WorkerError| Failure::new(&what).coded(&error))
    });
    spinner.finish_and_clear();
    let shapes = inputs.iter().map(|input| input.shape.clone()).collect();
    let report = Report { file: args.file.display().to_string(), setting, shapes, profile: profile? };
    context.ui().result(&report, || report.print(context));
    Ok(Exit::Done)
}

impl Report {
    /// For people: what was measured and the remarks to stderr, both tables to stdout.
    fn print(&self, context: &Context) {
        let ui = context.ui();
        ui.note(table::heading(&self.file, &self.profile));
        let (headings, rows) = table::steps(&self.profile);
        ui.table(headings, rows);
        ui.line("");
        let (headings, rows) = table::kinds(&self.profile);
        ui.table(headings, rows);
        table::remarks(&self.profile).into_iter().for_each(|remark| ui.note(remark));
    }
}
