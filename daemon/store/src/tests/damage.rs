//! Bits that flip, files that are cut or deleted: in the index, which is made again, and in the journal, which says
//! what is missing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentd_types::ModelName;
use agentd_wire::Event;

use super::history::{HISTORY, Model, clock, note, open, options};
use crate::{
    IndexKind, JournalOptions, RealStorage, Store, StoreOptions,
    storage::simulated::{Fault, SimulatedStorage},
};

/// Numbers that differ by round, the same at each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound.max(1) as u64).unwrap()
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn model_name() -> ModelName {
    "demo/digits".parse().unwrap()
}

fn expected(events: &[Event]) -> Vec<u64> {
    let concerns = |event: &&Event| event.what.model() == Some(&model_name());
    events.iter().filter(concerns).map(|event| event.seq).collect()
}

#[track_caller]
fn check_index(store: &Store, point: &str) {
    let events = store.journal().since(0, usize::MAX).unwrap();
    let found = store.events_of(&model_name(), 0, usize::MAX).unwrap();
    let seqs: Vec<u64> = found.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, expected(&events), "{point}");
}

#[test]
fn an_index_that_is_deleted_cut_or_flipped_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let storage = || Arc::new(RealStorage::new());
    let (store, _) = open(storage(), dir.path(), IndexKind::Sled).unwrap();
    let mut model = Model::default();
    assert!(HISTORY.iter().all(|step| model.step(&store, *step)));
    drop(store);
    let mut numbers = Numbers(42);
    let (mut rebuilt, rounds) = (0, 60);
    for round in 0..rounds {
        let files = files_below(&dir.path().join("index"));
        let path = &files[numbers.below(files.len())];
        let kind = numbers.below(4);
        let len = fs::metadata(path).unwrap().len();
        match kind {
            0 => fs::remove_file(path).unwrap(),
            1 => fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(numbers.below(usize::try_from(len).unwrap() + 1) as u64)
                .unwrap(),
            _ => {
                let mut bytes = fs::read(path).unwrap();
                if !bytes.is_empty() {
                    for _ in 0..=numbers.below(8) {
                        let at = numbers.below(bytes.len());
                        bytes[at] ^= 1 << numbers.below(8);
                    }
                }
                fs::write(path, bytes).unwrap();
            }
        }
        let point = format!("round {round}: kind {kind} at {}", path.display());
        let (store, report) = open(storage(), dir.path(), IndexKind::Sled).unwrap();
        assert!(!report.index_in_memory, "{point}");
        rebuilt += usize::from(report.index_rebuilt.is_some());
        check_index(&store, &point);
        store.record(note(round)).unwrap();
        check_index(&store, &point);
    }
    assert!(rebuilt > 10, "made again only {rebuilt} times");
    let aside = fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("index.bad-"));
    assert!(aside.count() <= 2);
    println!("points checked: {rounds} (index damaged, {rebuilt} times made again)");
}

#[test]
fn an_index_that_lags_is_caught_up_and_one_of_another_journal_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let storage = || Arc::new(RealStorage::new());
    let (store, _) = open(storage(), dir.path(), IndexKind::Sled).unwrap();
    store.record(note(1)).unwrap();
    drop(store);
    let (store, _) = open(storage(), dir.path(), IndexKind::Memory).unwrap();
    store.record(note(2)).unwrap();
    drop(store);
    let (store, report) = open(storage(), dir.path(), IndexKind::Sled).unwrap();
    assert_eq!(report.index_rebuilt, None, "two entries are no reason");
    let other: ModelName = "demo/other".parse().unwrap();
    assert_eq!(store.events_of(&other, 0, 9).unwrap().len(), 2);
    drop(store);
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    let (store, _) = open(storage(), dir.path(), IndexKind::Memory).unwrap();
    store.record_all((0..5).map(|_| agentd_wire::What::Stopped).collect()).unwrap();
    drop(store);
    let (store, report) = open(storage(), dir.path(), IndexKind::Sled).unwrap();
    assert!(report.index_rebuilt.is_some());
    assert_eq!(store.events_of(&other, 0, 9).unwrap(), []);
}

