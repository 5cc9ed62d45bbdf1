//! The real programs: built when needed, run, watched and ended.
//!
//! In: cargo's own target folder, found from where this program lies. Out: `agentctl` runs that succeeded, and children
//! that end when asked. Each child writes to a log of its own, whose end is shown when something fails.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{self, Command},
    time::timeout,
};

/// No single command of the demo takes longer.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// A child that was asked to end and has not by then is killed.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How much of a log is shown when something fails.
const LOG_TAIL_BYTES: u64 = 4 << 10;

/// Whether the programs are built first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    Yes,
    No,
}

/// Where the programs lie.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
    secrets: PathBuf,
}

impl Programs {
    /// The programs in the folder that this program lies in.
    ///
    /// `secrets`: where `agentctl` runs and keeps keys.
    pub(crate) fn beside(secrets: &Path) -> Result<Self> {
        let this = env::current_exe().context("cannot find this program")?;
        let folder = this.parent().context("this program lies in no folder")?.to_owned();
        Ok(Self { folder, secrets: secrets.to_owned() })
    }

    /// Builds the daemon, its worker and the command line. cargo's own progress goes to standard error.
    pub(crate) async fn build(&self) -> Result<()> {
        let folder = &self.folder;
        let target = folder.parent().context("cargo's target folder is not there")?;
        let mut cargo = Command::new(env!("CARGO"));
        cargo.arg("build").arg("--locked").arg("--manifest-path").arg(root().join("Cargo.toml"));
        cargo.arg("--target-dir").arg(target);
        cargo.args(["--package", "agentd", "--package", "agentd-worker", "--package", "agentctl"]);
        if folder.file_name() == Some(OsStr::new("release")) {
            cargo.arg("--release");
        }
        let status =
            cargo.stdin(Stdio::null()).kill_on_drop(true).status().await.context("cannot run cargo")?;
        if !status.success() {
            bail!("the programs do not build: {status}");
        }
        Ok(())
    }

    /// Runs `agentctl` and returns what it wrote to standard output.
    pub(crate) async fn agentctl<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String> {
        let mut command = self.command("agentctl");
        command.args(arguments).stdin(Stdio::null());
        let shown = shown(&command);
        let output = timeout(COMMAND_WITHIN, command.output())
            .await
            .with_context(|| format!("`{shown}` takes too long"))?
            .with_context(|| format!("cannot run `{shown}`"))?;
        if !output.status.success() {
            bail!(
                "`{shown}` failed ({}):\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a program that runs until it is asked to end; what it writes goes to `log`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
        log: PathBuf,
    ) -> Result<Child> {
        let file = File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // Ctrl-C in a terminal goes to this program alone, which ends its children in order.
        command.process_group(0);
        let process = command.spawn().with_context(|| format!("cannot run `{}`", shown(&command)))?;
        Ok(Child { name: program.to_owned(), process, log })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.current_dir(&self.secrets).kill_on_drop(true);
        command
    }
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let command = command.as_std();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Child {
    name: String,
    process: process::Child,
    log: PathBuf,
}

impl Child {
    /// Fails when the program has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended by itself ({status}); its last words:\n{}", self.name, tail(&self.log)?)
            }
        }
    }

    /// Asks the program to end and waits until it has.
    pub(crate) async fn end(mut self) -> Result<()> {
        if let Some(pid) = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, Signal::TERM).with_context(|| format!("cannot end {}", self.name))?;
        }
        if timeout(END_WITHIN, self.process.wait()).await.is_err() {
            self.process.kill().await?;
            bail!("{} had to be killed: it did not end within {} s", self.name, END_WITHIN.as_secs());
        }
        Ok(())
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
