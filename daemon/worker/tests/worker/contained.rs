//! Models that fail in every way cost their own request and nothing else.

use std::time::{Duration, Instant};

use agentd_engine::first_not_finite;
use agentd_isolation::{Worker, WorkerError};
use agentd_types::Coded as _;

use crate::support::{SOON, double, double_spec, doubling, faulty, four, limits};

/// Longer than a request takes, shorter than anybody waits for a test.
const SHORT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn each_fault_at_a_request_is_contained_and_says_what_happened() {
    let mut neighbour = doubling(&faulty(), "well").await;
    for (fault, code, says) in [
        ("abort", "worker.died", "it aborted (signal 6)"),
        ("hang", "worker.deadline", "was killed"),
        ("allocate", "worker.died", "it needed more memory than allowed (signal 6)"),
        ("overflow", "worker.died", "its stack overflowed (signal 6)"),
        ("crash", "worker.died", "it crashed on an invalid memory access (signal 11)"),
    ] {
        let mut worker = doubling(&faulty(), &format!("agentd-fault:{fault}")).await;
        let input = four(1.0);
        let error = worker.infer(&[input.view()], SHORT).await.unwrap_err();
        assert_eq!(error.code().as_str(), code, "{fault}: {error}");
        assert!(error.to_string().contains(says), "{fault}: {error}");
        assert!(error.is_fatal() && worker.is_dead(), "{fault}");
        assert_eq!(worker.memory().resident.0, 0, "{fault}");
        let again = worker.infer(&[input.view()], SHORT).await.unwrap_err();
        assert_eq!(again.code().as_str(), "worker.died", "{fault}");
        assert_eq!(neighbour.infer(&[input.view()], SOON).await.unwrap(), [four(2.0)], "after {fault}");
    }
}

#[tokio::test]
async fn each_fault_at_loading_is_contained() {
    for (fault, code) in [
        ("panic", "engine.load"),
        ("abort", "worker.died"),
        ("hang", "worker.deadline"),
        ("allocate", "worker.died"),
        ("overflow", "worker.died"),
        ("crash", "worker.died"),
    ] {
        let mut worker = Worker::start(&faulty(), &limits()).await.unwrap();
        let model = double(&format!("agentd-fault:{fault}-at-load"));
        let error = worker.load(&model, &double_spec(), SHORT).await.unwrap_err();
        assert_eq!(error.code().as_str(), code, "{fault}: {error}");
    }
}

#[tokio::test]
async fn a_panic_is_an_error_that_says_so_and_the_worker_goes_on() {
    let mut worker = doubling(&faulty(), "agentd-fault:panic-once").await;
    let error = worker.infer(&[four(1.0).view()], SOON).await.unwrap_err();
    assert_eq!(error.code().as_str(), "engine.run");
    assert!(error.to_string().contains("it panicked: the model asked for a panic"), "{error}");
    for value in [1.0, 5.0] {
        assert_eq!(worker.infer(&[four(value).view()], SOON).await.unwrap(), [four(2.0 * value)]);
    }
}

#[tokio::test]
async fn nan_comes_out_as_it_is_for_the_server_to_find() {
    let mut worker = doubling(&faulty(), "agentd-fault:nan").await;
    let outputs = worker.infer(&[four(1.0).view()], SOON).await.unwrap();
    assert_eq!(first_not_finite(outputs.iter().map(agentd_engine::Tensor::view)), Some((0, 3)));
}

#[tokio::test]
async fn a_hang_is_noticed_at_the_deadline_and_not_long_after() {
    let mut worker = doubling(&faulty(), "agentd-fault:hang-later").await;
    let input = four(1.0);
    for _ in 0..4 {
        assert!(worker.infer(&[input.view()], SOON).await.is_ok());
    }
    let started = Instant::now();
    let error = worker.infer(&[input.view()], Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, WorkerError::Deadline { .. }), "{error:?}");
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn two_workers_answer_at_the_same_time() {
    let (mut one, mut two) = (doubling(&faulty(), "one").await, doubling(&faulty(), "two").await);
    let (first, second) = tokio::join!(ask(&mut one, 1.0), ask(&mut two, 100.0));
    assert_eq!((first, second), (200, 200));
}

/// Asks 200 times and counts the right answers.
async fn ask(worker: &mut Worker, start: f32) -> usize {
    let mut right = 0;
    for step in 0_u8..200 {
        let value = start + f32::from(step);
        let input = four(value);
        right += usize::from(worker.infer(&[input.view()], SOON).await.unwrap() == [four(2.0 * value)]);
    }
    right
}
