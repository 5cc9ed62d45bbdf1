//! What the process boundary costs: the same model asked in process and in a worker.
//!
//! In: how often to ask, and threads of the runtime, 0 for one that is the main thread. Out: medians and 99th
//! percentiles in microseconds, processor time of the daemon's side a request, and the memory of the worker.
//!
//! `cargo run --release -p agentd-worker --example boundary -- 2000 2 [FILE.onnx ...]`; files are only loaded, to show
//! what that takes.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::{
    fs,
    time::{Duration, Instant},
};

use agentd_engine::{Engine as _, LoadSpec, Tensor};
use agentd_engine_tract::Tract;
use agentd_isolation::{Limits, ModelFile, Program, Worker};
use agentd_onnx::{
    ScanLimits,
    build::{Graph, Node, mlp},
    scan,
};
use agentd_types::{ByteCount, Datatype::Fp32, EngineKind, Setting};
use tokio::{runtime::Builder, task::JoinSet};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SOON: Duration = Duration::from_secs(60);

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let runs: usize = arguments.next().map_or(Ok(2_000), |runs| runs.parse())?;
    let threads: usize = arguments.next().map_or(Ok(2), |threads| threads.parse())?;
    let mut runtime = match threads {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(threads.max(1)).enable_all().build()?;
    runtime.block_on(async {
        // As the daemon does it: in a task on a thread of the runtime.
        let mut tasks = JoinSet::new();
        tasks.spawn(report(runs, arguments.collect()));
        tasks.join_next().await.unwrap_or(Ok(Ok(())))?
    })
}

async fn report(runs: usize, files: Vec<String>) -> Result<(), Failure> {
    let program = Program::find()?;
    let limits = Limits::with_memory(ByteCount(1 << 30));
    println!(
        "{:<16}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "model", "in p50", "in p99", "out p50", "out p99", "cpu us/req"
    );
    for (name, file, shape) in [
        ("mlp 16-8-4", mlp(16, 8, 4, 1), vec![1, 16]),
        ("negate 4 KiB", negate(&[1, 1024]), vec![1, 1024]),
        ("negate 588 KiB", negate(&[1, 3, 224, 224]), vec![1, 3, 224, 224]),
    ] {
        let spec = described(&file)?;
        let count: usize = shape.iter().product();
        let input = Tensor::from_f32(shape, &vec![0.5; count])?;
        let (in50, in99) = quantiles(in_process(&file, &spec, &input, runs)?);
        let mut worker = Worker::start(&program, &limits).await?;
        worker.load(&ModelFile::from_bytes(&file)?, &spec, SOON).await?;
        let mut outside = Vec::new();
        let cpu = cpu_us();
        for _ in 0..runs {
            let started = Instant::now();
            std::hint::black_box(worker.infer(&[input.view()], SOON).await?);
            outside.push(started.elapsed());
        }
        let cpu = (cpu_us() - cpu) / runs as f64;
        let (out50, out99) = quantiles(outside);
        println!("{name:<16}{in50:>10.1}{in99:>10.1}{out50:>10.1}{out99:>10.1}{cpu:>12.1}");
        println!("  worker: {}", memory(worker.pid()));
        worker.stop().await;
    }
    for path in files {
        match load(&program, &limits, &path).await {
            Ok(text) => println!("{path}: {text}"),
            Err(error) => println!("{path}: {error}"),
        }
    }
    Ok(())
}

fn in_process(file: &[u8], spec: &LoadSpec, input: &Tensor, runs: usize) -> Result<Vec<Duration>, Failure> {
    let mut session = Tract::new().load(file, spec)?;
    let mut times = Vec::new();
    for _ in 0..runs {
        let started = Instant::now();
        std::hint::black_box(session.run(&[input.view()])?);
        times.push(started.elapsed());
    }
    Ok(times)
}

/// Loads a file and asks it twice with zeros: a batch of 1, other open dimensions 64.
async fn load(program: &Program, limits: &Limits, path: &str) -> Result<String, Failure> {
    let file = fs::read(path)?;
    let spec = described(&file)?;
    let mut worker = Worker::start(program, limits).await?;
    let loaded = worker.load(&ModelFile::from_bytes(&file)?, &spec, SOON).await?;
    let mut inputs = Vec::new();
    for spec in &spec.inputs {
        let dim = |(position, dim): (usize, &i64)| {
            usize::try_from(*dim).unwrap_or(if position == 0 { 1 } else { 64 })
        };
        let shape: Vec<_> = spec.shape.iter().enumerate().map(dim).collect();
        let bytes = shape.iter().product::<usize>() * spec.datatype.size().unwrap_or(4);
        inputs.push(Tensor::new(spec.datatype, shape, vec![0; bytes])?);
    }
    let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
    let started = Instant::now();
    worker.infer(&views, SOON).await?;
    let first = started.elapsed();
    let started = Instant::now();
    worker.infer(&views, SOON).await?;
    let second = started.elapsed();
    Ok(format!("load {:?}, first {first:?}, second {second:?}, {}", loaded.load_time, memory(worker.pid())))
}

fn negate(shape: &[i64]) -> Vec<u8> {
    Graph::new("negate")
        .input("x", Fp32, shape)
        .node(Node::new("Neg").inputs(&["x"]).outputs(&["y"]))
        .output("y", Fp32, shape)
        .model(17)
}

fn described(file: &[u8]) -> Result<LoadSpec, Failure> {
    let summary = scan(file, &ScanLimits::default())?;
    let mut outputs = summary.outputs;
    outputs.retain(|output| !summary.unranked_outputs.contains(&output.name));
    outputs.iter_mut().for_each(|output| output.shape.iter_mut().for_each(|dim| *dim = -1));
    let setting = Setting { engine: EngineKind::Cpu, threads: 1, batch: 1 };
    Ok(LoadSpec { setting, inputs: summary.inputs, outputs })
}

fn quantiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |per_cent: usize| {
        times.get(times.len() * per_cent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    (at(50), at(99))
}

/// Processor time of this process so far in microseconds.
///
/// Source: proc_pid_schedstat, first field, nanoseconds, summed over the threads.
fn cpu_us() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ns = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    ns.sum::<f64>() / 1000.0
}

fn memory(pid: u32) -> String {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = rollup.lines().filter(|line| line.starts_with("Rss:") || line.starts_with("Pss:"));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}
