//! The list of files and their chunks.

use agentd_types::Digest;
use agentd_wire::{Chunk, FileEntry};

use super::super::path::{check_path, check_unique};
use crate::{Cause, Reject, fields::Fields, json::Value, reject::quoted};

/// Most files of a bundle.
pub const MAX_FILES: usize = 4_096;
/// Most bytes of all files: 1 TiB.
pub const MAX_TOTAL_SIZE: u64 = 1 << 40;
/// Most chunks of a bundle.
pub const MAX_CHUNKS: usize = 65_536;
/// Longest chunk: 4 MiB.
pub const MAX_CHUNK: u64 = 4 << 20;

/// Reads `files`: `files`, `path`, `chunks`, `canonical`.
pub(super) fn read_files(fields: &Fields<'_>) -> Result<Vec<FileEntry>, Reject> {
    let refuse = |why: String| Reject::new(Cause::Files, why);
    let Value::List(items) = fields.get("files")? else {
        return Err(refuse("`files` is not a list".into()));
    };
    if items.len() > MAX_FILES {
        return Err(refuse(format!("the bundle has {} files, at most {MAX_FILES} are allowed", items.len())));
    }
    let (mut files, mut total, mut chunks) = (Vec::with_capacity(items.len()), 0_u64, 0_usize);
    for item in items {
        let entry = Entry::of(item)?;
        check_path(entry.path)?;
        total = total.saturating_add(entry.size);
        if total > MAX_TOTAL_SIZE {
            return Err(refuse("the files have more than 1 TiB in all".into()));
        }
        let file = entry.with_chunks()?;
        chunks += file.chunks.len();
        if chunks > MAX_CHUNKS {
            let message = format!("the bundle has more than {MAX_CHUNKS} chunks");
            return Err(Reject::new(Cause::Chunks, message));
        }
        files.push(file);
    }
    check_order(&files)?;
    check_unique(files.iter().map(|file| file.path.as_str()))?;
    Ok(files)
}

fn check_order(files: &[FileEntry]) -> Result<(), Reject> {
    match files.windows(2).find(|pair| matches!(pair, [left, right] if left.path > right.path)) {
        Some([left, right]) => Err(Reject::new(
            Cause::Canonical,
            format!("the files are not sorted: {} stands before {}", quoted(&left.path), quoted(&right.path)),
        )),
        _ => Ok(()),
    }
}

/// An entry whose chunks are not read yet.
struct Entry<'a> {
    path: &'a str,
    size: u64,
    sha256: Digest,
    chunks: &'a Value,
}

impl<'a> Entry<'a> {
    fn of(value: &'a Value) -> Result<Self, Reject> {
        let fields = Fields::of(value, Cause::Files, "an entry of `files`")?;
        fields.only(&["path", "size", "sha256", "chunks"])?;
        Ok(Self {
            path: fields.text("path")?,
            size: fields.count("size", 0)?,
            sha256: fields.parsed("sha256", "64 lower-case hexadecimal digits")?,
            chunks: fields.get("chunks")?,
        })
    }

    fn with_chunks(self) -> Result<FileEntry, Reject> {
        let refuse = |why: &str| Reject::new(Cause::Chunks, format!("the file {} {why}", quoted(self.path)));
        let malformed = || refuse("has a chunk that is not a length from 1 byte to 4 MiB and a digest");
        let Value::List(items) = self.chunks else {
            return Err(refuse("has no list of chunks"));
        };
        if items.len() > MAX_CHUNKS {
            return Err(refuse(&format!("has {} chunks, at most {MAX_CHUNKS} are allowed", items.len())));
        }
        let chunks: Vec<_> = items.iter().map(read_chunk).collect::<Option<_>>().ok_or_else(malformed)?;
        let sum: u64 = chunks.iter().map(|chunk| chunk.0).sum();
        if sum != self.size {
            return Err(refuse(&format!("has {} bytes, but its chunks have {sum}", self.size)));
        }
        Ok(FileEntry { path: self.path.to_owned(), size: self.size, sha256: self.sha256, chunks })
    }
}

fn read_chunk(value: &Value) -> Option<Chunk> {
    match value {
        Value::List(pair) => match pair.as_slice() {
            [Value::Int(length), Value::Text(digest)] => {
                let length = u64::try_from(*length).ok().filter(|length| (1..=MAX_CHUNK).contains(length))?;
                Some(Chunk(length, digest.parse().ok()?))
            }
            _ => None,
        },
        _ => None,
    }
}
