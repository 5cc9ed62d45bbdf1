//! What is asked often, kept beside the truth and never instead of it.
//!
//! In: events of the journal, in order. Out: which events concern a model, which profiles a bundle has on a
//! hardware, which bundles use a chunk. Lies in sled; whenever sled fails, panics, or does not stand where the journal
//! stands, it is set aside and made again. When even that fails, it lives in memory until the next start.

mod table;

use std::{path::PathBuf, sync::Arc};

use agentd_types::{Digest, EngineKind, ModelName};
use agentd_wire::{Event, Manifest, Profile, What};

pub(crate) use self::table::TableError;
use self::table::{MemoryTable, SledTable, Table, Write};
use crate::{journal::Head, storage::Storage};

/// Where the index lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexKind {
    /// In sled, on disk.
    #[default]
    Sled,
    /// In memory, made at each start.
    Memory,
}

/// Says what a bundle is made of, for the bundles that are kept.
pub(crate) type Manifests<'a> = &'a dyn Fn(&Digest) -> Option<Arc<Manifest>>;

const HEAD: &[u8] = b"h";
const EVENT: u8 = b'e';
const PROFILE: u8 = b'p';
const USE: u8 = b'c';

/// Events of a model that are forgotten with one write.
const PRUNED_AT_ONCE: usize = 1_024;

/// Events written to the table before what it holds is synced.
const SYNC_EVERY: u64 = 4_096;

