//! The processor: model, vector instructions, cores that we may use.
//!
//! In: `/proc/cpuinfo`, `/proc/self/status`, processor topology in `/sys`, control groups. Out: a [`Cpu`]. Features
//! come from the kernel and not from the processor itself, because the kernel hides those whose registers it
//! does not save.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Root, cgroup};

/// The processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// For example `AMD Ryzen Embedded V1605B with Radeon Vega Gfx` or `Cortex-A76`.
    pub model: String,
    /// Instruction set extensions that matter to tensor kernels, in our names, sorted.
    pub features: Vec<String>,
    /// Cores, not counting two threads of one core twice; at least 1.
    pub physical_cores: u16,
    /// Processors that the kernel schedules on; at least 1.
    pub logical_cores: u16,
    /// Processors that this process may keep busy, by affinity and by quota (rounded down); at least 1.
    pub usable_cores: u16,
    /// The frequency governor, such as `schedutil`; `None` when the frequency is not ours to see.
    pub governor: Option<String>,
    /// The highest frequency, in MHz.
    pub max_mhz: Option<u32>,
}

/// Flags of `/proc/cpuinfo` on x86 and ARM, and our names for them.
const FEATURES: [(&str, &str); 24] = [
    ("sse4_2", "sse4.2"),
    ("avx", "avx"),
    ("avx2", "avx2"),
    ("fma", "fma"),
    ("f16c", "f16c"),
    ("avx_vnni", "avxvnni"),
    ("avx512f", "avx512f"),
    ("avx512bw", "avx512bw"),
    ("avx512dq", "avx512dq"),
    ("avx512vl", "avx512vl"),
    ("avx512_vnni", "avx512vnni"),
    ("avx512_bf16", "avx512bf16"),
    ("avx512_fp16", "avx512fp16"),
    ("amx_int8", "amx-int8"),
    ("amx_bf16", "amx-bf16"),
    ("asimd", "neon"),
    ("neon", "neon"),
    ("asimdhp", "fp16"),
    ("asimddp", "dotprod"),
    ("i8mm", "i8mm"),
    ("bf16", "bf16"),
    ("sve", "sve"),
    ("sve2", "sve2"),
    ("sme", "sme"),
];

/// `CPU part` of ARM Ltd (implementer 0x41).
///
/// Source: Linux, arch/arm64/include/asm/cputype.h.
const ARM_PARTS: [(u32, &str); 17] = [
    (0xd03, "Cortex-A53"),
    (0xd04, "Cortex-A35"),
    (0xd05, "Cortex-A55"),
    (0xd07, "Cortex-A57"),
    (0xd08, "Cortex-A72"),
    (0xd09, "Cortex-A73"),
    (0xd0a, "Cortex-A75"),
    (0xd0b, "Cortex-A76"),
    (0xd0c, "Neoverse-N1"),
    (0xd0d, "Cortex-A77"),
    (0xd40, "Neoverse-V1"),
    (0xd41, "Cortex-A78"),
    (0xd42, "Cortex-A78AE"),
    (0xd46, "Cortex-A510"),
    (0xd47, "Cortex-A710"),
    (0xd49, "Neoverse-N2"),
    (0xd4f, "Neoverse-V2"),
];

impl Cpu {
    /// Reads the processor below `root`.
    pub fn read(root: &Root) -> Self {
        let cpuinfo = root.text("proc/cpuinfo").unwrap_or_default();
        let logical = fields(&cpuinfo, "processor").count().max(1);
        let physical = cores(root, &cpuinfo).unwrap_or(logical).max(1);
        let frequency = "sys/devices/system/cpu/cpu0/cpufreq";
        let max_khz = root.value::<u32>(format!("{frequency}/cpuinfo_max_freq"));
        Self {
            model: model(&cpuinfo),
            features: features(&cpuinfo),
            physical_cores: narrow(physical),
            logical_cores: narrow(logical),
            usable_cores: usable(root, logical),
            governor: root.text(format!("{frequency}/scaling_governor")),
            max_mhz: max_khz.map(|khz| khz / 1_000),
        }
    }
}

fn narrow(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}

/// The values of every `name : value` line.
fn fields<'a>(cpuinfo: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    cpuinfo.lines().filter_map(move |line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn model(cpuinfo: &str) -> String {
    if let Some(name) = fields(cpuinfo, "model name").next() {
        return name.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let hex = |name| u32::from_str_radix(fields(cpuinfo, name).next()?.trim_start_matches("0x"), 16).ok();
    // Boards with fast and slow cores list the slow ones first: the last processor tells the fast kind.
    let part = fields(cpuinfo, "CPU part")
        .last()
        .and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    match (hex("CPU implementer"), part) {
        (Some(0x41), Some(part)) => ARM_PARTS
            .iter()
            .find(|(id, _)| *id == part)
            .map_or_else(|| format!("ARM part {part:#x}"), |(_, name)| (*name).to_owned()),
        (Some(implementer), Some(part)) => format!("implementer {implementer:#x} part {part:#x}"),
        _ => "unknown".to_owned(),
    }
}

