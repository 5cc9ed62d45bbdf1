//! Versions that misbehave: three strikes and the bundle may not run here any more.

use std::sync::Arc;

use agentd_serving::{ServingEvent, Subject};
use agentd_types::{Code, chain};
use agentd_wire::What;
use log::warn;

use crate::house::House;

/// Strikes after which a bundle is quarantined.
const STRIKES: u32 = 3;

/// Counts what costs a version its place; the rest is news for the log alone.
pub(crate) async fn take(house: &Arc<House>, event: ServingEvent) {
    match event {
        // The retry of a request that killed one instance already is the same strike.
        ServingEvent::InstanceDied { attempt: 2.., .. } | ServingEvent::Respawned { .. } => {}
        ServingEvent::InstanceDied { of, code, message, .. } => strike(house, of, code, message).await,
        ServingEvent::EngineFailed { of, code, message, untold } => {
            note(house, of, code, message, untold).await;
        }
        ServingEvent::NotFinite { of, output } => {
            let message = format!("finite inputs made `{output}` not finite");
            strike(house, of, Code::new("model.not_finite"), message).await;
        }
        ServingEvent::WrongOutputs { of, message } => {
            strike(house, of, Code::new("model.outputs"), message).await;
        }
        ServingEvent::RespawnFailed { of, code, message, alive: 0 } => strike(house, of, code, message).await,
        ServingEvent::RespawnFailed { of, code, message, alive } => {
            warn!(event = "serving.respawn", model = of.model.as_str(), code = code.as_str(),
                error = message.as_str(), alive; "A worker could not be replaced");
        }
    }
}

/// Journals what is no strike: a caller may bring it about with inputs that the engine cannot take, so it must not cost
/// the others their model.
async fn note(house: &Arc<House>, of: Subject, code: Code, message: String, untold: u64) {
    let Subject { model, version, .. } = of;
    let strikes = house.store.with_facts(|facts| {
        facts.strikes.get(&model).and_then(|versions| versions.get(&version)).copied().unwrap_or(0)
    });
    let message = match untold {
        0 => message,
        n => format!("{message}; {n} requests before it failed as well"),
    };
    record(house, What::WorkerFailed { model, version, code, message, strikes }).await;
}

async fn strike(house: &Arc<House>, of: Subject, code: Code, message: String) {
    let Subject { model, version, bundle } = of;
    let (strikes, barred) = house.store.with_facts(|facts| {
        let before = facts.strikes.get(&model).and_then(|versions| versions.get(&version)).copied();
        (before.unwrap_or(0).saturating_add(1), facts.quarantined.contains_key(&bundle))
    });
    if barred {
        return; // its last requests are still ending
    }
    let failed = What::WorkerFailed {
        model: model.clone(),
        version,
        code: code.clone(),
        message: message.clone(),
        strikes,
    };
    record(house, failed).await;
    if strikes < STRIKES {
        return;
    }
    warn!(event = "bundle.quarantined", model = model.as_str(), version, code = code.as_str(); "Bundle is quarantined");
    let reason = format!("{strikes} strikes; the last: {message}");
    record(house, What::Quarantined { model: model.clone(), version, bundle, code, reason }).await;
    take_previous(house, &model, bundle).await;
}

/// The previous version answers at once, when there is one that may.
async fn take_previous(house: &Arc<House>, model: &agentd_types::ModelName, bundle: agentd_types::Digest) {
    let Some(status) = house.serving.status(model) else { return };
    let Some(previous) = status.previous.filter(|_| status.active.bundle == bundle) else { return };
    let may_run = house.store.with_facts(|facts| !facts.quarantined.contains_key(&previous.bundle))
        && !house.authority.is_revoked(&previous.bundle);
    if !may_run {
        return;
    }
    let serving = What::Serving {
        model: model.clone(),
        version: previous.version,
        bundle: previous.bundle,
        setting: previous.setting,
        previous: None,
    };
    record(house, serving).await;
    if let Err(error) = house.serving.roll_back(model) {
        warn!(event = "serving.roll_back", error = chain(&error).as_str(); "The previous version is gone");
    }
    drop(house.serving.drop_previous(model).await);
}

async fn record(house: &Arc<House>, what: What) {
    if let Err(error) = house.record(what).await {
        warn!(event = "journal.refuses", error = chain(&error).as_str(); "The journal refuses");
    }
}
