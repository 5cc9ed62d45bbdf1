//! Key files and passphrases. A passphrase is typed or read from a file, never taken from the command line.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use agentd_bundle::{KeyFileError, PrivateKey, PublicKey};
use agentd_types::KeyId;

use crate::failure::{Exit, Failure};

/// No key file or passphrase is longer.
const MAX_FILE: u64 = 16 << 10;

/// Private keys that sign what a command makes.
#[derive(Debug, clap::Args)]
pub(crate) struct Signers {
    /// A private key that signs; once for each key.
    #[arg(long = "key", short = 'k', value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// Read the passphrase of the keys from the first line of a file instead of asking.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Signers {
    /// Reads the keys, asking for passphrases where they are needed.
    pub(crate) fn read(&self) -> Result<Vec<PrivateKey>, Failure> {
        self.keys.iter().map(|file| read_private(file, self.passphrase_file.as_deref())).collect()
    }
}

/// A passphrase; shows itself to nobody.
pub(crate) struct Passphrase(String);

impl Passphrase {
    /// The first line of a file.
    pub(crate) fn from_file(path: &Path) -> Result<Self, Failure> {
        let text = read_text(path)?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Self(line.to_owned())),
            _ => {
                Err(Failure::new(format!("cannot use `{}`", path.display())).cause("its first line is empty"))
            }
        }
    }

    /// Asks twice.
    pub(crate) fn ask_for_new(key: &str) -> Result<Self, Failure> {
        let first = ask(&format!("new passphrase for {key}: "))?;
        let second = ask("the same again: ")?;
        let refuse = |cause| Err(Failure::new("no passphrase was set").cause(cause).exit_with(Exit::Usage));
        match first {
            _ if first != second => refuse("the two are not the same"),
            text if text.is_empty() => refuse("it is empty"),
            text => Ok(Self(text)),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

fn ask(prompt: &str) -> Result<String, Failure> {
    rpassword::prompt_password(prompt).map_err(|error| {
        Failure::new("cannot ask for the passphrase").because(&error).hint("use --passphrase-file FILE")
    })
}

/// Reads a private key; asks for its passphrase when it has one and no file gives it.
pub(crate) fn read_private(path: &Path, passphrase_file: Option<&Path>) -> Result<PrivateKey, Failure> {
    let what = || format!("cannot use the private key `{}`", path.display());
    let mode = fs::metadata(path).map_err(|error| Failure::new(what()).because(&error))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Failure::new(what())
            .cause(format!("others may read it: its mode is {:o}", mode & 0o777))
            .hint(format!("chmod 600 {}", path.display()))
            .exit_with(Exit::Refused));
    }
    let pem = read_text(path)?;
    let passphrase = match passphrase_file {
        _ if !PrivateKey::is_encrypted(&pem) => None,
        Some(file) => Some(Passphrase::from_file(file)?),
        None => Some(Passphrase(ask(&format!("passphrase for {}: ", path.display()))?)),
    };
    PrivateKey::from_pem(&pem, passphrase.as_ref().map(Passphrase::as_str)).map_err(|error| {
        let failure = Failure::new(what()).coded(&error);
        match error {
            KeyFileError::WrongPassphrase => failure.exit_with(Exit::Refused),
            _ => failure.hint("make one with `agentctl key generate NAME`"),
        }
    })
}

/// Reads a public key: PEM, or 64 hexadecimal digits.
pub(crate) fn read_public(path: &Path) -> Result<PublicKey, Failure> {
    let text = read_text(path)?;
    public_from(&text).map_err(|reject| {
        Failure::new(format!("cannot use the public key `{}`", path.display()))
            .coded(&reject)
            .hint("give the .pub file that `agentctl key generate` wrote")
    })
}

/// The public half of a public or private key file.
pub(crate) fn read_public_half(path: &Path, passphrase_file: Option<&Path>) -> Result<PublicKey, Failure> {
    if read_text(path)?.contains("PRIVATE KEY") {
        read_private(path, passphrase_file).map(|key| key.public())
    } else {
        read_public(path)
    }
}

fn public_from(text: &str) -> Result<PublicKey, agentd_bundle::Reject> {
    if text.contains("-----BEGIN") { PublicKey::from_pem(text) } else { PublicKey::from_hex(text.trim()) }
}

/// The id of a key that is named by a public key file or by its id.
pub(crate) fn key_id(text: &str) -> Result<KeyId, Failure> {
    match text.parse() {
        Ok(id) => Ok(id),
        Err(_) => read_public(Path::new(text)).map(|key| key.id()),
    }
}

/// The names of keys, from the `.pub` files of a folder.
#[derive(Debug, Default)]
pub(crate) struct KeyNames(BTreeMap<KeyId, String>);

impl KeyNames {
    /// Reads the folder of `file`; what is no key is passed over, since names are only for people.
    pub(crate) fn beside(file: &Path) -> Self {
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let entries = fs::read_dir(folder).into_iter().flatten().take(4_096).flatten();
        let named = entries.filter_map(|entry| {
            let path = entry.path();
            let key = path
                .extension()
                .filter(|extension| *extension == "pub")
                .and_then(|_| read_public(&path).ok())?;
            Some((key.id(), stem(&path)))
        });
        Self(named.collect())
    }

    /// The name of a key, or the start of its id.
    pub(crate) fn of(&self, id: &KeyId) -> String {
        self.0.get(id).cloned().unwrap_or_else(|| id.0.short())
    }

    /// The names of keys, joined by `, `; `-` for none.
    pub(crate) fn list<'a>(&self, ids: impl IntoIterator<Item = &'a KeyId>) -> String {
        let names: Vec<_> = ids.into_iter().map(|id| self.of(id)).collect();
        if names.is_empty() { "-".into() } else { names.join(", ") }
    }
}

/// A file's name without its folder and extension.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_text(path: &Path) -> Result<String, Failure> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_FILE {
            Err(io::Error::other("it is too long for a key"))
        } else {
            Ok(text)
        }
    };
    read().map_err(|error| Failure::new(format!("cannot read `{}`", path.display())).because(&error))
}

/// Writes a file that must not be there yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| {
        let failure = Failure::new(format!("cannot write `{}`", path.display())).because(&error);
        if error.kind() == io::ErrorKind::AlreadyExists {
            failure.hint("choose another name, or move the old file away first")
        } else {
            failure
        }
    })
}
