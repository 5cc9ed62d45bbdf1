//! Start: workers load the model in the chosen setting and reproduce a golden vector, before anybody asks them.

use std::{sync::Arc, time::Duration};

use agentd_engine::{LoadSpec, Tensor, TensorView};
use agentd_isolation::{ModelFile, Worker};
use agentd_onnx::{ScanLimits, scan};
use agentd_serving::{Finite, InstanceError, Respawn, Respawning, Version};
use agentd_store::InstalledBundle;
use agentd_types::{ByteCount, Coded, chain};
use agentd_wire::{ModelState, Outcome, ServePolicy};
use log::warn;

use super::{
    LineError,
    measure::{Placement, limits},
};
use crate::house::House;

/// Loading takes longer on a busy machine than it did when it was measured.
const LOAD_DEADLINE: Duration = Duration::from_secs(60);
const LEAST_DEADLINE: Duration = Duration::from_secs(1);
const MOST_DEADLINE: Duration = Duration::from_secs(60);

/// Requests that may wait when the policy does not say.
const QUEUE: u16 = 64;

/// Reads the model's file, refuses one that no worker should see, and makes it ready to be handed over.
pub(super) async fn open_model(
    house: &Arc<House>,
    bundle: &InstalledBundle,
) -> Result<Arc<ModelFile>, LineError> {
    let bundle = bundle.clone();
    house
        .blocking(move |house| read_model(house, &bundle))
        .await
        .map_err(|_| LineError::Ending)?
        .map(Arc::new)
}

fn read_model(house: &House, bundle: &InstalledBundle) -> Result<ModelFile, LineError> {
    let limits = ScanLimits::default();
    let bytes = house.store.read_file(bundle, &bundle.manifest().model.entry, ByteCount(limits.bytes))?;
    let summary = scan(&bytes, &limits)?;
    let model = &bundle.manifest().model;
    summary.check_interface(&model.inputs, &model.outputs)?;
    ModelFile::from_bytes(&bytes).map_err(LineError::Memory)
}

/// Everything that one more worker of a version is started from.
#[derive(Debug)]
struct Recipe {
    house: Arc<House>,
    bundle: InstalledBundle,
    spec: LoadSpec,
    limits: agentd_isolation::Limits,
    deadline: Duration,
    golden: agentd_placement::GoldenSet,
}

/// Starts the workers of a placement.
pub(super) async fn start(
    house: &Arc<House>,
    bundle: &InstalledBundle,
    file: &Arc<ModelFile>,
    placement: &Placement,
    policy: &ServePolicy,
) -> Result<Version<Worker>, LineError> {
    house.set_progress(bundle.model(), Some(ModelState::Switching));
    let model = &bundle.manifest().model;
    let deadline = deadline(placement, policy);
    let spec =
        LoadSpec { setting: placement.setting, inputs: model.inputs.clone(), outputs: model.outputs.clone() };
    let recipe = Arc::new(Recipe {
        house: Arc::clone(house),
        bundle: bundle.clone(),
        spec,
        limits: limits(bundle, policy),
        deadline,
        golden: placement.golden.clone(),
    });
    let mut instances = Vec::new();
    for _ in 0..placement.instances.max(1) {
        instances.push(recipe.worker(file).await?);
    }
    let (inputs, outputs) = (model.inputs.clone(), model.outputs.clone());
    Ok(Version {
        version: bundle.version(),
        bundle: bundle.digest(),
        setting: placement.setting,
        inputs,
        outputs,
        instances,
        respawn: recipe,
        queue: usize::from(policy.queue.unwrap_or(QUEUE)),
        deadline,
        finite: Finite::Required,
    })
}

fn deadline(placement: &Placement, policy: &ServePolicy) -> Duration {
    policy.deadline_ms.map_or_else(
        || {
            Duration::from_micros(placement.figures.p99_us.saturating_mul(50))
                .clamp(LEAST_DEADLINE, MOST_DEADLINE)
        },
        Duration::from_millis,
    )
}

impl Recipe {
    /// A worker that has loaded the model and reproduced the first golden vector.
    async fn worker(&self, file: &ModelFile) -> Result<Worker, LineError> {
        let mut worker = Worker::start(&self.house.program, &self.limits).await?;
        let granted = worker.load(file, &self.spec, LOAD_DEADLINE).await?.threads;
        if granted < self.spec.setting.threads {
            warn!(event = "worker.threads", setting:% = self.spec.setting, granted; "The system grants fewer threads");
        }
        if let Some(vector) = self.golden.vectors.first() {
            let views: Vec<TensorView<'_>> = vector.inputs.iter().map(Tensor::view).collect();
            let outputs = worker.infer(&views, self.deadline.max(LOAD_DEADLINE)).await?;
            if let Err(outcome) = vector.judge(0, &self.spec.outputs, &outputs) {
                return Err(LineError::Changed { golden: 0, reason: wrong(&outcome) });
            }
        }
        Ok(worker)
    }
}

fn wrong(outcome: &Outcome) -> String {
    match outcome {
        Outcome::WrongNumbers { output, off_ppm: Some(off), tol_ppm, .. } => {
            format!("`{output}` is off by {off} ppm, {tol_ppm} ppm are tolerated")
        }
        Outcome::WrongNumbers { output, .. } => format!("`{output}` cannot be compared"),
        Outcome::Failed { message, .. } => message.clone(),
        Outcome::Measured(_) => "no reason".to_owned(),
    }
}

impl Respawn<Worker> for Recipe {
    fn respawn(&self) -> Respawning<Worker> {
        let again = Self {
            house: Arc::clone(&self.house),
            bundle: self.bundle.clone(),
            spec: self.spec.clone(),
            limits: self.limits.clone(),
            deadline: self.deadline,
            golden: self.golden.clone(),
        };
        Box::pin(async move {
            let file = open_model(&again.house, &again.bundle).await;
            let worker = match file {
                Ok(file) => again.worker(&file).await,
                Err(error) => Err(error),
            };
            worker.map_err(|error| InstanceError::Died { code: error.code(), message: chain(&error) })
        })
    }
}
