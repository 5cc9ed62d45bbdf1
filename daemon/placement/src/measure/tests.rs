//! Measuring with workers that fail in every way.

use agentd_types::{Datatype, EngineKind};

use super::*;
use crate::{GoldenVector, RuledOut};

/// What a worker does; the worker for each number of threads has its own script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Good,
    NotStarting,
    NotLoading,
    OffBy(u8),
    Nan,
    DiesWhileMeasuring,
    Hangs,
    NoRuns,
}

#[derive(Debug)]
struct FakeBench(Vec<Script>, std::sync::atomic::AtomicUsize);

#[derive(Debug)]
struct FakeRunner(Script);

fn failure(code: &'static str) -> Failure {
    Failure { code: Code::new(code), message: "as the script says".into() }
}

impl Bench for FakeBench {
    type Runner = FakeRunner;

    async fn start(&self) -> Result<FakeRunner, Failure> {
        let at = self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        match self.0[at] {
            Script::NotStarting => Err(failure("worker.start")),
            script => Ok(FakeRunner(script)),
        }
    }
}

impl Runner for FakeRunner {
    async fn load(&mut self, spec: &LoadSpec, _: Duration) -> Result<Loaded, Failure> {
        assert_eq!((spec.inputs.len(), spec.outputs.len()), (1, 1));
        if self.0 == Script::NotLoading {
            return Err(failure("engine.load"));
        }
        let (load_time, peak_memory) = (Duration::from_millis(7), ByteCount::mib(9));
        Ok(Loaded { load_time, peak_memory, fallback_nodes: 0, recurrent: false, threads: 1 })
    }

    async fn infer(&mut self, inputs: &[Tensor], _: Duration) -> Result<Vec<Tensor>, Failure> {
        let shift = match self.0 {
            Script::OffBy(percent) => 1.0 + f32::from(percent) / 100.0,
            Script::Nan => f32::NAN,
            Script::Hangs => std::future::pending().await,
            _ => 1.0,
        };
        let values: Vec<f32> = inputs[0].view().to_f64().iter().map(|_| 2.0 * shift).collect();
        Ok(vec![tensor(&values)])
    }

    async fn measure(
        &mut self,
        inputs: &[Tensor],
        _: u32,
        _: &Times,
        _: Duration,
    ) -> Result<Samples, Failure> {
        match self.0 {
            Script::DiesWhileMeasuring => Err(failure("worker.died")),
            Script::NoRuns => Ok(Samples::default()),
            _ => {
                let runs = u64::try_from(inputs[0].shape[0]).unwrap() * 100;
                Ok(Samples { latencies_us: (1..=runs).rev().collect(), wall: Duration::from_millis(10) })
            }
        }
    }

    fn peak_memory(&self) -> ByteCount {
        ByteCount::mib(11)
    }

    async fn stop(self) {}
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_f32(vec![values.len()], values).unwrap()
}

fn spec(name: &str) -> TensorSpec {
    TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: vec![-1] }
}

const fn cpu(threads: u16, batch: u16) -> Setting {
    Setting { engine: EngineKind::Cpu, threads, batch }
}

/// Measures one setting for each script.
async fn run(scripts: &[Script], times: Times, known: &[Profile]) -> (Vec<(Setting, Evidence)>, Vec<String>) {
    let bench = FakeBench(scripts.to_vec(), 0.into());
    let proposals: Vec<Proposal> = (1..)
        .take(scripts.len())
        .map(|threads| Proposal { setting: cpu(threads, 1), ruled_out: None })
        .collect();
    let golden = GoldenSet {
        vectors: vec![GoldenVector {
            inputs: vec![tensor(&[1.0])],
            outputs: vec![tensor(&[2.0])],
            tol_ppm: 100,
        }],
    };
    let (inputs, outputs) = ([spec("x")], [spec("y")]);
    let request = MeasureRequest {
        proposals: &proposals,
        inputs: &inputs,
        outputs: &outputs,
        golden: &golden,
        known,
        times,
    };
    let mut seen = Vec::new();
    let evidence = measure(&bench, &request, |progress| {
        seen.push(match progress {
            Progress::Started { setting, at, of } => format!("{setting} {at}/{of}"),
            Progress::Done { setting, .. } => format!("{setting} done"),
        });
    })
    .await;
    (evidence, seen)
}

