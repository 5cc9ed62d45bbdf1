//! What is next for one model: a pure function of what is asked for and what is.

use std::collections::{BTreeMap, BTreeSet};

use agentd_types::Digest;

/// Everything that decides what is next for one model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The version and bundle that the desired state asks for.
    pub(crate) wished: Option<(u64, Digest)>,
    /// Whether any document for this device names the model, expired or not.
    pub(crate) mentioned: bool,
    /// The version at which somebody pinned it.
    pub(crate) pinned: Option<u64>,
    /// A roll-back that holds while the version rolled back from is asked for: from, to.
    pub(crate) rolled_back: Option<(u64, u64)>,
    /// The bundle that answers.
    pub(crate) live: Option<Digest>,
    /// The bundle that answered last, also before a restart.
    pub(crate) last: Option<Digest>,
    /// Bundles of this model that are on disk, by digest, with their versions.
    pub(crate) held: BTreeMap<Digest, u64>,
    /// Bundles that may not run: revoked or quarantined.
    pub(crate) barred: BTreeSet<Digest>,
    /// Whether what answers was placed by another policy than the one in force.
    pub(crate) stale: bool,
    /// Bundles whose next step failed and whose time to try again has not come.
    pub(crate) waiting: BTreeSet<Digest>,
}

/// What is next for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: it is as it should be, or must wait.
    Rest,
    /// Get the bundle.
    Fetch(Digest),
    /// Measure the bundle where that is not done, place it, and let it answer.
    Serve(Digest),
    /// Stop answering.
    Retire,
}

impl Seen {
    /// The bundle that should answer; `None` when none should.
    pub(crate) fn target(&self) -> Option<Digest> {
        if let Some(pinned) = self.pinned.and_then(|version| self.holds_version(version)) {
            return Some(pinned);
        }
        let Some((version, bundle)) = self.wished else {
            // A document that ran out is no order to stop.
            return if self.mentioned { self.fallback() } else { None };
        };
        if let Some((from, to)) = self.rolled_back
            && from == version
            && let Some(bundle) = self.holds_version(to)
        {
            return Some(bundle);
        }
        if self.barred.contains(&bundle) { self.fallback() } else { Some(bundle) }
    }

    /// The next step.
    pub(crate) fn next(&self) -> Step {
        let Some(target) = self.target() else {
            return if self.live.is_some() || self.last.is_some() { Step::Retire } else { Step::Rest };
        };
        if self.live == Some(target) {
            let again = self.stale && !self.waiting.contains(&target);
            return if again { Step::Serve(target) } else { Step::Rest };
        }
        // Something must answer before anything new is tried.
        let standing = self.live.filter(|live| !self.barred.contains(live));
        if standing.is_none()
            && let Some(fallback) = self.fallback()
        {
            return Step::Serve(fallback);
        }
        if !self.waiting.contains(&target) {
            return if self.held.contains_key(&target) { Step::Serve(target) } else { Step::Fetch(target) };
        }
        if standing.is_none() && self.live.is_some() && self.fallback().is_none() {
            Step::Retire
        } else {
            Step::Rest
        }
    }

    /// The best bundle on disk that may run and is not waiting after a failure: what answers or answered last, else the
    /// highest version.
    fn fallback(&self) -> Option<Digest> {
        let able = |bundle: &Digest| {
            self.held.contains_key(bundle) && !self.barred.contains(bundle) && !self.waiting.contains(bundle)
        };
        let standing = [self.live, self.last].into_iter().flatten().find(able);
        standing.or_else(|| {
            let able = self.held.iter().filter(|(bundle, _)| able(bundle));
            able.max_by_key(|(_, version)| **version).map(|(bundle, _)| *bundle)
        })
    }

