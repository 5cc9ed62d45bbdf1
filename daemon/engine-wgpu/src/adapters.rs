//! Asks Vulkan and OpenGL ES for their adapters.
//!
//! In: the drivers. Out: one [`Adapter`] for each device that can compute, the most able first. Opens no device,
//! allocates nothing on one.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::{Context, Poll, Waker},
};

use agentd_types::{Adapter, AdapterKind, ByteCount};

/// Software devices that some drivers do not own up to being.
const SOFTWARE_NAMES: [&str; 5] = ["llvmpipe", "lavapipe", "softpipe", "swiftshader", "software rasterizer"];

/// An adapter together with what tells two equal cards apart.
#[derive(Clone, Debug)]
struct Found {
    adapter: Adapter,
    /// Address on the PCI bus; empty when the driver does not tell.
    bus: String,
}

/// Every device that can compute, once: discrete, integrated, virtual, software, unknown.
///
/// A device that Vulkan offers is not listed again for OpenGL ES. Empty when no driver is installed, and when a
/// driver makes the probe panic; a driver can also take the process down, so call this in a worker.
pub fn adapters() -> Vec<Adapter> {
    catch_unwind(AssertUnwindSafe(|| distinct(enumerate()))).unwrap_or_default()
}

fn enumerate() -> Vec<Found> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::GL;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let found = ready(instance.enumerate_adapters(backends)).unwrap_or_default();
    found.iter().filter(|adapter| computes(adapter)).map(describe).collect()
}

/// The result of a future that does not really wait, as wgpu's are outside browsers; `None` when it does wait.
fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn computes(adapter: &wgpu::Adapter) -> bool {
    adapter.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
}

fn describe(adapter: &wgpu::Adapter) -> Found {
    let info = adapter.get_info();
    let limits = adapter.limits();
    let max_binding = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size);
    let driver = format!("{} {}", info.driver, info.driver_info).trim().to_owned();
    Found {
        adapter: Adapter {
            kind: kind(info.device_type, &info.name),
            name: info.name,
            backend: info.backend.to_str().to_owned(),
            driver,
            vendor_id: info.vendor,
            device_id: info.device,
            max_binding: ByteCount(max_binding),
            f16: adapter.features().contains(wgpu::Features::SHADER_F16),
        },
        bus: info.device_pci_bus_id,
    }
}

fn kind(claimed: wgpu::DeviceType, name: &str) -> AdapterKind {
    let name = name.to_lowercase();
    if SOFTWARE_NAMES.iter().any(|software| name.contains(software)) {
        return AdapterKind::Software;
    }
    match claimed {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
        wgpu::DeviceType::Other => AdapterKind::Unknown,
    }
}

/// Drops what stands for a device that is listed already, and sorts the rest.
fn distinct(mut found: Vec<Found>) -> Vec<Adapter> {
    found.sort_by(|a, b| key(a).cmp(&key(b)));
    found.dedup_by(|a, b| a.adapter == b.adapter && a.bus == b.bus);
    let vulkan: Vec<Adapter> =
        found.iter().filter(|f| f.adapter.backend == "vulkan").map(|f| f.adapter.clone()).collect();
    found
        .into_iter()
        .map(|found| found.adapter)
        .filter(|adapter| {
            adapter.backend == "vulkan" || !vulkan.iter().any(|other| same_device(adapter, other))
        })
        .collect()
}

fn key(found: &Found) -> (AdapterKind, bool, &str, u32, u32, &str, &str) {
    let Found { adapter, bus } = found;
    let later = adapter.backend != "vulkan";
    (adapter.kind, later, &adapter.name, adapter.vendor_id, adapter.device_id, bus, &adapter.driver)
}

