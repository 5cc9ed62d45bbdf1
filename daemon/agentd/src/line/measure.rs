//! Measure and place: every setting that might serve is tried with the bundle's golden vectors, then one is chosen.

use std::sync::Arc;

use agentd_isolation::{Limits, ModelFile};
use agentd_placement::{
    Evidence, GoldenSet, Machine, MeasureRequest, Progress, Subject, Times, WorkerBench, candidates, choose,
    measure as measure_settings,
};
use agentd_store::InstalledBundle;
use agentd_types::{ByteCount, EngineKind, Setting, human_duration};
use agentd_wire::{Figures, ModelState, Outcome, Profile, Receipt, ServePolicy, Verdict, What};
use log::info;

use super::LineError;
use crate::house::{Hardware, House};

/// No golden vector is larger.
const MAX_GOLDEN: ByteCount = ByteCount::mib(64);

/// Memory that a worker may take beyond what the bundle declares, while it loads and packs weights.
const LOADING: u64 = 3;

/// What was measured of a bundle, on what, by what.
pub(crate) struct Measured {
    pub(crate) hardware: Hardware,
    pub(crate) machine: Machine,
    pub(crate) golden: GoldenSet,
    pub(crate) evidence: Vec<(Setting, Evidence)>,
}

/// Which setting serves with how many workers, and the receipt.
pub(crate) struct Placement {
    pub(crate) setting: Setting,
    pub(crate) figures: Figures,
    pub(crate) instances: u16,
    pub(crate) golden: GoldenSet,
}

/// What a worker for this bundle may use.
pub(crate) fn limits(bundle: &InstalledBundle, policy: &ServePolicy) -> Limits {
    let declared = policy.memory(bundle.manifest().requires.mem_mib);
    Limits::with_memory(ByteCount(declared.0.max(32 << 20).saturating_mul(LOADING)))
}

/// Measures every setting that has no profile on this hardware yet.
pub(super) async fn measure(
    house: &Arc<House>,
    bundle: &InstalledBundle,
    file: &Arc<ModelFile>,
    policy: &ServePolicy,
) -> Result<Measured, LineError> {
    let (model, manifest, digest) = (bundle.model().clone(), bundle.manifest(), bundle.digest());
    let hardware = house.hardware().await;
    let served = served_memory(house);
    let machine = Machine::of(&hardware.inventory, &hardware.profile, &EngineKind::BUILT_IN, served);
    let golden = {
        let bundle = bundle.clone();
        let read = house.blocking(move |house| {
            let file =
                |path: &str| house.store.read_file(&bundle, path, MAX_GOLDEN).map_err(std::io::Error::other);
            GoldenSet::read(&bundle.manifest().golden, &bundle.manifest().model, file)
        });
        read.await.map_err(|_| LineError::Ending)??
    };
    let proposals = candidates(&machine, &manifest.requires, policy, &manifest.model.inputs);
    let mut known = house.store.profiles(&digest, &hardware.fingerprint);
    known.retain(is_lasting);
    let request = MeasureRequest {
        proposals: &proposals,
        inputs: &manifest.model.inputs,
        outputs: &manifest.model.outputs,
        golden: &golden,
        known: &known,
        times: Times {
            measure: house.config.measure.time,
            all: house.config.measure.all,
            ..Times::default()
        },
    };
    let limits = limits(bundle, policy);
    let bench = WorkerBench { program: &house.program, limits: &limits, model: file };
    let mut done = 0;
    let mut profiles = Vec::new();
    let evidence = measure_settings(&bench, &request, &mut |progress: Progress<'_>| match progress {
        Progress::Started { of, .. } => {
            let of = u32::try_from(of).unwrap_or(u32::MAX);
            house.set_progress(&model, Some(ModelState::Measuring { done, of }));
        }
        Progress::Done { setting, outcome } => {
            done += 1;
            let outcome = outcome.clone();
            let (hardware, at) = (hardware.fingerprint, house.authority.effective_time());
            profiles.push(Profile { bundle: digest, setting, hardware, at, outcome });
        }
    })
    .await;
    for profile in profiles {
        house.record(What::Measured { profile: Box::new(profile) }).await?;
    }
    Ok(Measured { hardware, machine, golden, evidence })
}

/// Chooses, and journals the receipt when it differs from the last one.
pub(super) async fn place(
    house: &Arc<House>,
    bundle: &InstalledBundle,
    measured: Measured,
    policy: &ServePolicy,
) -> Result<Placement, LineError> {
    let Measured { hardware, machine, golden, evidence } = measured;
    let choice = choose(&evidence, &machine, policy, &bundle.manifest().requires);
    let instances = choice.instances;
    let subject = Subject {
        model: bundle.model().clone(),
        version: bundle.version(),
        bundle: bundle.digest(),
        hardware: hardware.fingerprint,
        at: house.authority.effective_time(),
    };
    let receipt = choice.into_receipt(subject, policy.clone());
    if house.store.receipt(bundle.model()).is_none_or(|last| !same_choice(&last, &receipt)) {
        house.record(What::Placed { receipt: Box::new(receipt.clone()) }).await?;
    }
    let chosen = receipt.chosen().and_then(|chosen| match &chosen.outcome {
        Some(Outcome::Measured(figures)) => Some((chosen.setting, *figures)),
        _ => None,
    });
    let Some((setting, figures)) = chosen else {
        let (model, version) = (receipt.model.clone(), receipt.version);
        return Err(LineError::NoPlacement { model, version, reasons: reasons(&receipt) });
    };
    let p50 = std::time::Duration::from_micros(figures.p50_us);
    info!(event = "place.chosen", model = receipt.model.as_str(), version = receipt.version,
        engine = setting.to_string().as_str(), p50 = human_duration(p50).as_str(); "Model placed");
    Ok(Placement { setting, figures, instances, golden })
}

/// Whether measuring again would give the same: a machine that was too busy or too full once is not so for ever.
fn is_lasting(profile: &Profile) -> bool {
    match &profile.outcome {
        Outcome::Failed { code, .. } => {
            let passing = ["worker.deadline", "worker.start", "worker.system", "placement.timeout"];
            !passing.contains(&code.as_str())
        }
        Outcome::Measured(_) | Outcome::WrongNumbers { .. } => true,
    }
}

fn same_choice(last: &Receipt, new: &Receipt) -> bool {
    Receipt { at: new.at, ..last.clone() } == *new
}

fn reasons(receipt: &Receipt) -> String {
    let of = |candidate: &agentd_wire::Candidate| match &candidate.verdict {
        Verdict::Disqualified { reason, .. } => Some(format!("{}: {reason}", candidate.setting)),
        Verdict::Chosen { .. } | Verdict::Lost { .. } => None,
    };
    receipt.candidates.iter().filter_map(of).collect::<Vec<_>>().join("; ")
}

/// Memory that the workers which serve now hold.
fn served_memory(house: &House) -> ByteCount {
    house.serving.memory()
}
