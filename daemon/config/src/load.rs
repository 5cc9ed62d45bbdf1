//! Reads files and settings into one value a key, and remembers where each came from.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use agentd_types::{Code, Coded};
use serde::Serialize;
use toml::de::{DeTable, DeValue};

use crate::{KEYS, Key, Shape, parse_duration};

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/agentd/agentd.toml";

/// No configuration file is larger.
const MAX_FILE: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// The command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// A value in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The value as text; lists are joined by `, `; empty is unset.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// One value for every key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Settings(BTreeMap<&'static str, Setting>);

/// Something wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// Every problem of the configuration at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has {} problem{}:{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, list(.0))]
pub struct ConfigError(pub Vec<Problem>);

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl Coded for ConfigError {
    fn code(&self) -> Code {
        Code::new("config.invalid")
    }
}

impl Settings {
    /// Reads `file` and every `conf.d/*.toml` beside it, in the order of their names, then `overrides`
    /// (`section.key=value`).
    ///
    /// A missing `file` is an error only when `required`.
    ///
    /// # Errors
    /// Every problem of every file at once.
    pub fn load(file: &Path, required: bool, overrides: &[String]) -> Result<Self, ConfigError> {
        let mut loader = Loader::new();
        loader.file(file, required);
        for path in drop_ins(file) {
            loader.file(&path, true);
        }
        overrides.iter().for_each(|text| loader.override_with(text));
        loader.finish()
    }

    /// The value of `key`; unset is `None`.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|setting| setting.value.as_str()).filter(|value| !value.is_empty())
    }

    /// Where the value of `key` came from.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.0.get(key).map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// Every key with its value, in the order of [`KEYS`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static Key, &Setting)> {
        KEYS.iter().filter_map(|key| Some((key, self.0.get(key.name)?)))
    }
}

struct Loader {
    settings: BTreeMap<&'static str, Setting>,
    problems: Vec<Problem>,
}

impl Loader {
    fn new() -> Self {
        let default = |key: &Key| Setting { value: key.default.to_owned(), origin: Origin::Default };
        Self { settings: KEYS.iter().map(|key| (key.name, default(key))).collect(), problems: Vec::new() }
    }

    fn finish(self) -> Result<Settings, ConfigError> {
        if self.problems.is_empty() { Ok(Settings(self.settings)) } else { Err(ConfigError(self.problems)) }
    }

    fn problem(&mut self, origin: Origin, message: impl Into<String>) {
        self.problems.push(Problem { origin, message: message.into() });
    }

