//! Measures settings, one worker process at a time.
//!
//! In: proposals, golden vectors, a time budget, and a [`Bench`] that starts workers. Out: what is known of each
//! setting afterwards. Whatever a worker does is an outcome: no failure stops the others.

mod quantile;

use std::{future::Future, time::Duration};

use agentd_engine::{LoadSpec, Loaded, Tensor};
use agentd_types::{ByteCount, Code, Digest, Setting, TensorSpec, UnixTime};
use agentd_wire::{Figures, Outcome, Profile};
use tokio::time::{Instant, timeout};

use crate::{Evidence, GoldenSet, Proposal};

/// Starts workers, each of which measures one setting.
pub trait Bench: Sync {
    /// A worker.
    type Runner: Runner;

    /// Starts a worker that knows no model yet.
    ///
    /// # Errors
    /// When no worker can be started.
    fn start(&self) -> impl Future<Output = Result<Self::Runner, Failure>> + Send;
}

/// A worker, as measuring needs it. Dropping it ends it.
pub trait Runner: Send {
    /// Loads the model in a setting.
    ///
    /// # Errors
    /// When it does not load in time.
    fn load(
        &mut self,
        spec: &LoadSpec,
        deadline: Duration,
    ) -> impl Future<Output = Result<Loaded, Failure>> + Send;

    /// Answers one request.
    ///
    /// # Errors
    /// When it does not answer in time.
    fn infer(
        &mut self,
        inputs: &[Tensor],
        deadline: Duration,
    ) -> impl Future<Output = Result<Vec<Tensor>, Failure>> + Send;

    /// Runs the same inputs again and again: `warm_up` runs that do not count, then for `times.measure` or
    /// `times.max_runs`, whichever ends first.
    ///
    /// # Errors
    /// When it is not done before the deadline.
    fn measure(
        &mut self,
        inputs: &[Tensor],
        warm_up: u32,
        times: &Times,
        deadline: Duration,
    ) -> impl Future<Output = Result<Samples, Failure>> + Send;

    /// The most memory that it has taken so far.
    fn peak_memory(&self) -> ByteCount;

    /// Ends it and waits until it is gone.
    fn stop(self) -> impl Future<Output = ()> + Send;
}

/// Why a worker did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// What happened, with its causes.
    pub message: String,
}

/// Measured latencies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// Microseconds of each run.
    pub latencies_us: Vec<u64>,
    /// Wall time of all these runs.
    pub wall: Duration,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// For loading the model.
    pub load: Duration,
    /// For one answer.
    pub answer: Duration,
    /// For the runs that count.
    pub measure: Duration,
    /// Runs that count at most.
    pub max_runs: u32,
    /// Runs that do not count.
    pub warm_up_runs: u32,
    /// For one setting from start to end.
    pub setting: Duration,
    /// For all settings; those whose turn has not come by then are not measured.
    pub all: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            load: Duration::from_secs(60),
            answer: Duration::from_secs(10),
            measure: Duration::from_millis(500),
            max_runs: 100_000,
            warm_up_runs: 5,
            setting: Duration::from_secs(120),
            all: Duration::from_secs(300),
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct MeasureRequest<'a> {
    /// The settings; those ruled out are not started.
    pub proposals: &'a [Proposal],
    /// The model's inputs.
    pub inputs: &'a [TensorSpec],
    /// The model's outputs.
    pub outputs: &'a [TensorSpec],
    /// Held first; the first vector's inputs are those that are measured.
    pub golden: &'a GoldenSet,
    /// Profiles of this bundle on this hardware that are kept: their settings are not measured again.
    pub known: &'a [Profile],
    /// Time limits.
    pub times: Times,
}

/// How far measuring is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress<'a> {
    /// A setting's turn has come: it is number `at`, from 1, of `of`.
    Started {
        /// The setting.
        setting: Setting,
        /// Its number, from 1.
        at: usize,
        /// Settings in all.
        of: usize,
    },
    /// A setting is measured.
    Done {
        /// The setting.
        setting: Setting,
        /// What came out.
        outcome: &'a Outcome,
    },
}

/// Measures each proposal of `request` and tells `progress` about each one that is really measured.
///
/// Returns what is known of every proposal, in their order. May be dropped at any time: the worker then ends.
pub async fn measure<B: Bench>(
    bench: &B,
    request: &MeasureRequest<'_>,
    mut progress: impl FnMut(Progress<'_>) + Send,
) -> Vec<(Setting, Evidence)> {
    let begun = Instant::now();
    let to_measure =
        request.proposals.iter().filter(|p| p.ruled_out.is_none() && request.kept(p.setting).is_none());
    let of = to_measure.count();
    let mut at = 0;
    let mut known = Vec::with_capacity(request.proposals.len());
    for Proposal { setting, ruled_out } in request.proposals {
        let evidence = if let Some(out) = ruled_out {
            Evidence::RuledOut(out.clone())
        } else if let Some(outcome) = request.kept(*setting) {
            Evidence::Outcome(outcome.clone())
        } else if begun.elapsed() >= request.times.all {
            Evidence::NotMeasured
        } else {
            at += 1;
            progress(Progress::Started { setting: *setting, at, of });
            let outcome = setting_within_time(bench, *setting, request).await;
            progress(Progress::Done { setting: *setting, outcome: &outcome });
            Evidence::Outcome(outcome)
        };
        known.push((*setting, evidence));
    }
    known
}

impl MeasureRequest<'_> {
    fn kept(&self, setting: Setting) -> Option<&Outcome> {
        self.known.iter().find(|profile| profile.setting == setting).map(|profile| &profile.outcome)
    }
}

