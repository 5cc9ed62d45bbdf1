//! What is counted and bounded for all connections together.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// Connections and bodies of all listeners.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    open: AtomicU64,
    evicted: AtomicU64,
    timed_out: AtomicU64,
    bodies: AtomicU64,
    bodies_refused: AtomicU64,
}

impl Traffic {
    pub(crate) fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    pub(crate) fn timed_out(&self) -> u64 {
        self.timed_out.load(Relaxed)
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.bodies.load(Relaxed)
    }

    pub(crate) fn bodies_refused(&self) -> u64 {
        self.bodies_refused.load(Relaxed)
    }

    pub(crate) fn count_evicted(&self) {
        self.evicted.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_timed_out(&self) {
        self.timed_out.fetch_add(1, Relaxed);
    }

    /// Counts a connection until the guard is dropped.
    pub(crate) fn connect(&self) -> Held<'_> {
        self.open.fetch_add(1, Relaxed);
        Held { of: &self.open, amount: 1 }
    }

    /// Reserves memory for bodies; `None` when they would be more than `budget` together.
    pub(crate) fn reserve(&self, budget: u64) -> Reserve<'_> {
        Reserve { held: Held { of: &self.bodies, amount: 0 }, refused: &self.bodies_refused, budget }
    }
}

/// An amount that counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    of: &'a AtomicU64,
    amount: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.of.fetch_sub(self.amount, SeqCst);
    }
}

/// The memory that one request's body holds.
#[derive(Debug)]
pub(crate) struct Reserve<'a> {
    held: Held<'a>,
    refused: &'a AtomicU64,
    budget: u64,
}

impl Reserve<'_> {
    /// Makes the reservation at least `bytes`; false, and nothing changed, when the budget is full.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.held.amount);
        let before = self.held.of.fetch_add(more, SeqCst);
        if before.saturating_add(more) > self.budget {
            self.held.of.fetch_sub(more, SeqCst);
            self.refused.fetch_add(1, Relaxed);
            return false;
        }
        self.held.amount += more;
        true
    }
}
