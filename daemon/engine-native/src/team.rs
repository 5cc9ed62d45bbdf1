//! Threads that work on one run together.
//!
//! A [`Team`] belongs to a session. Its threads sleep between runs; for a run all of them, the caller among them, go
//! through the same steps and meet at a [`Barrier`] where one step needs what another left. Which part of a step a thread
//! does is a function of its index alone, and no sum is divided: results are the same bits for any number of threads.

use std::{
    hint,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Turns of waiting before a thread lets others run: some microseconds.
const SPINS: u32 = 500;

/// How often it lets others run before it sleeps: the thread that it waits for may have been put on the same processor.
const YIELDS: u32 = 400;
/// Stack of each thread, in bytes: kernels call little, and a worker's memory is counted.
const STACK: usize = 512 << 10;

/// Threads, the caller's included.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Where all threads, the caller's too, meet before a run and after it.
    gate: Barrier,
    /// What is to be done between two meetings; null when the team ends.
    work: Mutex<Work>,
}

/// A reference without its lifetime: valid from the meeting before a run to the one after it.
#[derive(Clone, Copy, Debug)]
struct Work(Option<*const (dyn Fn(usize) + Sync)>);

#[allow(unsafe_code, reason = "a raw pointer says nothing of threads")]
// SAFETY: what it points to is `Sync`, and is only used while `Team::run` borrows it.
unsafe impl Send for Work {}

impl Team {
    /// A team of `count` threads, the caller of [`Team::run`] being the first. Threads that cannot be started are done
    /// without.
    pub fn new(count: usize) -> Self {
        let spare = count.max(1) - 1;
        // The gate must know how many came: each waits for it to be made.
        let mut started = Vec::new();
        for index in 1..=spare {
            let (sender, receiver) = std::sync::mpsc::channel::<Arc<Shared>>();
            let builder = thread::Builder::new().name(format!("team-{index}")).stack_size(STACK);
            let thread = builder.spawn(move || {
                if let Ok(shared) = receiver.recv() {
                    shared.serve(index);
                }
            });
            match thread {
                Ok(thread) => started.push((thread, sender)),
                Err(_) => break,
            }
        }
        let shared = Arc::new(Shared { gate: Barrier::new(started.len() + 1), work: Mutex::new(Work(None)) });
        let threads = started
            .into_iter()
            .map(|(thread, sender)| {
                // A thread that is gone already would be missed at the gate; none ends before it was asked to.
                sender.send(Arc::clone(&shared)).unwrap_or_default();
                thread
            })
            .collect();
        Self { shared, threads }
    }

    /// How many threads there are, the caller's included.
    pub fn count(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `work` with each index below [`Team::count`], all at once, 0 on this thread; returns when all are done.
    pub(crate) fn run(&mut self, work: &(dyn Fn(usize) + Sync)) {
        if self.threads.is_empty() {
            return work(0);
        }
        #[allow(unsafe_code, reason = "the threads outlive the borrow, which this function does not")]
        // SAFETY: only the lifetime is changed. The pointer is used between the two meetings below and nowhere else; the
        // second one is reached even when `work` panics here.
        let work_of_all: *const (dyn Fn(usize) + Sync) = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(work)
        };
        *self.shared.work.lock().unwrap_or_else(PoisonError::into_inner) = Work(Some(work_of_all));
        self.shared.gate.wait();
        let meet = Meeting(&self.shared.gate);
        work(0);
        drop(meet);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        *self.shared.work.lock().unwrap_or_else(PoisonError::into_inner) = Work(None);
        self.shared.gate.wait();
        for thread in self.threads.drain(..) {
            // One that panicked has done all that it will.
            thread.join().unwrap_or_default();
        }
    }
}

/// Waits at the gate when dropped.
struct Meeting<'a>(&'a Barrier);

impl Drop for Meeting<'_> {
    fn drop(&mut self) {
        self.0.wait();
    }
}

impl Shared {
    /// What a thread of the team does until it ends.
    fn serve(&self, index: usize) {
        loop {
            self.gate.wait();
            let work = *self.work.lock().unwrap_or_else(PoisonError::into_inner);
            let Work(Some(work)) = work else { return };
            let meet = Meeting(&self.gate);
            #[allow(unsafe_code, reason = "see `Work`")]
            // SAFETY: between the two meetings of a run, for which `Team::run` holds the borrow.
            let work = unsafe { &*work };
            // A panic must not keep the others waiting at the gate for ever; the caller learns of it by its own flag.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(index))).unwrap_or_default();
            drop(meet);
        }
    }
}

