//! The `bench` command.

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// The `bench` command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args, _context: &Context) -> Result<Exit, Failure> {
    Err(Failure::new("this command is not written yet").exit_with(Exit::Defect))
}
