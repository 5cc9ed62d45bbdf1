//! The engine behind the trait that all engines share, and its sessions.
//!
//! In: the bytes of an ONNX file, already scanned, and the specs of its inputs and outputs. Out: a session with the few
//! plans that were used last, each for the concrete shapes of a request; all of them run on the same threads. Opens no
//! file.

mod profile;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agentd_engine::{
    Engine, EngineError, LoadSpec, Loaded, Profile, Session, Tensor, TensorView, check_inputs,
};
use agentd_plan::{Fact, Given, Numerics, Op, ValueId, fuse_owned, import};
use agentd_types::{ByteCount, EngineKind, TensorSpec, chain};
use rustix::process::{Resource, getrlimit};

use crate::{Draft, Isa, Model, Options, Team};

/// Plans that are kept; each holds the weights in its own packing.
const MAX_PLANS: usize = 4;

/// Threads that one inference may use at most.
const MAX_THREADS: u16 = 256;

/// Our own kernels on the processor.
#[derive(Clone, Debug, Default)]
pub struct Native {
    /// Bytes that all plans of a session may take; `None`: what the process may.
    memory: Option<u64>,
    /// Threads that were started ahead, and how many were asked for.
    team: Option<(u16, Arc<Mutex<Team>>)>,
}

impl Native {
    /// An engine that has started no threads yet.
    pub const fn new() -> Self {
        Self { memory: None, team: None }
    }

    /// The engine, with sessions that take no more than so much memory for their models.
    #[must_use]
    pub fn with_memory(self, memory: ByteCount) -> Self {
        Self { memory: Some(memory.0), ..self }
    }

    /// Starts the threads that sessions with `threads` threads use; 1 needs none. Where the system grants fewer,
    /// sessions run on those and say so.
    ///
    /// [`Engine::load`] starts its own where this was not called with the same number before.
    ///
    /// # Errors
    /// When there are too many.
    pub fn prepare(&mut self, threads: u16) -> Result<(), EngineError> {
        if threads > 1 && self.team.as_ref().is_none_or(|(held, _)| *held != threads) {
            // The threads held so far end first, so that no more are counted than are wanted.
            self.team = None;
            self.team = Some((threads, team(threads)?));
        }
        Ok(())
    }
}

fn team(threads: u16) -> Result<Arc<Mutex<Team>>, EngineError> {
    if threads > MAX_THREADS {
        return Err(unsupported(format!("{threads} threads are more than {MAX_THREADS}")));
    }
    Ok(Arc::new(Mutex::new(Team::new(usize::from(threads)))))
}

impl Engine for Native {
    fn kind(&self) -> EngineKind {
        EngineKind::Native
    }

    fn load(&self, model: &[u8], spec: &LoadSpec) -> Result<Box<dyn Session>, EngineError> {
        let setting = spec.setting;
        if setting.engine != EngineKind::Native {
            return Err(unsupported(format!("it is not the {} engine", setting.engine)));
        }
        let first_is_free = spec.inputs.first().is_some_and(|input| input.shape.first() == Some(&-1));
        if setting.batch > 1 && !first_is_free {
            return Err(unsupported(
                "the model's first dimension is fixed, so it takes no batches".to_owned(),
            ));
        }
        let limit = self.memory.unwrap_or_else(process_limit);
        let team = match &self.team {
            Some((held, team)) if *held == setting.threads => Arc::clone(team),
            _ => team(setting.threads)?,
        };
        Ok(Box::new(NativeSession::new(model, spec, limit, team)?))
    }
}

/// A model that is loaded, with the plans for the shapes that were asked for last.
#[derive(Debug)]
struct NativeSession {
    /// The file, kept while a request may have shapes that no plan is for yet.
    file: Vec<u8>,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    /// The one used last comes first.
    plans: Vec<Ready>,
    /// Bytes that all plans may take.
    limit: u64,
    /// What all plans run on.
    team: Arc<Mutex<Team>>,
    loaded: Loaded,
}

/// A plan for concrete shapes.
#[derive(Debug)]
struct Ready {
    shapes: Vec<Vec<usize>>,
    model: Model,
    /// For each input of the graph its place in the spec; the graph may take fewer.
    takes: Vec<usize>,
    /// For each output of the spec its place in the graph, and its concrete shape.
    gives: Vec<(usize, Vec<usize>)>,
}

