//! Where the power comes from.
//!
//! In: `/sys/class/power_supply`. Out: a [`Power`]. Looks at supplies of the machine itself, not at batteries of mice
//! and keyboards.
//!
//! Source: Linux, Documentation/ABI/testing/sysfs-class-power.

use serde::{Deserialize, Serialize};

use crate::Root;

/// The source of power and what is left in the battery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Power {
    /// The source.
    pub source: PowerSource,
    /// Charge of the emptiest battery in percent; `None` without a battery.
    pub battery_percent: Option<u8>,
}

/// Where the power comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerSource {
    /// The mains, or a machine that has no battery.
    Mains,
    /// A battery that is running down.
    Battery,
}

impl Power {
    /// Reads the power supplies below `root`.
    pub fn read(root: &Root) -> Self {
        let (mut mains, mut discharging, mut battery_percent) = (false, false, None);
        for name in root.names("sys/class/power_supply") {
            let read = |file: &str| root.text(format!("sys/class/power_supply/{name}/{file}"));
            if read("scope").as_deref() == Some("Device") {
                continue;
            }
            if read("type").as_deref() == Some("Battery") {
                discharging |= read("status").as_deref() == Some("Discharging");
                let percent = read("capacity").and_then(|text| text.parse::<u8>().ok()).map(|p| p.min(100));
                battery_percent = [battery_percent, percent].into_iter().flatten().min();
            } else {
                mains |= read("online").is_some_and(|text| text != "0");
            }
        }
        let source = if discharging && !mains { PowerSource::Battery } else { PowerSource::Mains };
        Self { source, battery_percent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;

    #[track_caller]
    fn check(online: &str, status: &str, source: PowerSource) {
        let (_folder, root) = tree(&[
            ("sys/class/power_supply/AC/type", "Mains\n"),
            ("sys/class/power_supply/AC/online", online),
            ("sys/class/power_supply/BAT0/type", "Battery\n"),
            ("sys/class/power_supply/BAT0/status", status),
            ("sys/class/power_supply/BAT0/capacity", "57\n"),
            ("sys/class/power_supply/mouse/type", "Battery\n"),
            ("sys/class/power_supply/mouse/scope", "Device\n"),
            ("sys/class/power_supply/mouse/capacity", "3\n"),
        ]);
        assert_eq!(Power::read(&root), Power { source, battery_percent: Some(57) });
    }

    #[test]
    fn a_machine_runs_on_battery_when_the_battery_runs_down_without_mains() {
        check("1", "Charging\n", PowerSource::Mains);
        check("0", "Discharging\n", PowerSource::Battery);
        check("1", "Discharging\n", PowerSource::Mains);
        let (_folder, root) = tree(&[]);
        assert_eq!(Power::read(&root), Power { source: PowerSource::Mains, battery_percent: None });
    }
}
