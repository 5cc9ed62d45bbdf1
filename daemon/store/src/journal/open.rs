//! Opens a journal as a crash left it.
//!
//! In: the folder. Out: the journal ready to be written, and a report of what was cut or found damaged. A torn end
//! (bytes of the one write that was under way) is cut. Damage to what was synced is left in its file, which is
//! sealed; entries behind it are used, and the chain goes on in a new segment.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
};

use agentd_types::{Clock, Code, Coded, Digest};

use super::{
    Damage, Durable, Head, Journal, JournalOptions, Queue, Writer,
    segment::{Item, Segment},
    snapshot,
    walk::Walk,
};
use crate::{DiskError, facts::Facts, storage::Storage};

/// The hash before the first entry.
pub(super) const ORIGIN: Digest = Digest::from_bytes([0; 32]);

/// The journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the journal cannot be opened")]
pub struct JournalError(#[from] DiskError);

impl JournalError {
    pub(crate) const fn disk(&self) -> &DiskError {
        &self.0
    }
}

impl Coded for JournalError {
    fn code(&self) -> Code {
        self.0.code()
    }

    fn is_transient(&self) -> bool {
        true
    }
}

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalReport {
    /// The last entry.
    pub head: Head,
    /// The snapshot that the replay began from.
    pub snapshot: Option<u64>,
    /// Entries replayed.
    pub replayed: u64,
    /// Bytes of an unfinished write that were cut from the end.
    pub cut_bytes: u64,
    /// Damage to entries that had been synced.
    pub damage: Vec<Damage>,
}

/// How the last segment ends.
enum Tail {
    Whole,
    /// From this byte on is an unfinished write.
    Torn(u64),
    /// Entries that had been synced are damaged.
    Damaged,
    /// The segment was being made: it holds nothing.
    Unfinished,
}

fn tail_of(segment: &Segment) -> Tail {
    let (mut good_seq, mut header, mut bad, mut entries) =
        (segment.first.saturating_sub(1), false, None, false);
    for item in segment.items() {
        match item {
            Item::Start { .. } => header = true,
            Item::Bad { offset } => {
                bad.get_or_insert(offset);
            }
            // What was durable when this was written included an entry that is bad now.
            Item::Entry(entry) if bad.is_some() && entry.durable_seq > good_seq => return Tail::Damaged,
            Item::Entry(entry) => {
                entries = true;
                if bad.is_none() {
                    good_seq = entry.seq;
                }
            }
        }
    }
    match bad {
        // The header is synced before the first entry is written.
        _ if !header && entries => Tail::Damaged,
        _ if !header => Tail::Unfinished,
        Some(offset) => Tail::Torn(offset),
        None => Tail::Whole,
    }
}

struct Replay {
    walk: Walk,
    facts: Facts,
    // Entries of a snapshot that the chain does not know are none.
    refuted: bool,
}

struct Opening<'a> {
    storage: &'a dyn Storage,
    dir: PathBuf,
}

impl Journal {
    /// Opens the journal in `dir`, which is made when absent.
    ///
    /// # Errors
    /// When the disk refuses. Damage is no error: it is in the report.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: PathBuf,
        clock: Arc<dyn Clock>,
        options: JournalOptions,
    ) -> Result<(Self, JournalReport), JournalError> {
        storage.create_dir(&dir).map_err(DiskError::at("make", &dir))?;
        let opening = Opening { storage: &*storage, dir: dir.clone() };
        let (facts, durable, writer, report) = opening.open().map_err(DiskError::at("read", &dir))?;
        let journal = Self {
            storage,
            dir,
            clock,
            options,
            queue: Mutex::new(Queue::default()),
            writer: Mutex::new(writer),
            durable: RwLock::new(durable),
            facts: RwLock::new(facts),
        };
        if !report.damage.is_empty() {
            journal.tidy();
        }
        Ok((journal, report))
    }
}

