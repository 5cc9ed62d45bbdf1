//! Ending a worker, and finding out how it ended.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use rustix::process::Signal;

use super::{Phase, Worker};
use crate::{WorkerError, error::Death};

/// The status with which a Rust program exits after a panic.
const PANIC: i32 = 101;
/// Time for a process that closed its socket to end by itself, so that its own status is seen and not our signal.
const GRACE: Duration = Duration::from_millis(500);
/// Time for the kernel to end a process that was killed.
const KILL_WITHIN: Duration = Duration::from_secs(5);

impl Worker {
    /// Kills a worker that broke the rules.
    pub(super) async fn condemn(&mut self, what: &'static str) -> WorkerError {
        self.kill().await;
        WorkerError::Protocol { what }
    }

    /// Kills a worker that may still run.
    pub(super) async fn kill(&mut self) {
        // An error means that it is gone already.
        self.child.start_kill().ok();
        self.bury().await;
    }

    /// Waits until a worker that closed its socket or was killed is gone, and says how it ended.
    pub(super) async fn bury(&mut self) -> WorkerError {
        let how = match &self.phase {
            Phase::Dead(how) => how.clone(),
            Phase::Idle | Phase::Busy { .. } => {
                let status = self.end().await;
                self.last_words.drain();
                let how = death(status, self.last_words.text());
                self.phase = Phase::Dead(how.clone());
                how
            }
        };
        WorkerError::Died { how }
    }

    async fn end(&mut self) -> Option<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(GRACE, self.child.wait()).await {
            return status.ok();
        }
        self.child.start_kill().ok();
        tokio::time::timeout(KILL_WITHIN, self.child.wait()).await.ok()?.ok()
    }
}

fn death(status: Option<ExitStatus>, last_words: String) -> Death {
    let signal = status.and_then(|status| status.signal());
    let exit = status.and_then(|status| status.code());
    Death { signal, exit, cause: cause(signal, exit, &last_words), last_words }
}

/// What probably happened. The standard library says `memory allocation of N bytes failed` and `has overflowed its
/// stack` before it aborts.
fn cause(signal: Option<i32>, exit: Option<i32>, last_words: &str) -> &'static str {
    let signal = signal.and_then(Signal::from_named_raw);
    match (signal, exit) {
        (Some(Signal::ABORT), _) if last_words.contains("memory allocation of") => {
            "it needed more memory than allowed"
        }
        (Some(Signal::ABORT), _) if last_words.contains("overflowed its stack") => "its stack overflowed",
        (Some(Signal::ABORT), _) => "it aborted",
        (Some(Signal::SEGV | Signal::BUS), _) => "it crashed on an invalid memory access",
        (Some(Signal::ILL), _) => "it crashed on an invalid instruction",
        (Some(Signal::FPE), _) => "it crashed on a division",
        (Some(Signal::KILL), _) => "it was killed, by us or by a system short of memory",
        (Some(_), _) => "it was ended by a signal",
        (None, Some(PANIC)) => "it panicked",
        (None, Some(0)) => "it left",
        (None, Some(_)) => "it gave up",
        (None, None) => "it ended in an unknown way",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_tells_its_probable_cause() {
        for (raw, words, want) in [
            (
                6,
                "memory allocation of 9 bytes failed",
                "it needed more memory than allowed (signal 6), last words: ",
            ),
            (6, "thread 'main' has overflowed its stack", "its stack overflowed (signal 6), last words: "),
            (11, "", "it crashed on an invalid memory access (signal 11)"),
            (
                101 << 8,
                "thread 'main' panicked",
                "it panicked (exit status 101), last words: thread 'main' panicked",
            ),
            (0, "", "it left (exit status 0)"),
        ] {
            let got = death(Some(ExitStatus::from_raw(raw)), words.into()).to_string();
            assert!(got.starts_with(want), "{got}");
        }
    }
}
