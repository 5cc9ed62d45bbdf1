//! Room that is kept for the moment when the disk is full.
//!
//! A file of a few MiB; deleted when a write finds no room, so that the journal can still say so and clean-up can
//! work; made again when there is room.

use std::{io, path::PathBuf, sync::Arc};

use agentd_types::ByteCount;

use crate::storage::Storage;

#[derive(Debug)]
pub(crate) struct Ballast {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    size: ByteCount,
}

impl Ballast {
    pub(crate) const fn new(storage: Arc<dyn Storage>, path: PathBuf, size: ByteCount) -> Self {
        Self { storage, path, size }
    }

    /// Whether it takes its room now.
    pub(crate) fn is_there(&self) -> bool {
        self.size.0 == 0 || self.storage.len(&self.path).ok().flatten().is_some_and(|len| len >= self.size.0)
    }

    /// Gives its room away; says whether there was any.
    pub(crate) fn release(&self) -> bool {
        let held = self.storage.len(&self.path).ok().flatten().is_some_and(|len| len > 0);
        held && self.storage.remove(&self.path).is_ok()
    }

    /// Takes its room again, if the disk keeps `spare` free beside it. Returns whether it is there now.
    pub(crate) fn restore(&self, free: u64, spare: ByteCount) -> io::Result<bool> {
        if self.is_there() {
            return Ok(true);
        }
        if free < self.size.0.saturating_add(spare.0) {
            return Ok(false);
        }
        match self.storage.reserve(&self.path, self.size.0) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.storage.remove(&self.path)?;
                Err(error)
            }
        }
    }
}
