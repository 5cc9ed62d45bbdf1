//! What the devices of a fleet say about themselves, put together from retained messages.
//!
//! In: messages on `conn`, `rep/*` and `membership`. Out: a [`Device`] each. Takes nobody's word for more than it is:
//! all of this is unsigned but for memberships, which are shown and not proved.

use std::collections::{BTreeMap, BTreeSet};

use agentd_bundle::Envelope;
use agentd_types::{DeviceId, GroupName, UnixTime, human_duration};
use agentd_wire::{
    AgentFacts, Condition, ConditionStatus, Down, Facts, Filter, HardwareFacts, Kind, Membership,
    ModelStatus, Payload as _, Presence, Report, Section, Target, Topic, Up,
};
use serde::Serialize;

use agentd_types::FleetId;

/// One device.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Device {
    pub(crate) presence: Option<Presence>,
    pub(crate) groups: BTreeSet<GroupName>,
    pub(crate) membership_seq: u64,
    pub(crate) reports: BTreeMap<Section, Report>,
}

/// All devices that have said something.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Inventory {
    pub(crate) devices: BTreeMap<DeviceId, Device>,
    /// Messages that could not be read.
    pub(crate) unreadable: u64,
}

impl Inventory {
    /// What to listen to.
    pub(crate) fn filters(fleet: &FleetId) -> [Filter; 3] {
        [Filter::presences(fleet), Filter::reports(fleet), Filter::memberships(fleet)]
    }

    /// Takes a message in; returns whose it is when it says something new.
    pub(crate) fn take(&mut self, topic: &str, payload: &[u8]) -> Option<DeviceId> {
        match topic.parse() {
            Ok(Topic::Up { device, up: Up::Conn, .. }) => self.take_presence(device, payload),
            Ok(Topic::Up { device, up: Up::Rep(section), .. }) => self.take_report(device, section, payload),
            Ok(Topic::Down { device, down: Down::Membership, .. }) => self.take_membership(device, payload),
            _ => None,
        }
    }

    fn take_presence(&mut self, id: DeviceId, payload: &[u8]) -> Option<DeviceId> {
        if payload.is_empty() {
            self.devices.entry(id.clone()).or_default().presence = None;
            return Some(id);
        }
        let Ok(presence) = Presence::read(payload) else { return self.garbled() };
        let device = self.devices.entry(id.clone()).or_default();
        let news = device.presence.as_ref().is_none_or(|held| held.is_outdone_by(&presence));
        if news {
            device.presence = Some(presence);
        }
        news.then_some(id)
    }

    fn take_report(&mut self, id: DeviceId, section: Section, payload: &[u8]) -> Option<DeviceId> {
        match Report::read(payload) {
            Ok(report) if report.section() == section => {
                self.devices.entry(id.clone()).or_default().reports.insert(section, report);
                Some(id)
            }
            _ => self.garbled(),
        }
    }

    fn take_membership(&mut self, id: DeviceId, payload: &[u8]) -> Option<DeviceId> {
        let envelope = Envelope::read_kind(payload, Kind::Membership).ok();
        let membership =
            envelope.and_then(|envelope| serde_json::from_slice::<Membership>(envelope.payload()).ok());
        match membership {
            Some(membership) if membership.device == id => {
                let device = self.devices.entry(id.clone()).or_default();
                device.groups = membership.groups.into_keys().collect();
                device.membership_seq = membership.seq;
                Some(id)
            }
            _ => self.garbled(),
        }
    }

    fn garbled(&mut self) -> Option<DeviceId> {
        self.unreadable += 1;
        None
    }

    /// The devices that a document for `target` is for. A device that was never heard of is there when it is named.
    pub(crate) fn targeted(&self, target: &Target) -> BTreeMap<DeviceId, Device> {
        match target {
            Target::All => self.devices.clone(),
            Target::Group(group) => {
                let members = self.devices.iter().filter(|(_, device)| device.groups.contains(group));
                members.map(|(id, device)| (id.clone(), device.clone())).collect()
            }
            Target::Device(id) => {
                BTreeMap::from([(id.clone(), self.devices.get(id).cloned().unwrap_or_default())])
            }
        }
    }

    /// The highest number that any device has seen, as `pick` reads it from what a device observed.
    pub(crate) fn highest(&self, pick: impl Fn(&AgentFacts) -> Option<u64>) -> u64 {
        self.devices.values().filter_map(|device| device.agent().and_then(&pick)).max().unwrap_or(0)
    }
}

