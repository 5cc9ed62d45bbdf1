//! Steps that failed, and when they may be tried again. Forgotten at a restart: trying again then is right.

use std::{collections::BTreeMap, time::Duration};

use agentd_types::{Code, Digest, ModelName};
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(300);

/// Steps that failed, by model and bundle.
#[derive(Debug, Default)]
pub(crate) struct Failures(BTreeMap<(ModelName, Digest), Failure>);

/// A step that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) until: Instant,
    pause: Duration,
}

impl Failures {
    /// Remembers a failure; every further one of the same bundle doubles the pause, from 1 s to 5 min. Returns
    /// whether it is another failure than the last time.
    pub(crate) fn add(&mut self, model: &ModelName, bundle: Digest, code: Code, message: String) -> bool {
        let key = (model.clone(), bundle);
        let before = self.0.get(&key);
        let is_new = before.is_none_or(|before| before.code != code);
        let pause = before.map_or(FIRST_PAUSE, |before| (before.pause * 2).min(LAST_PAUSE));
        self.0.insert(key, Failure { code, message, until: Instant::now() + pause, pause });
        is_new
    }

    /// The step succeeded.
    pub(crate) fn clear(&mut self, model: &ModelName, bundle: Digest) {
        self.0.remove(&(model.clone(), bundle));
    }

    /// Something changed that may make any step succeed: nobody waits any longer.
    pub(crate) fn clear_all(&mut self) {
        self.0.clear();
    }

    /// Nobody waits any longer for this model; returns whether anybody did.
    pub(crate) fn clear_model(&mut self, model: &ModelName) -> bool {
        let before = self.0.len();
        self.0.retain(|(of, _), _| of != model);
        self.0.len() < before
    }

    /// The failure of a bundle, waiting or not.
    pub(crate) fn of(&self, model: &ModelName, bundle: &Digest) -> Option<&Failure> {
        self.0.get(&(model.clone(), *bundle))
    }

    /// Bundles of a model that must wait still.
    pub(crate) fn waiting(&self, model: &ModelName) -> impl Iterator<Item = Digest> {
        let now = Instant::now();
        self.0
            .iter()
            .filter(move |((of, _), failure)| of == model && failure.until > now)
            .map(|((_, b), _)| *b)
    }

    /// When the next wait ends.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        let now = Instant::now();
        self.0.values().map(|failure| failure.until).filter(|until| *until > now).min()
    }
}
