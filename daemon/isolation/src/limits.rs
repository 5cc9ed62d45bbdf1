//! What a worker may use.

use std::io;

use agentd_types::ByteCount;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// Address space beyond `memory`: programs and libraries, guard pages, reserved but unused ranges, drivers.
const ADDRESS_SLACK: u64 = 4 << 30;

/// What a worker may use; the kernel holds it to this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory that the worker may write: its heap, stacks and packed weights (`RLIMIT_DATA`). The model's file and
    /// the tensors in shared memory come on top.
    pub memory: ByteCount,
    /// File descriptors.
    pub open_files: u64,
    /// Bytes of all input tensors of one request, and likewise of all output tensors.
    pub tensors: ByteCount,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: ByteCount(1 << 30), open_files: 64, tensors: ByteCount::mib(256) }
    }
}

impl Limits {
    /// The default limits with another amount of memory.
    pub fn with_memory(memory: ByteCount) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Puts the limits on this process: memory, address space, descriptors, no core files.
    pub(crate) fn apply(&self) -> io::Result<()> {
        let both = self.tensors.0.saturating_mul(4);
        let address_space =
            self.memory.0.saturating_mul(2).saturating_add(both).saturating_add(ADDRESS_SLACK);
        limit(Resource::Data, self.memory.0)?;
        limit(Resource::As, address_space)?;
        limit(Resource::Nofile, self.open_files)?;
        limit(Resource::Core, 0)
    }
}

/// No file may be written and no process or thread may be started from here on. Called when the engine has its
/// threads and before the model's bytes are read.
pub(crate) fn lock() -> io::Result<()> {
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nproc, 0)
}

fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let held = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let value = Some(value.min(held));
    Ok(setrlimit(resource, Rlimit { current: value, maximum: value })?)
}
