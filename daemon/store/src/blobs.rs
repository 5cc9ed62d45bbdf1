//! Chunks, each a file named by the SHA-256 of its content.
//!
//! In: bytes and the digest that they must have. Out: the same bytes, checked again. A chunk is first written under
//! `blobs/tmp`; [`Blobs::commit`] makes all of them durable with one sync and moves them to `blobs/sha256`, and only
//! then are they held. Refuses bytes that are not what their name says; a held chunk that turns out damaged is
//! deleted, so that it counts as missing and is fetched again.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agentd_types::{ByteCount, Code, Coded, Digest};

use crate::{DiskError, storage::Storage};

/// Most bytes of a chunk: 4 MiB, as manifests allow.
pub const MAX_CHUNK: u64 = 4 << 20;

/// Bytes that may wait for a commit: beyond it [`Blobs::put`] commits by itself.
pub const MAX_PENDING_BYTES: u64 = 16 << 20;

/// Files that may wait for a commit.
pub const MAX_PENDING: usize = 512;

/// What became of a chunk that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It survives a power cut.
    Held,
    /// It is written; it is held after the next [`Blobs::commit`].
    Pending,
}

/// A chunk was not kept or not read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The bytes are not what the digest says; nothing was written.
    #[error("the bytes are not chunk {wanted}")]
    Digest {
        /// The digest that they should have.
        wanted: Digest,
    },
    /// It is longer than [`MAX_CHUNK`].
    #[error("a chunk of {len} bytes is longer than the {MAX_CHUNK} that it may have")]
    TooLong {
        /// Its length.
        len: u64,
    },
    /// It is not held.
    #[error("chunk {chunk} is not on disk")]
    Missing {
        /// Which.
        chunk: Digest,
    },
    /// It was held, its content was not what its name says any more, and it was deleted.
    #[error("chunk {chunk} was damaged on disk and is deleted")]
    Damaged {
        /// Which.
        chunk: Digest,
    },
    /// The disk refused.
    #[error("chunk {chunk} cannot be kept or read")]
    Disk {
        /// Which.
        chunk: Digest,
        /// What the file system says.
        source: DiskError,
    },
    /// The disk refused to make chunks durable; those of this batch are not held.
    #[error("{count} chunks are not kept")]
    Commit {
        /// How many were waiting.
        count: usize,
        /// What the file system says.
        source: DiskError,
    },
}

impl BlobError {
    /// The refusal of the disk, if that is what it was.
    pub(crate) const fn disk(&self) -> Option<&DiskError> {
        match self {
            Self::Disk { source, .. } | Self::Commit { source, .. } => Some(source),
            Self::Digest { .. } | Self::TooLong { .. } | Self::Missing { .. } | Self::Damaged { .. } => None,
        }
    }
}

impl Coded for BlobError {
    fn code(&self) -> Code {
        match self {
            Self::Digest { .. } => Code::new("verify.chunk_digest"),
            Self::TooLong { .. } => Code::new("verify.chunk_length"),
            Self::Missing { .. } => Code::new("store.missing"),
            Self::Damaged { .. } => Code::new("store.damaged"),
            Self::Disk { source, .. } | Self::Commit { source, .. } => source.code(),
        }
    }

    fn is_transient(&self) -> bool {
        self.disk().is_some()
    }
}

/// The chunks of one state folder.
#[derive(Debug)]
pub struct Blobs {
    storage: Arc<dyn Storage>,
    held: PathBuf,
    temporary: PathBuf,
    // Written, not durable. Invariant: at most MAX_PENDING entries of MAX_PENDING_BYTES in all after a `put`.
    pending: Mutex<BTreeMap<Digest, u64>>,
}