    fn file(&mut self, path: &Path, required: bool) {
        let at = |line| Origin::File { path: path.to_owned(), line };
        let text = match read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return,
            Err(error) => return self.problem(at(1), format!("cannot be read: {error}")),
        };
        let line = |offset: usize| text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
        let (document, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            self.problem(at(error.span().map_or(1, |span| line(span.start))), error.message());
        }
        for (section, table) in document.get_ref() {
            let section_name: &str = section.get_ref();
            let DeValue::Table(table) = table.get_ref() else {
                self.problem(at(line(section.span().start)), unknown(section_name));
                continue;
            };
            for (name, value) in table {
                let (full, at) = (format!("{section_name}.{}", name.get_ref()), at(line(name.span().start)));
                match KEYS.iter().find(|key| key.name == full) {
                    None => self.problem(at, unknown(&full)),
                    Some(key) => match written(value.get_ref()) {
                        Some(value) => self.set(key, value, at),
                        None => {
                            self.problem(at, format!("`{full}` is {}", key.shape.describe()));
                        }
                    },
                }
            }
        }
    }

    fn override_with(&mut self, text: &str) {
        let Some((name, value)) = text.split_once('=') else {
            return self
                .problem(Origin::CommandLine, format!("`{text}` is not of the form section.key=value"));
        };
        match KEYS.iter().find(|key| key.name == name.trim()) {
            None => self.problem(Origin::CommandLine, unknown(name.trim())),
            Some(key) => self.set(key, value.trim().to_owned(), Origin::CommandLine),
        }
    }

    fn set(&mut self, key: &'static Key, value: String, origin: Origin) {
        match check(key, &value) {
            Ok(()) => drop(self.settings.insert(key.name, Setting { value, origin })),
            Err(message) => self.problem(origin, message),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("the file is larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

fn drop_ins(file: &Path) -> Vec<PathBuf> {
    let folder = file.parent().map(|folder| folder.join("conf.d"));
    let entries = folder.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten();
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

/// A value as it is kept; `None` when it is of a kind that no key has.
fn written(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map(|texts| texts.join(", "))
        }
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Table(_) => None,
    }
}

fn check(key: &Key, value: &str) -> Result<(), String> {
    let name = key.name;
    if value.is_empty() {
        return Ok(()); // unset again
    }
    let problem = match key.shape {
        Shape::Text | Shape::List => None,
        Shape::Path if Path::new(value).is_absolute() => None,
        Shape::Path => Some(format!("\"{value}\" is not an absolute path")),
        Shape::Size => value.parse::<agentd_types::ByteCount>().err().map(|error| error.to_string()),
        Shape::Duration => parse_duration(value).err().map(|error| error.to_string()),
        Shape::Number => value.parse::<u32>().err().map(|_| format!("\"{value}\" is not a whole number")),
        Shape::Group if is_group(value) => None,
        Shape::Group => Some(format!("\"{value}\" is not the name or number of a group")),
        Shape::Word(words) if words.contains(&value) => None,
        Shape::Word(words) => Some(format!("\"{value}\" is none of {}", words.join(", "))),
    };
    problem.map_or(Ok(()), |problem| Err(format!("`{name}`: {problem}")))
}

/// As Debian's `adduser` allows them, which also makes them safe as a part of a file name.
fn is_group(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    value.len() <= 32 && value.chars().all(plain) && !value.starts_with('-')
}

fn unknown(name: &str) -> String {
    let near = KEYS.iter().map(|key| (distance(key.name, name), key.name)).min();
    match near {
        Some((far, near)) if far <= 4 => format!("there is no key `{name}`; did you mean `{near}`?"),
        _ => format!("there is no key `{name}`; `agentctl config show` lists all of them"),
    }
}

/// Edits (insert, delete, replace) from one text to the other.
///
/// Source: Wagner and Fischer, "The String-to-String Correction Problem" (1974).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, above) in to.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = *above;
            left = replaced.min(left + 1).min(*above + 1);
            *above = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agentd.toml");
        fs::write(&file, text).unwrap();
        let Err(ConfigError(problems)) = Settings::load(&file, true, &[]) else { return Vec::new() };
        let prefix = format!("{}:", file.display());
        problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn every_problem_is_told_with_its_line_and_what_to_write() {
        let text = "[device]\nfleat = \"a\"\nstate = \"var\"\n\n[store]\nquota = \"64 MB\"\n[log]\nlevel = \"loud\"\n\
            [serving]\nconnections = true\nlisten = [1]\ngroup = \"../a\"\n[nonsense]\nx = 1\n";
        let got = problems(text).join("\n");
        for want in [
            "2: there is no key `device.fleat`; did you mean `device.fleet`?",
            "3: `device.state`: \"var\" is not an absolute path",
            "6: `store.quota`: `64 MB` is not a size",
            "8: `log.level`: \"loud\" is none of error, warn, info, debug, trace",
            "10: `serving.connections` is a whole number",
            "11: `serving.listen` is a list of texts",
            "12: `serving.group`: \"../a\" is not the name or number of a group",
            "14: there is no key `nonsense.x`",
        ] {
            assert!(got.contains(want), "{want} in\n{got}");
        }
    }

    #[test]
    fn garbage_is_a_problem_with_a_line_and_never_a_crash() {
        for garbage in
            ["[", "a = ", "x = 1", "[device]\nfleet = \"a\"\nfleet = \"b\"", "\u{0}", "[device", "= 3"]
        {
            assert!(!problems(garbage).is_empty(), "{garbage:?}");
        }
    }

    #[test]
    fn later_files_win_and_the_command_line_wins_over_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agentd.toml");
        fs::write(&file, "[device]\nfleet = \"a\"\n[log]\nlevel = \"warn\"").unwrap();
        fs::create_dir(folder.path().join("conf.d")).unwrap();
        fs::write(folder.path().join("conf.d/20.toml"), "[device]\nfleet = \"c\"").unwrap();
        fs::write(folder.path().join("conf.d/10.toml"), "[device]\nfleet = \"b\"").unwrap();
        let settings = Settings::load(&file, true, &["log.level=debug".into()]).unwrap();
        assert_eq!(settings.get("device.fleet"), Some("c"));
        assert!(settings.origin("device.fleet").to_string().ends_with("20.toml:2"));
        assert_eq!(settings.get("log.level"), Some("debug"));
        assert_eq!(settings.origin("log.level"), Origin::CommandLine);
        assert_eq!(settings.get("broker.address"), None);
    }

    #[test]
    fn a_missing_file_is_a_problem_only_when_it_was_asked_for() {
        let missing = Path::new("/nonexistent/agentd.toml");
        assert!(Settings::load(missing, false, &[]).is_ok());
        assert!(Settings::load(missing, true, &[]).is_err());
    }
}
