//! The payloads of signed documents, version 1 (`daemon/docs/bundle.md` says what each field means).

use std::{collections::BTreeMap, fmt, str::FromStr};

use agentd_types::{
    DeviceId, Digest, EngineKind, FleetId, GroupName, KeyId, ModelName, TensorSpec, UnixTime,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

/// The version of the document formats that this program speaks.
pub const SPEC: u64 = 1;

/// The six kinds of signed documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Keys, roles, revocations.
    Trust,
    /// Which versions of which models exist.
    Catalog,
    /// The groups of one device.
    Membership,
    /// What a device, a group or all shall run.
    Desired,
    /// A release of a model.
    Bundle,
    /// A model that a device made from a release.
    Derived,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Trust, Self::Catalog, Self::Membership, Self::Desired, Self::Bundle, Self::Derived];

    /// The kind's name in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Catalog => "catalog",
            Self::Membership => "membership",
            Self::Desired => "desired",
            Self::Bundle => "bundle",
            Self::Derived => "derived",
        }
    }

    /// The envelope's `payloadType`.
    pub fn payload_type(self) -> String {
        format!("application/vnd.agentd.{}.v1+json", self.as_str())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A trust document: who may sign what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Trust {
    pub r#type: Kind,
    pub spec: u64,
    pub fleet: FleetId,
    pub version: u64,
    pub created: UnixTime,
    pub expires: UnixTime,
    /// Public keys, 64 hexadecimal digits each.
    pub keys: BTreeMap<KeyId, String>,
    pub roles: Roles,
    pub revoked_keys: Vec<KeyId>,
    pub revoked_bundles: Vec<Digest>,
    pub min_versions: BTreeMap<ModelName, u64>,
}

/// The roles of a trust document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Roles {
    pub root: Role,
    pub fleet: Role,
    /// In order: the first with a matching glob decides.
    pub releases: Vec<ReleaseRole>,
}

/// Keys of which a threshold must sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Role {
    pub keyids: Vec<KeyId>,
    pub threshold: u64,
}

/// A role that signs the models whose names match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct ReleaseRole {
    /// Globs over model names; `*` stands for any text.
    pub names: Vec<String>,
    pub keyids: Vec<KeyId>,
    pub threshold: u64,
}

/// A catalog: the newest version of each model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Catalog {
    pub r#type: Kind,
    pub spec: u64,
    pub fleet: FleetId,
    pub version: u64,
    pub created: UnixTime,
    pub expires: UnixTime,
    pub trust_version: u64,
    pub models: BTreeMap<ModelName, CatalogEntry>,
}

/// A version of a model in a catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct CatalogEntry {
    pub version: u64,
    pub sha256: Digest,
}

/// The groups and labels of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Membership {
    pub r#type: Kind,
    pub spec: u64,
    pub fleet: FleetId,
    pub device: DeviceId,
    pub seq: u64,
    pub created: UnixTime,
    pub expires: UnixTime,
    /// Priority of each group, 0 to 1000.
    pub groups: BTreeMap<GroupName, u64>,
    pub labels: BTreeMap<String, String>,
}

/// What a target shall run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Desired {
    pub r#type: Kind,
    pub spec: u64,
    pub fleet: FleetId,
    pub target: Target,
    pub seq: u64,
    pub created: UnixTime,
    pub expires: UnixTime,
    pub models: BTreeMap<ModelName, DesiredEntry>,
}

/// One model that shall run, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct DesiredEntry {
    pub version: u64,
    /// Digest of the bundle's payload.
    pub sha256: Digest,
    pub allow_downgrade: bool,
    /// Read with [`crate::ServePolicy::read`]; unknown keys are ignored.
    pub policy: Map<String, Value>,
}

/// Whom a desired document is for: `all`, `group:<name>` or `device:<id>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Every device of the fleet.
    All,
    /// The members of a group.
    Group(GroupName),
    /// One device.
    Device(DeviceId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Device(id) => write!(f, "device:{id}"),
        }
    }
}

/// The text names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a target: it is `all`, `group:<name>` or `device:<id>`")]
pub struct TargetError(String);

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let bad = || TargetError(text.chars().take(80).collect());
        match text.split_once(':') {
            None if text == "all" => Ok(Self::All),
            Some(("group", name)) => name.parse().map(Self::Group).map_err(|_| bad()),
            Some(("device", id)) => id.parse().map(Self::Device).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The payload of a bundle: what the model is and of which chunks it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Manifest {
    /// [`Kind::Bundle`], or [`Kind::Derived`] for a model made on a device.
    pub r#type: Kind,
    pub spec: u64,
    /// A fleet id, or `*` for any fleet.
    pub fleet: String,
    pub name: ModelName,
    pub version: u64,
    pub created: UnixTime,
    pub expires: UnixTime,
    /// Sorted by path.
    pub files: Vec<FileEntry>,
    pub model: ModelSection,
    pub golden: Vec<Golden>,
    pub requires: Requires,
    pub licence: Licence,
    /// Path of the model card, Markdown.
    pub card: String,
    /// `None` in a release.
    pub lineage: Option<Lineage>,
    pub extras: Map<String, Value>,
}

/// The payload of a derived document has the fields of a bundle.
pub type Derived = Manifest;

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct FileEntry {
    pub path: String,
    pub size: u64,
    pub sha256: Digest,
    /// In order; lengths add up to `size`.
    pub chunks: Vec<Chunk>,
}

/// A chunk: its length in bytes and its digest; `[length, "sha256"]` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Chunk(pub u64, pub Digest);

/// The model of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct ModelSection {
    /// `onnx`.
    pub format: String,
    /// Path of the model file.
    pub entry: String,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

/// Inputs and the outputs that a device must reproduce before it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Golden {
    /// Path of an `.npy` file for every input.
    pub inputs: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, String>,
    /// Tolerance in millionths of the largest output.
    pub tol_ppm: u64,
}

/// What a device must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Requires {
    pub mem_mib: u64,
    /// Engines, one of which must be there.
    pub any_of: Vec<EngineKind>,
}

/// The licence of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Licence {
    pub spdx: String,
    pub file: String,
}

/// Where a derived model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "fields are those of the document")]
pub struct Lineage {
    pub parent: Digest,
    pub base: Digest,
    pub device: DeviceId,
    pub seq: u64,
    pub depth: u64,
    pub data_sha256: Digest,
    pub method: String,
    pub metrics: Map<String, Value>,
}

impl Manifest {
    /// The entry for `path`.
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Bytes of all files.
    pub fn total_size(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Every chunk of every file, in the order of the files; a chunk may come more than once.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.files.iter().flat_map(|file| file.chunks.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back_and_garbage_is_refused() {
        for text in ["all", "group:line-4", "device:cam-2"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for bad in ["", "All", "group:", "group:A", "device:a/b", "fleet:x", "all:"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
