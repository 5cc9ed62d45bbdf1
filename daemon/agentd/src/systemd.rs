//! Tells the service manager that the daemon is ready, alive, or stopping.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Ready to answer.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// On the way out.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Pats the watchdog at half of its period, from the runtime that everything else runs on: a runtime that stands
/// still is restarted. Ends with `stop`, or at once when there is no watchdog.
pub(crate) async fn watchdog(stop: CancellationToken) {
    let Some(period) = sd_notify::watchdog_enabled() else { return stop.cancelled().await };
    let mut ticks = interval((period / 2).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => tell(&[NotifyState::Watchdog]),
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    drop(sd_notify::notify(states));
}
