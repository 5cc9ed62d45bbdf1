//! When to try again: exponential back-off with full jitter, from a seed.
//!
//! In: that an attempt failed, or that a connection stood. Out: how long to wait. Knows no clock.

use std::time::Duration;

/// A small generator of random numbers, the same for the same seed.
///
/// Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014), SplitMix64. Not for secrets.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// A generator that starts at `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A duration from zero up to `limit`, evenly spread.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).saturating_add(1).max(1);
        Duration::from_micros(self.next_u64() % micros)
    }
}

/// How long to wait between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first wait is at most this.
    pub first: Duration,
    /// No wait is longer.
    pub longest: Duration,
    /// No wait is shorter.
    pub shortest: Duration,
    /// A connection that stood this long makes the next failure a first one.
    pub stable_after: Duration,
}

impl Default for RetryPolicy {
    /// 1 s to 300 s, reset after 60 s.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            shortest: Duration::from_millis(100),
            stable_after: Duration::from_secs(60),
        }
    }
}

/// Counts failures and says how long to wait.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: RetryPolicy,
    failures: u32,
    jitter: Jitter,
}

impl Backoff {
    /// A back-off that has seen no failure.
    pub const fn new(policy: RetryPolicy, seed: u64) -> Self {
        Self { policy, failures: 0, jitter: Jitter::new(seed) }
    }

    /// Another attempt failed: how long to wait before the next.
    ///
    /// Source: Marc Brooker, "Exponential Backoff and Jitter" (2015), "full jitter", with a floor.
    pub fn failed(&mut self) -> Duration {
        let doubled = self.policy.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1).min(31);
        self.jitter.up_to(doubled.min(self.policy.longest)).max(self.policy.shortest)
    }

    /// A connection stood for `lasted`; when that was long enough, the failures before it are forgotten.
    pub fn stood(&mut self, lasted: Duration) {
        if lasted >= self.policy.stable_after {
            self.failures = 0;
        }
    }

    /// A wait spread evenly over `window`: what everybody does after the broker itself has closed.
    pub fn spread(&mut self, window: Duration) -> Duration {
        self.jitter.up_to(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_are_spread_over_all_of_it() {
        let policy = RetryPolicy::default();
        let mut late = Vec::new();
        for seed in 0..200 {
            let mut backoff = Backoff::new(policy, seed);
            let waits: Vec<_> = (0..20).map(|_| backoff.failed()).collect();
            for (n, wait) in waits.iter().enumerate() {
                let limit = policy.first.saturating_mul(1 << n.min(20)).min(policy.longest);
                assert!((policy.shortest..=limit).contains(wait), "wait {n} is {wait:?}");
            }
            late.push(waits[19]);
        }
        late.sort_unstable();
        assert!(late[20] < Duration::from_secs(60), "the tenth lowest percent lie low: {:?}", late[20]);
        assert!(late[180] > Duration::from_secs(240), "the tenth highest lie high: {:?}", late[180]);
    }

    #[test]
    fn only_a_stable_connection_resets_the_wait() {
        let policy = RetryPolicy::default();
        let mut backoff = Backoff::new(policy, 7);
        (0..20).for_each(|_| {
            backoff.failed();
        });
        backoff.stood(Duration::from_secs(59));
        let mut still_long = backoff.clone();
        assert!((0..20).any(|_| still_long.failed() > Duration::from_secs(60)));
        backoff.stood(Duration::from_secs(60));
        assert!(backoff.failed() <= Duration::from_secs(1));
    }

    #[test]
    fn the_same_seed_gives_the_same_waits() {
        let waits = |seed| {
            let mut backoff = Backoff::new(RetryPolicy::default(), seed);
            [backoff.failed(), backoff.failed(), backoff.spread(Duration::from_secs(60))]
        };
        assert_eq!(waits(3), waits(3));
        assert_ne!(waits(3), waits(4));
    }
}
