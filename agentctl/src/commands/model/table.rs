//! Models as a table.

use std::time::Duration;

use agentd_types::human_duration;
use agentd_wire::{ModelState, ModelStatus};

use crate::ui::Align;

const HEADINGS: &[(&str, Align)] = &[
    ("MODEL", Align::Left),
    ("VERSION", Align::Right),
    ("ENGINE", Align::Left),
    ("P50", Align::Right),
    ("P99", Align::Right),
    ("REQ/S", Align::Right),
    ("STATE", Align::Left),
];

/// Headings and a row a model.
pub(in crate::commands) fn rows(
    models: &[ModelStatus],
) -> (&'static [(&'static str, Align)], Vec<Vec<String>>) {
    (HEADINGS, models.iter().map(row).collect())
}

fn row(model: &ModelStatus) -> Vec<String> {
    let none = || "-".to_owned();
    let us = |us: Option<u64>| us.map_or_else(none, |us| human_duration(Duration::from_micros(us)));
    let serving = model.serving.as_ref();
    vec![
        model.name.to_string(),
        serving.map_or_else(none, |serving| serving.version.to_string()),
        serving.map_or_else(none, |serving| serving.setting.to_string()),
        us(serving.and_then(|serving| serving.p50_us)),
        us(serving.and_then(|serving| serving.p99_us)),
        serving.map_or_else(none, |serving| format!("{:.1}", serving.per_second)),
        state(model),
    ]
}

fn state(model: &ModelStatus) -> String {
    let wanted = || model.desired_version.map_or_else(String::new, |version| format!(" version {version}"));
    let mut text = match &model.state {
        ModelState::Wanted => format!("waiting for{}", wanted()),
        ModelState::Fetching { have, total } => format!("fetching{}: {have} of {total}", wanted()),
        ModelState::Stored => format!("{} is on disk", wanted().trim_start()),
        ModelState::Measuring { done, of } => format!("measuring{}: {done} of {of} settings", wanted()),
        ModelState::Switching => format!("loading{}", wanted()),
        ModelState::Serving => "serving".to_owned(),
        ModelState::HeldBack => format!("serving, held back from{}", wanted()),
        ModelState::Failed { code, .. } => format!("failed{} [{code}]", wanted()),
        ModelState::Retired => "retired".to_owned(),
    };
    if model.pinned {
        text.push_str(", pinned");
    }
    text
}

#[cfg(test)]
mod tests {
    use agentd_types::{ByteCount, Code, Digest, EngineKind, Setting, UnixTime};
    use agentd_wire::ServedVersion;

    use super::*;
    use crate::ui::render_table;

    #[test]
    fn a_row_says_what_serves_and_what_moves() {
        let serving = ServedVersion {
            version: 7,
            bundle: Digest::of(b"7"),
            setting: Setting { engine: EngineKind::Cpu, threads: 2, batch: 1 },
            instances: 1,
            p50_us: Some(3_140),
            p99_us: Some(4_000),
            per_second: 25.0,
            requests: 10,
            failures: 0,
            since: UnixTime(0),
        };
        let model = |name: &str, state, serving: Option<ServedVersion>| ModelStatus {
            name: name.parse().unwrap(),
            state,
            desired_version: Some(8),
            serving,
            held: Vec::new(),
            pinned: false,
        };
        let fetching = ModelState::Fetching { have: ByteCount::mib(3), total: ByteCount::mib(11) };
        let failed = ModelState::Failed { code: Code::new("verify.threshold"), message: String::new() };
        let models = [
            model("inspect/crack", fetching, Some(serving.clone())),
            model("inspect/label", failed, None),
            ModelStatus { pinned: true, ..model("inspect/size", ModelState::Serving, Some(serving)) },
        ];
        let (headings, rows) = rows(&models);
        insta::assert_snapshot!(render_table(headings, rows));
    }
}
