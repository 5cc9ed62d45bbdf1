//! The last words of a worker: the end of what it wrote to its error output.

use std::os::fd::OwnedFd;

use rustix::{
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

/// Bytes that are kept.
const KEPT: usize = 4 << 10;

/// The reading end of a worker's error output, and what was read of it.
///
/// The pipe never blocks the worker: what does not fit into it is lost.
#[derive(Debug)]
pub(crate) struct LastWords {
    pipe: OwnedFd,
    kept: Vec<u8>,
}

impl LastWords {
    /// A pipe for a worker's error output and the end that the worker writes.
    pub(crate) fn new() -> Result<(Self, OwnedFd), Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Self { pipe: read, kept: Vec::new() }, write))
    }

    /// Takes what has been written since; at most one pipe full.
    pub(crate) fn drain(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..16 {
            let got = match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(got) => buffer.get(..got).unwrap_or_default(),
            };
            self.kept.extend(got);
            let surplus = self.kept.len().saturating_sub(KEPT);
            self.kept.drain(..surplus);
        }
    }

    /// Forgets what was said so far, since it was reported in another way.
    pub(crate) fn forget(&mut self) {
        self.drain();
        self.kept.clear();
    }

    /// The last words as one printable line.
    pub(crate) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.join(" | ").chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_long_output_is_kept_and_a_full_pipe_blocks_nobody() {
        let (mut words, pipe) = LastWords::new().unwrap();
        let line = [b'x'; 1000];
        let mut written = 0;
        while rustix::io::write(&pipe, &line).is_ok() {
            written += 1;
            assert!(written < 10_000, "the pipe has no end");
        }
        words.drain();
        rustix::io::write(&pipe, b"\nthread 'main' panicked\n\x1b[31mlast\n").unwrap();
        words.drain();
        assert!(words.text().ends_with("x | thread 'main' panicked | ?[31mlast"));
        assert!(words.text().len() <= KEPT + 2 * " | ".len());
        assert_eq!(rustix::io::read(&words.pipe, &mut [0; 1]), Err(Errno::AGAIN));
        words.forget();
        assert_eq!(words.text(), "");
    }
}
