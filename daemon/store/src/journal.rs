//! The append-only, hash-chained record of everything decided.
//!
//! In: what happened. Out: events with their positions, durable when [`Journal::append`] returns, and the
//! [`Facts`] that follow from them. Callers that come at the same time share one `fdatasync`. A frame holds an
//! event's JSON, the hash `sha256(previous hash || JSON)` and the last position that was durable when it was
//! written: so after a power cut a torn tail, which is cut, is told from damage to synced history, which is
//! reported, sealed and never cut. After a failed write or sync nothing is retried and trusted: the file is cut to
//! what was durable, read again and held against the chain first.
//!
//! Refuses what cannot be read back as it was written.

mod open;
mod segment;
mod snapshot;
mod walk;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use agentd_types::{Clock, Code, Coded, Digest, chain};
use agentd_wire::{Event, What};

pub use open::{JournalError, JournalReport};
pub use walk::{Damage, Verified};

use crate::{
    DiskError,
    facts::Facts,
    storage::{Appender, Storage},
};
use segment::{Segment, encode_event};

/// Most bytes of one event's JSON: 1 MiB.
pub const MAX_EVENT: usize = 1 << 20;

/// Most bytes of what one call records: 16 MiB.
const MAX_APPEND: usize = 16 << 20;

/// Bytes of a write beyond which what still waits is left for the next one.
const WAVE_BYTES: usize = 4 << 20;

/// Sizes of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// Bytes after which a new segment is begun and a snapshot taken.
    pub segment_bytes: u64,
    /// Bytes that all segments may take; the oldest are deleted beyond, once a snapshot covers them.
    pub total_bytes: u64,
}

impl Default for JournalOptions {
    /// Segments of 256 KiB (some 1,000 events, all that a start replays), 64 MiB in all.
    fn default() -> Self {
        Self { segment_bytes: 256 << 10, total_bytes: 64 << 20 }
    }
}

/// The last entry: its position and the hash of everything up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Position of the last entry, 0 for none.
    pub seq: u64,
    /// The chain's hash there.
    pub hash: Digest,
}

/// An event was not recorded; nothing of it counts.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordError {
    /// It is longer than [`MAX_EVENT`].
    #[error("the event has {len} bytes, more than the {MAX_EVENT} that it may have")]
    TooLong {
        /// Its length in JSON.
        len: usize,
    },
    /// It would not read back as it was written (a figure that is not a number, for example).
    #[error("the event `{name}` does not read back as it was written")]
    Form {
        /// The event's name.
        name: &'static str,
    },
    /// The disk refused.
    #[error("the event was not written")]
    Disk(#[from] DiskError),
    /// What was durable before does not read back after a failed write.
    #[error("the journal does not read back after a failed write: {reason}")]
    Untrusted {
        /// What was found.
        reason: String,
    },
}

impl Coded for RecordError {
    fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } => Code::new("store.too_long"),
            Self::Form { .. } => Code::new("store.event_form"),
            Self::Disk(disk) => disk.code(),
            Self::Untrusted { .. } => Code::new("store.journal_untrusted"),
        }
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// Told of every wave of events once it is durable, in order.
pub(crate) trait Observer: Send + Sync {
    fn durable(&self, events: &[Event], head: Head);
}

/// The journal of one state folder.
pub struct Journal {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    options: JournalOptions,
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    // What is durable; set by the writer only.
    durable: RwLock<Durable>,
    facts: RwLock<Facts>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("dir", &self.dir)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

/// Up to where readers may read.
#[derive(Clone, Copy, Debug)]
struct Durable {
    head: Head,
    // Invariant: the last segment's first position and the bytes of it that are synced.
    segment: u64,
    len: u64,
}

#[derive(Default)]
struct Queue {
    next_ticket: u64,
    waiting: VecDeque<(u64, Vec<What>)>,
    // Results of waves that another caller wrote, until their callers fetch them.
    done: BTreeMap<u64, Result<Vec<Event>, RecordError>>,
}

enum Writer {
    Open(Box<dyn Appender>),
    // Invariant: after any failed write or sync; only `reopen` leads out.
    Distrusted,
}

impl Journal {
    /// Where the chain stands.
    pub fn head(&self) -> Head {
        self.durable().head
    }

