//! Messages that wait for the broker's acknowledgement, on disk.
//!
//! In: messages of a class. Out: the same messages, in order, until they are removed. An appended message is never
//! lost and a removed one never comes back, once the call returned. One log of frames; when most of it is dead, the
//! living are written to a new file that replaces it. Memory holds where each message lies, not the message.
//!
//! Has a byte budget: logs make room first, then telemetry, events, state; audit is never dropped, and when nothing
//! else is left an append is refused. Refuses messages over [`MAX_ITEM`].

mod log;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agentd_types::{ByteCount, Code, Coded};

use self::log::Log;
use crate::{DiskError, storage::Storage};

/// Most bytes of one message: 1 MiB.
pub const MAX_ITEM: usize = 1 << 20;

/// What a message is, in the order in which messages are dropped when the outbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Log lines.
    Log,
    /// Metrics and other telemetry.
    Telemetry,
    /// Events.
    Event,
    /// Reported state and results of commands.
    State,
    /// Audit; never dropped.
    Audit,
}

impl Class {
    const ALL: [Self; 5] = [Self::Log, Self::Telemetry, Self::Event, Self::State, Self::Audit];

    const fn tag(self) -> u8 {
        match self {
            Self::Log => 1,
            Self::Telemetry => 2,
            Self::Event => 3,
            Self::State => 4,
            Self::Audit => 5,
        }
    }

    fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.tag() == tag)
    }
}

/// A message was not appended or not removed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OutboxError {
    /// It is longer than [`MAX_ITEM`].
    #[error("a message of {len} bytes is longer than the {MAX_ITEM} that it may have")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The budget is used up by messages that may not be dropped for this one.
    #[error("the outbox is full: {used} of {budget} wait")]
    Full {
        /// Bytes that wait.
        used: ByteCount,
        /// Bytes that may wait.
        budget: ByteCount,
    },
    /// A message does not read back as it was written.
    #[error("message {id} was damaged on disk")]
    Damaged {
        /// Which.
        id: u64,
    },
    /// The disk refused.
    #[error("the outbox cannot be written or read")]
    Disk(#[from] DiskError),
}

impl Coded for OutboxError {
    fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } => Code::new("store.too_long"),
            Self::Full { .. } => Code::new("store.outbox_full"),
            Self::Damaged { .. } => Code::new("store.damaged"),
            Self::Disk(disk) => disk.code(),
        }
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Disk(_))
    }
}

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxItem {
    /// Rises with every append, also over restarts; never used twice.
    pub id: u64,
    /// What it is.
    pub class: Class,
    /// The message.
    pub bytes: Vec<u8>,
}

/// What an append did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// The ids of the messages, in their order.
    pub ids: Vec<u64>,
    /// Older messages that were dropped to make room.
    pub dropped: Vec<u64>,
}

/// What opening found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxReport {
    /// Messages that wait.
    pub waiting: usize,
    /// Bytes that were no message: the end of an unfinished write, or damage.
    pub bad_bytes: u64,
}

/// The outbox of one state folder.
#[derive(Debug)]
pub struct Outbox {
    budget: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    used: u64,
}