impl Blobs {
    /// Opens `dir`. Chunks that were written before a crash and are what their name says are kept; returns how many.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(storage: Arc<dyn Storage>, dir: &Path) -> Result<(Self, usize), DiskError> {
        let (held, temporary) = (dir.join("sha256"), dir.join("tmp"));
        for folder in [&held, &temporary] {
            storage.create_dir(folder).map_err(DiskError::at("make", folder))?;
        }
        let blobs = Self { storage, held, temporary, pending: Mutex::default() };
        let adopted = blobs.adopt()?;
        // A rename before a crash may be in memory only; from here on what is seen is held.
        blobs.storage.sync_dir(&blobs.held).map_err(DiskError::at("sync", &blobs.held))?;
        Ok((blobs, adopted))
    }

    fn adopt(&self) -> Result<usize, DiskError> {
        let leftovers = self.storage.list(&self.temporary).map_err(DiskError::at("list", &self.temporary))?;
        let mut whole = BTreeMap::new();
        for entry in leftovers {
            let path = self.temporary.join(&entry.name);
            let digest = entry.name.parse::<Digest>().ok().filter(|_| whole.len() < 2 * MAX_PENDING);
            let read = digest.and_then(|digest| {
                let bytes = self.storage.read(&path, MAX_CHUNK).ok()?;
                (Digest::of(&bytes) == digest).then_some(digest)
            });
            match read {
                Some(digest) => {
                    whole.insert(digest, entry.len);
                }
                None => self.storage.remove(&path).map_err(DiskError::at("remove", &path))?,
            }
        }
        let count = whole.len();
        *self.pending() = whole;
        match self.commit() {
            Ok(()) => Ok(count),
            // They are fetched again: a full disk must not keep the daemon from starting.
            Err(error) => {
                log::warn!(event = "store.adopt", error = agentd_types::chain(&error).as_str(); "Chunks of an unfinished transfer not kept");
                Ok(0)
            }
        }
    }

    fn path(&self, chunk: &Digest) -> PathBuf {
        self.held.join(chunk.to_string())
    }

    fn temporary(&self, chunk: &Digest) -> PathBuf {
        self.temporary.join(chunk.to_string())
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<Digest, u64>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The length of a held chunk; `None` when it is not held.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn held_len(&self, chunk: &Digest) -> Result<Option<u64>, DiskError> {
        // Waits for a commit that is under way: its renames can be seen before they are durable.
        let _pending = self.pending();
        self.len_of(chunk)
    }

    fn len_of(&self, chunk: &Digest) -> Result<Option<u64>, DiskError> {
        let path = self.path(chunk);
        self.storage.len(&path).map_err(DiskError::at("look at", path))
    }

    /// Whether a chunk survives a power cut.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn has(&self, chunk: &Digest) -> Result<bool, DiskError> {
        Ok(self.held_len(chunk)?.is_some())
    }

    /// Writes a chunk. Idempotent.
    ///
    /// # Errors
    /// When `bytes` are not `chunk`, or the disk refuses; it is then not held.
    pub fn put(&self, chunk: Digest, bytes: &[u8]) -> Result<Put, BlobError> {
        let len = bytes.len() as u64;
        if len > MAX_CHUNK {
            return Err(BlobError::TooLong { len });
        }
        if Digest::of(bytes) != chunk {
            return Err(BlobError::Digest { wanted: chunk });
        }
        let disk = |source| BlobError::Disk { chunk, source };
        let mut pending = self.pending();
        if self.len_of(&chunk).map_err(disk)? == Some(len) {
            return Ok(Put::Held);
        }
        if pending.contains_key(&chunk) {
            return Ok(Put::Pending);
        }
        let path = self.temporary(&chunk);
        let written = self.storage.create(&path).and_then(|mut file| file.append(bytes));
        if let Err(error) = written {
            self.drop_temporary(&path);
            return Err(disk(DiskError::at("write", path)(error)));
        }
        pending.insert(chunk, len);
        let full = pending.len() >= MAX_PENDING || pending.values().sum::<u64>() >= MAX_PENDING_BYTES;
        drop(pending);
        if full {
            self.commit()?;
            return Ok(Put::Held);
        }
        Ok(Put::Pending)
    }

    fn drop_temporary(&self, path: &Path) {
        if let Err(error) = self.storage.remove(path) {
            log::debug!(event = "store.leftover", error = error.to_string().as_str(); "Temporary file stays");
        }
    }

    /// Returns when everything put so far is held.
    ///
    /// # Errors
    /// When the disk refuses. Then nothing that waited is held, whatever a later sync says, and all of it must be
    /// put again.
    pub fn commit(&self) -> Result<(), BlobError> {
        // Held while we work, so that nobody is told of a chunk between rename and sync.
        let mut pending = self.pending();
        if pending.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut *pending);
        let Err(source) = self.make_durable(&batch) else { return Ok(()) };
        for chunk in batch.keys() {
            self.drop_temporary(&self.temporary(chunk));
            self.drop_temporary(&self.path(chunk));
        }
        Err(BlobError::Commit { count: batch.len(), source })
    }

    fn make_durable(&self, batch: &BTreeMap<Digest, u64>) -> Result<(), DiskError> {
        self.storage.sync_all(&self.temporary).map_err(DiskError::at("sync", &self.temporary))?;
        for chunk in batch.keys() {
            let (from, to) = (self.temporary(chunk), self.path(chunk));
            self.storage.rename(&from, &to).map_err(DiskError::at("rename", from))?;
        }
        self.storage.sync_dir(&self.held).map_err(DiskError::at("sync", &self.held))
    }

    /// Reads a held chunk and checks it.
    ///
    /// # Errors
    /// When it is not held, damaged (it is then deleted), or the disk refuses.
    pub fn read(&self, chunk: &Digest) -> Result<Vec<u8>, BlobError> {
        let path = self.path(chunk);
        let bytes = match self.storage.read(&path, MAX_CHUNK) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::Missing { chunk: *chunk });
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Vec::new(),
            Err(error) => {
                return Err(BlobError::Disk { chunk: *chunk, source: DiskError::at("read", path)(error) });
            }
        };
        if Digest::of(&bytes) == *chunk {
            return Ok(bytes);
        }
        self.drop_temporary(&path);
        Err(BlobError::Damaged { chunk: *chunk })
    }

    /// Every held chunk with its length. Takes 40 bytes a chunk while in use.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn held(&self) -> Result<BTreeMap<Digest, u64>, DiskError> {
        let _pending = self.pending();
        let entries = self.storage.list(&self.held).map_err(DiskError::at("list", &self.held))?;
        Ok(entries.into_iter().filter_map(|entry| Some((entry.name.parse().ok()?, entry.len))).collect())
    }

    /// Bytes of all held chunks.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn used(&self) -> Result<ByteCount, DiskError> {
        Ok(self.held()?.into_values().map(ByteCount).sum())
    }

    /// Deletes a chunk; one that is not held is fine. Durable only after the next [`Blobs::sync_removals`].
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn remove(&self, chunk: &Digest) -> Result<(), DiskError> {
        let path = self.path(chunk);
        self.storage.remove(&path).map_err(DiskError::at("remove", path))
    }

    pub(crate) fn sync_removals(&self) -> Result<(), DiskError> {
        self.storage.sync_dir(&self.held).map_err(DiskError::at("sync", &self.held))
    }
}
