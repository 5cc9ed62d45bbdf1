//! Answers over the boundary.

use std::time::Duration;

use agentd_engine::{Engine as _, Tensor, TensorView};
use agentd_engine_tract::Tract;
use agentd_isolation::{Limits, MeasureBudget, ModelFile, Worker, WorkerError};
use agentd_onnx::build::{Graph, Node, conv, mlp};
use agentd_types::{ByteCount, Coded as _, Datatype::Fp32};

use crate::support::{SOON, double, double_spec, doubling, four, limits, real, spec, tensor_spec};

#[tokio::test]
async fn answers_over_the_boundary_equal_those_in_process() {
    for (file, inputs, outputs, shape) in [
        (mlp(16, 8, 4, 1), vec![-1, 16], vec![-1, 4], vec![1, 16]),
        (mlp(16, 8, 4, 2), vec![-1, 16], vec![-1, 4], vec![9, 16]),
        (conv(3, 8, 16, 3), vec![-1, 3, 16, 16], vec![-1, 8, 1, 1], vec![2, 3, 16, 16]),
    ] {
        let spec = spec(vec![tensor_spec("x", &inputs)], vec![tensor_spec("y", &outputs)]);
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0_u16..).take(count).map(|n| f32::from(n % 97) / 97.0 - 0.5).collect();
        let input = Tensor::from_f32(shape, &values).unwrap();
        let want = Tract::new().load(&file, &spec).unwrap().run(&[input.view()]).unwrap();
        let mut worker = Worker::start(&real(), &limits()).await.unwrap();
        let loaded = worker.load(&ModelFile::from_bytes(&file).unwrap(), &spec, SOON).await.unwrap();
        assert!(loaded.peak_memory > ByteCount::mib(1) && !loaded.load_time.is_zero());
        for _ in 0..3 {
            assert_eq!(worker.infer(&[input.view()], SOON).await.unwrap(), want);
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn shared_memory_grows_with_requests_and_answers_up_to_the_limit() {
    let tile = Graph::new("tile")
        .input("x", Fp32, &[-1])
        .i64("times", &[1], &[100])
        .node(Node::new("Tile").inputs(&["x", "times"]).outputs(&["y"]))
        .output("y", Fp32, &[-1])
        .model(17);
    let spec = spec(vec![tensor_spec("x", &[-1])], vec![tensor_spec("y", &[-1])]);
    let limits = Limits { tensors: ByteCount::mib(8), ..limits() };
    let mut worker = Worker::start(&real(), &limits).await.unwrap();
    worker.load(&ModelFile::from_bytes(&tile).unwrap(), &spec, SOON).await.unwrap();
    for count in [1, 10, 1_000, 20_000, 3] {
        let values: Vec<f32> = (0_u16..count).map(f32::from).collect();
        let input = Tensor::from_f32(vec![values.len()], &values).unwrap();
        let got = worker.infer(&[input.view()], SOON).await.unwrap();
        assert_eq!(got, [Tensor::from_f32(vec![values.len() * 100], &values.repeat(100)).unwrap()]);
    }
    let long = Tensor::from_f32(vec![30_000], &[1.0; 30_000]).unwrap();
    let error = worker.infer(&[long.view()], SOON).await.unwrap_err();
    assert!(matches!(error, WorkerError::TooLarge { what: "answer", .. }), "{error:?}");
    let longer = Tensor::from_f32(vec![3 << 20], &vec![1.0; 3 << 20]).unwrap();
    let error = worker.infer(&[longer.view()], SOON).await.unwrap_err();
    assert!(matches!(error, WorkerError::TooLarge { what: "request", .. }), "{error:?}");
    let one = Tensor::from_f32(vec![1], &[7.0]).unwrap();
    assert_eq!(worker.infer(&[one.view()], SOON).await.unwrap()[0].shape, [100]);
}

#[tokio::test]
async fn a_refused_model_leaves_the_worker_ready_for_another() {
    let mut worker = Worker::start(&real(), &limits()).await.unwrap();
    let noise = ModelFile::from_bytes(b"this is no model").unwrap();
    let error = worker.load(&noise, &double_spec(), SOON).await.unwrap_err();
    assert_eq!(error.code().as_str(), "engine.load");
    assert_eq!(worker.infer(&[four(1.0).view()], SOON).await, Err(WorkerError::NoModel));
    worker.load(&double("ok"), &double_spec(), SOON).await.unwrap();
    assert_eq!(worker.infer(&[four(1.0).view()], SOON).await.unwrap(), [four(2.0)]);
}

#[tokio::test]
async fn a_request_dropped_half_way_does_not_spoil_the_next() {
    let mut worker = doubling(&crate::support::faulty(), "agentd-fault:sleep").await;
    for value in [1.0_f32, 2.0] {
        let input = four(value);
        let views: [TensorView<'_>; 1] = [input.view()];
        let dropped = tokio::time::timeout(Duration::from_millis(20), worker.infer(&views, SOON)).await;
        assert!(dropped.is_err(), "the worker sleeps longer");
        let other = four(value + 10.0);
        let got = worker.infer(&[other.view()], SOON).await.unwrap();
        assert_eq!(got, [four(2.0 * (value + 10.0))]);
    }
}

#[tokio::test]
async fn measuring_runs_inside_the_worker_within_its_budget() {
    let mut worker = doubling(&real(), "measured").await;
    let budget = MeasureBudget { warm_up_runs: 3, max_runs: 500, time: Duration::from_secs(5) };
    let measured = worker.measure(&[four(1.0)], &budget, SOON).await.unwrap();
    assert_eq!(measured.latencies_us.len(), 500);
    assert!(measured.latencies_us.iter().all(|us| *us > 0));
    assert!(measured.wall <= Duration::from_secs(5));
    let short = MeasureBudget { warm_up_runs: 0, max_runs: u32::MAX, time: Duration::ZERO };
    assert_eq!(worker.measure(&[four(1.0)], &short, SOON).await.unwrap().latencies_us.len(), 1);
    let input = four(3.0);
    assert_eq!(worker.infer(&[input.view()], SOON).await.unwrap(), [four(6.0)]);
}

#[tokio::test]
async fn threads_are_started_before_the_worker_locks_itself() {
    let mut spec = double_spec();
    spec.setting.threads = 2;
    let mut worker = Worker::start(&real(), &limits()).await.unwrap();
    worker.load(&double("threads"), &spec, SOON).await.unwrap();
    assert_eq!(worker.infer(&[four(1.0).view()], SOON).await.unwrap(), [four(2.0)]);
    assert!(threads(worker.pid()) >= 3, "main, watch and the pool");
}

#[tokio::test]
async fn adapters_are_listed_by_a_worker() {
    let mut worker = Worker::start(&real(), &Limits::default()).await.unwrap();
    // Which ones there are is the machine's matter.
    assert!(worker.adapters(SOON).await.is_ok());
    worker.load(&double("after"), &double_spec(), SOON).await.unwrap();
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}
