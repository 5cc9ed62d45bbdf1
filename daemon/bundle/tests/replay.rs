//! Replays every case folder of `tests/vectors/documents` and compares outcomes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use agentd_bundle::replay::{Case, CaseFiles};
use agentd_types::Digest;

struct Folder(PathBuf);

impl CaseFiles for Folder {
    fn file(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    fn blob(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        fs::read(self.0.join("../blobs").join(digest.to_string()))
    }
}

#[test]
fn every_case_ends_as_it_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/documents");
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(root).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(description) = fs::read(folder.join("case.json")) else { continue };
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        count += 1;
        match Case::read(&description).unwrap().play(&Folder(folder)) {
            Ok(played) if played.is_as_expected() => {}
            Ok(played) => wrong.push(format!(
                "{name}: expected {}, got {} after {} of {} steps: {:?}",
                played.expect,
                played.outcome(),
                played.steps.len(),
                played.of,
                played.refused()
            )),
            Err(error) => wrong.push(format!("{name}: {}", agentd_types::chain(&error))),
        }
    }
    assert!(wrong.is_empty(), "{} of {count} cases differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= 67, "only {count} cases were found");
}