impl Opening<'_> {
    fn open(&self) -> io::Result<(Facts, Durable, Writer, JournalReport)> {
        let mut segments = Segment::list(self.storage, &self.dir)?;
        let (cut_bytes, sealed) = self.mend_tail(&mut segments)?;
        let (snapshot, Replay { mut walk, facts, .. }) = self.replay(&segments)?;
        walk.finish();
        let found = walk.head.unwrap_or(Head { seq: 0, hash: ORIGIN });
        let mut head = found;
        if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.seq > found.seq || walk.head.is_none()) {
            let lost = snapshot.seq.saturating_sub(found.seq);
            walk.damage.push(Damage { after: found.seq, lost, reason: "the end is missing".into() });
            head = snapshot;
        }
        if snapshot.is_none() && walk.first.is_some_and(|first| first > 1) {
            let lost = walk.first.unwrap_or(1) - 1;
            let reason = "the start was deleted and no snapshot can be read".into();
            walk.damage.push(Damage { after: 0, lost, reason });
        }
        let go_on = segments.last().filter(|_| !sealed && head == found).map(|(first, _)| *first);
        let (segment, len, file) = match go_on {
            Some(first) => {
                let path = Segment::path(&self.dir, first);
                let len = self.storage.len(&path)?.unwrap_or(0);
                let mut file = self.storage.open_append(&path)?;
                // What was read may be in the page cache only.
                file.sync()?;
                self.storage.sync_dir(&self.dir)?;
                (first, len, file)
            }
            None => {
                let (file, len) = Segment::begin(self.storage, &self.dir, head)?;
                (head.seq + 1, len, file)
            }
        };
        let report = JournalReport {
            head,
            snapshot: snapshot.map(|snapshot| snapshot.seq),
            replayed: walk.entries,
            cut_bytes,
            damage: walk.damage,
        };
        Ok((facts, Durable { head, segment, len }, Writer::Open(file), report))
    }

    /// Cuts an unfinished write, removes segments that were being made. Returns the bytes cut, and whether the last
    /// segment is damaged and must not be written any more.
    fn mend_tail(&self, segments: &mut Vec<(u64, u64)>) -> io::Result<(u64, bool)> {
        let mut cut = 0;
        while let Some((first, len)) = segments.last().copied() {
            let path = Segment::path(&self.dir, first);
            let segment = Segment::read(self.storage, &self.dir, first)?;
            let stale = segment.entries().next().is_none() && self.is_passed(segments, first)?;
            match tail_of(&segment) {
                Tail::Unfinished => {}
                _ if stale => {}
                Tail::Whole => return Ok((cut, false)),
                Tail::Damaged => return Ok((cut, true)),
                Tail::Torn(offset) => {
                    self.storage.truncate(&path, offset)?;
                    return Ok((cut + len.saturating_sub(offset), false));
                }
            }
            self.storage.remove(&path)?;
            self.storage.sync_dir(&self.dir)?;
            cut += len;
            segments.pop();
        }
        Ok((cut, false))
    }

    /// Whether the segment before the last one went on beyond `first`: the last one was begun and given up.
    fn is_passed(&self, segments: &[(u64, u64)], first: u64) -> io::Result<bool> {
        let Some((before, _)) = segments.iter().rev().nth(1) else { return Ok(false) };
        let segment = Segment::read(self.storage, &self.dir, *before)?;
        Ok(segment.entries().last().is_some_and(|entry| entry.seq >= first))
    }

    /// Replays from the newest snapshot that the chain does not refute.
    fn replay(&self, segments: &[(u64, u64)]) -> io::Result<(Option<Head>, Replay)> {
        for (head, facts) in snapshot::read_all(self.storage, &self.dir)? {
            let replay = self.replay_from(segments, Some(head), facts)?;
            if !replay.refuted {
                return Ok((Some(head), replay));
            }
            snapshot::remove(self.storage, &self.dir, head.seq)?;
        }
        Ok((None, self.replay_from(segments, None, Facts::fold([]))?))
    }

    fn replay_from(
        &self,
        segments: &[(u64, u64)],
        snapshot: Option<Head>,
        facts: Facts,
    ) -> io::Result<Replay> {
        let mut replay = Replay { walk: Walk::default(), facts, refuted: false };
        let next = snapshot.map_or(0, |snapshot| snapshot.seq + 1);
        let from = segments.partition_point(|(first, _)| *first <= next).saturating_sub(1);
        for (first, _) in segments.get(from..).unwrap_or_default() {
            let segment = Segment::read(self.storage, &self.dir, *first)?;
            for item in segment.items() {
                let known = match &item {
                    Item::Start { first, previous } => {
                        Some(Head { seq: first.saturating_sub(1), hash: *previous })
                    }
                    Item::Entry(entry) => Some(entry.head()),
                    Item::Bad { .. } => None,
                };
                if let (Some(known), Some(snapshot)) = (known, snapshot) {
                    replay.refuted |= known.seq == snapshot.seq && known.hash != snapshot.hash;
                }
                if let (true, Item::Entry(entry)) = (replay.walk.step(&item, *first), &item) {
                    match entry.event() {
                        Some(event) => replay.facts.apply(&event),
                        None => replay.facts.pass(entry.seq),
                    }
                }
            }
        }
        Ok(replay)
    }
}
