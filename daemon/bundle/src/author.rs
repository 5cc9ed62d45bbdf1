//! The signing side: makes documents that this crate's own rules accept, and signs them.
//!
//! In: plain documents or edits of a trust document. Out: payloads in canonical form inside envelopes that are ready to
//! be signed, by several people one after the other. Refuses whatever a device would refuse.

mod trust;

use agentd_types::{FleetId, ModelName, UnixTime};
use agentd_wire::{Catalog, CatalogEntry, Desired, Kind, Manifest, Membership, SPEC, Trust};
use serde::Serialize;

pub use self::trust::{
    RoleName, RoleNameError, RolePlan, TrustEditError, TrustPlan, rotate_key, successor, with_key,
    with_min_version, with_threshold, without_bundle, without_key,
};
use crate::{
    Cause, Envelope, Reject, check_manifest, documents,
    json::{self, Value},
};

/// A trust document, ready to be signed.
///
/// # Errors
/// The codes of trust documents.
pub fn draft_trust(trust: &Trust) -> Result<Envelope, Reject> {
    draft(Kind::Trust, trust, |value| documents::read_trust(value, Some(&trust.fleet)).map(drop))
}

/// A catalog, ready to be signed.
///
/// # Errors
/// The codes of catalogs that need no device.
pub fn draft_catalog(catalog: &Catalog) -> Result<Envelope, Reject> {
    draft(Kind::Catalog, catalog, |value| documents::read_catalog(value, &catalog.fleet).map(drop))
}

/// A membership, ready to be signed.
///
/// # Errors
/// The codes of memberships that need no device.
pub fn draft_membership(membership: &Membership) -> Result<Envelope, Reject> {
    draft(Kind::Membership, membership, |value| {
        documents::read_membership(value, &membership.fleet).map(drop)
    })
}

/// A desired document, ready to be signed.
///
/// # Errors
/// The codes of desired documents that need no device.
pub fn draft_desired(desired: &Desired) -> Result<Envelope, Reject> {
    draft(Kind::Desired, desired, |value| documents::read_desired(value, &desired.fleet).map(drop))
}

/// A bundle's or derived model's manifest, ready to be signed.
///
/// # Errors
/// The codes of manifests.
pub fn draft_manifest(manifest: &Manifest) -> Result<Envelope, Reject> {
    check_manifest(manifest).map(|payload| Envelope::unsigned(manifest.r#type, payload))
}

fn draft<T: Serialize>(
    kind: Kind,
    document: &T,
    check: impl FnOnce(&Value) -> Result<(), Reject>,
) -> Result<Envelope, Reject> {
    let payload =
        json::canonical_bytes(document).map_err(|error| Reject::new(Cause::Number, error.to_string()))?;
    check(&Value::read_canonical(&payload)?)?;
    Ok(Envelope::unsigned(kind, payload))
}

/// The catalog that follows `last`: its models, with `listed` added or raised.
///
/// Valid for `life_s` seconds from `now`.
pub fn next_catalog(
    last: Option<&Catalog>,
    fleet: FleetId,
    trust_version: u64,
    (now, life_s): (UnixTime, u64),
    listed: impl IntoIterator<Item = (ModelName, CatalogEntry)>,
) -> Catalog {
    let mut models = last.map(|catalog| catalog.models.clone()).unwrap_or_default();
    for (name, entry) in listed {
        let newest = models.get(&name).is_none_or(|held| held.version < entry.version);
        if newest {
            models.insert(name, entry);
        }
    }
    Catalog {
        r#type: Kind::Catalog,
        spec: SPEC,
        fleet,
        version: last.map_or(1, |catalog| catalog.version.saturating_add(1)),
        created: now,
        expires: now.plus(life_s),
        trust_version,
        models,
    }
}

/// Reads a trust envelope and its document, signed by its own root role or not yet. For tools: a device uses
/// [`crate::FleetState`].
///
/// # Errors
/// The codes of envelopes and trust documents.
pub fn read_trust_envelope(bytes: &[u8]) -> Result<(Envelope, crate::TrustRoot), Reject> {
    let envelope = Envelope::read_kind(bytes, Kind::Trust)?;
    let root = documents::read_trust(&Value::read_canonical(envelope.payload())?, None)?;
    Ok((envelope, root))
}

/// Reads a catalog envelope, unproved. For tools that continue it.
///
/// # Errors
/// The codes of envelopes and catalogs.
pub fn read_catalog_envelope(bytes: &[u8], fleet: &FleetId) -> Result<(Envelope, Catalog), Reject> {
    let envelope = Envelope::read_kind(bytes, Kind::Catalog)?;
    let catalog = documents::read_catalog(&Value::read_canonical(envelope.payload())?, fleet)?;
    Ok((envelope, catalog))
}
