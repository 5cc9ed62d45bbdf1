//! Records latencies in a histogram of fixed size, from many tasks at once, without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Buckets of equal width in each power of two.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// The last bucket ends at 2^32 us or 71 minutes, above every deadline.
const BUCKETS: usize = 28 * 32; // one octave of exact values and 27 above it, of `STEPS` each

/// A log-linear histogram of microseconds.
///
/// Values below 32 us are exact; above, a bucket is 1/32 of its power of two wide and answers with its middle, so a
/// quantile is off by at most 1.6 %. 7 KiB. Source of the form: Gil Tene, HdrHistogram.
#[derive(Debug)]
pub struct Latency {
    buckets: Box<[AtomicU64]>,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Latency {
    /// Adds one latency; those above 71 minutes count as 71 minutes.
    pub fn record(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.buckets.get(bucket_of(us)).or(self.buckets.last());
        if let Some(bucket) = bucket {
            bucket.fetch_add(1, Relaxed);
        }
    }

    /// The quantiles `q`, fractions in `0.0..=1.0`, in microseconds by nearest rank; `None` while nothing was
    /// recorded.
    pub fn quantiles_us<const N: usize>(&self, q: [f64; N]) -> Option<[u64; N]> {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        (total > 0).then(|| q.map(|q| nearest_rank(&counts, total, q)))
    }
}

fn nearest_rank(counts: &[u64], total: u64, q: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank between 1 and the total; the histogram itself is coarser"
    )]
    let rank = ((total as f64 * q.clamp(0.0, 1.0)).ceil() as u64).max(1);
    let mut seen = 0;
    let index = counts.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    middle_of(index.unwrap_or(BUCKETS - 1))
}

fn bucket_of(us: u64) -> usize {
    let octave = u64::BITS - us.leading_zeros();
    let shift = octave.saturating_sub(STEP_BITS + 1);
    let step = us >> shift; // below 2 * STEPS
    usize::try_from(u64::from(shift) * STEPS + step).unwrap_or(usize::MAX)
}

const fn middle_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let step = bucket % STEPS + STEPS;
    (step << shift) + (1 << shift) / 2
}

/// Events per second over the last ten whole seconds.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    slots: [AtomicU64; 16],
}

/// A slot holds the second in its upper half and the count in its lower.
const COUNT_BITS: u32 = 32;
const WINDOW_S: u64 = 10;

impl Rate {
    /// Counts one event at `now`, a time since any fixed point.
    pub(crate) fn record(&self, now: Duration) {
        let second = now.as_secs();
        let Some(slot) = self.slots.get(slot_of(second)) else { return };
        let held = slot.load(Relaxed);
        if held >> COUNT_BITS == second & u64::from(u32::MAX) {
            slot.fetch_add(1, Relaxed);
        } else {
            // A race loses at most the counts of one instant, once a second.
            slot.store(second << COUNT_BITS | 1, Relaxed);
        }
    }

    /// Events per second in the ten whole seconds before `now`.
    pub(crate) fn per_second(&self, now: Duration) -> f64 {
        let now = now.as_secs();
        let first = now.saturating_sub(WINDOW_S);
        let count: u64 = self
            .slots
            .iter()
            .map(|slot| slot.load(Relaxed))
            .filter(|held| (first..now).contains(&(held >> COUNT_BITS)))
            .map(|held| held & u64::from(u32::MAX))
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = count as f64 / (now - first).max(1) as f64;
        rate
    }
}

fn slot_of(second: u64) -> usize {
    usize::try_from(second % 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_off_by_at_most_a_sixtyfourth() {
        for us in (0..200).chain([1_000, 4_097, 65_535, 1_000_000, 2_000_000_000]) {
            let latency = Latency::default();
            latency.record(Duration::from_micros(us));
            let [got] = latency.quantiles_us([0.5]).unwrap();
            assert!(got.abs_diff(us) * 64 <= us, "{us} came back as {got}");
        }
    }

    #[test]
    fn buckets_touch_and_rise() {
        let mut last = 0;
        for us in 0..100_000 {
            let bucket = bucket_of(us);
            assert!(bucket == last || bucket == last + 1, "{us}");
            last = bucket;
        }
    }

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let latency = Latency::default();
        assert_eq!(latency.quantiles_us([0.5]), None);
        (1..=30).for_each(|us| latency.record(Duration::from_micros(us)));
        assert_eq!(latency.quantiles_us([0.0, 0.5, 0.9, 1.0]), Some([1, 15, 27, 30]));
    }

    #[test]
    fn the_longest_latency_is_kept_in_the_last_bucket() {
        let latency = Latency::default();
        latency.record(Duration::from_secs(1 << 40));
        let [got] = latency.quantiles_us([0.5]).unwrap();
        assert!(got > 1 << 31, "{got}");
    }

    #[test]
    fn a_rate_counts_the_last_ten_whole_seconds() {
        let rate = Rate::default();
        for second in 100..130 {
            (0..second).for_each(|_| rate.record(Duration::from_secs(second)));
        }
        let want = (120..130).sum::<u64>() as f64 / 10.0;
        assert!((rate.per_second(Duration::from_secs(130)) - want).abs() < 1e-9);
        assert!(rate.per_second(Duration::from_secs(200)) < 1e-9);
    }
}
