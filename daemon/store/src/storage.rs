//! The file operations below everything durable.
//!
//! In: paths and bytes. Out: bytes, and the promise that what was synced survives a power cut. One trait with the
//! real file system behind it and, for tests, a simulated one that fails on demand and forgets what was not synced.
//! Refuses to read more than it is told to.

mod real;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;

use std::{
    fmt::Debug,
    io::{self, Read},
    path::Path,
};

pub use real::RealStorage;

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name within the folder.
    pub name: String,
    /// Bytes of the file, 0 for a folder.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Room on the disk that holds a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that an unprivileged program can still write.
    pub free: u64,
    /// Bytes of the whole file system.
    pub total: u64,
}

/// A file open for appending. Dropping it syncs nothing.
pub trait Appender: Debug + Send + Sync {
    /// Writes all of `bytes` at the end.
    ///
    /// # Errors
    /// What the file system says; a part of the bytes may then be in the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written so far survives a power cut (`fdatasync`).
    ///
    /// # Errors
    /// What the file system says; nothing may then be believed about bytes not synced before, and a later success
    /// says nothing about them either.
    fn sync(&mut self) -> io::Result<()>;
}

/// Held while one process owns a folder; released when dropped or when the process dies.
pub trait Lock: Debug + Send + Sync {}

/// The file operations that durable state is made of. A name is durable only after [`Storage::sync_dir`] of its
/// folder, content only after a sync of the file.
pub trait Storage: Debug + Send + Sync {
    /// Makes `path` and the folders above it; existing ones are fine.
    ///
    /// # Errors
    /// What the file system says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes an empty file, or empties the one that is there, and opens it for appending.
    ///
    /// # Errors
    /// What the file system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Appender>>;

    /// Opens an existing file for appending.
    ///
    /// # Errors
    /// What the file system says.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn Appender>>;

    /// Reads a whole file of at most `limit` bytes.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` for a longer file.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;

    /// Reads `len` bytes from `offset`.
    ///
    /// # Errors
    /// What the file system says; `UnexpectedEof` when the file ends before.
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// Opens a file for reading from its start.
    ///
    /// # Errors
    /// What the file system says.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;

    /// Cuts a file to `len` bytes and syncs it.
    ///
    /// # Errors
    /// What the file system says.
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()>;

    /// Renames a file within one file system, replacing what was there.
    ///
    /// # Errors
    /// What the file system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; one that is absent is fine.
    ///
    /// # Errors
    /// What the file system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Returns when names made, renamed and removed in the folder so far survive a power cut.
    ///
    /// # Errors
    /// What the file system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Returns when everything written so far to the file system that holds `path` survives a power cut: one sync
    /// for many files.
    ///
    /// # Errors
    /// What the file system says, for any file since the last call.
    fn sync_all(&self, path: &Path) -> io::Result<()>;

    /// What a folder holds, sorted by name; nothing for an absent one. Names that are not UTF-8 are left out.
    ///
    /// # Errors
    /// What the file system says.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;

    /// Bytes of a file; `None` when there is none.
    ///
    /// # Errors
    /// What the file system says.
    fn len(&self, path: &Path) -> io::Result<Option<u64>>;

    /// Takes the lock file at `path`, which is made if needed. Never waits.
    ///
    /// # Errors
    /// `WouldBlock` when another process, or another opening in this one, holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;

    /// Makes a file of `len` bytes that really take their room on the disk.
    ///
    /// # Errors
    /// What the file system says, above all that it is full.
    fn reserve(&self, path: &Path, len: u64) -> io::Result<()>;

    /// Room on the disk that holds `path`.
    ///
    /// # Errors
    /// What the file system says.
    fn room(&self, path: &Path) -> io::Result<Room>;
}

/// Whether `error` says that the disk is full (or a quota or size limit reached).
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Writes a file so that after a power cut either the old content is there or the new: temporary name, sync,
/// rename, sync of the folder. `temporary` must lie in the same folder.
pub(crate) fn replace(storage: &dyn Storage, temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = write_synced(storage, temporary, bytes).and_then(|()| storage.rename(temporary, path));
    if let Err(error) = written {
        // The leftover holds nothing that anybody was promised; the first error is the one that tells.
        if let Err(second) = storage.remove(temporary) {
            log::debug!(event = "store.leftover", error = second.to_string().as_str(); "Temporary file stays");
        }
        return Err(error);
    }
    match path.parent() {
        Some(parent) => storage.sync_dir(parent),
        None => Ok(()),
    }
}

fn write_synced(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = storage.create(path)?;
    file.append(bytes)?;
    file.sync()
}