/// OpenGL ES tells neither device id nor bus, and names devices in its own way: the maker is all there is to go by.
fn same_device(gl: &Adapter, vulkan: &Adapter) -> bool {
    let software = |adapter: &Adapter| adapter.kind == AdapterKind::Software;
    match (software(gl), software(vulkan)) {
        (true, true) => true,
        (false, false) => gl.vendor_id == vulkan.vendor_id || gl.vendor_id == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, backend: &str, kind: AdapterKind, vendor_id: u32, bus: &str) -> Found {
        let max_binding = ByteCount::mib(128);
        let (name, backend, driver) = (name.into(), backend.into(), "driver 1".into());
        let adapter =
            Adapter { name, backend, driver, kind, vendor_id, device_id: 0, max_binding, f16: false };
        Found { adapter, bus: bus.into() }
    }

    #[track_caller]
    fn check(given: Vec<Found>, want: &[(&str, &str)]) {
        for turn in 0..given.len() {
            let mut turned = given.clone();
            turned.rotate_left(turn);
            let got = distinct(turned);
            let got: Vec<_> = got.iter().map(|a| (a.name.as_str(), a.backend.as_str())).collect();
            assert_eq!(got, want, "turned by {turn}");
        }
    }

    #[test]
    fn a_device_that_vulkan_offers_is_not_listed_again_for_gl() {
        use AdapterKind::{Discrete, Integrated, Software, Unknown};
        check(
            vec![
                found("Iris Xe (ADL GT2)", "vulkan", Integrated, 0x8086, "0000:00:02.0"),
                found("Mesa Intel(R) Iris(R) Xe", "gl", Unknown, 0x8086, ""),
                found("llvmpipe (LLVM 15)", "vulkan", Software, 0x10005, ""),
                found("llvmpipe", "gl", Software, 0, ""),
            ],
            &[("Iris Xe (ADL GT2)", "vulkan"), ("llvmpipe (LLVM 15)", "vulkan")],
        );
        check(
            vec![
                found("V3D 4.2", "gl", Integrated, 0x14e4, ""),
                found("llvmpipe", "vulkan", Software, 0x10005, ""),
            ],
            &[("V3D 4.2", "gl"), ("llvmpipe", "vulkan")],
        );
        check(
            vec![
                found("RTX", "vulkan", Discrete, 0x10de, "0000:02:00.0"),
                found("RTX", "vulkan", Discrete, 0x10de, "0000:01:00.0"),
                found("RTX", "vulkan", Discrete, 0x10de, "0000:01:00.0"),
            ],
            &[("RTX", "vulkan"), ("RTX", "vulkan")],
        );
    }

    #[test]
    fn software_devices_are_known_by_name_whatever_they_claim() {
        for (claimed, name, want) in [
            (wgpu::DeviceType::Cpu, "anything", AdapterKind::Software),
            (wgpu::DeviceType::DiscreteGpu, "SwiftShader Device (LLVM 10)", AdapterKind::Software),
            (wgpu::DeviceType::Other, "llvmpipe (LLVM 15.0.6, 256 bits)", AdapterKind::Software),
            (wgpu::DeviceType::IntegratedGpu, "V3D 7.1.7", AdapterKind::Integrated),
            (wgpu::DeviceType::Other, "Mystery", AdapterKind::Unknown),
        ] {
            assert_eq!(kind(claimed, name), want, "{name}");
        }
    }

    /// Needs a driver to say much: with `mesa-vulkan-drivers` installed it finds llvmpipe, and says which it found.
    #[test]
    fn this_machine_tells_the_same_adapters_twice_and_calls_llvmpipe_software() {
        let first = adapters();
        assert_eq!(first, adapters());
        let vulkan_driver = std::fs::read_dir("/usr/share/vulkan/icd.d")
            .is_ok_and(|files| files.flatten().any(|f| f.file_name().to_string_lossy().starts_with("lvp_")));
        println!("lavapipe installed: {vulkan_driver}; adapters found: {first:#?}");
        assert!(!vulkan_driver || first.iter().any(|adapter| adapter.kind == AdapterKind::Software));
        for adapter in &first {
            assert!(adapter.max_binding > ByteCount::default(), "{adapter:?}");
            assert!(!adapter.name.is_empty(), "{adapter:?}");
            let software = adapter.name.contains("llvmpipe");
            assert!(!software || adapter.kind == AdapterKind::Software, "{adapter:?}");
        }
    }
}
