//! One model version that answers: runs a request on one of its instances and replaces those that die.
//!
//! In: tensors that fit the version's inputs. Out: tensors that fit its outputs, or why there are none.
//! A request whose instance crashed is run once more on another, since inference is pure; one whose instance hung
//! is not, since it would hang the next as well. A caller that goes away does not stop an inference: it ends in a
//! task of its own and the instance goes back to its place.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use agentd_engine::{Tensor, TensorView};
use agentd_types::{Code, Coded, Digest, ModelName, Setting, TensorSpec, UnixTime};
use log::{debug, warn};
use tokio::{runtime::Handle, sync::mpsc, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Instance, InstanceError, Respawn, ServingEvent, Subject,
    counters::Counters,
    finite::is_finite,
    oip,
    pool::{Pool, Seat, Unseated},
};

/// A loaded and warmed model version, ready to be activated.
pub struct Version<I> {
    /// The version's number.
    pub version: u64,
    /// Digest of the bundle.
    pub bundle: Digest,
    /// The engine setting its instances run in.
    pub setting: Setting,
    /// The model's inputs; -1 is a free dimension.
    pub inputs: Vec<TensorSpec>,
    /// The model's outputs; -1 is a free dimension.
    pub outputs: Vec<TensorSpec>,
    /// Loaded copies, at least one.
    pub instances: Vec<I>,
    /// Makes a copy in place of one that died.
    pub respawn: Arc<dyn Respawn<I>>,
    /// Requests that may wait for an instance; one more is refused.
    pub queue: usize,
    /// The longest time one inference may take, and the longest that a request waits for an instance.
    pub deadline: Duration,
    /// What an output that is not finite means.
    pub finite: Finite,
}

impl<I> fmt::Debug for Version<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Version")
            .field("version", &self.version)
            .field("bundle", &self.bundle)
            .field("setting", &self.setting)
            .field("instances", &self.instances.len())
            .finish_non_exhaustive()
    }
}

/// What an output that is NaN or infinite means although every input was finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finite {
    /// The model is broken: the request fails and the reconciler hears of it.
    #[default]
    Required,
    /// The model may answer so, for example with -inf for a masked class.
    NotRequired,
}

/// Why a request that was in order got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// As many requests as may wait are waiting.
    #[error("{waiting} requests already wait for model `{model}`")]
    QueueFull {
        /// The deployment.
        model: ModelName,
        /// How many may wait.
        waiting: usize,
    },
    /// No instance came free in time; the request was not run.
    #[error("no instance of model `{model}` came free within {waited_ms} ms")]
    Expired {
        /// The deployment.
        model: ModelName,
        /// How long the request could wait.
        waited_ms: u128,
    },
    /// The instance gave no answer.
    #[error("model `{model}` gave no answer")]
    Instance {
        /// The deployment.
        model: ModelName,
        /// What happened.
        source: InstanceError,
    },
    /// Finite inputs gave NaN or infinity.
    #[error("model `{model}` made finite inputs into an output `{output}` that is not finite")]
    NotFinite {
        /// The deployment.
        model: ModelName,
        /// The output's name.
        output: String,
    },
    /// The outputs are not those that the bundle promises.
    #[error("model `{model}` gave outputs that its bundle does not promise: {reason}")]
    WrongOutputs {
        /// The deployment.
        model: ModelName,
        /// What is wrong with them.
        reason: String,
    },
}

impl Coded for InferError {
    fn code(&self) -> Code {
        match self {
            Self::QueueFull { .. } => Code::new("serving.queue_full"),
            Self::Expired { .. } => Code::new("serving.expired"),
            Self::Instance { source, .. } => source.code(),
            Self::NotFinite { .. } => Code::new("model.not_finite"),
            Self::WrongOutputs { .. } => Code::new("model.outputs"),
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::QueueFull { .. } | Self::Expired { .. } => true,
            Self::Instance { source, .. } => source.is_transient(),
            Self::NotFinite { .. } | Self::WrongOutputs { .. } => false,
        }
    }
}

/// Where the tasks of serving live, and whom they tell.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) events: Events,
}

/// The bounded channel to the reconciler; a full one drops and counts.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    pub(crate) tx: mpsc::Sender<ServingEvent>,
    pub(crate) dropped: Arc<std::sync::atomic::AtomicU64>,
}

