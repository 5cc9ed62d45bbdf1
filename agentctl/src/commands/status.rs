//! `agentctl status`: the device, its models, and what needs attention.

use std::time::Duration;

use agentd_types::{UnixTime, human_duration};
use agentd_wire::{BrokerState, ClockState, DeviceStatus, ModelState};

use crate::{
    commands::model::table,
    context::Context,
    failure::{Exit, Failure},
    ui::Tone,
};

/// Shows the device.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status 1 when something needs attention; `agentctl doctor` says what to do.")]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args, context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon();
    let status = context.block_on(async {
        daemon.status().await.map_err(|error| Failure::of_client("cannot show the status", &error))
    })?;
    let attention = attention(&status);
    let ui = context.ui();
    ui.result(&status, || {
        ui.line(heading(&status, context.now()));
        if !status.models.is_empty() {
            ui.line("");
            let (headings, rows) = table::rows(&status.models);
            ui.table(headings, rows);
        }
        if !attention.is_empty() {
            ui.line("");
            let things = if attention.len() == 1 { "1 thing needs you" } else { "things need you" };
            let things = if attention.len() == 1 {
                things.to_owned()
            } else {
                format!("{} {things}", attention.len())
            };
            ui.line(ui.paint(Tone::Warning, format!("{things}: {}", attention.join("; "))));
            ui.line("    agentctl doctor");
        }
    });
    Ok(if attention.is_empty() { Exit::Done } else { Exit::No })
}

fn heading(status: &DeviceStatus, now: UnixTime) -> String {
    let clock = match status.clock {
        ClockState::Plausible => "plausible",
        ClockState::Behind => "behind what is signed",
    };
    let broker = match &status.broker {
        BrokerState::Off => "none".to_owned(),
        BrokerState::Online { .. } => "online".to_owned(),
        BrokerState::Offline { since, waiting_items, .. } => {
            let since = human_duration(now.since(*since));
            format!("offline since {since} (serving goes on, {waiting_items} items wait)")
        }
    };
    let up = human_duration(Duration::from_secs(status.uptime_s));
    format!("{}   agentd {}   up {up}   clock: {clock}   broker: {broker}", status.device, status.version)
}

fn attention(status: &DeviceStatus) -> Vec<String> {
    let failed = status.models.iter().filter_map(|model| match &model.state {
        ModelState::Failed { message, .. } => {
            Some(format!("{} is not at the version asked for: {message}", model.name))
        }
        _ => None,
    });
    let degraded = status.degraded.iter().map(|detail| detail.message.clone());
    let clock = (status.clock == ClockState::Behind).then(|| "the clock is behind".to_owned());
    failed.chain(degraded).chain(clock).collect()
}

#[cfg(test)]
mod tests {
    use agentd_types::ByteCount;

    use super::*;

    #[test]
    fn the_heading_says_how_the_link_and_the_clock_are() {
        let status = DeviceStatus {
            device: "line-4-cam-2".parse().unwrap(),
            fleet: "plant-a".parse().unwrap(),
            version: "0.1.0".into(),
            uptime_s: 41 * 86_400,
            clock: ClockState::Plausible,
            broker: BrokerState::Offline {
                address: "b:1".into(),
                since: UnixTime(1_000),
                waiting_items: 214,
                reason: String::new(),
            },
            trust_version: 1,
            catalog_version: None,
            journal_entries: 5,
            free_disk: ByteCount(0),
            degraded: None,
            models: Vec::new(),
        };
        insta::assert_snapshot!(heading(&status, UnixTime(8_860)), @"line-4-cam-2   agentd 0.1.0   up 41 d   clock: plausible   broker: offline since 2 h 11 min (serving goes on, 214 items wait)");
        assert!(attention(&status).is_empty());
        assert_eq!(attention(&DeviceStatus { clock: ClockState::Behind, ..status }), ["the clock is behind"]);
    }
}
