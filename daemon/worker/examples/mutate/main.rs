//! Mutates ONNX files and shows that each ends in a coded error or a right answer, and that no daemon dies.
//!
//! In: how many cases, a seed, and ONNX files (small ones of our own when none are given). Out: a table of outcomes by
//! code. Each case goes the way of a deployment: scan, then load and one request in a worker with limits. One worker
//! is used for as long as it lives.
//!
//! `cargo run -p agentd-worker --example mutate -- 1000 7 [FILE.onnx ...]`
//!
//! With `--engine native` first, our own kernels are asked instead of tract. With `--write FOLDER` first, the same cases are written there as files, `00000-SEED.onnx` and on, and nothing is
//! asked: `tests/python/hostile.py` takes them through `agentctl bench` and through deployments.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod mutation;
mod seeds;

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agentd_engine::{LoadSpec, Tensor};
use agentd_isolation::{Limits, ModelFile, Program, Worker, WorkerError};
use agentd_onnx::{ModelSummary, ScanLimits, scan};
use agentd_types::{ByteCount, Coded as _, EngineKind, Setting, element_count};

use mutation::Mutator;

/// What a case may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Inputs of a case are no larger, in bytes.
const MAX_INPUT: usize = 16 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let plan = Plan::read(std::env::args().skip(1))?;
    match &plan.folder {
        Some(folder) => plan.write(folder),
        None => plan.ask().await,
    }
}

/// What was asked for.
struct Plan {
    cases: u64,
    seed: u64,
    /// Names and files that are mutated.
    seeds: Vec<(String, Vec<u8>)>,
    /// Who is asked.
    engine: EngineKind,
    /// Where cases are written, when nobody is to be asked.
    folder: Option<PathBuf>,
}

impl Plan {
    fn read(arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut arguments = arguments.peekable();
        let folder = match arguments.next_if(|first| first == "--write") {
            Some(_) => Some(PathBuf::from(arguments.next().ok_or("--write needs a folder")?)),
            None => None,
        };
        let engine = match arguments.next_if(|first| first == "--engine") {
            Some(_) => arguments.next().ok_or("--engine needs a name")?.parse()?,
            None => EngineKind::Cpu,
        };
        let cases = arguments.next().map_or(Ok(1_000), |cases| cases.parse())?;
        let seed = arguments.next().map_or(Ok(1), |seed| seed.parse())?;
        let mut seeds = seeds::ours();
        for file in arguments {
            let name = Path::new(&file).file_stem().map(|name| name.to_string_lossy().into_owned());
            seeds.push((name.unwrap_or_default(), fs::read(&file)?));
        }
        Ok(Self { cases, seed, seeds, engine, folder })
    }

    /// The name of what is mutated and the mutated file; the same for the same seed and case.
    fn case(&self, case: u64) -> Option<(&str, Vec<u8>)> {
        let mut mutator = Mutator::new(self.seed.wrapping_mul(1_000_003).wrapping_add(case));
        let (name, file) = mutator.pick(&self.seeds)?;
        Some((name, mutator.mutate(file)))
    }

    /// Writes the seeds as they are, in `seeds`, and every case.
    fn write(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        fs::create_dir_all(folder.join("seeds"))?;
        for (name, file) in &self.seeds {
            fs::write(folder.join("seeds").join(format!("{name}.onnx")), file)?;
        }
        for number in 0..self.cases {
            let (name, file) = self.case(number).ok_or("no seeds")?;
            fs::write(folder.join(format!("{number:05}-{name}.onnx")), file)?;
        }
        println!("{} cases, seed {}, in {}", self.cases, self.seed, folder.display());
        Ok(())
    }

