//! Packs a described model into a manifest and chunks.
//!
//! In: a [`Description`], as it stands in `bundle.toml`, and the bytes of the files that it names. Out: a
//! [`Packed`] bundle, nothing of which depends on when, where or by whom it was packed.
//! Refuses models that a device's guard would refuse, and whatever breaks a rule of manifests.

use std::collections::{BTreeMap, BTreeSet};

use agentd_onnx::{InterfaceError, ModelSummary, ScanError, ScanLimits, TensorsError, scan, tensors};
use agentd_types::{Code, Coded, Digest, ModelName, TensorSpec, UnixTime};
use agentd_wire::{Chunk, FileEntry, Golden, Kind, Licence, Manifest, ModelSection, Requires, SPEC};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use crate::{Cutter, Reject, check_manifest, check_path};

/// What a person writes about a model: `bundle.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The model's name.
    pub name: ModelName,
    /// The version, from 1 on.
    pub version: u64,
    /// The fleet that may run it; `*` for any.
    #[serde(default = "any_fleet")]
    pub fleet: String,
    /// When this version was made. Stands here and not in the packer, so that packing again gives the same bytes.
    ///
    /// A date, a date and time, or Unix seconds; so is `expires`.
    #[serde(deserialize_with = "time")]
    pub created: UnixTime,
    /// When devices stop to accept it.
    #[serde(deserialize_with = "time")]
    pub expires: UnixTime,
    /// Path of the model card, Markdown.
    pub card: String,
    /// More files that belong to the bundle; those named elsewhere are in it anyway.
    #[serde(default)]
    pub files: Vec<String>,
    /// The model.
    pub model: ModelDescription,
    /// Inputs and the outputs that a device must reproduce.
    pub golden: Vec<Golden>,
    /// What a device must have.
    pub requires: Requires,
    /// The licence.
    pub licence: Licence,
    /// Sections `preprocess`, `labels`, `serve`, `learn`, `monitor`.
    #[serde(default)]
    pub extras: Map<String, Value>,
}

/// The model of a [`Description`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDescription {
    /// Path of the ONNX file.
    pub entry: String,
    /// Its inputs; -1 is a free dimension.
    pub inputs: Vec<TensorSpec>,
    /// Its outputs; -1 is a free dimension.
    pub outputs: Vec<TensorSpec>,
}

fn any_fleet() -> String {
    "*".to_owned()
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnixTime, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Seconds(u64),
        Text(String),
    }
    match Form::deserialize(deserializer)? {
        Form::Seconds(seconds) => Ok(UnixTime(seconds)),
        Form::Text(text) => text.parse().map_err(de::Error::custom),
    }
}

impl Description {
    /// The paths of all files that belong to the bundle.
    pub fn paths(&self) -> BTreeSet<&str> {
        let golden =
            self.golden.iter().flat_map(|golden| golden.inputs.values().chain(golden.outputs.values()));
        let named = [&self.model.entry, &self.card, &self.licence.file];
        named.into_iter().chain(golden).chain(&self.files).map(String::as_str).collect()
    }
}

/// A bundle that is packed, not yet signed.
#[derive(Clone, Debug)]
pub struct Packed<'f> {
    manifest: Manifest,
    payload: Vec<u8>,
    blobs: BTreeMap<Digest, &'f [u8]>,
    model: ModelSummary,
}

impl<'f> Packed<'f> {
    /// What the bundle is and of which chunks it is made.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's canonical bytes, which are what is signed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The digest of the payload: the bundle's name in catalogs and desired documents.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload)
    }

    /// Every chunk once, by digest.
    pub const fn blobs(&self) -> &BTreeMap<Digest, &'f [u8]> {
        &self.blobs
    }

    /// What the guard found in the model.
    pub const fn model(&self) -> &ModelSummary {
        &self.model
    }
}

