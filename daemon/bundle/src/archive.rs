//! The `.agentb` file: a bundle as one archive that has exactly one form.
//!
//! In: a bundle's document and its chunks, or the bytes of an archive. Out: a sorted ustar archive, or the document and
//! each chunk on request. Refuses every archive that this module would not have written byte for byte: other paths,
//! kinds, owners, times, orders, paddings, surplus or missing chunks.
//!
//! The tree inside, the same as in a folder or on a USB stick:
//!
//! ```text
//! blobs/sha256/<digest>     every chunk once, named by the SHA-256 of its bytes
//! manifest.dsse.json        the signed envelope
//! manifest.json             instead of it, until somebody signs: the canonical payload itself
//! ```
//!
//! An envelope without signatures is no envelope, so a bundle that is packed but not yet signed holds its bare payload
//! under another name. The first signature puts `manifest.dsse.json` in its place; the payload, and so the bundle's
//! digest, stays. No device takes a bundle with `manifest.json`.

use std::{
    collections::BTreeMap,
    io::{self, Read, Seek, SeekFrom, Write},
};

use agentd_types::{Code, Coded, Digest, Hasher};
use agentd_wire::Manifest;
use tar::{EntryType, Header};

use crate::{
    Cause, Envelope, MAX_CHUNK, MAX_CHUNKS, MAX_ENVELOPE, Reject, check_chunk, check_file, read_manifest,
    reject::quoted,
};

/// The file that holds the signed envelope.
pub const SIGNED_NAME: &str = "manifest.dsse.json";
/// The file that holds the payload of a bundle that nobody has signed yet.
pub const UNSIGNED_NAME: &str = "manifest.json";
/// The folder of chunks.
pub const BLOBS: &str = "blobs/sha256";

const BLOCK: u64 = 512;
/// Archives end with two blocks of zeros.
const END: u64 = 2 * BLOCK;

/// What stands in front of a bundle's chunks: its envelope, signed or not yet. Unproved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleDocument {
    envelope: Envelope,
    manifest: Manifest,
}

impl BundleDocument {
    /// The document of a bundle in `envelope`, signed or not.
    ///
    /// # Errors
    /// When the payload is no manifest.
    pub fn new(envelope: Envelope) -> Result<Self, Reject> {
        let manifest = read_manifest(envelope.payload())?;
        if envelope.kind() != manifest.r#type {
            let message = format!("the envelope says {}, its payload {}", envelope.kind(), manifest.r#type);
            return Err(Reject::new(Cause::Type, message));
        }
        Ok(Self { envelope, manifest })
    }

    /// The document of a bundle with this canonical payload, which nobody has signed.
    ///
    /// # Errors
    /// When the payload is no manifest.
    pub fn unsigned(payload: Vec<u8>) -> Result<Self, Reject> {
        let manifest = read_manifest(&payload)?;
        Ok(Self { envelope: Envelope::unsigned(manifest.r#type, payload), manifest })
    }

    /// The document in the file called `name`.
    ///
    /// # Errors
    /// When the name is none of the two, or the bytes are no envelope or manifest.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, ArchiveError> {
        match name {
            SIGNED_NAME => Ok(Self::new(Envelope::read(bytes)?)?),
            UNSIGNED_NAME => Ok(Self::unsigned(bytes.to_vec())?),
            _ => Err(ArchiveError::Entry { name: quoted(name) }),
        }
    }

    /// The name of the file that holds it.
    pub fn file_name(&self) -> &'static str {
        if self.is_signed() { SIGNED_NAME } else { UNSIGNED_NAME }
    }

    /// The bytes of that file.
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.is_signed() { self.envelope.to_bytes() } else { self.envelope.payload().to_vec() }
    }

    /// Whether anybody has signed; by whom, and whether rightly, is not said.
    pub fn is_signed(&self) -> bool {
        !self.envelope.signatures().is_empty()
    }

