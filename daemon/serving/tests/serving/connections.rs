//! Connections that are slow, idle, many, or in the way of a stop.

use std::{fs, os::unix::fs::PermissionsExt, sync::atomic::Ordering::SeqCst, time::Duration};

use agentd_serving::{Limits, ListenError, Listener, serve};
use agentd_types::ByteCount;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::harness::*;

const SHORT: Duration = Duration::from_millis(40);

async fn closes_with_408(limits: Limits, request: &[u8]) {
    let server = Server::start(limits);
    server.activate("add", add(1));
    let mut client = server.client().await;
    client.send(request).await;
    let answer = client.answer().await.expect("an answer before the end");
    assert_eq!((answer.status, answer.header("agentd-code")), (408, Some("request.slow")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_cut_off() {
    closes_with_408(Limits { head_deadline: SHORT, ..Limits::default() }, b"GET /v2 HTTP/1.1\r\nhost:").await;
}

#[tokio::test]
async fn a_body_that_does_not_come_to_its_end_is_cut_off() {
    let limits = || Limits { body_deadline: SHORT, ..Limits::default() };
    let short = b"POST /v2/models/add/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    closes_with_408(limits(), short).await;
    let chunked =
        b"POST /v2/models/add/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n";
    closes_with_408(limits(), chunked).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let server = Server::start(Limits { idle: SHORT, ..Limits::default() });
    let mut client = server.client().await;
    client.send(&get("/v2")).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    assert!(client.answer().await.is_none());
}

#[tokio::test]
async fn a_caller_that_never_reads_is_cut_off() {
    let server = Server::start(Limits { write_deadline: SHORT, ..Limits::default() });
    server.activate("add", add(1));
    let mut client = server.client().await;
    let bytes = vec![0_u8; 8 << 20];
    client.send(&post("/v2/models/add/infer", "inference-header-content-length: 0\r\n", &bytes)).await;
    while server.serving.status(&name("add")).unwrap().active.success == 0 {
        tokio::task::yield_now().await;
    }
    let metrics = async {
        loop {
            let answer = server.ask(&get("/metrics")).await;
            let text = String::from_utf8(answer.body).unwrap();
            if text.contains("\nagentd_serving_connections_timed_out_total 1\n") {
                return;
            }
        }
    };
    timeout(PATIENCE, metrics).await.expect("cut off in time");
}

#[tokio::test]
async fn many_idle_connections_stay_within_their_bound_and_keep_nobody_out() {
    let server = Server::start(Limits { connections: 20, ..Limits::default() });
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(server.client().await);
    }
    assert_eq!(server.ask(&get("/v2/health/live")).await.status, 200);
    let text = String::from_utf8(server.ask(&get("/metrics")).await.body).unwrap();
    let open = text.lines().find_map(|line| line.strip_prefix("agentd_serving_connections ")).unwrap();
    assert!(open.parse::<usize>().unwrap() <= 21, "{open} are open");
    // The first to come were the first to go.
    assert!(idle[0].is_closed().await);
}

#[tokio::test]
async fn connections_that_are_all_busy_turn_new_ones_away_with_a_reason() {
    let server = Server::start(Limits { connections: 1, ..Limits::default() });
    let version = add(1);
    let (gate, runs) = (version.instances[0].gate.clone(), version.instances[0].runs.clone());
    server.activate("add", version);
    let mut busy = server.client().await;
    busy.send(&add_request(&[WAITS; 4])).await;
    while runs.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let answer = server.client().await.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("agentd-code")), (503, Some("serving.connections")));
    gate.notify_one();
    assert_eq!(busy.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn bodies_beyond_their_budget_are_put_off() {
    let server = Server::start(Limits { bodies: ByteCount(1000), ..Limits::default() });
    let version = add(1);
    let (gate, runs) = (version.instances[0].gate.clone(), version.instances[0].runs.clone());
    server.activate("add", version);
    let row: Vec<u8> = [WAITS; 4].iter().flat_map(|v| v.to_le_bytes()).collect();
    let raw = "inference-header-content-length: 0\r\n";
    let mut first = server.client().await;
    first.send(&post("/v2/models/add/infer", raw, &row.repeat(40))).await;
    while runs.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let second = post("/v2/models/add/infer", raw, &[0; 640]);
    let answer = server.ask(&second).await;
    assert_eq!((answer.status, answer.header("agentd-code")), (503, Some("serving.bodies")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    gate.notify_one();
    assert_eq!(first.answer().await.unwrap().status, 200);
    assert_eq!(server.ask(&second).await.status, 200);
}

#[tokio::test]
async fn a_stop_lets_the_request_in_flight_finish_and_takes_no_other() {
    let mut server = Server::start(Limits::default());
    let version = add(1);
    let (gate, runs) = (version.instances[0].gate.clone(), version.instances[0].runs.clone());
    server.activate("add", version);
    let mut idle = server.client().await;
    let mut busy = server.client().await;
    busy.send(&add_request(&[WAITS; 4])).await;
    while runs.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    server.stop.cancel();
    assert!(idle.is_closed().await);
    assert!(tokio::net::UnixStream::connect(&server.path).await.is_err());
    gate.notify_one();
    assert_eq!(busy.answer().await.unwrap().status, 200);
    timeout(PATIENCE, &mut server.task).await.expect("serve returns").unwrap();
    timeout(PATIENCE, server.serving.stop()).await.expect("serving stops");
    assert!(!server.path.exists());
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_is_taken_over_only_when_nobody_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let first = Listener::unix(&path, 0o640).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(matches!(Listener::unix(&path, 0o600), Err(ListenError::InUse { .. })));
    drop(first);
    assert!(!path.exists());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // a socket left behind by a crash
    assert!(Listener::unix(&path, 0o600).is_ok());
    fs::write(&path, "not a socket").unwrap();
    assert!(matches!(Listener::unix(&path, 0o600), Err(ListenError::NotASocket { .. })));
}

#[tokio::test]
async fn tcp_and_unix_listen_at_once() {
    let server = Server::start(Limits::default());
    let tcp = Listener::tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = tcp.address();
    let stop = CancellationToken::new();
    let _task = own(serve(server.serving.clone(), vec![tcp], stop.clone()));
    let mut stream = TcpStream::connect(address.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(&get("/v2/health/live")).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(server.ask(&get("/v2/health/live")).await.status, 200);
}
