//! The disk under a folder.
//!
//! In: the folder. Out: a [`Disk`]. Asks the kernel (through sysinfo) and not the tree below a root.

use std::path::{Path, PathBuf};

use agentd_types::ByteCount;
use serde::{Deserialize, Serialize};
use sysinfo::{DiskRefreshKind, Disks};

/// The file system that holds a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its kind, such as `ext4`.
    pub file_system: String,
    /// Its size.
    pub total: ByteCount,
    /// What an ordinary user may still write.
    pub free: ByteCount,
}

impl Disk {
    /// The disk under `folder`; `None` when the folder does not exist or the kernel does not tell.
    pub fn under(folder: &Path) -> Option<Self> {
        let folder = folder.canonicalize().ok()?;
        let asked = DiskRefreshKind::nothing().with_storage();
        let disks = Disks::new_with_refreshed_list_specifics(asked).ok()?;
        let disk = disks
            .iter()
            .filter(|disk| folder.starts_with(disk.mount_point()))
            .max_by_key(|disk| disk.mount_point().components().count())?;
        Some(Self {
            mount: disk.mount_point().to_owned(),
            file_system: disk.file_system().to_string_lossy().into_owned(),
            total: ByteCount(disk.total_space()),
            free: ByteCount(disk.available_space()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lies_on_a_disk_with_less_free_than_total_and_a_missing_one_on_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Disk::under(&folder.path().join("missing")), None);
        let disk = Disk::under(folder.path()).unwrap();
        assert!(folder.path().canonicalize().unwrap().starts_with(&disk.mount), "{disk:?}");
        assert!(disk.free <= disk.total && disk.total > ByteCount::default(), "{disk:?}");
    }
}
