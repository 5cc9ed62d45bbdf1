//! Puts the parts together, runs them, and ends them in order.

use std::{path::PathBuf, sync::Arc, time::Duration};

use agentd_config::{Broker, Config, Security};
use agentd_isolation::Program;
use agentd_link::{
    BrokerAddress, Credentials, Link, LinkConfig, LinkHandle, Outbox, OutboxError, OutboxLimits,
    RumqttTransport, TlsError, TlsSettings, Transport, client_config,
};
use agentd_serving::{Limits, ListenError, Listener, Serving, serve};
use agentd_store::{OpenError, RealStorage, RecordError, Store, StoreOptions};
use agentd_types::{Clock, Code, Coded};
use agentd_wire::What;
use log::{info, warn};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    authority::{AcceptError, Authority},
    clock::SystemClock,
    house::{House, Parts},
    identity::{self, IdentityError},
    outbox::DiskOutbox,
    reconcile, report,
    sockets::{self, For},
    source::{Remote, RemoteParts, Source},
    systemd, upkeep,
};

/// Serving tells the reconciler through this many places; beyond, news is dropped and counted.
const SERVING_EVENTS: usize = 256;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// A file that the configuration names cannot be read.
    #[error("`{key}` names `{path}`, which cannot be read")]
    File {
        /// The key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The run folder cannot be made.
    #[error("the folder `{path}` for the sockets cannot be made")]
    RunFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The state folder cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// This device has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The pinned trust document does not hold.
    #[error("the trust document of this device does not hold")]
    Trust(#[from] AcceptError),
    /// There is no worker program.
    #[error("the worker program is not found; set `device.worker`")]
    Worker(#[source] std::io::Error),
    /// The link cannot be protected.
    #[error("the link to the broker cannot be protected; {}", .0.hint())]
    Tls(#[from] TlsError),
    /// The outbox cannot be read.
    #[error("the outbox cannot be read")]
    Outbox(#[from] OutboxError),
    /// A socket does not listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The journal refuses.
    #[error("the journal refuses")]
    Record(#[from] RecordError),
    /// No signals.
    #[error("signals cannot be received")]
    Signals(#[source] std::io::Error),
    /// No randomness.
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
}

impl Coded for RunError {
    fn code(&self) -> Code {
        match self {
            Self::File { .. } => Code::new("config.file"),
            Self::RunFolder { .. } => Code::new("config.run_folder"),
            Self::Store(error) => error.code(),
            Self::Identity(error) => error.code(),
            Self::Trust(error) => error.code(),
            Self::Worker(_) => Code::new("worker.missing"),
            Self::Tls(error) => error.code(),
            Self::Outbox(_) => Code::new("outbox.open"),
            Self::Listen(error) => error.code(),
            Self::Record(error) => error.code(),
            Self::Signals(_) => Code::new("daemon.signals"),
            Self::Random(_) => Code::new("device.random"),
        }
    }
}

/// Runs until it is told to stop.
///
/// # Errors
/// When it cannot start. Once it runs, nothing but an order ends it.
pub(crate) async fn run(config: Config) -> Result<(), RunError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let pinned = read("device.trust", &config.device.trust)?;
    let program = match &config.device.worker {
        Some(path) => Program::at(path),
        None => Program::find().map_err(RunError::Worker)?,
    };
    let options =
        StoreOptions { quota: config.store.quota, reserve: config.store.reserve, ..StoreOptions::default() };
    let (store, opened) =
        Store::open(config.device.state.clone(), options, Arc::clone(&clock), Arc::new(RealStorage::new()))?;
    let store = Arc::new(store);
    info!(event = "store.open", entries = store.journal().head().seq, damaged = opened.damaged.len(),
        adopted_chunks = opened.adopted_chunks; "State folder is open");
    let identity = identity::load(&config)?;
    let authority = Authority::open(identity, &pinned, Arc::clone(&store), Arc::clone(&clock))?;
    let boot = boot_id()?;
    let (link, source) = match &config.broker {
        None => (None, Source::local()),
        Some(broker) => {
            let (link, remote) = link(&config, broker, &store, &clock, &boot)?;
            (Some(link), Source::remote(remote))
        }
    };
    let (events, serving_events) = mpsc::channel(SERVING_EVENTS);
    let limits = Limits {
        connections: config.serving.connections,
        body: config.serving.max_body,
        bodies: config.serving.max_bodies,
        ..Limits::default()
    };
    let serving = Serving::new(limits, Arc::clone(&clock), events);
    let run = config.device.run.clone();
    std::fs::create_dir_all(&run).map_err(|source| RunError::RunFolder { path: run.clone(), source })?;
    let (control, administrators) = sockets::bind(&run, "control.sock", For::administrators(&config))?;
    let (infer, applications) = sockets::bind(&run, "infer.sock", For::applications(&config))?;
    let mut listeners = vec![Listener::bound(infer, &run.join("infer.sock"))];
    let sockets = vec![administrators, applications];
    let house =
        House::new(Parts { config, clock, store, authority, serving, program, source, sockets, boot });
    for address in &house.config.serving.listen {
        listeners.push(Listener::tcp(*address).await?);
    }
    let started = What::Started { version: env!("CARGO_PKG_VERSION").to_owned(), boot: house.boot.clone() };
    house.record(started).await?;

    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(api::run(Arc::clone(&house), control, stop.clone()));
    tasks.spawn(serve(Arc::clone(&house.serving), listeners, stop.clone()));
    tasks.spawn(reconcile::run(Arc::clone(&house), serving_events, stop.clone()));
    tasks.spawn(upkeep::run(Arc::clone(&house), stop.clone()));
    tasks.spawn(systemd::watchdog(stop.clone()));
    if let Some((link, handle, incoming)) = link {
        tasks.spawn(link.run(stop.clone()));
        tasks.spawn(report::run(Arc::clone(&house), handle.clone(), stop.clone()));
        tasks.spawn(report::listen(Arc::clone(&house), handle, incoming, stop.clone()));
    }
    systemd::ready();
    info!(event = "daemon.ready", device = house.config.device.id.as_str(); "Daemon is ready");
    // Both arms are safe to drop half way; a part that ends by itself ends the others.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = tasks.join_next() => warn!(event = "daemon.part_ended", error = format!("{ended:?}").as_str();
            "A part of the daemon ended by itself"),
    }
    systemd::stopping();
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    house.serving.stop().await;
    house.record(What::Stopped).await?;
    info!(event = "daemon.stopped"; "Daemon stopped");
    Ok(())
}

type Control = (Link, LinkHandle, mpsc::Receiver<agentd_link::Incoming>);

fn link(
    config: &Config,
    broker: &Broker,
    store: &Arc<Store>,
    clock: &Arc<dyn Clock>,
    boot: &str,
) -> Result<(Control, Remote), RunError> {
    let address = BrokerAddress { host: broker.host.clone(), port: broker.port };
    let mut transport = RumqttTransport::new(address);
    if let Security::Tls(tls) = &broker.security {
        let client = match &tls.identity {
            Some((certificate, key)) => {
                Some((read("broker.certificate", certificate)?, read("broker.key", key)?))
            }
            None => None,
        };
        let settings = TlsSettings { roots: read("broker.ca", &tls.ca)?, client };
        transport = transport.with_tls(client_config(&settings)?);
    }
    if let Some(user) = &broker.user {
        let password = match &broker.password_file {
            Some(path) => String::from_utf8_lossy(&read("broker.password_file", path)?).trim_end().to_owned(),
            None => String::new(),
        };
        transport = transport.with_credentials(Credentials { user: user.clone(), password });
    }
    let transport: Arc<dyn Transport> = Arc::new(transport);
    let outbox = Outbox::open(Box::new(DiskOutbox::new(Arc::clone(store))), OutboxLimits::default())?;
    let (fleet, device) = (config.device.fleet.clone(), config.device.id.clone());
    let settings = LinkConfig {
        keep_alive: broker.keep_alive.max(Duration::from_secs(5)),
        ..LinkConfig::new(fleet.clone(), device.clone(), boot, env!("CARGO_PKG_VERSION"))
    };
    let seed = random()?;
    let (link, handle, incoming) =
        Link::new(settings, Arc::clone(&transport), outbox, Arc::clone(clock), seed);
    let remote = Remote::new(RemoteParts {
        transport,
        link: handle.clone(),
        fleet,
        device,
        daily: broker.daily_bytes,
        store: Arc::clone(store),
        clock: Arc::clone(clock),
        seed,
    });
    Ok(((link, handle, incoming), remote))
}

fn read(key: &'static str, path: &std::path::Path) -> Result<Vec<u8>, RunError> {
    std::fs::read(path).map_err(|source| RunError::File { key, path: path.to_owned(), source })
}

/// Names this run of the daemon.
fn boot_id() -> Result<String, RunError> {
    Ok(format!("{:016x}", random()?))
}

fn random() -> Result<u64, RunError> {
    getrandom::u64().map_err(RunError::Random)
}
