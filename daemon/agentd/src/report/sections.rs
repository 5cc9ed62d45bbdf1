//! The sections of the reported state, made so that they change only when something changed.

use std::{collections::BTreeMap, sync::Arc};

use agentd_types::{ByteCount, Code, Digest, EngineKind, UnixTime};
use agentd_wire::{
    AgentFacts, Condition, ConditionStatus, ConfigFacts, Facts, HardwareFacts, ModelState, ModelStatus,
    ModelsFacts, Observed, Report,
};
use serde_json::{Map, Value};

use crate::{house::House, status};

/// Models that only lie on the disk are told up to this many, so that the list keeps within what a message may have
/// however many models a device has seen.
const MAX_IDLE: usize = 64;
/// Conditions are told up to this many.
const MAX_CONDITIONS: usize = 256;
/// Letters of a failure's message.
const MAX_MESSAGE: usize = 512;

/// What the box is; asked once, since the probe of adapters costs a process.
pub(super) async fn hardware(house: &Arc<House>) -> Report {
    let hardware = house.hardware().await;
    let inventory = &hardware.inventory;
    let disk = inventory.disk.as_ref();
    let free_memory =
        inventory.memory.total.0.saturating_sub(hardware.profile.keep_free(&inventory.memory).0);
    let facts = HardwareFacts {
        fingerprint: Some(hardware.fingerprint),
        board: hardware.profile.name.clone(),
        cpu: inventory.cpu.model.clone(),
        cores: u32::from(inventory.cpu.usable_cores),
        memory: inventory.memory.total,
        free_memory: ByteCount(free_memory),
        disk: disk.map(|disk| disk.total).unwrap_or_default(),
        free_disk: disk.map(|disk| coarse(disk.free)).unwrap_or_default(),
        engines: EngineKind::BUILT_IN.to_vec(),
        adapters: inventory.adapters.clone(),
    };
    Report { at: house.clock.now(), facts: Facts::Hardware(facts), conditions: Vec::new() }
}

/// Everything that may change while the daemon runs.
pub(super) fn changing(house: &House) -> Vec<Report> {
    let at = house.clock.now();
    let models = told(status::device(house).models).into_iter().map(steady).collect::<Vec<_>>();
    let failed = models.iter().filter_map(|model| failed(model, at));
    let conditions = trust(house, at).into_iter().chain(failed).take(MAX_CONDITIONS).collect();
    let report = |facts, conditions| Report { at, facts, conditions };
    vec![
        report(Facts::Models(ModelsFacts { models }), Vec::new()),
        report(Facts::Health, conditions),
        report(Facts::Config(config(house)), Vec::new()),
        report(Facts::Agent(agent(house)), Vec::new()),
    ]
}

/// The models that are asked for or answer, and some of the others.
fn told(mut models: Vec<ModelStatus>) -> Vec<ModelStatus> {
    let mut idle = 0;
    models.retain(|model| {
        let is_idle = model.desired_version.is_none() && model.serving.is_none();
        idle += usize::from(is_idle);
        !is_idle || idle <= MAX_IDLE
    });
    models
}

/// The status without what changes with every request; telemetry tells that.
fn steady(mut model: ModelStatus) -> ModelStatus {
    if let Some(serving) = &mut model.serving {
        (serving.p50_us, serving.p99_us, serving.per_second) = (None, None, 0.0);
        (serving.requests, serving.failures) = (0, 0);
    }
    match &mut model.state {
        ModelState::Fetching { have, .. } => *have = coarse(*have),
        ModelState::Failed { message, .. } => *message = message.chars().take(MAX_MESSAGE).collect(),
        ModelState::Wanted
        | ModelState::Stored
        | ModelState::Measuring { .. }
        | ModelState::Switching
        | ModelState::Serving
        | ModelState::HeldBack
        | ModelState::Retired => {}
    }
    model
}

/// A size in steps of 16 MiB.
const fn coarse(bytes: ByteCount) -> ByteCount {
    ByteCount(bytes.0 >> 24 << 24)
}

fn failed(model: &ModelStatus, at: UnixTime) -> Option<Condition> {
    let ModelState::Failed { code, message } = &model.state else { return None };
    let mut evidence = Map::new();
    evidence.insert("model".to_owned(), Value::from(model.name.as_str()));
    evidence.insert("desired_version".to_owned(), Value::from(model.desired_version));
    evidence.insert("serving_version".to_owned(), Value::from(model.serving.as_ref().map(|s| s.version)));
    Some(Condition {
        r#type: Code::new("model.converged"),
        status: ConditionStatus::False,
        reason: code.clone(),
        message: message.clone(),
        since: at,
        evidence,
    })
}

fn trust(house: &House, at: UnixTime) -> Option<Condition> {
    house.authority.look(agentd_bundle::FleetState::is_recovering).then(|| Condition {
        r#type: Code::new("trust.state"),
        status: ConditionStatus::False,
        reason: Code::new("trust.lost"),
        message: "trust state was lost; what serves goes on, nothing new is taken".to_owned(),
        since: at,
        evidence: Map::new(),
    })
}

fn config(house: &House) -> ConfigFacts {
    // Values of keys that name files of secrets are paths, which stay on the device.
    let changed: BTreeMap<String, Value> = house
        .config
        .settings
        .iter()
        .filter(|(key, setting)| {
            setting.value != key.default && !matches!(key.shape, agentd_config::Shape::Path)
        })
        .map(|(key, setting)| (key.name.to_owned(), Value::from(setting.value.as_str())))
        .collect();
    let digest = serde_json::to_vec(&changed).ok().map(|bytes| Digest::of(&bytes));
    ConfigFacts { digest, changed }
}

fn agent(house: &House) -> AgentFacts {
    let observed = house.authority.look(|state| Observed {
        trust: state.trust_version(),
        catalog: state.catalog_version(),
        membership: state.membership().map(|membership| membership.seq),
        desired: state.desired_seqs().into_iter().map(|(target, seq)| (target.to_string(), seq)).collect(),
        refused: None,
    });
    AgentFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot: house.boot.clone(),
        started: house.started_at,
        observed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(number: u64, desired_version: Option<u64>) -> ModelStatus {
        ModelStatus {
            name: format!("model-{number:04}").parse().unwrap(),
            state: ModelState::Retired,
            desired_version,
            serving: None,
            held: Vec::new(),
            pinned: false,
        }
    }

    #[test]
    fn a_device_that_has_seen_thousands_of_models_tells_of_those_that_count() {
        let models: Vec<_> =
            (0..5_000).map(|number| model(number, (number % 1_000 == 999).then_some(1))).collect();
        let told = told(models);
        assert_eq!(told.iter().filter(|model| model.desired_version.is_some()).count(), 5);
        assert_eq!(told.len(), 5 + MAX_IDLE);
        assert!(told.is_sorted_by(|left, right| left.name < right.name));
    }

    #[test]
    fn a_failure_is_told_shortly() {
        let state = ModelState::Failed { code: Code::new("placement.none"), message: "x".repeat(10_000) };
        let told = steady(ModelStatus { state, ..model(1, Some(1)) });
        assert!(matches!(told.state, ModelState::Failed { message, .. } if message.len() == MAX_MESSAGE));
    }
}
