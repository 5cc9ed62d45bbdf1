//! Where the worker program lies.

use std::{
    env, io,
    path::{Path, PathBuf},
};

/// The file name of the worker program.
const NAME: &str = "agentd-worker";

/// The worker program, `agentd-worker`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its absolute path.
    pub path: PathBuf,
}

impl Program {
    /// A worker program at a path that is known.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Finds the worker program that belongs to the running one: in the same folder, in Cargo's output folder when
    /// a test or an example runs, or in `../libexec/agentd` and `../lib/agentd` of an installation.
    ///
    /// # Errors
    /// When the path of the running program is unknown, or no worker program lies in any of these folders; the
    /// message names them.
    pub fn find() -> io::Result<Self> {
        let current = env::current_exe()?;
        let folders = folders(&current);
        let found = folders.iter().map(|folder| folder.join(NAME)).find(|path| path.is_file());
        found.map(Self::at).ok_or_else(|| {
            let tried: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let message = format!("no {NAME} in {}", tried.join(", "));
            io::Error::new(io::ErrorKind::NotFound, message)
        })
    }
}

fn folders(current: &Path) -> Vec<PathBuf> {
    let Some(own) = current.parent() else { return Vec::new() };
    let mut folders = vec![own.to_owned()];
    if let Some(parent) = own.parent() {
        if own.ends_with("deps") || own.ends_with("examples") {
            folders.push(parent.to_owned());
        }
        folders.push(parent.join("libexec/agentd"));
        folders.push(parent.join("lib/agentd"));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_daemon_looks_beside_itself_first_and_then_in_libexec() {
        let got = folders(Path::new("/usr/bin/agentd"));
        let want = ["/usr/bin", "/usr/libexec/agentd", "/usr/lib/agentd"].map(PathBuf::from);
        assert_eq!(got, want);
        assert!(folders(Path::new("/t/debug/deps/x-1")).contains(&PathBuf::from("/t/debug")));
    }
}
