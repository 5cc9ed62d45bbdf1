//! The outbox's file: frames of messages and of removals.
//!
//! `<generation>.log` begins with a header that holds the next id. A compaction writes the next generation whole,
//! renames it into place and syncs the folder before the old one is deleted; the highest generation counts. After a
//! failed write or sync the file is not trusted any more: the next write begins a new generation from what was
//! acknowledged.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Class, MAX_ITEM};
use crate::{
    DiskError,
    frames::{self, Piece, Pieces},
    storage::{self, Appender, Storage},
};

/// Bytes below which a file is never compacted.
pub(super) const MIN_COMPACT: u64 = 256 << 10;

/// Most bytes of a file that are read.
const MAX_LOG: u64 = 1 << 30;

const HEADER: u8 = 0;
const MESSAGE: u8 = 1;
const REMOVED: u8 = 2;

/// Bytes of a frame beside the message.
const MESSAGE_OVERHEAD: usize = frames::OVERHEAD + 10;

/// Where a message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) class: Class,
    offset: u64,
    len: u32,
}

impl Place {
    /// Bytes that it takes of the budget.
    pub(super) fn cost(self) -> u64 {
        u64::from(self.len) + MESSAGE_OVERHEAD as u64
    }
}

/// Bytes that a message of `len` takes of the budget.
pub(super) const fn cost(len: usize) -> u64 {
    (len + MESSAGE_OVERHEAD) as u64
}

/// What a file said.
#[derive(Debug)]
struct Replayed {
    waiting: BTreeMap<u64, Place>,
    next_id: u64,
    bad_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Log {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    generation: u64,
    // Above every generation that may be on disk, also one whose making failed.
    next_generation: u64,
    // `None` when the file is not to be trusted: the next write begins a new generation.
    file: Option<Box<dyn Appender>>,
    // Synced bytes.
    len: u64,
    // What the caller was told.
    waiting: BTreeMap<u64, Place>,
    next_id: u64,
}

impl Log {
    /// Opens the newest generation; returns how many bytes of it were no frame.
    pub(super) fn open(storage: Arc<dyn Storage>, dir: PathBuf) -> Result<(Self, u64), DiskError> {
        storage.create_dir(&dir).map_err(DiskError::at("make", &dir))?;
        let mut generations = Vec::new();
        for entry in storage.list(&dir).map_err(DiskError::at("list", &dir))? {
            match entry.name.strip_suffix(".log").and_then(|name| name.parse::<u64>().ok()) {
                Some(generation) => generations.push(generation),
                None if entry.is_dir => {}
                None => remove(&*storage, &dir.join(&entry.name))?,
            }
        }
        generations.sort_unstable();
        let newest = generations.pop();
        let generation = newest.unwrap_or(0);
        let bytes = match newest {
            Some(generation) => {
                let path = path(&dir, generation);
                storage.read(&path, MAX_LOG).map_err(DiskError::at("read", path))?
            }
            None => Vec::new(),
        };
        let Replayed { waiting, next_id, bad_bytes } = replay(&bytes);
        let len = bytes.len() as u64;
        let next_generation = generation.saturating_add(1);
        let mut log = Self { storage, dir, generation, next_generation, file: None, len, waiting, next_id };
        if bad_bytes > 0 || newest.is_none() {
            log.compact()?;
        } else {
            log.go_on()?;
        }
        for old in generations {
            remove(&*log.storage, &path(&log.dir, old))?;
        }
        Ok((log, bad_bytes))
    }

    /// Where every waiting message lies.
    pub(super) const fn waiting(&self) -> &BTreeMap<u64, Place> {
        &self.waiting
    }

    /// Opens the file that was read; what is in the page cache only is made durable first.
    fn go_on(&mut self) -> Result<(), DiskError> {
        let path = path(&self.dir, self.generation);
        let mut file = self.storage.open_append(&path).map_err(DiskError::at("open", &path))?;
        file.sync().map_err(DiskError::at("sync", &path))?;
        self.storage.sync_dir(&self.dir).map_err(DiskError::at("sync", &self.dir))?;
        self.file = Some(file);
        Ok(())
    }

    /// Bytes of the file.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Writes removals and messages with one sync; returns the ids of the messages.
    pub(super) fn write(
        &mut self,
        removed: &[u64],
        messages: &[(Class, &[u8])],
    ) -> Result<Vec<u64>, DiskError> {
        if self.file.is_none() {
            self.compact()?;
        }
        let mut bytes = Vec::new();
        if !removed.is_empty() {
            let mut body = vec![REMOVED];
            removed.iter().for_each(|id| body.extend_from_slice(&id.to_le_bytes()));
            encode(&body, &mut bytes);
        }
        let mut places = Vec::new();
        for (id, (class, message)) in (self.next_id..).zip(messages) {
            places.push((id, place(*class, message.len(), self.len + bytes.len() as u64)));
            encode(&message_body(id, *class, message), &mut bytes);
        }
        let path = path(&self.dir, self.generation);
        // Taken out, so that it is gone when the write fails.
        let Some(mut file) = self.file.take() else { return Ok(Vec::new()) };
        file.append(&bytes).map_err(DiskError::at("write", &path))?;
        file.sync().map_err(DiskError::at("sync", &path))?;
        self.file = Some(file);
        self.len += bytes.len() as u64;
        for id in removed {
            self.waiting.remove(id);
        }
        self.next_id += places.len() as u64;
        let ids = places.iter().map(|(id, _)| *id).collect();
        self.waiting.extend(places);
        Ok(ids)
    }

