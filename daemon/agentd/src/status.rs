//! How the device and its models are, put together from what everybody knows.

use std::collections::BTreeMap;

use agentd_bundle::Wish;
use agentd_store::Facts;
use agentd_types::{Code, ModelName};
use agentd_wire::{
    BrokerState, ClockState, DeviceStatus, ErrorDetail, HeldVersion, ModelState, ModelStatus, ServedVersion,
};

use crate::{
    house::{House, lock},
    source::Reach,
};

/// The device and all its models.
pub(crate) fn device(house: &House) -> DeviceStatus {
    let facts = house.store.facts();
    let wishes = house.authority.wishes();
    let (trust_version, catalog_version, recovering) =
        house.authority.look(|state| (state.trust_version(), state.catalog_version(), state.is_recovering()));
    let behind = house.authority.look(|state| state.is_clock_behind(house.clock.now()));
    let free = agentd_hardware::Disk::under(&house.config.device.state)
        .map_or_else(Default::default, |disk| disk.free);
    let degraded = recovering.then(|| ErrorDetail {
        code: Code::new("trust.lost"),
        message: "trust state was lost: what serves goes on, nothing new is taken".to_owned(),
        hint: Some("publish the fleet's newest trust document".to_owned()),
    });
    DeviceStatus {
        device: house.config.device.id.clone(),
        fleet: house.config.device.fleet.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: house.started.elapsed().as_secs(),
        clock: if behind { ClockState::Behind } else { ClockState::Plausible },
        broker: broker(house),
        trust_version,
        catalog_version,
        journal_entries: house.store.journal().head().seq,
        free_disk: free,
        degraded,
        models: names(&wishes, &facts, house).iter().map(|name| of(house, name, &wishes, &facts)).collect(),
    }
}

/// One model; `None` when the device does not know it.
pub(crate) fn model(house: &House, name: &ModelName) -> Option<ModelStatus> {
    let facts = house.store.facts();
    let wishes = house.authority.wishes();
    names(&wishes, &facts, house).contains(name).then(|| of(house, name, &wishes, &facts))
}

fn broker(house: &House) -> BrokerState {
    let Some(broker) = &house.config.broker else { return BrokerState::Off };
    let address = format!("{}:{}", broker.host, broker.port);
    match house.source.reach() {
        Reach::Online { since } => BrokerState::Online { address, since },
        Reach::Offline { since, reason } => {
            let waiting_items = house.store.outbox().len() as u64;
            BrokerState::Offline { address, since, waiting_items, reason }
        }
    }
}

fn names(wishes: &BTreeMap<ModelName, Wish>, facts: &Facts, house: &House) -> Vec<ModelName> {
    let installed = house.store.installed().into_iter().map(|bundle| bundle.model().clone());
    let mut names: Vec<ModelName> =
        wishes.keys().cloned().chain(facts.serving.keys().cloned()).chain(installed).collect();
    names.sort();
    names.dedup();
    names
}

fn of(house: &House, name: &ModelName, wishes: &BTreeMap<ModelName, Wish>, facts: &Facts) -> ModelStatus {
    let deployment = house.serving.status(name);
    let wish = wishes.get(name);
    let ready = |bundle| {
        deployment.as_ref().is_some_and(|deployment| {
            deployment.active.bundle == bundle
                || deployment.previous.as_ref().is_some_and(|previous| previous.bundle == bundle)
        })
    };
    let mut held: Vec<HeldVersion> = house
        .store
        .installed_of(name)
        .iter()
        .map(|bundle| HeldVersion {
            version: bundle.version(),
            bundle: bundle.digest(),
            size: bundle.size(),
            ready: ready(bundle.digest()),
            quarantined: facts.quarantined.contains_key(&bundle.digest()),
        })
        .collect();
    held.sort_by_key(|held| held.version);
    let serving = deployment.as_ref().map(|deployment| {
        let active = &deployment.active;
        ServedVersion {
            version: active.version,
            bundle: active.bundle,
            setting: active.setting,
            instances: u16::try_from(active.instances).unwrap_or(u16::MAX),
            p50_us: active.latency.map(|latency| latency.p50_us),
            p99_us: active.latency.map(|latency| latency.p99_us),
            per_second: active.per_second,
            requests: active.success.saturating_add(active.failure),
            failures: active.failure,
            since: active.since,
        }
    });
    ModelStatus {
        name: name.clone(),
        state: state(house, name, wish, facts, serving.as_ref()),
        desired_version: wish.map(|wish| wish.entry.version),
        serving,
        held,
        pinned: facts.pins.contains_key(name),
    }
}

fn state(
    house: &House,
    name: &ModelName,
    wish: Option<&Wish>,
    facts: &Facts,
    serving: Option<&ServedVersion>,
) -> ModelState {
    if let Some(moving) = house.progress(name) {
        return moving;
    }
    let Some(wish) = wish else {
        return if serving.is_some() { ModelState::Serving } else { ModelState::Retired };
    };
    let bundle = wish.entry.sha256;
    if serving.is_some_and(|serving| serving.bundle == bundle) {
        return ModelState::Serving;
    }
    if let Some(fact) = facts.quarantined.get(&bundle) {
        return ModelState::Failed {
            code: fact.code.clone(),
            message: format!("quarantined: {}", fact.reason),
        };
    }
    if serving.is_some() && (facts.rolled_back.contains_key(name) || facts.pins.contains_key(name)) {
        return ModelState::HeldBack;
    }
    if let Some(failure) = lock(&house.failures).of(name, &bundle) {
        return ModelState::Failed { code: failure.code.clone(), message: failure.message.clone() };
    }
    if house.store.installed_bundle(&bundle).is_some() { ModelState::Stored } else { ModelState::Wanted }
}
