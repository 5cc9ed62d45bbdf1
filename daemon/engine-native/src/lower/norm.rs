//! Norms over groups of channels and over neighbouring channels.

use agentd_plan::{
    Node,
    op::{GroupNorm, LocalResponseNorm},
};

use super::Lowering;
use crate::step::{self, Step};

/// Images, channels and floats of a channel, none of which is 0.
fn planes(shape: &[usize]) -> Option<(usize, usize, usize)> {
    let &[images, channels, ..] = shape else { return None };
    let plane = shape.iter().skip(2).product();
    (!shape.contains(&0)).then_some((images, channels, plane))
}

impl Lowering<'_> {
    pub(super) fn group_norm(&mut self, norm: GroupNorm, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let (images, channels, plane) = planes(&self.fact(x).shape)?;
        let parameter = |index: usize| self.constant_of(node.inputs.get(index).copied()?);
        let (scale, bias) = (parameter(1)?, parameter(2)?);
        if !self.is_f32(x) || norm.groups == 0 {
            return None;
        }
        let (scale, bias) = (self.constants(scale), self.constants(bias));
        let (input, output) = (self.plain(x), self.new_plain(output));
        let (groups, channels, epsilon) = (norm.groups, channels / norm.groups, norm.epsilon);
        let step = step::GroupNorm { input, output, images, groups, channels, plane, scale, bias, epsilon };
        self.push(Step::GroupNorm(Box::new(step)));
        Some(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of channels")]
    pub(super) fn local_norm(&mut self, norm: LocalResponseNorm, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let (images, channels, plane) = planes(&self.fact(x).shape)?;
        if !self.is_f32(x) || norm.size == 0 {
            return None;
        }
        let (input, output) = (self.plain(x), self.new_plain(output));
        let reach = ((norm.size - 1) / 2, norm.size / 2);
        let (factor, bias, power) = (norm.alpha / norm.size as f32, norm.bias, norm.beta);
        let step = step::LocalNorm { input, output, images, channels, plane, reach, factor, bias, power };
        self.push(Step::LocalNorm(Box::new(step)));
        Some(())
    }
}
