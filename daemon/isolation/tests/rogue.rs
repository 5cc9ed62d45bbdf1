//! The daemon's end survives whatever a worker says.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::panic,
    clippy::string_slice,
    clippy::too_many_lines,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests fail like tests"
)]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use agentd_engine::{LoadSpec, Tensor};
use agentd_isolation::{Limits, MeasureBudget, ModelFile, Program, StartError, Worker, WorkerError};
use agentd_types::{ByteCount, Coded as _, Datatype, EngineKind, Setting, TensorSpec};

const SOON: Duration = Duration::from_secs(20);

/// The rogue under the name of one lie.
struct Rogue {
    program: Program,
    _folder: tempfile::TempDir,
}

fn rogue(lie: &str) -> Rogue {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join(format!("rogue-{lie}"));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_agentd-rogue"), &path).unwrap();
    Rogue { program: Program::at(path), _folder: folder }
}

fn spec() -> LoadSpec {
    let tensor = |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: vec![4] };
    LoadSpec {
        setting: Setting { engine: EngineKind::Cpu, threads: 1, batch: 1 },
        inputs: vec![tensor("x")],
        outputs: vec![tensor("y")],
    }
}

fn input() -> Tensor {
    Tensor::from_f32(vec![4], &[1.0; 4]).unwrap()
}

async fn started(lie: &str) -> Worker {
    let rogue = rogue(lie);
    Worker::start(&rogue.program, &Limits::with_memory(ByteCount::mib(64))).await.unwrap()
}

async fn loaded(lie: &str) -> Worker {
    let mut worker = started(lie).await;
    worker.load(&ModelFile::from_bytes(b"model").unwrap(), &spec(), SOON).await.unwrap();
    worker
}

#[tokio::test]
async fn an_honest_answer_by_hand_is_understood() {
    let mut worker = loaded("nothing").await;
    for _ in 0..3 {
        let answer = worker.infer(&[input().view()], SOON).await.unwrap();
        assert_eq!(answer, [Tensor::from_f32(vec![4], &[1.0, 2.0, 3.0, 4.0]).unwrap()]);
    }
    assert_eq!(worker.adapters(SOON).await.unwrap(), []);
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_greets_wrongly_does_not_start() {
    for (lie, code) in [
        ("leaves-at-once", "worker.died"),
        ("greets-with-noise", "worker.protocol"),
        ("greets-at-length", "worker.protocol"),
        ("greets-another-order", "worker.protocol"),
        ("is-of-another-version", "worker.protocol"),
        ("greets-with-adapters", "worker.protocol"),
    ] {
        let rogue = rogue(lie);
        let error = Worker::start(&rogue.program, &Limits::default()).await.unwrap_err();
        assert_eq!(error.code().as_str(), code, "{lie}: {error:?}");
    }
    let missing = Program::at("/nonexistent/agentd-worker");
    let error = Worker::start(&missing, &Limits::default()).await.unwrap_err();
    assert!(matches!(error, StartError::Spawn { .. }), "{error:?}");
}

#[tokio::test]
async fn a_worker_that_answers_wrongly_is_killed() {
    for (lie, code) in [
        ("answers-too-long", "worker.protocol"),
        ("answers-past-its-room", "worker.protocol"),
        ("answers-of-no-kind", "worker.protocol"),
        ("answers-with-noise", "worker.protocol"),
        ("answers-another-shape", "worker.protocol"),
        ("answers-another-datatype", "worker.protocol"),
        ("fails-with-noise", "worker.protocol"),
        ("needs-more-again", "worker.protocol"),
        ("talks-instead", "worker.protocol"),
        ("closes-its-socket", "worker.died"),
    ] {
        let mut worker = loaded(lie).await;
        let error = worker.infer(&[input().view()], SOON).await.unwrap_err();
        assert_eq!(error.code().as_str(), code, "{lie}: {error:?}");
        assert!(error.is_fatal() && worker.is_dead(), "{lie}");
        let after = worker.infer(&[input().view()], SOON).await.unwrap_err();
        assert_eq!(after.code().as_str(), "worker.died", "{lie}");
    }
}

#[tokio::test]
async fn a_worker_that_only_seems_to_answer_is_killed_at_the_deadline() {
    for lie in ["wakes-without-an-answer", "counts-ahead"] {
        let mut worker = loaded(lie).await;
        let started = Instant::now();
        let error = worker.infer(&[input().view()], Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, WorkerError::Deadline { .. }), "{lie}: {error:?}");
        assert!(started.elapsed() < SOON, "{lie}");
    }
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_refused_before_any_memory_is_made() {
    let mut worker = loaded("needs-the-moon").await;
    let error = worker.infer(&[input().view()], SOON).await.unwrap_err();
    assert_eq!(error.code().as_str(), "worker.too_large", "{error:?}");
}

#[tokio::test]
async fn shared_memory_cannot_be_cut_under_the_daemon() {
    let mut worker = loaded("cuts-the-memory").await;
    assert!(worker.infer(&[input().view()], SOON).await.is_ok());
}

#[tokio::test]
async fn measurements_that_cannot_be_are_refused() {
    let budget = MeasureBudget { warm_up_runs: 0, max_runs: 10, time: Duration::from_secs(1) };
    for lie in ["measures-nothing", "measures-too-often", "measures-longer-than-it-took"] {
        let mut worker = loaded(lie).await;
        let error = worker.measure(&[input()], &budget, SOON).await.unwrap_err();
        assert_eq!(error.code().as_str(), "worker.protocol", "{lie}: {error:?}");
    }
    assert_eq!(
        loaded("nothing").await.measure(&[input()], &budget, SOON).await.unwrap().latencies_us.len(),
        1
    );
}

#[tokio::test]
async fn profiles_that_cannot_be_are_refused() {
    for lie in ["profiles-at-length", "profiles-with-noise", "profiles-longer-than-it-took"] {
        let mut worker = loaded(lie).await;
        let error = worker.profile(&[input()], Duration::ZERO, SOON).await.unwrap_err();
        assert_eq!(error.code().as_str(), "worker.protocol", "{lie}: {error:?}");
    }
    let profile = loaded("nothing").await.profile(&[input()], Duration::ZERO, SOON).await.unwrap();
    assert_eq!((profile.runs, profile.steps.len()), (1, 1));
}

#[tokio::test]
async fn what_a_worker_says_reaches_people_short_and_printable() {
    let mut worker = started("refuses-with-escapes").await;
    let model = ModelFile::from_bytes(b"model").unwrap();
    let error = worker.load(&model, &spec(), SOON).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.code().as_str(), "engine.load");
    assert!(text.len() < 3_000 && !text.contains(char::is_control), "{text:?}");
    assert!(!worker.is_dead());
    let mut other = started("loads-a-region").await;
    let error = other.load(&model, &spec(), SOON).await.unwrap_err();
    assert_eq!(error.code().as_str(), "worker.protocol");
}

#[tokio::test]
async fn a_request_that_does_not_fit_never_reaches_the_worker() {
    let mut worker = loaded("closes-its-socket").await;
    let long = Tensor::from_f32(vec![5], &[1.0; 5]).unwrap();
    for inputs in [vec![], vec![long.view()], vec![input().view(), input().view()]] {
        let error = worker.infer(&inputs, SOON).await.unwrap_err();
        assert_eq!(error.code().as_str(), "engine.input", "{error:?}");
    }
    assert!(!worker.is_dead());
    let mut fresh = started("nothing").await;
    assert_eq!(fresh.infer(&[input().view()], SOON).await, Err(WorkerError::NoModel));
}