    /// What follows from the journal.
    pub fn facts(&self) -> RwLockReadGuard<'_, Facts> {
        self.facts.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records `what`, in order and without anything in between. Returns when it survives a power cut.
    ///
    /// # Errors
    /// When it was not written; then none of it was.
    pub(crate) fn append(&self, what: Vec<What>, observer: &dyn Observer) -> Result<Vec<Event>, RecordError> {
        let ticket = self.enqueue(what);
        let mut writer = lock(&self.writer);
        if let Some(result) = lock(&self.queue).done.remove(&ticket) {
            return result;
        }
        // Nobody has written ours: we write what waits, for everybody, until ours is among it.
        loop {
            self.write_wave(&mut writer, observer);
            if let Some(result) = lock(&self.queue).done.remove(&ticket) {
                return result;
            }
        }
    }

    fn enqueue(&self, what: Vec<What>) -> u64 {
        let mut queue = lock(&self.queue);
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.waiting.push_back((ticket, what));
        ticket
    }

    fn write_wave(&self, writer: &mut Writer, observer: &dyn Observer) {
        let mut encoded = Wave::new(self.head());
        let mut results = Vec::new();
        while encoded.bytes.len() < WAVE_BYTES {
            let Some((ticket, what)) = lock(&self.queue).waiting.pop_front() else { break };
            results.push((ticket, encoded.add(what, self.clock.now())));
        }
        let written = self.write(writer, &encoded, observer);
        let mut queue = lock(&self.queue);
        for (ticket, result) in results {
            let result = match (&written, result) {
                (_, Err(error)) => Err(error),
                (Err(error), Ok(_)) => Err(error.clone()),
                (Ok(()), Ok(events)) => Ok(events),
            };
            queue.done.insert(ticket, result);
        }
    }

    fn write(&self, writer: &mut Writer, wave: &Wave, observer: &dyn Observer) -> Result<(), RecordError> {
        if wave.events.is_empty() {
            return Ok(());
        }
        if matches!(writer, Writer::Distrusted) {
            *writer = Writer::Open(self.reopen()?);
        }
        let mut durable = self.durable();
        let path = Segment::path(&self.dir, durable.segment);
        let Writer::Open(file) = writer else {
            return Err(RecordError::Untrusted { reason: "it is not open".into() });
        };
        let written = file
            .append(&wave.bytes)
            .map_err(DiskError::at("write", &path))
            .and_then(|()| file.sync().map_err(DiskError::at("sync", &path)));
        if let Err(error) = written {
            *writer = Writer::Distrusted;
            return Err(error.into());
        }
        durable.head = wave.head;
        durable.len += wave.bytes.len() as u64;
        *self.durable.write().unwrap_or_else(PoisonError::into_inner) = durable;
        {
            let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
            wave.events.iter().for_each(|event| facts.apply(event));
        }
        observer.durable(&wave.events, wave.head);
        if durable.len >= self.options.segment_bytes {
            self.rotate(writer);
        }
        Ok(())
    }

    /// Opens the last segment again after a failure: cut to what was durable, read and held against the chain.
    fn reopen(&self) -> Result<Box<dyn Appender>, RecordError> {
        let durable = self.durable();
        let path = Segment::path(&self.dir, durable.segment);
        self.storage.truncate(&path, durable.len).map_err(DiskError::at("cut", &path))?;
        let found = Segment::read(&*self.storage, &self.dir, durable.segment)
            .map_err(DiskError::at("read", &path))?
            .last_head();
        let whole = found.is_some_and(|head| head == durable.head);
        if !whole {
            return Err(RecordError::Untrusted { reason: format!("its end is {found:?}") });
        }
        Ok(self.storage.open_append(&path).map_err(DiskError::at("open", &path))?)
    }

    /// Begins a new segment, takes a snapshot, deletes what is beyond the budget. Nothing of this is needed for
    /// what was recorded, so a failure is logged and tried again after the next wave.
    fn rotate(&self, writer: &mut Writer) {
        let head = self.head();
        let begun = self.remove_given_up().and_then(|()| Segment::begin(&*self.storage, &self.dir, head));
        match begun {
            Ok((file, len)) => {
                *writer = Writer::Open(file);
                let durable = Durable { head, segment: head.seq + 1, len };
                *self.durable.write().unwrap_or_else(PoisonError::into_inner) = durable;
                self.tidy();
            }
            Err(error) => warn("Journal segment not begun", &error),
        }
    }

