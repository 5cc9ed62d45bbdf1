//! How busy and how hot the machine is, now.
//!
//! In: `/proc/stat`, `/proc/meminfo` and the sensors that were found once. Out: a [`Load`] for each call. One sample
//! reads a handful of small files, 0.3 ms at opt-level 1 on a slow core, so one every five seconds takes less than
//! 0.01 % of a core.

use agentd_types::ByteCount;
use serde::{Deserialize, Serialize};

use crate::{FirmwareProfile, Memory, Root, Sensor, heat};

/// One sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Share of all processors' time that was not idle since the last sample, in thousandths; `None` in the first
    /// sample.
    pub busy_permille: Option<u16>,
    /// Memory that can still be taken.
    pub available: ByteCount,
    /// The hottest sensor that the profile does not ignore.
    pub hottest: Option<Sensor>,
}

/// Takes samples.
#[derive(Debug)]
pub struct LoadSampler {
    root: Root,
    sources: Vec<heat::Source>,
    last: Option<Ticks>,
}

/// Time of all processors since the start of the machine, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    all: u64,
}

impl LoadSampler {
    /// A sampler of the machine below `root` that looks at the sensors `profile` trusts.
    pub fn new(root: &Root, profile: &FirmwareProfile) -> Self {
        let sources = heat::sources(root).into_iter().filter(|source| !profile.ignores_sensor(&source.name));
        Self { root: root.clone(), sources: sources.collect(), last: None }
    }

    /// The load now.
    pub fn sample(&mut self) -> Load {
        let now = ticks(&self.root.text("proc/stat").unwrap_or_default());
        let busy_permille = self.last.zip(now).and_then(|(last, now)| busy(last, now));
        self.last = now;
        let hottest =
            self.sources.iter().filter_map(|s| s.read(&self.root)).max_by_key(|sensor| sensor.milli_celsius);
        Load { busy_permille, available: Memory::read(&self.root).available, hottest }
    }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = line.split_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
    let idle = times.get(3)?.saturating_add(times.get(4).copied().unwrap_or(0));
    Some(Ticks { idle, all: times.iter().fold(0, |sum, time| sum.saturating_add(*time)) })
}

fn busy(last: Ticks, now: Ticks) -> Option<u16> {
    let all = now.all.checked_sub(last.all).filter(|all| *all > 0)?;
    let idle = now.idle.saturating_sub(last.idle).min(all);
    u16::try_from((all - idle).saturating_mul(1_000) / all).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;

    #[test]
    fn busy_is_what_was_not_idle_between_two_samples() {
        let stat = |user: u64, idle: u64| format!("cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n");
        let (folder, root) = tree(&[
            ("proc/stat", &stat(100, 900)),
            ("proc/meminfo", "MemTotal: 10 kB\nMemAvailable: 5 kB\n"),
            ("sys/class/thermal/thermal_zone0/type", "acpitz"),
            ("sys/class/thermal/thermal_zone0/temp", "99000"),
            ("sys/class/thermal/thermal_zone1/type", "x86_pkg_temp"),
            ("sys/class/thermal/thermal_zone1/temp", "61000"),
        ]);
        let profile: FirmwareProfile =
            "name = 'x'\n[[quirk]]\nignore_sensor = 'acpi*'\nreason = 'constant'".parse().unwrap();
        let mut sampler = LoadSampler::new(&root, &profile);
        let first = sampler.sample();
        assert_eq!((first.busy_permille, first.available), (None, ByteCount(5_120)));
        assert_eq!(first.hottest.map(|sensor| sensor.name).as_deref(), Some("x86_pkg_temp"));
        std::fs::write(folder.path().join("proc/stat"), stat(125, 975)).unwrap();
        assert_eq!(sampler.sample().busy_permille, Some(250));
        assert_eq!(sampler.sample().busy_permille, None, "no time has passed");
    }

    #[test]
    fn a_sample_of_this_machine_takes_less_than_a_hundredth_of_a_second() {
        let mut sampler = LoadSampler::new(&Root::system(), &FirmwareProfile::unknown());
        let start = std::time::Instant::now();
        for _ in 0..100 {
            assert!(sampler.sample().available.0 > 0);
        }
        println!("a sample takes {:?}", start.elapsed() / 100);
        assert!(start.elapsed().as_secs() < 1);
    }
}
