//! Fetches the manifest and the chunks of a bundle, block by block, over a connection that lives as long as the transfer.
//!
//! In: digests. Out: the manifest's envelope (unproved: `agentd-bundle` proves it), and chunks whose length and digest
//! are right, into a [`ChunkSink`]. Nothing unverified is written. The device owns the flow: it asks for ranges, never
//! for more than its window; whatever else arrives is counted and dropped. What the sink has is not fetched, so a
//! transfer goes on after a lost connection, a restart or a power cut. Attempts, bytes and time are bounded, and a day's
//! budget is never exceeded.

mod flow;
mod plan;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agentd_types::{ByteCount, Clock, Code, Coded, DeviceId, Digest, FleetId};
use agentd_wire::{
    Block, BlockRequest, Chunk, Down, Filter, MAX_BLOCK_BYTES, MAX_CHUNK_BYTES, MAX_CREDIT, Object, Topic, Up,
};
use bytes::Bytes;
use log::{info, warn};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    flow::{Flow, FlowLimits},
    plan::{Accepted, GaveUp, Plan},
};
use crate::{
    backoff::{Backoff, RetryPolicy},
    budget::DayBudget,
    transport::{Connection, Disconnect, Message, Publisher, Qos, Session, Subscription, Transport},
};

/// Chunks that are being written at once.
const WRITES: usize = 4;

/// What a sink says when it cannot.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps chunks. Calls may wait for the disk: they are made where waiting is allowed, several at once.
pub trait ChunkSink: Send + Sync + fmt::Debug {
    /// Whether the chunk is kept already, of whichever version.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn has(&self, digest: Digest) -> Result<bool, SinkError>;

    /// Keeps a chunk, whose length and digest are right; once this returns, it is not fetched again.
    ///
    /// # Errors
    /// When it cannot be kept, for example since the disk is full.
    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), SinkError>;
}

/// How a transfer behaves. The defaults are the protocol's figures.
#[derive(Clone, Debug)]
pub struct TransferConfig {
    /// The fleet.
    pub fleet: FleetId,
    /// This device.
    pub device: DeviceId,
    /// Bytes asked for at first.
    pub first_window: u64,
    /// Bytes asked for and not here, at most.
    pub near_window: u64,
    /// The same when the round trip is longer than [`Self::far_round_trip`].
    pub far_window: u64,
    /// From here on the link is far.
    pub far_round_trip: Duration,
    /// A block is not asked for again before this.
    pub shortest_reask: Duration,
    /// The same before any round trip is known.
    pub first_reask: Duration,
    /// How often one piece is asked for again, at most.
    pub attempts: u32,
    /// Bytes that may come in all, in percent of what is missing, beside 1 MiB.
    pub excess_percent: u64,
    /// Slower than this over [`Self::slow_after`] is reported, and tried over another connection.
    pub floor_bytes_per_s: u64,
    /// How long it must be slow.
    pub slow_after: Duration,
    /// How often in a row it may be slow before the transfer ends with an error.
    pub slow_strikes: u32,
    /// A transfer in which nothing arrives for this long ends with an error.
    pub give_up_after: Duration,
    /// Longest time for one attempt to connect.
    pub connect_timeout: Duration,
    /// Silence of one and a half times this means that the broker is gone. At least 5 s.
    pub keep_alive: Duration,
    /// When to connect again.
    pub retry: RetryPolicy,
}

impl TransferConfig {
    /// The protocol's own figures.
    pub fn new(fleet: FleetId, device: DeviceId) -> Self {
        Self {
            fleet,
            device,
            first_window: 512 << 10,
            near_window: 4 << 20,
            far_window: 8 << 20,
            far_round_trip: Duration::from_millis(50),
            shortest_reask: Duration::from_millis(500),
            first_reask: Duration::from_secs(5),
            attempts: 8,
            excess_percent: 150,
            floor_bytes_per_s: 1 << 10,
            slow_after: Duration::from_secs(30),
            slow_strikes: 3,
            give_up_after: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(30),
            retry: RetryPolicy {
                first: Duration::from_millis(500),
                longest: Duration::from_secs(60),
                shortest: Duration::from_millis(50),
                stable_after: Duration::from_secs(10),
            },
        }
    }
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the bundle that are kept.
    pub have: ByteCount,
    /// Bytes of the bundle.
    pub total: ByteCount,
    /// Bytes that arrived in the last second or so.
    pub bytes_per_s: u64,
    /// Whether the transfer is slower than the floor: code `transfer.slow`.
    pub slow: bool,
}