/// Why a bundle cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// A file that the description names was not given.
    #[error("the file `{path}` is named in the description, but is not there")]
    Missing {
        /// Its path.
        path: String,
    },
    /// A device would refuse the model.
    #[error("the model `{entry}` cannot be packed")]
    Model {
        /// Its path.
        entry: String,
        /// Why.
        source: ScanError,
    },
    /// The weights of the model cannot be told.
    #[error("the weights of `{entry}` cannot be told apart")]
    Tensors {
        /// Its path.
        entry: String,
        /// Why.
        source: TensorsError,
    },
    /// Inputs or outputs differ from the model's.
    #[error("the description does not fit the model")]
    Interface(#[from] InterfaceError),
    /// The bundle would break a rule of manifests.
    #[error("the bundle would be refused")]
    Manifest(#[from] Reject),
}

impl Coded for PackError {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::new("pack.missing"),
            Self::Model { source, .. } => source.code(),
            Self::Tensors { source, .. } => source.code(),
            Self::Interface(source) => source.code(),
            Self::Manifest(source) => source.code(),
        }
    }
}

/// Packs the model that `description` describes. `files`: the bytes of at least the files of
/// [`Description::paths`]; others are left out of the bundle.
///
/// # Errors
/// When a file is missing, the model would be refused by a device's guard or differs from its description, or a rule of
/// manifests is broken.
pub fn pack<'f>(
    description: &Description,
    files: &'f BTreeMap<String, Vec<u8>>,
) -> Result<Packed<'f>, PackError> {
    let paths = description.paths();
    let mut content = Vec::with_capacity(paths.len());
    for path in paths {
        check_path(path)?;
        let bytes = files.get(path).ok_or_else(|| PackError::Missing { path: path.to_owned() })?;
        content.push((path, bytes.as_slice()));
    }
    let model = check_model(description, files)?;
    let total = content.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let cutter = Cutter::for_bundle(total);
    let mut blobs = BTreeMap::new();
    let mut entries = Vec::with_capacity(content.len());
    for (path, bytes) in content {
        entries.push(enter(path, bytes, cutter, &mut blobs)?);
    }
    let manifest = manifest(description, entries);
    let payload = check_manifest(&manifest)?;
    Ok(Packed { manifest, payload, blobs, model })
}

fn check_model(
    description: &Description,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<ModelSummary, PackError> {
    let entry = &description.model.entry;
    let bytes = files.get(entry).ok_or_else(|| PackError::Missing { path: entry.clone() })?;
    let model = scan(bytes, &ScanLimits::default())
        .map_err(|source| PackError::Model { entry: entry.clone(), source })?;
    model.check_interface(&description.model.inputs, &description.model.outputs)?;
    Ok(model)
}

fn enter<'f>(
    path: &str,
    bytes: &'f [u8],
    cutter: Cutter,
    blobs: &mut BTreeMap<Digest, &'f [u8]>,
) -> Result<FileEntry, PackError> {
    let tensors = if path.ends_with(".onnx") {
        let places =
            tensors(bytes).map_err(|source| PackError::Tensors { entry: path.to_owned(), source })?;
        places.into_iter().map(|place| place.range).collect()
    } else {
        Vec::new()
    };
    let mut chunks = Vec::new();
    for range in cutter.cut(bytes, &tensors) {
        let piece = bytes.get(range).unwrap_or_default();
        let digest = Digest::of(piece);
        blobs.insert(digest, piece);
        chunks.push(Chunk(piece.len() as u64, digest));
    }
    Ok(FileEntry { path: path.to_owned(), size: bytes.len() as u64, sha256: Digest::of(bytes), chunks })
}

/// `files` come sorted by path, since [`Description::paths`] does.
fn manifest(description: &Description, files: Vec<FileEntry>) -> Manifest {
    let Description { name, version, fleet, created, expires, card, model, .. } = description.clone();
    Manifest {
        r#type: Kind::Bundle,
        spec: SPEC,
        fleet,
        name,
        version,
        created,
        expires,
        files,
        model: ModelSection {
            format: "onnx".to_owned(),
            entry: model.entry,
            inputs: model.inputs,
            outputs: model.outputs,
        },
        golden: description.golden.clone(),
        requires: description.requires.clone(),
        licence: description.licence.clone(),
        card,
        lineage: None,
        extras: description.extras.clone(),
    }
}
