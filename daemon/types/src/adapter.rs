//! Graphics adapters, as a probe in a worker process finds them.

use serde::{Deserialize, Serialize};

use crate::ByteCount;

/// One way to reach one graphics device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Adapter {
    /// The device's name as its driver tells it.
    pub name: String,
    /// `vulkan` or `gl`.
    pub backend: String,
    /// Name and version of the driver.
    pub driver: String,
    /// What kind of device it is.
    pub kind: AdapterKind,
    /// PCI vendor, 0 when unknown.
    pub vendor_id: u32,
    /// PCI device, 0 when unknown.
    pub device_id: u32,
    /// The largest buffer that a kernel can bind.
    pub max_binding: ByteCount,
    /// Whether kernels can compute in 16-bit floats.
    pub f16: bool,
}

/// What kind of device an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterKind {
    /// A card of its own.
    Discrete,
    /// Shares memory with the processor.
    Integrated,
    /// Lent by a hypervisor.
    Virtual,
    /// Computes on the processor.
    Software,
    /// The driver does not say.
    Unknown,
}