impl Device {
    /// Whether it is connected.
    pub(crate) const fn is_online(&self) -> bool {
        matches!(self.presence, Some(Presence::Online { .. }))
    }

    /// What the box is.
    pub(crate) fn hardware(&self) -> Option<&HardwareFacts> {
        match &self.reports.get(&Section::Hardware)?.facts {
            Facts::Hardware(facts) => Some(facts),
            _ => None,
        }
    }

    /// What it runs.
    pub(crate) fn models(&self) -> &[ModelStatus] {
        match self.reports.get(&Section::Models).map(|report| &report.facts) {
            Some(Facts::Models(facts)) => &facts.models,
            _ => &[],
        }
    }

    /// Which agent it has, and what that has seen.
    pub(crate) fn agent(&self) -> Option<&AgentFacts> {
        match &self.reports.get(&Section::Agent)?.facts {
            Facts::Agent(facts) => Some(facts),
            _ => None,
        }
    }

    /// What is not well.
    pub(crate) fn complaints(&self) -> Vec<&Condition> {
        let conditions = self.reports.values().flat_map(|report| &report.conditions);
        conditions.filter(|condition| condition.status == ConditionStatus::False).collect()
    }

    /// The newest time that it has told.
    pub(crate) fn last_word(&self) -> Option<UnixTime> {
        let spoken = match &self.presence {
            Some(Presence::Online { at, .. } | Presence::Stopped { at, .. }) => Some(*at),
            Some(Presence::Lost { .. }) | None => None,
        };
        self.reports.values().map(|report| report.at).chain(spoken).max()
    }

    /// How it is connected, in words.
    pub(crate) fn presence_in_words(&self, now: UnixTime) -> String {
        let last = || self.last_word().map_or_else(|| "-".to_owned(), |at| human_duration(now.since(at)));
        match &self.presence {
            Some(Presence::Online { at, .. }) => format!("online {}", human_duration(now.since(*at))),
            Some(Presence::Lost { .. }) => format!("lost, last word {} ago", last()),
            Some(Presence::Stopped { at, .. }) => format!("stopped {} ago", human_duration(now.since(*at))),
            None => "never connected".to_owned(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use agentd_types::{ByteCount, EngineKind};
    use agentd_wire::{ClockState, ModelsFacts};

    use super::*;

    pub(crate) fn conn(device: &str) -> String {
        format!("agentd/1/plant/d/{device}/up/conn")
    }

    pub(crate) fn online(connection: u64) -> Vec<u8> {
        let presence = Presence::Online {
            boot: "b".into(),
            connection,
            agent: "0.1.0".into(),
            protocols: vec![1],
            clock: ClockState::Plausible,
            at: UnixTime(1_000),
        };
        presence.write().unwrap()
    }

    /// A device with so much free, that runs these models.
    pub(crate) fn device(free_memory_mib: u64, models: Vec<ModelStatus>) -> Device {
        let hardware = HardwareFacts {
            free_memory: ByteCount::mib(free_memory_mib),
            free_disk: ByteCount::mib(1_000),
            engines: vec![EngineKind::Cpu],
            ..HardwareFacts::default()
        };
        let report = |facts| Report { at: UnixTime(2_000), facts, conditions: Vec::new() };
        Device {
            presence: Presence::read(&online(1)).ok(),
            reports: BTreeMap::from([
                (Section::Hardware, report(Facts::Hardware(hardware))),
                (Section::Models, report(Facts::Models(ModelsFacts { models }))),
            ]),
            ..Device::default()
        }
    }

    #[test]
    fn a_late_death_is_no_news_and_garbage_is_counted() {
        let mut inventory = Inventory::default();
        assert!(inventory.take(&conn("cam"), &online(2)).is_some());
        let late = Presence::Lost { boot: "b".into(), connection: 1 }.write().unwrap();
        assert!(inventory.take(&conn("cam"), &late).is_none());
        let lost = Presence::Lost { boot: "b".into(), connection: 2 }.write().unwrap();
        assert!(inventory.take(&conn("cam"), &lost).is_some());
        let device = &inventory.devices["cam"];
        assert!(!device.is_online());
        assert_eq!(device.presence_in_words(UnixTime(5_000)), "lost, last word - ago");
        assert!(inventory.take(&conn("cam"), b"garbage").is_none());
        assert!(inventory.take("agentd/1/plant/d/cam/up/rep/health", &online(1)).is_none());
        assert_eq!(inventory.unreadable, 2);
    }
}
