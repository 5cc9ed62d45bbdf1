//! How much memory a process uses.

use std::fs;

use agentd_types::ByteCount;

/// Memory of a worker process; both are 0 once it is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Resident now.
    pub resident: ByteCount,
    /// Resident at its highest.
    pub peak: ByteCount,
}

impl MemoryUse {
    /// Asks the kernel about the process `pid`.
    ///
    /// Source: proc_pid_status(5), `VmRSS` and `VmHWM`, in units of 1024 bytes.
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            ByteCount(number.unwrap_or_default().saturating_mul(1024))
        };
        Self { resident: field("VmRSS"), peak: field("VmHWM") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_until_it_is_gone() {
        let own = MemoryUse::of(std::process::id());
        assert!(own.resident.0 > 0 && own.peak >= own.resident);
        assert_eq!(MemoryUse::of(u32::MAX), MemoryUse::default());
    }
}
