//! Whether there is room, before anything is fetched.

use std::collections::BTreeSet;

use agentd_types::{ByteCount, chain};
use agentd_wire::{Manifest, What};

use super::Store;
use crate::{DiskError, RecordError};

/// Whether a bundle fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub enum Fit {
    /// It does; so many bytes are missing.
    Fits { missing: ByteCount },
    /// The disk has too little free beside the reserve.
    DiskFull { missing: ByteCount, free: ByteCount, reserve: ByteCount },
    /// Chunks would take more than the quota.
    OverQuota { missing: ByteCount, used: ByteCount, quota: ByteCount },
}

/// How the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named with their meaning and units")]
pub struct DiskState {
    pub free: ByteCount,
    pub total: ByteCount,
    /// Bytes of all chunks.
    pub used: ByteCount,
    /// Whether there is too little for downloads.
    pub low: bool,
    /// Whether the ballast takes its room.
    pub ballast: bool,
}

impl Store {
    /// Whether everything of `manifest` that is missing fits on the disk beside the reserve, and in the quota.
    ///
    /// # Errors
    /// When the disk cannot be asked.
    pub fn fits(&self, manifest: &Manifest) -> Result<Fit, DiskError> {
        let held = self.blobs.held()?;
        let mut seen = BTreeSet::new();
        let missing: ByteCount = manifest
            .chunks()
            .filter(|chunk| held.get(&chunk.1) != Some(&chunk.0) && seen.insert(chunk.1))
            .map(|chunk| ByteCount(chunk.0))
            .sum();
        let used: ByteCount = held.into_values().map(ByteCount).sum();
        let free = ByteCount(self.room()?.free);
        let (quota, reserve) = (self.options.quota, self.options.reserve);
        // A file takes whole blocks, 4 KiB on common file systems.
        let on_disk = missing.0.saturating_add(4_096_u64.saturating_mul(seen.len() as u64 + 1));
        if on_disk.saturating_add(reserve.0) > free.0 {
            return Ok(Fit::DiskFull { missing, free, reserve });
        }
        if used.0.saturating_add(missing.0) > quota.0 {
            return Ok(Fit::OverQuota { missing, used, quota });
        }
        Ok(Fit::Fits { missing })
    }

    /// Looks at the disk: journals when it became too full for downloads or no longer is, and makes the ballast again
    /// when there is room. Call it every minute or so, and after a full disk.
    ///
    /// # Errors
    /// When the disk cannot be asked.
    pub fn check_disk(&self) -> Result<DiskState, DiskError> {
        let ballast = self.restore_ballast();
        let room = self.room()?;
        let used = self.blobs.used()?;
        let was_low = self.with_facts(|facts| facts.disk_low);
        let low_water = self.options.low_water.0;
        // A fifth above the mark before it counts as mended, so that it does not flap.
        let mark = if was_low { low_water.saturating_add(low_water / 5) } else { low_water };
        let low = room.free < mark;
        let free = ByteCount(room.free);
        if low != was_low {
            self.tell_low(free, low);
        }
        Ok(DiskState { free, total: ByteCount(room.total), used, low, ballast })
    }

    fn tell_low(&self, free: ByteCount, low: bool) {
        let recorded: Result<_, RecordError> = self.record(What::DiskLow { free, low });
        if let Err(error) = recorded {
            log::warn!(event = "store.disk", error = chain(&error).as_str(); "Low disk not journalled");
        }
    }

    /// Makes the ballast if there is room; says whether it is there.
    pub(super) fn restore_ballast(&self) -> bool {
        let free = self.room().map_or(0, |room| room.free);
        self.ballast.restore(free, self.options.low_water).unwrap_or_else(|error| {
            log::warn!(event = "store.ballast", error = error.to_string().as_str(); "Ballast not made");
            false
        })
    }

    pub(super) fn room(&self) -> Result<crate::Room, DiskError> {
        self.storage.room(&self.dir).map_err(DiskError::at("look at", &self.dir))
    }
}