    /// The envelope, unproved.
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The manifest, unproved.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Every chunk once, with its length.
    pub fn blobs(&self) -> BTreeMap<Digest, u64> {
        self.manifest.chunks().map(|chunk| (chunk.1, chunk.0)).collect()
    }
}

/// The path of a chunk inside an archive or folder.
pub fn blob_path(digest: Digest) -> String {
    format!("{BLOBS}/{digest}")
}

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The archive cannot be read.
    #[error("the archive cannot be read")]
    Read(#[from] io::Error),
    /// It ends too early or goes on after its end.
    #[error("the archive is cut off or has bytes after its end")]
    Length,
    /// An entry is not written as this program writes it.
    #[error("the archive entry at byte {at} has another form than agentctl gives it")]
    Form {
        /// Where its header stands.
        at: u64,
    },
    /// An entry that no bundle has.
    #[error("the archive holds {name}, which is no part of a bundle")]
    Entry {
        /// Its path, quoted.
        name: String,
    },
    /// Entries are not sorted, or one stands twice.
    #[error("the archive's entries are not sorted, or {name} stands twice")]
    Order {
        /// The path that is out of order, quoted.
        name: String,
    },
    /// An entry is larger than a chunk or document may be, or there are too many.
    #[error("{name} has {size} bytes, more than a bundle allows")]
    Size {
        /// Its path, quoted.
        name: String,
        /// Its size.
        size: u64,
    },
    /// There is no manifest.
    #[error("there is no manifest: neither {SIGNED_NAME} nor {UNSIGNED_NAME}")]
    NoManifest,
    /// A chunk is missing.
    #[error("chunk {digest} is missing")]
    Missing {
        /// The chunk.
        digest: Digest,
    },
    /// A chunk that the manifest does not name.
    #[error("chunk {digest} belongs to no file of the bundle")]
    Surplus {
        /// The chunk.
        digest: Digest,
    },
    /// The document or a chunk is not what it should be.
    #[error("the bundle is damaged or not genuine")]
    Content(#[from] Reject),
}

impl Coded for ArchiveError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Read(_) => "archive.read",
            Self::Length => "archive.length",
            Self::Form { .. } => "archive.form",
            Self::Entry { .. } => "archive.entry",
            Self::Order { .. } => "archive.order",
            Self::Size { .. } => "archive.size",
            Self::NoManifest => "archive.manifest",
            Self::Missing { .. } => "archive.missing",
            Self::Surplus { .. } => "archive.surplus",
            Self::Content(reject) => return reject.code(),
        })
    }
}

