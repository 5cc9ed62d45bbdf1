//! `agentctl events`: the journal, followed.

use std::time::Duration;

use agentd_types::human_duration;
use agentd_wire::{Event, Outcome, What};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    ui::Ui,
};

/// Which entries to show.
#[derive(Debug, clap::Args)]
#[command(after_help = "With --json, one JSON document a line.")]
pub(crate) struct Args {
    /// Wait for new entries and show them as they come.
    #[arg(long, short)]
    follow: bool,
    /// Show entries after this one only.
    #[arg(long, value_name = "ENTRY", default_value_t = 0)]
    after: u64,
    /// Show the last entries only.
    #[arg(long, short = 'n', value_name = "COUNT", conflicts_with = "after")]
    last: Option<u64>,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let (daemon, ui) = (context.daemon(), context.ui());
    context.block_on(async {
        let fail = |error: agentd_client::ClientError| Failure::of_client("cannot show the journal", &error);
        let after = match args.last {
            Some(last) => daemon.status().await.map_err(fail)?.journal_entries.saturating_sub(last),
            None => args.after,
        };
        let mut events = daemon.events(after, args.follow).await.map_err(fail)?;
        while let Some(event) = events.next().await.map_err(fail)? {
            show(ui, &event);
        }
        Ok(Exit::Done)
    })
}

fn show(ui: Ui, event: &Event) {
    if ui.is_json() {
        if let Ok(line) = serde_json::to_string(&agentd_wire::Versioned::new(event)) {
            ui.line(line);
        }
        return;
    }
    ui.line(format!("{:>6}  {}  {:<18} {}", event.seq, event.at, event.what.name(), describe(&event.what)));
}

/// An event in one line.
fn describe(what: &What) -> String {
    match what {
        What::Started { version, boot } => format!("agentd {version}, run {boot}"),
        What::Stopped => String::new(),
        What::DocumentAccepted { kind, number, target } => {
            let target = target.as_ref().map(|target| format!(" for {target}")).unwrap_or_default();
            format!("{kind} {number}{target}")
        }
        What::Refused { subject, code, message } => format!("{subject}: {message} [{code}]"),
        What::FetchStarted { model, version, missing, .. } => format!("{model} {version}: {missing} missing"),
        What::Fetched { model, version, bytes, .. } => format!("{model} {version}: {bytes} came"),
        What::Installed { model, version, bundle } => format!("{model} {version}, bundle {}", bundle.short()),
        What::Measured { profile } => format!("{}: {}", profile.setting, outcome(&profile.outcome)),
        What::Placed { receipt } => {
            let chosen =
                receipt.chosen().map_or_else(|| "nothing may serve".to_owned(), |c| c.setting.to_string());
            format!(
                "{} {}: {chosen}, of {} candidates",
                receipt.model,
                receipt.version,
                receipt.candidates.len()
            )
        }
        What::Serving { model, version, setting, previous, .. } => {
            let previous = previous.map(|previous| format!(", {previous} is kept ready")).unwrap_or_default();
            format!("{model} {version} on {setting}{previous}")
        }
        What::RolledBack { model, from, to, by } => format!("{model} from {from} to {to}, by {by}"),
        What::Pinned { model, version } => format!("{model} at {version}"),
        What::Unpinned { model } | What::Retired { model } => model.to_string(),
        What::WorkerFailed { model, version, code, message, strikes } => {
            format!("{model} {version}: {message} [{code}], strikes so far: {strikes}")
        }
        What::Quarantined { model, version, code, reason, .. } => {
            format!("{model} {version}: {reason} [{code}]")
        }
        What::QuarantineLifted { model, version, by, .. } => format!("{model} {version}, by {by}"),
        What::Removed { model, version, bundle } => format!("{model} {version}, bundle {}", bundle.short()),
        What::JournalDamaged { lost, reason } => format!("{lost} entries lost: {reason}"),
        What::IndexRebuilt { reason } => reason.clone(),
        What::DiskLow { free, low } => {
            format!("{free} free, {}", if *low { "too little" } else { "enough again" })
        }
    }
}

fn outcome(outcome: &Outcome) -> String {
    let us = |us: u64| human_duration(Duration::from_micros(us));
    match outcome {
        Outcome::Measured(figures) => {
            format!("p50 {}, p99 {}, {}", us(figures.p50_us), us(figures.p99_us), figures.peak_memory)
        }
        Outcome::WrongNumbers { output, off_ppm, tol_ppm, .. } => {
            let off = off_ppm.map_or_else(|| "not comparable".to_owned(), |off| format!("off by {off} ppm"));
            format!("wrong numbers: `{output}` is {off}, {tol_ppm} ppm are tolerated")
        }
        Outcome::Failed { code, message } => format!("{message} [{code}]"),
    }
}