impl NativeSession {
    fn new(file: &[u8], spec: &LoadSpec, limit: u64, team: Arc<Mutex<Team>>) -> Result<Self, EngineError> {
        let started = Instant::now();
        let LoadSpec { inputs, outputs, .. } = spec.clone();
        let is_open = inputs.iter().any(|input| input.shape.contains(&-1));
        let threads = team.lock().unwrap_or_else(PoisonError::into_inner).count();
        let loaded = Loaded { threads: u16::try_from(threads).unwrap_or(u16::MAX), ..Loaded::default() };
        let plans = Vec::new();
        let mut session = Self { file: Vec::new(), inputs, outputs, plans, limit, team, loaded };
        // Dimensions that nobody knows yet are tried as 1, so that a model which cannot be planned is refused now.
        let expected = expected_shapes(spec);
        let shapes = expected.clone().unwrap_or_else(|| smallest_shapes(spec));
        match Ready::new(file, &session.inputs, &session.outputs, shapes, limit) {
            Ok(plan) => {
                session.loaded.fallback_nodes =
                    u32::try_from(plan.model.fallback_nodes()).unwrap_or(u32::MAX);
                session.loaded.recurrent =
                    plan.model.graph().nodes().iter().any(|node| matches!(node.op, Op::Recurrent(_)));
                if expected.is_some() {
                    session.plans.push(plan.with_team(&session.team));
                }
            }
            // The model may not like 1 where it takes other sizes.
            Err(refusal @ Refusal::Memory { .. }) => return Err(refusal.into()),
            Err(refusal) if expected.is_some() => return Err(refusal.into()),
            Err(Refusal::Model(_)) => {}
        }
        if is_open {
            session.file = file.to_vec();
        }
        session.loaded.load_time = started.elapsed();
        Ok(session)
    }

