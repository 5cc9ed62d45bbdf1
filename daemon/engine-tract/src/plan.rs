//! A model compiled for concrete shapes.

use agentd_engine::{Tensor, TensorView};
use agentd_types::TensorSpec;
use tract_linalg::multithread::Executor;
use tract_onnx::prelude::{
    Arc, InferenceFact, InferenceModelExt as _, RunOptions, TVec, TypedSimplePlan, TypedSimpleState,
};

use crate::{graph::Graph, recurrent, tensor, words};

/// A model compiled for the shapes of its inputs.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The shapes of the inputs, in order.
    pub shapes: Vec<Vec<usize>>,
    plan: Arc<TypedSimplePlan>,
    memory: Memory,
}

/// What is kept from one run to the next.
#[derive(Debug)]
enum Memory {
    /// Nothing: an operator holds state, and a kept one would carry one request into the next.
    None,
    /// tract's working memory, which is empty between runs; `None` until the first run and after a failed one, which
    /// leaves its tensors behind.
    Kept(Option<Box<TypedSimpleState>>),
}

/// Why a model does not compile for shapes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoPlan(pub String);

impl Plan {
    /// Compiles `graph` for concrete shapes of its inputs.
    pub(crate) fn compile(
        graph: &Graph,
        shapes: Vec<Vec<usize>>,
        executor: Option<Executor>,
    ) -> Result<Self, NoPlan> {
        let mut model = graph.model.clone();
        for (position, (shape, datum_type)) in shapes.iter().zip(&graph.input_types).enumerate() {
            let fact = InferenceFact::dt_shape(*datum_type, shape);
            model.set_input_fact(position, fact).map_err(|error| NoPlan(words(&error)))?;
        }
        recurrent::check(&mut model).map_err(NoPlan)?;
        let model = model.into_optimized().map_err(|error| NoPlan(words(&error)))?;
        for (position, spec) in graph.outputs.iter().enumerate() {
            let fact = model.output_fact(position).map_err(|error| NoPlan(words(&error)))?;
            let shape = fact.shape.as_concrete();
            let datatype = tensor::datatype(fact.datum_type);
            if datatype != Some(spec.datatype) || shape.is_some_and(|shape| !spec.accepts(shape)) {
                let got = datatype.map_or("of a datatype that we lack", agentd_types::Datatype::as_str);
                let TensorSpec { name, datatype, shape: want } = spec;
                let shape = &fact.shape;
                return Err(NoPlan(format!(
                    "its output `{name}` is {got} of shape {shape:?}, not {datatype} of shape {want:?}"
                )));
            }
        }
        let options = RunOptions { executor, ..RunOptions::default() };
        let plan =
            TypedSimplePlan::new_with_options(model, &options).map_err(|error| NoPlan(words(&error)))?;
        let state = plan.spawn().map_err(|error| NoPlan(words(&error)))?;
        let stateless = state.op_states.iter().all(Option::is_none);
        let memory = if stateless { Memory::Kept(Some(Box::new(state))) } else { Memory::None };
        Ok(Self { shapes, plan, memory })
    }

    /// Whether operators hold state.
    pub(crate) const fn has_state(&self) -> bool {
        matches!(self.memory, Memory::None)
    }

    /// Whether it was compiled for inputs of these shapes.
    pub(crate) fn is_for(&self, inputs: &[TensorView<'_>]) -> bool {
        self.shapes.len() == inputs.len()
            && self.shapes.iter().zip(inputs).all(|(shape, input)| shape == input.shape)
    }

    /// Runs once; says why when that fails, and can be run again. The same after a panic: what is kept is only put
    /// back after a run that went well.
    pub(crate) fn run(&mut self, graph: &Graph, inputs: &[TensorView<'_>]) -> Result<Vec<Tensor>, String> {
        let inputs = inputs
            .iter()
            .zip(&graph.input_types)
            .map(|(input, datum_type)| tensor::to_tract(input, *datum_type));
        let inputs = inputs.collect::<Result<TVec<_>, _>>()?;
        let kept = match &mut self.memory {
            Memory::None => None,
            Memory::Kept(state) => state.take(),
        };
        let mut state = match kept {
            Some(state) => state,
            None => Box::new(self.plan.spawn().map_err(|error| words(&error))?),
        };
        let outputs = state.run(inputs).map_err(|error| words(&error))?;
        if let Memory::Kept(kept) = &mut self.memory {
            *kept = Some(state);
        }
        if outputs.len() != graph.outputs.len() {
            return Err(format!("it gave {} outputs, not {}", outputs.len(), graph.outputs.len()));
        }
        let named = |(output, spec): (_, &TensorSpec)| {
            tensor::from_tract(output, spec).map_err(|reason| format!("output `{}`: {reason}", spec.name))
        };
        outputs.into_iter().zip(&graph.outputs).map(named).collect()
    }
}
