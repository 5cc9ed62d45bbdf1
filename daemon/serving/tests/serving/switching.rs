//! Versions change under load and nobody notices.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use agentd_serving::{Limits, SwitchError, Switched};
use tokio_util::sync::CancellationToken;

use crate::harness::*;

/// Which version answers when: what a request may meet is all from the switch that had returned when it was sent to
/// the switch that had begun when it was answered.
#[derive(Default)]
struct History {
    versions: Mutex<Vec<u64>>,
    returned: AtomicUsize,
}

impl History {
    fn switching_to(&self, version: u64) {
        self.versions.lock().unwrap().push(version);
    }

    fn switched(&self) {
        self.returned.store(self.versions.lock().unwrap().len() - 1, SeqCst);
    }

    fn now(&self) -> usize {
        self.returned.load(SeqCst)
    }

    fn since(&self, then: usize) -> Vec<u64> {
        self.versions.lock().unwrap()[then..].to_vec()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_upgrades_and_twenty_roll_backs_under_load_fail_and_mix_nothing() {
    let server = Arc::new(Server::start(Limits::default()));
    server.activate("add", add(1));
    let history = Arc::new(History::default());
    history.switching_to(1);
    history.switched();
    let stop = CancellationToken::new();
    let answered = Arc::new(AtomicU64::new(0));
    let load: Vec<_> = (0..8_u8)
        .map(|i| {
            let (server, stop, answered) = (server.clone(), stop.clone(), answered.clone());
            let history = history.clone();
            own(async move {
                let mut client = server.client().await;
                let request = add_request(&[f32::from(i); 4]);
                while !stop.is_cancelled() {
                    let since = history.now();
                    client.send(&request).await;
                    let answer = client.answer().await.expect("an answer");
                    let allowed = history.since(since);
                    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
                    let version: u64 = answer.json()["model_version"].as_str().unwrap().parse().unwrap();
                    assert_eq!(numbers(&answer), [f64::from(i) + version as f64; 4]);
                    assert!(allowed.contains(&version), "{version} is not one of {allowed:?}");
                    answered.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    // Moves on when every connection had the chance to be in the middle of something.
    let some_answers = async || {
        let want = answered.load(SeqCst) + 16;
        while answered.load(SeqCst) < want {
            assert!(load.iter().all(|task| !task.is_finished()), "a client failed");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    };
    let model = name("add");
    for version in 2..=101 {
        some_answers().await;
        history.switching_to(version);
        let switched = server.serving.activate(&model, add(version)).unwrap();
        assert_eq!(switched, Switched { from: Some(version - 1), to: version });
        history.switched();
        if version % 5 == 0 {
            for to in [version - 1, version] {
                some_answers().await;
                history.switching_to(to);
                assert_eq!(server.serving.roll_back(&model).unwrap().to, to);
                history.switched();
            }
        }
    }
    some_answers().await;
    stop.cancel();
    for task in load {
        task.await.expect("no client failed");
    }
    assert!(answered.load(SeqCst) > 1_600);
}

#[tokio::test]
async fn the_previous_version_answers_under_its_number_until_it_is_dropped() {
    let server = Server::start(Limits::default());
    let model = name("add");
    server.activate("add", add(1));
    server.activate("add", add(2));
    assert_eq!(server.ask(&get("/v2/models/add")).await.json()["versions"], serde_json::json!(["2", "1"]));
    let request = String::from_utf8(add_request(&[1.0; 4])).unwrap();
    let old = request.replace("/infer", "/versions/1/infer");
    assert_eq!(numbers(&server.ask(old.as_bytes()).await), [2.0; 4]);
    assert_eq!(numbers(&server.ask(request.as_bytes()).await), [3.0; 4]);
    assert_eq!(server.serving.drop_previous(&model).await, Ok(Some(1)));
    assert_eq!(server.serving.drop_previous(&model).await, Ok(None));
    assert_eq!(server.ask(old.as_bytes()).await.status, 404);
    assert_eq!(server.serving.roll_back(&model), Err(SwitchError::NoPrevious(model.clone())));
    server.serving.retire(&model).await.unwrap();
    assert_eq!(server.ask(request.as_bytes()).await.status, 404);
    assert_eq!(server.serving.retire(&model).await, Err(SwitchError::Unknown(model)));
}

#[tokio::test]
async fn activating_the_same_bundle_again_keeps_the_previous_version() {
    let server = Server::start(Limits::default());
    for version in [1, 2, 2] {
        server.activate("add", add(version));
    }
    let status = server.serving.status(&name("add")).unwrap();
    assert_eq!((status.active.version, status.previous.unwrap().version), (2, 1));
}

#[tokio::test]
async fn a_retired_model_answers_what_it_had_taken() {
    let server = Server::start(Limits::default());
    let model = name("add");
    let version = add(1);
    let (gate, runs) = (version.instances[0].gate.clone(), version.instances[0].runs.clone());
    server.activate("add", version);
    let mut client = server.client().await;
    client.send(&add_request(&[WAITS; 4])).await;
    while runs.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let retire = server.serving.retire(&model);
    let finish = async {
        while server.serving.status(&model).is_some() {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
    };
    let (retired, ()) = tokio::join!(retire, finish);
    retired.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_version_that_cannot_answer_is_not_activated() {
    let server = Server::start(Limits::default());
    let mut version = add(1);
    version.instances.clear();
    let error = server.serving.activate(&name("add"), version).unwrap_err();
    assert_eq!(error.to_string(), "version 1 of model `add` has no instance");
    assert!(server.serving.statuses().is_empty());
}
