//! The native engine in a worker: several threads, and what its plan does step by step.

use std::{fs, time::Duration};

use agentd_engine::{LoadSpec, Tensor};
use agentd_isolation::{ModelFile, Worker};
use agentd_types::{Coded as _, EngineKind, Setting};

use crate::support::{SOON, double, double_spec, four, limits, real, spec, tensor_spec};

/// The digits model and what to ask it, in this setting.
fn digits(engine: EngineKind, threads: u16) -> (ModelFile, LoadSpec, Tensor) {
    let file = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/digits/v1/model.onnx")).unwrap();
    let spec =
        spec(vec![tensor_spec("image", &[-1, 1, 8, 8])], vec![tensor_spec("probabilities", &[-1, 10])]);
    let spec = LoadSpec { setting: Setting { engine, threads, batch: 1 }, ..spec };
    let values: Vec<f32> = (0_u8..64).map(|n| f32::from(n) / 64.0).collect();
    (ModelFile::from_bytes(&file).unwrap(), spec, Tensor::from_f32(vec![1, 1, 8, 8], &values).unwrap())
}

async fn started(engine: EngineKind, threads: u16) -> (Worker, Tensor) {
    let (model, spec, input) = digits(engine, threads);
    let mut worker = Worker::start(&real(), &limits()).await.unwrap();
    let loaded = worker.load(&model, &spec, SOON).await.unwrap();
    assert_eq!(loaded.threads, threads);
    (worker, input)
}

#[tokio::test]
async fn native_answers_the_same_bits_on_any_number_of_threads() {
    let (mut one, input) = started(EngineKind::Native, 1).await;
    let want = one.infer(&[input.view()], SOON).await.unwrap();
    for threads in [2, 3] {
        let (mut worker, input) = started(EngineKind::Native, threads).await;
        for _ in 0..3 {
            assert_eq!(worker.infer(&[input.view()], SOON).await.unwrap(), want, "{threads} threads");
        }
    }
}

#[tokio::test]
async fn a_plan_is_measured_step_by_step_and_the_worker_goes_on() {
    for threads in [1, 2] {
        let (mut worker, input) = started(EngineKind::Native, threads).await;
        let before = worker.infer(&[input.view()], SOON).await.unwrap();
        let time = Duration::from_millis(50);
        let profile = worker.profile(std::slice::from_ref(&input), time, SOON).await.unwrap();
        assert_eq!(profile.threads, threads);
        assert!(profile.runs > 0 && profile.run_ns > 0 && profile.arena.0 > 0 && profile.constants.0 > 0);
        assert!(profile.peak_multiply_adds > 1_000_000 && profile.peak_read.0 > 1_000_000, "{profile:?}");
        let products = profile.steps.iter().filter(|step| step.multiply_adds > 0);
        // Two convolutions and two products of matrices.
        assert_eq!(products.count(), 4, "{profile:?}");
        assert!(profile.steps.iter().all(|step| step.touched.0 > 0 && !step.interpreted), "{profile:?}");
        assert_eq!(worker.infer(&[input.view()], SOON).await.unwrap(), before);
    }
}

#[tokio::test]
async fn an_engine_without_a_plan_says_so() {
    let (mut worker, input) = started(EngineKind::Cpu, 1).await;
    let error = worker.profile(&[input], Duration::ZERO, SOON).await.unwrap_err();
    assert_eq!(error.code().as_str(), "engine.unsupported", "{error}");
    let mut fresh = Worker::start(&real(), &limits()).await.unwrap();
    let error = fresh.profile(&[four(1.0)], Duration::ZERO, SOON).await.unwrap_err();
    assert_eq!(error.code().as_str(), "worker.no_model", "{error}");
    fresh.load(&double("ok"), &double_spec(), SOON).await.unwrap();
}
