//! Facts as of a position, so that opening need not replay everything.
//!
//! A file `snapshot-<position>` holds one frame: the SHA-256 of the JSON, then the JSON. Two are kept. A snapshot
//! that cannot be read, or whose hash is not the chain's, is passed over: everything in it is in the journal too.

use std::{
    io,
    path::{Path, PathBuf},
};

use agentd_types::Digest;
use serde::{Deserialize, Serialize};

use super::Head;
use crate::{
    facts::Facts,
    frames,
    storage::{self, Storage},
};

const KEPT: usize = 2;
const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Body<F> {
    snapshot: u32,
    seq: u64,
    hash: Digest,
    facts: F,
}

fn path(dir: &Path, seq: u64) -> PathBuf {
    dir.join(format!("snapshot-{seq:020}"))
}

/// Positions of the snapshots, oldest first.
fn list(storage: &dyn Storage, dir: &Path) -> io::Result<Vec<u64>> {
    let entries = storage.list(dir)?;
    let mut found: Vec<u64> =
        entries.iter().filter_map(|entry| entry.name.strip_prefix("snapshot-")?.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// Writes the snapshot of `facts` at `head`.
pub(super) fn write(storage: &dyn Storage, dir: &Path, head: Head, facts: &Facts) -> io::Result<()> {
    let json = serde_json::to_vec(&Body { snapshot: SCHEMA, seq: head.seq, hash: head.hash, facts })?;
    let mut body = Digest::of(&json).as_bytes().to_vec();
    body.extend_from_slice(&json);
    let mut bytes = Vec::new();
    frames::encode(&body, &mut bytes).ok_or_else(|| io::Error::other("the facts are too long"))?;
    storage::replace(storage, &dir.join("snapshot.new"), &path(dir, head.seq), &bytes)
}

/// Deletes all but the newest snapshots; returns the position of the oldest that stays.
pub(super) fn prune(storage: &dyn Storage, dir: &Path) -> io::Result<u64> {
    let found = list(storage, dir)?;
    let surplus = found.len().saturating_sub(KEPT);
    for seq in found.iter().take(surplus) {
        storage.remove(&path(dir, *seq))?;
    }
    Ok(found.get(surplus).copied().unwrap_or(0))
}

/// Every snapshot that can be read, newest first.
pub(super) fn read_all(storage: &dyn Storage, dir: &Path) -> io::Result<Vec<(Head, Facts)>> {
    let found = list(storage, dir)?;
    Ok(found.iter().rev().filter_map(|seq| read(storage, &path(dir, *seq))).collect())
}

/// Deletes snapshots that were found wrong.
pub(super) fn remove(storage: &dyn Storage, dir: &Path, seq: u64) -> io::Result<()> {
    storage.remove(&path(dir, seq))
}

fn read(storage: &dyn Storage, path: &Path) -> Option<(Head, Facts)> {
    let bytes = storage.read(path, (frames::MAX_BODY + frames::OVERHEAD) as u64).ok()?;
    let (digest, json) = frames::decode(&bytes)?.split_first_chunk::<32>()?;
    if Digest::of(json).as_bytes() != digest {
        return None;
    }
    let body: Body<Facts> = serde_json::from_slice(json).ok()?;
    let whole = body.snapshot == SCHEMA && body.facts.seq == body.seq;
    whole.then_some((Head { seq: body.seq, hash: body.hash }, body.facts))
}
