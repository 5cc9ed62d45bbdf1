//! Firmware profiles: what a kind of board needs that it does not tell by itself.
//!
//! In: TOML. Out: a checked [`FirmwareProfile`]. Refuses unknown keys, values out of range and quirks without a
//! reason, and names every problem of a file at once.

mod catalogue;
mod raw;

use agentd_types::{Adapter, AdapterKind, ByteCount, EngineKind};
use serde::{Deserialize, Serialize};

pub use catalogue::{FirmwareProfiles, FolderProblem};
pub use raw::ProfileError;

use crate::{Cpu, Inventory, Memory, Sensor, glob};

/// What a kind of board needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareProfile {
    /// The profile's name, such as `raspberry-pi-5`.
    pub name: String,
    /// What boards it is for, in words.
    pub description: String,
    /// A machine is meant when one of these matches; empty: never by itself.
    matches: Vec<Match>,
    /// Memory that models leave to everything else on the machine.
    keep_free: ByteCount,
    /// The same as a share of all memory, in percent; the greater counts.
    keep_free_percent: u8,
    /// Most threads for one inference; `None`: as many as there are cores.
    threads: Option<u16>,
    /// Temperatures to heed.
    pub thermal: Thermal,
    /// Engines to try, in this order in tables.
    pub engines: Vec<EngineKind>,
    /// What is odd about these boards.
    pub quirks: Vec<Quirk>,
}

/// Facts that must all match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Match {
    pub(crate) arch: Option<String>,
    /// Patterns in which `*` stands for any text.
    pub(crate) globs: Vec<(Fact, String)>,
}

/// What a pattern is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fact {
    CpuModel,
    SysVendor,
    ProductName,
    ProductFamily,
    BoardVendor,
    BoardName,
    Model,
    Compatible,
}

/// How well a profile fits; the greater is the more specific.
type Fit = (usize, usize, bool);

/// Temperatures of the processor, in degrees Celsius.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thermal {
    /// From here on the machine is warm: nothing is measured, since figures would be those of a slowed processor.
    pub warn_c: u8,
    /// From here on it slows itself down or turns itself off.
    pub stop_c: u8,
}

/// How hot a machine is by the limits of its profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heat {
    /// Below the limits, or no sensor tells.
    Cool,
    /// Measurements would not be those of a cool machine.
    Warm,
    /// The machine slows itself down, or will soon.
    Hot,
}

/// Something odd about a kind of board, and what we do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quirk {
    /// What we do.
    pub effect: QuirkEffect,
    /// Why.
    pub reason: String,
}

/// What a quirk makes us do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuirkEffect {
    /// Sensors whose names match are not believed.
    IgnoreSensor(String),
    /// Graphics adapters whose names match are not used.
    IgnoreAdapter(String),
    /// Nothing by ourselves: `hardware show` and `doctor` tell it to people.
    Tell(String),
}

impl FirmwareProfile {
    /// What is assumed of a machine that no profile is for.
    pub fn unknown() -> Self {
        Self {
            name: "unknown".to_owned(),
            description: "no profile is for this machine".to_owned(),
            matches: Vec::new(),
            keep_free: ByteCount::mib(256),
            keep_free_percent: 10,
            threads: None,
            thermal: Thermal { warn_c: 80, stop_c: 90 },
            engines: vec![EngineKind::Cpu],
            quirks: Vec::new(),
        }
    }

    /// Memory that models leave to everything else on a machine with this `memory`.
    pub fn keep_free(&self, memory: &Memory) -> ByteCount {
        let share = memory.total.0 / 100 * u64::from(self.keep_free_percent);
        self.keep_free.max(ByteCount(share))
    }

    /// Most threads for one inference on this processor; at least 1. Two threads of one core count once, because they
    /// share the units that multiply.
    pub fn threads(&self, cpu: &Cpu) -> u16 {
        cpu.usable_cores.min(cpu.physical_cores).min(self.threads.unwrap_or(u16::MAX)).max(1)
    }

    /// How hot the machine is when `sensor` is its hottest.
    pub fn heat(&self, sensor: Option<&Sensor>) -> Heat {
        let celsius = sensor.map_or(i32::MIN, |sensor| sensor.milli_celsius / 1_000);
        if celsius >= i32::from(self.thermal.stop_c) {
            Heat::Hot
        } else if celsius >= i32::from(self.thermal.warn_c) {
            Heat::Warm
        } else {
            Heat::Cool
        }
    }

    /// Whether a quirk says not to believe the sensor of this name.
    pub fn ignores_sensor(&self, name: &str) -> bool {
        self.quirks.iter().any(|quirk| match &quirk.effect {
            QuirkEffect::IgnoreSensor(pattern) => glob::matches(pattern, name),
            QuirkEffect::IgnoreAdapter(_) | QuirkEffect::Tell(_) => false,
        })
    }

    /// Why `adapter` is not used, when a quirk says so. Software adapters are for tests and never used by themselves.
    pub fn rejects_adapter(&self, adapter: &Adapter) -> Option<String> {
        if adapter.kind == AdapterKind::Software {
            return Some("it computes on the processor".to_owned());
        }
        self.quirks.iter().find_map(|quirk| match &quirk.effect {
            QuirkEffect::IgnoreAdapter(pattern) if glob::matches(pattern, &adapter.name) => {
                Some(quirk.reason.clone())
            }
            _ => None,
        })
    }

    /// How well this profile fits the machine; `None` when it is for others.
    fn fit(&self, machine: &Inventory) -> Option<Fit> {
        self.matches.iter().filter_map(|facts| facts.fit(machine)).max()
    }
}

impl Match {
    fn fit(&self, machine: &Inventory) -> Option<Fit> {
        let arch = self.arch.as_ref().is_none_or(|arch| *arch == machine.arch);
        let all = self
            .globs
            .iter()
            .all(|(fact, pattern)| fact.of(machine).any(|text| glob::matches(pattern, text)));
        let said = self.globs.iter().map(|(_, pattern)| glob::weight(pattern)).sum();
        (arch && all).then_some((self.globs.len(), said, self.arch.is_some()))
    }
}

impl Fact {
    fn of(self, machine: &Inventory) -> impl Iterator<Item = &str> {
        let board = &machine.identity;
        let (one, many) = match self {
            Self::CpuModel => (Some(&machine.cpu.model), None),
            Self::SysVendor => (board.sys_vendor.as_ref(), None),
            Self::ProductName => (board.product_name.as_ref(), None),
            Self::ProductFamily => (board.product_family.as_ref(), None),
            Self::BoardVendor => (board.board_vendor.as_ref(), None),
            Self::BoardName => (board.board_name.as_ref(), None),
            Self::Model => (board.model.as_ref(), None),
            Self::Compatible => (None, Some(&board.compatible)),
        };
        one.into_iter().chain(many.into_iter().flatten()).map(String::as_str)
    }
}
