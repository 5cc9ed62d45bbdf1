//! Where a server of blocks takes them from.
//!
//! In: the name of an object and a range. Out: its bytes, or that it is not there. The folder holds the envelope of
//! every manifest as `manifests/<digest of the payload>.dsse.json` and every chunk as `blobs/sha256/<digest>`; names are
//! made from digests alone, so no request reaches anything else.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use agentd_types::{Code, Coded, Digest};
use agentd_wire::{Object, edition_of};
use bytes::Bytes;

/// Bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes: as many as were asked for, fewer at the object's end.
    pub bytes: Bytes,
    /// Bytes of the whole object.
    pub object_bytes: u32,
    /// CRC32C of the whole envelope for a manifest, 0 for a chunk.
    pub edition: u32,
}

/// An object that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` cannot be read")]
pub struct SourceError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl Coded for SourceError {
    fn code(&self) -> Code {
        Code::new("blocks.unreadable")
    }
}

/// Has objects. Calls may wait for a disk: they are made where waiting is allowed.
pub trait BlockSource: Send + Sync + fmt::Debug {
    /// Up to `length` bytes of an object from `offset` on; `None` when it is not there or ends before.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    fn read(&self, object: Object, offset: u32, length: u32) -> Result<Option<Piece>, SourceError>;
}

/// A folder of manifests and chunks.
#[derive(Clone, Debug)]
pub struct FolderSource {
    root: PathBuf,
}

impl FolderSource {
    /// The folder `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the folder keeps the envelope of a manifest.
    pub fn manifest_path(&self, bundle: Digest) -> PathBuf {
        self.root.join("manifests").join(format!("{bundle}.dsse.json"))
    }

    /// Where the folder keeps a chunk.
    pub fn chunk_path(&self, chunk: Digest) -> PathBuf {
        self.root.join("blobs").join("sha256").join(chunk.to_string())
    }
}

impl BlockSource for FolderSource {
    fn read(&self, object: Object, offset: u32, length: u32) -> Result<Option<Piece>, SourceError> {
        let path = match object {
            Object::Manifest(bundle) => self.manifest_path(bundle),
            Object::Chunk(chunk) => self.chunk_path(chunk),
        };
        let piece = match object {
            Object::Manifest(_) => read_manifest(&path, object, offset, length),
            Object::Chunk(_) => read_part(&path, object, offset, length),
        };
        match piece {
            Ok(piece) => Ok(piece),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SourceError { path, source }),
        }
    }
}

fn read_part(path: &Path, object: Object, offset: u32, length: u32) -> io::Result<Option<Piece>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let Some(object_bytes) = u32::try_from(size).ok().filter(|size| *size <= object.max_bytes()) else {
        return Ok(None);
    };
    if offset >= object_bytes {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(offset.into()))?;
    let mut bytes = Vec::with_capacity(length.min(object_bytes - offset) as usize);
    file.take(length.into()).read_to_end(&mut bytes)?;
    Ok(Some(Piece { bytes: bytes.into(), object_bytes, edition: 0 }))
}

fn read_manifest(path: &Path, object: Object, offset: u32, length: u32) -> io::Result<Option<Piece>> {
    let mut whole = Vec::new();
    File::open(path)?.take(u64::from(object.max_bytes()) + 1).read_to_end(&mut whole)?;
    let Some(object_bytes) = u32::try_from(whole.len()).ok().filter(|size| *size <= object.max_bytes())
    else {
        return Ok(None);
    };
    let edition = edition_of(&whole);
    let end = offset.saturating_add(length).min(object_bytes) as usize;
    let bytes = whole.get(offset as usize..end).filter(|bytes| !bytes.is_empty());
    Ok(bytes.map(|bytes| Piece { bytes: Bytes::copy_from_slice(bytes), object_bytes, edition }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_gives_parts_and_says_when_it_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let source = FolderSource::new(folder.path());
        let (bundle, chunk) = (Digest::of(b"bundle"), Digest::of(b"chunk"));
        fs::create_dir_all(folder.path().join("manifests")).unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        fs::write(source.manifest_path(bundle), b"manifest").unwrap();
        fs::write(source.chunk_path(chunk), b"chunk").unwrap();
        let read = |object, offset, length| source.read(object, offset, length).unwrap();
        let part = read(Object::Chunk(chunk), 1, 2).unwrap();
        assert_eq!((&part.bytes[..], part.object_bytes, part.edition), (&b"hu"[..], 5, 0));
        let end = read(Object::Manifest(bundle), 4, 100).unwrap();
        assert_eq!((&end.bytes[..], end.object_bytes), (&b"fest"[..], 8));
        assert_eq!(end.edition, edition_of(b"manifest"));
        for absent in [Object::Chunk(bundle), Object::Manifest(chunk)] {
            assert_eq!(read(absent, 0, 1), None);
        }
        assert_eq!(read(Object::Chunk(chunk), 5, 1), None);
        assert_eq!(read(Object::Manifest(bundle), 9, 1), None);
    }
}
