//! How many bytes may be on their way: the device's own flow control.
//!
//! In: when blocks were asked for and when they came. Out: the window in bytes, and after how long a block is taken
//! for lost. Starts at 512 KiB, doubles each round trip while the link carries more, and settles at twice the
//! bandwidth-delay product: the second half covers what the answers queue behind.
//!
//! Source of the round-trip estimator: RFC 6298 (weights 1/8 and 1/4). Of the window: Cardwell et al., "BBR:
//! Congestion-Based Congestion Control" (2016), the highest delivery rate times the lowest round trip.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// The limits of a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowLimits {
    pub(crate) first: u64,
    pub(crate) lowest: u64,
    pub(crate) near: u64,
    pub(crate) far: u64,
    pub(crate) far_round_trip: Duration,
    pub(crate) shortest_reask: Duration,
    pub(crate) first_reask: Duration,
}

/// Delivery rates that the highest is taken from.
const ROUNDS: usize = 8;

#[derive(Debug)]
pub(crate) struct Flow {
    limits: FlowLimits,
    window: u64,
    lowest_trip: Option<Duration>,
    smoothed: Option<(Duration, Duration)>,
    rates: VecDeque<f64>,
    round: Option<(Instant, u64)>,
    // How often in a row nothing came in time.
    stalls: u32,
}

impl Flow {
    pub(crate) const fn new(limits: FlowLimits) -> Self {
        Self {
            limits,
            window: limits.first,
            lowest_trip: None,
            smoothed: None,
            rates: VecDeque::new(),
            round: None,
            stalls: 0,
        }
    }

    /// Bytes that may be asked for and not here.
    pub(crate) const fn window(&self) -> u64 {
        self.window
    }

    /// After how long without an answer a block is asked for again: three smoothed round trips and four deviations,
    /// doubled with each time in a row that nothing came at all.
    pub(crate) fn patience(&self) -> Duration {
        let patience = match self.smoothed {
            None => self.limits.first_reask,
            Some((mean, deviation)) => (mean * 3 + deviation * 4).max(self.limits.shortest_reask),
        };
        patience.saturating_mul(1 << self.stalls.min(4)).min(Duration::from_secs(60))
    }

    /// Nothing came within [`Self::patience`].
    pub(crate) const fn stalled(&mut self) {
        self.stalls = self.stalls.saturating_add(1);
    }

    /// A block of `bytes` came; `asked` is when, for one that was asked for only once.
    pub(crate) fn arrived(&mut self, bytes: u64, asked: Option<Instant>, now: Instant) {
        self.stalls = 0;
        if let Some(asked) = asked {
            self.sample(now.saturating_duration_since(asked));
        }
        let Some((since, sum)) = self.round else {
            self.round = Some((now, 0));
            return;
        };
        let sum = sum + bytes;
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= self.lowest_trip.unwrap_or_default().max(Duration::from_millis(20)) {
            self.rated(sum, elapsed);
            self.round = Some((now, 0));
        } else {
            self.round = Some((since, sum));
        }
    }

    /// The connection is new: what was on its way is not, and the time without it is no measure of the link.
    pub(crate) const fn restarted(&mut self) {
        self.round = None;
        self.stalls = 0;
    }

    fn sample(&mut self, trip: Duration) {
        self.lowest_trip = Some(self.lowest_trip.map_or(trip, |lowest| lowest.min(trip)));
        self.smoothed = Some(match self.smoothed {
            None => (trip, trip / 2),
            Some((mean, deviation)) => ((mean * 7 + trip) / 8, (deviation * 3 + mean.abs_diff(trip)) / 4),
        });
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate, clamped to the limits"
    )]
    fn rated(&mut self, bytes: u64, elapsed: Duration) {
        self.rates.push_back(bytes as f64 / elapsed.as_secs_f64());
        if self.rates.len() > ROUNDS {
            self.rates.pop_front();
        }
        let Some(trip) = self.lowest_trip else { return };
        let highest = self.rates.iter().copied().fold(0.0, f64::max);
        let wanted = (2.0 * highest * trip.as_secs_f64()) as u64;
        let most = if trip > self.limits.far_round_trip { self.limits.far } else { self.limits.near };
        self.window = wanted.min(self.window * 2).clamp(self.limits.lowest, most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: FlowLimits = FlowLimits {
        first: 512 << 10,
        lowest: 128 << 10,
        near: 4 << 20,
        far: 8 << 20,
        far_round_trip: Duration::from_millis(50),
        shortest_reask: Duration::from_millis(500),
        first_reask: Duration::from_secs(5),
    };

    /// The window after `seconds` on a link that carries `rate` bytes per second with this round trip.
    fn window_after(rate: f64, trip: Duration, seconds: u64) -> u64 {
        let mut flow = Flow::new(LIMITS);
        let start = Instant::now();
        let (mut now, end) = (start, start + Duration::from_secs(seconds));
        while now < end {
            // One window is asked for at once, and comes at the link's rate after the round trip.
            let asked = now;
            now += trip;
            let mut left = flow.window();
            while left > 0 {
                let block = left.min(128 << 10);
                now += Duration::from_secs_f64(block as f64 / rate);
                flow.arrived(block, Some(asked), now);
                left -= block;
            }
        }
        flow.window()
    }

    #[test]
    fn the_window_grows_to_what_the_link_carries_and_not_beyond_its_limit() {
        assert_eq!(window_after(400e6, Duration::from_millis(100), 5), 8 << 20, "far and fast");
        assert_eq!(window_after(400e6, Duration::from_millis(40), 5), 4 << 20, "nearer and fast");
        assert!(window_after(100e6, Duration::from_millis(1), 5) <= 1 << 20, "near");
        assert!(window_after(125e3, Duration::from_millis(50), 60) <= 512 << 10, "slow");
    }

    #[test]
    fn patience_is_three_round_trips_and_doubles_while_nothing_comes() {
        let mut flow = Flow::new(LIMITS);
        assert_eq!(flow.patience(), Duration::from_secs(5));
        let start = Instant::now();
        for n in 0..50 {
            let asked = start + Duration::from_millis(n * 300);
            flow.arrived(1_000, Some(asked), asked + Duration::from_millis(300));
        }
        let patience = flow.patience();
        assert!(
            (Duration::from_millis(900)..Duration::from_millis(1_000)).contains(&patience),
            "{patience:?}"
        );
        flow.stalled();
        assert_eq!(flow.patience(), patience * 2);
        flow.arrived(1_000, None, start + Duration::from_secs(60));
        assert_eq!(flow.patience(), patience);
    }
}
