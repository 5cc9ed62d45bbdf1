//! `bundle pack`: from a described folder to one `.agentb` file, the same bytes every time.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use agentd_bundle::{Description, Packed, archive::BundleDocument, check_path, pack};
use agentd_engine::read_npy;
use agentd_types::{ByteCount, Code, Digest, ModelName, TensorSpec, chain};
use serde::Serialize;

use super::{
    licence_template,
    text::{count, plural},
};
use crate::{
    bundle_file::{self, BundleFile},
    context::Context,
    failure::{Exit, Failure},
    ui::{Tone, Ui},
};

/// The file that describes a bundle.
pub(super) const DESCRIPTION: &str = "bundle.toml";
/// No file of a bundle that is packed here is larger: 2 GiB, as ONNX itself.
const MAX_FILE: u64 = 2 << 30;

const EXAMPLES: &str = "Examples:\n  \
    agentctl bundle pack digits\n  \
    agentctl bundle pack digits --output release/digits-7.agentb --json";

/// The `bundle pack` command.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The folder with bundle.toml and the files that it names.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Where to write; otherwise beside the folder, with its name.
    #[arg(long, short, value_name = "FILE.agentb")]
    output: Option<PathBuf>,
    /// Write over a bundle that somebody has signed.
    #[arg(long)]
    force: bool,
}

/// What was packed.
#[derive(Debug, Serialize)]
struct Report {
    file: String,
    name: ModelName,
    version: u64,
    sha256: Digest,
    weights: u64,
    bytes: u64,
    chunks: usize,
    files: usize,
    golden: usize,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let what = format!("cannot pack `{}`", args.folder.display());
    let (description, files) = read(&args.folder).map_err(|problem| problem.failure(&what))?;
    let packed = pack(&description, &files).map_err(|error| Failure::new(&what).coded(&error))?;
    check_golden(&description, &files).map_err(|problem| problem.failure(&what))?;
    let output = args.output.unwrap_or_else(|| default_output(&args.folder));
    let document = BundleDocument::unsigned(packed.payload().to_vec())
        .map_err(|error| Failure::new(&what).coded(&error).exit_with(Exit::Defect))?;
    let kept = keeps_signatures(&output, packed.digest());
    match kept {
        Kept::Same => {}
        Kept::Other if !args.force => {
            return Err(Failure::new(&what)
                .cause(format!("`{}` holds another bundle that is signed", output.display()))
                .hint("raise `version` in bundle.toml and choose another --output, or use --force"));
        }
        Kept::Other | Kept::Nothing => {
            let blobs = packed.blobs();
            let blob =
                |digest| blobs.get(&digest).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
            bundle_file::write_archive_file(&output, &document, blob).map_err(|error| {
                Failure::new(&what).because(&error).cause(format!("`{}`: {error}", output.display()))
            })?;
        }
    }
    let report = Report::new(&output, &packed);
    let ui = context.ui();
    ui.result(&report, || report.print(ui));
    remarks(ui, &description, &files, &packed);
    ui.note(if kept == Kept::Same {
        "the file held this very bundle with signatures, which stay".to_owned()
    } else {
        format!("next: agentctl bundle sign {} --key NAME", report.file)
    });
    Ok(Exit::Done)
}

/// Why a folder cannot be packed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) cause: String,
    pub(super) hint: Option<String>,
    pub(super) code: Code,
}

impl Problem {
    fn new(code: &'static str, cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), hint: None, code: Code::new(code) }
    }

    fn failure(self, what: &str) -> Failure {
        self.hint.into_iter().fold(Failure::new(what).cause(self.cause).code(self.code), Failure::hint)
    }
}

/// The description in a folder and the files that it names.
pub(super) fn read(folder: &Path) -> Result<(Description, BTreeMap<String, Vec<u8>>), Problem> {
    let place = folder.join(DESCRIPTION);
    let text = fs::read_to_string(&place).map_err(|error| Problem {
        hint: Some("agentctl bundle init MODEL.onnx writes one".to_owned()),
        ..Problem::new("pack.description", format!("`{}`: {error}", place.display()))
    })?;
    let description = parse(&text)?;
    let mut files = BTreeMap::new();
    for path in description.paths() {
        check_path(path).map_err(|error| Problem::new("verify.path", chain(&error)))?;
        let bytes = bundle_file::read_bounded(&folder.join(path), MAX_FILE).map_err(|error| {
            Problem::new("pack.missing", format!("`{path}`, which bundle.toml names: {}", chain(&error)))
        })?;
        files.insert(path.to_owned(), bytes);
    }
    Ok((description, files))
}

fn parse(text: &str) -> Result<Description, Problem> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Problem::new("pack.description", format!("{DESCRIPTION}:{line}: {}", error.message()))
    })
}

