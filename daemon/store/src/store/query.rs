//! Questions that the index answers. When it fails on one, an index of the newest events in memory stands in for it
//! until it is made again; the truth is the journal, so nothing is lost by that.

use std::sync::atomic::Ordering;

use agentd_types::{Digest, ModelName};
use agentd_wire::{Event, Profile, Receipt};

use super::{Store, lock};
use crate::{DiskError, index::Index};

impl Store {
    /// Every profile measured of `bundle` on `hardware` while it is installed, one a setting.
    pub fn profiles(&self, bundle: &Digest, hardware: &Digest) -> Vec<Profile> {
        self.with_facts(|facts| {
            let all = facts.profiles.get(bundle).into_iter().flatten();
            all.filter(|profile| profile.hardware == *hardware).cloned().collect()
        })
    }

    /// The last receipt of a model.
    pub fn receipt(&self, model: &ModelName) -> Option<Receipt> {
        self.with_facts(|facts| facts.receipts.get(model).cloned())
    }

    /// Up to `limit` events that concern `model` after position `after`, in order; only the newest while the index waits
    /// to be made again.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn events_of(&self, model: &ModelName, after: u64, limit: usize) -> Result<Vec<Event>, DiskError> {
        let seqs = self.ask_index(|index| index.events_of(model, after, limit)).unwrap_or_default();
        self.journal.pick(&seqs)
    }

    /// How many installed bundles use a chunk.
    pub fn uses_of_chunk(&self, chunk: &Digest) -> usize {
        self.ask_index(|index| index.uses(chunk)).unwrap_or_default()
    }

    /// Every profile ever measured of `bundle` on `hardware`, also from before it was damaged and installed again.
    pub fn profile_history(&self, bundle: &Digest, hardware: &Digest) -> Vec<Profile> {
        self.ask_index(|index| index.profiles(bundle, hardware)).unwrap_or_default()
    }

    /// Puts one in memory in the place of an index that failed while events were applied.
    pub(super) fn replace_broken_index(&self) {
        if self.live.index_broken.load(Ordering::SeqCst) {
            self.demote_index("it failed while in use");
        }
    }

    fn ask_index<T>(&self, ask: impl Fn(&Index) -> Result<T, crate::index::TableError>) -> Option<T> {
        let first = ask(&lock(&self.live.index));
        let error = match first {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        log::warn!(event = "store.index", error = agentd_types::chain(&error).as_str(); "Index failed");
        self.demote_index(&agentd_types::chain(&error));
        let second = ask(&lock(&self.live.index));
        second.ok()
    }
}
