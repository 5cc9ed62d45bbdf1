//! Proves that a plan stays inside its memory.
//!
//! In: a [`Plan`], from whatever lowering made it. Out: a [`VerifiedPlan`], which only this module can make and which
//! alone may be run. For each step the first and last float of everything that it reads and writes is computed from
//! the step's own numbers, in the way in which [`crate::execute`] computes addresses, with arithmetic that cannot wrap.

#[cfg(test)]
mod damaged;
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

impl VerifiedPlan {
    /// Bytes of everything that a step reads and writes, from the first float of each operand to the last.
    pub(crate) fn touched(&self, step: &Step) -> u64 {
        let touches = Touches::of(step, &self.0).unwrap_or_default();
        let floats =
            touches.all().iter().map(|touch| touch.end.saturating_sub(touch.start.unwrap_or(touch.end)));
        floats.fold(0_u64, |sum, floats| sum.saturating_add((floats as u64).saturating_mul(4)))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agentd_plan::{
        Array, Builder, Fact, Graph,
        op::{
            Binary, Conv, ConvTranspose, MatMul, Pool, Reduce, Reshape, Softmax, Unary, Window,
            pool::PoolKind,
            reduce::ReduceKind,
            resize::{Coordinates, Interpolation, Resize},
        },
    };
    use agentd_types::Datatype::Fp32;

    use super::*;
    use crate::{
        lower::{Options, plan_of},
        step::{Map, Operand, Weights},
    };

    /// A net with a step of nearly every kind.
    fn graph() -> Arc<Graph> {
        let mut b = Builder::new();
        let x = b.input("x", Fact::new(Fp32, vec![1, 3, 16, 16])).unwrap();
        let weights = |b: &mut Builder, shape: &[usize]| {
            let items = vec![0.1_f32; shape.iter().product()];
            b.constant("w", Array::new(shape.to_vec(), items).unwrap()).unwrap()
        };
        let window = || Window { pads_begin: vec![1, 1], pads_end: vec![1, 1], ..Window::new([3, 3]) };
        let mut last = x;
        for (shape, groups) in
            [([40, 3, 3, 3], 1), ([40, 1, 3, 3], 40), ([40, 40, 3, 3], 1), ([40, 20, 3, 3], 2)]
        {
            let w = weights(&mut b, &shape);
            let conv = Conv { window: window(), groups, activation: Some(Unary::Relu) };
            last = b.node(conv, &[Some(last), Some(w)], "conv").unwrap()[0];
        }
        let pool = Pool {
            kind: PoolKind::Max,
            window: Window { strides: vec![2, 2], ..Window::new([2, 2]) },
            output: vec![8, 8],
            indices: None,
        };
        let pooled = b.node(pool, &[Some(last)], "pool").unwrap()[0];
        let resize = Resize {
            interpolation: Interpolation::Linear,
            coordinates: Coordinates::HalfPixel,
            output: vec![1, 40, 16, 16],
            scales: vec![1.0, 1.0, 2.0, 2.0],
            region: Vec::new(),
            exclude_outside: false,
            extrapolation: 0.0,
            antialias: false,
        };
        let resized = b.node(resize, &[Some(pooled)], "resize").unwrap()[0];
        let transposed =
            ConvTranspose { window: window(), groups: 1, output: vec![16, 16], activation: None };
        let w = weights(&mut b, &[40, 40, 3, 3]);
        let spread = b.node(transposed, &[Some(resized), Some(w)], "transposed").unwrap()[0];
        let again = Conv { window: window(), groups: 1, activation: None };
        let again = b.node(again, &[Some(spread), Some(w)], "again").unwrap()[0];
        let sum = b.node(Binary::Add, &[Some(again), Some(again)], "add").unwrap()[0];
        let channel = weights(&mut b, &[40, 1, 1]);
        let scaled = b.node(Binary::Mul, &[Some(sum), Some(channel)], "mul").unwrap()[0];
        let mean = Reduce { kind: ReduceKind::Mean, axes: vec![2, 3], keep: true };
        let mean = b.node(mean, &[Some(scaled)], "mean").unwrap()[0];
        let flat = b.node(Reshape { shape: vec![1, 40] }, &[Some(mean)], "flat").unwrap()[0];
        let w = weights(&mut b, &[40, 10]);
        let product = b.node(MatMul::default(), &[Some(flat), Some(w)], "product").unwrap()[0];
        let y = b.node(Softmax { axis: 1, log: false }, &[Some(product)], "softmax").unwrap()[0];
        b.output("y", y).unwrap();
        Arc::new(b.finish())
    }

    /// Moves or stretches a map beyond its buffer.
    fn damage_map(map: &mut Map, kind: usize, far: usize) {
        match kind % 6 {
            // A distance is only damage where there is something at that distance.
            1 if map.rows > 1 => map.row += far,
            2 if map.channels > map.lanes => map.block += far,
            0..=2 => map.at.start += far,
            3 => map.channels += far,
            4 => map.rows += far,
            _ => map.at.buffer.0 += 1000,
        }
    }

    /// Does something to a step after which it would leave its memory.
    fn damage(step: &mut Step, kind: usize, far: usize) {
        match step {
            Step::Convolve(c) => match kind % 8 {
                0 => c.input.start += far,
                1 if c.output.rows > 1 => c.in_row += far,
                1 => c.input.start += far,
                2 => c.channels += far,
                3 => c.bias += far,
                4 => c.taps.0 += far,
                5 => c.output.channels += far,
                6 => {
                    if let Weights::Packed { start } = &mut c.weights {
                        *start += far;
                    }
                }
                _ => c.output.at.start += far,
            },
            Step::Depthwise(d) => match kind % 5 {
                0 => d.weights += far,
                1 => d.bias += far,
                2 => d.plane.padding.0 += far,
                3 => d.plane.strides.1 += far,
                _ => damage_map(&mut d.input, kind / 5, far),
            },
            Step::Winograd(w) => match kind % 5 {
                0 => w.weights += far,
                1 => w.scratch.start += far,
                2 => w.input.halo.left = 0,
                3 => w.zeros += far,
                _ => damage_map(&mut w.output, kind / 5, far),
            },
            Step::Pool(p) => match kind % 3 {
                0 => p.plane.strides.0 += far,
                1 => p.plane.dilations.1 = 0,
                _ => damage_map(&mut p.output, kind / 3, far),
            },
            Step::Resize(r) => match kind % 4 {
                0 => r.rows[0].places.1 += far,
                1 => r.columns[0].places.0 += far,
                2 => drop(r.columns.pop()),
                _ => damage_map(&mut r.output, kind / 4, far),
            },
            Step::Scale(s) => match kind % 2 {
                0 => {
                    if let Operand::Constant(start) = &mut s.vector {
                        *start += far;
                    }
                }
                _ => damage_map(&mut s.output, kind / 2, far),
            },
            Step::Whole { input, .. }
            | Step::Reorder { from: input, .. }
            | Step::Halo { map: input }
            | Step::MapFunction { input, .. }
            | Step::MapCombine { a: input, .. } => damage_map(input, kind, far),
            Step::Softmax { rows, length, input, .. } => match kind % 3 {
                0 => *rows += far,
                1 => *length = 0,
                _ => input.start += far,
            },
            Step::Function { count, .. } => *count += far,
            Step::Combine(_)
            | Step::Along(_)
            | Step::Elements(_)
            | Step::Gather(_)
            | Step::GroupNorm(_)
            | Step::LocalNorm(_)
            | Step::Copy(_)
            | Step::Normalise { .. }
            | Step::Pack { .. }
            | Step::Integer(_)
            | Step::Recurrent(_)
            | Step::Reference { .. } => {
                unreachable!("the net has no such step")
            }
        }
    }

    #[test]
    fn a_thousand_damaged_plans_are_refused() {
        let graph = graph();
        let whole = plan_of(Arc::clone(&graph), Options::default()).unwrap();
        assert!(verify(whole).is_ok());
        for turn in 0..1000_usize {
            let mut plan = plan_of(Arc::clone(&graph), Options::default()).unwrap();
            let far = plan.arena + plan.constants.len() + turn;
            let steps = plan.steps.len();
            match turn % 10 {
                0 => plan.buffers[turn / 10 % steps.min(5)].length = 0,
                1 => plan.buffers[turn / 10 % steps.min(5)].offset += far,
                2 => plan.arena /= 2,
                3 => plan.outputs.clear(),
                _ => damage(&mut plan.steps[turn % steps], turn / 10, far),
            }
            assert!(verify(plan).is_err(), "turn {turn} was not refused");
        }
    }
}
