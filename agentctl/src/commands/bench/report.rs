//! What `bench` says.

use agentd_onnx::ModelSummary;
use agentd_placement::Choice;
use agentd_types::{Code, TensorSpec, human_duration};
use agentd_wire::{Candidate, Outcome, Verdict};
use serde::Serialize;

use super::Args;
use crate::{
    commands::placement::table,
    ui::{Tone, Ui},
};

/// A measured file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    file: String,
    producer: String,
    parameters: u64,
    nodes: usize,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    /// The shapes that were measured, in the order of the inputs.
    shapes: Vec<Vec<usize>>,
    time_ms: u64,
    candidates: Vec<Candidate>,
    instances: u16,
}

impl Report {
    pub(super) fn new(args: &Args, summary: &ModelSummary, shapes: Vec<Vec<usize>>, choice: Choice) -> Self {
        Self {
            file: args.file.display().to_string(),
            producer: summary.producer.clone(),
            parameters: summary.parameters,
            nodes: summary.nodes,
            inputs: summary.inputs.clone(),
            outputs: summary.outputs.clone(),
            shapes,
            time_ms: u64::try_from(args.time.as_millis()).unwrap_or(u64::MAX),
            candidates: choice.candidates,
            instances: choice.instances,
        }
    }

    /// The failure that all settings share, when none could be measured.
    pub(super) fn only_failure(&self) -> Option<(&Code, &str)> {
        let mut failures = self.candidates.iter().map(|candidate| match &candidate.outcome {
            Some(Outcome::Failed { code, message }) => Some((code, message.as_str())),
            _ => None,
        });
        let first = failures.next()??;
        failures.all(|other| other.is_some_and(|(code, _)| code == first.0)).then_some(first)
    }

    /// Whether a setting may serve.
    pub(super) fn has_winner(&self) -> bool {
        self.candidates.iter().any(|candidate| matches!(candidate.verdict, Verdict::Chosen { .. }))
    }

    /// For people: what was measured to stderr, the table to stdout.
    pub(super) fn print(&self, ui: Ui) {
        ui.note(self.heading());
        let (headings, rows) =
            table::rows(&self.candidates, table::Golden::Absent, |text| ui.paint(Tone::Good, text));
        ui.table(headings, rows);
        if let Some(remark) = self.remark() {
            ui.note(remark);
        }
    }

    /// What was measured.
    fn heading(&self) -> String {
        let inputs: Vec<_> = self
            .inputs
            .iter()
            .zip(&self.shapes)
            .map(|(input, shape)| format!("{} {} {shape:?}", input.name, input.datatype))
            .collect();
        let time = human_duration(std::time::Duration::from_millis(self.time_ms));
        format!(
            "{}: {} weights, {} nodes; inputs {}; up to {time} for each setting",
            self.file,
            self.parameters,
            self.nodes,
            inputs.join(", ")
        )
    }

    /// What a person should know of the figures.
    fn remark(&self) -> Option<String> {
        let golden = "there are no golden vectors in a bare ONNX file: numbers were not checked";
        self.has_winner().then(|| match self.instances {
            0 | 1 => golden.to_owned(),
            n => format!("{golden}; {n} workers would serve"),
        })
    }
}

#[cfg(test)]
mod tests {
    use agentd_types::{Datatype, EngineKind, Setting};

    use super::*;
    use crate::ui::render_table;

    fn failed(code: &'static str, threads: u16) -> Candidate {
        let (code, message) = (Code::new(code), "as it happened".to_owned());
        Candidate {
            setting: Setting { engine: EngineKind::Cpu, threads, batch: 1 },
            outcome: Some(Outcome::Failed { code: code.clone(), message: message.clone() }),
            verdict: Verdict::Disqualified { code, reason: message },
        }
    }

    fn report(candidates: Vec<Candidate>) -> Report {
        Report {
            file: "model.onnx".into(),
            producer: "pytorch".into(),
            parameters: 24_170,
            nodes: 12,
            inputs: vec![TensorSpec { name: "x".into(), datatype: Datatype::Fp32, shape: vec![-1, 1, 8, 8] }],
            outputs: Vec::new(),
            shapes: vec![vec![1, 1, 8, 8]],
            time_ms: 2_000,
            candidates,
            instances: 0,
        }
    }

    #[test]
    fn a_failure_of_all_settings_is_the_answer_and_not_a_table() {
        let same = report(vec![failed("engine.load", 1), failed("engine.load", 2)]);
        assert_eq!(same.only_failure().map(|(code, _)| code.as_str()), Some("engine.load"));
        let mixed = report(vec![failed("engine.load", 1), failed("worker.died", 2)]);
        assert_eq!(mixed.only_failure(), None);
        assert_eq!(report(Vec::new()).only_failure(), None);
        let (headings, rows) = table::rows(&mixed.candidates, table::Golden::Absent, str::to_owned);
        insta::assert_snapshot!(format!("{}\n{}", mixed.heading(), render_table(headings, rows)));
    }
}
