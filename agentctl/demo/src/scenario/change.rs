//! Steps 9 to 12: an upgrade under load, a tampered bundle, the fleet's view, a roll-back without the network.

use std::{sync::Arc, time::Duration};

use agentd_types::{ByteCount, human_duration};
use agentd_wire::What;
use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::{Cast, Stage, digits_folder, line, tamper};
use crate::{
    load::Load,
    screen::{Screen, Tone, grouped},
};

/// Connections that ask for predictions while versions are switched.
const CONNECTIONS: usize = 4;

/// How long there is load before and after a switch.
const STEADY: Duration = Duration::from_secs(1);

/// Deploys version 2 while applications keep asking.
pub(super) async fn upgrade(cast: &mut Cast, stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    screen.step("upgrade", "packing and signing demo/digits 2");
    stage.engineer.take(&digits_folder().join("v2"), "digits-2")?;
    let second = stage.engineer.release("digits-2").await?;

    screen.doing(format!(
        "{CONNECTIONS} connections keep asking while version 2 is fetched, measured and switched to"
    ));
    let socket = cast.device()?.infer_socket();
    let load = Load::start(&socket, &stage.model, Arc::clone(&stage.digits), CONNECTIONS).await?;
    sleep(STEADY).await;
    stage.engineer.deploy(&second).await?;
    let mut fetched = ByteCount(0);
    let serving = cast.device()?.until(|what| match what {
        What::Fetched { bytes, .. } => {
            fetched = *bytes;
            None
        }
        What::Serving { version: 2, .. } => Some(()),
        _ => None,
    });
    serving.await?;
    sleep(STEADY).await;
    let tally = load.stop().await?;

    stage.new = line::ask_all(cast, stage, screen).await?;
    let wrong = tally.wrong(&[&stage.old, &stage.new]);
    ensure!(tally.failed == 0, "{} requests failed, the first with: {:?}", tally.failed, tally.reason);
    ensure!(wrong == 0, "{wrong} answers are neither what version 1 nor what version 2 says");
    let (before, after) = (tally.answered_by(1), tally.answered_by(2));
    ensure!(before > 0 && after > 0, "the load saw both versions");
    let rate = tally.answered.checked_div(tally.took.as_secs()).unwrap_or(tally.answered);
    screen.done(format!(
        "demo/digits 2 under load: {} requests, {}, {}; fetched {fetched} of {} (only the last layer changed)",
        grouped(tally.answered),
        screen.paint(Tone::Good, "0 failed"),
        screen.paint(Tone::Good, "0 wrong"),
        ByteCount(second.bytes),
    ));
    let (before, after) = (grouped(before), grouped(after));
    screen.detail(format!(
        "{before} answers from version 1, {after} from version 2, {} a second",
        grouped(rate)
    ));
    screen.detail(line::score(&stage.digits, &stage.new));
    Ok(())
}

/// Lets a server hand out a chunk that was tampered with.
pub(super) async fn refuse(cast: &mut Cast, stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("refuse", "publishing demo/digits 3, then tampering with one of its blocks");
    let (reason, code) = tamper::offer(cast, stage, screen).await?;
    let status = cast.device()?.status().await?;
    let model = status.models.iter().find(|model| model.name == stage.model);
    let served = model.and_then(|model| model.serving.as_ref());
    ensure!(served.is_some_and(|served| served.version == 2), "version 2 still serves");
    screen.done(format!("{} [{code}]; version 2 still serves", screen.paint(Tone::Good, &reason)));
    Ok(())
}

/// Shows what the fleet reports upstream.
pub(super) async fn report(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("report", "asking the broker what the fleet reports");
    let devices = stage.engineer.devices().await?;
    screen.done("what the fleet sees: agentctl fleet devices");
    for row in devices.lines() {
        screen.detail(row);
    }
    Ok(())
}

/// Takes version 1 back with the broker gone.
pub(super) async fn roll_back(cast: &mut Cast, stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("roll back", "ending broker and block server first");
    cast.cut_network().await?;
    let result = cast.device()?.roll_back(&stage.model).await?;
    ensure!((result.from, result.to) == (2, 1), "the roll-back leads from 2 to 1");
    let answers = line::ask_all(cast, stage, screen).await?;
    ensure!(answers == stage.old, "version 1 answers as it did");
    let took = human_duration(Duration::from_micros(result.took_us));
    screen.done(format!(
        "to version 1 in {took}, without the network; all answers are those of version 1 again"
    ));
    Ok(())
}
