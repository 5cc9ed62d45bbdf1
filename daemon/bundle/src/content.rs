//! Holds bytes against a manifest: chunks before they are written, files before they are used.

use std::collections::BTreeSet;

use agentd_types::Digest;
use agentd_wire::Manifest;

use crate::{Cause, Reject, reject::quoted};

/// Checks one chunk before it is written.
///
/// `index`: its place among the chunks of the file `path`, from 0.
///
/// # Errors
/// `chunk` when the manifest has no such chunk, `chunk_length`, `chunk_digest`.
pub fn check_chunk(manifest: &Manifest, path: &str, index: usize, bytes: &[u8]) -> Result<(), Reject> {
    let refuse =
        |cause, why: String| Err(Reject::new(cause, format!("chunk {index} of {} {why}", quoted(path))));
    let Some(file) = manifest.file(path) else {
        return refuse(Cause::Chunk, "belongs to no file of the bundle".into());
    };
    let Some(chunk) = file.chunks.get(index) else {
        return refuse(Cause::Chunk, format!("does not exist, the file has {}", file.chunks.len()));
    };
    if bytes.len() as u64 != chunk.0 {
        return refuse(Cause::ChunkLength, format!("has {} bytes instead of {}", bytes.len(), chunk.0));
    }
    let digest = Digest::of(bytes);
    if digest != chunk.1 {
        return refuse(Cause::ChunkDigest, format!("has digest {}, not {}", digest.short(), chunk.1.short()));
    }
    Ok(())
}

/// Checks that exactly the files of the manifest are there, before a bundle is activated.
///
/// # Errors
/// `files` with the first path that is missing or surplus.
pub fn check_file_set<'a>(
    manifest: &Manifest,
    present: impl IntoIterator<Item = &'a str>,
) -> Result<(), Reject> {
    let present: BTreeSet<_> = present.into_iter().collect();
    let expected: BTreeSet<_> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let refuse = |path: &str, why| Err(Reject::new(Cause::Files, format!("the file {} {why}", quoted(path))));
    match (expected.difference(&present).next(), present.difference(&expected).next()) {
        (Some(missing), _) => refuse(missing, "is missing"),
        (None, Some(surplus)) => refuse(surplus, "is not in the manifest"),
        (None, None) => Ok(()),
    }
}

/// Checks a whole file by its length and the digest of its bytes, before a bundle is activated.
///
/// # Errors
/// `files` when the manifest has no such file, `file_digest`.
pub fn check_file(manifest: &Manifest, path: &str, size: u64, digest: Digest) -> Result<(), Reject> {
    let Some(file) = manifest.file(path) else {
        return Err(Reject::new(Cause::Files, format!("the file {} is not in the manifest", quoted(path))));
    };
    if file.size != size || file.sha256 != digest {
        let message = format!(
            "the file {} has {size} bytes and digest {}, not {} bytes and digest {}",
            quoted(path),
            digest.short(),
            file.size,
            file.sha256.short()
        );
        return Err(Reject::new(Cause::FileDigest, message));
    }
    Ok(())
}
