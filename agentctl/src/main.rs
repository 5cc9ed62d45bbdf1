//! `agentctl`: the command line of agentd, for one machine and for a fleet.
//!
//! `commands` has a file a noun; `ui` is the only place that prints; `failure` is what every command fails with.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

mod bundle_file;
mod commands;
mod context;
mod failure;
mod ui;

use commands::Command;
use context::Context;
use failure::Exit;

/// Drives agentd: one machine over its local socket, a fleet through the broker.
#[derive(Debug, Parser)]
#[command(name = "agentctl", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit status: 0 done, 1 the answer is no, 2 bad usage, 3 daemon out of reach, 4 refused,\n\
    5 timed out, 6 part of a fleet failed, 70 a defect of this program."
)]
struct Cli {
    #[command(flatten)]
    context: context::Args,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are answers, not errors; a closed pipe is not an error either.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            drop(error.print());
            return exit.into();
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return Exit::Usage.into();
        }
    };
    let context = Context::new(cli.context);
    match cli.command.run(&context) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            context.ui().failure(&failure);
            failure.exit().into()
        }
    }
}

/// The whole command line, for completions and man pages.
fn command_line() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command_line().debug_assert();
    }
}
