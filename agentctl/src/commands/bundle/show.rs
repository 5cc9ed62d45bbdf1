//! `bundle show`: what stands in a bundle's manifest. Proves nothing.

use std::path::PathBuf;

use agentd_bundle::archive::BundleDocument;
use agentd_types::{ByteCount, Digest, TensorSpec};
use agentd_wire::Manifest;
use serde::Serialize;

use crate::{
    bundle_file::BundleFile,
    context::Context,
    failure::{Exit, Failure},
    ui::{Align, render_table},
};

/// Options of `bundle show`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agentctl bundle show crack.agentb\n\nWhether it is genuine is said by `agentctl bundle verify`."
)]
pub(crate) struct Args {
    /// The bundle: an .agentb file or a folder.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
}

/// A bundle's manifest and who claims to have signed it.
#[derive(Debug, Serialize)]
struct Report<'a> {
    manifest: &'a Manifest,
    sha256: Digest,
    signed_by: Vec<&'a str>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let bundle = BundleFile::open(&args.bundle)
        .map_err(|error| Failure::new(format!("cannot read `{}`", args.bundle.display())).coded(&error))?;
    let report = Report::of(bundle.document());
    let ui = context.ui();
    ui.result(&report, || {
        for line in report.text().lines() {
            ui.line(line);
        }
    });
    Ok(Exit::Done)
}

impl<'a> Report<'a> {
    fn of(document: &'a BundleDocument) -> Self {
        let envelope = document.envelope();
        Self {
            manifest: document.manifest(),
            sha256: envelope.digest(),
            signed_by: envelope.signatures().iter().map(|signature| signature.keyid.as_str()).collect(),
        }
    }

    fn text(&self) -> String {
        let manifest = self.manifest;
        let fleet = if manifest.fleet == "*" { "any fleet" } else { &manifest.fleet };
        let signed: Vec<_> = self.signed_by.iter().map(|id| id.chars().take(8).collect::<String>()).collect();
        let signed = if signed.is_empty() {
            "by nobody yet".to_owned()
        } else {
            format!("by {} (not checked)", signed.join(", "))
        };
        let engines: Vec<_> = manifest.requires.any_of.iter().map(|engine| engine.as_str()).collect();
        let (vectors, licence) = (manifest.golden.len(), &manifest.licence);
        let mut text = format!("{} {}   for {fleet}\n", manifest.name, manifest.version);
        let mut row = |label: &str, value: String| text.push_str(&format!("  {label:<9}{value}\n"));
        row("sha256", self.sha256.to_string());
        row("signed", signed);
        row("made", format!("{}, until {}", manifest.created, manifest.expires));
        row("model", format!("{} ({})", manifest.model.entry, manifest.model.format));
        row("inputs", tensors(&manifest.model.inputs));
        row("outputs", tensors(&manifest.model.outputs));
        row("golden", format!("{vectors} vector{}", if vectors == 1 { "" } else { "s" }));
        row("needs", format!("{} MiB, one of {}", manifest.requires.mem_mib, engines.join(", ")));
        row("licence", format!("{} ({})", licence.spdx, licence.file));
        row("card", manifest.card.clone());
        if let Some(lineage) = &manifest.lineage {
            let (device, depth) = (&lineage.device, lineage.depth);
            row(
                "lineage",
                format!(
                    "made on {device} by {} from {}, depth {depth}",
                    lineage.method,
                    lineage.parent.short()
                ),
            );
        }
        let headings = [
            ("FILE", Align::Left),
            ("SIZE", Align::Right),
            ("CHUNKS", Align::Right),
            ("SHA256", Align::Left),
        ];
        let rows = manifest.files.iter().map(|file| {
            vec![
                file.path.clone(),
                ByteCount(file.size).to_string(),
                file.chunks.len().to_string(),
                file.sha256.short(),
            ]
        });
        text.push('\n');
        text.push_str(&render_table(&headings, rows.collect()));
        text
    }
}

/// `x FP32 [-1, 3]`, with `?` for a free dimension.
fn tensors(specs: &[TensorSpec]) -> String {
    let shown = specs.iter().map(|TensorSpec { name, datatype, shape }| {
        let dims: Vec<_> =
            shape.iter().map(|dim| if *dim < 0 { "?".to_owned() } else { dim.to_string() }).collect();
        format!("{name} {datatype} [{}]", dims.join(", "))
    });
    shown.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use agentd_bundle::Envelope;

    use super::*;

    #[test]
    fn a_manifest_reads_like_this() {
        let case = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/documents/control__good_bundle/02.bundle.json"
        );
        let document = BundleDocument::new(Envelope::read(&std::fs::read(case).unwrap()).unwrap()).unwrap();
        insta::assert_snapshot!(Report::of(&document).text(), @r#"
vision/defect 5   for plant-efa
  sha256   57770c009eea181b87b4d60d6ab5bdd13d8acf2943c36a309476d0f5a5e8de78
  signed   by 0df80999 (not checked)
  made     2027-07-16 01:22:43Z, until 2028-01-12 02:22:43Z
  model    model.onnx (onnx)
  inputs   x FP32 [?, 3, 224, 224]
  outputs  y FP32 [?, 10]
  golden   1 vector
  needs    256 MiB, one of cpu, gpu
  licence  Apache-2.0 (licence.txt)
  card     card.md

FILE                 SIZE  CHUNKS  SHA256
card.md              13 B       1  528fa71b
golden/in0.npy        9 B       1  1459aafb
golden/out0.npy      10 B       1  8df6c9b8
licence.txt          10 B       1  2af71558
model.onnx       48.8 KiB       4  0b54f24b
"#);
    }
}
