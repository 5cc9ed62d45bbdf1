//! Runs a verified plan.
//!
//! The one place besides the kernels that works with pointers. Every address is a buffer's offset in the arena plus
//! numbers of the step, and [`crate::verify`] has proved for each step that the sum lies inside the buffer.
#![allow(
    unsafe_code,
    reason = "steps read and write parts of one arena at once, which slices cannot express; the plan verifier proves \
              every range"
)]

mod convolve;
mod elements;
mod integer;
mod norm;
mod pack;
mod recurrent;
mod share;
mod typed;
mod windows;
mod winograd;

use std::{
    sync::{Mutex, PoisonError, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use agentd_plan::{Array, Inputs};

use crate::{
    error::RunError,
    kernel::isa::Kernels,
    memory::Aligned,
    plan::Plan,
    step::{At, Operand, Step},
    team::{Barrier, Steps, Team},
    verify::VerifiedPlan,
};
use share::Share;

/// Time that each step took, summed over runs.
pub(crate) type Profile = Vec<Duration>;

/// The memory of one run, the kernels that work on it, and which part of each step is this thread's.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    plan: &'a Plan,
    kernels: &'a Kernels,
    arena: *mut f32,
    share: Share,
    /// Where threads meet between the phases of one step.
    barrier: &'a Barrier,
}

/// Runs all steps of `plan` in `arena`, which then holds the outputs.
///
/// # Errors
/// [`RunError::Arena`] when the arena is smaller than the plan says; what the interpreter refuses.
pub(crate) fn run(
    plan: &VerifiedPlan,
    arena: &mut Aligned,
    team: &mut Team,
    profile: Option<&mut Profile>,
) -> Result<(), RunError> {
    let plan = plan.plan();
    if arena.len() < plan.arena {
        return Err(RunError::Arena);
    }
    let count = team.count();
    let barrier = Barrier::new(count);
    let end = AtomicUsize::new(Steps::GO_ON);
    let arena = Arena(arena.as_mut_ptr());
    // Only the first thread measures and runs steps that can fail.
    let first = Mutex::new((profile, Ok(())));
    team.run(&|index| {
        let share = Share { index, count };
        let run = Run { plan, kernels: plan.isa.kernels(), arena: arena.get(), share, barrier: &barrier };
        let mut steps = Steps::new(&barrier, &end);
        if index > 0 {
            return if run.steps(&mut steps, None).is_ok_and(|all| all) {
                steps.done()
            };
        }
        if let Ok((profile, result)) = first.lock().as_deref_mut() {
            match run.steps(&mut steps, profile.as_deref_mut()) {
                Ok(true) => steps.done(),
                Ok(false) => {}
                Err(error) => *result = Err(error),
            }
        }
    });
    let (_, result) = first.into_inner().unwrap_or_else(PoisonError::into_inner);
    // A thread of the team that panicked has stopped all, and said nothing.
    if result.is_ok() && end.into_inner() != Steps::GO_ON { Err(RunError::Stopped) } else { result }
}

/// The arena's first float, for all threads.
struct Arena(*mut f32);

// SAFETY: the verifier proved what each step touches; threads write disjoint parts of it and meet between steps.
unsafe impl Sync for Arena {}

impl Arena {
    const fn get(&self) -> *mut f32 {
        self.0
    }
}

impl Run<'_> {
    /// Goes through all steps; `false` when another thread stopped.
    fn steps(&self, steps: &mut Steps<'_>, mut profile: Option<&mut Profile>) -> Result<bool, RunError> {
        let nobody = Barrier::new(1);
        let alone = Run { share: Share { index: 0, count: 1 }, barrier: &nobody, ..*self };
        let mut before = false;
        for (at, step) in self.plan.steps.iter().enumerate() {
            let shared = self.share.count > 1 && share::is_shared(step);
            // What the first thread does alone, it may do one after the other.
            if at > 0 && (shared || before) && !steps.meet() {
                return Ok(false);
            }
            before = shared;
            let started = profile.is_some().then(Instant::now);
            if shared {
                self.step(step)?;
            } else if self.share.index == 0 {
                alone.step(step)?;
            }
            if let (Some(profile), Some(started)) = (profile.as_deref_mut(), started)
                && let Some(total) = profile.get_mut(at)
            {
                *total += started.elapsed();
            }
        }
        Ok(true)
    }

    /// The address of a place.
    fn at(&self, at: At) -> *mut f32 {
        let offset = self.plan.buffers.get(at.buffer.0).map_or(0, |buffer| buffer.offset);
        self.arena.wrapping_add(offset).wrapping_add(at.start)
    }

    /// The address of a constant.
    fn constant(&self, start: usize) -> *const f32 {
        self.plan.constants.as_ptr().wrapping_add(start)
    }

    fn operand(&self, operand: Operand) -> *const f32 {
        match operand {
            Operand::Buffer(at) => self.at(at),
            Operand::Constant(start) => self.constant(start),
        }
    }

    fn step(&self, step: &Step) -> Result<(), RunError> {
        match step {
            Step::Convolve(step) => self.convolve(step),
            Step::Depthwise(step) => self.depthwise(step),
            Step::Winograd(step) => self.winograd(step),
            Step::Pool(step) => self.pool(step),
            Step::Resize(step) => self.resize(step),
            Step::Whole { input, output, maximum } => self.whole(input, output, *maximum),
            Step::Reorder { from, to } => self.reorder(from, to),
            Step::Halo { map } => self.zero_halo(map),
            Step::MapFunction { input, output, function } => self.map_function(input, output, *function),
            Step::Function { input, output, count, function } => {
                self.function(self.at(*input), self.at(*output), *count, *function);
            }
            Step::MapCombine { a, b, output, pairwise, range } => {
                self.map_combine(a, b, output, *pairwise, *range)
            }
            Step::Combine(step) => self.combine(step),
            Step::Scale(step) => self.scale(step),
            Step::Copy(step) => self.copy(step),
            Step::Along(step) => self.along(step),
            Step::Elements(step) => self.elements(step),
            Step::Gather(step) => return self.gather(step),
            Step::GroupNorm(step) => self.group_norm(step),
            Step::LocalNorm(step) => self.local_norm(step),
            Step::Softmax { .. } => self.softmax(step),
            Step::Normalise { .. } => self.normalise(step),
            Step::Pack { from, row, column, rows, columns, parts, to, scale } => {
                self.pack(*from, (*row, *column), (*rows, *columns), *parts, *to, *scale);
            }
            Step::Recurrent(step) => self.recurrent(step),
            Step::Integer(step) => self.integer(step),
            Step::Reference { node, inputs, outputs } => return self.reference(*node, inputs, outputs),
        }
        Ok(())
    }

    /// Runs a node by the interpreter, on copies of its inputs.
    fn reference(&self, node: usize, inputs: &[Option<At>], outputs: &[At]) -> Result<(), RunError> {
        let graph = &self.plan.graph;
        let Some(node) = graph.nodes().get(node) else { return Ok(()) };
        let mut arrays = Vec::with_capacity(inputs.len());
        for (id, at) in node.inputs.iter().zip(inputs) {
            arrays.push(match (id, at) {
                (Some(id), Some(at)) => {
                    let fact = &graph.value(*id).fact;
                    // SAFETY: the verifier proved that a value of this fact lies inside the buffer at this place.
                    let bytes =
                        unsafe { std::slice::from_raw_parts(self.at(*at).cast::<u8>(), fact.bytes()) };
                    Some(Array::from_bytes(fact, bytes)?)
                }
                (Some(id), None) => graph.value(*id).constant.clone(),
                (None, _) => None,
            });
        }
        let results = node.op.run(&Inputs::new(arrays.iter().map(Option::as_ref)));
        let results = results.map_err(|error| RunError::Node { node: node.origin.clone(), source: error })?;
        for ((array, at), id) in results.iter().zip(outputs).zip(&node.outputs) {
            let size = graph.value(*id).fact.bytes();
            // SAFETY: as above, and no slice of the inputs is held any more.
            let to = unsafe { std::slice::from_raw_parts_mut(self.at(*at).cast::<u8>(), size) };
            array.write_bytes(to);
        }
        Ok(())
    }
}

/// The bytes of `floats` floats at a place in the arena, for inputs and outputs: `bytes` of them.
///
/// Returns `None` when the place lies outside the arena.
pub(crate) fn place<'a>(
    plan: &VerifiedPlan,
    arena: &'a mut Aligned,
    at: At,
    size: usize,
) -> Option<&'a mut [u8]> {
    let offset = plan.plan().buffers.get(at.buffer.0)?.offset.checked_add(at.start)?;
    let floats = arena.get_mut(offset..offset.checked_add(size.div_ceil(4))?)?;
    // SAFETY: floats are plain bytes, and the slice holds at least `size` of them.
    Some(unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast::<u8>(), size) })
}
