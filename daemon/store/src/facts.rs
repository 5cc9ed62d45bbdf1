//! What the journal says is so: a pure fold over its events.
//!
//! In: events in order. Out: what is installed, measured, chosen, serving, pinned, quarantined. Knows no clock, disk
//! or network; a snapshot of the journal is these facts and nothing else, and
//! `fold(snapshot, tail) == fold(everything)`.

use std::collections::BTreeMap;

use agentd_types::{ByteCount, Code, Digest, ModelName, Setting, UnixTime};
use agentd_wire::{Event, Profile, Receipt, What};
use serde::{Deserialize, Serialize};

/// Most bundles whose quarantine is remembered; the oldest are forgotten beyond.
pub const MAX_QUARANTINED: usize = 4_096;

/// Everything that follows from the journal up to [`Facts::seq`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Position of the last event that is in here, 0 for none.
    pub seq: u64,
    /// When that event was written.
    pub at: UnixTime,
    /// How often the daemon started.
    pub starts: u64,
    /// Whether the last run ended in an orderly way (or there was none).
    pub stopped: bool,
    /// Whether the disk was too full for downloads when last looked at.
    pub disk_low: bool,
    /// Bundles that are whole, proved and kept, by digest.
    pub installed: BTreeMap<Digest, InstalledFact>,
    /// The highest version of each model that was ever installed.
    pub highest: BTreeMap<ModelName, u64>,
    /// Transfers that began and did not end, by bundle.
    pub fetching: BTreeMap<Digest, FetchFact>,
    /// What was measured of each bundle that is kept: the last profile of each (setting, hardware).
    pub profiles: BTreeMap<Digest, Vec<Profile>>,
    /// The last receipt of each model.
    pub receipts: BTreeMap<ModelName, Receipt>,
    /// What answers requests.
    pub serving: BTreeMap<ModelName, ServingFact>,
    /// Roll-backs that still hold: the model serves another version than was asked for.
    pub rolled_back: BTreeMap<ModelName, RollbackFact>,
    /// Models that stay at a version until they are unpinned.
    pub pins: BTreeMap<ModelName, u64>,
    /// Bundles that may not run here, by digest; at most [`MAX_QUARANTINED`].
    pub quarantined: BTreeMap<Digest, QuarantineFact>,
    /// Strikes of each version of each model so far.
    pub strikes: BTreeMap<ModelName, BTreeMap<u64, u32>>,
}

/// A bundle that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct InstalledFact {
    pub model: ModelName,
    pub version: u64,
    pub at: UnixTime,
    /// Position of the event in the journal; orders installs even when the clock jumps.
    pub seq: u64,
}

/// A transfer that began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct FetchFact {
    pub model: ModelName,
    pub version: u64,
    pub missing: ByteCount,
}

/// What answers requests for a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct ServingFact {
    pub version: u64,
    pub bundle: Digest,
    pub setting: Setting,
    /// The version that is kept ready.
    pub previous: Option<u64>,
    pub at: UnixTime,
    pub seq: u64,
}

/// A roll-back that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct RollbackFact {
    pub from: u64,
    pub to: u64,
    pub by: String,
    pub at: UnixTime,
}

/// Why a bundle may not run here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct QuarantineFact {
    pub model: ModelName,
    pub version: u64,
    pub code: Code,
    pub reason: String,
    pub at: UnixTime,
    pub seq: u64,
}

