//! The daemon's end: one worker process, which is killed when this value is dropped.
//!
//! In: a model, requests, deadlines. Out: tensors that were copied out of shared memory and hold together, or how
//! the worker failed. Believes no length, number or name that the worker says.

mod death;
mod profile;
mod wait;

use std::{
    fmt,
    process::Stdio,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use agentd_engine::{EngineError, LoadSpec, Loaded, Profile, Tensor, TensorView};
use agentd_types::{Adapter, ByteCount, TensorSpec, element_count};
use bytes::Bytes;
use rustix::{
    event::{EventfdFlags, eventfd},
    io::Errno,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::{Child, Command},
};

use crate::{
    Limits, MeasureBudget, Measured, MemoryUse, ModelFile, Program, StartError, WorkerError, channel,
    error::Death,
    frame,
    message::{Answer, MAX_PACKET, MAX_PROFILE, Order, Request, VERSION},
    region::{Layout, Part, Region, Status, Word},
    stderr::LastWords,
};

/// Time for a new process to say that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// An answer within this is quick: the next one is looked out for before we go to sleep.
const QUICK: Duration = Duration::from_micros(60);
/// Room in shared memory for the tensors of a request, and likewise of an answer, before more is known.
const SMALLEST_PART: usize = 64 << 10;
/// An element of `BYTES` is taken to be this long when room is made ahead.
const BYTES_ELEMENT: usize = 64;
/// Adapters that are taken from a list.
const MAX_ADAPTERS: usize = 64;
/// Messages of an engine are cut after this many characters.
const MAX_REASON: usize = 2_000;

/// A process that hosts one model, away from everything else.
///
/// Every call can be dropped half way: the next one waits until the worker is free again. The process ends when this
/// value is dropped, and when the daemon dies.
pub struct Worker {
    child: Child,
    pid: u32,
    /// Packets with orders and replies.
    control: AsyncFd<OwnedFd>,
    /// Wakes the worker for a request.
    request: OwnedFd,
    /// Wakes us for an answer.
    answer: AsyncFd<OwnedFd>,
    region: Region,
    last_words: LastWords,
    limits: Limits,
    phase: Phase,
    /// The number of the last order or request.
    number: u64,
    /// The number of the last request that went out.
    asked: u64,
    /// Whether there is more than one processor, so that a worker can run while we look out for its answer.
    spins: bool,
    /// Whether the last answer came so soon that going to sleep would take longer than the next one.
    quick: bool,
    spec: Option<LoadSpec>,
}

/// What the worker does.
#[derive(Clone, Debug)]
enum Phase {
    /// It waits for us.
    Idle,
    /// It was asked something and must answer by then.
    Busy { ticket: Ticket, by: Instant, after: Duration },
    /// It is gone.
    Dead(Death),
}

/// What we wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ticket {
    /// A reply on the socket.
    Reply { id: u64, doing: &'static str },
    /// An answer in shared memory.
    Answer { number: u64 },
}

impl Ticket {
    const fn doing(self) -> &'static str {
        match self {
            Self::Reply { doing, .. } => doing,
            Self::Answer { .. } => "answer a request",
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("pid", &self.pid).field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts a worker process and waits until it has limited itself and is ready.
    ///
    /// # Errors
    /// When the program cannot be run, does not get ready within ten seconds, or is of another version.
    pub async fn start(program: &Program, limits: &Limits) -> Result<Self, StartError> {
        let prepare = |what| move |error: Errno| StartError::Prepare { what, source: error.into() };
        let (ours, theirs) = channel::pair().map_err(prepare("socket pair"))?;
        let (last_words, stderr) = LastWords::new().map_err(prepare("pipe"))?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let request = eventfd(0, flags).map_err(prepare("eventfd"))?;
        let answer = eventfd(0, flags).map_err(prepare("eventfd"))?;
        let layout = Layout { request: SMALLEST_PART, answer: SMALLEST_PART };
        let (region, shared) = Region::create(layout).map_err(prepare("shared memory"))?;
        let control = watch(ours, Interest::READABLE | Interest::WRITABLE)?;
        let answer = watch(answer, Interest::READABLE)?;
        let child = Command::new(&program.path)
            .arg("run")
            .env_clear()
            .env("MALLOC_ARENA_MAX", "1")
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(stderr))
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| StartError::Spawn { path: program.path.clone(), source })?;
        let pid = child.id().unwrap_or_default();
        let mut worker = Self {
            child,
            pid,
            control,
            request,
            answer,
            region,
            last_words,
            limits: limits.clone(),
            phase: Phase::Idle,
            number: 0,
            asked: 0,
            spins: available_parallelism().is_ok_and(|processors| processors.get() > 1),
            quick: false,
            spec: None,
        };
        worker.greet(layout, &shared).await.map_err(StartError::Ready)?;
        Ok(worker)
    }

    /// The id of the process.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether the process is known to be gone.
    pub const fn is_dead(&self) -> bool {
        matches!(self.phase, Phase::Dead(_))
    }

    /// Loads a model in place of the one loaded before.
    ///
    /// The worker locks itself before it reads the model's first byte: from then on it can start no thread, so a
    /// second model with more threads needs another worker.
    ///
    /// # Errors
    /// When the engine refuses the model, or the worker fails.
    pub async fn load(
        &mut self,
        model: &ModelFile,
        spec: &LoadSpec,
        deadline: Duration,
    ) -> Result<Loaded, WorkerError> {
        self.settle().await?;
        self.spec = None;
        let batch = usize::from(spec.setting.batch);
        let room =
            Layout { request: self.room(&spec.inputs, batch), answer: self.room(&spec.outputs, batch) };
        self.grow(room, deadline).await?;
        let order = Order::Load { spec: spec.clone() };
        let started = Instant::now();
        match self.order("load a model", order, &[model.as_fd()], deadline).await? {
            Answer::Loaded(loaded) => {
                self.spec = Some(spec.clone());
                let load_time = loaded.load_time.min(started.elapsed());
                Ok(Loaded { load_time, peak_memory: self.memory().peak, ..loaded })
            }
            _ => Err(self.condemn("an answer to something else").await),
        }
    }

    /// Answers one request: outputs in the order of the spec that was loaded.
    ///
    /// # Errors
    /// When an input does not fit the spec, the tensors are too large, the engine fails, or the worker fails.
    pub async fn infer(
        &mut self,
        inputs: &[TensorView<'_>],
        deadline: Duration,
    ) -> Result<Vec<Tensor>, WorkerError> {
        self.settle().await?;
        let spec = self.spec.as_ref().ok_or(WorkerError::NoModel)?;
        agentd_engine::check_inputs(&spec.inputs, inputs)?;
        self.put(inputs, deadline).await?;
        let number = self.number;
        self.asked = number;
        self.region.store(Word::Request, number);
        self.phase = Phase::Busy { ticket: Ticket::Answer { number }, by: later(deadline), after: deadline };
        let asked = Instant::now();
        if self.region.load(Word::WorkerSleeps) != 0 {
            signal(self.request.as_fd());
        }
        self.finish().await?;
        self.quick = self.spins && asked.elapsed() < QUICK;
        self.take(deadline).await
    }

    /// Runs the inputs again and again inside the worker, so that neither the boundary nor this process is measured.
    ///
    /// # Errors
    /// As for [`Self::infer`].
    pub async fn measure(
        &mut self,
        inputs: &[Tensor],
        budget: &MeasureBudget,
        deadline: Duration,
    ) -> Result<Measured, WorkerError> {
        self.settle().await?;
        let spec = self.spec.as_ref().ok_or(WorkerError::NoModel)?;
        let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
        agentd_engine::check_inputs(&spec.inputs, &views)?;
        let max_runs = budget.max_runs.clamp(1, MeasureBudget::MAX_RUNS);
        let budget = MeasureBudget { max_runs, ..*budget };
        let room =
            Layout { request: 0, answer: usize::try_from(max_runs).unwrap_or(usize::MAX).saturating_mul(8) };
        self.grow(room, deadline).await?;
        self.put(&views, deadline).await?;
        let started = Instant::now();
        let answer = self.order("measure a model", Order::Measure { budget }, &[], deadline).await?;
        let Answer::Measured { runs, wall } = answer else {
            return Err(self.condemn("an answer to something else").await);
        };
        if runs == 0 || runs > max_runs || wall > started.elapsed() {
            return Err(self.condemn("a measurement that cannot be").await);
        }
        let len = usize::try_from(runs).unwrap_or(usize::MAX).saturating_mul(8);
        let bytes = self.region.copy_out(Part::Answer, len).unwrap_or_default();
        let latencies_us: Vec<_> =
            bytes.as_chunks::<8>().0.iter().map(|us| u64::from_le_bytes(*us)).collect();
        let longest = wall.as_nanos().div_ceil(1_000);
        if bytes.len() != len || latencies_us.iter().any(|us| u128::from(*us) > longest) {
            return Err(self.condemn("a measurement that cannot be").await);
        }
        Ok(Measured { latencies_us, wall })
    }

    /// Runs the inputs again and again inside the worker, for `time`, and measures every step of the plan.
    ///
    /// # Errors
    /// As for [`Self::infer`]; `engine.unsupported` when the engine does not show its steps.
    pub async fn profile(
        &mut self,
        inputs: &[Tensor],
        time: Duration,
        deadline: Duration,
    ) -> Result<Profile, WorkerError> {
        self.settle().await?;
        let spec = self.spec.as_ref().ok_or(WorkerError::NoModel)?;
        let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
        agentd_engine::check_inputs(&spec.inputs, &views)?;
        self.grow(Layout { request: 0, answer: MAX_PROFILE }, deadline).await?;
        self.put(&views, deadline).await?;
        let started = Instant::now();
        let answer = self.order("profile a model", Order::Profile { time }, &[], deadline).await?;
        let Answer::Profile { len } = answer else {
            return Err(self.condemn("an answer to something else").await);
        };
        let bytes = self.region.copy_out(Part::Answer, len.min(MAX_PROFILE)).unwrap_or_default();
        match profile::read(&bytes, started.elapsed()) {
            Some(profile) => Ok(profile),
            None => Err(self.condemn("a profile that cannot be").await),
        }
    }

    /// Lists the graphics adapters that the worker finds; asked before a model is loaded, since drivers want threads.
    ///
    /// # Errors
    /// When the worker fails.
    pub async fn adapters(&mut self, deadline: Duration) -> Result<Vec<Adapter>, WorkerError> {
        self.settle().await?;
        match self.order("list graphics adapters", Order::Adapters, &[], deadline).await? {
            Answer::Adapters(adapters) => Ok(adapters.into_iter().take(MAX_ADAPTERS).map(cleaned).collect()),
            _ => Err(self.condemn("an answer to something else").await),
        }
    }

    /// The memory of the process; zeros once it is gone.
    pub fn memory(&self) -> MemoryUse {
        if self.is_dead() { MemoryUse::default() } else { MemoryUse::of(self.pid) }
    }

    /// Ends the process and waits until it is gone.
    pub async fn stop(mut self) {
        self.kill().await;
    }

    async fn greet(&mut self, layout: Layout, shared: &OwnedFd) -> Result<(), WorkerError> {
        let hello = Order::Hello { version: VERSION.into(), limits: self.limits.clone(), layout };
        let (request, answer) = (self.request.try_clone(), self.answer.get_ref().try_clone());
        let (Ok(request), Ok(answer)) = (request, answer) else {
            return Err(system("duplicate descriptors", Errno::MFILE));
        };
        let descriptors = [shared.as_fd(), request.as_fd(), answer.as_fd()];
        match self.order("get ready", hello, &descriptors, READY_WITHIN).await? {
            Answer::Ready { version } if version == VERSION => Ok(()),
            _ => Err(self.condemn("a worker of another version").await),
        }
    }

    /// Sends an order and waits for what came of it.
    async fn order(
        &mut self,
        doing: &'static str,
        order: Order,
        descriptors: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<Answer, WorkerError> {
        self.number += 1;
        let id = self.number;
        let packet = serde_json::to_vec(&Request { id, order }).unwrap_or_default();
        if packet.len() > MAX_PACKET {
            let limit = ByteCount(MAX_PACKET as u64);
            return Err(WorkerError::TooLarge {
                what: "description of the model",
                bytes: ByteCount(packet.len() as u64),
                limit,
            });
        }
        match channel::send(self.control.get_ref(), &packet, descriptors) {
            Ok(()) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(self.bury().await),
            Err(error) => return Err(system("send an order", error)),
        }
        self.phase =
            Phase::Busy { ticket: Ticket::Reply { id, doing }, by: later(deadline), after: deadline };
        let reply = self.finish().await?;
        match reply.map(|reply| reply.outcome) {
            Some(Ok(Answer::NoModel)) => Err(WorkerError::NoModel),
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => {
                self.last_words.forget();
                Err(WorkerError::Engine(bounded(error)))
            }
            None => Err(self.condemn("no reply").await),
        }
    }

    /// Writes the tensors of a request into shared memory, under a new number.
    async fn put(&mut self, inputs: &[TensorView<'_>], deadline: Duration) -> Result<(), WorkerError> {
        let limit = self.limits.tensors;
        let too_large = |bytes| WorkerError::TooLarge { what: "request", bytes: ByteCount(bytes), limit };
        let plan = frame::plan(inputs).ok_or_else(|| too_large(u64::MAX))?;
        if plan.len as u64 > limit.0 {
            return Err(too_large(plan.len as u64));
        }
        self.grow(Layout { request: plan.len, answer: 0 }, deadline).await?;
        let mut fits = self.region.copy_in(Part::Request, 0, &plan.table);
        for (offset, input) in plan.offsets.iter().zip(inputs) {
            fits &= self.region.copy_in(Part::Request, *offset, input.bytes);
        }
        if !fits {
            return Err(too_large(plan.len as u64));
        }
        self.number += 1;
        self.region.store(Word::RequestLen, plan.len as u64);
        Ok(())
    }

    /// Takes the answer out of shared memory.
    async fn take(&mut self, deadline: Duration) -> Result<Vec<Tensor>, WorkerError> {
        let mut status = Status::from_word(self.region.load(Word::AnswerStatus));
        let mut len = self.region.load(Word::AnswerLen);
        if status == Some(Status::Larger) {
            let limit = self.limits.tensors;
            if len > limit.0 {
                return Err(WorkerError::TooLarge { what: "answer", bytes: ByteCount(len), limit });
            }
            self.grow(Layout { request: 0, answer: usize::try_from(len).unwrap_or(usize::MAX) }, deadline)
                .await?;
            status = Status::from_word(self.region.load(Word::AnswerStatus));
            len = self.region.load(Word::AnswerLen);
        }
        let bytes = usize::try_from(len).ok().and_then(|len| self.region.copy_out(Part::Answer, len));
        let Some(bytes) = bytes else { return Err(self.condemn("an answer longer than its room").await) };
        match status {
            Some(Status::Tensors) => match self.outputs(bytes) {
                Some(outputs) => Ok(outputs),
                None => Err(self.condemn("outputs that do not hold together").await),
            },
            Some(Status::Error) => match serde_json::from_slice(&bytes) {
                Ok(error) => {
                    self.last_words.forget();
                    Err(WorkerError::Engine(bounded(error)))
                }
                Err(_) => Err(self.condemn("an error that is none").await),
            },
            Some(Status::NoModel) => Err(WorkerError::NoModel),
            Some(Status::Larger) | None => Err(self.condemn("an answer of no known kind").await),
        }
    }

    /// The outputs in a frame that is a copy of our own; `None` when they are not what the spec says.
    fn outputs(&self, frame: Vec<u8>) -> Option<Vec<Tensor>> {
        let slots = frame::read(&frame).ok()?;
        let specs = &self.spec.as_ref()?.outputs;
        let fit = |slot: &frame::Slot, spec: &TensorSpec| {
            slot.datatype == spec.datatype && spec.accepts(&slot.shape)
        };
        if slots.len() != specs.len() || !slots.iter().zip(specs).all(|(slot, spec)| fit(slot, spec)) {
            return None;
        }
        let frame = Bytes::from(frame);
        let tensor = |slot: frame::Slot| Tensor {
            datatype: slot.datatype,
            shape: slot.shape,
            bytes: frame.slice(slot.range),
        };
        Some(slots.into_iter().map(tensor).collect())
    }

    /// Bytes to set aside for tensors of these specs, with free dimensions taken as `batch` (the first) or 1.
    fn room(&self, specs: &[TensorSpec], batch: usize) -> usize {
        let limit = usize::try_from(self.limits.tensors.0).unwrap_or(usize::MAX);
        let bytes = specs.iter().map(|spec| {
            let dim = |(position, dim): (usize, &i64)| {
                usize::try_from(*dim).unwrap_or(if position == 0 { batch } else { 1 })
            };
            let shape: Vec<_> = spec.shape.iter().enumerate().map(dim).collect();
            let size = spec.datatype.size().unwrap_or(BYTES_ELEMENT);
            element_count(&shape)
                .unwrap_or_default()
                .saturating_mul(size)
                .saturating_add(128 + shape.len() * 8)
        });
        bytes.fold(64, usize::saturating_add).min(limit)
    }

    /// Replaces the shared memory when a part of it is smaller than in `room`. The worker carries over an answer
    /// that waits for room.
    async fn grow(&mut self, room: Layout, deadline: Duration) -> Result<(), WorkerError> {
        let held = self.region.layout();
        if held.request >= room.request && held.answer >= room.answer {
            return Ok(());
        }
        let rounded =
            |held: usize, wanted: usize| wanted.max(held).checked_next_multiple_of(4096).unwrap_or(wanted);
        let layout = Layout {
            request: rounded(held.request, room.request),
            answer: rounded(held.answer, room.answer),
        };
        let (region, shared) = Region::create(layout).map_err(|error| system("make shared memory", error))?;
        region.store(Word::Request, self.asked);
        region.store(Word::Answer, self.asked);
        let old = std::mem::replace(&mut self.region, region);
        let outcome = self
            .order("change its shared memory", Order::Region { layout }, &[shared.as_fd()], deadline)
            .await;
        drop(old);
        match outcome? {
            Answer::Region => Ok(()),
            _ => Err(self.condemn("an answer to something else").await),
        }
    }
}

/// The instant that lies `deadline` ahead, at most a year.
fn later(deadline: Duration) -> Instant {
    Instant::now() + deadline.min(Duration::from_secs(365 * 86_400))
}

/// Has the event loop watch a descriptor.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types whose descriptor may close early; an `OwnedFd` owns it"
)]
fn watch(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, StartError> {
    AsyncFd::with_interest(fd, interest).map_err(|source| StartError::Prepare { what: "event loop", source })
}

/// Adds one to an eventfd; one that is full needs no more.
fn signal(eventfd: BorrowedFd<'_>) {
    let written = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
    debug_assert!(matches!(written, Ok(8) | Err(Errno::AGAIN)), "an eventfd takes eight bytes");
}

fn system(what: &'static str, error: Errno) -> WorkerError {
    WorkerError::System { what, message: error.to_string() }
}

/// The same text, printable and of bounded length.
fn clean(text: String) -> String {
    if text.len() <= MAX_REASON && !text.contains(char::is_control) {
        return text;
    }
    text.chars().take(MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cleaned(adapter: Adapter) -> Adapter {
    let Adapter { name, backend, driver, .. } = adapter;
    Adapter { name: clean(name), backend: clean(backend), driver: clean(driver), ..adapter }
}

/// The same error with every text printable and of bounded length.
fn bounded(error: EngineError) -> EngineError {
    match error {
        EngineError::Load { engine, reason } => EngineError::Load { engine, reason: clean(reason) },
        EngineError::Unsupported { engine, reason } => {
            EngineError::Unsupported { engine, reason: clean(reason) }
        }
        memory @ EngineError::Memory { .. } => memory,
        EngineError::Input { name, reason } => {
            EngineError::Input { name: clean(name), reason: clean(reason) }
        }
        EngineError::Run { engine, reason } => EngineError::Run { engine, reason: clean(reason) },
    }
}
