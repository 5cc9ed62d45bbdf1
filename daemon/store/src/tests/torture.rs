//! The scripted history, broken at every operation.

use std::{io::ErrorKind, path::Path, sync::Arc};

use agentd_types::Digest;

use super::history::{HISTORY, Model, open};
use crate::{
    Head, IndexKind, Loaded, Store,
    storage::simulated::{Counts, Fault, Operation, SimulatedStorage},
};

const DIR: &str = "/state";

/// Runs the history until it ends, or until the first refusal with `stop`.
fn run(storage: &SimulatedStorage, stop: Stop) -> Model {
    let mut model = Model::default();
    let Ok((store, _)) = open(Arc::new(storage.clone()), Path::new(DIR), IndexKind::Memory) else {
        return model;
    };
    for step in HISTORY {
        if !model.step(&store, *step) && stop == Stop::AtRefusal {
            break;
        }
    }
    model
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    AtRefusal,
    AtEnd,
}

fn reopen(storage: &SimulatedStorage, point: &str) -> (Store, crate::OpenReport) {
    open(Arc::new(storage.clone()), Path::new(DIR), IndexKind::Memory)
        .unwrap_or_else(|error| panic!("{point}: cannot be opened: {}", agentd_types::chain(&error)))
}

/// Compares what is left with what was acknowledged, goes on, crashes again, compares again.
#[track_caller]
fn check(left: &SimulatedStorage, model: &Model, point: &str) {
    let mut model = model.clone();
    {
        let (store, report) = reopen(left, point);
        model.check(&store, &report, point);
        model.go_on(&store, point);
    }
    let again = left.cut_power();
    let point = format!("{point}, then again");
    let (store, report) = reopen(&again, &point);
    model.check(&store, &report, &point);
}

fn counts() -> Counts {
    let storage = SimulatedStorage::new(0, Fault::None);
    let model = run(&storage, Stop::AtRefusal);
    check(&storage.kill(), &model, "without a fault");
    storage.counts()
}

#[test]
fn a_power_cut_at_every_operation_loses_nothing_acknowledged() {
    let total = counts().all;
    let seeds = 6;
    for at in 1..=total {
        for seed in 0..seeds {
            let storage = SimulatedStorage::new(at * 1_000 + seed, Fault::PowerCut { at });
            let model = run(&storage, Stop::AtRefusal);
            check(&storage.cut_power(), &model, &format!("power cut at {at}, seed {seed}"));
        }
    }
    println!("points checked: {} (power cut at each of {total} operations, {seeds} seeds)", total * seeds);
}

#[test]
fn every_failed_write_sync_and_rename_loses_nothing_acknowledged() {
    let counts = counts();
    let mut points = 0;
    for (operation, total) in [
        (Operation::Write, counts.writes),
        (Operation::Sync, counts.syncs),
        (Operation::Rename, counts.renames),
    ] {
        for nth in 1..=total {
            for forever in [false, true] {
                let fault = Fault::Fail { operation, nth, forever, error: ErrorKind::Other };
                let storage = SimulatedStorage::new(nth, fault);
                // It goes on after the failure, as a daemon does.
                let model = run(&storage, Stop::AtEnd);
                let point = format!("{operation:?} {nth} fails, forever {forever}");
                check(&storage.kill(), &model, &format!("{point}, killed"));
                check(&storage.cut_power(), &model, &format!("{point}, power cut"));
                points += 2;
            }
        }
    }
    println!("points checked: {points} (each of {counts:?} fails once and for ever)");
}

#[test]
fn a_full_disk_at_every_write_loses_nothing_acknowledged() {
    let counts = counts();
    let mut points = 0;
    for nth in 1..=counts.writes {
        for forever in [false, true] {
            let operation = Operation::Write;
            let fault = Fault::Fail { operation, nth, forever, error: ErrorKind::StorageFull };
            let storage = SimulatedStorage::new(nth, fault);
            let model = run(&storage, Stop::AtEnd);
            let point = format!("full at write {nth}, forever {forever}");
            check(&storage.kill(), &model, &format!("{point}, killed"));
            check(&storage.cut_power(), &model, &format!("{point}, power cut"));
            points += 2;
        }
    }
    println!("points checked: {points} (full at each of {} writes)", counts.writes);
}

/// What somebody who opened the store has seen, and may have acted on.
#[derive(Debug, PartialEq)]
struct Seen {
    head: Head,
    trust: Loaded,
    waiting: Vec<u64>,
    installed: Vec<Digest>,
}

impl Seen {
    fn of(store: &Store) -> Self {
        Self {
            head: store.journal().head(),
            trust: store.load_trust(),
            waiting: store.outbox().pending(0, 1_000).unwrap().into_iter().map(|item| item.id).collect(),
            installed: store.installed().iter().map(|bundle| bundle.digest()).collect(),
        }
    }
}

#[test]
fn what_was_seen_after_a_kill_survives_a_power_cut() {
    let total = counts().all;
    let seeds = 6;
    for at in 1..=total {
        for seed in 0..seeds {
            // Killed, and not without power: what was written is there, though nobody has synced it.
            let storage = SimulatedStorage::new(at * 1_000 + seed, Fault::PowerCut { at });
            run(&storage, Stop::AtRefusal);
            let point = format!("killed at {at}, seed {seed}");
            let killed = storage.kill();
            let seen = Seen::of(&reopen(&killed, &point).0);
            let point = format!("{point}, opened, power cut");
            let (store, report) = reopen(&killed.cut_power(), &point);
            assert_eq!((report.journal.damage, report.damaged), (vec![], vec![]), "{point}");
            assert_eq!(Seen::of(&store), seen, "{point}");
        }
    }
    println!(
        "points checked: {} (kill at each of {total} operations, then a power cut, {seeds} seeds)",
        total * seeds
    );
}