    /// Reads a message; `None` when it is damaged.
    pub(super) fn read(&self, id: u64, place: Place) -> Result<Option<Vec<u8>>, DiskError> {
        let path = path(&self.dir, self.generation);
        let len = MESSAGE_OVERHEAD + usize::try_from(place.len).unwrap_or(usize::MAX).min(MAX_ITEM);
        let bytes = self.storage.read_at(&path, place.offset, len).map_err(DiskError::at("read", path))?;
        Ok(frames::decode(&bytes)
            .and_then(decode_message)
            .filter(|(found, _, _)| *found == id)
            .map(|(_, _, m)| m.to_vec()))
    }

    /// Begins a new generation that holds only what waits. Damaged messages are left out.
    pub(super) fn compact(&mut self) -> Result<(), DiskError> {
        let mut bytes = Vec::new();
        let mut header = vec![HEADER];
        header.extend_from_slice(&self.next_id.to_le_bytes());
        encode(&header, &mut bytes);
        let mut moved = BTreeMap::new();
        for (id, old) in &self.waiting {
            let Some(message) = self.read(*id, *old)? else { continue };
            moved.insert(*id, place(old.class, message.len(), bytes.len() as u64));
            encode(&message_body(*id, old.class, &message), &mut bytes);
        }
        let (old, next) = (self.generation, self.next_generation);
        // When the new generation fails half way it may still be on disk and count after a crash: so the old one
        // must not grow beside it, and the next attempt must be newer.
        self.file = None;
        self.next_generation = next.saturating_add(1);
        let target = path(&self.dir, next);
        storage::replace(&*self.storage, &self.dir.join("new"), &target, &bytes)
            .map_err(DiskError::at("write", &target))?;
        self.generation = next;
        self.len = bytes.len() as u64;
        self.waiting = moved;
        self.file = Some(self.storage.open_append(&target).map_err(DiskError::at("open", &target))?);
        if let Err(error) = remove(&*self.storage, &path(&self.dir, old)) {
            let error = agentd_types::chain(&error);
            ::log::debug!(event = "store.leftover", error = error.as_str(); "Old outbox file stays");
        }
        Ok(())
    }
}

fn path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation:020}.log"))
}

fn remove(storage: &dyn Storage, path: &Path) -> Result<(), DiskError> {
    storage.remove(path).map_err(DiskError::at("remove", path))
}

fn place(class: Class, len: usize, offset: u64) -> Place {
    Place { class, offset, len: u32::try_from(len).unwrap_or(u32::MAX) }
}

fn encode(body: &[u8], out: &mut Vec<u8>) {
    // Bodies are at most MAX_ITEM + 10 bytes, or 8 bytes an id: far below a frame's limit.
    let fits = frames::encode(body, out);
    debug_assert!(fits.is_some(), "a frame of {} bytes", body.len());
}

fn message_body(id: u64, class: Class, message: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.len() + 10);
    body.push(MESSAGE);
    body.extend_from_slice(&id.to_le_bytes());
    body.push(class.tag());
    body.extend_from_slice(message);
    body
}

fn decode_message(body: &[u8]) -> Option<(u64, Class, &[u8])> {
    let (id, rest) = body.strip_prefix(&[MESSAGE])?.split_first_chunk::<8>()?;
    let (tag, message) = rest.split_first()?;
    Some((u64::from_le_bytes(*id), Class::from_tag(*tag)?, message))
}

fn replay(bytes: &[u8]) -> Replayed {
    let mut replayed = Replayed { waiting: BTreeMap::new(), next_id: 1, bad_bytes: 0 };
    for piece in Pieces::of(bytes) {
        let (offset, body) = match piece {
            Piece::Frame { offset, body } => (offset, body),
            Piece::Bad { offset, end } => {
                replayed.bad_bytes += (end - offset) as u64;
                continue;
            }
        };
        if let Some((id, class, message)) = decode_message(body) {
            replayed.waiting.insert(id, place(class, message.len(), offset as u64));
            replayed.next_id = replayed.next_id.max(id.saturating_add(1));
        } else if let Some(ids) = body.strip_prefix(&[REMOVED]) {
            for id in ids.as_chunks::<8>().0 {
                replayed.waiting.remove(&u64::from_le_bytes(*id));
            }
        } else if let Some(next) = body.strip_prefix(&[HEADER]).and_then(|rest| rest.first_chunk::<8>()) {
            replayed.next_id = replayed.next_id.max(u64::from_le_bytes(*next));
        } else {
            replayed.bad_bytes += (body.len() + frames::OVERHEAD) as u64;
        }
    }
    replayed
}