    /// Deletes segments that were begun and given up. Entries go on in the one before; should the power go now,
    /// opening knows such a segment by its having none.
    fn remove_given_up(&self) -> io::Result<()> {
        let current = self.durable().segment;
        for (first, _) in Segment::list(&*self.storage, &self.dir)? {
            if first > current {
                self.storage.remove(&Segment::path(&self.dir, first))?;
            }
        }
        Ok(())
    }

    /// Takes a snapshot and deletes what is beyond the budget.
    fn tidy(&self) {
        let head = self.head();
        let facts = self.facts().clone();
        let tidied = snapshot::write(&*self.storage, &self.dir, head, &facts)
            .and_then(|()| snapshot::prune(&*self.storage, &self.dir))
            .and_then(|covered| self.delete_old(covered));
        if let Err(error) = tidied {
            warn("Journal snapshot not taken", &error);
        }
    }

    /// Deletes the oldest segments beyond the budget that end at or before `covered`.
    fn delete_old(&self, covered: u64) -> io::Result<()> {
        let segments = Segment::list(&*self.storage, &self.dir)?;
        let mut total: u64 = segments.iter().map(|(_, len)| len).sum();
        let mut removed = false;
        for pair in segments.windows(2) {
            let [(first, len), (next, _)] = pair else { continue };
            if total <= self.options.total_bytes || *next > covered.saturating_add(1) {
                break;
            }
            self.storage.remove(&Segment::path(&self.dir, *first))?;
            total = total.saturating_sub(*len);
            removed = true;
        }
        if removed { self.storage.sync_dir(&self.dir) } else { Ok(()) }
    }

    /// Up to `limit` events after position `seq`, in order. Events that were deleted with the oldest segments, or
    /// that damage took, are not among them.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn since(&self, seq: u64, limit: usize) -> Result<Vec<Event>, DiskError> {
        let durable = self.durable();
        let segments = Segment::list(&*self.storage, &self.dir).map_err(DiskError::at("list", &self.dir))?;
        let mut found = Vec::new();
        let from = segments.partition_point(|(first, _)| *first <= seq.saturating_add(1)).saturating_sub(1);
        for (first, _) in segments.get(from..).unwrap_or_default() {
            if found.len() >= limit || *first > durable.segment {
                break;
            }
            let path = Segment::path(&self.dir, *first);
            let segment = match Segment::read(&*self.storage, &self.dir, *first) {
                // Deleted by the budget since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(DiskError::at("read", &path))?,
            };
            let room = limit.saturating_sub(found.len());
            let entries = segment.entries().filter(|entry| entry.seq > seq && entry.seq <= durable.head.seq);
            found.extend(entries.filter_map(|entry| entry.event()).take(room));
        }
        Ok(found)
    }

