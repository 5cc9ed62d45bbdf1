//! What this machine is: inventory, load, heat, firmware profiles.
//!
//! In: `/proc`, `/sys` and what a probe in a worker process found of graphics adapters. Out: an [`Inventory`], its
//! [`fingerprint`], cheap samples of [`Load`], and the [`FirmwareProfile`] of the board. Every reader takes a
//! [`Root`], so tests run on trees of files. Changes nothing, and what cannot be read is absent, not an error.

mod cgroup;
mod cpu;
mod disk;
mod fingerprint;
mod glob;
mod heat;
mod identity;
mod inventory;
mod load;
mod memory;
mod power;
mod profile;
mod root;

pub use cpu::Cpu;
pub use disk::Disk;
pub use fingerprint::fingerprint;
pub use heat::Sensor;
pub use identity::{Identity, host_name};
pub use inventory::Inventory;
pub use load::{Load, LoadSampler};
pub use memory::Memory;
pub use power::{Power, PowerSource};
pub use profile::{
    FirmwareProfile, FirmwareProfiles, FolderProblem, Heat, ProfileError, Quirk, QuirkEffect, Thermal,
};
pub use root::Root;
