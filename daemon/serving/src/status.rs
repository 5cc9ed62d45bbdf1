//! What is known of deployments at one moment.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use agentd_types::{Digest, ModelName, Setting, UnixTime};

use crate::{Instance, served::Served};

/// A deployment and how it does.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentStatus {
    /// The model's name.
    pub name: ModelName,
    /// The version that answers.
    pub active: VersionStatus,
    /// The version that is kept ready for a roll-back.
    pub previous: Option<VersionStatus>,
}

/// A version and how it does. Counts are since it was activated first.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionStatus {
    /// The version's number.
    pub version: u64,
    /// Digest of its bundle.
    pub bundle: Digest,
    /// The setting that its instances run in.
    pub setting: Setting,
    /// When it was activated first.
    pub since: UnixTime,
    /// Instances that answer.
    pub instances: usize,
    /// Instances that died, in all.
    pub deaths: u64,
    /// Requests being answered, those that wait included.
    pub in_flight: u64,
    /// Requests that wait for an instance.
    pub waiting: usize,
    /// Requests answered.
    pub success: u64,
    /// Requests that got an error, refused ones not counted.
    pub failure: u64,
    /// Requests refused with 503: the queue was full or the wait too long.
    pub refused: u64,
    /// Answers per second over the last ten seconds.
    pub per_second: f64,
    /// Quantiles of the time from a request's head to its answer, off by at most 1.6 %; `None` before the first.
    pub latency: Option<Quantiles>,
    /// Time that all requests together waited for an instance.
    pub queue_time: Duration,
    /// Time that all requests together were computed.
    pub compute_time: Duration,
}

/// Latencies in microseconds, by nearest rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named with their units")]
pub struct Quantiles {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl VersionStatus {
    pub(crate) fn of<I: Instance>(served: &Served<I>) -> Self {
        let counters = &served.counters;
        Self {
            version: served.subject.version,
            bundle: served.subject.bundle,
            setting: served.setting,
            since: served.since,
            instances: served.pool.alive(),
            deaths: counters.deaths.load(Relaxed),
            in_flight: counters.in_flight.load(Relaxed),
            waiting: served.pool.waiting(),
            success: counters.success.count(),
            failure: counters.failure.count(),
            refused: counters.refused.load(Relaxed),
            per_second: counters.per_second(),
            latency: counters
                .latency
                .quantiles_us([0.5, 0.9, 0.99, 1.0])
                .map(|[p50_us, p90_us, p99_us, max_us]| Quantiles { p50_us, p90_us, p99_us, max_us }),
            queue_time: Duration::from_nanos(counters.queue.nanos()),
            compute_time: Duration::from_nanos(counters.compute.nanos()),
        }
    }
}
