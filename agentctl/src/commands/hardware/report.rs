//! What `hardware show` says.

use agentd_hardware::{FirmwareProfile, FirmwareProfiles, Heat, Inventory, PowerSource, QuirkEffect, Sensor};
use agentd_types::{Adapter, AdapterKind, ByteCount};
use serde::Serialize;

/// A machine and the profile that applies to it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Inventory,
    profile: FirmwareProfile,
    /// Whether the graphics drivers were asked.
    adapters_asked: bool,
    /// Most threads for one inference.
    threads: u16,
    /// Memory that models leave to everything else.
    keep_free: ByteCount,
    heat: Heat,
}

impl Report {
    pub(super) fn of(machine: Inventory, profiles: &FirmwareProfiles, adapters_asked: bool) -> Self {
        let profile = profiles.best(&machine);
        let threads = profile.threads(&machine.cpu);
        let keep_free = profile.keep_free(&machine.memory);
        let heat = profile.heat(hottest(&machine, &profile));
        Self { machine, profile, adapters_asked, threads, keep_free, heat }
    }

    /// The report for people: one fact a line.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { machine, profile, .. } = self;
        let unnamed = || "not told by its firmware".to_owned();
        let mut lines = vec![
            line("machine", machine.identity.name().unwrap_or_else(unnamed)),
            line("profile", format!("{}: {}", profile.name, profile.description)),
            line("processor", self.processor()),
            line("features", or_dash(machine.cpu.features.join(" "))),
            line("memory", self.memory()),
        ];
        lines.extend(machine.disk.as_ref().map(|disk| {
            let mount = disk.mount.display();
            line("disk", format!("{}, {} free ({mount}, {})", disk.total, disk.free, disk.file_system))
        }));
        if machine.adapters.is_empty() {
            let none = if self.adapters_asked { "no adapter found" } else { "not asked" };
            lines.push(line("graphics", none.to_owned()));
        }
        lines.extend(machine.adapters.iter().map(|adapter| line("graphics", self.adapter(adapter))));
        lines.push(line("heat", self.heat()));
        lines.push(line("power", self.power()));
        lines.push(line("kernel", format!("{} {}", machine.kernel, machine.arch)));
        lines.extend(profile.quirks.iter().map(|quirk| {
            let effect = match &quirk.effect {
                QuirkEffect::IgnoreSensor(pattern) => format!("sensor {pattern} is not believed"),
                QuirkEffect::IgnoreAdapter(pattern) => format!("adapter {pattern} is not used"),
                QuirkEffect::Tell(text) => text.clone(),
            };
            line("quirk", format!("{effect}: {}", quirk.reason))
        }));
        lines
    }

    fn processor(&self) -> String {
        let cpu = &self.machine.cpu;
        let mut text = format!("{}, {}", cpu.model, count(cpu.physical_cores, "core"));
        if cpu.logical_cores != cpu.physical_cores {
            text.push_str(&format!(" with {}", count(cpu.logical_cores, "thread")));
        }
        if cpu.usable_cores < cpu.logical_cores {
            text.push_str(&format!(", {} usable here", cpu.usable_cores));
        }
        if let Some(mhz) = cpu.max_mhz {
            text.push_str(&format!(", up to {mhz} MHz"));
        }
        if let Some(governor) = &cpu.governor {
            text.push_str(&format!(", governor {governor}"));
        }
        format!("{text}; one inference may use {}", count(self.threads, "thread"))
    }

    fn memory(&self) -> String {
        let memory = &self.machine.memory;
        let limited = if memory.limited { " (limited by a control group)" } else { "" };
        let models = ByteCount(memory.available.0.saturating_sub(self.keep_free.0));
        format!(
            "{}{limited}, {} available, of which models may take {models}",
            memory.total, memory.available
        )
    }

    fn adapter(&self, adapter: &Adapter) -> String {
        let kind = match adapter.kind {
            AdapterKind::Discrete => "discrete",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Virtual => "virtual",
            AdapterKind::Software => "software",
            AdapterKind::Unknown => "of unknown kind",
        };
        let Adapter { name, backend, driver, max_binding, .. } = adapter;
        let used = self
            .profile
            .rejects_adapter(adapter)
            .map_or_else(String::new, |why| format!("; not used: {why}"));
        format!("{name}, {kind}, {backend}, {driver}, buffers up to {max_binding}{used}")
    }

    fn heat(&self) -> String {
        let thermal = &self.profile.thermal;
        let limits = format!("warm from {} C, hot from {} C", thermal.warn_c, thermal.stop_c);
        match hottest(&self.machine, &self.profile) {
            None => format!("no sensor ({limits})"),
            Some(sensor) => {
                let (degrees, tenths) =
                    (sensor.milli_celsius / 1_000, (sensor.milli_celsius % 1_000).abs() / 100);
                let state = match self.heat {
                    Heat::Cool => "cool",
                    Heat::Warm => "warm",
                    Heat::Hot => "hot",
                };
                format!("{state}: {degrees}.{tenths} C at {} ({limits})", sensor.name)
            }
        }
    }

    fn power(&self) -> String {
        let source = match self.machine.power.source {
            PowerSource::Mains => "mains",
            PowerSource::Battery => "battery",
        };
        self.machine
            .power
            .battery_percent
            .map_or_else(|| source.to_owned(), |percent| format!("{source}, battery at {percent} %"))
    }
}