/// What happened beside blocks that were wanted and came. None of it does harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes of all blocks that could be read, wanted or not.
    pub received: ByteCount,
    /// Messages that are no blocks, or whose checksum is wrong.
    pub unreadable: u64,
    /// Nobody asked for them, or they came before.
    pub unasked: u64,
    /// They answer something that was asked for, but are too short, too long, or claim another length.
    pub misshapen: u64,
    /// Answers to an older transfer.
    pub stale: u64,
    /// Chunks whose digest was wrong.
    pub corrupt_chunks: u64,
    /// Pieces asked for again.
    pub asked_again: u64,
    /// Connections beside the first.
    pub reconnections: u64,
    /// How often the transfer was slower than the floor.
    pub slow: u64,
    /// Requests answered with "not here" or "too much to do".
    pub refused: u64,
}

/// What a transfer fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Chunks fetched, each once.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: ByteCount,
    /// What else happened.
    pub counters: Counters,
}

/// What of a bundle is not kept yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Each chunk once.
    pub chunks: Vec<Chunk>,
    /// Their bytes.
    pub bytes: ByteCount,
    /// Bytes of all chunks, each once.
    pub total: ByteCount,
}

/// Why a transfer ended without everything.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Nobody answers, or nothing arrives.
    #[error("nothing arrived for {0:?}")]
    NoAnswer(Duration),
    /// No server has it.
    #[error("no server of blocks has {0:?}")]
    Missing(Object),
    /// A piece was asked for too often.
    #[error("{object:?} was asked for {failures} times in vain")]
    Attempts {
        /// Of what.
        object: Object,
        /// How often.
        failures: u32,
    },
    /// The content does not fit its name.
    #[error("chunk {0} came {1} times with the wrong content")]
    Corrupt(Digest, u32),
    /// More bytes came than the limit allows.
    #[error("{received} came, but only {limit} may for what is missing")]
    TooManyBytes {
        /// What came.
        received: ByteCount,
        /// The limit.
        limit: ByteCount,
    },
    /// The day's budget is used up.
    #[error("the day's budget of bytes is used up")]
    Budget,
    /// Too slow, again and again.
    #[error("fewer than {floor} bytes per second arrived, {strikes} times in a row")]
    Slow {
        /// The floor.
        floor: u64,
        /// How often.
        strikes: u32,
    },
    /// A chunk is longer than chunks may be.
    #[error("chunk {0} has {1} bytes, not 1 to 4 MiB")]
    ChunkLength(Digest, u64),
    /// The store failed.
    #[error("a chunk cannot be kept")]
    Sink(#[source] SinkError),
    /// We were told to stop.
    #[error("the transfer was stopped")]
    Stopped,
}

impl Coded for TransferError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::NoAnswer(_) => "transfer.no_answer",
            Self::Missing(_) => "transfer.missing",
            Self::Attempts { .. } => "transfer.attempts",
            Self::Corrupt(..) => "transfer.corrupt",
            Self::TooManyBytes { .. } => "transfer.too_many_bytes",
            Self::Budget => "transfer.budget",
            Self::Slow { .. } => "transfer.slow",
            Self::ChunkLength(..) => "transfer.chunk_length",
            Self::Sink(_) => "transfer.sink",
            Self::Stopped => "transfer.stopped",
        })
    }

    fn is_transient(&self) -> bool {
        !matches!(self, Self::ChunkLength(..) | Self::Stopped)
    }
}

/// Fetches bundles, one after the other.
#[derive(Debug)]
pub struct Transfer {
    transport: Arc<dyn Transport>,
    config: TransferConfig,
    budget: Arc<Mutex<DayBudget>>,
    clock: Arc<dyn Clock>,
    backoff: Backoff,
    next_transfer: u32,
}

impl Transfer {
    /// A transfer over connections of its own. `seed` drives the jitter and the transfers' numbers.
    pub fn new(
        config: TransferConfig,
        transport: Arc<dyn Transport>,
        budget: Arc<Mutex<DayBudget>>,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        let backoff = Backoff::new(config.retry, seed);
        let [a, b, c, d, ..] = crate::Jitter::new(seed).next_u64().to_be_bytes();
        Self { transport, config, budget, clock, backoff, next_transfer: u32::from_be_bytes([a, b, c, d]) }
    }

