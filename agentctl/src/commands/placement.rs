//! `placement show`: why a model runs where it runs.

pub(super) mod table;

use agentd_types::{ModelName, human_duration};
use agentd_wire::{Objective, Receipt};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    ui::Tone,
};

/// The `placement` commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show every engine setting that was considered, its figures, and why it won or lost.
    #[command(after_help = "Example:\n  agentctl placement show inspect/crack")]
    Show {
        /// The model.
        #[arg(value_name = "MODEL")]
        model: ModelName,
    },
}

pub(crate) fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    let Command::Show { model } = command;
    let what = format!("cannot show the placement of `{model}`");
    let daemon = context.daemon();
    let receipt = context.block_on(async {
        daemon.placement(&model).await.map_err(|error| Failure::of_client(&what, &error))
    })?;
    let ui = context.ui();
    ui.result(&receipt, || {
        for line in heading(&receipt) {
            ui.line(line);
        }
        let (headings, rows) =
            table::rows(&receipt.candidates, table::Golden::Held, |text| ui.paint(Tone::Good, text));
        ui.table(headings, rows);
    });
    // The answer is no when nothing may serve.
    Ok(if receipt.chosen().is_some() { Exit::Done } else { Exit::No })
}

/// What was placed, by which rule.
fn heading(receipt: &Receipt) -> Vec<String> {
    let Receipt { model, version, bundle, at, hardware, policy, .. } = receipt;
    let mut rule = match policy.objective {
        Objective::Latency => "lowest latency at p99".to_owned(),
        Objective::Throughput => "most answers a second".to_owned(),
    };
    if let Some(goal) = policy.latency_us {
        rule.push_str(&format!(", p99 within {}", human_duration(std::time::Duration::from_micros(goal))));
    }
    if let Some(mib) = policy.memory_mib {
        rule.push_str(&format!(", at most {mib} MiB"));
    }
    if !policy.engines.is_empty() {
        let engines: Vec<_> = policy.engines.iter().map(|engine| engine.as_str()).collect();
        rule.push_str(&format!(", on {} only", engines.join(" or ")));
    }
    vec![
        format!(
            "{model} version {version}   bundle {}   hardware {}   {at}",
            bundle.short(),
            hardware.short()
        ),
        format!("rule: {rule}"),
        String::new(),
    ]
}

#[cfg(test)]
mod tests {
    use agentd_types::{Code, Digest, EngineKind, Setting, UnixTime};
    use agentd_wire::{Candidate, Figures, Outcome, ServePolicy, Verdict};

    use super::*;
    use crate::ui::render_table;

    fn measured(engine: EngineKind, threads: u16, batch: u16, p99_us: u64, verdict: Verdict) -> Candidate {
        let figures = Figures {
            p50_us: p99_us * 2 / 3,
            p90_us: p99_us - 1,
            p99_us,
            max_us: p99_us * 2,
            per_second: 1.5e6 / f64::from(u32::try_from(p99_us).unwrap()),
            runs: 500,
            peak_memory: agentd_types::ByteCount::mib(9),
            load_us: 12_345,
            golden_off_ppm: 3,
            fallback_nodes: 0,
        };
        let setting = Setting { engine, threads, batch };
        Candidate { setting, outcome: Some(Outcome::Measured(figures)), verdict }
    }

    fn receipt() -> Receipt {
        let cpu = EngineKind::Cpu;
        let lost = |reason: &str| Verdict::Lost { reason: reason.into() };
        let gone =
            |code, reason: &str| Verdict::Disqualified { code: Code::new(code), reason: reason.into() };
        let wrong =
            Outcome::WrongNumbers { golden: 0, output: "probs".into(), off_ppm: Some(812), tol_ppm: 100 };
        Receipt {
            model: "demo/digits".parse().unwrap(),
            version: 7,
            bundle: Digest::of(b"bundle"),
            at: UnixTime(1_795_593_599),
            hardware: Digest::of(b"hardware"),
            policy: ServePolicy { latency_us: Some(20_000), ..ServePolicy::default() },
            candidates: vec![
                measured(cpu, 1, 1, 90, Verdict::Chosen { reason: "fastest at p99 within 20.0 ms".into() }),
                measured(cpu, 2, 1, 160, lost("1.8x slower at p99")),
                Candidate {
                    setting: Setting { engine: cpu, threads: 4, batch: 16 },
                    outcome: Some(wrong),
                    verdict: gone(
                        "placement.wrong_numbers",
                        "golden 0, output `probs` is 812 ppm off, 100 allowed",
                    ),
                },
                Candidate {
                    setting: Setting { engine: EngineKind::Gpu, threads: 1, batch: 1 },
                    outcome: None,
                    verdict: gone("engine.not_built", "no GPU engine in this build (found llvmpipe)"),
                },
            ],
        }
    }

    #[test]
    fn a_receipt_reads_as_a_table() {
        let receipt = receipt();
        let (headings, rows) = table::rows(&receipt.candidates, table::Golden::Held, |text| text.to_owned());
        let text = format!("{}\n{}", heading(&receipt).join("\n"), render_table(headings, rows));
        insta::assert_snapshot!(text);
    }
}
