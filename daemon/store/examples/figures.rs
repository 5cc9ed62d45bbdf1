//! Prints what the store costs on this machine: `cargo run --release -p agentd-store --example figures`.
#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people who measure"
)]

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use agentd_store::{Class, OpenReport, RealStorage, Store, StoreOptions};
use agentd_types::{Digest, ManualClock, UnixTime};
use agentd_wire::What;

fn main() {
    if let Some(dir) = std::env::args_os().nth(1) {
        return fresh(dir.as_ref());
    }
    let dir = tempfile::tempdir_in(".").unwrap();
    fresh_process(dir.path());
    let (store, ..) = open(dir.path());
    rate(&store, "one caller, one entry a sync", 1, 1);
    rate(&store, "16 callers, group commit", 16, 1);
    rate(&store, "one caller, 64 entries a sync", 1, 64);
    outbox(&store);
    chunks(&store);
    while store.journal().head().seq < 100_000 {
        store.record_all((0..500).map(note).collect()).unwrap();
    }
    drop(store);
    fresh_process(dir.path());
    let (store, ..) = open(dir.path());
    let entries = store.journal().head().seq;
    let start = Instant::now();
    let verified = store.journal().verify().unwrap();
    println!("verify {} entries: {:?}", verified.entries, start.elapsed());
    let start = Instant::now();
    let found = store.events_of(&"demo/digits".parse().unwrap(), entries - 100, 100).unwrap().len();
    println!("last {found} events of a model: {:?}", start.elapsed());
    drop(store);
    std::fs::remove_dir_all(dir.path().join("state/index")).unwrap();
    fresh_process(dir.path());
}

fn note(version: u64) -> What {
    What::Pinned { model: "demo/digits".parse().unwrap(), version }
}

fn open(dir: &Path) -> (Store, OpenReport, Duration) {
    let start = Instant::now();
    let clock = Arc::new(ManualClock::at(UnixTime(1_796_000_000)));
    let storage = Arc::new(RealStorage::new());
    let (store, report) = Store::open(dir.join("state"), StoreOptions::default(), clock, storage).unwrap();
    (store, report, start.elapsed())
}

/// What opening costs a process that has done nothing else.
fn fresh(dir: &Path) {
    let before = (memory("Rss:"), memory("Pss:"));
    let (store, report, took) = open(dir);
    let after = (memory("Rss:"), memory("Pss:"));
    let entries = store.journal().head().seq;
    let (replayed, rebuilt) = (report.journal.replayed, report.index_rebuilt);
    println!("fresh process, {entries} entries: open {took:?}, {replayed} replayed, index: {rebuilt:?}");
    println!("  RSS {} -> {} KiB, PSS {} -> {} KiB", before.0, after.0, before.1, after.1);
    if report.index_in_memory {
        let start = Instant::now();
        store.mend_index();
        println!("  index made again in {:?}, then RSS {} KiB", start.elapsed(), memory("Rss:"));
    }
}

fn fresh_process(dir: &Path) {
    let me = std::env::current_exe().unwrap();
    assert!(Command::new(me).arg(dir).status().unwrap().success());
}

fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let found =
        status.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse().ok());
    found.unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(store: &Store, name: &str, threads: u64, each: u64) {
    let start = Instant::now();
    let work = || {
        let mut count = 0;
        while start.elapsed() < Duration::from_secs(3) {
            count += store.record_all((0..each).map(note).collect()).unwrap().len() as u64;
        }
        count
    };
    let count: u64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    println!("journal, {name}: {:.0} entries/s", count as f64 / start.elapsed().as_secs_f64());
}

fn outbox(store: &Store) {
    let start = Instant::now();
    for n in 0..200_u32 {
        store.outbox().append(Class::Event, &n.to_le_bytes()).unwrap();
    }
    println!("outbox, one message a sync: {:.0}/s", 200.0 / start.elapsed().as_secs_f64());
}

fn chunks(store: &Store) {
    let start = Instant::now();
    for n in 0..512_u32 {
        let mut bytes = vec![0; 128 << 10];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        store.put_chunk(Digest::of(&bytes), &bytes).unwrap();
    }
    store.commit_chunks().unwrap();
    println!("64 MiB in 512 chunks, durable: {:?}", start.elapsed());
}
