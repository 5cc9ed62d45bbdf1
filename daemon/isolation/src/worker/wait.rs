//! Waiting for a worker, and never for longer than its deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{Phase, Ticket, Worker, system};
use crate::{WorkerError, channel, message::Reply, region::Word};

/// Time to look out for an answer before going to sleep.
const LOOK_OUT: Duration = Duration::from_micros(30);

/// What may come while we wait.
enum Arrival {
    /// What we wait for; with the reply when it came on the socket.
    Done(Option<Reply>),
    /// The worker closed its socket.
    Gone,
    /// It sent what it may not send.
    Broken(&'static str),
    /// Our own system failed.
    Failed(WorkerError),
}

impl Worker {
    /// Waits until the worker is free: a call that was dropped half way may have left it busy.
    pub(super) async fn settle(&mut self) -> Result<(), WorkerError> {
        match &self.phase {
            Phase::Idle => Ok(()),
            Phase::Dead(how) => Err(WorkerError::Died { how: how.clone() }),
            Phase::Busy { .. } => self.finish().await.map(drop),
        }
    }

    /// Waits for what the worker is busy with; kills it when that is not there in time.
    pub(super) async fn finish(&mut self) -> Result<Option<Reply>, WorkerError> {
        let Phase::Busy { ticket, by, after } = self.phase else { return Ok(None) };
        let Ok(arrival) = tokio::time::timeout_at(by.into(), self.arrival(ticket)).await else {
            self.kill().await;
            return Err(WorkerError::Deadline { doing: ticket.doing(), after });
        };
        match arrival {
            Arrival::Done(reply) => {
                self.phase = Phase::Idle;
                Ok(reply)
            }
            Arrival::Gone => Err(self.bury().await),
            Arrival::Broken(what) => Err(self.condemn(what).await),
            Arrival::Failed(error) => {
                self.kill().await;
                Err(error)
            }
        }
    }

    /// Dropping this half way loses nothing: packets and wake-ups are taken and used without a wait between.
    async fn arrival(&mut self, ticket: Ticket) -> Arrival {
        match ticket {
            Ticket::Reply { id, .. } => self.reply(id).await,
            Ticket::Answer { number } => {
                if self.quick && self.answered_soon(number) {
                    return Arrival::Done(None);
                }
                self.region.store(Word::DaemonSleeps, 1);
                let arrival = self.answered(number).await;
                self.region.store(Word::DaemonSleeps, 0);
                arrival
            }
        }
    }

    async fn reply(&self, id: u64) -> Arrival {
        loop {
            let mut ready = match self.control.readable().await {
                Ok(ready) => ready,
                Err(error) => return failed("wait for a reply", &error),
            };
            match channel::receive(self.control.get_ref()) {
                Ok(Some(packet)) if packet.cut => return Arrival::Broken("a reply of more than 128 KiB"),
                Ok(Some(packet)) => {
                    return match serde_json::from_slice::<Reply>(&packet.bytes) {
                        Ok(reply) if reply.id == id => Arrival::Done(Some(reply)),
                        Ok(_) => Arrival::Broken("a reply to another order"),
                        Err(_) => Arrival::Broken("a reply that is none"),
                    };
                }
                Ok(None) | Err(Errno::CONNRESET) => return Arrival::Gone,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Arrival::Failed(system("receive a reply", error)),
            }
        }
    }

    /// Looks out for an answer for a time that is shorter than going to sleep and waking up take.
    fn answered_soon(&self, number: u64) -> bool {
        let until = Instant::now() + LOOK_OUT;
        while Instant::now() < until {
            if self.region.load(Word::Answer) == number {
                return true;
            }
            // The worker may wait for this very processor.
            thread::yield_now();
        }
        false
    }

    async fn answered(&self, number: u64) -> Arrival {
        while self.region.load(Word::Answer) != number {
            tokio::select! {
                biased;
                ready = self.answer.readable() => match ready {
                    Ok(mut ready) => {
                        // Reading empties an eventfd, so the next wake-up is a new event.
                        match rustix::io::read(self.answer.get_ref(), &mut [0; 8]) {
                            Ok(_) | Err(Errno::AGAIN) => ready.clear_ready(),
                            Err(error) => return Arrival::Failed(system("wait for an answer", error)),
                        }
                    }
                    Err(error) => return failed("wait for an answer", &error),
                },
                ready = self.control.readable() => match ready {
                    Ok(mut ready) => match channel::receive(self.control.get_ref()) {
                        Ok(Some(_)) => return Arrival::Broken("a reply that nobody asked for"),
                        Ok(None) | Err(Errno::CONNRESET) => return Arrival::Gone,
                        Err(Errno::AGAIN) => ready.clear_ready(),
                        Err(error) => return Arrival::Failed(system("wait for an answer", error)),
                    },
                    Err(error) => return failed("wait for an answer", &error),
                },
            }
        }
        Arrival::Done(None)
    }
}

fn failed(what: &'static str, error: &std::io::Error) -> Arrival {
    Arrival::Failed(WorkerError::System { what, message: error.to_string() })
}
