//! A scripted life of a device, and what must be true of it after any crash.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, OnceLock},
};

use agentd_types::{ByteCount, Clock, EngineKind, ManualClock, Setting, UnixTime};
use agentd_wire::What;

use super::bundles::{TestBundle, bundle};
use crate::{
    Class, Facts, Head, IndexKind, JournalOptions, Keep, Loaded, OpenReport, Storage, Store, StoreOptions,
};

pub(super) const VERSIONS: u64 = 5;

/// The bundles of every version, made once.
pub(super) fn bundles() -> &'static [TestBundle] {
    static BUNDLES: OnceLock<Vec<TestBundle>> = OnceLock::new();
    BUNDLES.get_or_init(|| (1..=VERSIONS).map(bundle).collect())
}

pub(super) fn of_version(version: u64) -> &'static TestBundle {
    &bundles()[usize::try_from(version - 1).unwrap()]
}

/// Sizes so small that everything rotates, compacts and is tidied within one history.
pub(super) fn options(index: IndexKind) -> StoreOptions {
    StoreOptions {
        journal: JournalOptions { segment_bytes: 1_500, total_bytes: 1 << 30 },
        ballast: ByteCount(4_096),
        index,
        ..StoreOptions::default()
    }
}

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(UnixTime(1_796_000_000)))
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Start,
    Note(u64),
    Burst(u64),
    Trust(u8),
    Append(u32),
    Remove(u32),
    Fetch(u64),
    Install(u64),
    Serve(u64),
    Collect,
}

/// What the device does, in order.
pub(super) const HISTORY: &[Step] = &[
    Step::Start,
    Step::Trust(1),
    Step::Append(1),
    Step::Fetch(1),
    Step::Install(1),
    Step::Serve(1),
    Step::Append(2),
    Step::Trust(2),
    Step::Note(1),
    Step::Fetch(2),
    Step::Remove(1),
    Step::Install(2),
    Step::Serve(2),
    Step::Burst(3),
    Step::Append(3),
    Step::Append(4),
    Step::Fetch(3),
    Step::Install(3),
    Step::Serve(3),
    Step::Collect,
    Step::Trust(3),
    Step::Remove(3),
    Step::Burst(5),
    Step::Fetch(4),
    Step::Install(4),
    Step::Trust(4),
    Step::Serve(4),
    Step::Collect,
    Step::Append(5),
    Step::Remove(2),
    Step::Note(2),
];

/// What was acknowledged, and what was under way when an operation failed.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) heads: Vec<Head>,
    events_under_way: u64,
    trust: Option<Vec<u8>>,
    trust_under_way: Vec<Vec<u8>>,
    waiting: BTreeSet<u32>,
    removed: BTreeSet<u32>,
    may_wait: BTreeSet<u32>,
    held: BTreeSet<u64>,
    installed: BTreeSet<u64>,
    may_be_installed: BTreeSet<u64>,
}

pub(super) fn message(n: u32) -> Vec<u8> {
    [&n.to_le_bytes()[..], &super::bundles::bytes(u64::from(n), 300)].concat()
}

pub(super) fn trust(n: u8) -> Vec<u8> {
    super::bundles::bytes(500 + u64::from(n), 700)
}

pub(super) fn note(n: u64) -> What {
    What::Pinned { model: "demo/other".parse().unwrap(), version: n }
}

pub(super) fn setting() -> Setting {
    Setting { engine: EngineKind::Cpu, threads: 1, batch: 1 }
}

impl Model {
    /// Does a step; says whether it was acknowledged.
    pub(super) fn step(&mut self, store: &Store, step: Step) -> bool {
        let before = store.journal().head();
        let done = self.act(store, step);
        let after = store.journal().head();
        if after != before {
            // What the journal calls durable counts as acknowledged, even when a later part of the step failed.
            self.heads.push(after);
        }
        self.events_under_way = if done { 0 } else { 8 };
        done
    }

    fn act(&mut self, store: &Store, step: Step) -> bool {
        match step {
            Step::Start => store.record(What::Started { version: "1".into(), boot: "b".into() }).is_ok(),
            Step::Note(n) => store.record(note(n)).is_ok(),
            Step::Burst(n) => store.record_all((0..n).map(note).collect()).is_ok(),
            Step::Serve(version) => {
                let digest = of_version(version).digest;
                let (model, previous) = ("demo/digits".parse().unwrap(), (version > 1).then(|| version - 1));
                let what = What::Serving { model, version, bundle: digest, setting: setting(), previous };
                store.record(what).is_ok()
            }
            Step::Trust(n) => {
                self.trust_under_way.push(trust(n));
                let saved = store.save_trust(&trust(n)).is_ok();
                if saved {
                    self.trust = Some(trust(n));
                    self.trust_under_way.clear();
                }
                saved
            }
            Step::Append(n) => {
                self.may_wait.insert(n);
                let appended = store.outbox().append(Class::Event, &message(n)).is_ok();
                if appended {
                    self.waiting.insert(n);
                }
                appended
            }
            Step::Remove(n) => {
                let Ok(items) = store.outbox().pending(0, 100) else { return false };
                let ids: Vec<u64> =
                    items.iter().filter(|item| item.bytes == message(n)).map(|item| item.id).collect();
                self.waiting.remove(&n);
                let removed = store.outbox().remove(&ids).is_ok();
                // One whose append failed does not wait, and may be found after a crash all the same.
                if removed && !ids.is_empty() {
                    self.removed.insert(n);
                }
                removed
            }
            Step::Fetch(version) => {
                let bundle = of_version(version);
                let put = bundle.chunks.iter().all(|(digest, bytes)| store.put_chunk(*digest, bytes).is_ok());
                let held = put && store.commit_chunks().is_ok();
                if held {
                    self.held.insert(version);
                }
                held
            }
            Step::Install(version) => {
                let bundle = of_version(version);
                self.may_be_installed.insert(version);
                let installed =
                    store.install_proved(bundle.manifest.clone(), bundle.digest, &bundle.envelope).is_ok();
                if installed {
                    self.installed.insert(version);
                }
                installed
            }
            Step::Collect => {
                let in_use = store.with_facts(Facts::in_use);
                let kept = |version: &u64| {
                    let digest = of_version(*version).digest;
                    in_use.contains(&digest) && store.installed_bundle(&digest).is_some()
                };
                self.installed.retain(kept);
                self.held.retain(kept);
                store.collect(&Keep::default(), ByteCount(0)).is_ok()
            }
        }
    }