    /// Which of `chunks` the sink does not have; says before the first byte whether there is room for them.
    ///
    /// # Errors
    /// When the sink fails, or a chunk is longer than chunks may be.
    pub async fn missing(
        chunks: impl IntoIterator<Item = Chunk>,
        sink: Arc<dyn ChunkSink>,
    ) -> Result<Missing, TransferError> {
        let unique: BTreeMap<Digest, u64> =
            chunks.into_iter().map(|Chunk(length, digest)| (digest, length)).collect();
        if let Some((digest, length)) =
            unique.iter().find(|(_, length)| !(1..=u64::from(MAX_CHUNK_BYTES)).contains(*length))
        {
            return Err(TransferError::ChunkLength(*digest, *length));
        }
        let total = unique.values().map(|length| ByteCount(*length)).sum();
        let look = spawn_blocking(move || {
            let mut missing = Vec::new();
            for (digest, length) in unique {
                if !sink.has(digest)? {
                    missing.push(Chunk(length, digest));
                }
            }
            Ok(missing)
        });
        let chunks = look.await.map_err(|_| TransferError::Stopped)?.map_err(TransferError::Sink)?;
        let bytes = chunks.iter().map(|chunk| ByteCount(chunk.0)).sum();
        Ok(Missing { chunks, bytes, total })
    }

    /// Fetches the envelope of the manifest whose payload has the digest `bundle`. It is not proved: whoever asks must
    /// verify it, and may ask again when it is not what it should be.
    ///
    /// # Errors
    /// When it does not come; see [`TransferError`].
    pub async fn manifest(
        &mut self,
        bundle: Digest,
        stop: &CancellationToken,
    ) -> Result<Bytes, TransferError> {
        let object = Object::Manifest(bundle);
        let plan = Plan::manifest(object, self.config.attempts);
        let limit = ByteCount(u64::from(object.max_bytes()) * 2);
        let (progress, _) = watch::channel(Progress::default());
        let run = Run::new(self, bundle, plan, limit, None, &progress);
        let content = run.finish(stop).await?.1;
        content.ok_or(TransferError::Missing(object))
    }

    /// Fetches what the sink misses of `chunks`, all of which belong to `bundle`.
    ///
    /// # Errors
    /// When something does not come or cannot be kept; what came is kept, and not fetched again the next time.
    pub async fn chunks(
        &mut self,
        bundle: Digest,
        chunks: impl IntoIterator<Item = Chunk>,
        sink: Arc<dyn ChunkSink>,
        progress: &watch::Sender<Progress>,
        stop: &CancellationToken,
    ) -> Result<Fetched, TransferError> {
        let missing = Self::missing(chunks, Arc::clone(&sink)).await?;
        let have = ByteCount(missing.total.0 - missing.bytes.0);
        progress.send_replace(Progress { have, total: missing.total, ..Progress::default() });
        if missing.chunks.is_empty() {
            return Ok(Fetched::default());
        }
        let wanted = missing
            .chunks
            .iter()
            .filter_map(|Chunk(length, digest)| Some((Object::Chunk(*digest), u32::try_from(*length).ok()?)));
        let plan = Plan::new(wanted, self.config.attempts);
        let limit = ByteCount(missing.bytes.0.saturating_mul(self.config.excess_percent) / 100 + (1 << 20));
        let run = Run::new(self, bundle, plan, limit, Some(sink), progress);
        Ok(run.finish(stop).await?.0)
    }

    fn session(&self) -> Session {
        Session {
            keep_alive: self.config.keep_alive,
            connect_timeout: self.config.connect_timeout,
            ..Session::bulk(format!("{}.bulk", self.config.device))
        }
    }
}

/// How one connection of a transfer ended.
enum End {
    Done,
    Lost(Disconnect),
    Failed(TransferError),
}

impl From<TransferError> for End {
    fn from(error: TransferError) -> Self {
        Self::Failed(error)
    }
}

impl From<Disconnect> for End {
    fn from(reason: Disconnect) -> Self {
        Self::Lost(reason)
    }
}

impl From<GaveUp> for End {
    fn from(GaveUp { object, failures }: GaveUp) -> Self {
        Self::Failed(TransferError::Attempts { object, failures })
    }
}

