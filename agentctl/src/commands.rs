//! The commands, a file a noun.

mod audit;
mod bench;
mod bundle;
mod config;
mod doctor;
mod events;
mod fleet;
mod generate;
mod hardware;
mod key;
mod model;
mod placement;
mod status;
mod trust;

use clap::Subcommand;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the device, its models, and what needs attention.
    Status(status::Args),
    /// List, ask, roll back and pin the models of this device.
    #[command(subcommand)]
    Model(model::Command),
    /// Show why a model runs where it runs.
    #[command(subcommand)]
    Placement(placement::Command),
    /// Measure any ONNX file on this machine; no daemon needed.
    Bench(bench::Args),
    /// Show what this machine is.
    #[command(subcommand)]
    Hardware(hardware::Command),
    /// Show and follow the journal.
    Events(events::Args),
    /// Check that the journal is whole.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Check this device and say what to do.
    Doctor(doctor::Args),
    /// Show and check the daemon's configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Make and show signing keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Decide who may sign what.
    #[command(subcommand)]
    Trust(trust::Command),
    /// Make, sign, compare and carry model bundles.
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Roll models out to many devices through the broker.
    #[command(subcommand)]
    Fleet(fleet::Command),
    /// Write completions and man pages.
    #[command(hide = true)]
    Generate(generate::Args),
}

impl Command {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Status(args) => status::run(args, context),
            Self::Model(command) => model::run(command, context),
            Self::Placement(command) => placement::run(command, context),
            Self::Bench(args) => bench::run(args, context),
            Self::Hardware(command) => hardware::run(command, context),
            Self::Events(args) => events::run(args, context),
            Self::Audit(command) => audit::run(command, context),
            Self::Doctor(args) => doctor::run(args, context),
            Self::Config(command) => config::run(command, context),
            Self::Key(command) => key::run(command, context),
            Self::Trust(command) => trust::run(command, context),
            Self::Bundle(command) => bundle::run(command, context),
            Self::Fleet(command) => fleet::run(command, context),
            Self::Generate(args) => generate::run(args, context),
        }
    }
}
