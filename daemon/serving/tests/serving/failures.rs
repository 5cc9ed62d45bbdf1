//! Instances that die, hang, refuse and lie; queues that are full.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use agentd_serving::{Finite, ServingEvent};

use crate::harness::*;

fn code(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.header("agentd-code").unwrap_or(""))
}

#[tokio::test]
async fn a_request_that_kills_is_tried_twice_and_the_dead_are_replaced() {
    let mut server = Server::with_models();
    let answer = server.ask(&add_request(&[DIES; 4])).await;
    assert_eq!(code(&answer), (502, "worker.died"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let mut attempts = Vec::new();
    let mut back = 0;
    while back < 2 {
        match server.event().await {
            ServingEvent::InstanceDied { of, code, attempt, .. } => {
                assert_eq!((of.model, of.version, code.as_str()), (name("add"), 1, "worker.died"));
                attempts.push(attempt);
            }
            ServingEvent::Respawned { .. } => back += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(attempts, [1, 2]);
    let status = server.serving.status(&name("add")).unwrap().active;
    assert_eq!((status.instances, status.deaths, status.failure), (2, 2, 1));
    assert_eq!(numbers(&server.ask(&add_request(&[1.0; 4])).await), [2.0; 4]);
}

#[tokio::test]
async fn a_request_whose_instance_crashed_is_answered_by_another() {
    let mut server = Server::with_models();
    // Instances are taken from the end of the list: the last is of a kind that the first request kills.
    let mut version = add(5);
    version.instances.push(Fake::doomed(5));
    server.activate("add", version);
    let mut client = server.client().await;
    client.send(&add_request(&[1.0; 4])).await;
    assert_eq!(numbers(&client.answer().await.unwrap()), [6.0; 4]);
    assert!(matches!(server.event().await, ServingEvent::InstanceDied { attempt: 1, .. }));
    assert!(matches!(server.event().await, ServingEvent::Respawned { alive: 3, .. }));
    let status = server.serving.status(&name("add")).unwrap().active;
    assert_eq!((status.success, status.failure), (1, 0));
}

#[tokio::test]
async fn a_request_that_hangs_is_given_up_once_and_not_tried_again() {
    let mut server = Server::with_models();
    let mut version = add(2);
    version.deadline = Duration::from_millis(50);
    let runs = version.instances[0].runs.clone();
    server.activate("add", version);
    let answer = server.ask(&add_request(&[HANGS; 4])).await;
    assert_eq!(code(&answer), (504, "worker.deadline"));
    assert_eq!(runs.load(SeqCst), 1);
    assert!(matches!(server.event().await, ServingEvent::InstanceDied { attempt: 1, .. }));
    assert!(matches!(server.event().await, ServingEvent::Respawned { alive: 2, .. }));
}

#[tokio::test]
async fn an_engines_failure_costs_no_instance_and_is_told_but_not_each_time() {
    let mut server = Server::with_models();
    for _ in 0..3 {
        assert_eq!(code(&server.ask(&add_request(&[FAILS; 4])).await), (500, "engine.run"));
    }
    assert_eq!(code(&server.ask(&add_request(&[REFUSES; 4])).await), (400, "engine.run"));
    let status = server.serving.status(&name("add")).unwrap().active;
    assert_eq!((status.instances, status.deaths, status.failure), (2, 0, 4));
    // What the caller did wrong is not told, nor a second failure so soon after the first.
    assert_eq!(code(&server.ask(&add_request(&[GIVES_NAN; 4])).await), (500, "model.not_finite"));
    match server.event().await {
        ServingEvent::EngineFailed { of, code, untold: 0, .. } => {
            assert_eq!((of.model, of.version, code.as_str()), (name("add"), 1, "engine.run"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(server.event().await, ServingEvent::NotFinite { .. }));
}

#[tokio::test]
async fn numbers_that_are_not_finite_are_the_models_fault_only_if_the_inputs_were_finite() {
    let mut server = Server::with_models();
    assert_eq!(code(&server.ask(&add_request(&[GIVES_NAN; 4])).await), (500, "model.not_finite"));
    let ServingEvent::NotFinite { of, output } = server.event().await else { panic!() };
    assert_eq!((of.version, output.as_str()), (1, "out_x"));

    let nan: Vec<u8> = [f32::NAN; 4].iter().flat_map(|v| v.to_le_bytes()).collect();
    let raw = "inference-header-content-length: 0\r\n";
    let answer = server.ask(&post("/v2/models/add/infer", raw, &nan)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.binary().len(), 16);

    // JSON has no NaN: the caller is told to ask for binary.
    let header =
        r#"{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"binary_data_size":16}}]}"#;
    let headers = format!("inference-header-content-length: {}\r\n", header.len());
    let answer =
        server.ask(&post("/v2/models/add/infer", &headers, &[header.as_bytes(), &nan].concat())).await;
    assert_eq!(code(&answer), (400, "request.needs_binary"));

    let mut version = add(2);
    version.finite = Finite::NotRequired;
    server.activate("add", version);
    assert_eq!(code(&server.ask(&add_request(&[GIVES_NAN; 4])).await), (400, "request.needs_binary"));
}

#[tokio::test]
async fn outputs_that_the_bundle_does_not_promise_never_reach_a_caller() {
    let mut server = Server::with_models();
    assert_eq!(code(&server.ask(&add_request(&[GIVES_TOO_FEW; 4])).await), (500, "model.outputs"));
    assert!(matches!(server.event().await, ServingEvent::WrongOutputs { .. }));
}

#[tokio::test]
async fn sixteen_bit_outputs_cannot_be_asked_for_in_json() {
    let server = Server::with_models();
    let body = r#"{"inputs":[]}"#;
    let answer = server.ask(&post("/v2/models/id/fp16/infer", "", body.as_bytes())).await;
    assert_eq!(code(&answer), (400, "request.needs_binary"));
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_an_expired_request_is_never_run() {
    let server = Server::with_models();
    let mut version = add(1);
    version.instances.truncate(1);
    version.queue = 1;
    let (gate, runs) = (version.instances[0].gate.clone(), version.instances[0].runs.clone());
    server.activate("add", version);
    let busy = async {
        let answer = server.ask(&add_request(&[WAITS; 4])).await;
        assert_eq!(answer.status, 200);
    };
    let others = async {
        while runs.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // Waits 20 ms at most for its turn, and so is not run.
        let impatient = r#"{"parameters":{"timeout":20000},"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}"#;
        let answer = server.ask(&post("/v2/models/add/infer", "", impatient.as_bytes())).await;
        assert_eq!(code(&answer), (503, "serving.expired"));
        assert_eq!(answer.header("retry-after"), Some("1"));
        let waits = async {
            let answer = server.ask(&add_request(&[1.0; 4])).await;
            assert_eq!(answer.status, 200);
        };
        let overflows = async {
            while server.serving.status(&name("add")).unwrap().active.waiting == 0 {
                tokio::task::yield_now().await;
            }
            let answer = server.ask(&add_request(&[1.0; 4])).await;
            assert_eq!(code(&answer), (503, "serving.queue_full"));
            assert_eq!(answer.header("retry-after"), Some("1"));
            gate.notify_one();
        };
        tokio::join!(waits, overflows);
    };
    tokio::join!(busy, others);
    assert_eq!(runs.load(SeqCst), 2);
    let status = server.serving.status(&name("add")).unwrap().active;
    assert_eq!((status.success, status.refused, status.failure, status.in_flight), (2, 2, 0, 0));
}

#[tokio::test]
async fn a_full_queue_of_one_model_does_not_hold_up_another() {
    let server = Server::with_models();
    let mut version = add(1);
    version.instances.truncate(1);
    let (gate, runs) = (version.instances[0].gate.clone(), version.instances[0].runs.clone());
    server.activate("add", version);
    let waits = add_request(&[WAITS; 4]);
    let busy = server.ask(&waits);
    let neighbour = async {
        while runs.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let raw = "inference-header-content-length: 0\r\n";
        assert_eq!(server.ask(&post("/v2/models/id/uint8/infer", raw, b"abc")).await.binary(), b"abc");
        gate.notify_one();
    };
    let (answer, ()) = tokio::join!(busy, neighbour);
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_instance_whole() {
    let server = Server::with_models();
    let mut version = add(1);
    version.instances.truncate(1);
    let (gate, runs) = (version.instances[0].gate.clone(), version.instances[0].runs.clone());
    server.activate("add", version);
    let mut client = server.client().await;
    client.send(&add_request(&[WAITS; 4])).await;
    while runs.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    drop(client);
    while server.serving.status(&name("add")).unwrap().active.in_flight > 0 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    assert_eq!(numbers(&server.ask(&add_request(&[1.0; 4])).await), [2.0; 4]);
    assert_eq!(server.serving.status(&name("add")).unwrap().active.instances, 1);
}
