//! What the parts of the daemon share: the store, the documents, what is served, what this machine is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agentd_config::Config;
use agentd_hardware::{FirmwareProfile, FirmwareProfiles, Inventory, Root, fingerprint};
use agentd_isolation::{Limits, Program, Worker};
use agentd_serving::Serving;
use agentd_store::{RecordError, Store};
use agentd_types::{Adapter, ByteCount, Clock, Digest, EngineKind, ModelName, UnixTime};
use agentd_wire::{Event, Manifest, ModelState, What};
use log::warn;
use tokio::{
    sync::{Notify, OnceCell, watch},
    task::{JoinError, spawn_blocking},
    time::Instant,
};

use crate::{authority::Authority, failures::Failures, sockets::Access, source::Source};

/// A probe of graphics adapters may load drivers, which takes its time.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

/// What the parts of the daemon share.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<Store>,
    pub(crate) authority: Authority,
    pub(crate) serving: Arc<Serving<Worker>>,
    pub(crate) program: Program,
    pub(crate) source: Source,
    /// Who may connect to which socket.
    pub(crate) sockets: Vec<Access>,
    pub(crate) failures: Mutex<Failures>,
    /// Names this run of the daemon.
    pub(crate) boot: String,
    pub(crate) started: Instant,
    pub(crate) started_at: UnixTime,
    /// Wakes the reconciler: something may have changed.
    pub(crate) wake: Notify,
    /// The position of the last entry of the journal.
    pub(crate) head: watch::Sender<u64>,
    /// Manifests of bundles whose chunks are coming: clean-up for one of them leaves the others theirs.
    pub(crate) coming: Mutex<BTreeMap<Digest, Arc<Manifest>>>,
    /// Held where waiting is allowed, while room is made and while a bundle joins `coming`: each clean-up either knows of
    /// a bundle, or ended before anybody asked which of its chunks are missing.
    pub(crate) cleaning: Mutex<()>,
    adapters: OnceCell<Vec<Adapter>>,
    progress: Mutex<BTreeMap<ModelName, ModelState>>,
}

/// What this machine is, as placement needs it.
#[derive(Clone, Debug)]
pub(crate) struct Hardware {
    pub(crate) inventory: Inventory,
    pub(crate) profile: FirmwareProfile,
    pub(crate) fingerprint: Digest,
}

/// What the parts are made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<Store>,
    pub(crate) authority: Authority,
    pub(crate) serving: Arc<Serving<Worker>>,
    pub(crate) program: Program,
    pub(crate) source: Source,
    pub(crate) sockets: Vec<Access>,
    pub(crate) boot: String,
}

impl House {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { config, clock, store, authority, serving, program, source, sockets, boot } = parts;
        let (head, started_at) = (watch::Sender::new(store.journal().head().seq), clock.now());
        Arc::new(Self {
            config,
            clock,
            store,
            authority,
            serving,
            program,
            source,
            sockets,
            failures: Mutex::default(),
            boot,
            started: Instant::now(),
            started_at,
            wake: Notify::new(),
            head,
            coming: Mutex::default(),
            cleaning: Mutex::default(),
            adapters: OnceCell::new(),
            progress: Mutex::default(),
        })
    }

    /// Journals what happened; returns when it survives a power cut.
    ///
    /// # Errors
    /// When it does not; nothing may be done on its account then.
    pub(crate) async fn record(self: &Arc<Self>, what: What) -> Result<Event, RecordError> {
        let name = what.name();
        let recorded = self.blocking(move |house| house.store.record(what)).await;
        self.tell_head();
        recorded.unwrap_or(Err(RecordError::Form { name }))
    }

    /// Tells everybody who follows the journal how far it is.
    pub(crate) fn tell_head(&self) {
        let seq = self.store.journal().head().seq;
        self.head.send_if_modified(|head| std::mem::replace(head, seq) != seq);
    }

    /// Does what waits for the disk away from the tasks that serve.
    ///
    /// # Errors
    /// When `work` panicked or the daemon is ending.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let house = Arc::clone(self);
        spawn_blocking(move || work(&house)).await
    }

    /// A document took effect: what failed before may succeed now.
    pub(crate) fn documents_changed(&self) {
        lock(&self.failures).clear_all();
        self.tell_head();
        self.wake.notify_one();
    }

    /// What this machine is. The first call asks for graphics adapters, in a worker process.
    pub(crate) async fn hardware(&self) -> Hardware {
        let adapters = self.adapters.get_or_init(|| self.probe()).await.clone();
        let mut inventory = Inventory::read(&Root::system(), Some(&self.config.device.state), adapters);
        let mut profiles = FirmwareProfiles::shipped();
        for problem in profiles.add_folder(&self.config.device.profiles) {
            warn!(event = "hardware.profile", error = problem.to_string().as_str(); "Firmware profile is ignored");
        }
        let profile = profiles.best(&inventory);
        inventory.sensors.retain(|sensor| !profile.ignores_sensor(&sensor.name));
        let version = concat!("agentd ", env!("CARGO_PKG_VERSION")).to_owned();
        // Their versions are pinned with the program's.
        let engines =
            EngineKind::BUILT_IN.iter().map(|engine| (engine.to_string(), version.clone())).collect();
        let fingerprint = fingerprint(&inventory, &engines);
        Hardware { inventory, profile, fingerprint }
    }

    async fn probe(&self) -> Vec<Adapter> {
        let mut worker = match Worker::start(&self.program, &Limits::with_memory(ByteCount::mib(1024))).await
        {
            Ok(worker) => worker,
            Err(error) => {
                warn!(event = "hardware.probe", error = agentd_types::chain(&error).as_str(); "No adapter probe");
                return Vec::new();
            }
        };
        let adapters = worker.adapters(PROBE_DEADLINE).await;
        worker.stop().await;
        adapters.unwrap_or_else(|error| {
            warn!(event = "hardware.probe", error = agentd_types::chain(&error).as_str(); "No adapter probe");
            Vec::new()
        })
    }

    /// Says where a model stands on its way; `None` when it rests.
    pub(crate) fn set_progress(&self, model: &ModelName, state: Option<ModelState>) {
        let mut progress = lock(&self.progress);
        match state {
            Some(state) => drop(progress.insert(model.clone(), state)),
            None => drop(progress.remove(model)),
        }
    }

    /// Where a model stands on its way, when it moves.
    pub(crate) fn progress(&self, model: &ModelName) -> Option<ModelState> {
        lock(&self.progress).get(model).cloned()
    }
}

/// Locks what only short, infallible code touches; a poisoned lock is as good as any other.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