    /// Puts the plan for the shapes of these inputs first, made when there is none yet; the oldest gives way.
    fn make_ready(&mut self, inputs: &[TensorView<'_>]) -> Result<(), EngineError> {
        if let Some(position) = self.plans.iter().position(|plan| plan.is_for(inputs)) {
            if let Some(used) = self.plans.get_mut(..=position) {
                used.rotate_right(1);
            }
            return Ok(());
        }
        self.plans.truncate(MAX_PLANS - 1);
        let shapes = inputs.iter().map(|input| input.shape.to_vec()).collect();
        let held = self.plans.iter().map(|plan| plan.model.memory().held()).sum();
        let room = self.limit.saturating_sub(held);
        let plan =
            Ready::new(&self.file, &self.inputs, &self.outputs, shapes, room).map_err(
                |refusal| match refusal {
                    Refusal::Model(reason) => self.refuse(inputs, &reason),
                    Refusal::Memory { .. } => refusal.into(),
                },
            )?;
        self.plans.insert(0, plan.with_team(&self.team));
        Ok(())
    }

    /// The shapes fit the specs, and yet there is no plan for them: the inputs with open dimensions are why.
    fn refuse(&self, inputs: &[TensorView<'_>], reason: &str) -> EngineError {
        let open = self.inputs.iter().zip(inputs).find(|(spec, _)| spec.shape.contains(&-1));
        let (name, shape) =
            open.map_or_else(Default::default, |(spec, input)| (spec.name.clone(), input.shape.to_vec()));
        EngineError::Input { name, reason: format!("there is no plan for shape {shape:?}: {reason}") }
    }
}

impl Session for NativeSession {
    fn loaded(&self) -> Loaded {
        self.loaded.clone()
    }

    fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, EngineError> {
        check_inputs(&self.inputs, inputs)?;
        self.make_ready(inputs)?;
        let plan = self.plans.first_mut().ok_or_else(|| failed("there is no plan"))?;
        plan.run(&self.outputs, inputs)
    }

    fn profile(&mut self, inputs: &[TensorView<'_>], time: Duration) -> Result<Option<Profile>, EngineError> {
        check_inputs(&self.inputs, inputs)?;
        self.make_ready(inputs)?;
        let plan = self.plans.first_mut().ok_or_else(|| failed("there is no plan"))?;
        plan.profile(&self.outputs, inputs, time).map(Some)
    }
}

impl Ready {
    /// A plan, or why there is none.
    fn new(
        file: &[u8],
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        shapes: Vec<Vec<usize>>,
        room: u64,
    ) -> Result<Self, Refusal> {
        // The graph holds a copy of the weights, which are nearly all of the file.
        admit(u64::try_from(file.len()).unwrap_or(u64::MAX), room)?;
        let facts: Vec<(&str, Fact)> = inputs
            .iter()
            .zip(&shapes)
            .map(|(spec, shape)| (spec.name.as_str(), Fact::new(spec.datatype, shape.clone())))
            .collect();
        let words = |error: &dyn std::error::Error| bounded(&chain(error));
        let graph =
            import(file, &Given { shapes: &facts, ..Given::default() }).map_err(|error| words(&error))?;
        let graph = Arc::new(fuse_owned(graph, Numerics::Fast).map_err(|error| words(&error))?);
        let place = |id: &ValueId| {
            let name = &graph.value(*id).name;
            inputs
                .iter()
                .position(|spec| spec.name == *name)
                .ok_or_else(|| format!("it needs an input `{name}`"))
        };
        let takes = graph.inputs().iter().map(place).collect::<Result<_, String>>()?;
        let gives = outputs.iter().map(|spec| output(&graph, spec)).collect::<Result<_, String>>()?;
        let options = Options { isa: Isa::detect(), numerics: Numerics::Fast };
        let draft = Draft::new(graph, options).map_err(|error| words(&error))?;
        admit(draft.memory().peak, room)?;
        let model = draft.build().map_err(|error| words(&error))?;
        Ok(Self { shapes, model, takes, gives })
    }

    fn with_team(self, team: &Arc<Mutex<Team>>) -> Self {
        Self { model: self.model.with_team(Arc::clone(team)), ..self }
    }

    fn is_for(&self, inputs: &[TensorView<'_>]) -> bool {
        self.shapes.len() == inputs.len()
            && self.shapes.iter().zip(inputs).all(|(shape, input)| shape == input.shape)
    }

    fn run(&mut self, specs: &[TensorSpec], inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, EngineError> {
        let taken: Vec<&[u8]> =
            self.takes.iter().filter_map(|place| inputs.get(*place)).map(|input| input.bytes).collect();
        let mut given = self.model.run(&taken).map_err(|error| failed(&chain(&error)))?;
        let tensor = |(spec, (place, shape)): (&TensorSpec, &(usize, Vec<usize>))| {
            let bytes = given.get_mut(*place).map(std::mem::take).unwrap_or_default();
            Tensor::new(spec.datatype, shape.clone(), bytes).map_err(|error| failed(&error.to_string()))
        };
        specs.iter().zip(&self.gives).map(tensor).collect()
    }
}

/// Where the graph gives what `spec` asks for, and of which shape.
fn output(graph: &agentd_plan::Graph, spec: &TensorSpec) -> Result<(usize, Vec<usize>), String> {
    let found = graph.outputs().iter().enumerate().find(|(_, (name, _))| *name == spec.name);
    let Some((place, (_, id))) = found else { return Err(format!("it has no output `{}`", spec.name)) };
    let fact = &graph.value(*id).fact;
    if fact.datatype != spec.datatype || !spec.accepts(&fact.shape) {
        let (got, want) = (fact.datatype, spec.datatype);
        let (name, have, shape) = (&spec.name, &fact.shape, &spec.shape);
        return Err(format!("its output `{name}` is {got} of shape {have:?}, not {want} of shape {shape:?}"));
    }
    Ok((place, fact.shape.clone()))
}

/// Why there is no plan.
#[derive(Debug)]
enum Refusal {
    /// The model, or the engine, is at fault.
    Model(String),
    /// It would need more memory than there is.
    Memory { needed: u64, limit: u64 },
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Model(reason)
    }
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        let engine = EngineKind::Native;
        match refusal {
            Refusal::Model(reason) => Self::Load { engine, reason },
            Refusal::Memory { needed, limit } => {
                Self::Memory { engine, needed: ByteCount(needed), limit: ByteCount(limit) }
            }
        }
    }
}

/// Refuses what needs more bytes than there are.
const fn admit(needed: u64, limit: u64) -> Result<(), Refusal> {
    if needed > limit { Err(Refusal::Memory { needed, limit }) } else { Ok(()) }
}

/// Memory that this process may write, as its worker was told.
fn process_limit() -> u64 {
    getrlimit(Resource::Data).current.unwrap_or(u64::MAX)
}

/// The shapes that requests in this setting have, when no dimension but the first is open in any input.
fn expected_shapes(spec: &LoadSpec) -> Option<Vec<Vec<usize>>> {
    let batch = usize::from(spec.setting.batch.max(1));
    let dim = |(position, dim): (usize, &i64)| match usize::try_from(*dim) {
        Ok(dim) => Some(dim),
        Err(_) => (position == 0).then_some(batch),
    };
    spec.inputs.iter().map(|input| input.shape.iter().enumerate().map(dim).collect()).collect()
}

/// 1 for every dimension that is open.
fn smallest_shapes(spec: &LoadSpec) -> Vec<Vec<usize>> {
    let dim = |dim: &i64| usize::try_from(*dim).unwrap_or(1);
    spec.inputs.iter().map(|input| input.shape.iter().map(dim).collect()).collect()
}

/// A reason of bounded length.
fn bounded(text: &str) -> String {
    match text.char_indices().nth(600) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn unsupported(reason: String) -> EngineError {
    EngineError::Unsupported { engine: EngineKind::Native, reason }
}

fn failed(reason: &str) -> EngineError {
    EngineError::Run { engine: EngineKind::Native, reason: bounded(reason) }
}
