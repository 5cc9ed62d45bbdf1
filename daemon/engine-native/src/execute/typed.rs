//! Steps on elements of several datatypes, and slices by index.

use agentd_plan::PlanError;

use super::Run;
use crate::{
    error::RunError,
    kernel::elements::Row,
    step::{Elements, Gather, Source, Turn},
};

/// Calls `f` with the offsets in elements of each turn of the loops.
fn walk(turns: &[Turn], offsets: [usize; 4], f: &mut impl FnMut([usize; 4])) {
    let Some((turn, rest)) = turns.split_first() else { return f(offsets) };
    let mut here = offsets;
    for _ in 0..turn.count {
        walk(rest, here, f);
        let [a, b, c] = turn.steps;
        here = [here[0] + a, here[1] + b, here[2] + c, here[3] + turn.out];
    }
}

impl Run<'_> {
    pub(super) fn elements(&self, step: &Elements) {
        let (Some((row, outer)), Some((sizes, size))) = (step.turns.split_last(), step.each.sizes()) else {
            return;
        };
        let operands = step.operands.map(|operand| self.operand(operand).cast::<u8>());
        let output = self.at(step.output).cast::<u8>();
        walk(outer, [0; 4], &mut |[a, b, c, out]| {
            let offsets = [a * sizes[0], b * sizes[1], c * sizes[2]];
            let mut here = operands;
            here.iter_mut().zip(offsets).for_each(|(at, offset)| *at = at.wrapping_add(offset));
            let p = Row {
                operands: here,
                steps: row.steps,
                output: output.wrapping_add(out * size),
                count: row.count,
                each: step.each,
            };
            // SAFETY: the processor has the plan's instruction set; the verifier proved the loops over all operands in
            // the sizes of their elements.
            unsafe { (self.kernels.elements)(&p) }
        });
    }

    /// # Errors
    /// As the interpreter: an index that lies outside its axis.
    pub(super) fn gather(&self, step: &Gather) -> Result<(), RunError> {
        let from = match step.from {
            Source::Operand(operand) => self.operand(operand),
            Source::Value(index) => {
                let constant = self.plan.graph.values().get(index).and_then(|value| value.constant.as_ref());
                constant.and_then(|array| array.items::<f32>()).unwrap_or_default().as_ptr()
            }
        };
        let (indices, to) = (self.operand(step.indices), self.at(step.to));
        for i in 0..step.count {
            let index = if step.wide {
                // SAFETY: the verifier proved two words for each index.
                unsafe { indices.cast::<i64>().wrapping_add(i).read_unaligned() }
            } else {
                // SAFETY: the verifier proved a word for each index.
                i64::from(unsafe { indices.cast::<i32>().wrapping_add(i).read_unaligned() })
            };
            let place = self.resolve(step, index)?;
            for outer in 0..step.outer {
                let source = from.wrapping_add((outer * step.size + place) * step.inner);
                let target = to.wrapping_add((outer * step.count + i) * step.inner);
                if step.inner == 1 {
                    // SAFETY: as below, without a call for a single float.
                    unsafe { target.write(source.read()) }
                    continue;
                }
                // SAFETY: the place was held against the axis just now; the verifier proved all slices of the source
                // and of the output; `copy` allows overlap.
                unsafe { std::ptr::copy(source, target, step.inner) }
            }
        }
        Ok(())
    }

    /// An index that may count from the end, held against its axis.
    fn resolve(&self, step: &Gather, index: i64) -> Result<usize, RunError> {
        let size = i64::try_from(step.size).unwrap_or(i64::MAX);
        let place = if index < 0 { index.saturating_add(size) } else { index };
        usize::try_from(place).ok().filter(|place| *place < step.size).ok_or_else(|| {
            let node =
                self.plan.graph.nodes().get(step.node).map_or_else(String::new, |node| node.origin.clone());
            let text = format!("index {index} lies outside 0..{}", step.size);
            RunError::Node { node, source: PlanError::Value(text) }
        })
    }
}
