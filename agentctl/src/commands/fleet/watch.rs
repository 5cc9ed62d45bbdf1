//! `fleet watch`: what the devices report, as it changes.

use std::collections::BTreeMap;

use agentd_link::Received;
use agentd_types::{DeviceId, FleetId};
use agentd_wire::{Filter, Payload as _, Presence, ReportedEvent, SCHEMA, Topic, Up};
use serde_json::json;

use super::{broker::FleetArgs, devices::model, inventory::Inventory};
use crate::{
    context::Context,
    failure::{Exit, Failure},
    ui::Ui,
};

/// Options of `fleet watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl fleet watch --fleet plant-7\n\n\
    Ends on Ctrl-C. With --json, one JSON document a line.")]
pub(crate) struct Args {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Show this device only.
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceId>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let ui = context.ui();
    context.block_on(async {
        // Both arms may be dropped half way: nothing is changed here.
        tokio::select! {
            ended = watch(args, ui) => ended,
            ended = tokio::signal::ctrl_c() => ended.map_err(|error| {
                Failure::new("cannot wait for Ctrl-C").because(&error).exit_with(Exit::Defect)
            }),
        }
    })?;
    Ok(Exit::Done)
}

async fn watch(args: &Args, ui: Ui) -> Result<(), Failure> {
    let fleet: &FleetId = &args.fleet.fleet;
    let mut broker = args.fleet.broker.connect().await?;
    let events = Filter::from_all(fleet, Up::Event);
    broker.subscribe(Inventory::filters(fleet).into_iter().chain([events])).await?;
    ui.note("watching; Ctrl-C ends it");
    let mut watched = Watched::default();
    loop {
        let received = broker.next().await?;
        for News { device, what } in watched.take(&received) {
            if args.device.as_ref().is_none_or(|wanted| *wanted == device) {
                show(ui, &device, &what);
            }
        }
    }
}

fn show(ui: Ui, device: &DeviceId, what: &str) {
    if ui.is_json() {
        ui.line(json!({ "schema": SCHEMA, "device": device, "news": what }));
    } else {
        ui.line(format!("{device:<24} {what}"));
    }
}

/// Something new about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    device: DeviceId,
    what: String,
}

/// What was told, so that only changes are told again.
#[derive(Debug, Default)]
struct Watched {
    inventory: Inventory,
    told: BTreeMap<DeviceId, Vec<String>>,
}

impl Watched {
    fn take(&mut self, received: &Received) -> Vec<News> {
        if let Ok(Topic::Up { device, up: Up::Event, .. }) = received.topic.parse() {
            let event = ReportedEvent::read(&received.payload).ok();
            let what = event.map(|event| format!("{}: {}", event.entry.seq, event.entry.what.name()));
            return what.map(|what| News { device, what }).into_iter().collect();
        }
        let Some(id) = self.inventory.take(&received.topic, &received.payload) else {
            return Vec::new();
        };
        let Some(device) = self.inventory.devices.get(&id) else { return Vec::new() };
        let connection = match &device.presence {
            Some(Presence::Online { agent, connection, .. }) => {
                format!("online, agentd {agent}, connection {connection}")
            }
            Some(Presence::Lost { .. }) => "lost".to_owned(),
            Some(Presence::Stopped { .. }) => "stopped".to_owned(),
            None => "not connected".to_owned(),
        };
        let complaints = device.complaints().into_iter().map(|c| format!("{}: {}", c.r#type, c.message));
        let facts: Vec<_> =
            [connection].into_iter().chain(device.models().iter().map(model)).chain(complaints).collect();
        let told = self.told.entry(id.clone()).or_default();
        let new = facts.iter().filter(|fact| !told.contains(fact));
        let news = new.map(|what| News { device: id.clone(), what: what.clone() }).collect();
        *told = facts;
        news
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::inventory::tests::{conn, online},
        *,
    };

    fn received(topic: String, payload: Vec<u8>) -> Received {
        Received { topic, payload: payload.into(), retained: false, ack: None }
    }

    #[test]
    fn only_changes_are_told() {
        let mut watched = Watched::default();
        let mut take = |payload| {
            let news = watched.take(&received(conn("cam"), payload));
            news.into_iter().map(|news| news.what).collect::<Vec<_>>()
        };
        assert_eq!(take(online(1)), ["online, agentd 0.1.0, connection 1"]);
        assert!(take(online(1)).is_empty());
        let lost = Presence::Lost { boot: "b".into(), connection: 1 }.write().unwrap();
        assert_eq!(take(lost), ["lost"]);
    }
}
