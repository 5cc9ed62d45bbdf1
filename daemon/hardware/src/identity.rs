//! Which board this is, as its firmware tells.
//!
//! In: DMI (`/sys/class/dmi/id`) on PCs, the device tree (`/proc/device-tree`) on boards. Out: an [`Identity`]. Reads
//! no serial numbers.

use serde::{Deserialize, Serialize};

use crate::Root;

/// What makers leave in when they fill nothing in.
const FILLERS: [&str; 9] = [
    "default string",
    "to be filled by o.e.m.",
    "to be filled by oem",
    "system manufacturer",
    "system product name",
    "not applicable",
    "not specified",
    "none",
    "o.e.m.",
];

/// The name of this machine in its network; empty when it cannot be read.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// The board.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// DMI: maker of the system.
    pub sys_vendor: Option<String>,
    /// DMI: product.
    pub product_name: Option<String>,
    /// DMI: family of products.
    pub product_family: Option<String>,
    /// DMI: maker of the board.
    pub board_vendor: Option<String>,
    /// DMI: board.
    pub board_name: Option<String>,
    /// DMI: version of the firmware.
    pub bios_version: Option<String>,
    /// Device tree: the board in words.
    pub model: Option<String>,
    /// Device tree: what the board is compatible with, the most specific first.
    pub compatible: Vec<String>,
}

impl Identity {
    /// Reads the identity below `root`.
    pub fn read(root: &Root) -> Self {
        let dmi = |name: &str| {
            let text = root.text(format!("sys/class/dmi/id/{name}"))?;
            let known = !FILLERS.contains(&text.to_lowercase().as_str());
            known.then_some(text)
        };
        let tree = |name: &str| {
            root.text(format!("proc/device-tree/{name}"))
                .or_else(|| root.text(format!("sys/firmware/devicetree/base/{name}")))
        };
        let compatible = tree("compatible").unwrap_or_default();
        Self {
            sys_vendor: dmi("sys_vendor"),
            product_name: dmi("product_name"),
            product_family: dmi("product_family"),
            board_vendor: dmi("board_vendor"),
            board_name: dmi("board_name"),
            bios_version: dmi("bios_version"),
            model: tree("model"),
            compatible: compatible.split('\0').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        }
    }

    /// The board for people; `None` when the firmware tells nothing, as in most virtual machines and containers.
    pub fn name(&self) -> Option<String> {
        let joined = |vendor: &Option<String>, name: &Option<String>| match (vendor, name) {
            (Some(vendor), Some(name)) => Some(format!("{vendor} {name}")),
            (None, Some(name)) => Some(name.clone()),
            _ => None,
        };
        self.model
            .clone()
            .or_else(|| joined(&self.sys_vendor, &self.product_name))
            .or_else(|| joined(&self.board_vendor, &self.board_name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;

    #[test]
    fn a_board_is_named_by_device_tree_or_dmi_and_fillers_name_nothing() {
        let (_folder, root) = tree(&[
            ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
            ("proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0"),
        ]);
        let board = Identity::read(&root);
        assert_eq!(board.name().as_deref(), Some("Raspberry Pi 5 Model B Rev 1.0"));
        assert_eq!(board.compatible, ["raspberrypi,5-model-b", "brcm,bcm2712"]);

        let (_folder, root) = tree(&[
            ("sys/class/dmi/id/sys_vendor", "To Be Filled By O.E.M.\n"),
            ("sys/class/dmi/id/product_name", "Default string\n"),
            ("sys/class/dmi/id/board_vendor", "ASRock\n"),
            ("sys/class/dmi/id/board_name", "4X4-V1000M\n"),
        ]);
        assert_eq!(Identity::read(&root).name().as_deref(), Some("ASRock 4X4-V1000M"));

        let (_folder, root) = tree(&[]);
        assert_eq!(Identity::read(&root).name(), None);
    }
}
