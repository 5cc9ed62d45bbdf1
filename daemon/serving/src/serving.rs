//! The routing table: which version of a deployment answers, and switching without a failed request.
//!
//! A switch is one atomic exchange: requests that come after it go to the new version, those before it end on the
//! old one, which stays loaded as the previous version until it is dropped.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use agentd_types::{ByteCount, Clock, Code, Coded, ModelName};
use arc_swap::ArcSwap;
use log::info;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Instance, ServingEvent, Version,
    http::Traffic,
    pool::lock,
    served::{Events, Keeper, Served},
    status::{DeploymentStatus, VersionStatus},
};

/// What the HTTP side bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections for each listener; one more takes the place of the longest idle.
    pub connections: usize,
    /// The largest body, whatever the model's schema would allow.
    pub body: ByteCount,
    /// All bodies together that are being read or computed.
    pub bodies: ByteCount,
    /// From the first byte of a request to the end of its head.
    pub head_deadline: Duration,
    /// From the end of the head to the end of the body.
    pub body_deadline: Duration,
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// How long a caller may take no byte of an answer.
    pub write_deadline: Duration,
    /// How long requests in flight may go on after a stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            body: ByteCount::mib(64),
            bodies: ByteCount::mib(256),
            head_deadline: Duration::from_secs(5),
            body_deadline: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            write_deadline: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// All deployments of this device.
///
/// `I` is what runs a model: a worker process in the daemon, a fake in tests.
pub struct Serving<I> {
    table: ArcSwap<Table<I>>,
    /// Held while the table is changed; readers never wait for it.
    changing: Mutex<()>,
    keeper: Keeper,
    clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) traffic: Traffic,
    switches: AtomicU64,
}

type Table<I> = BTreeMap<ModelName, Deployment<I>>;

/// A model that is served.
pub(crate) struct Deployment<I> {
    pub(crate) active: Arc<Served<I>>,
    pub(crate) previous: Option<Arc<Served<I>>>,
}

impl<I> Clone for Deployment<I> {
    fn clone(&self) -> Self {
        Self { active: Arc::clone(&self.active), previous: self.previous.clone() }
    }
}

impl<I> fmt::Debug for Serving<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let models: Vec<_> = self.table.load().keys().cloned().collect();
        f.debug_struct("Serving")
            .field("models", &models)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Why a version could not be activated or taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// The version has no instance, input or output.
    #[error("version {version} of model `{model}` has no {lacks}")]
    Incomplete {
        /// The deployment.
        model: ModelName,
        /// The version.
        version: u64,
        /// What is missing.
        lacks: &'static str,
    },
    /// The model is not deployed.
    #[error("model `{0}` is not deployed")]
    Unknown(ModelName),
    /// No previous version is loaded.
    #[error("model `{0}` has no previous version that is ready")]
    NoPrevious(ModelName),
}

impl Coded for SwitchError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Incomplete { .. } => "serving.incomplete",
            Self::Unknown(_) => "model.unknown",
            Self::NoPrevious(_) => "serving.no_previous",
        })
    }
}

/// What a switch changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switched {
    /// The version that answered before, if any.
    pub from: Option<u64>,
    /// The version that answers now.
    pub to: u64,
}

impl<I: Instance> Serving<I> {
    /// Serves nothing yet.
    ///
    /// `events`: what may cost a version its place is told here; a full channel drops and counts.
    pub fn new(limits: Limits, clock: Arc<dyn Clock>, events: mpsc::Sender<ServingEvent>) -> Arc<Self> {
        let keeper = Keeper {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            events: Events { tx: events, dropped: Arc::default() },
        };
        Arc::new(Self {
            table: ArcSwap::default(),
            changing: Mutex::new(()),
            keeper,
            clock,
            limits,
            traffic: Traffic::default(),
            switches: AtomicU64::new(0),
        })
    }

    /// Lets `version` answer from now on; the version that answered so far stays ready as the previous one, and
    /// the one before that is dropped when its last request has ended. Activating the active version again (same
    /// number and bundle) replaces its instances and keeps the previous version.
    ///
    /// # Errors
    /// When the version has nothing to answer with.
    pub fn activate(&self, model: &ModelName, version: Version<I>) -> Result<Switched, SwitchError> {
        for (lacks, missing) in [
            ("instance", version.instances.is_empty()),
            ("input", version.inputs.is_empty()),
            ("output", version.outputs.is_empty()),
        ] {
            if missing {
                let (model, version) = (model.clone(), version.version);
                return Err(SwitchError::Incomplete { model, version, lacks });
            }
        }
        let fresh = Arc::new(Served::new(model.clone(), version, self.clock.now(), self.keeper.clone()));
        let to = fresh.subject.version;
        let from = self.change(|table| {
            let old = table.remove(model);
            let from = old.as_ref().map(|old| old.active.subject.version);
            let previous = match old {
                Some(old) if old.active.subject == fresh.subject => old.previous,
                Some(old) => Some(old.active),
                None => None,
            };
            table.insert(model.clone(), Deployment { active: fresh, previous });
            from
        });
        info!(event = "serving.activated", model = model.as_str(), version = to; "Version answers");
        Ok(Switched { from, to })
    }

