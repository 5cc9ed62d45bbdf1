//! `fleet`: many devices through the broker.
//!
//! `broker` connects and reads what stands there; `inventory` is what devices say; `orders` makes and signs documents;
//! `forecast` says who will take them. Nothing here needs a daemon.

mod broker;
mod deploy;
mod devices;
mod forecast;
mod inventory;
mod join;
mod orders;
mod publish;
mod serve;
mod trust;
mod watch;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// The `fleet` commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Put signed bundles into a block store, from which `fleet serve` answers.
    Publish(publish::Args),
    /// Answer the requests for blocks of a store; several may run side by side and share the load.
    Serve(serve::Args),
    /// Put trust documents onto the broker, the whole chain.
    Trust(trust::Args),
    /// Say which groups a device is in.
    Join(join::Args),
    /// Tell a device, a group or all what to run.
    Deploy(Box<deploy::Args>),
    /// Show what the devices report.
    Devices(devices::Args),
    /// Follow what the devices report.
    Watch(watch::Args),
}

pub(crate) fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Publish(args) => publish::run(&args, context),
        Command::Serve(args) => serve::run(&args, context),
        Command::Trust(args) => trust::run(&args, context),
        Command::Join(args) => join::run(&args, context),
        Command::Deploy(args) => deploy::run(&args, context),
        Command::Devices(args) => devices::run(&args, context),
        Command::Watch(args) => watch::run(&args, context),
    }
}
