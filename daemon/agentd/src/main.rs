//! The daemon: takes signed model bundles, measures and places them, serves predictions, and reports.
//!
//! Read [`line`] first: the whole way of a model on one screen. [`reconcile`] decides when each step is taken,
//! [`daemon`] puts the parts together, [`house`] is what they share.

use std::{path::PathBuf, process::ExitCode};

use agentd_config::{Config, DEFAULT_FILE, Settings};
use agentd_types::{Coded, chain};
use clap::Parser;

mod api;
mod authority;
mod clock;
mod daemon;
mod doctor;
mod failures;
mod house;
mod identity;
mod line;
mod logging;
mod operate;
mod outbox;
mod reconcile;
mod report;
mod sockets;
mod source;
mod status;
mod systemd;
mod upkeep;

/// Takes signed model bundles, proves and measures them, and serves predictions on this machine.
#[derive(Debug, Parser)]
#[command(name = "agentd", version, about)]
struct Args {
    /// The configuration file; `conf.d/*.toml` beside it is read as well.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key, over every file; may be given more than once.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Checks the configuration and ends.
    #[arg(long)]
    check: bool,
    /// Makes the folders from which the sockets get their groups, and ends; run as root before the daemon.
    #[arg(long)]
    prepare: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match load(&args) {
        Ok(config) => config,
        Err(error) => return fail("the configuration cannot be used", error.code().as_str(), &chain(&error)),
    };
    if args.check {
        return ExitCode::SUCCESS;
    }
    if args.prepare {
        return match sockets::prepare(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail("the sockets cannot be prepared", "listen.prepare", &error.to_string()),
        };
    }
    logging::install(config.log.level);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail("no runtime", "daemon.start", &error.to_string()),
    };
    match runtime.block_on(daemon::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("the daemon cannot run", error.code().as_str(), &chain(&error)),
    }
}

fn load(args: &Args) -> Result<Config, agentd_config::ConfigError> {
    let required = args.config.is_some();
    let file = args.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
    let settings = Settings::load(&file, required, &args.set)?;
    Config::check(settings, &agentd_hardware::host_name())
}

#[expect(clippy::print_stderr, reason = "there may be no log yet")]
fn fail(what: &str, code: &str, cause: &str) -> ExitCode {
    log::error!(event = "daemon.failed", code, error = cause; "Daemon ends");
    eprintln!("error: {what}\n  cause: {cause}\n  [{code}]");
    ExitCode::FAILURE
}