/// Golden vectors must be tensors of the datatypes and shapes that the description states.
fn check_golden(description: &Description, files: &BTreeMap<String, Vec<u8>>) -> Result<(), Problem> {
    for golden in &description.golden {
        let inputs = golden.inputs.iter().map(|pair| (pair, &description.model.inputs));
        let outputs = golden.outputs.iter().map(|pair| (pair, &description.model.outputs));
        for ((name, path), specs) in inputs.chain(outputs) {
            let Some(spec) = specs.iter().find(|spec| spec.name == *name) else { continue };
            check_tensor(spec, files.get(path).map(Vec::as_slice).unwrap_or_default())
                .map_err(|cause| Problem::new("pack.golden", format!("golden vector `{path}` {cause}")))?;
        }
    }
    Ok(())
}

fn check_tensor(spec: &TensorSpec, file: &[u8]) -> Result<(), String> {
    let tensor = read_npy(file).map_err(|error| format!("cannot be read: {}", chain(&error)))?;
    let TensorSpec { name, datatype, shape } = spec;
    if tensor.datatype == *datatype && spec.accepts(&tensor.shape) {
        return Ok(());
    }
    Err(format!("holds {} {:?}, but `{name}` is {datatype} {shape:?}", tensor.datatype, tensor.shape))
}

fn default_output(folder: &Path) -> PathBuf {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().map_or_else(|| "bundle".into(), |name| name.to_string_lossy().into_owned());
    let name = format!("{name}.agentb");
    match folder.file_name() {
        Some(_) => folder.with_file_name(name),
        None => PathBuf::from(name),
    }
}

/// What stands at the place of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Nothing that is signed.
    Nothing,
    /// This bundle with signatures, which stay.
    Same,
    /// Another bundle with signatures.
    Other,
}

fn keeps_signatures(output: &Path, digest: Digest) -> Kept {
    match BundleFile::open(output) {
        Ok(held) if held.document().is_signed() => {
            if held.document().envelope().digest() == digest {
                Kept::Same
            } else {
                Kept::Other
            }
        }
        _ => Kept::Nothing,
    }
}

impl Report {
    fn new(output: &Path, packed: &Packed<'_>) -> Self {
        let manifest = packed.manifest();
        Self {
            file: output.display().to_string(),
            name: manifest.name.clone(),
            version: manifest.version,
            sha256: packed.digest(),
            weights: packed.model().parameters,
            bytes: manifest.total_size(),
            chunks: packed.blobs().len(),
            files: manifest.files.len(),
            golden: manifest.golden.len(),
        }
    }

    fn print(&self, ui: Ui) {
        self.lines().into_iter().for_each(|line| ui.line(line));
    }

    fn lines(&self) -> Vec<String> {
        let Self { file, name, version, sha256, .. } = self;
        vec![
            format!(
                "{name} {version}   {} weights   {} in {}   {}   {}",
                count(self.weights),
                ByteCount(self.bytes),
                plural(self.chunks, "chunk"),
                plural(self.files, "file"),
                plural(self.golden, "golden vector"),
            ),
            format!("wrote {file}   sha256 {sha256}"),
        ]
    }
}

fn remarks(ui: Ui, description: &Description, files: &BTreeMap<String, Vec<u8>>, packed: &Packed<'_>) {
    let warning = ui.paint(Tone::Warning, "note:");
    let unknown = &packed.model().unknown_operators;
    if !unknown.is_empty() {
        ui.note(format!("{warning} operators that no engine is known to run: {}", unknown.join(", ")));
    }
    if files.get(&description.licence.file).is_some_and(|text| licence_template().as_bytes() == text) {
        ui.note(format!(
            "{warning} `{}` is still the template: put the model's licence there",
            description.licence.file
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_a_description_is_told_with_its_line() {
        for (text, want) in [
            ("name = \"demo/digits\"\nversion = \"one\"\n", "bundle.toml:2: invalid type"),
            ("name = \"demo/digits\"\nversion = 1\ncolour = 3\n", "bundle.toml:3: unknown field `colour`"),
            ("name = \"Demo\"\n", "bundle.toml:1: `Demo` is not a model name"),
            ("name = \n", "bundle.toml:1:"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.cause.starts_with(want), "{}", problem.cause);
        }
    }

    #[test]
    fn the_output_lies_beside_the_folder() {
        assert_eq!(default_output(Path::new("models/digits")), Path::new("models/digits.agentb"));
        assert_eq!(default_output(Path::new("digits/")), Path::new("digits.agentb"));
    }

    #[test]
    fn the_report_reads_like_this() {
        let report = Report {
            file: "digits.agentb".into(),
            name: "demo/digits".parse().unwrap(),
            version: 1,
            sha256: Digest::of(b"payload"),
            weights: 25_730,
            bytes: 119_000,
            chunks: 9,
            files: 1,
            golden: 1,
        };
        insta::assert_snapshot!(report.lines().join("\n"));
    }
}
