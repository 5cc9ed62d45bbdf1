//! Prints what the store costs on this machine: `cargo run --release -p agentd-store --example figures`.
#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people who measure"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use agentd_store::{Class, RealStorage, Store, StoreOptions};
use agentd_types::{Digest, ManualClock, UnixTime};
use agentd_wire::What;

fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let found =
        status.lines().find_map(|text| text.strip_prefix(line)?.split_whitespace().next()?.parse().ok());
    found.unwrap_or(0)
}

fn main() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let before = (memory("Rss:"), memory("Pss:"));
    let open = || {
        let start = Instant::now();
        let clock = Arc::new(ManualClock::at(UnixTime(1_796_000_000)));
        let storage = Arc::new(RealStorage::new());
        let (store, report) =
            Store::open(dir.path().join("state"), StoreOptions::default(), clock, storage).unwrap();
        (store, report, start.elapsed())
    };
    let (store, _, first) = open();
    println!("first open, folder made: {first:?}");
    let after = (memory("Rss:"), memory("Pss:"));
    println!(
        "RSS {} KiB before, {} KiB with an open store; PSS {} and {} KiB",
        before.0, after.0, before.1, after.1
    );

    let note = |version| What::Pinned { model: "demo/digits".parse().unwrap(), version };
    let rate = |name: &str, threads: u64, each: usize, at_least: Duration| {
        let start = Instant::now();
        let count: u64 = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        let mut count = 0;
                        while start.elapsed() < at_least {
                            count +=
                                store.record_all((0..each as u64).map(note).collect()).unwrap().len() as u64;
                        }
                        count
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        println!("journal, {name}: {:.0} entries/s", count as f64 / start.elapsed().as_secs_f64());
    };
    rate("one caller, one entry a sync", 1, 1, Duration::from_secs(4));
    rate("16 callers, group commit", 16, 1, Duration::from_secs(4));
    rate("one caller, 64 entries a sync", 1, 64, Duration::from_secs(2));

    let start = Instant::now();
    for n in 0..200_u32 {
        store.outbox().append(Class::Event, &n.to_le_bytes()).unwrap();
    }
    println!("outbox, one message a sync: {:.0}/s", 200.0 / start.elapsed().as_secs_f64());

    let start = Instant::now();
    let mut put = Duration::ZERO;
    for n in 0..512_u32 {
        let mut bytes = vec![0; 128 << 10];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        let one = Instant::now();
        store.put_chunk(Digest::of(&bytes), &bytes).unwrap();
        put = put.max(one.elapsed());
    }
    store.commit_chunks().unwrap();
    println!("64 MiB in 512 chunks, durable: {:?} (longest put {put:?})", start.elapsed());

    while store.journal().head().seq < 100_000 {
        store.record_all((0..500).map(note).collect()).unwrap();
    }
    let entries = store.journal().head().seq;
    drop(store);
    let (store, report, took) = open();
    println!(
        "open with {entries} entries: {took:?}, {} replayed, index rebuilt: {:?}",
        report.journal.replayed, report.index_rebuilt
    );
    let start = Instant::now();
    let verified = store.journal().verify().unwrap();
    println!("verify {} entries: {:?}", verified.entries, start.elapsed());
    let start = Instant::now();
    let found = store.events_of(&"demo/digits".parse().unwrap(), entries - 100, 100).unwrap().len();
    println!("last {found} events of a model: {:?}", start.elapsed());
    drop(store);
    let (store, ..) = open();
    println!(
        "RSS with {entries} entries, just opened, all of the above freed: {} KiB, PSS {} KiB",
        memory("Rss:"),
        memory("Pss:")
    );
    drop(store);
    std::fs::remove_dir_all(dir.path().join("state/index")).unwrap();
    let (_, report, took) = open();
    println!("open without an index: {took:?} ({:?})", report.index_rebuilt);
}
