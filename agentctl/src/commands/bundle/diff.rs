//! `bundle diff`: what changed between two versions, and what a device with the old one fetches.

use std::path::{Path, PathBuf};

use agentd_bundle::{BundleDiff, Change, TensorDiff, diff_manifests, diff_tensors};
use agentd_types::{ByteCount, ModelName};
use serde::Serialize;

use super::text::plural;
use crate::{
    bundle_file::BundleFile,
    context::Context,
    failure::{Exit, Failure},
    ui::{Align, Ui, render_table},
};

/// Names of tensors that are printed; the rest is counted.
const SHOWN: usize = 4;

/// The `bundle diff` command.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl bundle diff digits-1.agentb digits-2.agentb")]
pub(crate) struct Args {
    /// The version that devices have: an .agentb file or a folder.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The version that they shall get.
    #[arg(value_name = "NEW")]
    new: PathBuf,
}

#[derive(Debug, Serialize)]
struct Version {
    name: ModelName,
    version: u64,
    sha256: agentd_types::Digest,
}

#[derive(Debug, Serialize)]
struct Report {
    old: Version,
    new: Version,
    #[serde(flatten)]
    bundle: BundleDiff,
    /// What became of the model's tensors; nothing when the model stayed as it was.
    tensors: Option<TensorDiff>,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let (mut old, mut new) = (open(&args.old)?, open(&args.new)?);
    let bundle = diff_manifests(old.document().manifest(), new.document().manifest());
    let entry = new.document().manifest().model.entry.clone();
    let changed = bundle.files.iter().any(|file| file.path == entry && file.change == Change::Changed);
    let tensors = if changed {
        let what = || format!("cannot compare the tensors of `{entry}`");
        let read =
            |file: &mut BundleFile| file.file(&entry).map_err(|error| Failure::new(what()).coded(&error));
        let (old, new) = (read(&mut old)?, read(&mut new)?);
        Some(diff_tensors(&old, &new).map_err(|error| Failure::new(what()).coded(&error))?)
    } else {
        None
    };
    let report = Report { old: version(&old), new: version(&new), bundle, tensors };
    let ui = context.ui();
    ui.result(&report, || report.print(ui));
    Ok(Exit::Done)
}

fn open(path: &Path) -> Result<BundleFile, Failure> {
    BundleFile::open(path)
        .map_err(|error| Failure::new(format!("cannot read `{}`", path.display())).coded(&error))
}

fn version(file: &BundleFile) -> Version {
    let document = file.document();
    let manifest = document.manifest();
    Version { name: manifest.name.clone(), version: manifest.version, sha256: document.envelope().digest() }
}

impl Report {
    fn print(&self, ui: Ui) {
        self.text().lines().for_each(|line| ui.line(line));
    }

    fn text(&self) -> String {
        let rows = self.bundle.files.iter().filter(|file| file.change != Change::Same).map(|file| {
            let change = match file.change {
                Change::Added => "new",
                Change::Removed => "gone",
                Change::Changed | Change::Same => "changed",
            };
            vec![
                file.path.clone(),
                change.to_owned(),
                ByteCount(file.size).to_string(),
                format!("{} of {}", file.fetch_chunks, file.chunks),
                ByteCount(file.fetch_bytes).to_string(),
            ]
        });
        let rows: Vec<_> = rows.collect();
        let same = self.bundle.files.len() - rows.len();
        let mut text = if self.old.name == self.new.name {
            format!("{} {} -> {}\n", self.old.name, self.old.version, self.new.version)
        } else {
            format!("{} {} -> {} {}\n", self.old.name, self.old.version, self.new.name, self.new.version)
        };
        if !rows.is_empty() {
            let headings = [
                ("FILE", Align::Left),
                ("CHANGE", Align::Left),
                ("SIZE", Align::Right),
                ("NEW CHUNKS", Align::Right),
                ("TO FETCH", Align::Right),
            ];
            text.push_str(&render_table(&headings, rows));
        }
        if same > 0 {
            text.push_str(&format!("{} unchanged\n", plural(same, "file")));
        }
        if let Some(tensors) = &self.tensors {
            text.push_str(&tensor_lines(tensors));
        }
        text.push_str(&format!(
            "a device on version {} fetches {} of {}\n",
            self.old.version,
            ByteCount(self.bundle.fetch_bytes),
            ByteCount(self.bundle.total_bytes)
        ));
        text
    }
}

fn tensor_lines(tensors: &TensorDiff) -> String {
    let mut text = format!(
        "{} of {} tensors changed{}\n",
        tensors.changed.len(),
        tensors.total,
        names(&tensors.changed)
    );
    for (list, word) in [(&tensors.added, "new"), (&tensors.removed, "gone")] {
        if !list.is_empty() {
            text.push_str(&format!("{} {word}{}\n", plural(list.len(), "tensor"), names(list)));
        }
    }
    text
}

/// ` (a, b, c and 12 more)`; names come from a file, so nothing in them may steer a terminal.
fn names(list: &[String]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = list.iter().take(SHOWN).map(|name| name.escape_debug().to_string()).collect();
    let more = list.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(" ({}{more})", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use agentd_bundle::FileDiff;
    use agentd_types::Digest;

    use super::*;

    #[test]
    fn the_report_reads_like_this() {
        let file = |path: &str, change, size, fetch_bytes, fetch_chunks, chunks| FileDiff {
            path: path.into(),
            change,
            size,
            fetch_bytes,
            fetch_chunks,
            chunks,
        };
        let version = |version| Version {
            name: "inspect/crack".parse().unwrap(),
            version,
            sha256: Digest::of(b"payload"),
        };
        let report = Report {
            old: version(7),
            new: version(8),
            bundle: BundleDiff {
                files: vec![
                    file("LICENCE.txt", Change::Same, 1_000, 0, 0, 1),
                    file("labels.txt", Change::Added, 900, 900, 1, 1),
                    file("model.onnx", Change::Changed, 11_300_000, 48_000, 1, 164),
                ],
                fetch_bytes: 48_900,
                total_bytes: 11_301_900,
            },
            tensors: Some(TensorDiff {
                total: 164,
                changed: ["a.bias", "a.weight", "b.bias", "b.weight", "c.bias"].map(str::to_owned).to_vec(),
                added: Vec::new(),
                removed: vec!["old\u{1b}[31m".into()],
            }),
        };
        insta::assert_snapshot!(report.text());
    }
}
