//! Properties of the fold and of the journal.

use std::{path::PathBuf, sync::Arc};

use agentd_types::{ByteCount, Code, Digest, EngineKind, ModelName, Setting, UnixTime};
use agentd_wire::{Event, Figures, Outcome, Profile, What};
use proptest::prelude::*;

use super::history::clock;
use crate::{
    Facts, Head, Journal, JournalOptions,
    journal::Observer,
    storage::simulated::{Fault, SimulatedStorage},
};

struct Nobody;

impl Observer for Nobody {
    fn durable(&self, _: &[Event], _: Head) {}
}

fn model() -> impl Strategy<Value = ModelName> {
    prop_oneof!["a", "b/c"].prop_map(|name| name.parse().unwrap())
}

fn digest() -> impl Strategy<Value = Digest> {
    (0..4_u8).prop_map(|n| Digest::of(&[n]))
}

fn setting() -> impl Strategy<Value = Setting> {
    (1..3_u16).prop_map(|threads| Setting { engine: EngineKind::Cpu, threads, batch: 1 })
}

fn profile() -> impl Strategy<Value = Profile> {
    (digest(), setting(), 0.0..1e9_f64).prop_map(|(bundle, setting, per_second)| Profile {
        bundle,
        setting,
        hardware: Digest::of(b"hardware"),
        at: UnixTime(5),
        outcome: Outcome::Measured(Figures {
            p50_us: 1,
            p90_us: 2,
            p99_us: 3,
            max_us: u64::MAX,
            per_second,
            runs: 9,
            peak_memory: ByteCount(1),
            load_us: 1,
            golden_off_ppm: 0,
            fallback_nodes: 0,
        }),
    })
}

fn what() -> impl Strategy<Value = What> {
    let version = 1..4_u64;
    prop_oneof![
        Just(What::Stopped),
        any::<String>().prop_map(|boot| What::Started { version: "1".into(), boot }),
        (model(), version.clone(), digest()).prop_map(|(model, version, bundle)| What::FetchStarted {
            model,
            version,
            bundle,
            missing: ByteCount(7),
        }),
        (model(), version.clone(), digest()).prop_map(|(model, version, bundle)| What::Installed {
            model,
            version,
            bundle
        }),
        (model(), version.clone(), digest()).prop_map(|(model, version, bundle)| What::Removed {
            model,
            version,
            bundle
        }),
        profile().prop_map(|profile| What::Measured { profile: Box::new(profile) }),
        (model(), version.clone(), digest(), setting(), prop::option::of(1..4_u64)).prop_map(
            |(model, version, bundle, setting, previous)| What::Serving {
                model,
                version,
                bundle,
                setting,
                previous
            }
        ),
        (model(), version.clone(), version.clone()).prop_map(|(model, from, to)| What::RolledBack {
            model,
            from,
            to,
            by: "root".into()
        }),
        (model(), version.clone()).prop_map(|(model, version)| What::Pinned { model, version }),
        model().prop_map(|model| What::Unpinned { model }),
        (model(), version.clone(), 1..5_u32).prop_map(|(model, version, strikes)| What::WorkerFailed {
            model,
            version,
            code: Code::new("worker.panic"),
            message: "\u{a9}\0".into(),
            strikes,
        }),
        (model(), version, digest()).prop_map(|(model, version, bundle)| What::Quarantined {
            model,
            version,
            bundle,
            code: Code::new("worker.panic"),
            reason: String::new(),
        }),
        model().prop_map(|model| What::Retired { model }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<What>),
    Kill,
    CutPower,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(what(), 1..6).prop_map(Step::Append),
        1 => Just(Step::Kill),
        1 => Just(Step::CutPower),
    ]
}

fn open(storage: &SimulatedStorage) -> Journal {
    let options = JournalOptions { segment_bytes: 2_000, total_bytes: 1 << 30 };
    let (journal, report) =
        Journal::open(Arc::new(storage.clone()), PathBuf::from("/j"), clock(), options).unwrap();
    assert_eq!((report.damage, report.cut_bytes), (vec![], 0));
    journal
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_and_the_rest_fold_to_the_same_facts(
        what in prop::collection::vec(what(), 0..40),
        cut in 0..40_usize,
    ) {
        let events: Vec<Event> = (1..)
            .zip(what)
            .map(|(seq, what)| Event { seq, at: UnixTime(seq * 10), what })
            .collect();
        let json = serde_json::to_vec(&Facts::fold(events.iter().take(cut))).unwrap();
        let mut facts: Facts = serde_json::from_slice(&json).unwrap();
        // What a snapshot holds already may come again.
        events.iter().skip(cut.saturating_sub(3)).for_each(|event| facts.apply(event));
        prop_assert_eq!(facts, Facts::fold(&events));
    }

    #[test]
    fn the_journal_is_what_was_appended_whatever_happens_in_between(
        steps in prop::collection::vec(step(), 1..25),
        seed in any::<u64>(),
    ) {
        let mut storage = SimulatedStorage::new(seed, Fault::None);
        let mut journal = open(&storage);
        let mut model: Vec<Event> = Vec::new();
        for step in steps {
            match step {
                Step::Append(what) => model.extend(journal.append(what, &Nobody).unwrap()),
                Step::Kill => storage = storage.kill(),
                Step::CutPower => storage = storage.cut_power(),
            }
            journal = open(&storage);
            prop_assert_eq!(journal.since(0, usize::MAX).unwrap(), model.clone());
            prop_assert_eq!(journal.facts().clone(), Facts::fold(&model));
        }
        let middle = model.len() / 2;
        prop_assert_eq!(journal.since(middle as u64, 3).unwrap(), model.iter().skip(middle).take(3).cloned().collect::<Vec<_>>());
        let seqs: Vec<u64> = (1..=model.len() as u64).step_by(3).collect();
        prop_assert_eq!(journal.pick(&seqs).unwrap(), model.iter().step_by(3).cloned().collect::<Vec<_>>());
        let verified = journal.verify().unwrap();
        prop_assert_eq!((verified.damage, verified.entries), (vec![], model.len() as u64));
    }
}

#[test]
fn the_oldest_segments_go_and_the_facts_stay() {
    let storage = SimulatedStorage::new(1, Fault::None);
    let options = JournalOptions { segment_bytes: 1_000, total_bytes: 8_000 };
    let open = || Journal::open(Arc::new(storage.clone()), PathBuf::from("/j"), clock(), options).unwrap();
    let (journal, _) = open();
    let pinned = |version| What::Pinned { model: format!("m{}", version % 50).parse().unwrap(), version };
    for version in 0..300 {
        journal.append(vec![pinned(version)], &Nobody).unwrap();
    }
    let facts = journal.facts().clone();
    drop(journal);
    let (journal, report) = open();
    assert_eq!(report.damage, []);
    assert!(report.replayed < 50, "{report:?}");
    assert_eq!(*journal.facts(), facts);
    assert_eq!(facts.pins.len(), 50);
    let verified = journal.verify().unwrap();
    assert!(verified.first_seq > 200 && verified.damage.is_empty(), "{verified:?}");
    assert_eq!(journal.since(0, 1).unwrap()[0].seq, verified.first_seq);
}

#[test]
fn callers_at_the_same_time_get_an_order_without_gaps() {
    let storage = SimulatedStorage::new(1, Fault::None);
    let journal = open(&storage);
    let mut seqs: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let record = |_| journal.append(vec![What::Stopped, What::Stopped], &Nobody).unwrap();
                    (0..50).flat_map(record).map(|event| event.seq).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=800).collect::<Vec<_>>());
    assert_eq!(journal.since(0, 1_000).unwrap().len(), 800);
}