    fn holds_version(&self, version: u64) -> Option<Digest> {
        self.held
            .iter()
            .find(|(bundle, held)| **held == version && !self.barred.contains(bundle))
            .map(|(bundle, _)| *bundle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(version: u8) -> Digest {
        Digest::of(&[version])
    }

    fn seen(wished: u8, live: u8, held: &[u8]) -> Seen {
        let some = |version: u8| (version > 0).then(|| bundle(version));
        Seen {
            wished: (wished > 0).then(|| (u64::from(wished), bundle(wished))),
            mentioned: wished > 0,
            live: some(live),
            last: some(live),
            held: held.iter().map(|version| (bundle(*version), u64::from(*version))).collect(),
            ..Seen::default()
        }
    }

    #[track_caller]
    fn check(seen: Seen, want: Step) {
        assert_eq!(seen.next(), want, "{seen:?}");
    }

    #[test]
    fn a_model_walks_from_wanted_to_serving_and_rests() {
        check(seen(1, 0, &[]), Step::Fetch(bundle(1)));
        check(seen(1, 0, &[1]), Step::Serve(bundle(1)));
        check(seen(1, 1, &[1]), Step::Rest);
        check(seen(2, 1, &[1]), Step::Fetch(bundle(2)));
        check(seen(2, 1, &[1, 2]), Step::Serve(bundle(2)));
    }

    #[test]
    fn another_policy_for_the_same_bundle_places_it_again() {
        check(Seen { stale: true, ..seen(1, 1, &[1]) }, Step::Serve(bundle(1)));
        check(Seen { stale: true, waiting: [bundle(1)].into(), ..seen(1, 1, &[1]) }, Step::Rest);
    }

    #[test]
    fn after_a_restart_the_last_version_answers_before_anything_is_fetched() {
        let restarted = Seen { live: None, ..seen(2, 1, &[1]) };
        check(restarted.clone(), Step::Serve(bundle(1)));
        // Also when the new version is on disk but was never taken into service.
        check(Seen { held: seen(0, 0, &[1, 2]).held, ..restarted }, Step::Serve(bundle(1)));
    }

    #[test]
    fn a_model_that_nobody_asks_for_is_retired_and_one_whose_document_ran_out_is_not() {
        check(seen(0, 1, &[1]), Step::Retire);
        check(seen(0, 0, &[1]), Step::Rest);
        check(Seen { mentioned: true, ..seen(0, 1, &[1]) }, Step::Rest);
        check(Seen { mentioned: true, live: None, ..seen(0, 1, &[1]) }, Step::Serve(bundle(1)));
    }

    #[test]
    fn a_roll_back_holds_until_another_version_is_asked_for() {
        let back = Seen { rolled_back: Some((2, 1)), ..seen(2, 1, &[1, 2]) };
        check(back.clone(), Step::Rest);
        check(Seen { live: None, ..back.clone() }, Step::Serve(bundle(1)));
        check(Seen { wished: Some((3, bundle(3))), ..back }, Step::Fetch(bundle(3)));
    }

    #[test]
    fn a_pin_holds_whatever_is_asked_for() {
        check(Seen { pinned: Some(1), ..seen(2, 1, &[1, 2]) }, Step::Rest);
        check(Seen { pinned: Some(1), ..seen(2, 2, &[1, 2]) }, Step::Serve(bundle(1)));
        check(Seen { pinned: Some(1), ..seen(0, 1, &[1]) }, Step::Rest);
    }

    #[test]
    fn a_barred_bundle_gives_way_to_the_one_before_or_to_nothing() {
        let barred = |seen: Seen| Seen { barred: [bundle(2)].into(), ..seen };
        check(barred(seen(2, 2, &[1, 2])), Step::Serve(bundle(1)));
        check(barred(seen(2, 1, &[1, 2])), Step::Rest);
        check(barred(seen(2, 2, &[2])), Step::Retire);
        check(barred(seen(2, 0, &[])), Step::Rest);
        check(Seen { pinned: Some(2), ..barred(seen(2, 2, &[1, 2])) }, Step::Serve(bundle(1)));
    }

    #[test]
    fn a_failed_step_waits_while_the_old_version_answers() {
        let waiting = |seen: Seen| Seen { waiting: [bundle(2)].into(), ..seen };
        check(waiting(seen(2, 1, &[1])), Step::Rest);
        check(waiting(seen(2, 1, &[1, 2])), Step::Rest);
        check(
            waiting(Seen { live: None, last: Some(bundle(2)), ..seen(2, 2, &[1, 2]) }),
            Step::Serve(bundle(1)),
        );
    }
}
