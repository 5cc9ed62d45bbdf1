//! Everything that is known about this machine, at one moment.
//!
//! In: a [`Root`], the folder that holds the state, the adapters that a probe in a worker process found. Out: an
//! [`Inventory`].

use std::path::Path;

use agentd_types::Adapter;
use serde::{Deserialize, Serialize};

use crate::{Cpu, Disk, Identity, Memory, Power, Root, Sensor, heat};

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The architecture in the kernel's word, such as `x86_64` or `aarch64`.
    pub arch: String,
    /// Release of the kernel; `unknown` when it does not tell.
    pub kernel: String,
    /// The board.
    pub identity: Identity,
    /// The processor.
    pub cpu: Cpu,
    /// Memory at this moment.
    pub memory: Memory,
    /// The disk of the state folder at this moment; `None` when it was not asked for or is not told.
    pub disk: Option<Disk>,
    /// Temperatures at this moment.
    pub sensors: Vec<Sensor>,
    /// Source of power at this moment.
    pub power: Power,
    /// Graphics adapters.
    pub adapters: Vec<Adapter>,
}

impl Inventory {
    /// Reads the machine below `root`. Takes a few milliseconds, so asynchronous callers put it on a blocking thread.
    ///
    /// `state`: the folder whose disk matters. `adapters`: what a worker's probe found; empty when it was not asked.
    pub fn read(root: &Root, state: Option<&Path>, adapters: Vec<Adapter>) -> Self {
        Self {
            arch: root.text("proc/sys/kernel/arch").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            kernel: root.text("proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
            identity: Identity::read(root),
            cpu: Cpu::read(root),
            memory: Memory::read(root),
            disk: state.and_then(Disk::under),
            sensors: heat::sensors(root),
            power: Power::read(root),
            adapters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;

    #[test]
    fn this_machine_has_a_processor_memory_and_a_disk() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = Inventory::read(&Root::system(), Some(folder.path()), Vec::new());
        assert_ne!(inventory.cpu.model, "unknown");
        assert!(inventory.memory.total >= inventory.memory.available, "{:?}", inventory.memory);
        assert!(inventory.memory.available.0 > 0, "{:?}", inventory.memory);
        assert!(inventory.disk.is_some());
        assert_ne!(inventory.kernel, "unknown");
    }

    #[test]
    fn an_empty_tree_is_an_inventory_too() {
        let (_folder, root) = tree(&[]);
        let inventory = Inventory::read(&root, None, Vec::new());
        assert_eq!((inventory.kernel.as_str(), inventory.sensors.len()), ("unknown", 0));
    }
}
