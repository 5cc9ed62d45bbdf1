//! Quotas, full disks, second daemons, damaged chunks: what the store refuses and what it mends.

use std::{collections::BTreeSet, io::ErrorKind, path::Path, sync::Arc};

use agentd_types::{ByteCount, Coded, Digest, Setting, UnixTime};
use agentd_wire::{Figures, Outcome, Profile, What};

use super::history::{Model, Step, clock, of_version, open, options, setting};
use crate::{
    Fit, IndexKind, Keep, OpenError, RealStorage, Store, StoreOptions,
    storage::simulated::{Fault, Operation, SimulatedStorage},
};

fn store_on(storage: &SimulatedStorage, options: StoreOptions) -> Store {
    Store::open("/state".into(), options, clock(), Arc::new(storage.clone())).unwrap().0
}

fn simulated() -> (SimulatedStorage, Store) {
    let storage = SimulatedStorage::new(1, Fault::None);
    let store = store_on(&storage, options(IndexKind::Memory));
    (storage, store)
}

fn with_versions(versions: &[u64]) -> (SimulatedStorage, Store) {
    let (storage, store) = simulated();
    let mut model = Model::default();
    for version in versions {
        for step in [Step::Fetch(*version), Step::Install(*version)] {
            assert!(model.step(&store, step));
        }
    }
    (storage, store)
}

fn versions(store: &Store) -> BTreeSet<u64> {
    store.installed().iter().map(|bundle| bundle.version()).collect()
}

#[test]
fn a_second_daemon_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let storage = || Arc::new(RealStorage::new());
    let (first, _) = open(storage(), dir.path(), IndexKind::Sled).unwrap();
    let error = open(storage(), dir.path(), IndexKind::Sled).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert_eq!(error.code().as_str(), "store.locked");
    drop(first);
    open(storage(), dir.path(), IndexKind::Sled).unwrap();
}

#[test]
fn chunks_shared_by_versions_are_stored_once() {
    let (_, store) = with_versions(&[1]);
    let missing = store.missing_chunks(&of_version(2).manifest).unwrap();
    assert_eq!(missing.len(), 3, "the card and two parts of the model");
    let shared = of_version(1).manifest.file("model.onnx").unwrap().chunks[0];
    assert_eq!(store.uses_of_chunk(&shared.1), 1);
    let (_, store) = with_versions(&[1, 2]);
    assert_eq!(store.uses_of_chunk(&shared.1), 2);
}

#[test]
fn clean_up_takes_the_oldest_and_never_what_is_needed() {
    let (_, store) = with_versions(&[1, 2, 3, 4]);
    let model = of_version(1).manifest.name.clone();
    let serving = |version, previous| {
        let bundle = of_version(version).digest;
        What::Serving { model: model.clone(), version, bundle, setting: setting(), previous }
    };
    store.record(serving(3, Some(2))).unwrap();
    let used = store.blobs().used().unwrap();
    assert_eq!(store.collect(&Keep::default(), used).unwrap().bundles, [], "it fits");
    let one_less = ByteCount(used.0 - 1);
    let collected = store.collect(&Keep::default(), one_less).unwrap();
    assert_eq!(collected.bundles.iter().map(|bundle| bundle.1).collect::<Vec<_>>(), [1]);
    let keep = Keep { bundles: BTreeSet::from([of_version(4).digest]), ..Keep::default() };
    store.collect(&keep, ByteCount(0)).unwrap();
    assert_eq!(versions(&store), BTreeSet::from([2, 3, 4]), "kept for roll-back, served, asked for");
    store.record(What::Pinned { model: model.clone(), version: 4 }).unwrap();
    store.collect(&Keep::default(), ByteCount(0)).unwrap();
    assert_eq!(versions(&store), BTreeSet::from([2, 3, 4]), "pinned");
    store.record(What::Unpinned { model }).unwrap();
    store.collect(&Keep::default(), ByteCount(0)).unwrap();
    assert_eq!(versions(&store), BTreeSet::from([2, 3]));
    for bundle in store.installed() {
        assert!(store.read_file(&bundle, "model.onnx", ByteCount::mib(1)).is_ok());
    }
}

