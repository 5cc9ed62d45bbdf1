//! Steps 5 to 8: the bundle walks the line, from the broker to answers.

use std::time::{Duration, Instant};

use agentd_types::human_duration;
use agentd_wire::{Outcome, Profile, What};
use anyhow::{Result, ensure};

use super::{Cast, Stage};
use crate::{
    digits::{self, Digit},
    engineer::Packed,
    predict::{Answer, Predictor},
    screen::{Screen, Tone},
};

/// Digits that are drawn: so many fit beside each other.
const DRAWN: usize = 7;

/// Asks the fleet for the bundle and watches it come and be proved.
pub(super) async fn deliver(
    cast: &mut Cast,
    stage: &Stage,
    first: &Packed,
    screen: &mut Screen,
) -> Result<()> {
    screen.step("fetch", "asking the fleet to run demo/digits 1");
    stage.engineer.deploy(first).await?;
    screen.doing("waiting for blocks");
    let device = cast.device()?;
    let mut documents = Vec::new();
    let mut began = Instant::now();
    let bytes = device
        .until(|what| match what {
            What::DocumentAccepted { kind, number, .. } => {
                documents.push(format!("{kind} {number}"));
                None
            }
            What::FetchStarted { .. } => {
                began = Instant::now();
                None
            }
            What::Fetched { bytes, .. } => Some(*bytes),
            _ => None,
        })
        .await?;
    screen.done(format!(
        "{bytes} in {} over MQTT, in blocks that the device asks for",
        human_duration(began.elapsed())
    ));

    screen.step("prove", "checking");
    let digest = device.until(|what| match what {
        What::Installed { bundle, .. } => Some(*bundle),
        _ => None,
    });
    let digest = digest.await?;
    let documents = documents.join(", ");
    screen.done(format!("{documents} signed by fleet-1 or the root; bundle {} by release-1", digest.short()));
    screen
        .detail("every chunk and file matches its digest, the version is new, nothing is revoked or expired");
    Ok(())
}

/// Watches every engine setting being measured, and prints the receipt of the choice.
pub(super) async fn measure(cast: &mut Cast, stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("measure", "golden vectors first, then speed");
    let device = cast.device()?;
    let mut settings = 0;
    let chosen = device
        .until(|what| match what {
            What::Measured { profile } => {
                settings += 1;
                screen.doing(progress(profile));
                None
            }
            What::Placed { receipt } => Some(receipt.chosen().map(|chosen| chosen.setting)),
            _ => None,
        })
        .await?;
    ensure!(chosen.is_some(), "no engine setting may serve the model");
    screen
        .done(format!("{settings} settings, golden vectors first, then time, on this machine as it is now"));
    let control = device.control_socket();
    let arguments = ["--socket", &control.to_string_lossy(), "placement", "show", stage.model.as_str()]
        .map(str::to_owned);
    for line in stage.engineer.programs().agentctl(arguments).await?.lines() {
        screen.detail(line);
    }
    Ok(())
}

fn progress(profile: &Profile) -> String {
    let setting = profile.setting;
    match &profile.outcome {
        Outcome::Measured(figures) => {
            format!("{setting}: {} at p50", human_duration(Duration::from_micros(figures.p50_us)))
        }
        Outcome::WrongNumbers { .. } => format!("{setting}: wrong numbers, disqualified"),
        Outcome::Failed { message, .. } => format!("{setting}: {message}"),
    }
}

/// Asks about every held-out digit, as an application would.
pub(super) async fn serve(cast: &mut Cast, stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.step("serve", "waiting for the first answer");
    let device = cast.device()?;
    device.until(|what| matches!(what, What::Serving { version: 1, .. }).then_some(())).await?;
    stage.old = ask_all(cast, stage, screen).await?;
    ensure!(stage.old.iter().all(|answer| answer.version == 1), "version 1 answers");
    screen.done(format!(
        "Open Inference Protocol over HTTP on a Unix socket; {}",
        score(&stage.digits, &stage.old)
    ));
    let drawn = worth_a_look(&stage.digits, &stage.old);
    for row in digits::draw(drawn.iter().map(|(digit, _)| *digit)) {
        screen.detail(row);
    }
    screen.detail(verdicts(&drawn, screen));
    Ok(())
}

/// Every digit that was read wrong, as far as they fit, after different ones that were read right.
fn worth_a_look<'a>(digits: &'a [Digit], answers: &'a [Answer]) -> Vec<(&'a Digit, &'a Answer)> {
    let (right, mut wrong): (Vec<_>, Vec<_>) =
        digits.iter().zip(answers).partition(|(digit, answer)| answer.digit() == Some(digit.label));
    wrong.truncate(DRAWN / 2);
    let mut drawn: Vec<(&Digit, &Answer)> = Vec::with_capacity(DRAWN);
    for pair in right {
        if drawn.len() + wrong.len() < DRAWN && drawn.iter().all(|(digit, _)| digit.label != pair.0.label) {
            drawn.push(pair);
        }
    }
    drawn.append(&mut wrong);
    drawn
}

/// What the model that serves now says about every digit.
pub(super) async fn ask_all(cast: &mut Cast, stage: &Stage, screen: &Screen) -> Result<Vec<Answer>> {
    let mut predictor = Predictor::connect(&cast.device()?.infer_socket(), &stage.model).await?;
    let mut answers = Vec::with_capacity(stage.digits.len());
    for digit in stage.digits.iter() {
        answers.push(predictor.ask(digit).await?);
        screen.doing(format!("asked about {} of {} digits", answers.len(), stage.digits.len()));
    }
    Ok(answers)
}

/// How many of the digits were read right.
pub(super) fn score(digits: &[Digit], answers: &[Answer]) -> String {
    let right =
        digits.iter().zip(answers).filter(|(digit, answer)| answer.digit() == Some(digit.label)).count();
    format!("{right} of {} held-out digits right", digits.len())
}

/// What was said about each drawn digit, below it.
fn verdicts(drawn: &[(&Digit, &Answer)], screen: &Screen) -> String {
    let cells = drawn.iter().map(|(digit, answer)| {
        let said = answer.digit().map_or_else(|| "?".to_owned(), |digit| digit.to_string());
        let (tone, text) = if answer.digit() == Some(digit.label) {
            (Tone::Good, format!("{said} right"))
        } else {
            (Tone::Bad, format!("{said}, is {}", digit.label))
        };
        screen.paint(tone, &format!("{text:<width$}", width = digits::SIDE))
    });
    cells.collect::<Vec<_>>().join("  ")
}
