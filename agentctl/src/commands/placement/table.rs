//! Candidates of a choice as rows of a table: for `placement show` and `bench`.

use std::time::Duration;

use agentd_types::{EngineKind, Setting, human_duration};
use agentd_wire::{Candidate, Outcome, Verdict};

use crate::ui::Align;

const HEADINGS: [(&str, Align); 9] = [
    ("ENGINE", Align::Left),
    ("SETTING", Align::Left),
    ("GOLDEN", Align::Left),
    ("P50", Align::Right),
    ("P99", Align::Right),
    ("PER S", Align::Right),
    ("MEMORY", Align::Right),
    ("LOAD", Align::Right),
    ("", Align::Left),
];

/// Whether there were golden vectors to hold the numbers against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Golden {
    /// A bundle's.
    Held,
    /// None, as in a bare ONNX file.
    Absent,
}

/// The headings and a row for each candidate; `highlight` marks the words at the chosen one.
pub(crate) fn rows(
    candidates: &[Candidate],
    golden: Golden,
    highlight: impl Fn(&str) -> String,
) -> (&'static [(&'static str, Align)], Vec<Vec<String>>) {
    (&HEADINGS, candidates.iter().map(|candidate| row(candidate, golden, &highlight)).collect())
}

fn row(candidate: &Candidate, golden: Golden, highlight: &impl Fn(&str) -> String) -> Vec<String> {
    let verdict = match &candidate.verdict {
        Verdict::Chosen { reason } => highlight(&format!("<- chosen: {reason}")),
        Verdict::Lost { reason } => reason.clone(),
        Verdict::Disqualified { code, reason } => format!("{reason} [{code}]"),
    };
    let [p50, p99, rate, memory, load] = figures(candidate.outcome.as_ref());
    let engine = candidate.setting.engine.to_string();
    let golden = held(golden, candidate.outcome.as_ref()).to_owned();
    vec![engine, setting(candidate.setting), golden, p50, p99, rate, memory, load, verdict]
}

/// A setting without its engine: `1 thread`, `4 threads, batch 16`.
fn setting(Setting { engine, threads, batch }: Setting) -> String {
    let threads = match (engine, threads) {
        (EngineKind::Gpu, _) => String::new(),
        (_, 1) => "1 thread".to_owned(),
        (_, n) => format!("{n} threads"),
    };
    match (threads.is_empty(), batch) {
        (true, 0 | 1) => "-".to_owned(),
        (true, n) => format!("batch {n}"),
        (false, 0 | 1) => threads,
        (false, n) => format!("{threads}, batch {n}"),
    }
}

const fn held(golden: Golden, outcome: Option<&Outcome>) -> &'static str {
    match (golden, outcome) {
        (Golden::Held, Some(Outcome::Measured(_))) => "ok",
        (Golden::Held, Some(Outcome::WrongNumbers { .. })) => "wrong",
        (Golden::Held, Some(Outcome::Failed { .. }) | None) | (Golden::Absent, _) => "-",
    }
}

fn figures(outcome: Option<&Outcome>) -> [String; 5] {
    let Some(Outcome::Measured(figures)) = outcome else { return std::array::from_fn(|_| "-".to_owned()) };
    let micros = |us| human_duration(Duration::from_micros(us));
    let rate = if figures.per_second < 100.0 {
        format!("{:.1}", figures.per_second)
    } else {
        format!("{:.0}", figures.per_second)
    };
    let memory = figures.peak_memory.to_string();
    [micros(figures.p50_us), micros(figures.p99_us), rate, memory, micros(figures.load_us)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_like_speech() {
        for (engine, threads, batch, want) in [
            (EngineKind::Cpu, 1, 1, "1 thread"),
            (EngineKind::Cpu, 4, 16, "4 threads, batch 16"),
            (EngineKind::Gpu, 1, 1, "-"),
            (EngineKind::Gpu, 1, 8, "batch 8"),
        ] {
            assert_eq!(setting(Setting { engine, threads, batch }), want);
        }
    }
}
