//! What a person at this machine may change: roll back, pin, try again.

use std::{sync::Arc, time::Duration};

use agentd_store::RecordError;
use agentd_types::{Code, Coded, Digest, ModelName};
use agentd_wire::{Action, RetryResult, RollbackResult, What};
use tokio::time::{Instant, sleep};

use crate::house::{House, lock};

/// How long a version that is on disk but not loaded may take until it answers.
const LOAD_WAIT: Duration = Duration::from_secs(60);

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperateError {
    /// The model does not answer.
    #[error("model `{0}` does not serve on this device")]
    Unknown(ModelName),
    /// There is nothing to go back to.
    #[error("only version {active} of `{model}` is held on this device")]
    NoOther {
        /// The model.
        model: ModelName,
        /// The version that answers.
        active: u64,
    },
    /// The version asked for is not here.
    #[error("version {wanted} of `{model}` is not held on this device; held: {held}")]
    NotHeld {
        /// The model.
        model: ModelName,
        /// The version asked for.
        wanted: u64,
        /// The versions that are.
        held: String,
    },
    /// The version may not run.
    #[error("version {version} of `{model}` may not run here: {reason}")]
    Barred {
        /// The model.
        model: ModelName,
        /// The version.
        version: u64,
        /// Why.
        reason: &'static str,
    },
    /// It is being loaded still.
    #[error("version {version} of `{model}` is still being loaded; it will answer when it is ready")]
    Loading {
        /// The model.
        model: ModelName,
        /// The version.
        version: u64,
    },
    /// There is nothing to try again.
    #[error("nothing of `{0}` is in quarantine or has failed on this device")]
    NothingToRetry(ModelName),
    /// It could not be journalled, so it was not done.
    #[error("the journal refuses")]
    Record(#[from] RecordError),
}

impl Coded for OperateError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::new("model.unknown"),
            Self::NoOther { .. } => Code::new("rollback.no_other"),
            Self::NotHeld { .. } => Code::new("rollback.not_held"),
            Self::Barred { .. } => Code::new("rollback.barred"),
            Self::Loading { .. } => Code::new("rollback.loading"),
            Self::NothingToRetry(_) => Code::new("retry.nothing"),
            Self::Record(error) => error.code(),
        }
    }
}

/// Takes another version that is on this device into service: the previous one at once, any other when it is loaded.
///
/// # Errors
/// When there is none that may run.
pub(crate) async fn roll_back(
    house: &Arc<House>,
    model: &ModelName,
    to: Option<u64>,
    by: &str,
) -> Result<RollbackResult, OperateError> {
    let begun = Instant::now();
    let status = house.serving.status(model).ok_or_else(|| OperateError::Unknown(model.clone()))?;
    let from = status.active.version;
    let (to, bundle) = target(house, model, from, status.previous.as_ref().map(|p| p.version), to)?;
    house.record(What::RolledBack { model: model.clone(), from, to, by: by.to_owned() }).await?;
    match status.previous.filter(|previous| previous.bundle == bundle) {
        Some(previous) => {
            let serving = What::Serving {
                model: model.clone(),
                version: to,
                bundle,
                setting: previous.setting,
                previous: Some(from),
            };
            house.record(serving).await?;
            // Somebody else may have switched meanwhile; the reconciler sees to it.
            drop(house.serving.roll_back(model));
            house.wake.notify_one();
        }
        None => {
            house.wake.notify_one();
            wait_until_live(house, model, to, bundle).await?;
        }
    }
    let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(RollbackResult { from, to, took_us })
}

fn target(
    house: &House,
    model: &ModelName,
    from: u64,
    previous: Option<u64>,
    to: Option<u64>,
) -> Result<(u64, Digest), OperateError> {
    let mut held: Vec<(u64, Digest)> = house
        .store
        .installed_of(model)
        .iter()
        .filter(|bundle| bundle.version() != from)
        .map(|bundle| (bundle.version(), bundle.digest()))
        .collect();
    held.sort_unstable();
    let older = || held.iter().rev().map(|(version, _)| *version).find(|version| *version < from);
    let Some(wanted) = to.or(previous).or_else(older) else {
        return Err(OperateError::NoOther { model: model.clone(), active: from });
    };
    let Some((version, bundle)) = held.iter().copied().find(|(version, _)| *version == wanted) else {
        let held: Vec<String> = held.iter().map(|(version, _)| version.to_string()).collect();
        let held = if held.is_empty() { "none other".to_owned() } else { held.join(", ") };
        return Err(OperateError::NotHeld { model: model.clone(), wanted, held });
    };
    let barred = |reason| OperateError::Barred { model: model.clone(), version, reason };
    if house.authority.is_revoked(&bundle) {
        return Err(barred("the fleet revoked it"));
    }
    if house.store.with_facts(|facts| facts.quarantined.contains_key(&bundle)) {
        return Err(barred("it is quarantined"));
    }
    Ok((version, bundle))
}

async fn wait_until_live(
    house: &House,
    model: &ModelName,
    version: u64,
    bundle: Digest,
) -> Result<(), OperateError> {
    let end = Instant::now() + LOAD_WAIT;
    while house.serving.status(model).is_none_or(|status| status.active.bundle != bundle) {
        if Instant::now() > end {
            return Err(OperateError::Loading { model: model.clone(), version });
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Holds a model at the version that answers, or lets it follow the desired state again.
///
/// # Errors
/// When the model does not answer.
pub(crate) async fn pin(house: &Arc<House>, model: &ModelName, action: Action) -> Result<(), OperateError> {
    let what = match action {
        Action::Pin => {
            let status = house.serving.status(model).ok_or_else(|| OperateError::Unknown(model.clone()))?;
            What::Pinned { model: model.clone(), version: status.active.version }
        }
        Action::Unpin => What::Unpinned { model: model.clone() },
    };
    house.record(what).await?;
    house.wake.notify_one();
    Ok(())
}

/// Lifts the quarantine of a model's bundles and tries at once what failed, for whoever mended the cause. What is
/// tried is proved and measured as ever, and three new strikes put it back.
///
/// # Errors
/// When nothing of the model is in quarantine and nothing failed.
pub(crate) async fn retry(
    house: &Arc<House>,
    model: &ModelName,
    by: &str,
) -> Result<RetryResult, OperateError> {
    let barred: Vec<(Digest, u64)> = house.store.with_facts(|facts| {
        let of = facts.quarantined.iter().filter(|(_, fact)| fact.model == *model);
        of.map(|(bundle, fact)| (*bundle, fact.version)).collect()
    });
    let mut lifted = Vec::new();
    for (bundle, version) in barred {
        let (model, by) = (model.clone(), by.to_owned());
        house.record(What::QuarantineLifted { model, version, bundle, by }).await?;
        lifted.push(version);
    }
    let waited = lock(&house.failures).clear_model(model);
    if lifted.is_empty() && !waited {
        return Err(OperateError::NothingToRetry(model.clone()));
    }
    lifted.sort_unstable();
    house.wake.notify_one();
    Ok(RetryResult { lifted, waited })
}
