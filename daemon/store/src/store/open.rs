//! Opens a state folder as a crash left it.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use agentd_types::{Clock, Code, Coded, Digest, ModelName, chain};
use agentd_wire::What;

use super::{Live, Store, StoreOptions, lock};
use crate::{
    Blobs, DiskError, Head, InstalledBundle, Journal, JournalError, JournalReport, Outbox, OutboxReport,
    ballast::Ballast,
    index::{self, Index, IndexKind, TableError},
    installed::Envelopes,
    journal,
    slots::Slots,
    storage::{Storage, is_full},
};

/// Events that are fed to an index while the caller waits: some 50 ms. For more, [`Store::mend_index`].
const AT_ONCE: u64 = 2_000;

/// The state folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process owns it.
    #[error("the state folder `{dir}` is in use by another agentd")]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The disk refused.
    #[error("the state folder cannot be opened")]
    Disk(#[from] DiskError),
    /// The journal cannot be opened.
    #[error("the state folder cannot be opened")]
    Journal(#[from] JournalError),
}

impl Coded for OpenError {
    fn code(&self) -> Code {
        match self {
            Self::Locked { .. } => Code::new("store.locked"),
            Self::Disk(source) => source.code(),
            Self::Journal(source) => source.code(),
        }
    }
}

/// A bundle that the journal says is installed and that is not whole any more. It is not among
/// [`Store::installed`]; fetching what is missing and installing it again mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct DamagedBundle {
    pub model: ModelName,
    pub version: u64,
    pub bundle: Digest,
    pub reason: String,
}

/// The index was not caught up.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("the index refuses")]
    Table(#[from] TableError),
    #[error("the journal cannot be read")]
    Disk(#[from] DiskError),
}

/// What opening found and mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// The journal's part.
    pub journal: JournalReport,
    /// The outbox's part.
    pub outbox: OutboxReport,
    /// Chunks of an unfinished transfer that were kept.
    pub adopted_chunks: usize,
    /// Bundles that are not whole any more.
    pub damaged: Vec<DamagedBundle>,
    /// Why the index was made again, if it was.
    pub index_rebuilt: Option<String>,
    /// Whether the index lives in memory, until [`Store::mend_index`] makes it again.
    pub index_in_memory: bool,
    /// Whether the ballast takes its room.
    pub ballast: bool,
}

impl Store {
    /// Opens the state folder `dir`, which is made when absent.
    ///
    /// # Errors
    /// When another process owns it, or the disk refuses. Damage is no error: it is in the report and the journal.
    pub fn open(
        dir: PathBuf,
        options: StoreOptions,
        clock: Arc<dyn Clock>,
        storage: Arc<dyn Storage>,
    ) -> Result<(Self, OpenReport), OpenError> {
        storage.create_dir(&dir).map_err(DiskError::at("make", &dir))?;
        let path = dir.join("lock");
        let held = match storage.lock(&path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(OpenError::Locked { dir }),
            other => other.map_err(DiskError::at("lock", path))?,
        };
        let ballast = Ballast::new(storage.clone(), dir.join("ballast"), options.ballast);
        let parts = match Parts::open(&storage, &dir, &options, &clock) {
            Err(error) if error.is_full() && ballast.release() => {
                Parts::open(&storage, &dir, &options, &clock)?
            }
            other => other?,
        };
        let Parts { journal, blobs, envelopes, outbox, trust, report, adopted } = parts;
        let live = Live {
            installed: RwLock::default(),
            index: Mutex::new(Index::in_memory()),
            index_broken: AtomicBool::new(false),
        };
        let (records, changing, mending) = (Mutex::default(), Mutex::default(), Mutex::default());
        let store = Self {
            dir,
            storage,
            options,
            journal,
            blobs,
            envelopes,
            outbox,
            trust: Mutex::new(trust),
            records,
            ballast,
            changing,
            mending,
            index_wanted: Mutex::default(),
            live,
            _lock: held,
        };
        let damaged = store.load_installed()?;
        let rebuilt = store.open_index();
        let in_memory = lock(&store.index_wanted).is_some();
        // One that is not made yet is told when it is.
        store.tell(&report.0, rebuilt.as_deref().filter(|_| !in_memory));
        let report = OpenReport {
            journal: report.0,
            outbox: report.1,
            adopted_chunks: adopted,
            damaged,
            index_in_memory: in_memory,
            index_rebuilt: rebuilt,
            ballast: store.restore_ballast(),
        };
        Ok((store, report))
    }

