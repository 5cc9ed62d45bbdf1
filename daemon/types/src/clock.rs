//! Time comes in through this trait, so that tests and simulations own it.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::UnixTime;

/// Tells the wall-clock time. The program that owns the process passes the real one in.
pub trait Clock: Debug + Send + Sync {
    /// Seconds since 1970 as the wall clock claims them; it may be wrong, jump or stand still.
    fn now(&self) -> UnixTime;
}

/// A clock that stands where it was set.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock standing at `now`.
    pub fn at(now: UnixTime) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Moves the clock to `now`, forwards or back.
    pub fn set(&self, now: UnixTime) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::SeqCst))
    }
}
