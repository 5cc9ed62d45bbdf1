//! What a plan does, step by step, in the words that all engines share.

use std::time::{Duration, Instant};

use agentd_engine::{EngineError, Profile, StepProfile, TensorView};
use agentd_types::{ByteCount, TensorSpec};

use super::{Ready, failed};
use crate::{Model, StepTime};

/// Runs at most, whatever the time.
const MAX_RUNS: u32 = 100_000;
/// Characters of a node's name that are kept.
const MAX_NAME: usize = 120;

impl Ready {
    /// Runs for `time`, after one run that does not count.
    pub(super) fn profile(
        &mut self,
        specs: &[TensorSpec],
        inputs: &[TensorView<'_>],
        time: Duration,
    ) -> Result<Profile, EngineError> {
        self.run(specs, inputs)?;
        self.model.start_profile();
        let runs = self.repeat(specs, inputs, time);
        let steps = self.model.profile();
        self.model.stop_profile();
        let (runs, wall) = runs?;
        profile(&self.model, &steps, runs, wall).ok_or_else(|| failed("no run was measured"))
    }

    /// How many runs there were, and how long they took.
    fn repeat(
        &mut self,
        specs: &[TensorSpec],
        inputs: &[TensorView<'_>],
        time: Duration,
    ) -> Result<(u32, Duration), EngineError> {
        let started = Instant::now();
        for run in 1..=MAX_RUNS {
            self.run(specs, inputs)?;
            let wall = started.elapsed();
            if wall >= time {
                return Ok((run, wall));
            }
        }
        Ok((MAX_RUNS, started.elapsed()))
    }
}

fn profile(model: &Model, steps: &[StepTime], runs: u32, wall: Duration) -> Option<Profile> {
    let mean = |time: Duration| u64::try_from(time.checked_div(runs)?.as_nanos()).ok();
    let peak = model.peak();
    let step = |step: &StepTime| {
        Some(StepProfile {
            step: step.name.to_owned(),
            node: step.origin.chars().take(MAX_NAME).collect(),
            operator: step.operator.to_owned(),
            shape: step.shape.iter().map(|dim| *dim as u64).collect(),
            time_ns: mean(step.time)?,
            multiply_adds: step.multiply_adds,
            touched: ByteCount(step.touched),
            interpreted: step.is_fallback,
        })
    };
    Some(Profile {
        instructions: model.isa().as_str().to_owned(),
        threads: u16::try_from(model.threads()).unwrap_or(u16::MAX),
        runs,
        run_ns: mean(wall)?,
        peak_multiply_adds: peak.multiply_adds,
        peak_read: ByteCount(peak.read_bytes),
        arena: ByteCount(model.arena_bytes() as u64),
        constants: ByteCount(model.constant_bytes() as u64),
        steps: steps.iter().map(step).collect::<Option<_>>()?,
    })
}