    /// Reads the manifest of every bundle that the journal says is installed and looks whether its chunks are there.
    fn load_installed(&self) -> Result<Vec<DamagedBundle>, DiskError> {
        let facts = self.journal.facts().installed.clone();
        let held = self.blobs.held()?;
        let (mut whole, mut damaged) = (BTreeMap::new(), Vec::new());
        for (bundle, fact) in &facts {
            let manifest =
                self.envelopes.manifest(bundle).map_err(|error| chain(&error)).and_then(|manifest| {
                    let missing =
                        manifest.chunks().filter(|chunk| held.get(&chunk.1) != Some(&chunk.0)).count();
                    if missing == 0 {
                        Ok(manifest)
                    } else {
                        Err(format!("{missing} of its chunks are missing"))
                    }
                });
            match manifest {
                Ok(manifest) => {
                    let installed = InstalledBundle::new(Arc::new(manifest), *bundle, fact.at, fact.seq);
                    whole.insert(*bundle, installed);
                }
                Err(reason) => {
                    let (model, version) = (fact.model.clone(), fact.version);
                    damaged.push(DamagedBundle { model, version, bundle: *bundle, reason });
                }
            }
        }
        // An envelope that the journal does not know belongs to an install or removal that was cut short.
        self.envelopes.sweep(&|bundle| facts.contains_key(bundle))?;
        *self.live.installed.write().unwrap_or_else(std::sync::PoisonError::into_inner) = whole;
        Ok(damaged)
    }

    /// Journals what opening found. A full disk must not keep the daemon from starting, so failures are only logged.
    fn tell(&self, report: &JournalReport, rebuilt: Option<&str>) {
        let lost = report.damage.iter().fold(0_u64, |sum, damage| sum.saturating_add(damage.lost));
        let mut what = Vec::new();
        if let Some(first) = report.damage.first() {
            what.push(What::JournalDamaged { lost, reason: first.reason.clone() });
        }
        if let Some(reason) = rebuilt {
            what.push(What::IndexRebuilt { reason: reason.to_owned() });
        }
        if what.is_empty() {
            return;
        }
        if let Err(error) = self.record_all(what) {
            log::warn!(event = "store.open", error = chain(&error).as_str(); "Findings at opening not journalled");
        }
    }

    /// Opens the index, caught up with the journal; returns why it must be made again, if it must. Few events are
    /// made up for at once; with many, it lives in memory until [`Store::mend_index`].
    fn open_index(&self) -> Option<String> {
        let reason = match self.try_index() {
            Ok(index) => {
                *lock(&self.live.index) = index;
                return None;
            }
            Err(reason) => reason,
        };
        let fresh = self.journal.head().seq == 0;
        self.demote_index(&reason);
        let first = self.journal.first_seq().unwrap_or(1);
        if self.journal.head().seq.saturating_sub(first) < AT_ONCE {
            self.remake_index();
        }
        // An index that never was is not worth an event.
        (!fresh && self.options.index == IndexKind::Sled).then_some(reason)
    }

    fn index_dir(&self) -> PathBuf {
        self.dir.join("index")
    }

    fn try_index(&self) -> Result<Index, String> {
        let opened = Index::open(self.storage.clone(), self.index_dir(), self.options.index);
        let mut index = opened.map_err(|error| chain(&error))?;
        let head = self.journal.head();
        let known = index.head().map_err(|error| chain(&error))?.ok_or("it is new")?;
        if known == head {
            return Ok(index);
        }
        if known.seq > head.seq {
            return Err(format!("it knows entry {}, the journal ends at {}", known.seq, head.seq));
        }
        if head.seq - known.seq > AT_ONCE || self.journal.hash_at(known.seq) != Some(known.hash) {
            return Err(format!(
                "it stands at entry {}, not on the journal's way to {}",
                known.seq, head.seq
            ));
        }
        self.feed(&mut index, known).map_err(|error| chain(&error))?;
        Ok(index)
    }

    /// Brings `index`, which stands at `known`, to where the journal stands.
    fn feed(&self, index: &mut Index, mut known: Head) -> Result<Head, FeedError> {
        self.journal.each_segment::<FeedError>(known.seq, |events, head| {
            index.apply(events, head, &|bundle| self.live.manifest(bundle))?;
            known = head;
            Ok(())
        })?;
        Ok(known)
    }