    /// Opens what a crash left and compares. Panics with `point` in the message on a violation.
    #[track_caller]
    pub(super) fn check(&self, store: &Store, report: &OpenReport, point: &str) {
        assert_eq!(report.journal.damage, [], "{point}: damage where there was only a crash");
        assert_eq!(report.damaged, [], "{point}: a bundle is not whole");
        let journal = store.journal();
        let acknowledged = self.heads.last().map_or(0, |head| head.seq);
        for head in &self.heads {
            assert_eq!(journal.hash_at(head.seq), Some(head.hash), "{point}: entry {} is lost", head.seq);
        }
        let surplus = journal.head().seq - acknowledged;
        assert!(surplus <= self.events_under_way, "{point}: {surplus} entries that nobody asked for");
        let events = journal.since(0, 10_000).unwrap();
        assert_eq!(events.len() as u64, journal.head().seq, "{point}: entries are missing");
        assert_eq!(store.facts(), Facts::fold(&events), "{point}: facts differ from the journal");
        let verified = journal.verify().unwrap();
        assert_eq!((verified.damage, verified.head), (vec![], journal.head()), "{point}");
        self.check_trust(store, point);
        self.check_outbox(store, point);
        self.check_bundles(store, point);
    }

    fn check_trust(&self, store: &Store, point: &str) {
        match store.load_trust() {
            Loaded::Present(bytes) => {
                let known = self.trust.iter().chain(&self.trust_under_way).any(|known| *known == bytes);
                assert!(known, "{point}: an old trust state");
            }
            Loaded::Missing => assert_eq!(self.trust, None, "{point}: the trust state is lost"),
            Loaded::Damaged => panic!("{point}: the trust state is damaged"),
        }
    }

    fn check_outbox(&self, store: &Store, point: &str) {
        let items = store.outbox().pending(0, 1_000).unwrap();
        let found: Vec<u32> =
            items.iter().map(|item| u32::from_le_bytes(item.bytes[..4].try_into().unwrap())).collect();
        for (item, n) in items.iter().zip(&found) {
            assert_eq!(item.bytes, message(*n), "{point}");
            assert!(!self.removed.contains(n), "{point}: message {n} came back");
            assert!(self.may_wait.contains(n), "{point}: message {n} was never sent");
        }
        for n in &self.waiting {
            assert_eq!(found.iter().filter(|found| *found == n).count(), 1, "{point}: message {n} is lost");
        }
    }

    fn check_bundles(&self, store: &Store, point: &str) {
        for version in &self.held {
            let missing = store.missing_chunks(&of_version(*version).manifest).unwrap();
            assert_eq!(missing, [], "{point}: chunks of version {version} are lost");
        }
        for version in &self.installed {
            let there = store.installed_bundle(&of_version(*version).digest).is_some();
            assert!(there, "{point}: version {version} is lost");
        }
        for installed in store.installed() {
            let version = installed.version();
            assert!(
                self.may_be_installed.contains(&version),
                "{point}: version {version} was never installed"
            );
            for (path, content) in &of_version(version).files {
                let read = store.read_file(&installed, path, ByteCount::mib(1));
                assert_eq!(read.unwrap(), *content, "{point}: {path} of version {version}");
            }
        }
    }

    /// Goes on after a crash: whatever happened, the store takes new things and keeps them.
    #[track_caller]
    pub(super) fn go_on(&mut self, store: &Store, point: &str) {
        // What was under way and came through counts from here on; what did not is gone.
        self.heads.push(store.journal().head());
        if let Loaded::Present(bytes) = store.load_trust() {
            self.trust = Some(bytes);
            self.trust_under_way.clear();
        }
        for step in [
            Step::Note(9),
            Step::Trust(9),
            Step::Append(9),
            Step::Fetch(5),
            Step::Install(5),
            Step::Serve(5),
            Step::Burst(20),
        ] {
            assert!(self.step(store, step), "{point}: {step:?} is refused after the crash");
        }
    }
}

/// Opens the store that lies in `storage`.
pub(super) fn open(
    storage: Arc<dyn Storage>,
    dir: &Path,
    index: IndexKind,
) -> Result<(Store, OpenReport), crate::OpenError> {
    Store::open(dir.to_owned(), options(index), clock(), storage)
}
