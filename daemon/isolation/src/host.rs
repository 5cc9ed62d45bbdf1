//! The worker's end: obeys the daemon, one order or request at a time.
//!
//! In: orders on the socket that is its standard input, requests in shared memory. Out: replies and answers. Limits
//! itself before it reads a model's first byte; ends when the daemon is gone. Knows no engine: the program that
//! calls [`serve`] brings them.

mod inbox;
mod panics;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use agentd_engine::{EngineError, LoadSpec, Session, Tensor, TensorView};
use agentd_types::{Adapter, EngineKind};

use crate::{
    MeasureBudget, MemoryUse,
    channel::{self, Packet},
    frame, limits,
    message::{Answer, MAX_PROFILE, Order, Request, VERSION},
    region::{self, Part, Region, Status, Word},
};
use inbox::{Inbox, Wake};

/// Time for runs that warm up, whatever their number.
const WARM_UP_AT_MOST: Duration = Duration::from_secs(10);
/// Time for runs whose steps are measured.
const LONGEST_PROFILE: Duration = Duration::from_secs(600);

/// What the worker program brings.
pub trait Host {
    /// Makes everything that a session in this setting needs of the system, above all threads: after this call none
    /// can be started any more.
    ///
    /// # Errors
    /// When the setting is not one of ours, or the threads cannot be had.
    fn prepare(&mut self, spec: &LoadSpec) -> Result<(), EngineError>;

    /// Loads a model.
    ///
    /// # Errors
    /// When the engine refuses it.
    fn load(&mut self, model: &[u8], spec: &LoadSpec) -> Result<Box<dyn Session>, EngineError>;

    /// Lists the graphics adapters.
    fn adapters(&mut self) -> Vec<Adapter>;
}

/// Serves the daemon until it is gone.
///
/// # Errors
/// When standard input is not a daemon's socket, or a limit cannot be set.
pub fn serve(host: &mut dyn Host) -> io::Result<()> {
    panics::remember();
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let Some(packet) = channel::receive(&control)? else { return Ok(()) };
    let (id, mut inbox) = hello(control, packet)?;
    inbox.reply(id, Ok(Answer::Ready { version: VERSION.into() }))?;
    let mut worker = Serving { host, session: None, engine: EngineKind::Cpu, held: None };
    loop {
        match inbox.next()? {
            Wake::Order(packet) => worker.order(&mut inbox, packet)?,
            Wake::Request(number) => worker.request(&mut inbox, number),
            Wake::Gone => return Ok(()),
        }
    }
}

/// Takes the first order, which brings the shared memory, and puts the limits on this process.
fn hello(control: OwnedFd, packet: Packet) -> io::Result<(u64, Inbox)> {
    let wrong =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("the daemon's greeting {what}"));
    let request: Request = serde_json::from_slice(&packet.bytes)?;
    let Order::Hello { version, limits, layout } = request.order else { return Err(wrong("is missing")) };
    if version != VERSION {
        return Err(wrong(&format!("is of version {version}, this worker of {VERSION}")));
    }
    let descriptors: [OwnedFd; 3] =
        packet.descriptors.try_into().map_err(|_| wrong("lacks its descriptors"))?;
    let [shared, requests, answers] = descriptors;
    let region = Region::map(&shared, layout)?;
    // The kernel's last resort takes us before the daemon. Without /proc we stay as we are.
    std::fs::write("/proc/self/oom_score_adj", "800").ok();
    rustix::thread::set_no_new_privs(true)?;
    let inbox = Inbox::new(control, requests, answers, region)?;
    limits.apply()?;
    Ok((request.id, inbox))
}

struct Serving<'a> {
    host: &'a mut dyn Host,
    session: Option<Box<dyn Session>>,
    engine: EngineKind,
    /// An answer that waits for room.
    held: Option<(u64, Vec<Tensor>)>,
}

