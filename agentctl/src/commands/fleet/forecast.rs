//! Who will take a deployment, and why the others will not: from what they report, before anything is signed.
//!
//! In: what is wanted and one device. Out: a [`Verdict`]. Pure; a device decides for itself in the end.

use std::collections::BTreeMap;

use agentd_types::{ByteCount, DeviceId, EngineKind, ModelName, UnixTime, human_duration};
use agentd_wire::Manifest;
use serde::Serialize;

use super::inventory::Device;

/// One model that devices shall run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Wanted {
    pub(crate) name: ModelName,
    pub(crate) version: u64,
    pub(crate) size: ByteCount,
    pub(crate) memory: ByteCount,
    pub(crate) engines: Vec<EngineKind>,
    pub(crate) allow_downgrade: bool,
}

impl Wanted {
    pub(crate) fn of(manifest: &Manifest, allow_downgrade: bool) -> Self {
        Self {
            name: manifest.name.clone(),
            version: manifest.version,
            size: ByteCount(manifest.total_size()),
            memory: ByteCount(manifest.requires.mem_mib.saturating_mul(1 << 20)),
            engines: manifest.requires.any_of.clone(),
            allow_downgrade,
        }
    }
}

/// What a device will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It will take it.
    Takes,
    /// It serves it already.
    Has,
    /// It cannot.
    Refuses {
        /// Why.
        reasons: Vec<String>,
    },
    /// It is not connected; it will be told when it comes back.
    Silent {
        /// For how long, when that is known.
        for_s: Option<u64>,
    },
    /// It is connected and has not said what it is.
    Unknown,
}

/// What a device will do about `wanted`.
pub(crate) fn forecast(device: &Device, wanted: &[Wanted], now: UnixTime) -> Verdict {
    if !device.is_online() {
        return Verdict::Silent { for_s: device.last_word().map(|at| now.since(at).as_secs()) };
    }
    if wanted.iter().all(|wanted| serves(device, wanted)) {
        return Verdict::Has;
    }
    let reasons: Vec<_> = wanted.iter().flat_map(|wanted| reasons(device, wanted)).collect();
    match device.hardware() {
        _ if !reasons.is_empty() => Verdict::Refuses { reasons },
        None => Verdict::Unknown,
        Some(_) => Verdict::Takes,
    }
}

fn serves(device: &Device, wanted: &Wanted) -> bool {
    device.models().iter().any(|model| {
        model.name == wanted.name
            && model.serving.as_ref().is_some_and(|serving| serving.version == wanted.version)
    })
}

fn reasons(device: &Device, wanted: &Wanted) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(hardware) = device.hardware() {
        if wanted.memory > hardware.free_memory {
            reasons.push(format!("{} of memory needed, {} free", wanted.memory, hardware.free_memory));
        }
        let held = device.models().iter().any(|model| {
            model.name == wanted.name && model.held.iter().any(|held| held.version == wanted.version)
        });
        if !held && wanted.size > hardware.free_disk {
            reasons.push(format!("{} of disk needed, {} free", wanted.size, hardware.free_disk));
        }
        let has_engine = wanted.engines.is_empty()
            || wanted.engines.iter().any(|engine| hardware.engines.contains(engine));
        if !has_engine {
            let names: Vec<_> = wanted.engines.iter().map(ToString::to_string).collect();
            reasons.push(format!("it has none of the engines {}", names.join(", ")));
        }
    }
    for model in device.models().iter().filter(|model| model.name == wanted.name) {
        let newest = model.held.iter().map(|held| held.version).max().unwrap_or(0);
        if newest > wanted.version && !wanted.allow_downgrade {
            reasons.push(format!("it has version {newest} already; see --allow-downgrade"));
        }
        let quarantined = model.held.iter().any(|held| held.version == wanted.version && held.quarantined);
        if quarantined {
            reasons.push("this version is in quarantine there".to_owned());
        }
        if model.pinned {
            reasons.push("the model is pinned there".to_owned());
        }
    }
    reasons
}

/// All verdicts in lines for people: counts first, then who does not take it and why.
pub(crate) fn lines(verdicts: &BTreeMap<DeviceId, Verdict>) -> Vec<String> {
    let count = |pick: fn(&Verdict) -> bool| verdicts.values().filter(|verdict| pick(verdict)).count();
    let mut parts =
        vec![format!("{} {}", verdicts.len(), if verdicts.len() == 1 { "device" } else { "devices" })];
    for (number, what) in [
        (count(|verdict| *verdict == Verdict::Takes), "will take it"),
        (count(|verdict| *verdict == Verdict::Has), "already serve it"),
        (count(|verdict| matches!(verdict, Verdict::Refuses { .. })), "will refuse it"),
        (count(|verdict| matches!(verdict, Verdict::Silent { .. })), "silent, told when they are back"),
        (count(|verdict| *verdict == Verdict::Unknown), "have not said what they are"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    let mut lines = vec![parts.join("   ")];
    for (device, verdict) in verdicts {
        match verdict {
            Verdict::Refuses { reasons } => lines.push(format!("  {device}: {}", reasons.join("; "))),
            Verdict::Silent { for_s: Some(seconds) } => {
                let silent = human_duration(std::time::Duration::from_secs(*seconds));
                lines.push(format!("  {device}: silent for {silent}"));
            }
            Verdict::Silent { for_s: None } => lines.push(format!("  {device}: never heard of")),
            Verdict::Takes | Verdict::Has | Verdict::Unknown => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use agentd_types::Digest;
    use agentd_wire::{HeldVersion, ModelState, ModelStatus};

    use super::{super::inventory::tests::device, *};

    fn wanted(version: u64, memory_mib: u64) -> Wanted {
        Wanted {
            name: "inspect/crack".parse().unwrap(),
            version,
            size: ByteCount::mib(11),
            memory: ByteCount::mib(memory_mib),
            engines: vec![EngineKind::Cpu, EngineKind::Gpu],
            allow_downgrade: false,
        }
    }

    fn holding(version: u64) -> ModelStatus {
        ModelStatus {
            name: "inspect/crack".parse().unwrap(),
            state: ModelState::Serving,
            desired_version: Some(version),
            serving: None,
            held: vec![HeldVersion {
                version,
                bundle: Digest::of(b"x"),
                size: ByteCount::mib(11),
                ready: true,
                quarantined: false,
            }],
            pinned: false,
        }
    }

    #[test]
    fn a_dry_run_counts_and_names_those_who_do_not_take_it() {
        let now = UnixTime(2_000 + 3 * 86_400);
        let silent = Device { presence: None, ..device(500, Vec::new()) };
        let verdicts: BTreeMap<DeviceId, Verdict> = [
            ("line-4-cam-1", device(500, Vec::new())),
            ("line-4-cam-2", device(500, vec![holding(7)])),
            ("line-4-cam-9", device(380, Vec::new())),
            ("line-4-cam-30", device(500, vec![holding(9)])),
            ("line-4-cam-31", silent),
            ("line-4-cam-32", Device::default()),
        ]
        .into_iter()
        .map(|(id, device)| (id.parse().unwrap(), forecast(&device, &[wanted(8, 410)], now)))
        .collect();
        insta::assert_snapshot!(lines(&verdicts).join("\n"), @r"
        6 devices   2 will take it   2 will refuse it   2 silent, told when they are back
          line-4-cam-30: it has version 9 already; see --allow-downgrade
          line-4-cam-31: silent for 3 d
          line-4-cam-32: never heard of
          line-4-cam-9: 410.0 MiB of memory needed, 380.0 MiB free
        ");
    }
}
