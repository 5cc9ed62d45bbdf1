//! Deletes what nobody needs, when there is too much of it.
//!
//! In: what must stay. Out: fewer bytes. First go chunks that belong to no bundle, then the bundles that were
//! installed longest ago. What serves, is kept for roll-back, is pinned or rolled back to stays whatever the caller
//! says. A removal is journalled before anything is deleted.

use std::collections::BTreeSet;

use agentd_types::{ByteCount, Code, Coded, Digest, ModelName};
use agentd_wire::{Manifest, What};

use super::{Store, lock};
use crate::{DiskError, InstalledBundle, InstalledFact, RecordError};

/// What must stay.
#[derive(Clone, Debug, Default)]
pub struct Keep<'a> {
    /// Bundles, by digest: what runs, is asked for, kept ready or pinned.
    pub bundles: BTreeSet<Digest>,
    /// Manifests of bundles that are being fetched: their chunks stay.
    pub fetching: Vec<&'a Manifest>,
}

/// What was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Bundles: model, version, digest.
    pub bundles: Vec<(ModelName, u64, Digest)>,
    /// Chunks.
    pub chunks: usize,
    /// Bytes of those chunks.
    pub freed: ByteCount,
    /// Bytes of chunks that stay.
    pub used: ByteCount,
}

/// Clean-up stopped; what was deleted before stays deleted, and it may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The disk refused.
    #[error("clean-up stopped")]
    Disk(#[from] DiskError),
    /// A removal was not journalled, so nothing of that bundle was deleted.
    #[error("the removal is not journalled")]
    Journal(#[from] RecordError),
}

impl Coded for CollectError {
    fn code(&self) -> Code {
        match self {
            Self::Disk(source) => source.code(),
            Self::Journal(source) => source.code(),
        }
    }

    fn is_transient(&self) -> bool {
        true
    }
}

impl Store {
    /// Deletes chunks and bundles that are not in `keep` until all chunks take at most `target` bytes; with 0, all
    /// that may go. A target above what is used deletes nothing.
    ///
    /// # Errors
    /// When the disk or the journal refuses.
    pub fn collect(&self, keep: &Keep<'_>, target: ByteCount) -> Result<Collected, CollectError> {
        let _one = lock(&self.changing);
        let mut collected = Collected { used: self.blobs.used()?, ..Collected::default() };
        self.drop_chunks(keep, target, &mut collected)?;
        if collected.used <= target {
            return Ok(collected);
        }
        for (digest, fact) in self.removable(keep) {
            self.remove_one(digest, &fact)?;
            collected.bundles.push((fact.model, fact.version, digest));
            self.drop_chunks(keep, target, &mut collected)?;
            if collected.used <= target {
                break;
            }
        }
        Ok(collected)
    }

    /// Deletes one bundle that nobody asks for any more; refuses, with `false`, one that is in use.
    ///
    /// # Errors
    /// When the disk or the journal refuses.
    pub fn remove_bundle(&self, bundle: &InstalledBundle, keep: &Keep<'_>) -> Result<bool, CollectError> {
        let _one = lock(&self.changing);
        let removable = self.removable(keep);
        let Some((digest, fact)) = removable.into_iter().find(|(digest, _)| *digest == bundle.digest())
        else {
            return Ok(false);
        };
        self.remove_one(digest, &fact)?;
        let mut collected = Collected { used: self.blobs.used()?, ..Collected::default() };
        self.drop_chunks(keep, ByteCount(0), &mut collected)?;
        Ok(true)
    }

    fn remove_one(&self, digest: Digest, fact: &InstalledFact) -> Result<(), CollectError> {
        let (model, version) = (fact.model.clone(), fact.version);
        self.record(What::Removed { model, version, bundle: digest })?;
        self.hide(&digest);
        Ok(self.envelopes.remove(&digest)?)
    }

    /// Bundles that may go, the longest installed first; also those that are not whole any more.
    fn removable(&self, keep: &Keep<'_>) -> Vec<(Digest, InstalledFact)> {
        let mut bundles: Vec<_> = self.with_facts(|facts| {
            let in_use: BTreeSet<Digest> = facts.in_use().into_iter().collect();
            let may_go = |digest: &Digest| !in_use.contains(digest) && !keep.bundles.contains(digest);
            let installed = facts.installed.iter().filter(|(digest, _)| may_go(digest));
            installed.map(|(digest, fact)| (*digest, fact.clone())).collect()
        });
        bundles.sort_by_key(|(_, fact)| fact.seq);
        bundles
    }

    /// Deletes chunks of no bundle while more than `target` is used.
    fn drop_chunks(
        &self,
        keep: &Keep<'_>,
        target: ByteCount,
        collected: &mut Collected,
    ) -> Result<(), CollectError> {
        if collected.used <= target {
            return Ok(());
        }
        let needed = self.needed_chunks(keep);
        let mut dropped = 0;
        for (chunk, len) in self.blobs.held()? {
            if collected.used <= target {
                break;
            }
            if needed.contains(&chunk) {
                continue;
            }
            self.blobs.remove(&chunk)?;
            collected.used = ByteCount(collected.used.0.saturating_sub(len));
            collected.freed = ByteCount(collected.freed.0.saturating_add(len));
            dropped += 1;
        }
        collected.chunks += dropped;
        if dropped > 0 {
            self.blobs.sync_removals()?;
        }
        Ok(())
    }

    /// Chunks of installed bundles, of those that the journal still calls installed though they are damaged, and of
    /// those that are being fetched.
    fn needed_chunks(&self, keep: &Keep<'_>) -> BTreeSet<Digest> {
        let known = self.with_facts(|facts| facts.installed.keys().copied().collect::<Vec<_>>());
        let mut needed = BTreeSet::new();
        for bundle in known {
            match self.live.manifest(&bundle) {
                Some(manifest) => needed.extend(manifest.chunks().map(|chunk| chunk.1)),
                None => {
                    let manifest = self.envelopes.manifest(&bundle).ok();
                    needed.extend(manifest.iter().flat_map(Manifest::chunks).map(|chunk| chunk.1));
                }
            }
        }
        needed.extend(keep.fetching.iter().flat_map(|manifest| manifest.chunks()).map(|chunk| chunk.1));
        needed
    }
}
