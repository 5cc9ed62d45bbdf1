//! Bundles that are whole on this device.
//!
//! In: a [`VerifiedBundle`](agentd_bundle::VerifiedBundle), or the envelope kept of one. Out: an
//! [`InstalledBundle`], which only this crate makes: every chunk was there, every file had its digest, and the
//! journal says so. Refuses a bundle with anything missing.

use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use agentd_bundle::{Envelope, MAX_ENVELOPE, Reject, read_manifest};
use agentd_types::{ByteCount, Code, Coded, Digest, Hasher, ModelName, UnixTime};
use agentd_wire::{FileEntry, Manifest};

use crate::{
    BlobError, Blobs, DiskError, RecordError,
    storage::{self, Storage},
};

/// A bundle of which everything is on disk. Cheap to clone.
#[derive(Clone)]
pub struct InstalledBundle {
    manifest: Arc<Manifest>,
    digest: Digest,
    at: UnixTime,
    seq: u64,
}

impl fmt::Debug for InstalledBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstalledBundle({} {} {})", self.manifest.name, self.manifest.version, self.digest.short())
    }
}

impl InstalledBundle {
    pub(crate) const fn new(manifest: Arc<Manifest>, digest: Digest, at: UnixTime, seq: u64) -> Self {
        Self { manifest, digest, at, seq }
    }

    /// What the model is and of which files it is made.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn shared_manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest)
    }

    /// Digest of the bundle's payload.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The model.
    pub fn model(&self) -> &ModelName {
        &self.manifest.name
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.manifest.version
    }

    /// When it was installed.
    pub const fn installed_at(&self) -> UnixTime {
        self.at
    }

    /// Position of its install in the journal.
    pub const fn installed_seq(&self) -> u64 {
        self.seq
    }

    /// Bytes of all its files; chunks shared with other bundles count here too.
    pub fn size(&self) -> ByteCount {
        ByteCount(self.manifest.total_size())
    }
}

/// A bundle was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Chunks are missing.
    #[error("{count} chunks of {bytes} are not on disk")]
    Missing {
        /// How many.
        count: usize,
        /// Their bytes.
        bytes: ByteCount,
    },
    /// A file is not what the manifest says.
    #[error("file `{file}` is not what the manifest says")]
    File {
        /// Its path in the bundle.
        file: String,
        /// Size or digest.
        source: ReadError,
    },
    /// The chunks that were put are not kept.
    #[error("the bundle's chunks are not kept")]
    Chunks(#[from] BlobError),
    /// The disk refused.
    #[error("the bundle's envelope cannot be kept")]
    Disk(#[from] DiskError),
    /// The journal refused.
    #[error("the install is not journalled")]
    Journal(#[from] RecordError),
}

impl Coded for InstallError {
    fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::new("store.missing"),
            Self::File { source, .. } => source.code(),
            Self::Chunks(source) => source.code(),
            Self::Disk(source) => source.code(),
            Self::Journal(source) => source.code(),
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::File { .. } => false,
            Self::Chunks(source) => source.is_transient(),
            Self::Disk(source) => source.is_transient(),
            Self::Journal(source) => source.is_transient(),
        }
    }
}

