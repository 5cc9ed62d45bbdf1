//! Reads the payloads of signed documents, each rule with its own refusal.
//!
//! In: the payload of an envelope whose signatures were counted. Out: the plain document of `agentd-wire`. Judges only
//! what stands in the document itself; what the device knows is held against it by [`crate::FleetState`].

mod catalog;
mod desired;
mod manifest;
mod membership;
mod path;
mod trust;

use agentd_types::{FleetId, ModelName};
use agentd_wire::{Kind, SPEC};

pub(crate) use self::{
    catalog::read_catalog, desired::read_desired, manifest::read_manifest_of, membership::read_membership,
    trust::read_trust,
};
pub use self::{
    manifest::{
        MAX_CHUNK, MAX_CHUNKS, MAX_DERIVED_DEPTH, MAX_FILES, MAX_TOTAL_SIZE, check_manifest, read_manifest,
    },
    path::check_path,
    trust::{TrustRoot, glob_matches},
};
use crate::{Cause, Reject, fields::Fields, json::Value, reject::quoted};

/// Which fleet a payload may be for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ForFleet<'a> {
    /// This one.
    Only(&'a FleetId),
    /// This one, or any (`*`).
    OrAny(&'a FleetId),
    /// Whichever it says.
    Unknown,
}

/// Opens a payload: its type, version, fleet and set of fields are right.
pub(crate) fn open<'a>(
    value: &'a Value,
    kind: Kind,
    fleet: ForFleet<'_>,
    what: &'a str,
    names: &[&str],
) -> Result<Fields<'a>, Reject> {
    let fields = Fields::of(value, Cause::Schema, what)?;
    if fields.find("type").is_some_and(|found| !is_text(found, kind.as_str())) {
        return Err(Reject::new(Cause::Type, format!("{what} has another type than `{kind}`")));
    }
    if fields.find("spec").is_some_and(|found| Value::Int(1) != *found) {
        return Err(Reject::new(Cause::Spec, format!("{what} is not of version {SPEC} of the format")));
    }
    if let Some(found) = fields.find("fleet") {
        check_fleet(found, fleet, what)?;
    }
    fields.only(names)?;
    Ok(fields)
}

fn is_text(value: &Value, expected: &str) -> bool {
    matches!(value, Value::Text(text) if text == expected)
}

fn check_fleet(found: &Value, fleet: ForFleet<'_>, what: &str) -> Result<(), Reject> {
    let Value::Text(text) = found else {
        return Err(Reject::new(Cause::Fleet, format!("{what} names no fleet")));
    };
    let fits = match fleet {
        ForFleet::Only(ours) => text == ours.as_str(),
        ForFleet::OrAny(ours) => text == ours.as_str() || text == "*",
        ForFleet::Unknown => text == "*" || text.parse::<FleetId>().is_ok(),
    };
    if fits {
        return Ok(());
    }
    let ours = match fleet {
        ForFleet::Only(ours) | ForFleet::OrAny(ours) => format!(", not `{ours}`"),
        ForFleet::Unknown => String::new(),
    };
    Err(Reject::new(Cause::Fleet, format!("{what} is for the fleet {}{ours}", quoted(text))))
}

/// The name of a model that a release role may sign: without `@local`.
pub(crate) fn release_name(text: &str) -> Option<ModelName> {
    text.parse::<ModelName>().ok().filter(|name| !name.is_local())
}
