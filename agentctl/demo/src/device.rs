//! The device: a real daemon with a state folder of its own, and what its journal says while it works.
//!
//! In: the programs, a folder, the broker's address. Out: journal entries as they are written, answers of the local
//! API. Fails early when the journal says that something went wrong.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agentd_client::{Client, EventStream};
use agentd_types::{Coded as _, ModelName};
use agentd_wire::{DeviceStatus, RollbackRequest, RollbackResult, What};
use anyhow::{Context as _, Result, bail};
use tokio::time::{sleep, timeout};

use crate::programs::{Child, Programs};

/// Start-up and every call of the local API take far less.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Nothing that the journal is awaited for takes longer, not even measuring on a busy machine.
const ENTRY_WITHIN: Duration = Duration::from_secs(90);

/// How often a starting daemon is asked whether it answers.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A daemon that answers.
#[derive(Debug)]
pub(crate) struct Device {
    daemon: Child,
    client: Client,
    events: EventStream,
    folder: PathBuf,
    /// From start to the first answer of the local API.
    pub(crate) start_up: Duration,
}

/// What the daemon is told.
#[derive(Clone, Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) id: &'a str,
    pub(crate) fleet: &'a str,
    pub(crate) trust: &'a Path,
    pub(crate) broker: SocketAddr,
    /// Where everything of the device goes.
    pub(crate) folder: &'a Path,
    pub(crate) log: PathBuf,
}

impl Setup<'_> {
    fn config(&self) -> String {
        let Setup { id, fleet, trust, broker, folder, .. } = self;
        let (trust, folder) = (trust.display(), folder.display());
        format!(
            "[device]\nid = \"{id}\"\nfleet = \"{fleet}\"\ntrust = \"{trust}\"\nstate = \"{folder}/state\"\n\
             run = \"{folder}/run\"\n\n[broker]\naddress = \"{broker}\"\nsecurity = \"plain\"\n"
        )
    }
}

impl Device {
    /// Starts the daemon and waits until its local API answers.
    pub(crate) async fn start(programs: &Programs, setup: Setup<'_>) -> Result<Self> {
        let folder = setup.folder.to_owned();
        fs::create_dir_all(folder.join("state"))?;
        fs::create_dir_all(folder.join("run"))?;
        let config = folder.join("agentd.toml");
        fs::write(&config, setup.config())?;
        let mut daemon = programs.start("agentd", [Path::new("--config"), &config], setup.log)?;
        let client = Client::new(folder.join("run/control.sock"), ANSWER_WITHIN);
        let began = Instant::now();
        let events = loop {
            daemon.check()?;
            match client.events(0, true).await {
                Ok(events) => break events,
                Err(error) if error.is_transient() && began.elapsed() < ANSWER_WITHIN => {
                    sleep(ASK_EVERY).await
                }
                Err(error) => return Err(error).context("the daemon does not answer"),
            }
        };
        Ok(Self { daemon, client, events, folder, start_up: began.elapsed() })
    }

    /// The socket on which predictions are answered.
    pub(crate) fn infer_socket(&self) -> PathBuf {
        self.folder.join("run/infer.sock")
    }

    /// The socket for administration.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.folder.join("run/control.sock")
    }

    /// The device and its models.
    pub(crate) async fn status(&self) -> Result<DeviceStatus> {
        Ok(self.client.status().await?)
    }

    /// Takes the previous version back.
    pub(crate) async fn roll_back(&self, model: &ModelName) -> Result<RollbackResult> {
        Ok(self.client.roll_back(model, &RollbackRequest::default()).await?)
    }

    /// Reads journal entries until `pick` takes one; what `pick` passes over is gone.
    ///
    /// Fails on entries that say that a bundle or worker failed, unless `pick` takes them.
    pub(crate) async fn until<T>(&mut self, mut pick: impl FnMut(&What) -> Option<T>) -> Result<T> {
        let read = async {
            loop {
                let event = self.events.next().await?.context("the daemon stopped telling its journal")?;
                if let Some(picked) = pick(&event.what) {
                    return Ok(picked);
                }
                if let Some(problem) = problem(&event.what) {
                    bail!("the device says: {problem}");
                }
            }
        };
        timeout(ENTRY_WITHIN, read).await.context("the device did not get there in time")?
    }

    /// Ends the daemon.
    pub(crate) async fn end(self) -> Result<()> {
        self.daemon.end().await
    }
}

/// What went wrong, when an entry says that something did.
fn problem(what: &What) -> Option<String> {
    match what {
        What::Refused { subject, code, message } => {
            Some(format!("{subject} was refused: {message} [{code}]"))
        }
        What::WorkerFailed { code, message, .. } => Some(format!("a worker failed: {message} [{code}]")),
        What::Quarantined { reason, code, .. } => {
            Some(format!("the bundle is in quarantine: {reason} [{code}]"))
        }
        _ => None,
    }
}