/// One transfer on its way.
struct Run<'a> {
    transfer: &'a mut Transfer,
    number: u32,
    requests: u32,
    bundle: Digest,
    plan: Plan,
    flow: Flow,
    limit: ByteCount,
    sink: Option<Arc<dyn ChunkSink>>,
    writes: JoinSet<Written>,
    writing: u64,
    corrupt: BTreeMap<Digest, u32>,
    missing: BTreeMap<Object, u32>,
    manifest: Option<Bytes>,
    fetched: Fetched,
    progress: &'a watch::Sender<Progress>,
    pace: Pace,
    strikes: u32,
    last_progress: Instant,
}

/// What became of a chunk that was whole.
struct Written {
    digest: Digest,
    length: u32,
    outcome: Result<bool, SinkError>,
}

/// How fast bytes arrive, for people and for the floor.
struct Pace {
    second: (Instant, u64),
    slow: (Instant, u64),
}

impl<'a> Run<'a> {
    fn new(
        transfer: &'a mut Transfer,
        bundle: Digest,
        plan: Plan,
        limit: ByteCount,
        sink: Option<Arc<dyn ChunkSink>>,
        progress: &'a watch::Sender<Progress>,
    ) -> Self {
        transfer.next_transfer = transfer.next_transfer.wrapping_add(1);
        let config = &transfer.config;
        let limits = FlowLimits {
            first: config.first_window,
            lowest: u64::from(MAX_BLOCK_BYTES),
            near: config.near_window.max(MAX_BLOCK_BYTES.into()),
            far: config.far_window.max(MAX_BLOCK_BYTES.into()),
            far_round_trip: config.far_round_trip,
            shortest_reask: config.shortest_reask,
            first_reask: config.first_reask,
        };
        let now = Instant::now();
        Self {
            number: transfer.next_transfer,
            transfer,
            requests: 0,
            bundle,
            plan,
            flow: Flow::new(limits),
            limit,
            sink,
            writes: JoinSet::new(),
            writing: 0,
            corrupt: BTreeMap::new(),
            missing: BTreeMap::new(),
            manifest: None,
            fetched: Fetched::default(),
            progress,
            pace: Pace { second: (now, 0), slow: (now, 0) },
            strikes: 0,
            last_progress: now,
        }
    }

    async fn finish(mut self, stop: &CancellationToken) -> Result<(Fetched, Option<Bytes>), TransferError> {
        let ended = tokio::select! {
            () = stop.cancelled() => Err(TransferError::Stopped),
            ended = self.until_done() => ended,
        };
        // What is being written is verified already: let it come to rest, whatever else happened.
        while let Some(written) = self.writes.join_next().await {
            if let Ok(written) = written
                && let Err(End::Failed(error)) = self.written(written)
                && ended.is_ok()
            {
                return Err(error);
            }
        }
        ended.map(|()| (self.fetched, self.manifest))
    }

    async fn until_done(&mut self) -> Result<(), TransferError> {
        loop {
            let started = Instant::now();
            let before = self.fetched.counters.received;
            let end = match self.once().await {
                Err(End::Done) | Ok(()) => return Ok(()),
                Err(End::Failed(error)) => return Err(error),
                Err(End::Lost(reason)) => reason,
            };
            self.plan.disconnected();
            self.flow.restarted();
            self.fetched.counters.reconnections += 1;
            let config = &self.transfer.config;
            if self.last_progress.elapsed() > config.give_up_after {
                return Err(TransferError::NoAnswer(config.give_up_after));
            }
            if self.fetched.counters.received > before {
                // The connection was of use, however short it stood.
                self.transfer.backoff.stood(config.retry.stable_after);
            } else {
                self.transfer.backoff.stood(started.elapsed());
            }
            let wait = self.transfer.backoff.failed();
            info!(event = "transfer.reconnects", code = end.code().as_str(); "Transfer lost its connection");
            sleep(wait).await;
        }
    }