    /// Puts an index of the newest events in memory in the place of one that is of no use.
    pub(super) fn demote_index(&self, reason: &str) {
        // Held throughout, so that new events wait and are applied behind what is fed. The old index lets go of its
        // files when it is replaced.
        let mut live = lock(&self.live.index);
        let mut index = Index::in_memory();
        let head = self.journal.head();
        let after = Head { seq: head.seq.saturating_sub(AT_ONCE), hash: head.hash };
        if let Err(error) = self.feed(&mut index, after) {
            log::warn!(event = "store.index", error = chain(&error).as_str(); "Index is incomplete");
        }
        *live = index;
        self.live.index_broken.store(false, Ordering::SeqCst);
        if self.options.index == IndexKind::Sled {
            *lock(&self.index_wanted) = Some(reason.to_owned());
        }
    }

    /// Sets the index on disk aside and makes it again; says whether it did. Events go on being recorded meanwhile.
    fn remake_index(&self) -> bool {
        if lock(&self.index_wanted).is_none() {
            return false;
        }
        match self.make_index() {
            Ok(()) => {
                *lock(&self.index_wanted) = None;
                true
            }
            Err(error) => {
                log::warn!(event = "store.index", error = chain(&error).as_str(); "Index lives in memory");
                false
            }
        }
    }

    fn make_index(&self) -> Result<(), FeedError> {
        index::set_aside(&*self.storage, &self.index_dir())?;
        let mut index = Index::open(self.storage.clone(), self.index_dir(), IndexKind::Sled)?;
        let known = self.feed(&mut index, Head { seq: 0, hash: Digest::from_bytes([0; 32]) })?;
        index.sync()?;
        let mut live = lock(&self.live.index);
        // What was recorded since.
        let known = self.feed(&mut index, known)?;
        index.apply(&[], known, &|_| None)?;
        *live = index;
        Ok(())
    }

    /// Makes the index again when it must be, and forgets what the journal has deleted. Takes seconds for a long
    /// journal, nothing when there is nothing to do; call it after opening and every few minutes.
    pub fn mend_index(&self) {
        let _one = lock(&self.mending);
        let reason = lock(&self.index_wanted).clone();
        if let Some(reason) = reason.filter(|_| self.remake_index()) {
            let recorded = self.record(What::IndexRebuilt { reason });
            if let Err(error) = recorded {
                log::warn!(event = "store.index", error = chain(&error).as_str(); "Rebuild not journalled");
            }
        }
        let Ok(first) = self.journal.first_seq() else { return };
        let pruned = lock(&self.live.index).prune(first);
        if let Err(error) = pruned {
            self.demote_index(&chain(&error));
        }
    }
}

/// The parts that must open for a store to open.
struct Parts {
    journal: Journal,
    blobs: Blobs,
    envelopes: Envelopes,
    outbox: Outbox,
    trust: Slots,
    report: (JournalReport, OutboxReport),
    adopted: usize,
}

impl Parts {
    fn open(
        storage: &Arc<dyn Storage>,
        dir: &std::path::Path,
        options: &StoreOptions,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let (trust_dir, records_dir) = (dir.join("trust"), dir.join("records"));
        for folder in [&trust_dir, &records_dir] {
            storage.create_dir(folder).map_err(DiskError::at("make", folder))?;
            // What is read must not be forgotten by a later power cut.
            storage.sync_dir(folder).map_err(DiskError::at("sync", folder))?;
        }
        let (journal, journal_report) =
            Journal::open(storage.clone(), journal::folder(dir), clock.clone(), options.journal)?;
        let (blobs, adopted) = Blobs::open(storage.clone(), &dir.join("blobs"))?;
        let envelopes = Envelopes::open(storage.clone(), dir.join("bundles"))?;
        let (outbox, outbox_report) = Outbox::open(storage.clone(), dir.join("outbox"), options.outbox)?;
        let trust = Slots::new(storage.clone(), trust_dir, "trust".to_owned());
        Ok(Self {
            journal,
            blobs,
            envelopes,
            outbox,
            trust,
            report: (journal_report, outbox_report),
            adopted,
        })
    }
}

impl OpenError {
    fn is_full(&self) -> bool {
        match self {
            Self::Locked { .. } => false,
            Self::Disk(disk) => is_full(&disk.source),
            Self::Journal(journal) => is_full(&journal.disk().source),
        }
    }
}
