//! What is counted of one version.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{Latency, latency::Rate};

/// Counts and sums since the version was activated first.
#[derive(Debug)]
pub(crate) struct Counters {
    start: Instant,
    pub(crate) success: Timed,
    pub(crate) failure: Timed,
    /// Refused since the queue was full or the wait too long; not in `failure`.
    pub(crate) refused: AtomicU64,
    pub(crate) queue: Timed,
    pub(crate) input: Timed,
    pub(crate) compute: Timed,
    pub(crate) output: Timed,
    pub(crate) deaths: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) latency: Latency,
    rate: Rate,
}

/// How often, and how long in all.
#[derive(Debug, Default)]
pub(crate) struct Timed {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Timed {
    pub(crate) fn add(&self, took: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(crate) fn nanos(&self) -> u64 {
        self.nanos.load(Relaxed)
    }
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            success: Timed::default(),
            failure: Timed::default(),
            refused: AtomicU64::new(0),
            queue: Timed::default(),
            input: Timed::default(),
            compute: Timed::default(),
            output: Timed::default(),
            deaths: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            latency: Latency::default(),
            rate: Rate::default(),
        }
    }

    /// A request that came in at `arrival` was answered.
    pub(crate) fn answered(&self, arrival: Instant, now: Instant) {
        let took = now.saturating_duration_since(arrival);
        self.success.add(took);
        self.latency.record(took);
        self.rate.record(now.saturating_duration_since(self.start));
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.rate.per_second(self.start.elapsed())
    }

    /// Counts a request in flight until the guard is dropped.
    pub(crate) fn enter(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(&self.in_flight)
    }
}

/// One request in flight.
#[derive(Debug)]
pub(crate) struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
