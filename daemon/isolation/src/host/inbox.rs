//! Where orders and requests arrive, and where replies and answers leave.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use agentd_engine::EngineError;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Signal, getpid, kill_process},
};

use crate::{
    channel::{self, Packet},
    message::{Answer, Reply},
    region::{Region, Status, Word},
};

/// Stack of the thread that watches the daemon, which does next to nothing.
const WATCH_STACK: usize = 64 << 10;

/// Time to look out for the next request before going to sleep: about what waking up takes.
const LOOK_OUT: Duration = Duration::from_micros(80);

/// Requests after which looking out is tried again at the latest, where it was in vain.
const MOST_SKIPPED: u32 = 63;

/// Why the worker woke up.
pub(super) enum Wake {
    Order(Packet),
    Request(u64),
    /// The daemon is gone.
    Gone,
}

/// This end of the boundary.
pub(super) struct Inbox {
    control: OwnedFd,
    requests: OwnedFd,
    answers: OwnedFd,
    pub(super) region: Region,
    /// Whether an answer went out since the last look out.
    answered: bool,
    /// Requests before which no look out is tried, and how many they were at first: each one in vain doubles them.
    skip: u32,
    skipped: u32,
}

impl Inbox {
    pub(super) fn new(
        control: OwnedFd,
        requests: OwnedFd,
        answers: OwnedFd,
        region: Region,
    ) -> io::Result<Self> {
        let watched = control.try_clone()?;
        thread::Builder::new().name("watch".into()).stack_size(WATCH_STACK).spawn(move || watch(&watched))?;
        Ok(Self { control, requests, answers, region, answered: false, skip: 0, skipped: 0 })
    }

    /// Sleeps until there is an order or a request.
    pub(super) fn next(&mut self) -> io::Result<Wake> {
        if let Some(number) = self.look_out() {
            return Ok(Wake::Request(number));
        }
        loop {
            self.region.store(Word::WorkerSleeps, 1);
            if let Some(number) = self.look() {
                self.region.store(Word::WorkerSleeps, 0);
                return Ok(Wake::Request(number));
            }
            let mut both =
                [PollFd::new(&self.requests, PollFlags::IN), PollFd::new(&self.control, PollFlags::IN)];
            match poll(&mut both, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [requests, control] = both.map(|fd| !fd.revents().is_empty());
            if requests {
                rustix::io::read(&self.requests, &mut [0; 8]).ok();
            }
            if control {
                self.region.store(Word::WorkerSleeps, 0);
                return Ok(match channel::receive(&self.control) {
                    Ok(Some(packet)) => Wake::Order(packet),
                    Ok(None) | Err(Errno::CONNRESET) => Wake::Gone,
                    Err(error) => return Err(error.into()),
                });
            }
        }
    }

    fn look(&self) -> Option<u64> {
        let number = self.region.load(Word::Request);
        (number != self.region.load(Word::Answer)).then_some(number)
    }

    /// Looks out for the next request after an answer, where that was worth it lately: requests that follow each other
    /// closely then need no wake-up. Others may have the processor meanwhile.
    fn look_out(&mut self) -> Option<u64> {
        if !std::mem::take(&mut self.answered) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let until = Instant::now() + LOOK_OUT;
        while Instant::now() < until {
            if let Some(number) = self.look() {
                self.skipped = 0;
                return Some(number);
            }
            thread::yield_now();
        }
        self.skipped = (2 * self.skipped + 1).min(MOST_SKIPPED);
        self.skip = self.skipped;
        None
    }

    /// Publishes the answer that lies in shared memory.
    pub(super) fn answer(&mut self, number: u64, status: Status, len: usize) {
        self.region.store(Word::AnswerStatus, status as u64);
        self.region.store(Word::AnswerLen, len as u64);
        self.region.store(Word::Answer, number);
        self.answered = true;
        if self.region.load(Word::DaemonSleeps) != 0 {
            // A full eventfd wakes the daemon as well.
            rustix::io::write(&self.answers, &1_u64.to_ne_bytes()).ok();
        }
    }

    /// Says what came of an order.
    pub(super) fn reply(&self, id: u64, outcome: Result<Answer, EngineError>) -> io::Result<()> {
        let packet = serde_json::to_vec(&Reply { id, outcome })?;
        Ok(channel::send(self.control.as_fd(), &packet, &[])?)
    }
}

/// Ends this process when the daemon is gone, even in the middle of a computation.
///
/// A death signal of the kernel's (`PR_SET_PDEATHSIG`) would come too early: when the *thread* ends that started us.
fn watch(control: &OwnedFd) {
    loop {
        let mut gone = [PollFd::new(control, PollFlags::RDHUP)];
        match poll(&mut gone, None) {
            Ok(_) => {
                kill_process(getpid(), Signal::KILL).ok();
                return;
            }
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
