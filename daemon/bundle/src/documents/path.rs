//! Paths inside a bundle: safe on every file system.

use std::collections::BTreeSet;

use crate::{Cause, Reject, reject::quoted};

/// Longest path in bytes.
const MAX_PATH: usize = 255;

/// Names that Windows keeps for devices, with any extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// Checks one path: printable ASCII, relative, `/` between segments, no empty or dot-led segment, no reserved device
/// name, at most 255 bytes.
///
/// # Errors
/// `path`.
pub fn check_path(path: &str) -> Result<(), Reject> {
    let refuse = |why: &str| Err(Reject::new(Cause::Path, format!("the path {} {why}", quoted(path))));
    if path.len() > MAX_PATH {
        return refuse("is longer than 255 bytes");
    }
    if !path.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\') {
        return refuse("has a character that is not printable ASCII, or a backslash");
    }
    for segment in path.split('/') {
        if segment.is_empty() {
            return refuse("is absolute or has an empty segment");
        }
        if segment.starts_with('.') {
            return refuse("has a segment that begins with a dot");
        }
        if is_device(segment) {
            return refuse("has a segment that is a reserved device name");
        }
    }
    Ok(())
}

fn is_device(segment: &str) -> bool {
    let stem = segment.split('.').next().unwrap_or_default().trim_end_matches(' ').to_ascii_lowercase();
    let numbered =
        |prefix: &str| stem.strip_prefix(prefix).is_some_and(|rest| matches!(rest.as_bytes(), [b'1'..=b'9']));
    DEVICES.contains(&stem.as_str()) || numbered("com") || numbered("lpt")
}

/// Checks that paths differ by more than case and that no file is used as a folder.
pub(crate) fn check_unique<'a>(paths: impl Iterator<Item = &'a str>) -> Result<(), Reject> {
    let mut files = BTreeSet::new();
    for path in paths {
        if !files.insert(path.to_ascii_lowercase()) {
            let message = format!("the path {} stands twice, but for case", quoted(path));
            return Err(Reject::new(Cause::Path, message));
        }
    }
    for path in &files {
        let folders = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
        if let Some(folder) = folders.into_iter().find(|folder| files.contains(*folder)) {
            let message = format!("the file {} is used as a folder", quoted(folder));
            return Err(Reject::new(Cause::Path, message));
        }
    }
    Ok(())
}
