//! One file of the journal: a header frame, then an event a frame.
//!
//! The file's name is the position of its first event. The header repeats it and holds the hash before it, so the
//! chain goes on across files and a reader may start at any of them.

use std::{
    io,
    path::{Path, PathBuf},
};

use agentd_types::{Digest, Hasher};
use agentd_wire::Event;
use serde::{Deserialize, Serialize};

use super::{Head, MAX_EVENT, RecordError};
use crate::{
    frames::{self, Piece, Pieces},
    storage::{Appender, Storage},
};

/// Most bytes that are read of a segment: 16 waves over the usual size.
const MAX_SEGMENT: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Header {
    journal: u32,
    first: u64,
    previous: Digest,
}

/// A segment that was read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    bytes: Vec<u8>,
}

/// What a segment holds, piece by piece.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// The header.
    Start { first: u64, previous: Digest },
    /// An entry whose frame is whole.
    Entry(Entry<'a>),
    /// Bytes from `offset` on that are no entry.
    Bad { offset: u64 },
}

/// An entry as it lies in its frame: hash, last durable position and own position (`u64`, little-endian), JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) seq: u64,
    pub(crate) hash: Digest,
    /// The last position that was durable when this was written.
    pub(crate) durable_seq: u64,
    pub(crate) json: &'a [u8],
}

impl Entry<'_> {
    /// The event; `None` when a newer version wrote it and this one does not know its kind.
    pub(crate) fn event(&self) -> Option<Event> {
        serde_json::from_slice::<Event>(self.json).ok().filter(|event| event.seq == self.seq)
    }

    pub(crate) const fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash }
    }
}

/// The chain's next hash.
pub(crate) fn next_hash(previous: Digest, json: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(previous.as_bytes());
    hasher.update(json);
    hasher.finish()
}

/// Appends the frame of `event` after `head` to `out` and returns its hash. Nothing is appended on an error.
pub(crate) fn encode_event(
    event: &Event,
    head: Head,
    durable_seq: u64,
    out: &mut Vec<u8>,
) -> Result<Digest, RecordError> {
    let form = || RecordError::Form { name: event.what.name() };
    let json = serde_json::to_vec(event).map_err(|_| form())?;
    if json.len() > MAX_EVENT {
        return Err(RecordError::TooLong { len: json.len() });
    }
    if serde_json::from_slice::<Event>(&json).ok().as_ref() != Some(event) {
        return Err(form());
    }
    let hash = next_hash(head.hash, &json);
    let mut body = Vec::with_capacity(json.len() + 48);
    body.extend_from_slice(hash.as_bytes());
    body.extend_from_slice(&durable_seq.to_le_bytes());
    body.extend_from_slice(&event.seq.to_le_bytes());
    body.extend_from_slice(&json);
    frames::encode(&body, out).ok_or(RecordError::TooLong { len: json.len() })?;
    Ok(hash)
}

fn decode_entry(body: &[u8]) -> Option<Item<'_>> {
    let (hash, rest) = body.split_first_chunk::<32>()?;
    let (durable_seq, rest) = rest.split_first_chunk::<8>()?;
    let (seq, json) = rest.split_first_chunk::<8>()?;
    let (seq, durable_seq) = (u64::from_le_bytes(*seq), u64::from_le_bytes(*durable_seq));
    Some(Item::Entry(Entry { seq, hash: Digest::from_bytes(*hash), durable_seq, json }))
}

fn decode_header(body: &[u8]) -> Option<Item<'static>> {
    let header: Header = serde_json::from_slice(body).ok()?;
    (header.journal == 1).then_some(Item::Start { first: header.first, previous: header.previous })
}

impl Segment {
    /// The file whose first event has position `first`.
    pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
        dir.join(format!("{first:020}.log"))
    }

    /// Every segment's first position and length, in order.
    pub(crate) fn list(storage: &dyn Storage, dir: &Path) -> io::Result<Vec<(u64, u64)>> {
        let entries = storage.list(dir)?;
        let mut segments: Vec<(u64, u64)> = entries
            .iter()
            .filter_map(|entry| Some((entry.name.strip_suffix(".log")?.parse().ok()?, entry.len)))
            .collect();
        segments.sort_unstable();
        Ok(segments)
    }

    /// Reads a whole segment.
    pub(crate) fn read(storage: &dyn Storage, dir: &Path, first: u64) -> io::Result<Self> {
        Ok(Self { first, bytes: storage.read(&Self::path(dir, first), MAX_SEGMENT)? })
    }

    /// Only the first `len` bytes of what was read.
    pub(crate) fn cut(mut self, len: u64) -> Self {
        self.bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        self
    }

    /// Makes the segment that follows `head`, durable, and returns it open with its length.
    pub(crate) fn begin(
        storage: &dyn Storage,
        dir: &Path,
        head: Head,
    ) -> io::Result<(Box<dyn Appender>, u64)> {
        let first = head.seq.saturating_add(1);
        let header = serde_json::to_vec(&Header { journal: 1, first, previous: head.hash })?;
        let mut bytes = Vec::new();
        frames::encode(&header, &mut bytes).ok_or_else(|| io::Error::other("the header is too long"))?;
        let mut file = storage.create(&Self::path(dir, first))?;
        file.append(&bytes)?;
        file.sync()?;
        storage.sync_dir(dir)?;
        Ok((file, bytes.len() as u64))
    }

    /// What is in it, in order.
    pub(crate) fn items(&self) -> impl Iterator<Item = Item<'_>> {
        Pieces::of(&self.bytes).map(|piece| match piece {
            Piece::Bad { offset, .. } => Item::Bad { offset: offset as u64 },
            Piece::Frame { offset, body } => {
                let item = if offset == 0 { decode_header(body) } else { decode_entry(body) };
                item.unwrap_or(Item::Bad { offset: offset as u64 })
            }
        })
    }

    /// The entries in it.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.items().filter_map(|item| match item {
            Item::Entry(entry) => Some(entry),
            Item::Start { .. } | Item::Bad { .. } => None,
        })
    }

    /// The hash that it tells for position `seq`.
    pub(crate) fn hash_at(&self, seq: u64) -> Option<Digest> {
        self.items().find_map(|item| match item {
            Item::Start { first, previous } => (first == seq + 1).then_some(previous),
            Item::Entry(entry) => (entry.seq == seq).then_some(entry.hash),
            Item::Bad { .. } => None,
        })
    }

    /// Where the chain stands at its end, when nothing in it is bad.
    pub(crate) fn last_head(&self) -> Option<Head> {
        let mut head = None;
        for item in self.items() {
            head = Some(match item {
                Item::Start { first, previous } => Head { seq: first.saturating_sub(1), hash: previous },
                Item::Entry(entry) => {
                    let before: Head = head?;
                    let follows =
                        entry.seq == before.seq + 1 && next_hash(before.hash, entry.json) == entry.hash;
                    follows.then_some(entry.head())?
                }
                Item::Bad { .. } => return None,
            });
        }
        head
    }
}
