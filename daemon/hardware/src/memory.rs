//! Memory, as far as this process may use it.
//!
//! In: `/proc/meminfo` and control groups. Out: a [`Memory`].

use agentd_types::ByteCount;
use serde::{Deserialize, Serialize};

use crate::{Root, cgroup};

/// Memory of the machine, or of the control group when that is less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Memory that there is.
    pub total: ByteCount,
    /// Memory that can be taken without swapping or being killed.
    pub available: ByteCount,
    /// Whether a control group allows less than the machine has.
    pub limited: bool,
}

impl Memory {
    /// Reads memory below `root`; all zero when it cannot be read.
    pub fn read(root: &Root) -> Self {
        let meminfo = root.text("proc/meminfo").unwrap_or_default();
        let total = field(&meminfo, "MemTotal:").unwrap_or_default();
        let available = field(&meminfo, "MemAvailable:").unwrap_or_default();
        match cgroup::memory(root) {
            Some(group) if group.limit < total => Self {
                total: ByteCount(group.limit),
                available: ByteCount(available.min(group.limit.saturating_sub(group.used))),
                limited: true,
            },
            _ => Self { total: ByteCount(total), available: ByteCount(available), limited: false },
        }
    }
}

/// The value of a line such as `MemTotal:  16384 kB`, in bytes.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;

    #[track_caller]
    fn check(limit: &str, used: &str, want: (u64, u64, bool)) {
        let (_folder, root) = tree(&[
            ("proc/meminfo", "MemTotal:        8192 kB\nMemFree: 1 kB\nMemAvailable:    4096 kB\n"),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", limit),
            ("sys/fs/cgroup/memory.current", used),
        ]);
        let memory = Memory::read(&root);
        assert_eq!((memory.total.0 >> 10, memory.available.0 >> 10, memory.limited), want);
    }

    #[test]
    fn a_control_group_limits_what_the_machine_has() {
        check("max", "0", (8_192, 4_096, false));
        check("9223372036854771712", "0", (8_192, 4_096, false));
        check("2097152", "1048576", (2_048, 1_024, true));
        check("2097152", "9999999", (2_048, 0, true));
        check("7340032", "0", (7_168, 4_096, true));
    }

    #[test]
    fn an_unreadable_machine_has_no_memory() {
        let (_folder, root) = tree(&[("proc/meminfo", "MemTotal: lots\n")]);
        assert_eq!(Memory::read(&root), Memory::default());
    }
}
