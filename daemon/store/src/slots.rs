//! A small state that is never half written: two files with the same content, replaced one after the other.
//!
//! In: bytes to keep. Out: the last bytes whose `save` returned, or a newer `save` that was interrupted. Each file
//! holds a generation, the body and a SHA-256 over both. A save replaces the older file, then the other, so that
//! afterwards either of them may be damaged and nothing is lost, not even one generation (a lost generation of the
//! trust state would be a roll-back). Refuses bodies over [`MAX_STATE`].

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentd_types::{Code, Coded, Digest};

use crate::{
    errors::io_code,
    storage::{self, Storage},
};

/// Most bytes of a state: 16 MiB, twice the largest signed document.
pub const MAX_STATE: usize = 16 << 20;

const MAGIC: &[u8; 8] = b"agentdS1";
const SUFFIXES: [&str; 2] = ["a", "b"];

/// What was found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// The state.
    Present(Vec<u8>),
    /// Nothing was ever saved, or both files were deleted.
    Missing,
    /// Something is there and none of it can be believed.
    Damaged,
}

/// A state was not saved. What was saved before is still there.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// It is longer than [`MAX_STATE`].
    #[error("the state has {len} bytes, more than the {MAX_STATE} that it may have")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// A name for a record is 1 to 64 of `a-z`, `0-9` and `-`.
    #[error("`{name}` is not a name of a record")]
    Name {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// The disk refused.
    #[error("cannot save `{path}`")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the file system says.
        source: io::Error,
    },
}

impl Coded for SaveError {
    fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } => Code::new("store.too_long"),
            Self::Name { .. } => Code::new("store.name"),
            Self::Io { source, .. } => io_code(source),
        }
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

/// A state in two files, `<name>.a` and `<name>.b`.
#[derive(Debug)]
pub(crate) struct Slots {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    name: String,
}

impl Slots {
    /// The state called `name` in `dir`, which exists.
    pub(crate) fn new(storage: Arc<dyn Storage>, dir: PathBuf, name: String) -> Self {
        Self { storage, dir, name }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}.{suffix}", self.name))
    }

    /// Reads the newest state that can be believed.
    pub(crate) fn load(&self) -> Loaded {
        let found = self.read_both();
        let newest = found.iter().filter_map(|slot| slot.valid()).max_by_key(|(generation, _)| *generation);
        match newest {
            Some((_, body)) => Loaded::Present(body.clone()),
            None if found.iter().all(|slot| matches!(slot, Slot::Absent)) => Loaded::Missing,
            None => Loaded::Damaged,
        }
    }

    /// Returns when `body` survives a power cut.
    pub(crate) fn save(&self, body: &[u8]) -> Result<(), SaveError> {
        if body.len() > MAX_STATE {
            return Err(SaveError::TooLong { len: body.len() });
        }
        let found = self.read_both();
        let generations = found.iter().map(|slot| slot.valid().map_or(0, |(generation, _)| *generation));
        let next = generations.clone().max().unwrap_or(0).saturating_add(1);
        let mut order: Vec<(u64, &str)> = generations.zip(SUFFIXES).collect();
        order.sort_by_key(|(generation, _)| *generation);
        let bytes = encode(next, body);
        for (_, suffix) in order {
            let path = self.path(suffix);
            let temporary = self.path(&format!("{suffix}.new"));
            storage::replace(&*self.storage, &temporary, &path, &bytes)
                .map_err(|source| SaveError::Io { path, source })?;
        }
        Ok(())
    }

    fn read_both(&self) -> [Slot; 2] {
        SUFFIXES.map(|suffix| read(&*self.storage, &self.path(suffix)))
    }
}

enum Slot {
    Absent,
    Damaged,
    Valid((u64, Vec<u8>)),
}

impl Slot {
    const fn valid(&self) -> Option<&(u64, Vec<u8>)> {
        match self {
            Self::Valid(found) => Some(found),
            Self::Absent | Self::Damaged => None,
        }
    }
}

fn read(storage: &dyn Storage, path: &Path) -> Slot {
    match storage.read(path, (MAX_STATE + 64) as u64) {
        Ok(bytes) => decode(&bytes).map_or(Slot::Damaged, Slot::Valid),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Slot::Absent,
        Err(_) => Slot::Damaged,
    }
}

fn encode(generation: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 48);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(body);
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (content, digest) = bytes.split_last_chunk::<32>()?;
    let (magic, rest) = content.split_first_chunk::<8>()?;
    let (generation, body) = rest.split_first_chunk::<8>()?;
    let genuine = magic == MAGIC && Digest::of(content).as_bytes() == digest;
    genuine.then(|| (u64::from_le_bytes(*generation), body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::RealStorage;

    fn slots(dir: &Path) -> Slots {
        Slots::new(Arc::new(RealStorage::new()), dir.to_owned(), "trust".into())
    }

    #[test]
    fn one_damaged_or_deleted_file_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = slots(dir.path());
        assert_eq!(state.load(), Loaded::Missing);
        for round in 0..4_u8 {
            state.save(&[round; 100]).unwrap();
            for suffix in SUFFIXES {
                let path = state.path(suffix);
                let kept = std::fs::read(&path).unwrap();
                let mut flipped = kept.clone();
                flipped[20] ^= 4;
                std::fs::write(&path, flipped).unwrap();
                assert_eq!(state.load(), Loaded::Present(vec![round; 100]));
                std::fs::remove_file(&path).unwrap();
                assert_eq!(state.load(), Loaded::Present(vec![round; 100]));
                std::fs::write(&path, kept).unwrap();
            }
        }
        for suffix in SUFFIXES {
            std::fs::write(state.path(suffix), b"agentdS1 garbage").unwrap();
        }
        assert_eq!(state.load(), Loaded::Damaged);
        state.save(b"again").unwrap();
        assert_eq!(state.load(), Loaded::Present(b"again".to_vec()));
    }

    #[test]
    fn a_state_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = slots(dir.path()).save(&vec![0; MAX_STATE + 1]).unwrap_err();
        assert_eq!(error.code().as_str(), "store.too_long");
    }
}
