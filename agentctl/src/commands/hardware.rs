//! `hardware show`: what this machine is, and what agentd makes of it. No daemon needed.

mod report;

use std::{path::PathBuf, time::Duration};

use agentd_hardware::{FirmwareProfiles, Inventory, Root};
use agentd_isolation::{Limits, Program, Worker};
use agentd_types::{Adapter, chain};

use crate::{
    context::Context,
    failure::{Exit, Failure},
};
use report::Report;

/// A driver that does not answer by then has hung.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

/// The `hardware` commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show processor, memory, graphics, heat and the firmware profile that applies.
    #[command(after_help = "Example:\n  agentctl hardware show --profiles ./my-profiles")]
    Show {
        /// The folder whose disk matters.
        #[arg(long, value_name = "FOLDER", default_value = "/")]
        state: PathBuf,
        /// A folder of further firmware profiles.
        #[arg(long, value_name = "FOLDER", default_value = "/etc/agentd/firmware-profiles")]
        profiles: PathBuf,
        /// Do not ask the graphics drivers.
        #[arg(long)]
        no_probe: bool,
    },
}

pub(crate) fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    let Command::Show { state, profiles: folder, no_probe } = command;
    let ui = context.ui();
    let mut profiles = FirmwareProfiles::shipped();
    for problem in profiles.add_folder(&folder) {
        ui.note(format!("firmware profile left out: {}", chain(&problem)));
    }
    let adapters = if no_probe { None } else { Some(probe(context)) };
    let adapters = match adapters {
        Some(Ok(adapters)) => Some(adapters),
        Some(Err(reason)) => {
            ui.note(format!("the graphics drivers were not asked: {reason}"));
            None
        }
        None => None,
    };
    let asked = adapters.is_some();
    let inventory = Inventory::read(&Root::system(), Some(&state), adapters.unwrap_or_default());
    let report = Report::of(inventory, &profiles, asked);
    ui.result(&report, || {
        for line in report.lines() {
            ui.line(line);
        }
    });
    Ok(Exit::Done)
}

/// Asks the graphics drivers in a worker process, since they may crash or hang.
fn probe(context: &Context) -> Result<Vec<Adapter>, String> {
    let adapters = context.block_on(async {
        let fail = |error: &dyn std::error::Error| Failure::new(chain(error));
        let program = Program::find().map_err(|error| fail(&error))?;
        let mut worker = Worker::start(&program, &Limits::default()).await.map_err(|error| fail(&error))?;
        let adapters = worker.adapters(PROBE_DEADLINE).await.map_err(|error| fail(&error));
        worker.stop().await;
        adapters
    });
    adapters.map_err(|failure| failure.what().to_owned())
}
