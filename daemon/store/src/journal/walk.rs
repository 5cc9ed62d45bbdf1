//! Walks the chain and says where it breaks.
//!
//! In: segments. Out: entries in order, and [`Damage`] where entries are missing or do not follow from the ones
//! before. The hash of an entry behind damage is believed from there on, so one bad frame is one break.

use std::{io, path::Path};

use agentd_types::Digest;

use super::{
    Head,
    segment::{Item, Segment, next_hash},
};
use crate::{DiskError, storage::Storage};

/// A place where the chain breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Position of the last good entry before.
    pub after: u64,
    /// Entries that are missing; 0 when something is there that should not be.
    pub lost: u64,
    /// What was found, for people.
    pub reason: String,
}

/// What walking the whole chain found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Position of the oldest entry that is still there; `head.seq + 1` for none.
    pub first_seq: u64,
    /// Entries that follow from one another.
    pub entries: u64,
    /// The last entry and its hash, to be compared with what was published.
    pub head: Head,
    /// Where it breaks; empty for a whole chain.
    pub damage: Vec<Damage>,
}

/// Follows the chain over segments.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) first: Option<u64>,
    pub(super) head: Option<Head>,
    pub(super) entries: u64,
    pub(super) damage: Vec<Damage>,
    // A bad place that the next good entry will tell the size of.
    open: Option<String>,
}

impl Walk {
    fn seq(&self) -> u64 {
        self.head.map_or(0, |head| head.seq)
    }

    fn break_here(&mut self, lost: u64, reason: String) {
        self.damage.push(Damage { after: self.seq(), lost, reason });
    }

    /// Takes the next item; says whether it is an entry that counts.
    pub(super) fn step(&mut self, item: &Item<'_>, segment: u64) -> bool {
        match *item {
            Item::Start { first, previous } => {
                let before = Head { seq: first.saturating_sub(1), hash: previous };
                match self.head {
                    None => (self.head, self.first) = (Some(before), Some(first)),
                    Some(head) if head == before => {}
                    Some(head) if first > head.seq + 1 => {
                        let lost = before.seq - head.seq;
                        let reason = self.open.take().unwrap_or_else(|| "entries are missing".into());
                        self.break_here(lost, reason);
                        self.head = Some(before);
                    }
                    Some(head) if first <= head.seq => self.break_here(0, "positions run back".into()),
                    Some(_) => {
                        self.break_here(0, "a segment does not follow from the one before".into());
                        self.head = Some(before);
                    }
                }
                false
            }
            Item::Bad { offset } => {
                self.open.get_or_insert_with(|| format!("segment {segment} is damaged at byte {offset}"));
                false
            }
            Item::Entry(entry) => {
                let origin = Digest::from_bytes([0; 32]);
                let before = self.head.unwrap_or(Head { seq: entry.seq.saturating_sub(1), hash: origin });
                if entry.seq <= before.seq {
                    self.break_here(0, format!("position {} comes twice", entry.seq));
                    return false;
                }
                let lost = entry.seq - before.seq - 1;
                let follows = lost == 0 && next_hash(before.hash, entry.json) == entry.hash;
                if !follows || self.open.is_some() {
                    let reason = self.open.take().unwrap_or_else(|| {
                        if lost > 0 { "entries are missing".into() } else { "an entry was changed".into() }
                    });
                    self.break_here(lost, reason);
                }
                self.first.get_or_insert(entry.seq);
                self.head = Some(entry.head());
                self.entries += 1;
                true
            }
        }
    }

    /// Nothing comes any more: a bad place that is still open is the end.
    pub(super) fn finish(&mut self) {
        if let Some(reason) = self.open.take() {
            self.break_here(0, reason);
        }
    }
}

/// Walks all segments up to byte `len` of segment `last`.
pub(super) fn verify(storage: &dyn Storage, dir: &Path, last: u64, len: u64) -> Result<Verified, DiskError> {
    let mut walk = Walk::default();
    let segments = Segment::list(storage, dir).map_err(DiskError::at("list", dir))?;
    for (first, _) in segments.into_iter().filter(|(first, _)| *first <= last) {
        let path = Segment::path(dir, first);
        let segment = match Segment::read(storage, dir, first) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && first != last => continue,
            other => other.map_err(DiskError::at("read", &path))?,
        };
        let segment = if first == last { segment.cut(len) } else { segment };
        for item in segment.items() {
            walk.step(&item, first);
        }
    }
    walk.finish();
    let head = walk.head.unwrap_or(Head { seq: 0, hash: super::open::ORIGIN });
    let first_seq = walk.first.unwrap_or(head.seq + 1);
    Ok(Verified { first_seq, entries: walk.entries, head, damage: walk.damage })
}