/// Where a number of threads wait for each other, again and again.
///
/// A thread turns for a while, lets others run for a while, then sleeps. Who comes last wakes those that sleep, if any do.
#[derive(Debug)]
pub(crate) struct Barrier {
    count: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    asleep: AtomicUsize,
    lock: Mutex<()>,
    turn: Condvar,
}

impl Barrier {
    pub(crate) const fn new(count: usize) -> Self {
        Self {
            count,
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            lock: Mutex::new(()),
            turn: Condvar::new(),
        }
    }

    /// Returns when all have come.
    pub(crate) fn wait(&self) {
        let round = self.round.load(Ordering::SeqCst);
        if self.arrived.fetch_add(1, Ordering::SeqCst) + 1 == self.count {
            self.arrived.store(0, Ordering::SeqCst);
            self.round.store(round.wrapping_add(1), Ordering::SeqCst);
            // Who counted itself asleep before this saw the old round and waits, or will see the new one.
            if self.asleep.load(Ordering::SeqCst) > 0 {
                drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
                self.turn.notify_all();
            }
            return;
        }
        for _ in 0..SPINS {
            if self.round.load(Ordering::SeqCst) != round {
                return;
            }
            hint::spin_loop();
        }
        for _ in 0..YIELDS {
            if self.round.load(Ordering::SeqCst) != round {
                return;
            }
            thread::yield_now();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while self.round.load(Ordering::SeqCst) == round {
            guard = self.turn.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Lets a thread that leaves its steps early, by an error or a panic, keep no other waiting: all stop at the next meeting.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    barrier: &'a Barrier,
    /// The meeting at which all stop.
    end: &'a AtomicUsize,
    /// Meetings so far.
    met: usize,
    is_done: bool,
}

impl<'a> Steps<'a> {
    /// No meeting ends the steps.
    pub(crate) const GO_ON: usize = usize::MAX;

    /// `end` starts as [`Steps::GO_ON`] and is the same for all threads.
    pub(crate) const fn new(barrier: &'a Barrier, end: &'a AtomicUsize) -> Self {
        Self { barrier, end, met: 0, is_done: false }
    }

    /// Waits for the others; whether all go on.
    pub(crate) fn meet(&mut self) -> bool {
        self.met += 1;
        self.barrier.wait();
        // Another thread may be ahead and have named a later meeting: it waits there.
        self.is_done = self.end.load(Ordering::SeqCst) <= self.met;
        !self.is_done
    }

    /// All steps are done: a last meeting, at which one that failed at the very end waits too.
    pub(crate) fn done(mut self) {
        self.meet();
        self.is_done = true;
    }
}

impl Drop for Steps<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.end.fetch_min(self.met + 1, Ordering::SeqCst);
            self.barrier.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn every_thread_does_its_part_of_every_run() {
        let mut team = Team::new(3);
        assert_eq!(team.count(), 3);
        let sum = AtomicU64::new(0);
        for round in 0..500_u64 {
            // Now and then the others have gone to sleep.
            let spins = if round % 50 == 0 { SPINS * 4 } else { 0 };
            (0..spins).for_each(|_| hint::spin_loop());
            team.run(&|index| {
                sum.fetch_add(round * 3 + u64::try_from(index).unwrap(), Ordering::Relaxed);
            });
        }
        assert_eq!(sum.load(Ordering::Relaxed), (0..1500).sum::<u64>());
    }

    #[test]
    fn one_that_stops_early_stops_all_at_the_next_meeting() {
        let mut team = Team::new(2);
        let (barrier, end) = (Barrier::new(2), AtomicUsize::new(Steps::GO_ON));
        let met = AtomicU64::new(0);
        team.run(&|index| {
            let mut steps = Steps::new(&barrier, &end);
            for step in 0..10 {
                if index == 1 && step == 4 {
                    return;
                }
                if !steps.meet() {
                    return;
                }
                met.fetch_add(1, Ordering::Relaxed);
            }
            steps.done();
        });
        assert_eq!(met.load(Ordering::Relaxed), 8);
        assert_eq!(end.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn one_that_fails_after_the_last_meeting_ends_the_run_too() {
        let mut team = Team::new(2);
        let (barrier, end) = (Barrier::new(2), AtomicUsize::new(Steps::GO_ON));
        team.run(&|index| {
            let steps = Steps::new(&barrier, &end);
            if index == 1 {
                return;
            }
            steps.done();
        });
        assert_eq!(end.load(Ordering::Relaxed), 1);
    }
}
