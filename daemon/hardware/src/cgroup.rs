//! The limits that control groups put on this process.
//!
//! In: `/proc/self/cgroup` and the trees below `/sys/fs/cgroup`, version 1 or 2. Out: the tightest limit on the way
//! from our group up to the root.
//!
//! Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.

use std::path::{Component, Path, PathBuf};

use crate::Root;

/// Memory that may be used and memory in use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    pub(crate) limit: u64,
    /// Without page cache that the kernel gives back first.
    pub(crate) used: u64,
}

/// The tightest memory limit, by what is left below it.
pub(crate) fn memory(root: &Root) -> Option<MemoryLimit> {
    let limits = groups(root, "memory").into_iter().filter_map(|group| {
        let (limit, used, cache) = if root.path(group.join("memory.max")).exists() {
            ("memory.max", "memory.current", "inactive_file ")
        } else {
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
        };
        let limit = root.value::<u64>(group.join(limit))?;
        let used = root.value::<u64>(group.join(used)).unwrap_or_default();
        let stat = root.text(group.join("memory.stat")).unwrap_or_default();
        let cached = stat.lines().find_map(|line| line.strip_prefix(cache)?.trim().parse().ok());
        Some(MemoryLimit { limit, used: used.saturating_sub(cached.unwrap_or(0)) })
    });
    limits.min_by_key(|limit| limit.limit.saturating_sub(limit.used))
}

/// The tightest processor quota, in thousandths of a processor.
pub(crate) fn milli_cpus(root: &Root) -> Option<u64> {
    let quotas = groups(root, "cpu").into_iter().filter_map(|group| {
        let (quota, period) = match root.text(group.join("cpu.max")) {
            Some(text) => {
                let (quota, period) = text.split_once(' ')?;
                (quota.parse::<u64>().ok()?, period.trim().parse::<u64>().ok()?)
            }
            // Without a limit the quota is -1, which is no `u64`.
            None => {
                (root.value(group.join("cpu.cfs_quota_us"))?, root.value(group.join("cpu.cfs_period_us"))?)
            }
        };
        quota.checked_mul(1_000)?.checked_div(period)
    });
    quotas.min()
}

/// Folders, relative to the root, of our group and all groups above it that `controller` could limit.
fn groups(root: &Root, controller: &str) -> Vec<PathBuf> {
    let text = root.text("proc/self/cgroup").unwrap_or_default();
    let mut folders = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let hierarchy = match controllers {
            "" => PathBuf::from("sys/fs/cgroup"),
            named if named.split(',').any(|name| name == controller) => {
                let exact = Path::new("sys/fs/cgroup").join(named);
                if root.path(&exact).exists() { exact } else { Path::new("sys/fs/cgroup").join(controller) }
            }
            _ => continue,
        };
        let below: PathBuf =
            Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
        folders.extend(below.ancestors().map(|group| hierarchy.join(group)));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let (_folder, root) = tree(&[
            ("proc/self/cgroup", "0::/system.slice/agentd.service\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "1000000\n"),
            ("sys/fs/cgroup/system.slice/memory.current", "700000\n"),
            ("sys/fs/cgroup/system.slice/memory.stat", "anon 1\ninactive_file 100000\nfile 2\n"),
            ("sys/fs/cgroup/system.slice/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/system.slice/agentd.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/agentd.service/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(memory(&root), Some(MemoryLimit { limit: 1_000_000, used: 600_000 }));
        assert_eq!(milli_cpus(&root), Some(1_500));
    }

    #[test]
    fn version_1_groups_are_read_too() {
        let (_folder, root) = tree(&[
            ("proc/self/cgroup", "4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n"),
            ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "4096\n"),
            ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1024\n"),
            ("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
        ]);
        assert_eq!(memory(&root), Some(MemoryLimit { limit: 4_096, used: 1_024 }));
        assert_eq!(milli_cpus(&root), Some(500));
    }

    #[test]
    fn no_or_damaged_groups_limit_nothing() {
        for text in ["", "garbage", "0::", "0::/../..", "1:cpu:/x\n"] {
            let (_folder, root) = tree(&[("proc/self/cgroup", text), ("sys/fs/cgroup/cpu.max", "1 0")]);
            assert_eq!((memory(&root), milli_cpus(&root)), (None, None), "{text}");
        }
    }
}
