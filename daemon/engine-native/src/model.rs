//! A model that is ready to run: a verified plan and its memory.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use agentd_plan::{Array, Fact, Graph};

use crate::{
    Isa,
    draft::{Draft, Memory},
    error::{LowerError, RunError},
    execute::{self, Profile},
    lower::Options,
    memory::Aligned,
    peak::Peak,
    plan::Port,
    step::Step,
    team::Team,
    verify::VerifiedPlan,
};

/// A graph, lowered, with the arena that it runs in.
#[derive(Debug)]
pub struct Model {
    plan: VerifiedPlan,
    arena: Aligned,
    memory: Memory,
    profile: Option<Profile>,
    team: Arc<Mutex<Team>>,
}

/// What one step of a plan took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// What the step does.
    pub name: &'static str,
    /// The model's node from which it comes.
    pub origin: String,
    /// That node's operator.
    pub operator: &'static str,
    /// The shape of that node's first output.
    pub shape: Vec<usize>,
    /// Time over all runs since the profile was started.
    pub time: Duration,
    /// Multiply-adds or element visits of the whole node.
    pub work: u64,
    /// Multiply-adds of the step's sums of products; 0 where it has none.
    pub multiply_adds: u64,
    /// Bytes that the step reads and writes.
    pub touched: u64,
    /// Whether the interpreter runs it.
    pub is_fallback: bool,
}

impl Model {
    /// Lowers `graph`, proves the plan, and allocates its arena.
    ///
    /// # Errors
    /// [`LowerError`].
    pub fn new(graph: Arc<Graph>, options: Options) -> Result<Self, LowerError> {
        Draft::new(graph, options)?.build()
    }

    /// A model that runs a plan, of which `memory` was told.
    pub(crate) fn of(plan: VerifiedPlan, memory: Memory) -> Self {
        let arena = Aligned::zeros(plan.plan().arena);
        Self { plan, arena, memory, profile: None, team: Arc::new(Mutex::new(Team::new(1))) }
    }

    /// What was told of its memory before it was loaded.
    pub const fn memory(&self) -> Memory {
        self.memory
    }

    /// Runs on the threads of `team` from now on. Results do not depend on how many there are.
    #[must_use]
    pub fn with_team(mut self, team: Arc<Mutex<Team>>) -> Self {
        self.team = team;
        self
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.plan.plan().graph
    }

    /// Nodes that the reference interpreter runs.
    pub fn fallback_nodes(&self) -> usize {
        self.plan.plan().fallback_nodes()
    }

    /// Operators of the nodes that the reference interpreter runs.
    pub fn fallbacks(&self) -> Vec<&str> {
        let plan = self.plan.plan();
        let node = |step: &Step| match step {
            Step::Reference { node, .. } => plan.graph.nodes().get(*node),
            _ => None,
        };
        plan.steps.iter().filter_map(node).map(|node| node.op.name()).collect()
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len() * size_of::<f32>()
    }

    /// Bytes of packed weights and other constants.
    pub fn constant_bytes(&self) -> usize {
        self.plan.plan().constants.len() * size_of::<f32>()
    }

