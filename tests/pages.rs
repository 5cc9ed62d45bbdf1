//! Holds the pages to the code: the files that they name exist, and the manual knows every error code.
//!
//! In: the repository's Markdown pages and Rust sources. Out: nothing but the verdict.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// The page that lists every code, and the one that lists those of signed documents.
const CODES: &str = "daemon/docs/codes.md";

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ has a parent")
}

/// Every file below `folder` whose name ends in `ending`, without hidden folders and build outputs.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && name != "target" {
                files(&entry.path(), ending, found)?;
            }
        } else if name.ends_with(ending) {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Fails with every line of `wrong`.
#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n  {}\n", wrong.join("\n  "));
}

/// What stands between backticks in a page.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// The paths of code that a page names: between backticks, with a folder, ending in `.rs` or `.toml`. Absolute paths are
/// places on an installed system.
fn named_paths(page: &str) -> impl Iterator<Item = &str> {
    quoted(page).filter(|text| {
        let is_path = text.contains('/') && !text.starts_with('/') && !text.contains([' ', '*', '<', '\n']);
        is_path && (text.ends_with(".rs") || text.ends_with(".toml"))
    })
}

/// The targets of a page's links to other files, without their anchors.
fn linked_paths(page: &str) -> impl Iterator<Item = &str> {
    page.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains("://") && !target.contains([' ', '`', '\n']))
}

#[test]
fn pages_name_files_that_exist() -> Result<()> {
    let root = root()?;
    let mut pages = Vec::new();
    files(root, ".md", &mut pages)?;
    ensure!(pages.len() > 3, "the repository has pages");
    let mut wrong = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page)?;
        let folder = page.parent().context("a page has a folder")?;
        // A page of an example folder may name the files beside it.
        let named =
            named_paths(&text).filter(|path| !root.join(path).exists() && !folder.join(path).exists());
        let linked = linked_paths(&text).filter(|path| !folder.join(path).exists());
        wrong.extend(named.chain(linked).map(|path| format!("{} names {path}", page.display())));
    }
    none(&wrong);
    Ok(())
}

/// The codes that a source file gives to errors: dotted names in `Code::new` and in functions named `code`, before the
/// file's own tests.
fn codes(source: &str) -> BTreeSet<&str> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let made = source.split("Code::new(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let functions = source.split("fn code(").skip(1).filter_map(|rest| rest.split("\n    }\n").next());
    let told = functions.flat_map(|body| body.split('"').skip(1).step_by(2));
    made.chain(told).filter(|text| is_code(text)).collect()
}

fn is_code(text: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    text.split_once('.').is_some_and(|(area, cause)| word(area) && word(cause))
}

#[test]
fn every_code_is_in_the_manual_and_no_other() -> Result<()> {
    let root = root()?;
    let mut sources = Vec::new();
    for folder in ["daemon", "agentctl/src"] {
        files(&root.join(folder), ".rs", &mut sources)?;
    }
    sources.retain(|path| !path.components().any(|part| part.as_os_str() == "tests"));
    let manual = fs::read_to_string(root.join(CODES))?;
    let told: BTreeSet<&str> = quoted(&manual).filter(|text| is_code(text)).collect();
    let sources: Vec<String> = sources.iter().map(fs::read_to_string).collect::<Result<_, _>>()?;
    let given: BTreeSet<&str> = sources.iter().flat_map(|source| codes(source)).collect();
    ensure!(given.len() > 100, "the sources give codes");
    let untold = given.iter().filter(|code| !told.contains(*code));
    let is_given = |code: &str| sources.iter().any(|source| source.contains(&format!("\"{code}\"")));
    let ungiven = told.iter().filter(|code| !code.starts_with("verify.") && !is_given(code));
    let untold = untold.map(|code| format!("`{code}` is not in {CODES}"));
    none(&untold.chain(ungiven.map(|code| format!("no source gives `{code}`"))).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn paths_and_codes_are_found() {
    let page = "see `daemon/types/src/lib.rs`, `/etc/agentd/agentd.toml`, `agentd.toml`, `a b/c.rs` [x](y.md#z) [w](https://x/y)";
    assert_eq!(named_paths(page).collect::<Vec<_>>(), ["daemon/types/src/lib.rs"]);
    assert_eq!(linked_paths(page).collect::<Vec<_>>(), ["y.md"]);
    let source = "Code::new(\"a.b\")\n    fn code(&self) {\n \"c.d\", \"e\"\n    }\n\"f.g\" #[cfg(test)] Code::new(\"h.i\")";
    assert_eq!(codes(source), BTreeSet::from(["a.b", "c.d"]));
}
