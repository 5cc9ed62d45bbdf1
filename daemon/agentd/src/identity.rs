//! Who this device is: its id, its fleet, and a key of its own that is made on the first start and never leaves.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use agentd_bundle::{Identity, KeyFileError, PrivateKey};
use agentd_config::Config;
use agentd_types::{Code, Coded, UnixTime};

/// When this program was built, as far as its version tells; no clock is believed before that. 2026-11-01.
const BUILD: UnixTime = UnixTime(1_793_491_200);

/// The device has no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The file cannot be read or written.
    #[error("the device key `{path}` cannot be read or written")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a key.
    #[error("the device key `{path}` is not a key")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyFileError,
    },
    /// There is no randomness.
    #[error("the system gives no randomness: {0}")]
    Random(getrandom::Error),
}

impl Coded for IdentityError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::File { .. } => "device.key_file",
            Self::Key { .. } => "device.key",
            Self::Random(_) => "device.random",
        })
    }
}

/// The identity of this device; makes its key when there is none.
///
/// # Errors
/// When the key cannot be read or made.
pub(crate) fn load(config: &Config) -> Result<Identity, IdentityError> {
    let path = config.device.state.join("device.key");
    let file = |source| IdentityError::File { path: path.clone(), source };
    let key = match fs::read_to_string(&path) {
        Ok(pem) => PrivateKey::from_pem(&pem, None)
            .map_err(|source| IdentityError::Key { path: path.clone(), source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path)?,
        Err(error) => return Err(file(error)),
    };
    Ok(Identity {
        device: config.device.id.clone(),
        fleet: config.device.fleet.clone(),
        device_key: key.public().to_bytes(),
        build: BUILD,
    })
}

fn make(path: &Path) -> Result<PrivateKey, IdentityError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(IdentityError::Random)?;
    let key = PrivateKey::from_seed(&seed);
    let pem = key.to_pem(None).map_err(|source| IdentityError::Key { path: path.to_owned(), source })?;
    write(path, pem.as_bytes()).map_err(|source| IdentityError::File { path: path.to_owned(), source })?;
    Ok(key)
}

/// Whole or not at all, and readable by nobody else.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let beside = path.with_extension("new");
    drop(fs::remove_file(&beside));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    fs::File::open(folder)?.sync_all()
}
