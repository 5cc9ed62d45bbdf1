//! Processes come and go without a trace.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use agentd_isolation::Worker;

use crate::support::{SOON, double, double_spec, doubling, faulty, four, limits, real};

/// Tells the helper test below that it is meant.
const HELPER: &str = "AGENTD_TEST_DAEMON";

#[tokio::test]
async fn two_hundred_workers_leave_no_descriptor_and_no_process_behind() {
    let model = double("short");
    // The first one makes what the runtime keeps for all.
    Worker::start(&real(), &limits()).await.unwrap().stop().await;
    let before = descriptors();
    let mut pids = Vec::new();
    for round in 0..200 {
        let mut worker = Worker::start(&real(), &limits()).await.unwrap();
        pids.push(worker.pid());
        if round % 10 == 0 {
            worker.load(&model, &double_spec(), SOON).await.unwrap();
            assert!(worker.infer(&[four(1.0).view()], SOON).await.is_ok());
        }
        if round % 2 == 0 {
            worker.stop().await;
        } else {
            drop(worker);
        }
    }
    wait_until(|| pids.iter().all(|pid| !exists(*pid))).await;
    // Other tests may open some meanwhile; one for each worker would be 200.
    assert!(descriptors() < before + 100);
}

#[test]
fn a_worker_ends_when_its_daemon_is_killed() {
    for fault in ["well", "agentd-fault:hang"] {
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifecycle::helper_that_is_a_daemon", "--nocapture"])
            .env(HELPER, fault)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        let pid: u32 = lines
            .map_while(Result::ok)
            .find_map(|line| line.split_once("worker is ")?.1.trim().parse().ok())
            .expect("the helper tells the worker's pid");
        assert!(runs(pid));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let deadline = Instant::now() + SOON;
        while runs(pid) {
            assert!(Instant::now() < deadline, "the worker outlives its daemon, {fault}");
            std::thread::yield_now();
        }
    }
}

/// Only when asked to by the test above: starts a worker, keeps it busy, and waits to be killed.
#[tokio::test]
async fn helper_that_is_a_daemon() {
    let Some(fault) = std::env::var_os(HELPER) else { return };
    let mut worker = doubling(&faulty(), fault.to_str().unwrap()).await;
    println!("worker is {}", worker.pid());
    loop {
        // An error here means that the worker left too early; the parent then sees no process.
        if worker.infer(&[four(1.0).view()], Duration::from_secs(600)).await.is_err() {
            return;
        }
    }
}

#[test]
fn the_program_tells_people_that_it_is_not_for_them() {
    let run =
        |arguments: &[&str]| Command::new(real().path).args(arguments).stdin(Stdio::null()).output().unwrap();
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("It is not for people"));
    let version = run(&["--version"]);
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        format!("agentd-worker {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(run(&[]).status.code(), Some(2));
    let no_socket = run(&["run"]);
    assert_eq!(no_socket.status.code(), Some(1));
    assert!(String::from_utf8(no_socket.stderr).unwrap().starts_with("agentd-worker: "));
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Whether a process runs; one that ended may wait for a new parent to reap it.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// Whether a process runs or waits to be reaped.
fn exists(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

async fn wait_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "processes are left behind");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
