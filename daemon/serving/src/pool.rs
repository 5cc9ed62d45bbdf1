//! Hands a version's instances to requests, one each, first come first served.
//!
//! Bounded: beyond the queue's length a request is refused at once, and one that waited too long is never run.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, TryAcquireError},
    time::timeout,
};

use crate::Instance;

/// The instances of one version.
pub(crate) struct Pool<I> {
    /// Free instances. Invariant: as many as `permits` has, or more for the moment between push and release.
    free: Mutex<Vec<Seat<I>>>,
    permits: Semaphore,
    queue: usize,
    waiting: AtomicUsize,
    alive: AtomicUsize,
    pids: Mutex<BTreeMap<usize, u32>>,
}

/// An instance and its place among the version's instances.
#[derive(Debug)]
pub(crate) struct Seat<I> {
    pub(crate) instance: I,
    /// From 0; a replacement takes the place of the dead.
    pub(crate) index: usize,
}

/// Why a request got no instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unseated {
    /// As many as may wait are waiting.
    Full,
    /// Waited as long as it may.
    Expired,
}

impl<I: Instance> Pool<I> {
    pub(crate) fn new(instances: Vec<I>, queue: usize) -> Self {
        let pids = instances.iter().enumerate().filter_map(|(i, it)| Some((i, it.pid()?))).collect();
        let free: Vec<_> =
            instances.into_iter().enumerate().map(|(index, instance)| Seat { instance, index }).collect();
        Self {
            permits: Semaphore::new(free.len()),
            alive: AtomicUsize::new(free.len()),
            free: Mutex::new(free),
            queue,
            waiting: AtomicUsize::new(0),
            pids: Mutex::new(pids),
        }
    }

    /// Takes an instance, waiting at most `patience` behind those who came before.
    pub(crate) async fn take(&self, patience: Duration) -> Result<Seat<I>, Unseated> {
        loop {
            match self.permits.try_acquire() {
                Ok(permit) => permit.forget(),
                Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => self.wait(patience).await?,
            }
            if let Some(seat) = lock(&self.free).pop() {
                return Ok(seat);
            }
        }
    }

    async fn wait(&self, patience: Duration) -> Result<(), Unseated> {
        let place = Place::take(&self.waiting, self.queue).ok_or(Unseated::Full)?;
        let permit = timeout(patience, self.permits.acquire()).await;
        drop(place);
        match permit {
            Ok(Ok(permit)) => permit.forget(),
            Ok(Err(_)) | Err(_) => return Err(Unseated::Expired),
        }
        Ok(())
    }

    /// Takes a healthy instance back.
    pub(crate) fn put(&self, seat: Seat<I>) {
        lock(&self.free).push(seat);
        self.permits.add_permits(1);
    }

    /// An instance died; its seat stays empty until [`Self::replace`].
    pub(crate) fn lose(&self, index: usize) {
        lock(&self.pids).remove(&index);
        self.alive.fetch_sub(1, SeqCst);
    }

    /// Seats a fresh instance.
    pub(crate) fn replace(&self, seat: Seat<I>) {
        if let Some(pid) = seat.instance.pid() {
            lock(&self.pids).insert(seat.index, pid);
        }
        self.alive.fetch_add(1, SeqCst);
        self.put(seat);
    }

    /// Waits until every request that was there before has ended. Needs every instance alive.
    pub(crate) async fn drained(&self) {
        let all = u32::try_from(self.alive()).unwrap_or(u32::MAX);
        // Permits are granted in order, so all of them at once means that nobody before us is left.
        if let Ok(permits) = self.permits.acquire_many(all).await {
            drop(permits);
        }
    }

    pub(crate) fn alive(&self) -> usize {
        self.alive.load(SeqCst)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Processes by seat.
    pub(crate) fn pids(&self) -> BTreeMap<usize, u32> {
        lock(&self.pids).clone()
    }
}

impl<I> fmt::Debug for Pool<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("alive", &self.alive)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

/// A place in a bounded queue, given up when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, queue: usize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, SeqCst) < queue).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Locks; a panic elsewhere leaves these maps and lists whole, so poison is ignored.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
