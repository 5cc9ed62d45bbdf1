//! What changed between two versions of a bundle, and what a device with the old one must fetch.
//!
//! In: two manifests, and for tensors the bytes of two model files. Out: plain figures. Proves nothing.

use std::collections::{BTreeMap, BTreeSet};

use agentd_onnx::{TensorsError, tensors};
use agentd_types::Digest;
use agentd_wire::{FileEntry, Manifest};
use serde::Serialize;

/// How a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The same bytes.
    Same,
    /// Other bytes.
    Changed,
    /// Only in the new version.
    Added,
    /// Only in the old version.
    Removed,
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileDiff {
    /// Its path.
    pub path: String,
    /// How it differs.
    pub change: Change,
    /// Bytes in the new version; in the old one for a file that is gone.
    pub size: u64,
    /// Bytes of its chunks that the old version lacks, a chunk that several files share counted at the first.
    pub fetch_bytes: u64,
    /// Number of those chunks.
    pub fetch_chunks: usize,
    /// Number of its chunks.
    pub chunks: usize,
}

/// What became of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BundleDiff {
    /// Every file of either version, by path.
    pub files: Vec<FileDiff>,
    /// Bytes that a device with the old version fetches.
    pub fetch_bytes: u64,
    /// Bytes of the new version.
    pub total_bytes: u64,
}

/// What became of a model's tensors, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorDiff {
    /// Tensors in the new version.
    pub total: usize,
    /// Other values, another shape or another datatype.
    pub changed: Vec<String>,
    /// Only in the new version.
    pub added: Vec<String>,
    /// Only in the old version.
    pub removed: Vec<String>,
}

/// Compares two versions by their manifests.
pub fn diff_manifests(old: &Manifest, new: &Manifest) -> BundleDiff {
    let mut held: BTreeSet<Digest> = old.chunks().map(|chunk| chunk.1).collect();
    let mut files: Vec<FileDiff> =
        new.files.iter().map(|file| diff_file(old.file(&file.path), file, &mut held)).collect();
    files.extend(old.files.iter().filter(|file| new.file(&file.path).is_none()).map(removed));
    files.sort_by(|left, right| left.path.cmp(&right.path));
    let fetch_bytes = files.iter().map(|file| file.fetch_bytes).sum();
    BundleDiff { files, fetch_bytes, total_bytes: new.total_size() }
}

fn diff_file(old: Option<&FileEntry>, new: &FileEntry, held: &mut BTreeSet<Digest>) -> FileDiff {
    let (mut fetch_bytes, mut fetch_chunks) = (0, 0);
    for chunk in &new.chunks {
        if held.insert(chunk.1) {
            fetch_bytes += chunk.0;
            fetch_chunks += 1;
        }
    }
    let change = match old {
        None => Change::Added,
        Some(old) if old.sha256 == new.sha256 => Change::Same,
        Some(_) => Change::Changed,
    };
    let (path, size, chunks) = (new.path.clone(), new.size, new.chunks.len());
    FileDiff { path, change, size, fetch_bytes, fetch_chunks, chunks }
}

fn removed(old: &FileEntry) -> FileDiff {
    let (path, size, chunks) = (old.path.clone(), old.size, old.chunks.len());
    FileDiff { path, change: Change::Removed, size, fetch_bytes: 0, fetch_chunks: 0, chunks }
}

/// Compares the tensors of two ONNX files by name. Of tensors with the same name the first counts.
///
/// # Errors
/// When one of the files is no ONNX model.
pub fn diff_tensors(old: &[u8], new: &[u8]) -> Result<TensorDiff, TensorsError> {
    let (old, new) = (contents(old)?, contents(new)?);
    let missing = |from: &BTreeMap<String, Digest>, within: &BTreeMap<String, Digest>| {
        from.keys().filter(|name| !within.contains_key(*name)).cloned().collect()
    };
    let changed = |(name, digest): (&String, &Digest)| match old.get(name) {
        Some(held) if held != digest => Some(name.clone()),
        _ => None,
    };
    Ok(TensorDiff {
        total: new.len(),
        changed: new.iter().filter_map(changed).collect(),
        added: missing(&new, &old),
        removed: missing(&old, &new),
    })
}

/// A digest of each tensor's datatype, dimensions and values.
fn contents(file: &[u8]) -> Result<BTreeMap<String, Digest>, TensorsError> {
    let mut contents = BTreeMap::new();
    for place in tensors(file)? {
        let values = Digest::of(file.get(place.range).unwrap_or_default());
        let whole = format!("{:?} {:?} {values}", place.datatype, place.dims);
        contents.entry(place.name).or_insert_with(|| Digest::of(whole.as_bytes()));
    }
    Ok(contents)
}
