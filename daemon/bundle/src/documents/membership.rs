//! Memberships: the groups and labels of one device.

use std::collections::BTreeMap;

use agentd_types::{FleetId, GroupName};
use agentd_wire::{Kind, Membership, SPEC};

use super::{ForFleet, open};
use crate::{Reject, fields::Fields, json::Value};

/// The highest priority of a group.
const MAX_PRIORITY: i64 = 1_000;

/// Reads a membership: `schema` and the general codes.
pub(crate) fn read_membership(value: &Value, fleet: &FleetId) -> Result<Membership, Reject> {
    let names = ["type", "spec", "fleet", "device", "seq", "created", "expires", "groups", "labels"];
    let fields = open(value, Kind::Membership, ForFleet::Only(fleet), "the membership", &names)?;
    Ok(Membership {
        r#type: Kind::Membership,
        spec: SPEC,
        fleet: fleet.clone(),
        device: fields.parsed("device", "a device id")?,
        seq: fields.count("seq", 0)?,
        created: fields.time("created")?,
        expires: fields.time("expires")?,
        groups: read_groups(&fields)?,
        labels: read_labels(&fields)?,
    })
}

fn read_groups(fields: &Fields<'_>) -> Result<BTreeMap<GroupName, u64>, Reject> {
    let wrong = || fields.wrong("groups", "an object of group names and priorities from 0 to 1000");
    let read = |(name, priority): (&String, &Value)| match priority {
        Value::Int(number @ 0..=MAX_PRIORITY) => {
            Ok((name.parse().map_err(|_| wrong())?, number.unsigned_abs()))
        }
        _ => Err(wrong()),
    };
    fields.map("groups")?.iter().map(read).collect()
}

fn read_labels(fields: &Fields<'_>) -> Result<BTreeMap<String, String>, Reject> {
    let read = |(name, label): (&String, &Value)| match label {
        Value::Text(text) => Ok((name.clone(), text.clone())),
        _ => Err(fields.wrong("labels", "an object of strings")),
    };
    fields.map("labels")?.iter().map(read).collect()
}
