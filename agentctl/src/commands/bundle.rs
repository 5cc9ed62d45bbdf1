//! Make, sign, compare and carry model bundles: a file a verb.

use clap::Subcommand;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// What to do with a bundle.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {}

pub(crate) fn run(command: Command, _context: &Context) -> Result<Exit, Failure> {
    match command {}
}