    /// Passes every event after position `seq` to `take`, a segment at a time, each with where the chain stands behind
    /// it.
    pub(crate) fn each_segment<E: From<DiskError>>(
        &self,
        seq: u64,
        mut take: impl FnMut(&[Event], Head) -> Result<(), E>,
    ) -> Result<(), E> {
        let durable = self.durable();
        let segments = Segment::list(&*self.storage, &self.dir).map_err(DiskError::at("list", &self.dir))?;
        let from = segments.partition_point(|(first, _)| *first <= seq.saturating_add(1)).saturating_sub(1);
        for (first, _) in segments.get(from..).unwrap_or_default() {
            let segment = match Segment::read(&*self.storage, &self.dir, *first) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(DiskError::at("read", Segment::path(&self.dir, *first)))?,
            };
            let mut last = None;
            let mut events = Vec::new();
            for entry in segment.entries().filter(|entry| entry.seq > seq && entry.seq <= durable.head.seq) {
                last = Some(entry.head());
                events.extend(entry.event());
            }
            if let Some(last) = last {
                take(&events, last)?;
            }
        }
        Ok(())
    }

    /// Position of the oldest entry whose segment is still there.
    pub(crate) fn first_seq(&self) -> Result<u64, DiskError> {
        let segments = Segment::list(&*self.storage, &self.dir).map_err(DiskError::at("list", &self.dir))?;
        Ok(segments.first().map_or(1, |(first, _)| *first))
    }

    /// The events at the positions `seqs`, which rise; those that are not there any more are left out.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn pick(&self, seqs: &[u64]) -> Result<Vec<Event>, DiskError> {
        let segments = Segment::list(&*self.storage, &self.dir).map_err(DiskError::at("list", &self.dir))?;
        let mut found = Vec::new();
        let mut wanted = seqs;
        while let Some(seq) = wanted.first() {
            let at = segments.partition_point(|(first, _)| first <= seq);
            let next = segments.get(at).map_or(u64::MAX, |(first, _)| *first);
            let (here, rest) = wanted.split_at(wanted.partition_point(|seq| *seq < next));
            wanted = rest;
            let Some((first, _)) = at.checked_sub(1).and_then(|at| segments.get(at)) else { continue };
            let segment = match Segment::read(&*self.storage, &self.dir, *first) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(DiskError::at("read", Segment::path(&self.dir, *first)))?,
            };
            let durable = self.head().seq;
            let entries = segment.entries().filter(|entry| entry.seq <= durable);
            let asked = entries.filter(|entry| here.binary_search(&entry.seq).is_ok());
            found.extend(asked.filter_map(|entry| entry.event()));
        }
        Ok(found)
    }

    /// The chain's hash at position `seq`; `None` when it is not there any more or cannot be read.
    pub fn hash_at(&self, seq: u64) -> Option<Digest> {
        let head = self.head();
        if seq == head.seq {
            return Some(head.hash);
        }
        let segments = Segment::list(&*self.storage, &self.dir).ok()?;
        let at = segments.partition_point(|(first, _)| *first <= seq.saturating_add(1)).checked_sub(1)?;
        // The entry is in this segment, or it is the one before its first, or the last of the one before.
        let candidates = [Some(at), at.checked_sub(1)];
        candidates.into_iter().flatten().find_map(|at| {
            let (first, _) = segments.get(at)?;
            Segment::read(&*self.storage, &self.dir, *first).ok()?.hash_at(seq)
        })
    }

    /// Walks the whole chain from the oldest segment.
    ///
    /// # Errors
    /// When a segment cannot be read; damage inside one is part of the answer.
    pub fn verify(&self) -> Result<Verified, DiskError> {
        let durable = self.durable();
        walk::verify(&*self.storage, &self.dir, durable.segment, durable.len)
    }

    fn durable(&self) -> Durable {
        *self.durable.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events encoded for one write.
struct Wave {
    head: Head,
    durable_seq: u64,
    bytes: Vec<u8>,
    events: Vec<Event>,
}

impl Wave {
    const fn new(head: Head) -> Self {
        Self { head, durable_seq: head.seq, bytes: Vec::new(), events: Vec::new() }
    }

    /// Adds all of `what`, or nothing.
    fn add(&mut self, what: Vec<What>, at: agentd_types::UnixTime) -> Result<Vec<Event>, RecordError> {
        let (bytes_before, events_before, head_before) = (self.bytes.len(), self.events.len(), self.head);
        for what in what {
            let event = Event { seq: self.head.seq + 1, at, what };
            match encode_event(&event, self.head, self.durable_seq, &mut self.bytes) {
                Ok(_) if self.bytes.len() - bytes_before > MAX_APPEND => {
                    let len = self.bytes.len() - bytes_before;
                    self.bytes.truncate(bytes_before);
                    self.events.truncate(events_before);
                    self.head = head_before;
                    return Err(RecordError::TooLong { len });
                }
                Ok(hash) => {
                    self.head = Head { seq: event.seq, hash };
                    self.events.push(event);
                }
                Err(error) => {
                    self.bytes.truncate(bytes_before);
                    self.events.truncate(events_before);
                    self.head = head_before;
                    return Err(error);
                }
            }
        }
        Ok(self.events.get(events_before..).unwrap_or_default().to_vec())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn warn(message: &'static str, error: &io::Error) {
    let error = chain(error);
    log::warn!(event = "store.journal", error = error.as_str(); "{message}");
}

/// Where the journal of the state folder `dir` lies.
pub(crate) fn folder(dir: &Path) -> PathBuf {
    dir.join("journal")
}
