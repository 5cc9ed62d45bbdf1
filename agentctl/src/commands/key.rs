//! `key generate` and `key show`: signing keys as files.

pub(crate) mod files;

use std::path::PathBuf;

use agentd_bundle::{KeyFileSalt, PrivateKey, PublicKey};
use serde::Serialize;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};
use files::Passphrase;

/// The `key` commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a key: NAME.pem, which signs and stays with you, and NAME.pub, which others may have.
    #[command(after_help = "Examples:\n  agentctl key generate root-1 --ask\n  \
        openssl pkey -in root-1.pem -noout -text        (both files are plain PKCS#8 and SPKI PEM)")]
    Generate {
        /// The key's name, such as `root-1`.
        #[arg(value_name = "NAME")]
        name: String,
        /// Where to write both files.
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        folder: PathBuf,
        /// Protect the private key with a passphrase that is asked for.
        #[arg(long, conflicts_with = "passphrase_file")]
        ask: bool,
        /// Protect the private key with the passphrase in the first line of a file.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Show the id and the public half of a key.
    #[command(after_help = "Example:\n  agentctl key show root-1.pub")]
    Show {
        /// A public or private key file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Read the passphrase from the first line of a file instead of asking.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
}

/// A key for people and programs; never its private half.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    id: String,
    public: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_file: Option<PathBuf>,
    public_file: Option<PathBuf>,
    protected: Option<bool>,
}

pub(crate) fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    let report = match command {
        Command::Generate { name, folder, ask, passphrase_file } => {
            let passphrase = match passphrase_file {
                Some(file) => Some(Passphrase::from_file(&file)?),
                None if ask => Some(Passphrase::ask_for_new(&name)?),
                None => None,
            };
            generate(name, &folder, passphrase)?
        }
        Command::Show { file, passphrase_file } => {
            let key = files::read_public_half(&file, passphrase_file.as_deref())?;
            Report::of(files::stem(&file), &key)
        }
    };
    let ui = context.ui();
    if report.protected == Some(false) {
        ui.note("the private key has no passphrase: whoever reads the file can sign (see --ask)");
    }
    ui.result(&report, || {
        for line in report.lines() {
            ui.line(line);
        }
    });
    Ok(Exit::Done)
}

fn generate(
    name: String,
    folder: &std::path::Path,
    passphrase: Option<Passphrase>,
) -> Result<Report, Failure> {
    let what = format!("cannot make the key `{name}`");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with(['.', '-']) || !name.chars().all(plain) {
        return Err(Failure::new(what)
            .cause("a key's name has letters, digits, `-`, `_` and `.` only")
            .exit_with(Exit::Usage));
    }
    let mut random = [0_u8; 64];
    getrandom::fill(&mut random).map_err(|error| Failure::new(&what).because(&error))?;
    let ([seed, rest], _) = random.as_chunks::<32>() else {
        return Err(Failure::new(what).exit_with(Exit::Defect));
    };
    let ([salt, iv], _) = rest.as_chunks::<16>() else {
        return Err(Failure::new(what).exit_with(Exit::Defect));
    };
    let key = PrivateKey::from_seed(seed);
    let protection = passphrase.as_ref().map(|text| (text.as_str(), KeyFileSalt { salt: *salt, iv: *iv }));
    let pem = key.to_pem(protection).map_err(|error| Failure::new(&what).coded(&error))?;
    let public = key.public().to_pem().map_err(|error| Failure::new(&what).coded(&error))?;
    let (private_file, public_file) =
        (folder.join(format!("{name}.pem")), folder.join(format!("{name}.pub")));
    files::write_new(&private_file, pem.as_bytes(), 0o600)?;
    files::write_new(&public_file, public.as_bytes(), 0o644)?;
    Ok(Report {
        private_file: Some(private_file),
        public_file: Some(public_file),
        protected: Some(passphrase.is_some()),
        ..Report::of(name, &key.public())
    })
}

impl Report {
    fn of(name: String, key: &PublicKey) -> Self {
        Self {
            name,
            id: key.id().to_string(),
            public: key.to_hex(),
            private_file: None,
            public_file: None,
            protected: None,
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("key {}", self.name),
            format!("  id       {}", self.id),
            format!("  public   {}", self.public),
        ];
        if let Some(file) = &self.private_file {
            let protected =
                if self.protected == Some(true) { "with a passphrase" } else { "without a passphrase" };
            lines.push(format!(
                "  signs    {} (mode 600, {protected}): keep it off devices and servers",
                file.display()
            ));
        }
        if let Some(file) = &self.public_file {
            lines.push(format!("  give     {} to whoever makes the trust document", file.display()));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_reads_like_this() {
        let key = PrivateKey::from_seed(&[1; 32]).public();
        let report = Report {
            private_file: Some("root-1.pem".into()),
            public_file: Some("root-1.pub".into()),
            protected: Some(true),
            ..Report::of("root-1".into(), &key)
        };
        insta::assert_snapshot!(report.lines().join("\n"), @r#"
key root-1
  id       7ab6b86cb2c9684b0ddc10896153aa2595decf4d4327a5ff1a8ab7422c828b12
  public   8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c
  signs    root-1.pem (mode 600, with a passphrase): keep it off devices and servers
  give     root-1.pub to whoever makes the trust document
"#);
    }

    #[test]
    fn a_generated_key_is_private_and_reads_back() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        files::write_new(&secret, b"correct horse\n", 0o600).unwrap();
        let passphrase = || Some(Passphrase::from_file(&secret).unwrap());
        let report = generate("root-1".into(), folder.path(), passphrase()).unwrap();
        let private = folder.path().join("root-1.pem");
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
        let half = files::read_public_half(&private, Some(&secret)).unwrap();
        assert_eq!(half.id().to_string(), report.id);
        let public = files::read_public(&folder.path().join("root-1.pub")).unwrap();
        assert_eq!(public.to_hex(), report.public);
        // Nothing is written over.
        generate("root-1".into(), folder.path(), passphrase()).unwrap_err();
        for bad in ["", "../x", "-x", ".x", "a b"] {
            generate(bad.into(), folder.path(), None).unwrap_err();
        }
    }
}