/// The code of each outcome.
fn codes(evidence: &[(Setting, Evidence)]) -> Vec<String> {
    let code = |evidence: &Evidence| match evidence {
        Evidence::Outcome(Outcome::Measured(_)) => "measured".to_owned(),
        Evidence::Outcome(Outcome::WrongNumbers { off_ppm, .. }) => format!("wrong {off_ppm:?}"),
        Evidence::Outcome(Outcome::Failed { code, .. }) => code.to_string(),
        Evidence::RuledOut(out) => out.code.to_string(),
        Evidence::NotMeasured => "not measured".to_owned(),
    };
    evidence.iter().map(|(_, evidence)| code(evidence)).collect()
}

#[tokio::test(start_paused = true)]
async fn every_failure_is_an_outcome_and_stops_no_other() {
    use Script::{DiesWhileMeasuring, Good, Hangs, Nan, NoRuns, NotLoading, NotStarting, OffBy};
    let scripts = [NotStarting, NotLoading, OffBy(1), Nan, DiesWhileMeasuring, Hangs, NoRuns, OffBy(0), Good];
    let (evidence, seen) = run(&scripts, Times::default(), &[]).await;
    let want = [
        "worker.start",
        "engine.load",
        "wrong Some(10000)",
        "wrong None",
        "worker.died",
        "placement.timeout",
        "placement.no_runs",
        "measured",
        "measured",
    ];
    assert_eq!(codes(&evidence), want);
    assert_eq!(seen.len(), 2 * scripts.len());
    assert_eq!((seen[0].as_str(), seen[17].as_str()), ("cpu 1 thr 1/9", "cpu 9 thr done"));
}

#[tokio::test(start_paused = true)]
async fn figures_are_those_of_the_runs() {
    let (evidence, _) = run(&[Script::Good], Times::default(), &[]).await;
    let Evidence::Outcome(Outcome::Measured(figures)) = &evidence[0].1 else { panic!("{evidence:?}") };
    assert_eq!((figures.p50_us, figures.p90_us, figures.p99_us, figures.max_us), (50, 90, 99, 100));
    assert!((figures.per_second - 10_000.0).abs() < 1e-6);
    assert_eq!((figures.runs, figures.peak_memory, figures.load_us), (100, ByteCount::mib(11), 7_000));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_not_measured_again_and_time_over_is_told() {
    let hardware = Digest::of(b"hardware");
    let failed = Evidence::Outcome(failed("engine.load", "old".into()));
    let kept = failed.profile(cpu(2, 1), Digest::of(b"bundle"), hardware, UnixTime(5)).unwrap();
    let times = Times { all: Duration::from_secs(100), ..Times::default() };
    let scripts = [Script::Hangs, Script::Good, Script::Good];
    let (evidence, seen) = run(&scripts, times, &[kept]).await;
    assert_eq!(codes(&evidence), ["placement.timeout", "engine.load", "not measured"]);
    assert_eq!(seen, ["cpu 1 thr 1/2", "cpu 1 thr done"]);
    assert_eq!(evidence[2].1.profile(cpu(3, 1), hardware, hardware, UnixTime(5)), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_ruled_out_starts_no_worker() {
    let ruled_out = Some(RuledOut { code: Code::new("engine.not_built"), reason: "x".into() });
    let proposals = [Proposal { setting: cpu(1, 1), ruled_out }];
    let golden = GoldenSet::default();
    let request = MeasureRequest {
        proposals: &proposals,
        inputs: &[],
        outputs: &[],
        golden: &golden,
        known: &[],
        times: Times::default(),
    };
    let evidence =
        measure(&FakeBench(Vec::new(), 0.into()), &request, |_| panic!("nothing is measured")).await;
    assert_eq!(codes(&evidence), ["engine.not_built"]);
}

#[test]
fn a_slow_model_is_warmed_up_with_fewer_runs() {
    let times = Times::default();
    for (one_ms, want) in [(0, 5), (10, 5), (200, 2), (700, 0)] {
        assert_eq!(warm_up_runs(Duration::from_millis(one_ms), &times), want, "{one_ms} ms");
    }
}
