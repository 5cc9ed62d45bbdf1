//! An ordered table of bytes, in sled or in memory.
//!
//! The only code that touches sled. Each value carries its CRC32C. Each call is guarded against panics inside sled.
//! `flush` of sled 0.34 on Linux syncs neither length nor metadata, so [`Table::sync`] adds `fsync` of its file and
//! folder; a table without a `READY` marker was never synced after it was made and is made again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::storage::Storage;

/// A key with its new value, or `None` to delete it.
pub(super) type Write = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub(super) type Found = (Vec<u8>, Vec<u8>);

/// The page cache of sled.
const CACHE_BYTES: u64 = 512 << 10;

/// Bytes of a segment and of an input/output buffer of sled; its default of 512 KiB costs megabytes of memory.
const SEGMENT_BYTES: usize = 64 << 10;

/// Why the table is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// Sled says so.
    #[error("sled refuses")]
    Sled(#[from] sled::Error),
    /// Sled panicked.
    #[error("sled panicked")]
    Panic,
    /// A value is not what was written.
    #[error("a value is damaged")]
    Checksum,
    /// Its files cannot be made or synced.
    #[error("its files cannot be made or synced")]
    Io(#[from] io::Error),
}

pub(super) trait Table: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError>;
    /// Entries whose key starts with `prefix`, from `from` on, in order, at most `limit`.
    fn range(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Found>, TableError>;
    /// All or none.
    fn apply(&mut self, batch: Vec<Write>) -> Result<(), TableError>;
    fn sync(&mut self) -> Result<(), TableError>;
}

#[derive(Default)]
pub(super) struct MemoryTable(BTreeMap<Vec<u8>, Vec<u8>>);

impl Table for MemoryTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Found>, TableError> {
        let found = self.0.range(from.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&mut self, batch: Vec<Write>) -> Result<(), TableError> {
        for (key, value) in batch {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), TableError> {
        Ok(())
    }
}

pub(super) struct SledTable {
    // Invariant: `Some` until dropped.
    db: Option<sled::Db>,
    dir: PathBuf,
    // Set when sled must not be asked anything any more.
    broken: std::sync::atomic::AtomicBool,
}

fn guarded<T>(act: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(Err(TableError::Panic))
}

impl SledTable {
    pub(super) fn open(storage: Arc<dyn Storage>, dir: PathBuf) -> Result<Self, TableError> {
        if storage.len(&dir.join("READY"))?.is_none() && !storage.list(&dir)?.is_empty() {
            fs::remove_dir_all(&dir)?;
        }
        storage.create_dir(&dir)?;
        let db = guarded(|| {
            let config = sled::Config::new()
                .path(dir.join("sled"))
                .cache_capacity(CACHE_BYTES)
                .segment_size(SEGMENT_BYTES)
                .mode(sled::Mode::LowSpace)
                .flush_every_ms(None);
            Ok(config.open()?)
        })?;
        let mut table = Self { db: Some(db), dir, broken: false.into() };
        let ready = table.dir.join("READY");
        if storage.len(&ready)?.is_none() {
            table.sync()?;
            storage.create(&ready)?.sync()?;
            storage.sync_dir(&table.dir)?;
        }
        Ok(table)
    }

    fn ask<T>(&self, act: impl FnOnce(&sled::Db) -> Result<T, TableError>) -> Result<T, TableError> {
        let db = self.db.as_ref().filter(|_| !self.broken.load(std::sync::atomic::Ordering::Relaxed));
        let db = db.ok_or(TableError::Panic)?;
        let result = guarded(|| act(db));
        if result.is_err() {
            self.broken.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        result
    }
}

fn seal(value: &[u8]) -> Vec<u8> {
    [&crc32c::crc32c(value).to_le_bytes(), value].concat()
}

fn unseal(sealed: &[u8]) -> Result<Vec<u8>, TableError> {
    let (crc, value) = sealed.split_first_chunk::<4>().ok_or(TableError::Checksum)?;
    if crc32c::crc32c(value) == u32::from_le_bytes(*crc) {
        Ok(value.to_vec())
    } else {
        Err(TableError::Checksum)
    }
}

impl Table for SledTable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        self.ask(|db| db.get(key)?.map(|value| unseal(&value)).transpose())
    }

    fn range(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Found>, TableError> {
        self.ask(|db| {
            let mut found = Vec::new();
            for entry in db.range(from..) {
                let (key, value) = entry?;
                if found.len() >= limit || !key.starts_with(prefix) {
                    break;
                }
                found.push((key.to_vec(), unseal(&value)?));
            }
            Ok(found)
        })
    }

    fn apply(&mut self, batch: Vec<Write>) -> Result<(), TableError> {
        self.ask(|db| {
            let mut sealed = sled::Batch::default();
            for (key, value) in batch {
                match value {
                    Some(value) => sealed.insert(key, seal(&value)),
                    None => sealed.remove(key),
                }
            }
            Ok(db.apply_batch(sealed)?)
        })
    }

    fn sync(&mut self) -> Result<(), TableError> {
        let sled = self.dir.join("sled");
        self.ask(|db| {
            db.flush()?;
            for name in ["conf", "db"] {
                File::open(sled.join(name))?.sync_all()?;
            }
            Ok(File::open(&sled)?.sync_all()?)
        })
    }
}

impl Drop for SledTable {
    fn drop(&mut self) {
        let db = self.db.take();
        let closed = guarded(|| {
            drop(db);
            Ok(())
        });
        if closed.is_err() {
            log::warn!(event = "store.index"; "Index not closed in an orderly way");
        }
    }
}

pub(super) fn set_aside(storage: &dyn Storage, dir: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    let prefix = format!("{name}.bad-");
    let entries = storage.list(parent)?;
    let mut numbers: Vec<u64> =
        entries.iter().filter_map(|entry| entry.name.strip_prefix(&prefix)?.parse().ok()).collect();
    numbers.sort_unstable();
    let next = numbers.last().map_or(1, |last| last.saturating_add(1));
    if entries.iter().any(|entry| entry.name == name) {
        storage.rename(dir, &parent.join(format!("{prefix}{next}")))?;
        numbers.push(next);
    }
    let surplus = numbers.len().saturating_sub(2);
    for number in numbers.iter().take(surplus) {
        fs::remove_dir_all(parent.join(format!("{prefix}{number}")))?;
    }
    storage.sync_dir(parent)
}
