//! Bundles on disk: an `.agentb` archive or the same tree as a folder, for example on a USB stick.
//!
//! In: a path. Out: the bundle's document, unproved, and its chunks, each proved by its digest. Of a folder only what
//! the manifest names is looked at, since a stick holds other things too; links and devices are refused.
//! What is written appears whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use agentd_bundle::{
    MAX_CHUNK, MAX_ENVELOPE,
    archive::{
        Archive, ArchiveError, BundleDocument, SIGNED_NAME, UNSIGNED_NAME, blob_path, check_blob_bytes,
        check_content, read_file, write_archive,
    },
};
use agentd_types::Digest;

/// A bundle on disk that is open for reading.
#[derive(Debug)]
pub(crate) enum BundleFile {
    /// An `.agentb` file.
    Archive(Archive<BufReader<File>>),
    /// A folder.
    Folder(Folder),
}

/// A folder that holds a bundle.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    document: BundleDocument,
}

impl BundleFile {
    /// Opens the archive or folder at `path`; reads its document, not yet its chunks.
    pub(crate) fn open(path: &Path) -> Result<Self, ArchiveError> {
        if fs::metadata(path)?.is_dir() {
            return Folder::open(path).map(Self::Folder);
        }
        Archive::open(BufReader::new(open_plain(path)?)).map(Self::Archive)
    }

    /// The bundle's document, unproved.
    pub(crate) fn document(&self) -> &BundleDocument {
        match self {
            Self::Archive(archive) => archive.document(),
            Self::Folder(folder) => &folder.document,
        }
    }

    /// The bytes of a chunk.
    pub(crate) fn blob(&mut self, digest: Digest) -> Result<Vec<u8>, ArchiveError> {
        match self {
            Self::Archive(archive) => archive.blob(digest),
            Self::Folder(folder) => folder.blob(digest),
        }
    }

    /// The bytes of a file of the bundle.
    pub(crate) fn file(&mut self, path: &str) -> Result<Vec<u8>, ArchiveError> {
        let manifest = self.document().manifest().clone();
        read_file(&manifest, path, |digest| self.blob(digest))
    }

    /// Holds every chunk and file against the manifest.
    pub(crate) fn check_content(&mut self) -> Result<(), ArchiveError> {
        let manifest = self.document().manifest().clone();
        check_content(&manifest, |digest| self.blob(digest))
    }

    /// Writes the bundle as an archive at `path`, under `document`, which must be of the same chunks: its own one, or
    /// the same with more signatures.
    pub(crate) fn write_archive(&mut self, path: &Path, document: &BundleDocument) -> io::Result<()> {
        write_archive_file(path, document, |digest| self.blob(digest).map_err(io::Error::other))
    }

    /// Writes the bundle as a folder at `path`: chunks first, the document last.
    pub(crate) fn write_folder(&mut self, path: &Path) -> io::Result<()> {
        let document = self.document().clone();
        for (digest, _) in document.blobs() {
            let place = path.join(blob_path(digest));
            if !fs::read(&place).is_ok_and(|bytes| Digest::of(&bytes) == digest) {
                let bytes = self.blob(digest).map_err(io::Error::other)?;
                write_whole(&place, |out| out.write_all(&bytes))?;
            }
        }
        write_whole(&path.join(document.file_name()), |out| out.write_all(&document.to_bytes()))
    }
}

impl Folder {
    fn open(path: &Path) -> Result<Self, ArchiveError> {
        for name in [SIGNED_NAME, UNSIGNED_NAME] {
            let place = path.join(name);
            if fs::symlink_metadata(&place).is_ok() {
                let document = BundleDocument::read(name, &read_bounded(&place, MAX_ENVELOPE as u64)?)?;
                return Ok(Self { path: path.to_owned(), document });
            }
        }
        Err(ArchiveError::NoManifest)
    }

    fn blob(&self, digest: Digest) -> Result<Vec<u8>, ArchiveError> {
        let bytes = match read_bounded(&self.path.join(blob_path(digest)), MAX_CHUNK) {
            Err(ArchiveError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ArchiveError::Missing { digest });
            }
            other => other?,
        };
        check_blob_bytes(digest, &bytes)?;
        Ok(bytes)
    }
}

/// Writes an archive at `path`; `blob` returns the bytes of each chunk.
pub(crate) fn write_archive_file<B: AsRef<[u8]>>(
    path: &Path,
    document: &BundleDocument,
    blob: impl FnMut(Digest) -> io::Result<B>,
) -> io::Result<()> {
    write_whole(path, |out| write_archive(out, document, blob).map(drop))
}

/// Writes a file that appears whole or not at all, and makes its folder when it is missing.
pub(crate) fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let temporary = folder.join(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let mut out = BufWriter::new(file);
    let written = fill(&mut out)
        .and_then(|()| out.into_inner().map_err(io::IntoInnerError::into_error))
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| File::open(folder)?.sync_all());
    if written.is_err() {
        drop(fs::remove_file(&temporary));
    }
    written
}

/// The bytes of a plain file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, ArchiveError> {
    let file = open_plain(path)?;
    let size = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(ArchiveError::Size { name: format!("`{}`", path.display()), size });
    }
    Ok(bytes)
}

/// Opens a file, but no link, folder or device, so that a stick cannot point elsewhere or block.
fn open_plain(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::Error::other(format!("`{}` is not a plain file", path.display())))
    }
}
