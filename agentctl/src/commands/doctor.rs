//! `agentctl doctor`: every check, and the command that mends what is wrong.

use agentd_wire::{CheckState, DoctorCheck, DoctorReport};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    ui::{Tone, Ui},
};

/// Checks this device.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status 1 when a check fails. Each check has a time limit and none disturbs serving."
)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args, context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon();
    let report = context.block_on(async {
        daemon.doctor().await.map_err(|error| Failure::of_client("cannot check this device", &error))
    })?;
    let ui = context.ui();
    let failed = report.checks.iter().filter(|check| check.state == CheckState::Fail).count();
    ui.result(&report, || show(ui, &report, failed));
    Ok(if failed == 0 { Exit::Done } else { Exit::No })
}

fn show(ui: Ui, report: &DoctorReport, failed: usize) {
    for check in &report.checks {
        lines(ui, check).into_iter().for_each(|line| ui.line(line));
    }
    match failed {
        0 => {}
        1 => ui.line("1 check failed"),
        failed => ui.line(format!("{failed} checks failed")),
    }
}

fn lines(ui: Ui, check: &DoctorCheck) -> Vec<String> {
    let (tone, word) = match check.state {
        CheckState::Ok => (Tone::Good, "ok  "),
        CheckState::Warn => (Tone::Warning, "warn"),
        CheckState::Fail => (Tone::Bad, "fail"),
    };
    let mut lines = vec![format!(" {}  {:<14} {}", ui.paint(tone, word), check.code.as_str(), check.message)];
    lines.extend(check.why.iter().map(|why| format!("{:22}why: {why}", "")));
    lines.extend(check.fix.iter().map(|fix| format!("{:22}fix: {fix}", "")));
    lines
}

#[cfg(test)]
mod tests {
    use agentd_types::Code;

    use super::*;
    use crate::ui::{Color, Form};

    #[test]
    fn a_failed_check_says_why_and_what_to_do() {
        let check = DoctorCheck {
            code: Code::new("disk.space"),
            state: CheckState::Fail,
            message: "1.9 GiB free, downloads stop at 2.0 GiB".into(),
            why: Some("14.2 GiB of bundles are kept".into()),
            fix: Some("agentctl config show store.quota".into()),
            took_ms: 1,
        };
        let ui = Ui::new(Form::Human, false, Color::Never);
        insta::assert_snapshot!(lines(ui, &check).join("\n"));
    }
}