fn hottest<'a>(machine: &'a Inventory, profile: &FirmwareProfile) -> Option<&'a Sensor> {
    let trusted = machine.sensors.iter().filter(|sensor| !profile.ignores_sensor(&sensor.name));
    trusted.max_by_key(|sensor| sensor.milli_celsius)
}

fn line(label: &str, text: String) -> String {
    format!("{label:<10}  {text}")
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn count(n: u16, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use agentd_hardware::Root;

    use super::*;

    fn pi(folder: &Path) -> Inventory {
        for (path, text) in [
            ("proc/sys/kernel/arch", "aarch64"),
            ("proc/sys/kernel/osrelease", "6.12.25+rpt-rpi-2712"),
            ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
            ("proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0"),
            (
                "proc/cpuinfo",
                "processor : 0\nFeatures : asimd asimddp\nCPU implementer : 0x41\nCPU part : 0xd0b\n\nprocessor : 1\nFeatures : asimd asimddp\n",
            ),
            ("proc/meminfo", "MemTotal: 8256080 kB\nMemAvailable: 6291456 kB\n"),
            ("proc/self/status", "Cpus_allowed_list:\t0\n"),
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal"),
            ("sys/class/thermal/thermal_zone0/temp", "79350"),
            ("sys/class/hwmon/hwmon1/name", "rp1_adc"),
            ("sys/class/hwmon/hwmon1/temp1_input", "84000"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand"),
            ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "2400000"),
        ] {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let adapter = |name: &str, kind, driver: &str| Adapter {
            name: name.into(),
            backend: "vulkan".into(),
            driver: driver.into(),
            kind,
            vendor_id: 0x14e4,
            device_id: 0,
            max_binding: ByteCount::mib(128),
            f16: false,
        };
        let adapters = vec![
            adapter("V3D 7.1.7", AdapterKind::Integrated, "V3DV Mesa 24.2.8"),
            adapter("llvmpipe (LLVM 15.0.6, 128 bits)", AdapterKind::Software, "llvmpipe Mesa 24.2.8"),
        ];
        Inventory::read(&Root::at(folder), None, adapters)
    }

    #[test]
    fn a_board_reads_as_one_fact_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let report = Report::of(pi(folder.path()), &FirmwareProfiles::shipped(), true);
        insta::assert_snapshot!(report.lines().join("\n"));
    }
}
