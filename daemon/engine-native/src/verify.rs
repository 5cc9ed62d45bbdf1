//! Proves that a plan stays inside its memory.
//!
//! In: a [`Plan`], from whatever lowering made it. Out: a [`VerifiedPlan`], which only this module can make and which
//! alone may be run. For each step the first and last float of everything that it reads and writes is computed from
//! the step's own numbers, in the way in which [`crate::execute`] computes addresses, with arithmetic that cannot wrap.

mod touch;

use crate::{memory::Buffer, plan::Plan, step::Step};
use touch::{Target, Touches};

/// A plan whose every access lies inside its memory.
#[derive(Debug)]
pub(crate) struct VerifiedPlan(Plan);

impl VerifiedPlan {
    /// The plan.
    pub(crate) const fn plan(&self) -> &Plan {
        &self.0
    }
}

/// Why a plan may not run: a fault of the lowering, never of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A buffer reaches beyond the arena.
    #[error("buffer {buffer} reaches beyond the arena")]
    Arena {
        /// Which buffer.
        buffer: usize,
    },
    /// Two buffers in use at the same time share memory.
    #[error("buffers {first} and {second} are in use at once and overlap")]
    Overlap {
        /// A buffer.
        first: usize,
        /// Another one.
        second: usize,
    },
    /// A step reaches outside its buffer, or is used outside its buffer's time.
    #[error("step {step} ({name}) reaches outside its memory")]
    Outside {
        /// Which step.
        step: usize,
        /// What it does.
        name: &'static str,
    },
    /// A step for which there is no kernel, or whose layout its kernel does not read.
    #[error("step {step} ({name}) does not fit its kernel")]
    Layout {
        /// Which step.
        step: usize,
        /// What it does.
        name: &'static str,
    },
    /// An input or output lies outside its buffer.
    #[error("port {port} lies outside its buffer")]
    Port {
        /// Which input or output.
        port: usize,
    },
}

/// Proves that `plan` stays inside its memory.
///
/// # Errors
/// The first thing that does not hold.
pub(crate) fn verify(plan: Plan) -> Result<VerifiedPlan, VerifyError> {
    buffers(&plan.buffers, plan.arena)?;
    for (at, step) in plan.steps.iter().enumerate() {
        check_step(&plan, at, step)?;
    }
    ports(&plan)?;
    Ok(VerifiedPlan(plan))
}

/// The buffers that a step touches; empty when no kernel fits it.
pub(crate) fn buffers_of(step: &Step, plan: &Plan) -> Vec<crate::step::BufferId> {
    let touches = Touches::of(step, plan).unwrap_or_default();
    let buffer = |touch: &touch::Touch| match touch.target {
        Target::Buffer(id) => Some(id),
        Target::Constants => None,
    };
    touches.all().iter().filter_map(buffer).collect()
}

fn buffers(buffers: &[Buffer], arena: usize) -> Result<(), VerifyError> {
    for (first, buffer) in buffers.iter().enumerate() {
        if buffer.offset.checked_add(buffer.length).is_none_or(|end| end > arena) {
            return Err(VerifyError::Arena { buffer: first });
        }
        let later = buffers.iter().enumerate().skip(first + 1);
        for (second, other) in later {
            let ends = other.offset.checked_add(other.length);
            if ends.is_some() && buffer.meets(other) && buffer.overlaps(other) {
                return Err(VerifyError::Overlap { first, second });
            }
        }
    }
    Ok(())
}

fn check_step(plan: &Plan, at: usize, step: &Step) -> Result<(), VerifyError> {
    let outside = VerifyError::Outside { step: at, name: step.name() };
    let Some(touches) = Touches::of(step, plan) else {
        return Err(VerifyError::Layout { step: at, name: step.name() });
    };
    for touch in touches.all() {
        let inside = match touch.target {
            Target::Constants => touch.end <= plan.constants.len(),
            Target::Buffer(id) => plan.buffers.get(id.0).is_some_and(|buffer| {
                touch.end <= buffer.length && (buffer.first..=buffer.last).contains(&at)
            }),
        };
        if touch.start.is_none() || !inside {
            return Err(outside);
        }
    }
    Ok(())
}

fn ports(plan: &Plan) -> Result<(), VerifyError> {
    let values = plan.graph.inputs().iter().copied();
    let floats = |id| plan.graph.value(id).fact.bytes().div_ceil(size_of::<f32>());
    let inside = |at: crate::step::At, floats: usize| {
        let end = at.start.checked_add(floats);
        plan.buffers.get(at.buffer.0).is_some_and(|buffer| end.is_some_and(|end| end <= buffer.length))
    };
    for (port, id) in values.enumerate() {
        if let Some(Some(at)) = plan.inputs.get(port)
            && !inside(*at, floats(id))
        {
            return Err(VerifyError::Port { port });
        }
    }
    if plan.inputs.len() != plan.graph.inputs().len() || plan.outputs.len() != plan.graph.outputs().len() {
        return Err(VerifyError::Port { port: plan.outputs.len() });
    }
    for (port, ((_, id), place)) in plan.graph.outputs().iter().zip(&plan.outputs).enumerate() {
        if let crate::plan::Port::Buffer(at) = place
            && !inside(*at, floats(*id))
        {
            return Err(VerifyError::Port { port });
        }
    }
    Ok(())
}
