//! Codes that more than one operation of this crate uses.

use std::{io, path::PathBuf, sync::Arc};

use agentd_types::{Code, Coded};

use crate::storage::is_full;

/// The code of a refusal by the file system: `store.disk_full` or `store.io`.
pub(crate) fn io_code(error: &io::Error) -> Code {
    if is_full(error) { Code::new("store.disk_full") } else { Code::new("store.io") }
}

/// The disk refused. May be shared by everybody who waited for the same write.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {doing} `{path}`")]
pub struct DiskError {
    /// What was being done, for people: `write`, `sync`, `read`.
    pub doing: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the file system says.
    pub source: Arc<io::Error>,
}

impl DiskError {
    pub(crate) fn at(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { doing, path, source: Arc::new(source) }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

impl Coded for DiskError {
    fn code(&self) -> Code {
        io_code(&self.source)
    }

    fn is_transient(&self) -> bool {
        true
    }
}