impl Events {
    fn tell(&self, event: ServingEvent) {
        if self.tx.try_send(event).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// A version in its place.
pub(crate) struct Served<I> {
    pub(crate) subject: Subject,
    pub(crate) setting: Setting,
    pub(crate) inputs: Vec<TensorSpec>,
    pub(crate) outputs: Vec<TensorSpec>,
    pub(crate) queue: usize,
    pub(crate) deadline: Duration,
    pub(crate) since: UnixTime,
    pub(crate) counters: Counters,
    pub(crate) pool: Pool<I>,
    /// The version as the protocol writes it.
    pub(crate) version_text: String,
    /// The largest body that its inputs can need; for free dimensions nothing is known.
    pub(crate) body_limit: u64,
    finite: Finite,
    respawn: Arc<dyn Respawn<I>>,
    keeper: Keeper,
    engine_failures: Mutex<Untold>,
}

/// Failures of the engine that the reconciler does not hear of, since it just heard of one.
#[derive(Debug, Default)]
struct Untold {
    told: Option<Instant>,
    count: u64,
}

impl<I> fmt::Debug for Served<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("subject", &self.subject)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl<I: Instance> Served<I> {
    pub(crate) fn new(model: ModelName, version: Version<I>, since: UnixTime, keeper: Keeper) -> Self {
        let body_limit = oip::body_limit(&version.inputs, u64::MAX);
        Self {
            body_limit,
            subject: Subject { model, version: version.version, bundle: version.bundle },
            setting: version.setting,
            inputs: version.inputs,
            outputs: version.outputs,
            queue: version.queue,
            deadline: version.deadline,
            since,
            counters: Counters::new(),
            pool: Pool::new(version.instances, version.queue),
            version_text: version.version.to_string(),
            finite: version.finite,
            respawn: version.respawn,
            keeper,
            engine_failures: Mutex::default(),
        }
    }

    /// Answers one request; counts everything but the whole latency and success, which the protocol does when the
    /// answer is written.
    ///
    /// `inputs`: in the model's order, already held against its specs. `patience`: the longest wait for an
    /// instance, capped by the version's deadline.
    pub(crate) async fn infer(
        self: &Arc<Self>,
        mut inputs: Vec<Tensor>,
        patience: Option<Duration>,
    ) -> Result<Vec<Tensor>, InferError> {
        let patience = patience.unwrap_or(self.deadline).min(self.deadline);
        let begun = Instant::now();
        let mut attempt = 1;
        loop {
            let seat = self.seat(patience.saturating_sub(begun.elapsed()), patience).await?;
            let seated = Instant::now();
            self.counters.queue.add(seated.saturating_duration_since(begun));
            let done = self.run(Lease { seat: Some(seat), served: Arc::clone(self) }, inputs, attempt).await;
            self.counters.compute.add(seated.elapsed());
            match done.result {
                Ok(outputs) => return self.checked(&done.inputs, outputs),
                Err(InstanceError::Died { code, .. }) if attempt == 1 => {
                    debug!(event = "serving.retry", model = self.subject.model.as_str(), code = code.as_str();
                        "Request is run once more on another instance");
                    attempt = 2;
                    inputs = done.inputs;
                }
                Err(source) => {
                    if let InstanceError::Failed { code, message } = &source {
                        self.engine_failed(code, message);
                    }
                    return Err(InferError::Instance { model: self.subject.model.clone(), source });
                }
            }
        }
    }

    fn engine_failed(&self, code: &Code, message: &str) {
        let mut untold = self.engine_failures.lock().unwrap_or_else(PoisonError::into_inner);
        if untold.told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
            untold.count += 1;
            return;
        }
        untold.told = Some(Instant::now());
        self.keeper.events.tell(ServingEvent::EngineFailed {
            of: self.subject.clone(),
            code: code.clone(),
            message: message.to_owned(),
            untold: mem::take(&mut untold.count),
        });
    }

    async fn seat(&self, wait: Duration, patience: Duration) -> Result<Seat<I>, InferError> {
        self.pool.take(wait).await.map_err(|unseated| {
            self.counters.refused.fetch_add(1, Relaxed);
            let model = self.subject.model.clone();
            match unseated {
                Unseated::Full => InferError::QueueFull { model, waiting: self.queue },
                Unseated::Expired => InferError::Expired { model, waited_ms: patience.as_millis() },
            }
        })
    }

    fn run(&self, lease: Lease<I>, inputs: Vec<Tensor>, attempt: u32) -> Running {
        let deadline = self.deadline;
        let work = async move {
            let mut lease = lease;
            let result = match &mut lease.seat {
                Some(seat) => {
                    let views: Vec<TensorView<'_>> = inputs.iter().map(Tensor::view).collect();
                    seat.instance.infer(&views, deadline).await
                }
                None => Ok(Vec::new()), // a lease holds its seat until it is lost below
            };
            if let Err(error) = &result
                && error.is_dead()
            {
                lease.lose(error, attempt);
            }
            drop(lease);
            Done { inputs, result }
        };
        Running { work: Some(Box::pin(work)), tasks: self.keeper.tasks.clone() }
    }

    fn checked(&self, inputs: &[Tensor], outputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
        if let Some(reason) = self.broken_promise(&outputs) {
            let of = self.subject.clone();
            self.keeper.events.tell(ServingEvent::WrongOutputs { of, message: reason.clone() });
            return Err(InferError::WrongOutputs { model: self.subject.model.clone(), reason });
        }
        if self.finite == Finite::NotRequired {
            return Ok(outputs);
        }
        let odd = self.outputs.iter().zip(&outputs).find(|(_, output)| !is_finite(output.view()));
        if let Some((spec, _)) = odd
            && inputs.iter().all(|input| is_finite(input.view()))
        {
            let (of, output) = (self.subject.clone(), spec.name.clone());
            self.keeper.events.tell(ServingEvent::NotFinite { of, output: output.clone() });
            return Err(InferError::NotFinite { model: self.subject.model.clone(), output });
        }
        Ok(outputs)
    }

    fn broken_promise(&self, outputs: &[Tensor]) -> Option<String> {
        if outputs.len() != self.outputs.len() {
            return Some(format!("{} outputs instead of {}", outputs.len(), self.outputs.len()));
        }
        self.outputs.iter().zip(outputs).find_map(|(spec, output)| {
            if output.datatype != spec.datatype {
                Some(format!("`{}` is {} instead of {}", spec.name, output.datatype, spec.datatype))
            } else {
                output.view().check().err().map(|error| format!("`{}`: {error}", spec.name))
            }
        })
    }

    fn lost(self: &Arc<Self>, index: usize, error: &InstanceError, attempt: u32) {
        self.pool.lose(index);
        self.counters.deaths.fetch_add(1, Relaxed);
        let (code, message) = (error.code(), error.to_string());
        warn!(event = "serving.instance_died", model = self.subject.model.as_str(),
            version = self.subject.version, code = code.as_str(), error = message.as_str();
            "Instance died and is being replaced");
        let of = self.subject.clone();
        self.keeper.events.tell(ServingEvent::InstanceDied { of, code, message, attempt });
        let work = replace(Arc::downgrade(self), index, self.keeper.stop.clone());
        spawn_on(&self.keeper.tasks, work);
    }
}

/// The reconciler hears this often at most of an engine that fails on requests.
const TELL_AGAIN: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Fills an empty seat, however often it takes, until the version is dropped or serving stops.
async fn replace<I: Instance>(served: Weak<Served<I>>, index: usize, stop: CancellationToken) {
    let mut pause = FIRST_RETRY;
    loop {
        let Some(respawning) = served.upgrade().map(|served| served.respawn.respawn()) else { return };
        // Safe to drop half way: a replacement that nobody waits for ends with its future.
        let fresh = tokio::select! {
            fresh = respawning => fresh,
            () = stop.cancelled() => return,
        };
        let Some(served) = served.upgrade() else { return };
        let of = served.subject.clone();
        match fresh {
            Ok(instance) => {
                served.pool.replace(Seat { instance, index });
                served.keeper.events.tell(ServingEvent::Respawned { of, alive: served.pool.alive() });
                return;
            }
            Err(error) => {
                let (code, message, alive) = (error.code(), error.to_string(), served.pool.alive());
                served.keeper.events.tell(ServingEvent::RespawnFailed { of, code, message, alive });
            }
        }
        drop(served);
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(LAST_RETRY);
    }
}

/// An instance lent to one request; it goes back when dropped, unless it was lost.
struct Lease<I: Instance> {
    seat: Option<Seat<I>>,
    served: Arc<Served<I>>,
}

impl<I: Instance> Lease<I> {
    fn lose(&mut self, error: &InstanceError, attempt: u32) {
        if let Some(seat) = self.seat.take() {
            self.served.lost(seat.index, error, attempt);
        }
    }
}

impl<I: Instance> Drop for Lease<I> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            self.served.pool.put(seat);
        }
    }
}

/// What an inference came to; the inputs come back for a second attempt.
struct Done {
    inputs: Vec<Tensor>,
    result: Result<Vec<Tensor>, InstanceError>,
}

/// An inference on its way. Dropped before its end, it goes on in a task, so that its instance comes back whole.
struct Running {
    work: Option<Pin<Box<dyn Future<Output = Done> + Send>>>,
    tasks: TaskTracker,
}

impl Future for Running {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let done = work.as_mut().poll(cx);
        if done.is_ready() {
            self.work = None;
        }
        done
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(work) = mem::take(&mut self.work) {
            spawn_on(&self.tasks, work);
        }
    }
}

/// Spawns where a runtime is; without one the process is ending and the work with it.
fn spawn_on<F>(tasks: &TaskTracker, work: F)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    if let Ok(runtime) = Handle::try_current() {
        drop(tasks.spawn_on(work, &runtime));
    }
}
