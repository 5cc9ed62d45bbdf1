//! `trust replay`: what a device says to the documents of a case folder.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use agentd_bundle::{
    MAX_ENVELOPE, MAX_TOTAL_SIZE,
    replay::{Case, CaseFiles, Played},
};
use agentd_types::{Coded as _, Digest};
use serde::Serialize;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// Options of `trust replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agentctl trust replay tests/vectors/documents/control__good_bundle\n\n\
    Prints ACCEPT or the code of the refusal; exits 0 when that is what the case expects.")]
pub(crate) struct Args {
    /// A folder with case.json and the documents that it names.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// How the case ended.
#[derive(Debug, Serialize)]
struct Report {
    case: String,
    outcome: &'static str,
    code: Option<String>,
    message: Option<String>,
    expect: String,
    as_expected: bool,
    steps: Vec<Step>,
    of: usize,
}

/// How a step ended.
#[derive(Debug, Serialize)]
struct Step {
    op: &'static str,
    outcome: &'static str,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let what = format!("cannot play the case `{}`", args.folder.display());
    let files = Folder(&args.folder);
    let description = files.file("case.json").map_err(|error| Failure::new(&what).because(&error))?;
    let case = Case::read(&description).map_err(|error| Failure::new(&what).coded(&error))?;
    let played = case.play(&files).map_err(|error| Failure::new(&what).coded(&error))?;
    let report = Report::of(&case, &played);
    let ui = context.ui();
    ui.result(&report, || ui.line(report.outcome));
    if !ui.is_json() {
        for note in report.notes() {
            ui.note(note);
        }
    }
    Ok(if report.as_expected { Exit::Done } else { Exit::No })
}

impl Report {
    fn of(case: &Case, played: &Played) -> Self {
        let refused = played.refused();
        Self {
            case: case.name.clone(),
            outcome: played.outcome(),
            code: refused.map(|reject| reject.code().to_string()),
            message: refused.map(ToString::to_string),
            expect: played.expect.clone(),
            as_expected: played.is_as_expected(),
            steps: played.steps.iter().map(|step| Step { op: step.op, outcome: step.outcome() }).collect(),
            of: played.of,
        }
    }

    fn notes(&self) -> Vec<String> {
        let last = self.steps.last().map_or("", |step| step.op);
        let mut notes = Vec::new();
        if let Some(message) = &self.message {
            notes.push(format!("step {} of {} ({last}): {message}", self.steps.len(), self.of));
        }
        if !self.as_expected {
            notes.push(format!("expected {} after {} steps", self.expect, self.of));
        }
        notes
    }
}

/// A case folder; names in it lead to plain files inside, never out of it.
struct Folder<'a>(&'a Path);

impl CaseFiles for Folder<'_> {
    fn file(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut parts = Path::new(name).components();
        match (parts.next(), parts.next()) {
            // One byte more than an envelope may have, so that the rule itself refuses it.
            (Some(Component::Normal(_)), None) => read(&self.0.join(name), MAX_ENVELOPE as u64 + 1),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the name leads out of the case's folder")),
        }
    }

    fn blob(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        read(&self.0.join("../blobs").join(digest.to_string()), MAX_TOTAL_SIZE)
    }
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(name: &str) -> Report {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/documents").join(name);
        let files = Folder(&folder);
        let case = Case::read(&files.file("case.json").unwrap()).unwrap();
        Report::of(&case, &case.play(&files).unwrap())
    }

    #[test]
    fn a_refusal_reads_like_this() {
        let report = played("trust__below_min_version");
        assert_eq!((report.outcome, report.code.as_deref()), ("min_version", Some("verify.min_version")));
        insta::assert_snapshot!(report.notes().join("\n"), @r#"
step 4 of 4 (bundle): vision/defect is version 5, and trust allows none below 6
"#);
    }

    #[test]
    fn a_case_that_ends_well_says_nothing_more() {
        let report = played("control__good_bundle");
        assert_eq!(report.outcome, "ACCEPT");
        assert!(report.as_expected && report.notes().is_empty());
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../case.json", "/etc/passwd", "a/b", "", ".."] {
            assert_eq!(
                Folder(folder.path()).file(name).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{name}"
            );
        }
    }
}
