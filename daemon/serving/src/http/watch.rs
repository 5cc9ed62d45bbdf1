//! What a connection is doing and since when, so that one slow sweep can end the slow and the idle.
//!
//! A request pays a few atomic stores instead of timers of its own.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;

use crate::Limits;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Between requests.
    Idle,
    /// A request's head is coming in.
    Head,
    /// A request's body is coming in.
    Body,
    /// A request is being answered.
    Work,
    /// The caller does not take the answer.
    Write,
}

const PHASES: [Phase; 5] = [Phase::Idle, Phase::Head, Phase::Body, Phase::Work, Phase::Write];

/// The phase in the lowest three bits, and above them milliseconds since the connection was made.
#[derive(Debug)]
pub(crate) struct Watch {
    state: AtomicU64,
    start: Instant,
    kick: Notify,
    linger: AtomicBool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU64::new(Phase::Idle as u64),
            start: Instant::now(),
            kick: Notify::new(),
            linger: AtomicBool::new(false),
        }
    }

    pub(crate) fn set(&self, phase: Phase) {
        self.state.store(self.now_ms() << 3 | phase as u64, Relaxed);
    }

    pub(crate) fn get(&self) -> (Phase, Duration) {
        let state = self.state.load(Relaxed);
        let phase = usize::try_from(state & 7).ok().and_then(|index| PHASES.get(index)).copied();
        (phase.unwrap_or(Phase::Idle), Duration::from_millis(self.now_ms().saturating_sub(state >> 3)))
    }

    fn phase(&self) -> Phase {
        let state = self.state.load(Relaxed);
        usize::try_from(state & 7).ok().and_then(|index| PHASES.get(index)).copied().unwrap_or(Phase::Idle)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX) & (u64::MAX >> 3)
    }

    /// Whether the connection has been in its phase for too long.
    pub(crate) fn is_overdue(&self, limits: &Limits) -> bool {
        let (phase, since) = self.get();
        let most = match phase {
            Phase::Idle => limits.idle,
            Phase::Head => limits.head_deadline,
            Phase::Body => limits.body_deadline,
            Phase::Work => return false, // bounded by the version's queue and deadline
            Phase::Write => limits.write_deadline,
        };
        since > most
    }

    /// The answer leaves a body unread: the connection ends, but not before the caller could read the answer.
    pub(crate) fn linger(&self) {
        self.linger.store(true, Relaxed);
    }

    pub(crate) fn lingers(&self) -> bool {
        self.linger.load(Relaxed)
    }

    /// Tells the connection to end.
    pub(crate) fn kick(&self) {
        self.kick.notify_one();
    }

    /// Waits for [`Self::kick`]; safe to drop half way.
    pub(crate) async fn kicked(&self) {
        self.kick.notified().await;
    }
}

/// A stream that tells its watch when a head begins and when the caller takes nothing.
pub(crate) struct Watched<S> {
    io: TokioIo<S>,
    watch: Arc<Watch>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { io: TokioIo::new(stream), watch }
    }

    pub(crate) fn into_inner(self) -> S {
        self.io.into_inner()
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        match (result, self.watch.phase()) {
            (Poll::Pending, Phase::Idle) => self.watch.set(Phase::Write),
            (Poll::Ready(Ok(_)), Phase::Write) => self.watch.set(Phase::Idle),
            _ => {}
        }
    }
}

impl<S> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("watch", &self.watch).finish_non_exhaustive()
    }
}

impl<S> Read for Watched<S>
where
    TokioIo<S>: Read + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        // An end of the stream reads as a head too; the connection is over then anyway.
        if matches!(result, Poll::Ready(Ok(()))) && self.watch.phase() == Phase::Idle {
            self.watch.set(Phase::Head);
        }
        result
    }
}

impl<S> Write for Watched<S>
where
    TokioIo<S>: Write + Unpin,
{
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(&result);
        result
    }
}
