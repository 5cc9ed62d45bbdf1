//! The `config` commands.

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// The `config` commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {}

pub(crate) fn run(_args: Command, _context: &Context) -> Result<Exit, Failure> {
    Err(Failure::new("this command is not written yet").exit_with(Exit::Defect))
}