    /// Takes every case through scan and worker.
    async fn ask(&self) -> Result<(), Box<dyn Error>> {
        let mut bench = Bench { program: Program::find()?, engine: self.engine, worker: None, started: 0 };
        let mut outcomes: BTreeMap<String, (u64, String)> = BTreeMap::new();
        let begun = Instant::now();
        for (name, file) in &self.seeds {
            let (code, detail) = bench.outcome(file).await?;
            println!("seed {name}: {code} {detail}");
        }
        for number in 0..self.cases {
            let (name, file) = self.case(number).ok_or("no seeds")?;
            let (code, detail) = bench.outcome(&file).await?;
            if code == "worker.died" || code == "worker.deadline" || code == "worker.protocol" {
                eprintln!("case {number} of {name}: {code} {detail}");
            }
            let entry = outcomes.entry(code).or_insert((0, detail));
            entry.0 += 1;
        }
        let (cases, seed) = (self.cases, self.seed);
        println!("\n{cases} cases, seed {seed}, {} s, {} workers", begun.elapsed().as_secs(), bench.started);
        println!("{:<28}{:>8}  example", "outcome", "cases");
        for (code, (count, example)) in outcomes {
            println!("{code:<28}{count:>8}  {}", example.chars().take(120).collect::<String>());
        }
        Ok(())
    }
}

struct Bench {
    program: Program,
    engine: EngineKind,
    worker: Option<Worker>,
    started: u32,
}

impl Bench {
    /// How one file ends: a code and its message.
    async fn outcome(&mut self, file: &[u8]) -> Result<(String, String), Box<dyn Error>> {
        let summary = match scan(file, &ScanLimits::default()) {
            Ok(summary) => summary,
            Err(error) => return Ok((error.code().to_string(), error.to_string())),
        };
        let spec = described(&summary, self.engine);
        let Some(inputs) = inputs(&spec) else { return Ok(("case.large_input".into(), String::new())) };
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => {
                self.started += 1;
                let limits =
                    Limits { tensors: ByteCount::mib(64), ..Limits::with_memory(ByteCount(2 << 30)) };
                Worker::start(&self.program, &limits).await?
            }
        };
        let result = ask(&mut worker, file, &spec, &inputs).await;
        if !worker.is_dead() {
            self.worker = Some(worker);
        }
        Ok(match result {
            Ok(outputs) => ("answered".into(), format!("{} outputs", outputs.len())),
            Err(error) => (error.code().to_string(), error.to_string()),
        })
    }
}

async fn ask(
    worker: &mut Worker,
    file: &[u8],
    spec: &LoadSpec,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, WorkerError> {
    let system =
        |error: std::io::Error| WorkerError::System { what: "keep a model", message: error.to_string() };
    let model = ModelFile::from_bytes(file).map_err(system)?;
    worker.load(&model, spec, DEADLINE).await?;
    let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
    worker.infer(&views, DEADLINE).await
}

/// The interface that the file claims; outputs are taken with every dimension free, since files often claim wrongly.
fn described(summary: &ModelSummary, engine: EngineKind) -> LoadSpec {
    let mut outputs = summary.outputs.clone();
    outputs.retain(|output| !summary.unranked_outputs.contains(&output.name));
    outputs.iter_mut().for_each(|output| output.shape.iter_mut().for_each(|dim| *dim = -1));
    LoadSpec { setting: Setting { engine, threads: 1, batch: 1 }, inputs: summary.inputs.clone(), outputs }
}

/// Zeros for every input, free dimensions taken as 1; `None` when they are too large for a case.
fn inputs(spec: &LoadSpec) -> Option<Vec<Tensor>> {
    let tensor = |spec: &agentd_types::TensorSpec| {
        let shape: Vec<_> = spec.shape.iter().map(|dim| usize::try_from(*dim).unwrap_or(1)).collect();
        let size = element_count(&shape).ok()?.checked_mul(spec.datatype.size().unwrap_or(4))?;
        (size <= MAX_INPUT).then(|| Tensor::new(spec.datatype, shape, vec![0; size]).ok())?
    };
    spec.inputs.iter().map(tensor).collect()
}
