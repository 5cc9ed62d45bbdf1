//! The sections of the reported state, made so that they change only when something changed.

use std::{collections::BTreeMap, sync::Arc};

use agentd_types::{ByteCount, Code, Digest, UnixTime};
use agentd_wire::{
    AgentFacts, Condition, ConditionStatus, ConfigFacts, Facts, HardwareFacts, ModelState, ModelStatus,
    ModelsFacts, Observed, Report,
};
use serde_json::{Map, Value};

use crate::{
    house::{ENGINES, House},
    status,
};

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
        engines: ENGINES.to_vec(),
        adapters: inventory.adapters.clone(),
    };
    Report { at: house.clock.now(), facts: Facts::Hardware(facts), conditions: Vec::new() }
}

/// Everything that may change while the daemon runs.
pub(super) fn changing(house: &House) -> Vec<Report> {
    let at = house.clock.now();
    let models: Vec<ModelStatus> = status::device(house).models.into_iter().map(steady).collect();
    let conditions = models.iter().filter_map(|model| failed(model, at)).chain(trust(house, at)).collect();
    let report = |facts, conditions| Report { at, facts, conditions };
    vec![
        report(Facts::Models(ModelsFacts { models }), Vec::new()),
        report(Facts::Health, conditions),
        report(Facts::Config(config(house)), Vec::new()),
        report(Facts::Agent(agent(house)), Vec::new()),
    ]
}

/// The status without what changes with every request; telemetry tells that.
fn steady(mut model: ModelStatus) -> ModelStatus {
    if let Some(serving) = &mut model.serving {
        (serving.p50_us, serving.p99_us, serving.per_second) = (None, None, 0.0);
        (serving.requests, serving.failures) = (0, 0);
    }
    if let ModelState::Fetching { have, .. } = &mut model.state {
        *have = coarse(*have);
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
        message: message.chars().take(512).collect(),
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