/// What all processors have: on boards with two kinds of cores a thread may run on either.
fn features(cpuinfo: &str) -> Vec<String> {
    let lines = fields(cpuinfo, "flags").chain(fields(cpuinfo, "Features"));
    let sets = lines.map(|line| {
        let flags: BTreeSet<&str> = line.split_whitespace().collect();
        let ours = FEATURES.iter().filter(|(flag, _)| flags.contains(flag));
        ours.map(|(_, name)| (*name).to_owned()).collect::<BTreeSet<String>>()
    });
    sets.reduce(|all, next| &all & &next).unwrap_or_default().into_iter().collect()
}

/// Distinct cores, by the topology in `/sys`, else by `/proc/cpuinfo`.
fn cores(root: &Root, cpuinfo: &str) -> Option<usize> {
    let folder = "sys/devices/system/cpu";
    let is_cpu = |name: &String| {
        name.strip_prefix("cpu").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let topology = root.names(folder).into_iter().filter(is_cpu).filter_map(|name| {
        let read = |file: &str| root.text(format!("{folder}/{name}/topology/{file}"));
        Some((
            read("physical_package_id").unwrap_or_default(),
            read("cluster_id").unwrap_or_default(),
            read("core_id")?,
        ))
    });
    let topology: BTreeSet<_> = topology.collect();
    let listed: BTreeSet<_> = fields(cpuinfo, "physical id").zip(fields(cpuinfo, "core id")).collect();
    [topology.len(), listed.len()].into_iter().find(|count| *count > 0)
}

/// Processors that affinity allows, cut to the quota.
fn usable(root: &Root, logical: usize) -> u16 {
    let status = root.text("proc/self/status").unwrap_or_default();
    let allowed = fields(&status, "Cpus_allowed_list").next().and_then(count_list).unwrap_or(logical);
    let quota = cgroup::milli_cpus(root).and_then(|milli| usize::try_from(milli / 1_000).ok());
    narrow(allowed.min(logical).min(quota.unwrap_or(usize::MAX)).max(1))
}

/// How many numbers a list such as `0-3,8` names.
fn count_list(list: &str) -> Option<usize> {
    list.split(',').try_fold(0_usize, |count, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;

    const X86: &str = "processor\t: 0\nmodel name\t: Intel(R) Core(TM)  i5-8259U CPU\nphysical id\t: 0\ncore id\t\t: 0\nflags\t\t: fpu sse4_2 avx avx2 fma f16c avx512_vnni\n\nprocessor\t: 1\nmodel name\t: Intel\nphysical id\t: 0\ncore id\t\t: 0\nflags\t\t: fpu sse4_2 avx avx2 fma f16c avx512_vnni\n";
    const ARM: &str = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n\nprocessor\t: 1\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n";

    #[test]
    fn two_threads_of_one_core_count_once() {
        let (_folder, root) = tree(&[
            ("proc/cpuinfo", X86),
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-1\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3800000\n"),
        ]);
        let cpu = Cpu::read(&root);
        assert_eq!(cpu.model, "Intel(R) Core(TM) i5-8259U CPU");
        assert_eq!(cpu.features, ["avx", "avx2", "avx512vnni", "f16c", "fma", "sse4.2"]);
        assert_eq!((cpu.physical_cores, cpu.logical_cores, cpu.usable_cores), (1, 2, 2));
        assert_eq!((cpu.governor.as_deref(), cpu.max_mhz), (Some("powersave"), Some(3_800)));
    }

    #[test]
    fn an_arm_processor_is_named_by_its_fast_core_and_has_what_all_cores_have() {
        let (_folder, root) = tree(&[
            ("proc/cpuinfo", ARM),
            ("sys/devices/system/cpu/cpu0/topology/core_id", "0"),
            ("sys/devices/system/cpu/cpu1/topology/core_id", "1"),
            ("sys/devices/system/cpu/cpufreq/policy0/x", "1"),
        ]);
        let cpu = Cpu::read(&root);
        assert_eq!(cpu.model, "Cortex-A76");
        assert_eq!(cpu.features, ["dotprod", "neon"]);
        assert_eq!((cpu.physical_cores, cpu.logical_cores), (2, 2));
    }

    #[test]
    fn affinity_and_quota_bound_what_is_usable_and_one_core_is_always_left() {
        for (allowed, quota, want) in [
            ("0-1", "max 100000", 2),
            ("1", "max 100000", 1),
            ("0-1", "150000 100000", 1),
            ("0-1", "50000 100000", 1),
            ("nonsense", "nonsense", 2),
            ("5-2", "0 0", 2),
        ] {
            let status = format!("Cpus_allowed_list:\t{allowed}\n");
            let (_folder, root) = tree(&[
                ("proc/cpuinfo", X86),
                ("proc/self/status", &status),
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/cpu.max", quota),
            ]);
            assert_eq!(Cpu::read(&root).usable_cores, want, "{allowed} {quota}");
        }
    }

    #[test]
    fn an_empty_tree_is_one_unknown_core() {
        let (_folder, root) = tree(&[]);
        let cpu = Cpu::read(&root);
        assert_eq!(
            (cpu.model.as_str(), cpu.physical_cores, cpu.logical_cores, cpu.usable_cores),
            ("unknown", 1, 1, 1)
        );
    }
}
