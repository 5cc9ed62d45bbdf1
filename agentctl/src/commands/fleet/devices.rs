//! `fleet devices`: what the devices report, as it stands on the broker.

use agentd_types::UnixTime;
use agentd_wire::{ModelState, ModelStatus};

use super::{
    broker::FleetArgs,
    inventory::{Device, Inventory},
};
use crate::{
    context::Context,
    failure::{Exit, Failure},
    ui::Align,
};

/// Options of `fleet devices`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl fleet devices --fleet plant-7")]
pub(crate) struct Args {
    #[command(flatten)]
    fleet: FleetArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let inventory = context.block_on(async {
        let mut broker = args.fleet.broker.connect().await?;
        broker.subscribe(Inventory::filters(&args.fleet.fleet)).await?;
        let mut inventory = Inventory::default();
        for received in broker.standing(args.fleet.quiet()).await? {
            inventory.take(&received.topic, &received.payload);
        }
        broker.close().await;
        Ok(inventory)
    })?;
    let (ui, now) = (context.ui(), context.now());
    ui.result(&inventory, || {
        if inventory.devices.is_empty() {
            ui.note(format!("no device of {} has said anything on this broker", args.fleet.fleet));
            return;
        }
        let rows = inventory.devices.iter().map(|(id, device)| row(id.as_str(), device, now)).collect();
        ui.table(&HEADINGS, rows);
    });
    Ok(Exit::Done)
}

const HEADINGS: [(&str, Align); 6] = [
    ("DEVICE", Align::Left),
    ("STATE", Align::Left),
    ("AGENT", Align::Left),
    ("GROUPS", Align::Left),
    ("MODELS", Align::Left),
    ("NEEDS ATTENTION", Align::Left),
];

fn row(id: &str, device: &Device, now: UnixTime) -> Vec<String> {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let groups: Vec<_> = device.groups.iter().map(ToString::to_string).collect();
    let models: Vec<_> = device.models().iter().map(model).collect();
    let complaints: Vec<_> = device.complaints().iter().map(|condition| condition.message.clone()).collect();
    vec![
        id.to_owned(),
        device.presence_in_words(now),
        or_dash(device.agent().map(|agent| agent.version.clone()).unwrap_or_default()),
        or_dash(groups.join(", ")),
        or_dash(models.join(", ")),
        or_dash(complaints.join("; ")),
    ]
}

/// A model in a few words.
pub(crate) fn model(status: &ModelStatus) -> String {
    let name = &status.name;
    let serving = status.serving.as_ref().map(|serving| serving.version.to_string());
    let version = serving.unwrap_or_else(|| "-".to_owned());
    match &status.state {
        ModelState::Serving => format!("{name} {version}"),
        ModelState::Fetching { have, total } => format!("{name} {version} (fetching {have} of {total})"),
        ModelState::Measuring { done, of } => format!("{name} {version} (measuring {done} of {of})"),
        ModelState::Failed { code, .. } => format!("{name} {version} (failed: {code})"),
        ModelState::Wanted => format!("{name} {version} (wanted)"),
        ModelState::Stored => format!("{name} {version} (stored)"),
        ModelState::Switching => format!("{name} {version} (switching)"),
        ModelState::HeldBack => format!("{name} {version} (held back)"),
        ModelState::Retired => format!("{name} (retired)"),
    }
}

#[cfg(test)]
mod tests {
    use agentd_types::ByteCount;

    use super::{super::inventory::tests::device, *};
    use crate::ui::render_table;

    #[test]
    fn the_table_reads_like_this() {
        let status = |state| ModelStatus {
            name: "inspect/crack".parse().unwrap(),
            state,
            desired_version: Some(8),
            serving: None,
            held: Vec::new(),
            pinned: false,
        };
        let fetching = ModelState::Fetching { have: ByteCount(48_000), total: ByteCount(11_300_000) };
        let mut busy = device(500, vec![status(fetching)]);
        busy.groups.insert("line-4".parse().unwrap());
        let quiet = Device { presence: None, ..device(500, Vec::new()) };
        let now = UnixTime(10_000);
        let rows = vec![row("line-4-cam-2", &busy, now), row("line-4-cam-3", &quiet, now)];
        insta::assert_snapshot!(render_table(&HEADINGS, rows), @r#"
DEVICE        STATE              AGENT  GROUPS  MODELS                                           NEEDS ATTENTION
line-4-cam-2  online 2 h 30 min  -      line-4  inspect/crack - (fetching 46.9 KiB of 10.8 MiB)  -
line-4-cam-3  never connected    -      -       -                                                -
"#);
    }
}
