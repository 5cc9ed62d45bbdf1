//! What the demo shows, in order; [`play`] is the whole of it.
//!
//! In: a temporary folder. Out: steps on the screen. Each claim on the screen was checked just before it was written, and
//! a check that fails ends the demo.

mod prepare;

mod line;

mod change;
mod tamper;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use agentd_types::{ModelName, human_duration};
use anyhow::{Context as _, Result};

use crate::{
    broker::Broker,
    device::Device,
    digits::{self, Digit},
    engineer::Engineer,
    predict::Answer,
    programs::{self, Build, Child, Programs},
    screen::{Screen, Tone},
};

const TITLE: &str = "agentd demo - everything below is real: broker, keys, bundles, daemon, model, data";

/// Shows everything, step by step, and returns how long that took after the programs were built.
pub(crate) async fn play(cast: &mut Cast, build: Build, screen: &mut Screen) -> Result<Duration> {
    screen.line(screen.paint(Tone::Bold, TITLE));
    let began = Instant::now();
    let programs = Programs::beside(&cast.engineer_folder())?;
    if build == Build::Yes {
        programs.build().await?;
        screen.line(format!("programs built in {}", human_duration(began.elapsed())));
    }
    screen.line("");

    let began = Instant::now();
    let engineer = prepare::broker(cast, programs, screen).await?;
    let trust = prepare::trust(&engineer, screen).await?;
    let first = prepare::bundle(&engineer, screen).await?;
    prepare::device(cast, &engineer, &trust, screen).await?;

    let mut stage = Stage::set(engineer)?;
    line::deliver(cast, &stage, &first, screen).await?;
    line::measure(cast, &stage, screen).await?;
    line::serve(cast, &mut stage, screen).await?;

    change::upgrade(cast, &mut stage, screen).await?;
    change::refuse(cast, &stage, screen).await?;
    change::report(&stage, screen).await?;
    change::roll_back(cast, &stage, screen).await?;

    Ok(began.elapsed())
}

/// Everything that runs, so that it can be ended whatever happens.
#[derive(Default)]
pub(crate) struct Cast {
    folder: PathBuf,
    broker: Option<Broker>,
    server: Option<Child>,
    device: Option<Device>,
}

impl Cast {
    /// Nothing runs yet; all of it will keep to `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let cast = Self { folder: folder.to_owned(), ..Self::default() };
        fs::create_dir(cast.engineer_folder())?;
        Ok(cast)
    }

    fn engineer_folder(&self) -> PathBuf {
        self.folder.join("engineer")
    }

    fn device_folder(&self) -> PathBuf {
        self.folder.join("device")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("log")
    }

    fn device(&mut self) -> Result<&mut Device> {
        self.device.as_mut().context("the device runs")
    }

    /// Ends the server of blocks and the broker: the device is alone.
    async fn cut_network(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.end().await?;
        }
        if let Some(broker) = self.broker.take() {
            broker.stop().await;
        }
        Ok(())
    }

    /// Ends everything that still runs.
    pub(crate) async fn end(&mut self) -> Result<()> {
        let device = match self.device.take() {
            Some(device) => device.end().await,
            None => Ok(()),
        };
        self.cut_network().await.and(device)
    }

    /// The last lines of every log, for a person who wonders what went wrong.
    pub(crate) fn show_logs(&self, screen: &Screen) {
        for name in ["device", "server"] {
            if let Ok(tail) = programs::tail(&self.log(name)) {
                screen.line(screen.paint(Tone::Bold, &format!("last lines of the {name}'s log:")));
                screen.line(tail);
            }
        }
    }
}

/// What the steps hand to each other.
struct Stage {
    engineer: Engineer,
    model: ModelName,
    digits: Arc<[Digit]>,
    /// What version 1 says about each digit.
    old: Vec<Answer>,
    /// What version 2 says about each digit.
    new: Vec<Answer>,
}

impl Stage {
    fn set(engineer: Engineer) -> Result<Self> {
        let digits = digits::read(&digits_folder().join("heldout"))?.into();
        Ok(Self { engineer, model: "demo/digits".parse()?, digits, old: Vec::new(), new: Vec::new() })
    }
}

/// The model's two versions and the held-out digits.
fn digits_folder() -> PathBuf {
    programs::root().join("tests/digits")
}
