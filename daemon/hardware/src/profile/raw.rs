//! The TOML form of a firmware profile, and its check.

use std::str::FromStr;

use agentd_types::{ByteCount, Code, Coded, EngineKind};
use serde::Deserialize;

use super::{Fact, FirmwareProfile, Match, Quirk, QuirkEffect, Thermal};

/// What a person writes; every field but the name may be left out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    name: String,
    description: Option<String>,
    #[serde(default)]
    r#match: Vec<RawMatch>,
    #[serde(default)]
    memory: RawMemory,
    #[serde(default)]
    cpu: RawCpu,
    #[serde(default)]
    thermal: RawThermal,
    #[serde(default)]
    engines: RawEngines,
    #[serde(default)]
    quirk: Vec<RawQuirk>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMatch {
    arch: Option<String>,
    cpu_model: Option<String>,
    sys_vendor: Option<String>,
    product_name: Option<String>,
    product_family: Option<String>,
    board_vendor: Option<String>,
    board_name: Option<String>,
    model: Option<String>,
    compatible: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMemory {
    keep_free: Option<ByteCount>,
    keep_free_percent: Option<u8>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCpu {
    threads: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawThermal {
    warn_c: Option<u8>,
    stop_c: Option<u8>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEngines {
    r#try: Option<Vec<EngineKind>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuirk {
    ignore_sensor: Option<String>,
    ignore_adapter: Option<String>,
    tell: Option<String>,
    reason: Option<String>,
}

/// Why a text is not a firmware profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not TOML of the right form; the source names line and column.
    #[error("not a firmware profile")]
    Form(#[source] Box<toml::de::Error>),
    /// Values are out of range or contradict each other.
    #[error("{}", problems.join("; "))]
    Values {
        /// Every problem, each naming its key.
        problems: Vec<String>,
    },
}

impl Coded for ProfileError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Form(_) => "firmware.form",
            Self::Values { .. } => "firmware.values",
        })
    }
}

impl FromStr for FirmwareProfile {
    type Err = ProfileError;

    fn from_str(text: &str) -> Result<Self, ProfileError> {
        let raw: RawProfile = toml::from_str(text).map_err(|error| ProfileError::Form(Box::new(error)))?;
        let mut problems = Vec::new();
        let profile = check(raw, &mut problems);
        if problems.is_empty() { Ok(profile) } else { Err(ProfileError::Values { problems }) }
    }
}

