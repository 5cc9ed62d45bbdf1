//! `bundle export` and `bundle import`: the same bundle as a folder, as one file, or into the daemon of this machine,
//! checked whole on the way.
//!
//! Nothing here proves who signed: a device does when it takes the bundle, and `bundle verify` does here.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use agentd_types::{ByteCount, Digest, ModelName};
use serde::Serialize;

use super::deliver::deliver;
use crate::{
    bundle_file::BundleFile,
    context::Context,
    failure::{Exit, Failure},
};

/// The `bundle export` command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl bundle export digits.agentb /media/stick/digits")]
pub(crate) struct Export {
    /// The bundle: an .agentb file or a folder.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// The folder to write, for example on a USB stick; it must not hold another bundle.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// The `bundle import` command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    agentctl bundle import /media/stick/digits.agentb --documents /media/stick/documents\n  \
    agentctl bundle import /media/stick/digits --output digits.agentb\n\n\
    The daemon takes what a signed order asks for, and proves it as if it came from the broker. `fleet deploy --folder` \
    writes the documents. Without --documents, the folder `documents` beside the bundle is read when it is there.")]
pub(crate) struct Import {
    /// The bundle: a folder, for example on a USB stick, or an .agentb file.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// The folder with the signed documents: trust, catalog, membership, orders.
    #[arg(long, value_name = "FOLDER", conflicts_with = "output")]
    documents: Option<PathBuf>,
    /// How long to wait until the bundle is measured and answers, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, conflicts_with = "output")]
    wait: u64,
    /// Write it as one file instead, and leave the daemon alone.
    #[arg(long, short, value_name = "FILE.agentb")]
    output: Option<PathBuf>,
}

/// What was carried.
#[derive(Debug, Serialize)]
struct Report {
    from: String,
    to: String,
    name: ModelName,
    version: u64,
    sha256: Digest,
    signatures: usize,
    bytes: u64,
    chunks: usize,
}

pub(crate) fn export(args: Export, context: &Context) -> Result<Exit, Failure> {
    let mut bundle = open_checked(&args.bundle, context)?;
    let what = format!("cannot write `{}`", args.folder.display());
    if let Ok(held) = BundleFile::open(&args.folder)
        && held.document().envelope().digest() != bundle.document().envelope().digest()
    {
        let manifest = held.document().manifest();
        return Err(Failure::new(what)
            .cause(format!("the folder holds another bundle, {} {}", manifest.name, manifest.version))
            .hint("choose another folder"));
    }
    bundle.write_folder(&args.folder).map_err(|error| Failure::new(what).because(&error))?;
    tell(&args.bundle, &args.folder, &bundle, context);
    Ok(Exit::Done)
}

pub(crate) fn import(args: Import, context: &Context) -> Result<Exit, Failure> {
    let mut bundle = open_checked(&args.bundle, context)?;
    let document = bundle.document().clone();
    let Some(output) = args.output else {
        let beside = args.bundle.with_file_name("documents");
        let folder = args.documents.or_else(|| Some(beside).filter(|beside| beside.is_dir()));
        let report = deliver(&mut bundle, folder.as_deref(), Duration::from_secs(args.wait), context)?;
        let ui = context.ui();
        ui.result(&report, || report.lines().into_iter().for_each(|line| ui.line(line)));
        return Ok(Exit::Done);
    };
    let what = format!("cannot write `{}`", output.display());
    if fs::symlink_metadata(&output).is_ok() {
        return Err(Failure::new(what).cause("it is there already").hint("choose another --output"));
    }
    bundle.write_archive(&output, &document).map_err(|error| Failure::new(what).because(&error))?;
    tell(&args.bundle, &output, &bundle, context);
    Ok(Exit::Done)
}

/// Opens a bundle and holds every byte of it against its manifest.
fn open_checked(path: &Path, context: &Context) -> Result<BundleFile, Failure> {
    let failure = |error| Failure::new(format!("cannot read `{}`", path.display())).coded(&error);
    let mut bundle = BundleFile::open(path).map_err(failure)?;
    let spinner = context.ui().spinner("checking");
    let checked = bundle.check_content();
    spinner.finish_and_clear();
    checked.map_err(failure)?;
    Ok(bundle)
}

fn tell(from: &Path, to: &Path, bundle: &BundleFile, context: &Context) {
    let document = bundle.document();
    let manifest = document.manifest();
    let report = Report {
        from: from.display().to_string(),
        to: to.display().to_string(),
        name: manifest.name.clone(),
        version: manifest.version,
        sha256: document.envelope().digest(),
        signatures: document.envelope().signatures().len(),
        bytes: manifest.total_size(),
        chunks: document.blobs().len(),
    };
    let ui = context.ui();
    ui.result(&report, || ui.line(report.line()));
    if report.signatures == 0 {
        ui.note("nobody has signed it yet, so no device takes it");
    }
}

impl Report {
    fn line(&self) -> String {
        let Self { to, name, version, signatures, .. } = self;
        let signed = match signatures {
            1 => "1 signature".to_owned(),
            n => format!("{n} signatures"),
        };
        format!(
            "{name} {version}   {} in {} chunks, whole   {signed}   -> {to}",
            ByteCount(self.bytes),
            self.chunks
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_reads_like_this() {
        let report = Report {
            from: "digits.agentb".into(),
            to: "/media/stick/digits".into(),
            name: "demo/digits".parse().unwrap(),
            version: 2,
            sha256: Digest::of(b"payload"),
            signatures: 2,
            bytes: 119_000,
            chunks: 9,
        };
        insta::assert_snapshot!(report.line());
    }
}
