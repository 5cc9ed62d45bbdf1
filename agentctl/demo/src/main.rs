//! One command that shows the whole product on a real model and real data; holds the embedded broker.
//!
//! In: nothing but this repository. Out: the main job, step by step, on the screen. Needs no root, network or installed
//! service, writes nowhere but to a temporary folder, and leaves nothing behind, whether it ends well, badly, or by
//! Ctrl-C. Read `scenario` first.

use std::{env, process::ExitCode};

use agentd_types::human_duration;
use anyhow::{Context as _, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

mod scenario;

mod broker;
mod device;
mod engineer;

mod digits;
mod load;
mod predict;

mod programs;
mod screen;

use broker::Broker;
use programs::Build;
use scenario::Cast;
use screen::{Screen, Tone};

const HELP: &str = "\
Shows agentd's main job on a real model and real data.

Usage: cargo demo                        everything, in about a minute after the build
       cargo demo --broker-only PORT     only an MQTT 5 broker on 127.0.0.1, for a first try of your own

Options:
  --built    take the programs that lie beside this one, without building them
  --keep     keep the temporary folder with keys, bundles, state and logs
  --help     show this";

const NEXT: &str = "\
Try next:  agentctl bench your-model.onnx     agentctl --help     README: \"Your own model on your own box\"";

/// What was asked for.
enum Wanted {
    Demo { keep: bool, build: Build },
    BrokerOnly { port: u16 },
    Help,
}

impl Wanted {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let (mut keep, mut build) = (false, Build::Yes);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--keep" => keep = true,
                "--built" => build = Build::No,
                "--help" | "-h" => return Ok(Self::Help),
                "--broker-only" => {
                    let port = arguments.next().context("--broker-only needs a port")?;
                    let port = port.parse().with_context(|| format!("`{port}` is not a port"))?;
                    return Ok(Self::BrokerOnly { port });
                }
                other => bail!("`{other}` is not known; try --help"),
            }
        }
        Ok(Self::Demo { keep, build })
    }
}

fn main() -> ExitCode {
    let mut screen = Screen::new();
    let ended = Wanted::read(env::args().skip(1)).and_then(|wanted| run(wanted, &mut screen));
    screen.clear();
    match ended {
        Ok(code) => code,
        Err(error) => {
            let label = screen.paint(Tone::Bad, "error:");
            screen.line(format!("{label} {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// How a program ends that somebody interrupted, as shells have it.
const INTERRUPTED: u8 = 130;

fn run(wanted: Wanted, screen: &mut Screen) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match wanted {
            Wanted::Help => {
                screen.line(HELP);
                Ok(ExitCode::SUCCESS)
            }
            Wanted::BrokerOnly { port } => broker_only(port, screen).await.map(|()| ExitCode::SUCCESS),
            Wanted::Demo { keep, build } => demo(keep, build, screen).await,
        }
    })
}

async fn broker_only(port: u16, screen: &Screen) -> Result<()> {
    let broker = Broker::start(port).await?;
    screen.line(format!("MQTT 5 broker on {}; keeps nothing; Ctrl-C ends it", broker.address()));
    interrupted().await?;
    broker.stop().await;
    Ok(())
}

async fn demo(keep: bool, build: Build, screen: &mut Screen) -> Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("agentd-demo-").tempdir().context("no temporary folder")?;
    let mut cast = Cast::new(folder.path())?;
    // Whichever comes first; what runs is ended below in either case.
    let played = tokio::select! {
        played = scenario::play(&mut cast, build, screen) => played.map(Some).with_context(|| screen.current()),
        interrupt = interrupted() => interrupt.map(|()| None),
    };
    screen.clear();
    let ended = cast.end().await;
    if played.is_err() || ended.is_err() {
        cast.show_logs(screen);
    }
    let left = if keep {
        format!("kept: {}", folder.keep().display())
    } else {
        folder.close().context("the temporary folder cannot be removed")?;
        "nothing is left of it on this machine".to_owned()
    };
    let played = played?;
    ended?;
    let Some(took) = played else {
        screen.line(format!("Interrupted; {left}."));
        return Ok(ExitCode::from(INTERRUPTED));
    };
    screen.line("");
    screen.line(format!("All of it in {}; {left}.", human_duration(took)));
    screen.line(NEXT);
    Ok(ExitCode::SUCCESS)
}

/// Waits until somebody wants this to end.
async fn interrupted() -> Result<()> {
    let (mut ctrl_c, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = ctrl_c.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}
