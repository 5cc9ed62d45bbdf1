//! Everything durable of one device, behind one door.
//!
//! In: events, chunks, verified bundles, trust state, messages. Out: what is durable of them, after any crash, and
//! the facts that follow. One process at a time owns a state folder. All calls block on the disk; call them where
//! blocking is allowed.
//!
//! Layout of the folder: `lock`, `ballast`, `journal/`, `blobs/`, `bundles/`, `trust/`, `records/`, `outbox/`,
//! `index/`.

mod collect;
mod disk;
mod install;
mod open;
mod query;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use agentd_types::{ByteCount, Digest};
use agentd_wire::{Event, Manifest, What};

pub use collect::{CollectError, Collected, Keep};
pub use disk::{DiskState, Fit};
pub use open::{DamagedBundle, OpenError, OpenReport};

use crate::{
    Blobs, Facts, Head, InstalledBundle, Journal, JournalOptions, Loaded, Outbox, RecordError, SaveError,
    ballast::Ballast,
    index::{Index, IndexKind},
    installed::Envelopes,
    journal::Observer,
    slots::Slots,
    storage::{Lock, Storage},
};

/// Sizes and limits of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Sizes of the journal.
    pub journal: JournalOptions,
    /// Bytes that chunks may take in all; [`Store::fits`] refuses beyond, [`Store::collect`] makes room.
    pub quota: ByteCount,
    /// Bytes that downloads leave free on the disk.
    pub reserve: ByteCount,
    /// Free bytes below which the disk counts as full for downloads.
    pub low_water: ByteCount,
    /// Bytes kept to be given away when the disk is full; 0 for none.
    pub ballast: ByteCount,
    /// Bytes of messages that may wait for the broker.
    pub outbox: ByteCount,
    /// Where the index lives.
    pub index: IndexKind,
}

impl Default for StoreOptions {
    /// 16 GiB of chunks, 256 MiB left free, low below 128 MiB, 8 MiB of ballast, 64 MiB of messages.
    fn default() -> Self {
        Self {
            journal: JournalOptions::default(),
            quota: ByteCount::mib(16 << 10),
            reserve: ByteCount::mib(256),
            low_water: ByteCount::mib(128),
            ballast: ByteCount::mib(8),
            outbox: ByteCount::mib(64),
            index: IndexKind::Sled,
        }
    }
}

/// The durable state of one device.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    storage: Arc<dyn Storage>,
    options: StoreOptions,
    journal: Journal,
    blobs: Blobs,
    envelopes: Envelopes,
    outbox: Outbox,
    trust: Mutex<Slots>,
    records: Mutex<()>,
    ballast: Ballast,
    // Held while chunks are counted and deleted, or a bundle goes in.
    changing: Mutex<()>,
    // Held while a failed index is made again.
    mending: Mutex<()>,
    // Why the index on disk must be made again; one in memory stands in for it meanwhile.
    index_wanted: Mutex<Option<String>>,
    live: Live,
    // Dropped last.
    _lock: Box<dyn Lock>,
}

/// What follows every wave of the journal.
#[derive(Debug)]
struct Live {
    installed: RwLock<BTreeMap<Digest, InstalledBundle>>,
    index: Mutex<Index>,
    index_broken: AtomicBool,
}

impl Live {
    fn manifest(&self, bundle: &Digest) -> Option<Arc<Manifest>> {
        let installed = self.installed.read().unwrap_or_else(PoisonError::into_inner);
        installed.get(bundle).map(InstalledBundle::shared_manifest)
    }
}

impl Observer for Live {
    fn durable(&self, events: &[Event], head: Head) {
        if self.index_broken.load(Ordering::SeqCst) {
            return;
        }
        let applied = lock(&self.index).apply(events, head, &|bundle| self.manifest(bundle));
        if let Err(error) = applied {
            log::warn!(event = "store.index", error = agentd_types::chain(&error).as_str(); "Index failed");
            self.index_broken.store(true, Ordering::SeqCst);
        }
    }
}

impl Store {
    /// The journal, to read and verify it.
    pub const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The messages that wait for the broker.
    pub const fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The chunks.
    pub const fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Records what happened. Returns when it survives a power cut; a full disk is met with the ballast first.
    ///
    /// # Errors
    /// When it was not written.
    pub fn record(&self, what: What) -> Result<Event, RecordError> {
        let name = what.name();
        let mut events = self.record_all(vec![what])?;
        events.pop().ok_or(RecordError::Form { name })
    }

    /// Records several events with one sync; all or none.
    ///
    /// # Errors
    /// When they were not written.
    pub fn record_all(&self, what: Vec<What>) -> Result<Vec<Event>, RecordError> {
        let again = what.clone();
        let recorded = match self.journal.append(what, &self.live) {
            Err(RecordError::Disk(disk)) if disk.is_full() && self.ballast.release() => {
                self.journal.append(again, &self.live)
            }
            other => other,
        };
        self.replace_broken_index();
        recorded
    }

    /// What follows from the journal. Copies a few KiB.
    pub fn facts(&self) -> Facts {
        self.journal.facts().clone()
    }

    /// Looks at what follows from the journal without copying it; recording waits meanwhile.
    pub fn with_facts<T>(&self, look: impl FnOnce(&Facts) -> T) -> T {
        look(&self.journal.facts())
    }

    /// The trust state as it was last saved.
    pub fn load_trust(&self) -> Loaded {
        lock(&self.trust).load()
    }

    /// Returns when the trust state survives a power cut.
    ///
    /// # Errors
    /// When it was not saved; the one before is still there.
    pub fn save_trust(&self, bytes: &[u8]) -> Result<(), SaveError> {
        let trust = lock(&self.trust);
        self.saving(|| trust.save(bytes))
    }

    /// A small record as it was last saved.
    ///
    /// # Errors
    /// When `name` is not 1 to 64 of `a-z`, `0-9` and `-`.
    pub fn load_record(&self, name: &str) -> Result<Loaded, SaveError> {
        let _one = lock(&self.records);
        Ok(self.slots(name)?.load())
    }

    /// Returns when a small record survives a power cut.
    ///
    /// # Errors
    /// When it was not saved; the one before is still there.
    pub fn save_record(&self, name: &str, bytes: &[u8]) -> Result<(), SaveError> {
        let _one = lock(&self.records);
        let slots = self.slots(name)?;
        self.saving(|| slots.save(bytes))
    }

    fn slots(&self, name: &str) -> Result<Slots, SaveError> {
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !fits {
            return Err(SaveError::Name { name: name.chars().take(80).collect() });
        }
        Ok(Slots::new(self.storage.clone(), self.dir.join("records"), name.to_owned()))
    }

    fn saving(&self, save: impl Fn() -> Result<(), SaveError>) -> Result<(), SaveError> {
        match save() {
            Err(SaveError::Io { source, .. })
                if crate::storage::is_full(&source) && self.ballast.release() =>
            {
                save()
            }
            other => other,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
