//! What every command is given: how to print, where the daemon is, how to wait.

use std::{future::Future, path::PathBuf, time::Duration};

use agentd_client::Client;
use agentd_types::{Clock, UnixTime};

use crate::{
    failure::{Exit, Failure},
    ui::{Color, Form, Ui},
};

/// Options of every command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Print results and errors only.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
    /// The daemon's control socket.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "AGENTD_SOCKET",
        default_value = "/run/agentd/control.sock"
    )]
    socket: PathBuf,
    /// The longest time to wait for the daemon, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    ui: Ui,
    socket: PathBuf,
    timeout: Duration,
}

impl Context {
    pub(crate) fn new(args: Args) -> Self {
        let form = if args.json { Form::Json } else { Form::Human };
        let timeout = Duration::from_secs(args.timeout);
        Self { ui: Ui::new(form, args.quiet, args.color), socket: args.socket, timeout }
    }

    /// How to print.
    pub(crate) const fn ui(&self) -> Ui {
        self.ui
    }

    /// The daemon of this machine.
    pub(crate) fn daemon(&self) -> Client {
        Client::new(&self.socket, self.timeout)
    }

    /// The daemon's socket for applications, beside the one for control.
    pub(crate) fn predictions(&self) -> Client {
        Client::new(self.socket.with_file_name("infer.sock"), self.timeout)
    }

    /// The wall clock.
    #[expect(clippy::unused_self, reason = "time is part of what a command is given")]
    pub(crate) fn now(&self) -> UnixTime {
        SystemClock.now()
    }

    /// Waits for `work` on a runtime of its own.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failure::new("cannot start").because(&error).exit_with(Exit::Defect))?
            .block_on(work)
    }
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time comes in")]
    fn now(&self) -> UnixTime {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        UnixTime(since.map_or(0, |since| since.as_secs()))
    }
}
