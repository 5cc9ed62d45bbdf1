//! A session: a model and the few plans that were used last.

use std::time::Instant;

use agentd_engine::{EngineError, LoadSpec, Loaded, Session, Tensor, TensorView, check_inputs};
use agentd_types::EngineKind;
use tract_linalg::multithread::Executor;
use tract_onnx::prelude::InferenceModel;

use crate::{
    graph::Graph,
    load_error,
    plan::{NoPlan, Plan},
    recurrent,
};

/// Plans that are kept; each holds the weights in its own packing.
const MAX_PLANS: usize = 4;

/// A model that is loaded, with the plans for the shapes that were asked for last.
#[derive(Debug)]
pub(crate) struct TractSession {
    graph: Graph,
    /// The one used last comes first.
    plans: Vec<Plan>,
    executor: Option<Executor>,
    loaded: Loaded,
}

impl TractSession {
    /// A session that has compiled a plan ahead when no dimension but the batch is open.
    pub(crate) fn new(
        mut graph: Graph,
        spec: &LoadSpec,
        executor: Option<Executor>,
    ) -> Result<Self, EngineError> {
        let started = Instant::now();
        let mut plans = Vec::new();
        if let Some(shapes) = expected_shapes(spec) {
            let plan = Plan::compile(&graph, shapes, executor.clone());
            plans.push(plan.map_err(|NoPlan(reason)| load_error(reason))?);
        }
        let recurrent = match plans.first() {
            Some(plan) => plan.has_state(),
            None => recurrent::has_state(&graph.model),
        };
        if spec.inputs.iter().all(|input| !input.shape.contains(&-1)) {
            // No other shape will be asked for, and the plan holds its own copy of the weights.
            graph.model = InferenceModel::default();
        }
        let threads = spec.setting.threads.max(1);
        let loaded = Loaded { load_time: started.elapsed(), recurrent, threads, ..Loaded::default() };
        Ok(Self { graph, plans, executor, loaded })
    }

    /// Puts the plan for the shapes of these inputs first, compiled when there is none yet; the oldest gives way.
    fn make_ready(&mut self, inputs: &[TensorView<'_>]) -> Result<(), EngineError> {
        if let Some(position) = self.plans.iter().position(|plan| plan.is_for(inputs)) {
            if let Some(used) = self.plans.get_mut(..=position) {
                used.rotate_right(1);
            }
        } else {
            self.plans.truncate(MAX_PLANS - 1);
            let shapes = inputs.iter().map(|input| input.shape.to_vec()).collect();
            let plan = Plan::compile(&self.graph, shapes, self.executor.clone())
                .map_err(|NoPlan(reason)| self.refuse(inputs, &reason))?;
            self.plans.insert(0, plan);
        }
        Ok(())
    }

    /// The shapes fit the specs, and yet the model does not compile for them: the inputs with open dimensions are why.
    fn refuse(&self, inputs: &[TensorView<'_>], reason: &str) -> EngineError {
        let open = self.graph.inputs.iter().zip(inputs).find(|(spec, _)| spec.shape.contains(&-1));
        let (name, shape) = open
            .map_or((String::new(), Vec::new()), |(spec, input)| (spec.name.clone(), input.shape.to_vec()));
        EngineError::Input {
            name,
            reason: format!("the model does not compile for shape {shape:?}: {reason}"),
        }
    }
}

impl Session for TractSession {
    fn loaded(&self) -> Loaded {
        self.loaded.clone()
    }

    fn run(&mut self, inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, EngineError> {
        check_inputs(&self.graph.inputs, inputs)?;
        self.make_ready(inputs)?;
        let Self { graph, plans, .. } = self;
        let plan = plans.first_mut().ok_or_else(|| load_error("there is no plan".into()))?;
        plan.run(graph, inputs).map_err(|reason| EngineError::Run { engine: EngineKind::Cpu, reason })
    }
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
