//! What placement needs to know of a machine.
//!
//! In: an inventory and a firmware profile. Out: a [`Machine`], plain numbers that a test can write down.

use agentd_hardware::{FirmwareProfile, Inventory};
use agentd_types::{Adapter, ByteCount, EngineKind};

/// A machine, as placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Processors that may be kept busy; at least 1.
    pub usable_cores: u16,
    /// Most threads for one inference; at least 1.
    pub threads: u16,
    /// Memory that models may take in all, now.
    pub memory: ByteCount,
    /// Engines in this build.
    pub built: Vec<EngineKind>,
    /// Engines that the firmware profile names.
    pub try_engines: Vec<EngineKind>,
    /// Graphics adapters, and why one is not used when that is so.
    pub adapters: Vec<(Adapter, Option<String>)>,
}

impl Machine {
    /// The machine of `inventory` under `profile`, with the engines `built` into the worker.
    ///
    /// `served`: memory that the workers of this daemon hold now and would give back; it counts as free.
    pub fn of(
        inventory: &Inventory,
        profile: &FirmwareProfile,
        built: &[EngineKind],
        served: ByteCount,
    ) -> Self {
        let available = inventory.memory.available.0.saturating_add(served.0).min(inventory.memory.total.0);
        let keep_free = profile.keep_free(&inventory.memory).0;
        let adapters = inventory.adapters.iter();
        Self {
            usable_cores: inventory.cpu.usable_cores.max(1),
            threads: profile.threads(&inventory.cpu),
            memory: ByteCount(available.saturating_sub(keep_free)),
            built: built.to_vec(),
            try_engines: profile.engines.clone(),
            adapters: adapters.map(|adapter| (adapter.clone(), profile.rejects_adapter(adapter))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use agentd_hardware::{Memory, Root};

    use super::*;

    #[test]
    fn models_get_what_is_available_and_served_but_not_what_the_profile_keeps_free() {
        let mut inventory = Inventory::read(&Root::at("/nonexistent"), None, Vec::new());
        let profile: FirmwareProfile =
            "name = 'x'\n[memory]\nkeep_free = '100MiB'\nkeep_free_percent = 10\n[cpu]\nthreads = 2"
                .parse()
                .unwrap();
        let mib = ByteCount::mib;
        for (total, available, served, want) in [
            (500, 400, 0, 300),
            (500, 400, 50, 350),
            (2_000, 400, 0, 200),
            (500, 50, 0, 0),
            (500, 480, 400, 400),
        ] {
            inventory.memory = Memory { total: mib(total), available: mib(available), limited: false };
            let machine = Machine::of(&inventory, &profile, &[EngineKind::Cpu], mib(served));
            assert_eq!(machine.memory, mib(want), "{total} {available} {served}");
            assert_eq!((machine.usable_cores, machine.threads), (1, 1));
        }
    }
}
