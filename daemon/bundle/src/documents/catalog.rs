//! Catalogs: the newest version of each model.

use std::collections::BTreeMap;

use agentd_types::{FleetId, ModelName};
use agentd_wire::{Catalog, CatalogEntry, Kind, SPEC};

use super::{ForFleet, open, release_name};
use crate::{Cause, Reject, fields::Fields, json::Value, reject::quoted};

/// Reads a catalog: `schema` and the general codes.
pub(crate) fn read_catalog(value: &Value, fleet: &FleetId) -> Result<Catalog, Reject> {
    let names = ["type", "spec", "fleet", "version", "created", "expires", "trust_version", "models"];
    let fields = open(value, Kind::Catalog, ForFleet::Only(fleet), "the catalog", &names)?;
    Ok(Catalog {
        r#type: Kind::Catalog,
        spec: SPEC,
        fleet: fleet.clone(),
        version: fields.count("version", 1)?,
        created: fields.time("created")?,
        expires: fields.time("expires")?,
        trust_version: fields.count("trust_version", 0)?,
        models: read_models(&fields)?,
    })
}

fn read_models(fields: &Fields<'_>) -> Result<BTreeMap<ModelName, CatalogEntry>, Reject> {
    let mut models = BTreeMap::new();
    for (name, entry) in fields.map("models")? {
        let entry = Fields::of(entry, Cause::Schema, "an entry of the catalog")?;
        entry.only(&["version", "sha256"])?;
        let name = release_name(name)
            .ok_or_else(|| entry.refuse(&format!("has the malformed name {}", quoted(name))))?;
        let version = entry.count("version", 1)?;
        models.insert(name, CatalogEntry { version, sha256: entry.parsed("sha256", "a digest")? });
    }
    Ok(models)
}
