//! `fleet publish`: signed bundles into a block store.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use agentd_link::FolderSource;
use agentd_types::{ByteCount, Digest, ModelName};
use serde::Serialize;

use crate::{
    bundle_file::{BundleFile, write_whole},
    context::Context,
    failure::{Exit, Failure},
};

/// Options of `fleet publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl fleet publish crack.agentb --store /srv/agentd-blocks\n\n\
    Chunks that the store has already are not written again. Serve it with `agentctl fleet serve`.")]
pub(crate) struct Args {
    /// The bundles: .agentb files or folders.
    #[arg(value_name = "BUNDLE", required = true)]
    bundles: Vec<PathBuf>,
    /// The folder of the store; made when it is missing.
    #[arg(long, value_name = "FOLDER", env = "AGENTCTL_STORE")]
    store: PathBuf,
}

/// What was put where.
#[derive(Debug, Serialize)]
struct Published {
    name: ModelName,
    version: u64,
    sha256: Digest,
    chunks: usize,
    new_chunks: usize,
    bytes: ByteCount,
    new_bytes: ByteCount,
}

#[derive(Debug, Serialize)]
struct Report {
    store: PathBuf,
    bundles: Vec<Published>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let store = FolderSource::new(&args.store);
    let bundles = args.bundles.iter().map(|path| publish(path, &store, context)).collect::<Result<_, _>>()?;
    let report = Report { store: args.store.clone(), bundles };
    let ui = context.ui();
    ui.result(&report, || {
        for published in &report.bundles {
            ui.line(published.line());
        }
    });
    ui.note(format!("next: agentctl fleet serve --store {}", args.store.display()));
    Ok(Exit::Done)
}

fn publish(path: &Path, store: &FolderSource, context: &Context) -> Result<Published, Failure> {
    let what = format!("cannot publish `{}`", path.display());
    let mut bundle = BundleFile::open(path).map_err(|error| Failure::new(&what).coded(&error))?;
    if !bundle.document().is_signed() {
        return Err(Failure::new(&what)
            .cause("nobody has signed it, so no device would take it")
            .hint(format!("agentctl bundle sign {} --key KEY.pem", path.display()))
            .exit_with(Exit::Refused));
    }
    bundle.check_content().map_err(|error| Failure::new(&what).coded(&error))?;
    let document = bundle.document().clone();
    let manifest = document.manifest();
    let blobs = document.blobs();
    let mut published = Published {
        name: manifest.name.clone(),
        version: manifest.version,
        sha256: document.envelope().digest(),
        chunks: blobs.len(),
        new_chunks: 0,
        bytes: blobs.values().map(|length| ByteCount(*length)).sum(),
        new_bytes: ByteCount(0),
    };
    let bar = context.ui().progress(published.bytes.0, "publishing");
    for (digest, length) in blobs {
        let place = store.chunk_path(digest);
        let held = fs::metadata(&place).is_ok_and(|held| held.is_file() && held.len() == length);
        if !held {
            let bytes = bundle.blob(digest).map_err(|error| Failure::new(&what).coded(&error))?;
            write_whole(&place, |out| out.write_all(&bytes))
                .map_err(|error| Failure::new(&what).because(&error))?;
            published.new_chunks += 1;
            published.new_bytes.0 += length;
        }
        bar.inc(length);
    }
    // The manifest comes last: what a device can ask for is whole.
    let bytes = document.to_bytes();
    write_whole(&store.manifest_path(published.sha256), |out| out.write_all(&bytes))
        .map_err(|error| Failure::new(&what).because(&error))?;
    bar.finish_and_clear();
    Ok(published)
}

impl Published {
    fn line(&self) -> String {
        let Self { name, version, sha256, chunks, new_chunks, bytes, new_bytes } = self;
        let short = sha256.short();
        format!(
            "{name} {version}   {short}   {bytes} in {chunks} chunks, {new_bytes} in {new_chunks} of them new"
        )
    }
}
