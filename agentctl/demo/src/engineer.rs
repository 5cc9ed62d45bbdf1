//! The engineer's side: every step is one command of `agentctl`, as a person would type it.
//!
//! In: a folder for keys, documents, bundles and blocks, and the broker's address. Out: signed documents on the broker
//! and a server of blocks. Holds no key itself: `agentctl` reads and writes them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::programs::{Child, Programs};

/// Three keys, two of which must sign trust; one for the fleet's orders; one for releases of `demo/*`.
const KEYS: [&str; 5] = ["root-1", "root-2", "root-3", "fleet-1", "release-1"];

/// Where published bundles and their blocks lie.
const BLOCKS: &str = "blocks";

/// Whoever rolls models out.
#[derive(Clone, Debug)]
pub(crate) struct Engineer {
    programs: Programs,
    folder: PathBuf,
    broker: SocketAddr,
}

/// A bundle that was packed.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Packed {
    pub(crate) file: String,
    pub(crate) weights: u64,
    pub(crate) bytes: u64,
    pub(crate) chunks: u64,
}

impl Engineer {
    /// An engineer who keeps everything in `folder`, where `programs` run.
    pub(crate) const fn new(programs: Programs, folder: PathBuf, broker: SocketAddr) -> Self {
        Self { programs, folder, broker }
    }

    /// The programs that the engineer uses.
    pub(crate) const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The broker through which the fleet is reached.
    pub(crate) const fn broker(&self) -> SocketAddr {
        self.broker
    }

    /// Makes every key of the fleet.
    pub(crate) async fn make_keys(&self) -> Result<()> {
        for key in KEYS {
            self.run(&format!("key generate {key}")).await?;
        }
        Ok(())
    }

    /// Writes the first trust document, has two people sign it one after the other, and returns where it is.
    pub(crate) async fn found_trust(&self) -> Result<PathBuf> {
        self.run(
            "trust init --fleet demo --root root-1.pub --root root-2.pub --root root-3.pub --root-threshold 2 \
             --fleet-key fleet-1.pub --release demo/*=release-1.pub --key root-1.pem --output trust-1.json",
        )
        .await?;
        self.run("trust sign trust-1.json --key root-2.pem").await?;
        Ok(self.folder.join("trust-1.json"))
    }

    /// Takes a copy of the described model in `source`, to be packed as `name`, and returns where the copy is.
    pub(crate) fn take(&self, source: &Path, name: &str) -> Result<PathBuf> {
        let copy = self.folder.join(name);
        copy_folder(source, &copy).with_context(|| format!("cannot copy `{}`", source.display()))?;
        Ok(copy)
    }

    /// Packs the model taken as `name`, signs it and puts it where the server of blocks finds it.
    pub(crate) async fn release(&self, name: &str) -> Result<Packed> {
        let report = self.run(&format!("bundle pack {name} --json")).await?;
        let packed: Packed = serde_json::from_str(&report).context("what was packed cannot be read")?;
        let file = &packed.file;
        self.run(&format!("bundle sign {file} --key release-1.pem --trust trust-1.json")).await?;
        self.run(&format!("fleet publish {file} --store {BLOCKS}")).await?;
        Ok(packed)
    }

    /// Asks every device of the fleet to run a published bundle.
    pub(crate) async fn deploy(&self, bundle: &Packed) -> Result<()> {
        let (file, broker) = (&bundle.file, self.broker);
        self.run(&format!(
            "fleet deploy {file} --all --fleet demo --trust trust-1.json --key fleet-1.pem --broker {broker}"
        ))
        .await
        .map(drop)
    }

    /// Starts a server of blocks.
    pub(crate) fn serve(&self, log: PathBuf) -> Result<Child> {
        let line = format!("fleet serve --store {BLOCKS} --broker {}", self.broker);
        self.programs.start("agentctl", line.split(' '), log)
    }

    /// What the fleet reports.
    pub(crate) async fn devices(&self) -> Result<String> {
        self.run(&format!("fleet devices --fleet demo --broker {}", self.broker)).await
    }

    /// What `agentctl` says about this machine.
    pub(crate) async fn hardware(&self) -> Result<Value> {
        let report = self.run("hardware show --json").await?;
        serde_json::from_str(&report).context("the hardware report cannot be read")
    }

    /// Where published blocks lie.
    pub(crate) fn blocks(&self) -> PathBuf {
        self.folder.join(BLOCKS)
    }

    /// Runs one command of `agentctl`; its words are parted by blanks.
    async fn run(&self, line: &str) -> Result<String> {
        self.programs.agentctl(line.split(' ')).await
    }
}

/// Copies the files of `from`, and of folders in it, to `to`, which is made.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