    /// Answers one request. `inputs`: row-major little-endian bytes of each of the graph's inputs, in order. Returns
    /// the bytes of each output.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run(&mut self, inputs: &[&[u8]]) -> Result<Vec<Vec<u8>>, RunError> {
        self.take(inputs)?;
        let mut team = self.team.lock().unwrap_or_else(PoisonError::into_inner);
        execute::run(&self.plan, &mut self.arena, &mut team, self.profile.as_mut())?;
        drop(team);
        let graph = Arc::clone(&self.plan.plan().graph);
        let mut outputs = Vec::with_capacity(graph.outputs().len());
        for (index, (_, id)) in graph.outputs().iter().enumerate() {
            let value = graph.value(*id);
            let mut output = vec![0; value.fact.bytes()];
            match self.plan.plan().outputs.get(index) {
                Some(Port::Buffer(at)) => {
                    let from = execute::place(&self.plan, &mut self.arena, *at, output.len());
                    output.copy_from_slice(from.ok_or(RunError::Arena)?);
                }
                _ => match (&value.constant, graph.inputs().iter().position(|input| input == id)) {
                    (Some(constant), _) => constant.write_bytes(&mut output),
                    (None, Some(input)) => {
                        output.copy_from_slice(inputs.get(input).copied().unwrap_or_default())
                    }
                    (None, None) => return Err(RunError::Text),
                },
            }
            outputs.push(output);
        }
        Ok(outputs)
    }

    fn take(&mut self, inputs: &[&[u8]]) -> Result<(), RunError> {
        let graph = Arc::clone(&self.plan.plan().graph);
        for (index, id) in graph.inputs().iter().enumerate() {
            let fact: &Fact = &graph.value(*id).fact;
            let refuse = |reason: String| Err(RunError::Input { index, reason });
            let Some(input) = inputs.get(index) else { return refuse("it is missing".into()) };
            if input.len() != fact.bytes() {
                return refuse(format!("{} bytes where {} are needed", input.len(), fact.bytes()));
            }
            if let Some(Some(at)) = self.plan.plan().inputs.get(index) {
                let to = execute::place(&self.plan, &mut self.arena, *at, input.len());
                to.ok_or(RunError::Arena)?.copy_from_slice(input);
            }
        }
        if inputs.len() > graph.inputs().len() {
            return Err(RunError::Input {
                index: graph.inputs().len(),
                reason: "there is no such input".into(),
            });
        }
        Ok(())
    }

    /// Answers one request with arrays.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run_arrays(&mut self, inputs: &[Array]) -> Result<Vec<Array>, RunError> {
        let bytes: Vec<Vec<u8>> = inputs
            .iter()
            .map(|array| {
                let mut bytes = vec![0; array.fact().bytes()];
                array.write_bytes(&mut bytes);
                bytes
            })
            .collect();
        let views: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        let outputs = self.run(&views)?;
        let graph = self.graph();
        let facts = graph.outputs().iter().map(|(_, id)| &graph.value(*id).fact);
        facts.zip(&outputs).map(|(fact, output)| Ok(Array::from_bytes(fact, output)?)).collect()
    }

    /// Starts to measure each step, from zero.
    pub fn start_profile(&mut self) {
        self.profile = Some(vec![Duration::ZERO; self.plan.plan().steps.len()]);
    }

    /// Measures no longer.
    pub fn stop_profile(&mut self) {
        self.profile = None;
    }

    /// Threads that work on a run.
    pub fn threads(&self) -> usize {
        self.team.lock().unwrap_or_else(PoisonError::into_inner).count()
    }

    /// What this machine can do at best with the plan's instruction set and the model's threads, measured now.
    pub fn peak(&self) -> Peak {
        let mut team = self.team.lock().unwrap_or_else(PoisonError::into_inner);
        Peak::measure(self.plan.plan().isa, &mut team)
    }

    /// The instruction set of the plan's kernels.
    pub fn isa(&self) -> Isa {
        self.plan.plan().isa
    }

    /// What each step took since the profile was started; empty without one.
    pub fn profile(&self) -> Vec<StepTime> {
        let plan = self.plan.plan();
        let steps = plan.steps.iter().zip(&plan.origins).zip(self.profile.iter().flatten());
        let time = |((step, origin), time): ((&Step, &usize), &Duration)| {
            let node = plan.graph.nodes().get(*origin)?;
            let outputs: Vec<Fact> =
                node.outputs.iter().map(|id| plan.graph.value(*id).fact.clone()).collect();
            let work = node.op.work(&plan.graph.facts(node), &outputs);
            Some(StepTime {
                name: step.name(),
                origin: node.origin.clone(),
                operator: node.op.name(),
                shape: outputs.first().map(|fact| fact.shape.clone()).unwrap_or_default(),
                time: *time,
                work,
                multiply_adds: step.multiply_adds(),
                touched: self.plan.touched(step),
                is_fallback: matches!(step, Step::Reference { .. }),
            })
        };
        steps.filter_map(time).collect()
    }
}