#[test]
fn a_transfer_that_is_under_way_is_not_cleaned_up() {
    let (_, store) = simulated();
    assert!(Model::default().step(&store, Step::Fetch(1)));
    let keep = Keep { fetching: vec![&of_version(1).manifest], ..Keep::default() };
    assert_eq!(store.collect(&keep, ByteCount(0)).unwrap().chunks, 0);
    assert!(store.collect(&Keep::default(), ByteCount(0)).unwrap().chunks > 0);
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_fetched() {
    let (storage, store) = simulated();
    let manifest = &of_version(1).manifest;
    assert!(matches!(store.fits(manifest).unwrap(), Fit::Fits { .. }));
    storage.set_free(ByteCount::mib(256).0);
    assert!(matches!(store.fits(manifest).unwrap(), Fit::DiskFull { .. }));
    drop(store);
    storage.set_free(1 << 40);
    let tight = StoreOptions { quota: ByteCount(1_000), ..options(IndexKind::Memory) };
    assert!(matches!(store_on(&storage, tight).fits(manifest).unwrap(), Fit::OverQuota { .. }));
}

#[test]
fn a_full_disk_is_journalled_and_the_ballast_comes_back() {
    let (storage, store) = simulated();
    assert!(store.check_disk().unwrap().ballast);
    storage.set_fault(Fault::Fail {
        operation: Operation::Write,
        nth: 1,
        forever: false,
        error: ErrorKind::StorageFull,
    });
    storage.set_free(0);
    store.record(What::Stopped).unwrap();
    let state = store.check_disk().unwrap();
    assert!(state.low && !state.ballast);
    assert!(store.with_facts(|facts| facts.disk_low));
    storage.set_free(1 << 30);
    let state = store.check_disk().unwrap();
    assert!(!state.low && state.ballast);
    assert!(!store.with_facts(|facts| facts.disk_low));
}

#[test]
fn what_would_not_read_back_is_not_written() {
    let (_, store) = simulated();
    let figures = Figures {
        p50_us: 1,
        p90_us: 1,
        p99_us: 1,
        max_us: 1,
        per_second: f64::NAN,
        runs: 1,
        peak_memory: ByteCount(1),
        load_us: 1,
        golden_off_ppm: 0,
        fallback_nodes: 0,
    };
    let profile = Profile {
        bundle: Digest::of(b"x"),
        setting: Setting { engine: agentd_types::EngineKind::Cpu, threads: 1, batch: 1 },
        hardware: Digest::of(b"y"),
        at: UnixTime(1),
        outcome: Outcome::Measured(figures),
    };
    let bad = What::Measured { profile: Box::new(profile) };
    let long = What::IndexRebuilt { reason: "x".repeat(crate::MAX_EVENT) };
    for (what, code) in [(bad, "store.event_form"), (long, "store.too_long")] {
        let error = store.record_all(vec![What::Stopped, what]).unwrap_err();
        assert_eq!(error.code().as_str(), code);
        assert_eq!(store.journal().head().seq, 0, "all or none");
    }
    assert_eq!(store.record(What::Stopped).unwrap().seq, 1);
}

#[test]
fn a_damaged_chunk_is_noticed_deleted_and_wanted_again() {
    let (storage, store) = with_versions(&[1]);
    let bundle = store.installed().remove(0);
    let chunk = bundle.manifest().file("model.onnx").unwrap().chunks[1];
    let path = Path::new("/state/blobs/sha256").join(chunk.1.to_string());
    storage.damage(&path, |bytes| bytes[0] ^= 1).unwrap();
    let error = store.read_file(&bundle, "model.onnx", ByteCount::mib(1)).unwrap_err();
    assert_eq!(error.code().as_str(), "store.damaged");
    assert_eq!(store.missing_chunks(bundle.manifest()).unwrap(), [chunk]);
    drop(store);
    let (store, report) = open(Arc::new(storage), Path::new("/state"), IndexKind::Memory).unwrap();
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(versions(&store), BTreeSet::new());
    let mut model = Model::default();
    assert!(model.step(&store, Step::Fetch(1)) && model.step(&store, Step::Install(1)));
    assert_eq!(versions(&store), BTreeSet::from([1]));
}

#[test]
fn a_bundle_with_a_missing_chunk_or_a_wrong_chunk_does_not_go_in() {
    let (_, store) = simulated();
    let bundle = of_version(1);
    let error = store.install_proved(bundle.manifest.clone(), bundle.digest, &bundle.envelope).unwrap_err();
    assert_eq!(error.code().as_str(), "store.missing");
    let (digest, bytes) = bundle.chunks.iter().next().unwrap();
    let error = store.put_chunk(*digest, &[&bytes[..], b"x"].concat()).unwrap_err();
    assert_eq!(error.code().as_str(), "verify.chunk_digest");
    let error = store.put_chunk(*digest, &vec![0; (4 << 20) + 1]).unwrap_err();
    assert_eq!(error.code().as_str(), "verify.chunk_length");
    assert!(store.installed().is_empty());
}

#[test]
fn records_have_names_and_survive() {
    let (storage, store) = simulated();
    store.save_record("connection", b"7").unwrap();
    assert_eq!(store.save_record("../x", b"7").unwrap_err().code().as_str(), "store.name");
    drop(store);
    let store = store_on(&storage.cut_power(), options(IndexKind::Memory));
    assert_eq!(store.load_record("connection").unwrap(), crate::Loaded::Present(b"7".to_vec()));
    assert_eq!(store.load_record("other").unwrap(), crate::Loaded::Missing);
}