impl Serving<'_> {
    fn order(&mut self, inbox: &mut Inbox, packet: Packet) -> io::Result<()> {
        let request: Request = serde_json::from_slice(&packet.bytes)?;
        let mut descriptors = packet.descriptors.into_iter();
        let outcome = match request.order {
            Order::Hello { .. } => return Err(io::ErrorKind::InvalidData.into()),
            Order::Region { layout } => {
                let shared = descriptors.next().ok_or(io::ErrorKind::InvalidData)?;
                inbox.region = Region::map(&shared, layout)?;
                if let Some((number, outputs)) = self.held.take() {
                    write(inbox, number, &outputs);
                }
                Ok(Answer::Region)
            }
            Order::Load { spec } => {
                let file = descriptors.next().ok_or(io::ErrorKind::InvalidData)?;
                self.load(file, &spec)?
            }
            Order::Measure { budget } => self.measure(inbox, &budget),
            Order::Profile { time } => self.profile(inbox, time),
            Order::Adapters => Ok(Answer::Adapters(self.host.adapters())),
        };
        inbox.reply(request.id, outcome)
    }

    fn load(&mut self, file: OwnedFd, spec: &LoadSpec) -> io::Result<Result<Answer, EngineError>> {
        self.session = None;
        self.engine = spec.setting.engine;
        if let Err(error) = self.host.prepare(spec) {
            return Ok(Err(error));
        }
        limits::lock()?;
        let started = Instant::now();
        let model = region::Bytes::map(&file)?;
        drop(file);
        let loaded = catch_unwind(AssertUnwindSafe(|| self.host.load(&model, spec)));
        Ok(match loaded {
            Ok(Ok(session)) => {
                let mut loaded = session.loaded();
                loaded.load_time = started.elapsed();
                loaded.peak_memory = MemoryUse::of(std::process::id()).peak;
                self.session = Some(session);
                Ok(Answer::Loaded(loaded))
            }
            Ok(Err(error)) => Err(error),
            Err(panic) => {
                Err(EngineError::Load { engine: self.engine, reason: panics::said(panic.as_ref()) })
            }
        })
    }

    fn request(&mut self, inbox: &mut Inbox, number: u64) {
        self.held = None;
        let Some(session) = &mut self.session else { return inbox.answer(number, Status::NoModel, 0) };
        match with_request(&inbox.region, |inputs| run(session.as_mut(), self.engine, inputs)) {
            Ok(outputs) => {
                if !write(inbox, number, &outputs) {
                    self.held = Some((number, outputs));
                }
            }
            Err(error) => fail(inbox, number, &error),
        }
    }

    fn measure(&mut self, inbox: &mut Inbox, budget: &MeasureBudget) -> Result<Answer, EngineError> {
        let Some(session) = &mut self.session else { return Ok(Answer::NoModel) };
        let mut latencies = Vec::new();
        let wall = with_request(&inbox.region, |inputs| {
            let warm_up = Instant::now();
            for _ in 0..budget.warm_up_runs {
                run(session.as_mut(), self.engine, inputs)?;
                if warm_up.elapsed() > WARM_UP_AT_MOST {
                    break;
                }
            }
            let started = Instant::now();
            for _ in 0..budget.max_runs.clamp(1, MeasureBudget::MAX_RUNS) {
                let run_started = Instant::now();
                run(session.as_mut(), self.engine, inputs)?;
                let us = run_started.elapsed().as_nanos().div_ceil(1000);
                latencies.extend(u64::try_from(us).unwrap_or(u64::MAX).to_le_bytes());
                if started.elapsed() > budget.time {
                    break;
                }
            }
            Ok(started.elapsed())
        })?;
        let runs = u32::try_from(latencies.len() / 8).unwrap_or(u32::MAX);
        if !inbox.region.copy_in(Part::Answer, 0, &latencies) {
            return Err(EngineError::Run { engine: self.engine, reason: "no room for the latencies".into() });
        }
        Ok(Answer::Measured { runs, wall })
    }

    fn profile(&mut self, inbox: &mut Inbox, time: Duration) -> Result<Answer, EngineError> {
        let Some(session) = &mut self.session else { return Ok(Answer::NoModel) };
        let engine = self.engine;
        let profile = with_request(&inbox.region, |inputs| {
            guarded(engine, || session.profile(inputs, time.min(LONGEST_PROFILE)))
        })?;
        let Some(profile) = profile else {
            let reason = "it does not show the steps of a plan".into();
            return Err(EngineError::Unsupported { engine, reason });
        };
        let json = serde_json::to_vec(&profile).unwrap_or_default();
        if json.len() > MAX_PROFILE || !inbox.region.copy_in(Part::Answer, 0, &json) {
            return Err(EngineError::Run { engine, reason: "no room for the profile".into() });
        }
        Ok(Answer::Profile { len: json.len() })
    }
}

/// Reads the request that lies in shared memory, in place.
fn with_request<T>(
    region: &Region,
    run: impl FnOnce(&[TensorView<'_>]) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let bad =
        || EngineError::Input { name: String::new(), reason: "the request does not hold together".into() };
    let len = usize::try_from(region.load(Word::RequestLen)).map_err(|_| bad())?;
    let request = region.request(len).ok_or_else(bad)?;
    let slots = frame::read(request).map_err(|_| bad())?;
    run(&frame::views(request, &slots))
}

/// Runs a session; a panic becomes an error, since sessions stay usable after one (see [`Session::run`]).
fn run(
    session: &mut dyn Session,
    engine: EngineKind,
    inputs: &[TensorView<'_>],
) -> Result<Vec<Tensor>, EngineError> {
    guarded(engine, || session.run(inputs))
}

/// What `work` gives; a panic becomes an error.
fn guarded<T>(engine: EngineKind, work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(EngineError::Run { engine, reason: panics::said(panic.as_ref()) }))
}

/// Writes an answer; `false` when there is no room for it, which the daemon is told.
fn write(inbox: &mut Inbox, number: u64, outputs: &[Tensor]) -> bool {
    let views: Vec<_> = outputs.iter().map(Tensor::view).collect();
    let Some(plan) = frame::plan(&views) else {
        let reason = "more outputs than an answer may have".into();
        fail(inbox, number, &EngineError::Run { engine: EngineKind::Cpu, reason });
        return true;
    };
    let mut fits = plan.len <= inbox.region.layout().answer;
    if fits {
        fits &= inbox.region.copy_in(Part::Answer, 0, &plan.table);
        for (offset, output) in plan.offsets.iter().zip(outputs) {
            fits &= inbox.region.copy_in(Part::Answer, *offset, &output.bytes);
        }
    }
    inbox.answer(number, if fits { Status::Tensors } else { Status::Larger }, plan.len);
    fits
}

fn fail(inbox: &mut Inbox, number: u64, error: &EngineError) {
    let mut json = serde_json::to_vec(error).unwrap_or_default();
    if !inbox.region.copy_in(Part::Answer, 0, &json) {
        let short = EngineError::Run { engine: EngineKind::Cpu, reason: "an error too long to tell".into() };
        json = serde_json::to_vec(&short).unwrap_or_default();
        let _fits = inbox.region.copy_in(Part::Answer, 0, &json);
    }
    inbox.answer(number, Status::Error, json.len());
}