/// Writes an archive. `blob` returns the bytes of a chunk; it is asked once for each, in order of digests.
///
/// # Errors
/// What `blob` or the writer fails with, and bytes of `blob` that have another length than the manifest says.
pub fn write_archive<W: Write, B: AsRef<[u8]>>(
    mut out: W,
    document: &BundleDocument,
    mut blob: impl FnMut(Digest) -> io::Result<B>,
) -> io::Result<W> {
    for (digest, length) in document.blobs() {
        let bytes = blob(digest)?;
        if bytes.as_ref().len() as u64 != length {
            let message = format!("chunk {digest} has another length than the manifest says");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        write_entry(&mut out, &blob_path(digest), bytes.as_ref())?;
    }
    write_entry(&mut out, document.file_name(), &document.to_bytes())?;
    out.write_all(&[0; 2 * 512])?;
    out.flush()?;
    Ok(out)
}

fn write_entry(out: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    let size = bytes.len() as u64;
    out.write_all(header(name, size)?.as_bytes())?;
    out.write_all(bytes)?;
    let padding = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
    out.write_all([0; 512].get(..padding).unwrap_or_default())
}

/// The one header that an entry may have.
fn header(name: &str, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

/// An archive that is open for reading.
#[derive(Debug)]
pub struct Archive<R> {
    reader: R,
    document: BundleDocument,
    /// Where each chunk's bytes start, and how many there are.
    places: BTreeMap<Digest, (u64, u64)>,
}

/// What the header of an entry says.
struct Entry {
    name: String,
    /// Where its bytes start.
    start: u64,
    size: u64,
}

impl<R: Read + Seek> Archive<R> {
    /// Opens an archive: reads every header and the document, not yet the chunks.
    ///
    /// # Errors
    /// Whenever the archive is not the one form that its content has.
    pub fn open(mut reader: R) -> Result<Self, ArchiveError> {
        let length = reader.seek(SeekFrom::End(0))?;
        reader.seek(SeekFrom::Start(0))?;
        let mut places = BTreeMap::new();
        let mut at = 0;
        let document = loop {
            let entry = read_header(&mut reader, at, length)?;
            match entry.name.strip_prefix(BLOBS).and_then(|rest| rest.strip_prefix('/')) {
                Some(name) => {
                    let place = check_blob(&entry, name, &places)?;
                    places.insert(place, (entry.start, entry.size));
                    at = skip_entry(&mut reader, &entry)?;
                }
                // It sorts behind all chunks, so it comes last.
                None => break read_document(&mut reader, &entry, length)?,
            }
        };
        check_set(&document, &places)?;
        Ok(Self { reader, document, places })
    }

    /// The bundle's document.
    pub const fn document(&self) -> &BundleDocument {
        &self.document
    }

    /// The bytes of a chunk, proved by its digest.
    ///
    /// # Errors
    /// When the bundle has no such chunk, or its bytes are damaged.
    pub fn blob(&mut self, digest: Digest) -> Result<Vec<u8>, ArchiveError> {
        let (start, size) = *self.places.get(&digest).ok_or(ArchiveError::Missing { digest })?;
        self.reader.seek(SeekFrom::Start(start))?;
        let bytes = read_bytes(&mut self.reader, size)?;
        check_blob_bytes(digest, &bytes)?;
        Ok(bytes)
    }
}

/// Holds the bytes of a chunk against its digest.
///
/// # Errors
/// `verify.chunk_digest`.
pub fn check_blob_bytes(digest: Digest, bytes: &[u8]) -> Result<(), Reject> {
    let got = Digest::of(bytes);
    if got == digest {
        return Ok(());
    }
    let message = format!("the chunk called {} has digest {}", digest.short(), got.short());
    Err(Reject::new(Cause::ChunkDigest, message))
}

/// Holds every chunk and every file of a bundle against its manifest. `blob` returns the bytes of a chunk; it is asked
/// for each chunk of each file, in order.
///
/// # Errors
/// What `blob` fails with, and the first chunk or file that is not what the manifest says.
pub fn check_content<E: From<Reject>>(
    manifest: &Manifest,
    mut blob: impl FnMut(Digest) -> Result<Vec<u8>, E>,
) -> Result<(), E> {
    for file in &manifest.files {
        let mut hasher = Hasher::new();
        for (index, chunk) in file.chunks.iter().enumerate() {
            let bytes = blob(chunk.1)?;
            check_chunk(manifest, &file.path, index, &bytes)?;
            hasher.update(&bytes);
        }
        check_file(manifest, &file.path, file.size, hasher.finish())?;
    }
    Ok(())
}

/// The bytes of the file `path`, put together from its chunks.
///
/// # Errors
/// What `blob` fails with, and a file that is not what the manifest says.
pub fn read_file<E: From<Reject>>(
    manifest: &Manifest,
    path: &str,
    mut blob: impl FnMut(Digest) -> Result<Vec<u8>, E>,
) -> Result<Vec<u8>, E> {
    let mut bytes = Vec::new();
    let chunks = manifest.file(path).map(|file| file.chunks.as_slice()).unwrap_or_default();
    for (index, chunk) in chunks.iter().enumerate() {
        let piece = blob(chunk.1)?;
        check_chunk(manifest, path, index, &piece)?;
        bytes.extend(piece);
    }
    check_file(manifest, path, bytes.len() as u64, Digest::of(&bytes))?;
    Ok(bytes)
}

fn read_header(reader: &mut impl Read, at: u64, length: u64) -> Result<Entry, ArchiveError> {
    if at.saturating_add(BLOCK) > length {
        return Err(ArchiveError::Length);
    }
    let mut block = [0; 512];
    reader.read_exact(&mut block)?;
    if block == [0; 512] {
        return Err(ArchiveError::NoManifest);
    }
    let form = || ArchiveError::Form { at };
    let found = Header::from_byte_slice(&block);
    let size = found.entry_size().map_err(|_| form())?;
    let name = found.path_bytes();
    let name = std::str::from_utf8(&name).map_err(|_| form())?.to_owned();
    let same = header(&name, size).is_ok_and(|expected| *expected.as_bytes() == block);
    if !same {
        return Err(form());
    }
    let start = at + BLOCK;
    if start.checked_add(size).is_none_or(|end| end > length) {
        return Err(ArchiveError::Length);
    }
    Ok(Entry { name, start, size })
}

fn check_blob(
    entry: &Entry,
    name: &str,
    places: &BTreeMap<Digest, (u64, u64)>,
) -> Result<Digest, ArchiveError> {
    let shown = || quoted(&entry.name);
    let digest: Digest = name.parse().map_err(|_| ArchiveError::Entry { name: shown() })?;
    if places.last_key_value().is_some_and(|(last, _)| *last >= digest) {
        return Err(ArchiveError::Order { name: shown() });
    }
    if !(1..=MAX_CHUNK).contains(&entry.size) || places.len() >= MAX_CHUNKS {
        return Err(ArchiveError::Size { name: shown(), size: entry.size });
    }
    Ok(digest)
}

/// Leaves an entry behind and returns where the next header stands.
fn skip_entry(reader: &mut (impl Read + Seek), entry: &Entry) -> Result<u64, ArchiveError> {
    let end = entry.start + entry.size;
    reader.seek(SeekFrom::Start(end))?;
    read_zeros(reader, end.next_multiple_of(BLOCK) - end, entry.start)?;
    Ok(end.next_multiple_of(BLOCK))
}

fn read_document(
    reader: &mut (impl Read + Seek),
    entry: &Entry,
    length: u64,
) -> Result<BundleDocument, ArchiveError> {
    if ![SIGNED_NAME, UNSIGNED_NAME].contains(&entry.name.as_str()) {
        return Err(ArchiveError::Entry { name: quoted(&entry.name) });
    }
    if entry.size > MAX_ENVELOPE as u64 {
        return Err(ArchiveError::Size { name: quoted(&entry.name), size: entry.size });
    }
    let bytes = read_bytes(reader, entry.size)?;
    let end = entry.start + entry.size;
    if end.next_multiple_of(BLOCK) + END != length {
        return Err(ArchiveError::Length);
    }
    read_zeros(reader, length - end, entry.start)?;
    BundleDocument::read(&entry.name, &bytes)
}

/// The archive's chunks are exactly the manifest's, each of the length that it says.
fn check_set(document: &BundleDocument, places: &BTreeMap<Digest, (u64, u64)>) -> Result<(), ArchiveError> {
    let wanted = document.blobs();
    if let Some((digest, _)) = wanted.iter().find(|(digest, _)| !places.contains_key(digest)) {
        return Err(ArchiveError::Missing { digest: *digest });
    }
    for (digest, (_, size)) in places {
        match wanted.get(digest) {
            None => return Err(ArchiveError::Surplus { digest: *digest }),
            Some(length) if length != size => {
                return Err(ArchiveError::Size { name: quoted(&blob_path(*digest)), size: *size });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// `size` is bounded by the caller.
fn read_bytes(reader: &mut impl Read, size: u64) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| ArchiveError::Length)?];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// `count`: at most three blocks.
fn read_zeros(reader: &mut impl Read, count: u64, at: u64) -> Result<(), ArchiveError> {
    let bytes = read_bytes(reader, count)?;
    if bytes.iter().any(|byte| *byte != 0) {
        return Err(ArchiveError::Form { at: at - BLOCK });
    }
    Ok(())
}
