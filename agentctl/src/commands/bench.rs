//! `bench`: measures any ONNX file on this machine, with the same workers, figures and rules as placement.
//!
//! In: a file. Out: a table of settings, or of the steps of the native engine's plan. The file is scanned before a worker sees it; needs no daemon, no bundle and
//! no network.

mod arguments;
mod inputs;
mod plan;
mod report;

use std::{fs::File, io::Read as _, path::Path};

use agentd_engine::Tensor;
use agentd_hardware::{FirmwareProfiles, Inventory, Root};
use agentd_isolation::{Limits, ModelFile, Program};
use agentd_onnx::{ModelSummary, ScanLimits};
use agentd_placement::{
    GoldenSet, GoldenVector, Machine, MeasureRequest, Progress, Proposal, Times, WorkerBench, candidates,
    choose, measure,
};
use agentd_types::{ByteCount, Code, EngineKind, Setting, TensorSpec};
use agentd_wire::{Requires, ServePolicy};

use crate::{
    context::Context,
    failure::{Exit, Failure},
};
pub(crate) use arguments::Args;
use report::Report;

pub(crate) fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let what = format!("cannot measure `{}`", args.file.display());
    let limits = ScanLimits::default();
    let bytes = read(&args.file, limits.bytes).map_err(|error| Failure::new(&what).because(&error))?;
    let summary = agentd_onnx::scan(&bytes, &limits).map_err(|error| Failure::new(&what).coded(&error))?;
    let unusable = || Failure::new(&what).code(Code::new("bench.input")).exit_with(Exit::Usage);
    let given = inputs::given(&args).map_err(|problem| unusable().cause(problem))?;
    let tensors = inputs::tensors(&summary.inputs, &given, args.seed)
        .map_err(|missing| unusable().cause(missing.cause).hint(missing.hint))?;
    let model = ModelFile::from_bytes(&bytes).map_err(|error| Failure::new(&what).because(&error))?;
    drop(bytes);

    let machine = machine();
    if args.plan {
        let memory = args.memory.unwrap_or(machine.memory);
        return plan::run(&args, context, &summary, tensors, &model, memory);
    }
    let report = context.block_on(measure_all(&args, context, &summary, tensors, &model, &machine))?;
    let ui = context.ui();
    if let Some((code, message)) = report.only_failure() {
        let failure = Failure::new(&what).cause(message).code(code.clone());
        return Err(failure);
    }
    ui.result(&report, || report.print(ui));
    Ok(if report.has_winner() { Exit::Done } else { Exit::No })
}

/// The file's bytes; refuses more than `limit` of them, and folders and devices.
fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let kind = file.metadata()?;
    if !kind.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(std::io::Error::other(format!("it is larger than {}", ByteCount(limit))));
    }
    Ok(bytes)
}

fn machine() -> Machine {
    let inventory = Inventory::read(&Root::system(), None, Vec::new());
    let profile = FirmwareProfiles::shipped().best(&inventory);
    Machine::of(&inventory, &profile, &EngineKind::BUILT_IN, ByteCount::default())
}

async fn measure_all(
    args: &Args,
    context: &Context,
    summary: &ModelSummary,
    tensors: Vec<Tensor>,
    model: &ModelFile,
    machine: &Machine,
) -> Result<Report, Failure> {
    let program = Program::find().map_err(|error| {
        Failure::new("cannot find the worker program").because(&error).hint("install agentd, which brings it")
    })?;
    let policy = ServePolicy { objective: args.objective(), ..ServePolicy::default() };
    let requires = Requires { mem_mib: 0, any_of: vec![EngineKind::Cpu] };
    let proposals = proposals(args, machine, &requires, &policy, &summary.inputs);
    let shapes = tensors.iter().map(|tensor| tensor.shape.clone()).collect();
    let golden =
        GoldenSet { vectors: vec![GoldenVector { inputs: tensors, outputs: Vec::new(), tol_ppm: 0 }] };
    let limits = Limits::with_memory(args.memory.unwrap_or(machine.memory));
    let times = Times {
        measure: args.time,
        load: args.load_timeout,
        answer: args.answer_timeout,
        ..Times::default()
    };
    let request = MeasureRequest {
        proposals: &proposals,
        inputs: &summary.inputs,
        outputs: &summary.outputs,
        golden: &golden,
        known: &[],
        times,
    };
    let bench = WorkerBench { program: &program, limits: &limits, model };
    let spinner = context.ui().spinner("starting");
    let known = measure(&bench, &request, |progress| {
        if let Progress::Started { setting, at, of } = progress {
            spinner.set_message(format!("measuring {setting} ({at} of {of})"));
        }
    })
    .await;
    spinner.finish_and_clear();
    let choice = choose(&known, machine, &policy, &requires);
    Ok(Report::new(args, summary, shapes, choice))
}

/// Those that placement would measure, or those asked for.
fn proposals(
    args: &Args,
    machine: &Machine,
    requires: &Requires,
    policy: &ServePolicy,
    inputs: &[TensorSpec],
) -> Vec<Proposal> {
    if args.threads.is_empty() && args.batch.is_empty() && args.engine.is_empty() {
        return candidates(machine, requires, policy, inputs);
    }
    let own = |given: &[u16], otherwise: Vec<u16>| if given.is_empty() { otherwise } else { given.to_vec() };
    let usual = candidates(machine, requires, policy, inputs);
    let mut usual_threads: Vec<u16> = usual.iter().map(|proposal| proposal.setting.threads).collect();
    usual_threads.dedup();
    let threads = own(&args.threads, usual_threads);
    let batches = own(&args.batch, vec![1]);
    let engines: Vec<EngineKind> =
        if args.engine.is_empty() { EngineKind::BUILT_IN.to_vec() } else { args.engine.clone() };
    let mut settings = Vec::new();
    for engine in engines {
        for batch in &batches {
            settings.extend(threads.iter().map(|threads| Setting {
                engine,
                threads: *threads,
                batch: *batch,
            }));
        }
    }
    settings.sort_unstable();
    settings.dedup();
    settings.into_iter().map(|setting| Proposal { setting, ruled_out: None }).collect()
}