impl Evidence {
    /// The profile to keep, when there is an outcome.
    pub fn profile(
        &self,
        setting: Setting,
        bundle: Digest,
        hardware: Digest,
        at: UnixTime,
    ) -> Option<Profile> {
        match self {
            Self::Outcome(outcome) => {
                Some(Profile { bundle, setting, hardware, at, outcome: outcome.clone() })
            }
            Self::RuledOut(_) | Self::NotMeasured => None,
        }
    }
}

async fn setting_within_time<B: Bench>(bench: &B, setting: Setting, request: &MeasureRequest<'_>) -> Outcome {
    match timeout(request.times.setting, one_setting(bench, setting, request)).await {
        Ok(Ok(figures)) => Outcome::Measured(figures),
        Ok(Err(outcome)) => outcome,
        Err(_) => failed(
            "placement.timeout",
            format!("not done within {}", agentd_types::human_duration(request.times.setting)),
        ),
    }
}

async fn one_setting<B: Bench>(
    bench: &B,
    setting: Setting,
    request: &MeasureRequest<'_>,
) -> Result<Figures, Outcome> {
    let mut runner = bench.start().await?;
    let result = with_runner(&mut runner, setting, request).await;
    runner.stop().await;
    result
}

async fn with_runner<R: Runner>(
    runner: &mut R,
    setting: Setting,
    request: &MeasureRequest<'_>,
) -> Result<Figures, Outcome> {
    let times = &request.times;
    let spec = LoadSpec { setting, inputs: request.inputs.to_vec(), outputs: request.outputs.to_vec() };
    let loaded = runner.load(&spec, times.load).await?;
    let golden_off_ppm = hold_golden(runner, request).await?;
    let inputs = request.golden.sample(request.inputs, setting.batch).ok_or_else(|| {
        failed("placement.no_inputs", "there are no inputs to measure with, or they are too large".to_owned())
    })?;
    let begun = Instant::now();
    runner.infer(&inputs, times.answer).await?;
    let warm_up = warm_up_runs(begun.elapsed(), times);
    let deadline = times.measure.saturating_add(times.answer.saturating_mul(warm_up.saturating_add(2)));
    let samples = runner.measure(&inputs, warm_up, times, deadline).await?;
    let peak_memory = loaded.peak_memory.max(runner.peak_memory());
    figures(samples, setting, &loaded, golden_off_ppm, peak_memory)
        .ok_or_else(|| failed("placement.no_runs", "the worker reported no runs".to_owned()))
}

/// The largest deviation of all golden vectors, in millionths.
async fn hold_golden<R: Runner>(runner: &mut R, request: &MeasureRequest<'_>) -> Result<u64, Outcome> {
    let mut worst = 0;
    for (golden, vector) in request.golden.vectors.iter().enumerate() {
        let got = runner.infer(&vector.inputs, request.times.answer).await?;
        worst = worst.max(vector.judge(golden, request.outputs, &got)?);
    }
    Ok(worst)
}

/// Fewer runs warm a slow model up: together they take no longer than the runs that count.
fn warm_up_runs(one: Duration, times: &Times) -> u32 {
    let fitting = times.measure.as_micros() / one.as_micros().max(1);
    u32::try_from(fitting).unwrap_or(u32::MAX).min(times.warm_up_runs)
}

#[expect(clippy::cast_precision_loss, reason = "a rate is not exact")]
fn figures(
    samples: Samples,
    setting: Setting,
    loaded: &Loaded,
    golden_off_ppm: u64,
    peak_memory: ByteCount,
) -> Option<Figures> {
    let Samples { mut latencies_us, wall } = samples;
    latencies_us.sort_unstable();
    let quantile = |q| quantile::nearest_rank(&latencies_us, q);
    let answered = latencies_us.len() as f64 * f64::from(setting.batch);
    Some(Figures {
        p50_us: quantile(0.50)?,
        p90_us: quantile(0.90)?,
        p99_us: quantile(0.99)?,
        max_us: *latencies_us.last()?,
        per_second: answered / wall.as_secs_f64().max(1e-6),
        runs: u32::try_from(latencies_us.len()).unwrap_or(u32::MAX),
        peak_memory,
        load_us: u64::try_from(loaded.load_time.as_micros()).unwrap_or(u64::MAX),
        golden_off_ppm,
        fallback_nodes: loaded.fallback_nodes,
    })
}

fn failed(code: &'static str, message: String) -> Outcome {
    Outcome::Failed { code: Code::new(code), message }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failed { code: failure.code, message: failure.message }
    }
}

#[cfg(test)]
mod tests;
