//! What makes two measurements comparable.
//!
//! In: an [`Inventory`] and the versions of engines. Out: a digest that changes when a measurement may no longer
//! hold, and not with heat, load, free memory or the order in which drivers answer.

use std::collections::BTreeMap;

use agentd_types::{Adapter, Digest};
use serde::Serialize;

use crate::Inventory;

/// Name, backend, driver, vendor, device.
type AdapterIdentity<'a> = (&'a str, &'a str, &'a str, u32, u32);

/// What goes into the digest. Adding a field makes every device measure again: that is the purpose.
#[derive(Debug, Serialize)]
struct Facts<'a> {
    form: u32,
    arch: &'a str,
    cpu: &'a str,
    features: &'a [String],
    physical_cores: u16,
    usable_cores: u16,
    adapters: Vec<AdapterIdentity<'a>>,
    engines: &'a BTreeMap<String, String>,
}

/// The digest under which measurements on this machine are kept.
///
/// `engines`: the name and version of each engine in this build, for example `cpu` and `tract 0.23.9`.
#[expect(clippy::missing_panics_doc, reason = "plain data always has a JSON form")]
pub fn fingerprint(inventory: &Inventory, engines: &BTreeMap<String, String>) -> Digest {
    let mut adapters: Vec<_> = inventory.adapters.iter().map(identity).collect();
    adapters.sort_unstable();
    let facts = Facts {
        form: 1,
        arch: &inventory.arch,
        cpu: &inventory.cpu.model,
        features: &inventory.cpu.features,
        physical_cores: inventory.cpu.physical_cores,
        usable_cores: inventory.cpu.usable_cores,
        adapters,
        engines,
    };
    #[expect(clippy::expect_used, reason = "numbers and strings always have a JSON form")]
    let json = serde_json::to_vec(&facts).expect("facts are plain data");
    Digest::of(&json)
}

fn identity(adapter: &Adapter) -> AdapterIdentity<'_> {
    (&adapter.name, &adapter.backend, &adapter.driver, adapter.vendor_id, adapter.device_id)
}

#[cfg(test)]
mod tests {
    use agentd_types::{AdapterKind, ByteCount};

    use super::*;
    use crate::{Root, Sensor};

    fn adapter(name: &str) -> Adapter {
        Adapter {
            name: name.into(),
            backend: "vulkan".into(),
            driver: "radv Mesa 24.1.0".into(),
            kind: AdapterKind::Integrated,
            vendor_id: 0x1002,
            device_id: 0x15dd,
            max_binding: ByteCount::mib(128),
            f16: true,
        }
    }

    #[test]
    fn it_follows_what_matters_and_nothing_else() {
        let engines = |version: &str| BTreeMap::from([("cpu".to_owned(), version.to_owned())]);
        let here = Inventory::read(&Root::at("/nonexistent"), None, vec![adapter("a"), adapter("b")]);
        let base = fingerprint(&here, &engines("tract 0.23.9"));
        let check = |change: fn(&mut Inventory), same: bool| {
            let mut other = here.clone();
            change(&mut other);
            assert_eq!(fingerprint(&other, &engines("tract 0.23.9")) == base, same, "{other:?}");
        };
        check(|m| m.memory.available = ByteCount(1), true);
        check(|m| m.sensors = vec![Sensor { name: "x".into(), milli_celsius: 90_000 }], true);
        check(|m| m.cpu.governor = Some("powersave".into()), true);
        check(|m| m.adapters.reverse(), true);
        check(|m| m.cpu.model = "other".into(), false);
        check(|m| m.cpu.features = vec!["avx2".into()], false);
        check(|m| m.cpu.usable_cores = 7, false);
        check(|m| m.adapters.truncate(1), false);
        check(|m| m.adapters.iter_mut().for_each(|a| a.driver = "radv Mesa 24.1.1".into()), false);
        assert_ne!(fingerprint(&here, &engines("tract 0.23.10")), base);
    }
}