/// The checked profile; worth nothing when `problems` has grown.
fn check(raw: RawProfile, problems: &mut Vec<String>) -> FirmwareProfile {
    let unknown = FirmwareProfile::unknown();
    let token = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if raw.name.is_empty() || raw.name.len() > 64 || !raw.name.chars().all(token) {
        problems.push(format!("`name` is \"{}\": write 1 to 64 of a-z, 0-9, `-` and `_`", raw.name));
    }
    let keep_free_percent = raw.memory.keep_free_percent.unwrap_or(unknown.keep_free_percent);
    if keep_free_percent > 90 {
        problems.push(format!(
            "`memory.keep_free_percent` is {keep_free_percent}: at most 90 leaves room for a model"
        ));
    }
    if raw.cpu.threads == Some(0) {
        problems.push("`cpu.threads` is 0: write at least 1, or leave it out for all cores".to_owned());
    }
    let engines = raw.engines.r#try.unwrap_or(unknown.engines);
    if engines.is_empty() {
        problems.push("`engines.try` is empty: write at least [\"cpu\"]".to_owned());
    }
    FirmwareProfile {
        description: raw.description.unwrap_or_default(),
        matches: matches(raw.r#match, problems),
        keep_free: raw.memory.keep_free.unwrap_or(unknown.keep_free),
        keep_free_percent,
        threads: raw.cpu.threads,
        thermal: thermal(&raw.thermal, unknown.thermal, problems),
        engines,
        quirks: raw
            .quirk
            .into_iter()
            .enumerate()
            .filter_map(|(at, quirk)| self::quirk(at, quirk, problems))
            .collect(),
        name: raw.name,
    }
}

fn matches(raw: Vec<RawMatch>, problems: &mut Vec<String>) -> Vec<Match> {
    let mut matches = Vec::new();
    for (at, raw) in raw.into_iter().enumerate() {
        let globs = [
            (Fact::CpuModel, raw.cpu_model),
            (Fact::SysVendor, raw.sys_vendor),
            (Fact::ProductName, raw.product_name),
            (Fact::ProductFamily, raw.product_family),
            (Fact::BoardVendor, raw.board_vendor),
            (Fact::BoardName, raw.board_name),
            (Fact::Model, raw.model),
            (Fact::Compatible, raw.compatible),
        ];
        let globs: Vec<_> = globs.into_iter().filter_map(|(fact, glob)| Some((fact, glob?))).collect();
        if globs.is_empty() && raw.arch.is_none() {
            problems.push(format!("`match[{at}]` names no fact and would match every machine"));
        }
        matches.push(Match { arch: raw.arch, globs });
    }
    matches
}

fn thermal(raw: &RawThermal, unknown: Thermal, problems: &mut Vec<String>) -> Thermal {
    let stop_c = raw.stop_c.unwrap_or(unknown.stop_c);
    let warn_c = raw.warn_c.unwrap_or(unknown.warn_c.min(stop_c.saturating_sub(10)));
    if !(40..=125).contains(&stop_c) {
        problems.push(format!("`thermal.stop_c` is {stop_c}: write 40 to 125 degrees Celsius"));
    }
    if warn_c >= stop_c {
        problems.push(format!("`thermal.warn_c` is {warn_c}, not below `thermal.stop_c`, which is {stop_c}"));
    }
    Thermal { warn_c, stop_c }
}

fn quirk(at: usize, raw: RawQuirk, problems: &mut Vec<String>) -> Option<Quirk> {
    let reason = raw.reason.filter(|reason| !reason.trim().is_empty());
    if reason.is_none() {
        problems.push(format!("`quirk[{at}]` has no `reason`: say why, for whoever reads it later"));
    }
    let mut effects = [
        raw.ignore_sensor.map(QuirkEffect::IgnoreSensor),
        raw.ignore_adapter.map(QuirkEffect::IgnoreAdapter),
        raw.tell.map(QuirkEffect::Tell),
    ]
    .into_iter()
    .flatten();
    match (effects.next(), effects.next(), reason) {
        (Some(effect), None, Some(reason)) => Some(Quirk { effect, reason }),
        (Some(_), None, None) => None,
        _ => {
            problems.push(format!(
                "`quirk[{at}]` needs exactly one of `ignore_sensor`, `ignore_adapter`, `tell`"
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use agentd_types::chain;

    use super::*;

    #[test]
    fn a_profile_of_only_a_name_is_the_cautious_default() {
        let profile: FirmwareProfile = "name = 'x'".parse().unwrap();
        let unknown = FirmwareProfile::unknown();
        assert_eq!(profile, FirmwareProfile { name: "x".into(), description: String::new(), ..unknown });
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let text = "name = 'A b'\n[[match]]\n[memory]\nkeep_free_percent = 95\n[cpu]\nthreads = 0\n[thermal]\nwarn_c = 90\nstop_c = 80\n[engines]\ntry = []\n[[quirk]]\ntell = 'x'\n[[quirk]]\nreason = 'y'\n";
        let Err(ProfileError::Values { problems }) = text.parse::<FirmwareProfile>() else {
            panic!("accepted")
        };
        let keys =
            ["name", "keep_free_percent", "threads", "engines", "match[0]", "warn_c", "quirk[0]", "quirk[1]"];
        assert_eq!(problems.len(), keys.len(), "{problems:#?}");
        for (key, problem) in keys.iter().zip(&problems) {
            assert!(problem.contains(key), "{key}: {problem}");
        }
    }

    #[test]
    fn the_form_is_held_strictly_and_errors_name_the_line() {
        for (text, line, says) in [
            ("name = 'x'\nnmae = 1", "line 2", "nmae"),
            ("name = 'x'\n[memory]\nkeep_free = '12 parsecs'", "line 3", "12 parsecs"),
            ("name = 'x'\n[engines]\ntry = ['npu']", "line 3", "npu"),
            ("name = 'x'\n[cpu]\nthreads = -1", "line 3", "-1"),
            ("description = 'x'", "line 1", "name"),
            ("name = ", "line 1", ""),
        ] {
            let error = text.parse::<FirmwareProfile>().unwrap_err();
            assert_eq!(error.code().as_str(), "firmware.form");
            let message = chain(&error);
            assert!(message.contains(line) && message.contains(says), "{text}: {message}");
        }
    }
}