impl Outbox {
    /// Opens the outbox in `dir`, which is made when absent. Messages of at most `budget` bytes in all wait in it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: PathBuf,
        budget: ByteCount,
    ) -> Result<(Self, OutboxReport), DiskError> {
        let (log, bad_bytes) = Log::open(storage, dir)?;
        let report = OutboxReport { waiting: log.waiting().len(), bad_bytes };
        let mut inner = Inner { log, used: 0 };
        inner.count();
        Ok((Self { budget: budget.0, inner: Mutex::new(inner) }, report))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends one message. Returns when it survives a power cut.
    ///
    /// # Errors
    /// When it is too long, nothing may make room for it, or the disk refuses: it does not wait then, though after a
    /// crash it may be found all the same.
    pub fn append(&self, class: Class, bytes: &[u8]) -> Result<Appended, OutboxError> {
        self.append_all(&[(class, bytes)])
    }

    /// Appends messages with one sync; all or none.
    ///
    /// # Errors
    /// As [`Outbox::append`].
    pub fn append_all(&self, messages: &[(Class, &[u8])]) -> Result<Appended, OutboxError> {
        if let Some((_, bytes)) = messages.iter().find(|(_, bytes)| bytes.len() > MAX_ITEM) {
            return Err(OutboxError::TooLong { len: bytes.len() });
        }
        let mut inner = self.inner();
        let dropped = inner.make_room(messages, self.budget)?;
        let ids = inner.log.write(&dropped, messages)?;
        inner.count();
        inner.compact_if_worth();
        Ok(Appended { ids, dropped })
    }

    /// Removes messages with one sync; ids that do not wait are fine. Returns when they never come back.
    ///
    /// # Errors
    /// When the disk refuses: they may still wait then.
    pub fn remove(&self, ids: &[u64]) -> Result<(), OutboxError> {
        let mut inner = self.inner();
        let known: Vec<u64> = ids.iter().copied().filter(|id| inner.log.waiting().contains_key(id)).collect();
        if known.is_empty() {
            return Ok(());
        }
        inner.log.write(&known, &[])?;
        inner.count();
        inner.compact_if_worth();
        Ok(())
    }

    /// Up to `limit` messages that wait with an id above `after`, in order.
    ///
    /// # Errors
    /// When the disk refuses, or a message is damaged: remove that one.
    pub fn pending(&self, after: u64, limit: usize) -> Result<Vec<OutboxItem>, OutboxError> {
        let inner = self.inner();
        let range = inner.log.waiting().range(after.saturating_add(1)..).take(limit);
        range
            .map(|(id, place)| {
                let bytes = inner.log.read(*id, *place)?.ok_or(OutboxError::Damaged { id: *id })?;
                Ok(OutboxItem { id: *id, class: place.class, bytes })
            })
            .collect()
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.inner().log.waiting().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that wait.
    pub fn used(&self) -> ByteCount {
        ByteCount(self.inner().used)
    }
}

impl Inner {
    /// Which waiting messages must go so that `messages` fit: lower classes first, the oldest first, never audit, and
    /// never a higher class than the lowest new one.
    fn make_room(&self, messages: &[(Class, &[u8])], budget: u64) -> Result<Vec<u64>, OutboxError> {
        let need: u64 = messages.iter().map(|(_, bytes)| log::cost(bytes.len())).sum();
        let mut surplus = self.used.saturating_add(need).saturating_sub(budget);
        let mut dropped = Vec::new();
        let newest = messages.iter().map(|(class, _)| *class).min().unwrap_or(Class::Log);
        for class in Class::ALL.into_iter().filter(|class| *class < Class::Audit && *class <= newest) {
            for (id, place) in self.log.waiting().iter().filter(|(_, place)| place.class == class) {
                if surplus == 0 {
                    return Ok(dropped);
                }
                surplus = surplus.saturating_sub(place.cost());
                dropped.push(*id);
            }
        }
        if surplus == 0 {
            return Ok(dropped);
        }
        Err(OutboxError::Full { used: ByteCount(self.used), budget: ByteCount(budget) })
    }

    fn count(&mut self) {
        self.used = self.log.waiting().values().map(|place| place.cost()).sum();
    }

    /// Writes the living to a new file when most of the old one is dead. A failure changes nothing but the size.
    fn compact_if_worth(&mut self) {
        if self.log.len() < log::MIN_COMPACT.saturating_add(self.used.saturating_mul(2)) {
            return;
        }
        if let Err(error) = self.log.compact() {
            let error = agentd_types::chain(&error);
            ::log::warn!(event = "store.outbox", error = error.as_str(); "Outbox not compacted");
        }
        self.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RealStorage;

    fn open(dir: &std::path::Path, budget: u64) -> (Outbox, OutboxReport) {
        Outbox::open(Arc::new(RealStorage::new()), dir.to_owned(), ByteCount(budget)).unwrap()
    }

    #[test]
    fn what_waits_is_there_after_a_restart_and_what_was_removed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, _) = open(dir.path(), 1 << 20);
        for n in 0..10_u8 {
            outbox.append(Class::Event, &[n; 10]).unwrap();
        }
        outbox.remove(&[1, 3, 5, 99]).unwrap();
        drop(outbox);
        let (outbox, report) = open(dir.path(), 1 << 20);
        assert_eq!(report, OutboxReport { waiting: 7, bad_bytes: 0 });
        let ids: Vec<_> = outbox.pending(0, 100).unwrap().into_iter().map(|item| item.id).collect();
        assert_eq!(ids, [2, 4, 6, 7, 8, 9, 10]);
        assert_eq!(outbox.append(Class::Log, b"x").unwrap().ids, [11]);
        assert_eq!(outbox.pending(9, 1).unwrap()[0].bytes, [9; 10]);
    }

    #[test]
    fn a_full_outbox_drops_logs_first_and_audit_never() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, _) = open(dir.path(), 4 * log::cost(100));
        let body = [7; 100];
        for class in [Class::Audit, Class::Telemetry, Class::Log, Class::Event] {
            outbox.append(class, &body).unwrap();
        }
        assert_eq!(outbox.append(Class::Event, &body).unwrap().dropped, [3], "the log line");
        assert_eq!(outbox.append(Class::Audit, &body).unwrap().dropped, [2], "then telemetry");
        assert_eq!(outbox.append(Class::Log, &body).unwrap_err().code().as_str(), "store.outbox_full");
        assert_eq!(outbox.append(Class::Audit, &body).unwrap().dropped, [4]);
        assert_eq!(outbox.append(Class::Audit, &body).unwrap().dropped, [5]);
        assert_eq!(outbox.append(Class::Audit, &body).unwrap_err().code().as_str(), "store.outbox_full");
        assert_eq!(outbox.len(), 4);
    }

    #[test]
    fn the_file_does_not_grow_without_bound() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, _) = open(dir.path(), 1 << 20);
        let kept = outbox.append(Class::State, b"kept").unwrap().ids;
        for _ in 0..200 {
            let ids = outbox.append(Class::Telemetry, &[1; 8_000]).unwrap().ids;
            outbox.remove(&ids).unwrap();
        }
        let total: u64 =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(total < 2 * log::MIN_COMPACT, "{total} bytes");
        drop(outbox);
        let (outbox, report) = open(dir.path(), 1 << 20);
        assert_eq!(report, OutboxReport { waiting: 1, bad_bytes: 0 });
        assert_eq!(outbox.pending(0, 9).unwrap()[0].id, kept[0]);
    }

    #[test]
    fn damage_costs_the_messages_it_hits_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (outbox, _) = open(dir.path(), 1 << 20);
        for n in 0..5_u8 {
            outbox.append(Class::Event, &[n; 50]).unwrap();
        }
        drop(outbox);
        let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(50).position(|window| window == [2; 50]).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (outbox, report) = open(dir.path(), 1 << 20);
        assert!(report.bad_bytes > 50);
        let ids: Vec<_> = outbox.pending(0, 100).unwrap().into_iter().map(|item| item.id).collect();
        assert_eq!(ids, [1, 2, 4, 5]);
    }
}