#[test]
fn a_long_index_is_made_again_after_opening_and_forgets_what_the_journal_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let other: ModelName = "demo/other".parse().unwrap();
    let open = |total_bytes| {
        let journal = JournalOptions { segment_bytes: 20_000, total_bytes };
        let options = StoreOptions { journal, ..options(IndexKind::Sled) };
        Store::open(dir.path().to_owned(), options, clock(), Arc::new(RealStorage::new())).unwrap()
    };
    let (store, _) = open(1 << 30);
    for _ in 0..8 {
        store.record_all((0..500).map(note).collect()).unwrap();
    }
    drop(store);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let (store, report) = open(1 << 30);
    assert!(report.index_in_memory && report.index_rebuilt.is_some());
    assert_eq!(store.events_of(&other, 0, 9_999).unwrap().len(), 2_000, "the newest");
    store.mend_index();
    assert_eq!(store.events_of(&other, 0, 9_999).unwrap().len(), 4_000, "all");
    assert_eq!(store.journal().since(4_000, 9).unwrap()[0].what.name(), "index_rebuilt");
    drop(store);
    let (store, report) = open(60_000);
    assert_eq!(report.index_rebuilt, None);
    store.record_all((0..500).map(note).collect()).unwrap();
    let first = store.journal().verify().unwrap().first_seq;
    assert!(first > 1_000, "{first}");
    store.mend_index();
    let kept = store.events_of(&other, 0, 9_999).unwrap();
    let all = store.journal().since(first - 1, 9_999).unwrap();
    let want: Vec<u64> =
        all.iter().filter(|event| event.what.name() != "index_rebuilt").map(|event| event.seq).collect();
    assert_eq!(kept.iter().map(|event| event.seq).collect::<Vec<_>>(), want, "all but the rebuild");
}

#[test]
fn a_journal_that_is_cut_or_flipped_opens_and_says_so() {
    let pristine = SimulatedStorage::new(1, Fault::None);
    let dir = Path::new("/state");
    let (store, _) = open(Arc::new(pristine.clone()), dir, IndexKind::Memory).unwrap();
    let mut model = Model::default();
    assert!(HISTORY.iter().all(|step| model.step(&store, *step)));
    let before = store.journal().since(0, usize::MAX).unwrap();
    let facts = store.facts();
    drop(store);
    let (mut numbers, rounds, mut changed) = (Numbers(7), 300, 0);
    for round in 0..rounds {
        let storage = pristine.kill();
        let logs: Vec<PathBuf> =
            storage.files().into_iter().filter(|path| path.starts_with("/state/journal")).collect();
        let path = &logs[numbers.below(logs.len())];
        let kind = numbers.below(3);
        storage
            .damage(path, |bytes| match kind {
                0 => bytes.truncate(numbers.below(bytes.len())),
                _ => {
                    let at = numbers.below(bytes.len());
                    bytes[at] ^= 1 << numbers.below(8);
                }
            })
            .unwrap();
        let point = format!("round {round}: kind {kind} at {}", path.display());
        let (store, report) = open(Arc::new(storage.clone()), dir, IndexKind::Memory).unwrap();
        let verified = store.journal().verify().unwrap();
        let after = store.journal().since(0, usize::MAX).unwrap();
        let known: Vec<&Event> =
            after.iter().filter(|event| event.what.name() != "journal_damaged").collect();
        assert!(known.iter().all(|event| before.contains(event)), "{point}: an entry was made up");
        let told =
            !report.journal.damage.is_empty() || report.journal.cut_bytes > 0 || !verified.damage.is_empty();
        let whole = known.len() == before.len();
        assert!(whole || told, "{point}: {} of {} entries, and nobody says so", known.len(), before.len());
        if path.to_string_lossy().contains("snapshot") {
            assert!(whole, "{point}: a snapshot is not needed");
            assert_eq!(store.facts(), facts, "{point}");
        }
        changed += usize::from(!whole);
        let head = store.journal().head();
        let event = store.record(note(9)).unwrap();
        assert_eq!(event.seq, head.seq + 1, "{point}");
        drop(store);
        let (store, _) = open(Arc::new(storage), dir, IndexKind::Memory).unwrap();
        assert_eq!(store.journal().since(head.seq, 1).unwrap(), [event], "{point}");
    }
    assert!(changed > 50, "damage hit entries only {changed} times");
    println!("points checked: {rounds} (journal damaged)");
}
