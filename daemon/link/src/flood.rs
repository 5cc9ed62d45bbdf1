//! Token buckets: how much of what may come in, and go out.
//!
//! In: the time of a monotonic clock. Out: whether something may pass now, or when. Never waits itself.

use std::time::Duration;

use tokio::time::Instant;

/// Lets `per_second` through, and `burst` at once after a pause.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_second: f64::from(per_second.max(1)), burst, tokens: burst, at: now }
    }

    /// Takes `count` tokens if they are there. What is larger than the bucket passes when the bucket is full, and
    /// leaves a debt.
    pub fn take(&mut self, count: u32, now: Instant) -> bool {
        self.fill(now);
        let enough = self.tokens >= f64::from(count).min(self.burst);
        if enough {
            self.tokens -= f64::from(count);
        }
        enough
    }

    /// How long until `count` tokens are there; zero when they are.
    pub fn wait(&mut self, count: u32, now: Instant) -> Duration {
        self.fill(now);
        let missing = f64::from(count).min(self.burst) - self.tokens;
        if missing <= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(missing / self.per_second) }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = elapsed.mul_add(self.per_second, self.tokens).min(self.burst);
        self.at = now;
    }
}

/// How much the control connection takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodPolicy {
    /// Documents handed on per second, on average. The newest of each topic is kept, so a flood delays but loses
    /// nothing that matters.
    pub documents_per_second: u32,
    /// Documents handed on at once.
    pub documents_burst: u32,
    /// Commands per second, on average; further ones are dropped and counted, and expire at whoever gave them.
    pub commands_per_second: u32,
    /// Commands at once.
    pub commands_burst: u32,
    /// The largest document, in bytes; larger ones are dropped and counted.
    pub max_document: usize,
}

impl Default for FloodPolicy {
    fn default() -> Self {
        Self {
            documents_per_second: 20,
            documents_burst: 256,
            commands_per_second: 5,
            commands_burst: 32,
            max_document: 1 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 5, start);
        assert_eq!((0..10).filter(|_| bucket.take(1, start)).count(), 5);
        assert_eq!(bucket.wait(1, start), Duration::from_millis(100));
        let later = start + Duration::from_millis(250);
        assert_eq!((0..10).filter(|_| bucket.take(1, later)).count(), 2);
        let much_later = start + Duration::from_secs(3_600);
        assert_eq!((0..10).filter(|_| bucket.take(1, much_later)).count(), 5);
    }

    #[test]
    fn something_larger_than_the_bucket_passes_once_and_leaves_a_debt() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 5, start);
        assert!(bucket.take(20, start));
        assert!(!bucket.take(1, start + Duration::from_secs(1)));
        assert!(bucket.take(1, start + Duration::from_secs(2)));
    }
}