/// A file of a bundle was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bundle has no such file.
    #[error("the bundle has no file `{path}`")]
    NoFile {
        /// What was asked for, cut to 255 characters.
        path: String,
    },
    /// It is longer than the caller takes.
    #[error("the file has {size}, more than the {limit} asked for")]
    TooLong {
        /// Its size.
        size: ByteCount,
        /// The caller's limit.
        limit: ByteCount,
    },
    /// Its chunks do not make up the file.
    #[error("the file's content has not the digest {wanted}")]
    Digest {
        /// The digest in the manifest.
        wanted: Digest,
    },
    /// A chunk cannot be read.
    #[error("a chunk of the file cannot be read")]
    Chunk(#[from] BlobError),
    /// Who asked for it does not take it.
    #[error("the file cannot be passed on")]
    Sink(#[source] io::Error),
}

impl Coded for ReadError {
    fn code(&self) -> Code {
        match self {
            Self::NoFile { .. } => Code::new("store.no_file"),
            Self::TooLong { .. } => Code::new("store.too_long"),
            Self::Digest { .. } => Code::new("verify.file_digest"),
            Self::Chunk(source) => source.code(),
            Self::Sink(_) => Code::new("store.io"),
        }
    }
}

/// Writes a file to `sink`, chunk by chunk, each checked; the whole is checked at the end, so what was written counts
/// only when this returns `Ok`.
pub(crate) fn copy(blobs: &Blobs, file: &FileEntry, sink: &mut dyn Write) -> Result<(), ReadError> {
    let mut hasher = Hasher::new();
    let mut size = 0_u64;
    for chunk in &file.chunks {
        let bytes = blobs.read(&chunk.1)?;
        hasher.update(&bytes);
        size = size.saturating_add(bytes.len() as u64);
        sink.write_all(&bytes).map_err(ReadError::Sink)?;
    }
    if size != file.size || hasher.finish() != file.sha256 {
        return Err(ReadError::Digest { wanted: file.sha256 });
    }
    Ok(())
}

/// The envelopes of installed bundles, `bundles/<digest>.dsse.json`.
#[derive(Debug)]
pub(crate) struct Envelopes {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
}

/// Why an envelope that was kept is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvelopeError {
    #[error("its envelope is not there")]
    Missing,
    #[error("its envelope holds another document")]
    Other,
    #[error("its envelope cannot be read")]
    Form(#[from] Reject),
    #[error("its envelope cannot be read from disk")]
    Disk(#[from] DiskError),
}

impl Envelopes {
    pub(crate) fn open(storage: Arc<dyn Storage>, dir: PathBuf) -> Result<Self, DiskError> {
        storage.create_dir(&dir).map_err(DiskError::at("make", &dir))?;
        storage.sync_dir(&dir).map_err(DiskError::at("sync", &dir))?;
        Ok(Self { storage, dir })
    }

    fn path(&self, bundle: &Digest) -> PathBuf {
        self.dir.join(format!("{bundle}.dsse.json"))
    }

    pub(crate) fn keep(&self, bundle: &Digest, envelope: &[u8]) -> Result<(), DiskError> {
        let path = self.path(bundle);
        let temporary = self.dir.join(format!("{bundle}.new"));
        storage::replace(&*self.storage, &temporary, &path, envelope).map_err(DiskError::at("write", path))
    }

    pub(crate) fn read(&self, bundle: &Digest) -> Result<Vec<u8>, EnvelopeError> {
        let path = self.path(bundle);
        match self.storage.read(&path, MAX_ENVELOPE as u64) {
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(EnvelopeError::Missing),
            Err(error) => Err(DiskError::at("read", path)(error).into()),
        }
    }

    /// The manifest in the envelope kept of `bundle`.
    pub(crate) fn manifest(&self, bundle: &Digest) -> Result<Manifest, EnvelopeError> {
        let envelope = Envelope::read(&self.read(bundle)?)?;
        if envelope.digest() != *bundle {
            return Err(EnvelopeError::Other);
        }
        Ok(read_manifest(envelope.payload())?)
    }

    pub(crate) fn remove(&self, bundle: &Digest) -> Result<(), DiskError> {
        let path = self.path(bundle);
        self.storage.remove(&path).map_err(DiskError::at("remove", path))
    }

    /// Deletes files that belong to no bundle in `kept`.
    pub(crate) fn sweep(&self, kept: &dyn Fn(&Digest) -> bool) -> Result<(), DiskError> {
        for entry in self.storage.list(&self.dir).map_err(DiskError::at("list", &self.dir))? {
            let bundle = entry.name.strip_suffix(".dsse.json").and_then(|name| name.parse().ok());
            if !entry.is_dir && !bundle.is_some_and(|bundle| kept(&bundle)) {
                let path = self.dir.join(&entry.name);
                self.storage.remove(&path).map_err(DiskError::at("remove", path))?;
            }
        }
        Ok(())
    }
}
