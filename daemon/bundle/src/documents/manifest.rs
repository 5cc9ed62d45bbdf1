//! Manifests of bundles and derived models.

mod files;
mod model;

use agentd_types::{EngineKind, FleetId};
use agentd_wire::{Kind, Licence, Lineage, Manifest, Requires, SPEC};

pub use self::files::{MAX_CHUNK, MAX_CHUNKS, MAX_FILES, MAX_TOTAL_SIZE};
use super::{ForFleet, open, release_name};
use crate::{
    Cause, Reject,
    fields::{Fields, texts},
    json::{self, Value},
    reject::quoted,
};

/// Most generations between a derived model and its release.
pub const MAX_DERIVED_DEPTH: u64 = 8;

const FIELDS: [&str; 15] = [
    "type", "spec", "fleet", "name", "version", "created", "expires", "files", "model", "golden", "requires",
    "licence", "card", "lineage", "extras",
];

/// Reads a manifest, of a bundle or of a derived model, by the rules that stand on its own: what is installed already,
/// or what somebody looks at. Proves nothing.
///
/// `payload`: the canonical bytes. Takes any fleet.
///
/// # Errors
/// `json`, `depth`, `duplicate_key`, `number`, `canonical`, `type`, `spec`, `fleet`, `schema`, `name`, `files`, `path`,
/// `chunks`, `model`, `golden`, `lineage`.
pub fn read_manifest(payload: &[u8]) -> Result<Manifest, Reject> {
    let value = Value::read_canonical(payload)?;
    let derived =
        matches!(&value, Value::Map(map) if map.get("type") == Some(&Value::Text("derived".into())));
    let kind = if derived { Kind::Derived } else { Kind::Bundle };
    read(&value, kind, ForFleet::Unknown)
}

/// Checks a manifest that was put together here, before it is signed, and returns its canonical bytes.
///
/// # Errors
/// Those of [`read_manifest`].
pub fn check_manifest(manifest: &Manifest) -> Result<Vec<u8>, Reject> {
    let payload =
        json::canonical_bytes(manifest).map_err(|error| Reject::new(Cause::Number, error.to_string()))?;
    read_manifest(&payload).map(|_| payload)
}

/// Reads the manifest of a document of `kind` for `fleet`, or for any.
pub(crate) fn read_manifest_of(value: &Value, kind: Kind, fleet: &FleetId) -> Result<Manifest, Reject> {
    read(value, kind, ForFleet::OrAny(fleet))
}

fn read(value: &Value, kind: Kind, fleet: ForFleet<'_>) -> Result<Manifest, Reject> {
    let fields = open(value, kind, fleet, "the manifest", &FIELDS)?;
    let name = read_name(&fields, kind)?;
    let version = fields.count("version", 1)?;
    let (created, expires) = (fields.time("created")?, fields.time("expires")?);
    let files = files::read_files(&fields)?;
    let model = model::read_model(fields.get("model")?, &files)?;
    let golden = model::read_golden(&fields, &model, &files)?;
    Ok(Manifest {
        r#type: kind,
        spec: SPEC,
        fleet: fields.text("fleet")?.to_owned(),
        name: name.parse().map_err(|_| bad_name(name))?,
        version,
        created,
        expires,
        files,
        model,
        golden,
        requires: read_requires(fields.get("requires")?)?,
        licence: read_licence(fields.get("licence")?)?,
        card: fields.text("card")?.to_owned(),
        lineage: read_lineage(fields.get("lineage")?, kind)?,
        extras: fields.free_map("extras")?,
    })
}

fn bad_name(name: &str) -> Reject {
    Reject::new(Cause::Name, format!("{} is not a model name", quoted(name)))
}

/// A release has no `@local`; a derived model may, and its lineage says whether it must.
fn read_name<'a>(fields: &Fields<'a>, kind: Kind) -> Result<&'a str, Reject> {
    let Value::Text(name) = fields.get("name")? else {
        return Err(Reject::new(Cause::Name, "the model name is not a string"));
    };
    let base = if kind == Kind::Derived { name.strip_suffix("@local").unwrap_or(name) } else { name };
    if release_name(base).is_some() { Ok(name) } else { Err(bad_name(name)) }
}

fn read_requires(value: &Value) -> Result<Requires, Reject> {
    let fields = Fields::of(value, Cause::Schema, "the field `requires`")?;
    fields.only(&["mem_mib", "any_of"])?;
    let engines = texts(fields.list("any_of")?)
        .and_then(|texts| {
            texts.into_iter().map(|text| text.parse().ok()).collect::<Option<Vec<EngineKind>>>()
        })
        .ok_or_else(|| fields.wrong("any_of", "a list of engines"))?;
    Ok(Requires { mem_mib: fields.count("mem_mib", 0)?, any_of: engines })
}

fn read_licence(value: &Value) -> Result<Licence, Reject> {
    let fields = Fields::of(value, Cause::Schema, "the field `licence`")?;
    fields.only(&["spdx", "file"])?;
    Ok(Licence { spdx: fields.text("spdx")?.to_owned(), file: fields.text("file")?.to_owned() })
}

fn read_lineage(value: &Value, kind: Kind) -> Result<Option<Lineage>, Reject> {
    match (value, kind) {
        (Value::Null, Kind::Derived) => Err(Reject::new(Cause::Lineage, "the derived model has no lineage")),
        (Value::Null, _) => Ok(None),
        (_, Kind::Derived) => read_ancestors(value).map(Some),
        (_, _) => Err(Reject::new(Cause::Lineage, "a release has no lineage, but this one claims one")),
    }
}

fn read_ancestors(value: &Value) -> Result<Lineage, Reject> {
    let fields = Fields::of(value, Cause::Lineage, "the lineage")?;
    fields.only(&["parent", "base", "device", "seq", "depth", "data_sha256", "method", "metrics"])?;
    let depth = fields.count("depth", 1)?;
    if depth > MAX_DERIVED_DEPTH {
        return Err(fields.refuse(&format!("is {depth} deep, at most {MAX_DERIVED_DEPTH} are allowed")));
    }
    Ok(Lineage {
        parent: fields.parsed("parent", "a digest")?,
        base: fields.parsed("base", "a digest")?,
        device: fields.parsed("device", "a device id")?,
        seq: fields.count("seq", 0)?,
        depth,
        data_sha256: fields.parsed("data_sha256", "a digest")?,
        method: fields.text("method")?.to_owned(),
        metrics: fields.free_map("metrics")?,
    })
}
