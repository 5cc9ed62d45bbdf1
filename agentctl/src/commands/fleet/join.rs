//! `fleet join`: the signed membership of one device.

use std::{collections::BTreeMap, str::FromStr};

use agentd_bundle::author::draft_membership;
use agentd_types::{DeviceId, GroupName};
use agentd_wire::{Down, Kind, Membership, SPEC, Topic};
use serde::Serialize;

use super::{broker::FleetArgs, inventory::Inventory, orders::SignArgs};
use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// Options of `fleet join`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl fleet join line-4-cam-2 line-4 pilots=100 --label site=north \
    --trust trust-3.json --key fleet-1.pem\n\nThe groups given are all that the device is in from now on.")]
pub(crate) struct Args {
    #[command(flatten)]
    fleet: FleetArgs,
    /// The device.
    #[arg(value_name = "DEVICE")]
    device: DeviceId,
    /// Its groups; where two of them want different things, the higher priority (0 to 1000) decides.
    #[arg(value_name = "GROUP[=PRIORITY]")]
    groups: Vec<GroupWithPriority>,
    /// A label; once for each.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    /// For how many days it holds.
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u64,
    #[command(flatten)]
    sign: SignArgs,
}

/// `GROUP` or `GROUP=PRIORITY`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupWithPriority(GroupName, u64);

impl FromStr for GroupWithPriority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, priority) = text.split_once('=').unwrap_or((text, "0"));
        let priority = priority.parse().ok().filter(|priority| *priority <= 1_000);
        let priority = priority.ok_or("a priority is a number from 0 to 1000")?;
        Ok(Self(name.parse().map_err(|error| format!("{error}"))?, priority))
    }
}

/// `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Label(String, String);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
        Ok(Self(key.to_owned(), value.to_owned()))
    }
}

#[derive(Debug, Serialize)]
struct Report {
    device: DeviceId,
    seq: u64,
    groups: BTreeMap<GroupName, u64>,
    labels: BTreeMap<String, String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let signer = args.sign.signer(&args.fleet.fleet)?;
    let groups: BTreeMap<_, _> = args.groups.iter().map(|group| (group.0.clone(), group.1)).collect();
    let labels: BTreeMap<_, _> = args.labels.iter().map(|label| (label.0.clone(), label.1.clone())).collect();
    let now = context.now();
    let report = context.block_on(async {
        let mut broker = args.fleet.broker.connect().await?;
        broker.subscribe(Inventory::filters(&args.fleet.fleet)).await?;
        let mut inventory = Inventory::default();
        for received in broker.standing(args.fleet.quiet()).await? {
            inventory.take(&received.topic, &received.payload);
        }
        let held = inventory.devices.get(&args.device);
        let standing = held.map_or(0, |device| device.membership_seq);
        let seen = held.and_then(|device| device.agent()).and_then(|agent| agent.observed.membership);
        let seq = standing.max(seen.unwrap_or(0)).saturating_add(1);
        let membership = Membership {
            r#type: Kind::Membership,
            spec: SPEC,
            fleet: args.fleet.fleet.clone(),
            device: args.device.clone(),
            seq,
            created: now,
            expires: now.plus(args.days.saturating_mul(86_400)),
            groups: groups.clone(),
            labels: labels.clone(),
        };
        let envelope = signer.sign("membership", draft_membership(&membership))?;
        broker.keep(&Topic::down(&args.fleet.fleet, &args.device, Down::Membership), envelope).await?;
        broker.close().await;
        Ok(Report { device: args.device.clone(), seq, groups, labels })
    })?;
    let ui = context.ui();
    ui.result(&report, || {
        let groups: Vec<_> = report.groups.keys().map(ToString::to_string).collect();
        let groups = if groups.is_empty() { "no group".to_owned() } else { groups.join(", ") };
        ui.line(format!("{} is in {groups}   membership {}", report.device, report.seq));
    });
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_carry_a_priority() {
        let group =
            |text: &str| text.parse::<GroupWithPriority>().map(|group| (group.0.to_string(), group.1));
        assert_eq!(group("line-4"), Ok(("line-4".into(), 0)));
        assert_eq!(group("pilots=100"), Ok(("pilots".into(), 100)));
        for bad in ["", "A", "a=1001", "a=-1", "a=b"] {
            assert!(group(bad).is_err(), "{bad}");
        }
    }
}