    /// Lets the previous version answer again, at once; the two change places.
    ///
    /// # Errors
    /// When the model or its previous version is not there.
    pub fn roll_back(&self, model: &ModelName) -> Result<Switched, SwitchError> {
        self.change(|table| {
            let deployment = table.get_mut(model).ok_or_else(|| SwitchError::Unknown(model.clone()))?;
            let previous =
                deployment.previous.take().ok_or_else(|| SwitchError::NoPrevious(model.clone()))?;
            let (from, to) = (deployment.active.subject.version, previous.subject.version);
            deployment.previous = Some(std::mem::replace(&mut deployment.active, previous));
            info!(event = "serving.rolled_back", model = model.as_str(), version = to; "Previous version answers");
            Ok(Switched { from: Some(from), to })
        })
    }

    /// Stops serving a model: new requests get 404, those that came before are answered. Returns when they are or
    /// the drain limit has passed; the instances end with their last request.
    ///
    /// # Errors
    /// When the model is not deployed.
    pub async fn retire(&self, model: &ModelName) -> Result<(), SwitchError> {
        let deployment =
            self.change(|table| table.remove(model)).ok_or_else(|| SwitchError::Unknown(model.clone()))?;
        info!(event = "serving.retired", model = model.as_str(); "Model is not served any more");
        self.drained(Some(deployment.active)).await;
        self.drained(deployment.previous).await;
        Ok(())
    }

    /// Unloads the previous version when its requests have ended; returns its number, `None` when there is none.
    ///
    /// # Errors
    /// When the model is not deployed.
    pub async fn drop_previous(&self, model: &ModelName) -> Result<Option<u64>, SwitchError> {
        let previous = self.change(|table| {
            let deployment = table.get_mut(model).ok_or_else(|| SwitchError::Unknown(model.clone()))?;
            Ok(deployment.previous.take())
        })?;
        let version = previous.as_ref().map(|previous| previous.subject.version);
        self.drained(previous).await;
        Ok(version)
    }

    async fn drained(&self, served: Option<Arc<Served<I>>>) {
        if let Some(served) = served {
            let elapsed = timeout(self.limits.drain, served.pool.drained()).await.is_err();
            if elapsed {
                info!(event = "serving.drain_elapsed", model = served.subject.model.as_str(),
                    version = served.subject.version; "Requests still run on a version that was dropped");
            }
        }
    }

    /// Ends everything: waits until inferences that nobody waits for any more have ended, at most the drain limit.
    pub async fn stop(&self) {
        self.keeper.stop.cancel();
        self.change(Table::clear);
        self.keeper.tasks.close();
        if timeout(self.limits.drain, self.keeper.tasks.wait()).await.is_err() {
            info!(event = "serving.drain_elapsed"; "Inferences still run at the end of serving");
        }
    }

    /// Every deployment with its counts and latencies, by name.
    pub fn statuses(&self) -> Vec<DeploymentStatus> {
        self.table.load().iter().map(|(name, deployment)| status_of(name, deployment)).collect()
    }

    /// One deployment with its counts and latencies.
    pub fn status(&self, model: &ModelName) -> Option<DeploymentStatus> {
        self.table.load().get(model).map(|deployment| status_of(model, deployment))
    }

    /// Resident memory of all instances that are processes of their own.
    pub fn memory(&self) -> ByteCount {
        let versions = self.versions();
        let pids = versions.iter().flat_map(|(served, _)| served.pool.pids());
        pids.filter_map(|(_, pid)| crate::metrics::resident_bytes(pid)).map(ByteCount).sum()
    }

    pub(crate) fn active(&self, model: &str) -> Option<Arc<Served<I>>> {
        self.table.load().get(model).map(|deployment| Arc::clone(&deployment.active))
    }

    pub(crate) fn deployment(&self, model: &str) -> Option<Deployment<I>> {
        self.table.load().get(model).cloned()
    }

    /// Active and previous versions, by name; the active one of each first.
    pub(crate) fn versions(&self) -> Vec<(Arc<Served<I>>, Role)> {
        let table = self.table.load();
        let each = table.values().flat_map(|deployment| {
            let previous = deployment.previous.iter().map(|served| (Arc::clone(served), Role::Previous));
            std::iter::once((Arc::clone(&deployment.active), Role::Active)).chain(previous)
        });
        each.collect()
    }

    pub(crate) fn switches(&self) -> u64 {
        self.switches.load(Relaxed)
    }

    pub(crate) fn events_dropped(&self) -> u64 {
        self.keeper.events.dropped.load(Relaxed)
    }

    /// Changes a copy of the table and puts it in place of the old one.
    fn change<T>(&self, change: impl FnOnce(&mut Table<I>) -> T) -> T {
        let _changing = lock(&self.changing);
        let mut table = Table::clone(&self.table.load());
        let result = change(&mut table);
        self.table.store(Arc::new(table));
        self.switches.fetch_add(1, Relaxed);
        result
    }
}

/// Whether a version answers or waits to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Active,
    Previous,
}

impl<I: Instance> Deployment<I> {
    /// The version that a path names: the active or the previous one.
    pub(crate) fn version(&self, text: &str) -> Option<&Arc<Served<I>>> {
        std::iter::once(&self.active).chain(&self.previous).find(|served| served.version_text == text)
    }
}

fn status_of<I: Instance>(name: &ModelName, deployment: &Deployment<I>) -> DeploymentStatus {
    DeploymentStatus {
        name: name.clone(),
        active: VersionStatus::of(&deployment.active),
        previous: deployment.previous.as_deref().map(VersionStatus::of),
    }
}