impl Facts {
    /// The facts that follow from `events`, which start at the journal's first.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut facts = Self { stopped: true, ..Self::default() };
        events.into_iter().for_each(|event| facts.apply(event));
        facts
    }

    /// Takes the next event. One that is already in here (by its position) changes nothing.
    pub fn apply(&mut self, event: &Event) {
        if event.seq <= self.seq {
            return;
        }
        (self.seq, self.at) = (event.seq, event.at);
        self.take(event);
    }

    /// Passes over an event of a kind that this version does not know.
    pub(crate) const fn pass(&mut self, seq: u64) {
        if seq > self.seq {
            self.seq = seq;
        }
    }

    fn take(&mut self, event: &Event) {
        let (seq, at) = (event.seq, event.at);
        match &event.what {
            What::Started { .. } => {
                self.starts = self.starts.saturating_add(1);
                self.stopped = false;
            }
            What::Stopped => self.stopped = true,
            What::DiskLow { low, .. } => self.disk_low = *low,
            What::FetchStarted { model, version, bundle, missing } => {
                let fetch = FetchFact { model: model.clone(), version: *version, missing: *missing };
                self.fetching.retain(|_, other| other.model != *model);
                self.fetching.insert(*bundle, fetch);
            }
            What::Installed { model, version, bundle } => {
                self.fetching.remove(bundle);
                let highest = self.highest.entry(model.clone()).or_default();
                *highest = (*highest).max(*version);
                let fact = InstalledFact { model: model.clone(), version: *version, at, seq };
                self.installed.entry(*bundle).or_insert(fact);
            }
            What::Measured { profile } => self.keep_profile(profile),
            What::Placed { receipt } => {
                self.receipts.insert(receipt.model.clone(), (**receipt).clone());
            }
            What::Serving { model, version, bundle, setting, previous } => {
                if self.rolled_back.get(model).is_some_and(|held| held.to != *version) {
                    self.rolled_back.remove(model);
                }
                let (version, bundle, setting, previous) = (*version, *bundle, *setting, *previous);
                let fact = ServingFact { version, bundle, setting, previous, at, seq };
                self.serving.insert(model.clone(), fact);
            }
            What::RolledBack { model, from, to, by } => {
                let fact = RollbackFact { from: *from, to: *to, by: by.clone(), at };
                self.rolled_back.insert(model.clone(), fact);
            }
            What::Pinned { model, version } => {
                self.pins.insert(model.clone(), *version);
            }
            What::Unpinned { model } => {
                self.pins.remove(model);
            }
            What::WorkerFailed { model, version, strikes, .. } => {
                self.strikes.entry(model.clone()).or_default().insert(*version, *strikes);
            }
            What::Quarantined { model, version, bundle, code, reason } => {
                let (model, code, reason) = (model.clone(), code.clone(), reason.clone());
                let fact = QuarantineFact { model, version: *version, code, reason, at, seq };
                self.quarantine(*bundle, fact);
            }
            What::QuarantineLifted { model, version, bundle, .. } => {
                self.quarantined.remove(bundle);
                self.forget_strikes(model, *version);
            }
            What::Retired { model } => {
                self.serving.remove(model);
                self.rolled_back.remove(model);
                self.receipts.remove(model);
            }
            What::Removed { model, version, bundle } => self.forget(model, *version, bundle),
            _ => {}
        }
    }

    /// The last profile wins its (setting, hardware); those of bundles that are not kept are not remembered.
    fn keep_profile(&mut self, profile: &Profile) {
        if !self.installed.contains_key(&profile.bundle) {
            return;
        }
        let profiles = self.profiles.entry(profile.bundle).or_default();
        profiles.retain(|old| (old.setting, old.hardware) != (profile.setting, profile.hardware));
        profiles.push(profile.clone());
    }

    fn quarantine(&mut self, bundle: Digest, fact: QuarantineFact) {
        self.quarantined.insert(bundle, fact);
        while self.quarantined.len() > MAX_QUARANTINED {
            let oldest = self.quarantined.iter().min_by_key(|(_, fact)| fact.seq).map(|(bundle, _)| *bundle);
            let Some(oldest) = oldest else { return };
            self.quarantined.remove(&oldest);
        }
    }

    fn forget(&mut self, model: &ModelName, version: u64, bundle: &Digest) {
        self.installed.remove(bundle);
        self.fetching.remove(bundle);
        self.profiles.remove(bundle);
        self.forget_strikes(model, version);
    }

    fn forget_strikes(&mut self, model: &ModelName, version: u64) {
        if let Some(strikes) = self.strikes.get_mut(model) {
            strikes.remove(&version);
            if strikes.is_empty() {
                self.strikes.remove(model);
            }
        }
    }

    /// The bundle of `model` in `version` that is kept, the newest install first.
    pub fn bundle_of(&self, model: &ModelName, version: u64) -> Option<Digest> {
        self.installed
            .iter()
            .filter(|(_, fact)| fact.model == *model && fact.version == version)
            .max_by_key(|(_, fact)| fact.seq)
            .map(|(bundle, _)| *bundle)
    }

    /// Strikes of `model` in `version` so far.
    pub fn strikes_of(&self, model: &ModelName, version: u64) -> u32 {
        self.strikes.get(model).and_then(|versions| versions.get(&version)).copied().unwrap_or(0)
    }

    /// Whether `bundle` may not run here.
    pub fn is_quarantined(&self, bundle: &Digest) -> bool {
        self.quarantined.contains_key(bundle)
    }

    /// The bundles that must not be deleted whatever the quota says: what serves, what is kept for roll-back, and
    /// what is pinned or rolled back to.
    pub fn in_use(&self) -> Vec<Digest> {
        let serving = self.serving.values().map(|fact| fact.bundle);
        let previous = self.serving.iter().filter_map(|(model, fact)| Some((model, fact.previous?)));
        let held = self.rolled_back.iter().map(|(model, fact)| (model, fact.to));
        let pinned = self.pins.iter().map(|(model, version)| (model, *version));
        let by_version =
            previous.chain(held).chain(pinned).filter_map(|(model, version)| self.bundle_of(model, version));
        serving.chain(by_version).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lifts_a_quarantine_gives_the_bundle_all_its_strikes_back() {
        let (model, bundle): (ModelName, _) = ("demo/digits".parse().unwrap(), Digest::of(b"1"));
        let (code, message) = (Code::new("worker.died"), "killed".to_owned());
        let events = [
            What::WorkerFailed { model: model.clone(), version: 1, code: code.clone(), message, strikes: 3 },
            What::Quarantined { model: model.clone(), version: 1, bundle, code, reason: String::new() },
        ];
        let mut facts = Facts::default();
        for (seq, what) in (1..).zip(events) {
            facts.apply(&Event { seq, at: UnixTime(1), what });
        }
        assert!(facts.is_quarantined(&bundle) && facts.strikes_of(&model, 1) == 3);
        let what = What::QuarantineLifted { model: model.clone(), version: 1, bundle, by: "agentctl".into() };
        facts.apply(&Event { seq: 3, at: UnixTime(2), what });
        assert!(!facts.is_quarantined(&bundle) && facts.strikes_of(&model, 1) == 0);
    }
}