    /// One connection, until everything is here or the connection is gone.
    async fn once(&mut self) -> Result<(), End> {
        let connect_timeout = self.transfer.config.connect_timeout;
        let attempt =
            timeout(connect_timeout, self.transfer.transport.connect(self.transfer.session())).await;
        let mut connection = attempt.unwrap_or(Err(Disconnect::Timeout(connect_timeout)))?;
        let publisher = connection.publisher();
        let TransferConfig { fleet, device, .. } = &self.transfer.config;
        let filter = Filter::exactly(&Topic::down(fleet, device, Down::Blk));
        let wanted = vec![Subscription { filter, qos: Qos::AtMostOnce }];
        match timeout(connect_timeout, publisher.subscribe(wanted)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Disconnect::Refused(error.to_string()).into()),
            Err(_) => return Err(Disconnect::Timeout(connect_timeout).into()),
        }
        self.pace.slow = (Instant::now(), 0);
        let end = self.pump(&mut connection, &publisher).await;
        if matches!(end, Err(End::Done)) {
            connection.close(Duration::from_millis(500)).await;
        }
        end
    }

    async fn pump(&mut self, connection: &mut Connection, publisher: &Publisher) -> Result<(), End> {
        loop {
            self.ask(publisher).await?;
            if self.plan.is_done() && self.writes.is_empty() {
                return Err(End::Done);
            }
            let tick = self.flow.patience().min(Duration::from_millis(500)) / 2;
            let may_write = self.writes.len() < WRITES;
            // Every arm may be dropped half way: a message stays queued, a write goes on.
            tokio::select! {
                received = connection.next(), if may_write => self.received(&received?.payload)?,
                Some(written) = self.writes.join_next() => {
                    self.written(written.map_err(|_| TransferError::Stopped)?)?;
                }
                () = sleep(tick) => {}
            }
            self.watch()?;
        }
    }

    /// Asks for more when a good part of the window is free.
    async fn ask(&mut self, publisher: &Publisher) -> Result<(), End> {
        let on_the_way = self.plan.outstanding() + self.writing;
        let free = self.flow.window().saturating_sub(on_the_way);
        let worth_it = free >= self.flow.window() / 4 || self.plan.outstanding() == 0;
        if !worth_it || !self.plan.has_more() {
            return Ok(());
        }
        let now = Instant::now();
        let left = self.with_budget(|budget, now| budget.left(now)).0;
        let credit =
            free.max(if on_the_way == 0 { MAX_BLOCK_BYTES.into() } else { 0 }).min(MAX_CREDIT.0).min(left);
        let ranges = self.plan.ask(credit, now);
        if ranges.is_empty() {
            let out_of_budget = left < u64::from(MAX_BLOCK_BYTES) && self.plan.outstanding() == 0;
            return if out_of_budget && self.writes.is_empty() && left < credit.max(1).max(free) {
                Err(TransferError::Budget.into())
            } else {
                Ok(())
            };
        }
        let bytes: u32 = ranges.iter().map(|range| range.length).sum();
        self.with_budget(|budget, now| budget.take(bytes.into(), now));
        self.requests = self.requests.wrapping_add(1);
        let request = BlockRequest {
            transfer: self.number,
            number: self.requests,
            bundle: self.bundle,
            credit: bytes,
            ranges,
        };
        let payload = request.encode().map_err(|error| Disconnect::Protocol(error.to_string()))?;
        let TransferConfig { fleet, device, .. } = &self.transfer.config;
        let message = Message::quickly(Topic::up(fleet, device, Up::Blk), payload);
        publisher.send(message).await.map_err(|error| Disconnect::Closed(error.to_string()).into())
    }

    fn with_budget<T>(&self, act: impl FnOnce(&mut DayBudget, agentd_types::UnixTime) -> T) -> T {
        let now = self.transfer.clock.now();
        act(&mut self.transfer.budget.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    fn received(&mut self, message: &Bytes) -> Result<(), End> {
        let now = Instant::now();
        let counters = &mut self.fetched.counters;
        counters.received.0 += message.len() as u64;
        let Ok(block) = Block::decode(message) else {
            counters.unreadable += 1;
            return self.within_limit();
        };
        self.pace.second.1 += block.bytes.len() as u64;
        if block.transfer != self.number || block.bundle != self.bundle {
            counters.stale += 1;
            return self.within_limit();
        }
        match self.plan.accept(block, now)? {
            Accepted::Part { bytes, asked } => self.arrived(bytes, asked, now),
            Accepted::Whole { object, content, bytes, asked } => {
                self.arrived(bytes, asked, now);
                self.keep(object, content);
            }
            Accepted::Missing(object) => {
                self.fetched.counters.refused += 1;
                let times = self.missing.entry(object).or_default();
                *times += 1;
                if *times >= 3 {
                    return Err(TransferError::Missing(object).into());
                }
            }
            Accepted::Busy => self.fetched.counters.refused += 1,
            Accepted::Unasked => self.fetched.counters.unasked += 1,
            Accepted::Misshapen => self.fetched.counters.misshapen += 1,
        }
        self.within_limit()
    }

    fn within_limit(&self) -> Result<(), End> {
        let received = self.fetched.counters.received;
        if received > self.limit {
            return Err(TransferError::TooManyBytes { received, limit: self.limit }.into());
        }
        Ok(())
    }

    fn arrived(&mut self, bytes: u64, asked: Option<Instant>, now: Instant) {
        self.flow.arrived(bytes, asked, now);
        self.pace.slow.1 += bytes;
        self.last_progress = now;
    }

    /// Verifies and writes an object that is whole, where waiting is allowed.
    fn keep(&mut self, object: Object, content: Bytes) {
        let (Object::Chunk(digest), Some(sink)) = (object, &self.sink) else {
            self.manifest = Some(content);
            return;
        };
        let sink = Arc::clone(sink);
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        self.writing += u64::from(length);
        self.writes.spawn_blocking(move || {
            let outcome = if Digest::of(&content) == digest {
                sink.put(digest, &content).map(|()| true)
            } else {
                Ok(false)
            };
            Written { digest, length, outcome }
        });
    }

    fn written(&mut self, written: Written) -> Result<(), End> {
        let Written { digest, length, outcome } = written;
        self.writing = self.writing.saturating_sub(length.into());
        match outcome {
            Err(error) => return Err(TransferError::Sink(error).into()),
            Ok(true) => {
                self.fetched.chunks += 1;
                self.fetched.bytes.0 += u64::from(length);
                self.progress.send_modify(|progress| progress.have.0 += u64::from(length));
            }
            Ok(false) => {
                self.fetched.counters.corrupt_chunks += 1;
                let times = self.corrupt.entry(digest).or_default();
                *times += 1;
                let times = *times;
                self.plan
                    .refetch(Object::Chunk(digest), length, times)
                    .map_err(|_| TransferError::Corrupt(digest, times))?;
            }
        }
        Ok(())
    }

    /// What is lost is asked for again; what is slow is told, and tried over another connection.
    fn watch(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let (again, silent) = self.plan.reask(self.flow.patience(), now)?;
        self.fetched.counters.asked_again += again as u64;
        if silent {
            self.flow.stalled();
        }
        self.show_pace(now);
        if self.last_progress.elapsed() > self.transfer.config.give_up_after {
            return Err(TransferError::NoAnswer(self.transfer.config.give_up_after).into());
        }
        self.hold_floor(now)
    }

    fn show_pace(&mut self, now: Instant) {
        let (since, bytes) = self.pace.second;
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= Duration::from_secs(1) {
            let rate = u128::from(bytes) * 1_000 / elapsed.as_millis().max(1);
            let bytes_per_s = u64::try_from(rate).unwrap_or(u64::MAX);
            self.progress.send_modify(|progress| progress.bytes_per_s = bytes_per_s);
            self.pace.second = (now, 0);
        }
    }

    fn hold_floor(&mut self, now: Instant) -> Result<(), End> {
        let TransferConfig { slow_after, floor_bytes_per_s: floor, slow_strikes, .. } = self.transfer.config;
        let (since, bytes) = self.pace.slow;
        let elapsed = now.saturating_duration_since(since);
        if elapsed < slow_after {
            return Ok(());
        }
        self.pace.slow = (now, 0);
        let slow =
            u128::from(bytes) * 1_000 < u128::from(floor) * elapsed.as_millis() && !self.plan.is_done();
        self.progress.send_modify(|progress| progress.slow = slow);
        if !slow {
            self.strikes = 0;
            return Ok(());
        }
        self.strikes += 1;
        self.fetched.counters.slow += 1;
        warn!(event = "transfer.slow", code = "transfer.slow", bytes, floor; "Transfer is slower than the floor");
        if self.strikes >= slow_strikes {
            return Err(TransferError::Slow { floor, strikes: self.strikes }.into());
        }
        Err(Disconnect::Closed("too slow, another way is tried".to_owned()).into())
    }
}
