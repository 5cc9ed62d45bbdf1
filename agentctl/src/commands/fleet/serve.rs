//! `fleet serve`: answers requests for blocks until it is told to stop.

use std::{path::PathBuf, sync::Arc, time::Duration};

use agentd_link::{BlockServer, FolderSource, ServerPolicy, ServerStatus};
use agentd_types::{ByteCount, Coded as _, chain};
use serde::Serialize;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::broker::{BrokerArgs, client_id};
use crate::{
    context::Context,
    failure::{Exit, Failure},
    ui::Ui,
};

/// Options of `fleet serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agentctl fleet serve --store /srv/agentd-blocks --broker broker.plant.example:8883 \
    --ca ca.pem\n\nEnds on Ctrl-C or SIGTERM. Every fleet on the broker is served; devices prove what they get."
)]
pub(crate) struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    /// The folder of the store, filled by `fleet publish`.
    #[arg(long, value_name = "FOLDER", env = "AGENTCTL_STORE")]
    store: PathBuf,
}

/// What was done, when it ends.
#[derive(Debug, Serialize)]
struct Report {
    requests: u64,
    blocks: u64,
    bytes: ByteCount,
    missing: u64,
    busy: u64,
    unreadable: u64,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    if !args.store.is_dir() {
        return Err(Failure::new(format!("cannot serve `{}`", args.store.display()))
            .cause("there is no such folder")
            .hint(format!("agentctl fleet publish BUNDLE --store {}", args.store.display()))
            .exit_with(Exit::Usage));
    }
    let ui = context.ui();
    let policy = ServerPolicy::new(client_id()?);
    let transport = args.broker.transport()?;
    let source = Arc::new(FolderSource::new(&args.store));
    let status = context.block_on(async {
        let (mut interrupt, mut terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
        let (server, status) = BlockServer::new(policy, transport, source, seed());
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(stop.clone()));
        // Every arm may be dropped half way: the server ends by its token.
        tokio::select! {
            () = show(ui, status.clone()) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        let status = status.borrow().clone();
        Ok(status)
    })?;
    let ServerStatus { requests, blocks, bytes, missing, busy, unreadable, .. } = status;
    let report = Report { requests, blocks, bytes, missing, busy, unreadable };
    ui.result(&report, || ui.line(format!("{blocks} blocks, {bytes}, for {requests} requests")));
    Ok(Exit::Done)
}

fn on(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind)
        .map_err(|error| Failure::new("cannot wait for a signal").because(&error).exit_with(Exit::Defect))
}

/// Tells changes of the connection as they come, and a summary every now and then while there is something to tell.
async fn show(ui: Ui, mut status: watch::Receiver<ServerStatus>) {
    let mut told = ServerStatus::default();
    loop {
        let now = status.borrow_and_update().clone();
        let news = news(&told, &now);
        if let Some(line) = &news {
            ui.note(line);
        }
        if news.is_some() {
            told = now;
        }
        // Changes of the connection are told at once; blocks come by the thousand, and a line in five seconds tells
        // enough of them.
        let (online, reason) = (told.online, told.reason.clone());
        let changed = status.wait_for(|now| now.online != online || now.reason != reason);
        tokio::select! {
            changed = changed => if changed.is_err() { return },
            () = sleep(Duration::from_secs(5)) => {}
        }
    }
}

/// What to tell, when something is new.
fn news(told: &ServerStatus, now: &ServerStatus) -> Option<String> {
    match &now.reason {
        _ if now.online && !told.online => Some("connected, serving".to_owned()),
        Some(reason) if now.reason != told.reason => {
            Some(format!("not connected: {} [{}]", chain(reason), reason.code()))
        }
        _ if now.blocks > told.blocks => {
            Some(format!("{} blocks, {} so far; devices now: {}", now.blocks, now.bytes, now.devices))
        }
        _ => None,
    }
}

/// Servers that start together should not reconnect together.
fn seed() -> u64 {
    getrandom::u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use agentd_link::Disconnect;

    use super::*;

    #[test]
    fn changes_of_the_connection_and_blocks_are_told_once() {
        let offline = ServerStatus { reason: Some(Disconnect::TakenOver), ..ServerStatus::default() };
        let online = ServerStatus { online: true, ..ServerStatus::default() };
        let busy = ServerStatus { blocks: 3, bytes: ByteCount(3_000), devices: 1, ..online.clone() };
        let start = ServerStatus::default();
        assert_eq!(news(&start, &start), None);
        assert_eq!(news(&start, &online).as_deref(), Some("connected, serving"));
        assert_eq!(news(&online, &busy).as_deref(), Some("3 blocks, 2.9 KiB so far; devices now: 1"));
        assert_eq!(news(&busy, &busy), None);
        assert!(news(&online, &offline).is_some_and(|line| line.ends_with("[link.taken_over]")));
        assert_eq!(news(&offline, &offline), None);
    }
}
