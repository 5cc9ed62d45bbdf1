//! Desired documents: what a device, a group or all shall run.

use std::collections::BTreeMap;

use agentd_types::{FleetId, ModelName};
use agentd_wire::{Desired, DesiredEntry, Kind, SPEC};

use super::{ForFleet, open, release_name};
use crate::{Cause, Reject, fields::Fields, json::Value, reject::quoted};

/// Reads a desired document: `schema` and the general codes.
pub(crate) fn read_desired(value: &Value, fleet: &FleetId) -> Result<Desired, Reject> {
    let names = ["type", "spec", "fleet", "target", "seq", "created", "expires", "models"];
    let fields = open(value, Kind::Desired, ForFleet::Only(fleet), "the desired document", &names)?;
    Ok(Desired {
        r#type: Kind::Desired,
        spec: SPEC,
        fleet: fleet.clone(),
        target: fields.parsed("target", "`all`, `group:<name>` or `device:<id>`")?,
        seq: fields.count("seq", 0)?,
        created: fields.time("created")?,
        expires: fields.time("expires")?,
        models: read_models(&fields)?,
    })
}

fn read_models(fields: &Fields<'_>) -> Result<BTreeMap<ModelName, DesiredEntry>, Reject> {
    let mut models = BTreeMap::new();
    for (name, entry) in fields.map("models")? {
        let entry = Fields::of(entry, Cause::Schema, "an entry of the desired document")?;
        entry.only(&["version", "sha256", "allow_downgrade", "policy"])?;
        let name = release_name(name)
            .ok_or_else(|| entry.refuse(&format!("has the malformed name {}", quoted(name))))?;
        let wish = DesiredEntry {
            version: entry.count("version", 1)?,
            sha256: entry.parsed("sha256", "a digest")?,
            allow_downgrade: entry.flag("allow_downgrade")?,
            policy: entry.free_map("policy")?,
        };
        models.insert(name, wish);
    }
    Ok(models)
}