pub(crate) struct Index {
    table: Box<dyn Table>,
    kind: IndexKind,
    unsynced: u64,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Index {
    /// Opens the index in `dir`, or an empty one.
    pub(crate) fn open(storage: Arc<dyn Storage>, dir: PathBuf, kind: IndexKind) -> Result<Self, TableError> {
        match kind {
            IndexKind::Sled => {
                Ok(Self { table: Box::new(SledTable::open(storage, dir)?), kind, unsynced: 0 })
            }
            IndexKind::Memory => Ok(Self::in_memory()),
        }
    }

    /// An empty index in memory.
    pub(crate) fn in_memory() -> Self {
        Self { table: Box::new(MemoryTable::default()), kind: IndexKind::Memory, unsynced: 0 }
    }

    /// Up to where the journal is in here.
    pub(crate) fn head(&self) -> Result<Option<Head>, TableError> {
        let Some(value) = self.table.get(HEAD)? else { return Ok(None) };
        let (seq, hash) = value.split_first_chunk::<8>().ok_or(TableError::Checksum)?;
        let hash: [u8; 32] = hash.try_into().map_err(|_| TableError::Checksum)?;
        Ok(Some(Head { seq: u64::from_be_bytes(*seq), hash: Digest::from_bytes(hash) }))
    }

    /// Takes the next events, up to `head`.
    pub(crate) fn apply(
        &mut self,
        events: &[Event],
        head: Head,
        manifests: Manifests<'_>,
    ) -> Result<(), TableError> {
        let mut batch = Vec::new();
        for event in events {
            self.gather(event, manifests, &mut batch)?;
        }
        let mut value = head.seq.to_be_bytes().to_vec();
        value.extend_from_slice(head.hash.as_bytes());
        batch.push((HEAD.to_vec(), Some(value)));
        self.table.apply(batch)?;
        self.unsynced += events.len() as u64;
        if self.unsynced >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes durable what is in here. Nothing depends on it but the time of the next start.
    pub(crate) fn sync(&mut self) -> Result<(), TableError> {
        self.unsynced = 0;
        self.table.sync()
    }

    fn gather(
        &self,
        event: &Event,
        manifests: Manifests<'_>,
        batch: &mut Vec<Write>,
    ) -> Result<(), TableError> {
        let model = match &event.what {
            What::Placed { receipt } => Some(&receipt.model),
            other => other.model(),
        };
        if let Some(model) = model {
            batch.push((event_key(model, event.seq), Some(Vec::new())));
        }
        match &event.what {
            What::Measured { profile } => {
                let json = serde_json::to_vec(profile).map_err(|_| TableError::Checksum)?;
                batch.push((profile_key(profile), Some(json)));
            }
            What::Installed { bundle, .. } => {
                for chunk in manifests(bundle).iter().flat_map(|manifest| manifest.chunks().map(|c| c.1)) {
                    batch.push((use_key(&chunk, bundle), Some(Vec::new())));
                }
            }
            What::Removed { bundle, .. } => {
                let prefix = [&[PROFILE], &bundle.as_bytes()[..]].concat();
                let old = self.table.range(&prefix, &prefix, usize::MAX)?;
                batch.extend(old.into_iter().map(|(key, _)| (key, None)));
                for chunk in manifests(bundle).iter().flat_map(|manifest| manifest.chunks().map(|c| c.1)) {
                    batch.push((use_key(&chunk, bundle), None));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Positions of up to `limit` events that concern `model`, above `after`, in order.
    pub(crate) fn events_of(
        &self,
        model: &ModelName,
        after: u64,
        limit: usize,
    ) -> Result<Vec<u64>, TableError> {
        let prefix = event_prefix(model);
        let from = event_key(model, after.saturating_add(1));
        let found = self.table.range(&prefix, &from, limit)?;
        found
            .iter()
            .map(|(key, _)| {
                key.last_chunk::<8>().map(|seq| u64::from_be_bytes(*seq)).ok_or(TableError::Checksum)
            })
            .collect()
    }

    /// Forgets events below position `first`, which the journal has deleted.
    pub(crate) fn prune(&mut self, first: u64) -> Result<(), TableError> {
        let mut from = vec![EVENT];
        // From model to model: the first entry of each tells its name.
        while let Some((key, _)) = self.table.range(&[EVENT], &from, 1)?.pop() {
            let Some((prefix, _)) = key.split_last_chunk::<8>() else { return Err(TableError::Checksum) };
            let old = self.table.range(prefix, prefix, PRUNED_AT_ONCE)?;
            let old = old
                .into_iter()
                .map(|(key, _)| key)
                .filter(|key| key.last_chunk::<8>().is_some_and(|seq| u64::from_be_bytes(*seq) < first));
            let batch: Vec<Write> = old.map(|key| (key, None)).collect();
            let full = batch.len() == PRUNED_AT_ONCE;
            from = [prefix, &[0xFF; 9]].concat();
            if !batch.is_empty() {
                self.table.apply(batch)?;
            }
            if full {
                from = prefix.to_vec();
            }
        }
        Ok(())
    }

    /// Every profile of `bundle` on `hardware`.
    pub(crate) fn profiles(&self, bundle: &Digest, hardware: &Digest) -> Result<Vec<Profile>, TableError> {
        let prefix = [&[PROFILE], &bundle.as_bytes()[..], &hardware.as_bytes()[..]].concat();
        let found = self.table.range(&prefix, &prefix, usize::MAX)?;
        found
            .iter()
            .map(|(_, value)| serde_json::from_slice(value).map_err(|_| TableError::Checksum))
            .collect()
    }

    /// How many installed bundles use `chunk`.
    pub(crate) fn uses(&self, chunk: &Digest) -> Result<usize, TableError> {
        let prefix = [&[USE], &chunk.as_bytes()[..]].concat();
        Ok(self.table.range(&prefix, &prefix, usize::MAX)?.len())
    }
}

fn event_prefix(model: &ModelName) -> Vec<u8> {
    [&[EVENT], model.as_str().as_bytes(), &[0]].concat()
}

fn event_key(model: &ModelName, seq: u64) -> Vec<u8> {
    [&event_prefix(model)[..], &seq.to_be_bytes()].concat()
}

fn use_key(chunk: &Digest, bundle: &Digest) -> Vec<u8> {
    [&[USE], &chunk.as_bytes()[..], &bundle.as_bytes()[..]].concat()
}

fn profile_key(profile: &Profile) -> Vec<u8> {
    let engine = match profile.setting.engine {
        EngineKind::Cpu => 1,
        EngineKind::Gpu => 2,
        EngineKind::Ort => 3,
        EngineKind::Native => 4,
    };
    let (threads, batch) = (profile.setting.threads.to_be_bytes(), profile.setting.batch.to_be_bytes());
    let (bundle, hardware) = (profile.bundle.as_bytes(), profile.hardware.as_bytes());
    [&[PROFILE], &bundle[..], &hardware[..], &[engine], &threads, &batch].concat()
}

/// Moves a broken index out of the way; the two newest are kept for whoever looks into it.
pub(crate) fn set_aside(storage: &dyn Storage, dir: &std::path::Path) -> Result<(), TableError> {
    Ok(table::set_aside(storage, dir)?)
}
