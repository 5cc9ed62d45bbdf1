//! Reads the small text files in which Linux describes a machine.
//!
//! In: paths below a root folder. Out: their text. Refuses to read more than a megabyte of any of them.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    str::FromStr,
};

/// No file of `/proc` or `/sys` that we read comes near this; 512 processors make 0.7 MB of `/proc/cpuinfo`.
const MAX_BYTES: u64 = 1 << 20;
/// No folder of `/sys` that we list comes near this.
const MAX_ENTRIES: usize = 4_096;

/// The folder that holds `proc` and `sys`: `/`, or a tree of files in a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// The machine itself.
    pub fn system() -> Self {
        Self::at("/")
    }

    /// Another folder that holds `proc` and `sys`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where `path`, given relative to the root, lies.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.join(path)
    }

    /// The text of a file without white space and zero bytes around it; `None` when it is absent, unreadable or
    /// empty.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.path(path)).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The file's text as a value.
    pub(crate) fn value<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The names in a folder, sorted; empty when it is absent.
    pub(crate) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else { return Vec::new() };
        let names =
            entries.flatten().take(MAX_ENTRIES).filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names
    }
}

/// A tree of files for tests.
#[cfg(test)]
pub(crate) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let root = Root::at(folder.path());
    (folder, root)
}
