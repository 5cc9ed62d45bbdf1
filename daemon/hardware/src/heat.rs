//! Temperatures.
//!
//! In: `/sys/class/thermal` and `/sys/class/hwmon`. Out: [`Sensor`]s. Leaves out sensors that do not answer, as those
//! of powered-down blocks do, and values that no working machine has.

use std::{ops::RangeInclusive, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::Root;

/// A machine that computes is neither colder nor hotter, in thousandths of a degree Celsius.
const PLAUSIBLE: RangeInclusive<i32> = -40_000..=150_000;
/// More sensors than this are not looked at.
const MAX_SENSORS: usize = 64;

/// A temperature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sensor {
    /// The driver's name for it, such as `cpu-thermal` or `k10temp Tctl`.
    pub name: String,
    /// Thousandths of a degree Celsius.
    pub milli_celsius: i32,
}

/// Where a sensor's value is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    value: PathBuf,
}

impl Source {
    /// Its temperature now.
    pub(crate) fn read(&self, root: &Root) -> Option<Sensor> {
        let milli_celsius = root.value(&self.value).filter(|value| PLAUSIBLE.contains(value))?;
        Some(Sensor { name: self.name.clone(), milli_celsius })
    }
}

/// Every place below `root` where a temperature may be read.
pub(crate) fn sources(root: &Root) -> Vec<Source> {
    let mut sources = Vec::new();
    for zone in root.names("sys/class/thermal").into_iter().filter(|name| name.starts_with("thermal_zone")) {
        let folder = PathBuf::from("sys/class/thermal").join(&zone);
        let name = root.text(folder.join("type")).unwrap_or(zone);
        sources.push(Source { name, value: folder.join("temp") });
    }
    for chip in root.names("sys/class/hwmon") {
        let folder = PathBuf::from("sys/class/hwmon").join(&chip);
        let chip_name = root.text(folder.join("name")).unwrap_or(chip);
        for file in root.names(&folder) {
            let Some(input) = file.strip_prefix("temp").and_then(|rest| rest.strip_suffix("_input")) else {
                continue;
            };
            let label = root.text(folder.join(format!("temp{input}_label")));
            let name = label.map_or_else(|| chip_name.clone(), |label| format!("{chip_name} {label}"));
            sources.push(Source { name, value: folder.join(file) });
        }
    }
    sources.truncate(MAX_SENSORS);
    sources
}

/// All temperatures below `root`.
pub(crate) fn sensors(root: &Root) -> Vec<Sensor> {
    sources(root).iter().filter_map(|source| source.read(root)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;

    #[test]
    fn zones_and_chips_are_read_and_implausible_ones_left_out() {
        let (_folder, root) = tree(&[
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "51650\n"),
            ("sys/class/thermal/thermal_zone1/type", "cv0-thermal\n"),
            ("sys/class/thermal/thermal_zone2/type", "broken\n"),
            ("sys/class/thermal/thermal_zone2/temp", "-256000\n"),
            ("sys/class/thermal/cooling_device0/type", "Fan\n"),
            ("sys/class/hwmon/hwmon1/name", "k10temp\n"),
            ("sys/class/hwmon/hwmon1/temp1_input", "48125\n"),
            ("sys/class/hwmon/hwmon1/temp1_label", "Tctl\n"),
            ("sys/class/hwmon/hwmon1/temp2_input", "garbage\n"),
            ("sys/class/hwmon/hwmon1/fan1_input", "900\n"),
        ]);
        let sensor = |name: &str, milli_celsius| Sensor { name: name.into(), milli_celsius };
        assert_eq!(sensors(&root), [sensor("cpu-thermal", 51_650), sensor("k10temp Tctl", 48_125)]);
    }
}
