//! Make, sign, compare and carry model bundles: a file a verb.

mod carry;
mod deliver;
mod diff;
mod init;
mod pack;
mod show;
mod sign;
mod templates;
mod text;
mod verify;

use clap::Subcommand;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};
use templates::{card_template, licence_template};

/// What to do with a bundle.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Describe an ONNX file: write a folder that can be packed.
    Init(init::Args),
    /// Pack a described folder into one file, ready to be signed.
    Pack(pack::Args),
    /// Add your signature; where several must sign, one after the other.
    Sign(sign::Args),
    /// Check content, signatures, revocation and expiry.
    Verify(verify::Args),
    /// Show what stands in the manifest.
    Show(show::Args),
    /// Show what changed between two versions and what it costs to fetch.
    Diff(diff::Args),
    /// Write a bundle as a folder, for example on a USB stick.
    Export(carry::Export),
    /// Hand a bundle and its orders to the daemon of this machine, as from a USB stick; or write it as one file.
    Import(carry::Import),
}

pub(crate) fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Init(args) => init::run(args, context),
        Command::Pack(args) => pack::run(args, context),
        Command::Sign(args) => sign::run(&args, context),
        Command::Verify(args) => verify::run(&args, context),
        Command::Show(args) => show::run(&args, context),
        Command::Diff(args) => diff::run(args, context),
        Command::Export(args) => carry::export(args, context),
        Command::Import(args) => carry::import(args, context),
    }
}
