//! Norms over groups of channels and over neighbouring channels.

use super::Run;
use crate::{
    kernel::norm::{Groups, Neighbours},
    step::{GroupNorm, LocalNorm},
};

impl Run<'_> {
    pub(super) fn group_norm(&self, step: &GroupNorm) {
        let p = Groups {
            input: self.at(step.input),
            output: self.at(step.output),
            images: step.images,
            groups: step.groups,
            channels: step.channels,
            plane: step.plane,
            scale: self.constant(step.scale),
            bias: self.constant(step.bias),
            epsilon: step.epsilon,
        };
        // SAFETY: the processor has the plan's instruction set; the verifier proved both ranges, and a factor and a
        // summand for each channel.
        unsafe { (self.kernels.groups)(&p) }
    }

    pub(super) fn local_norm(&self, step: &LocalNorm) {
        let p = Neighbours {
            input: self.at(step.input),
            output: self.at(step.output),
            images: step.images,
            channels: step.channels,
            plane: step.plane,
            reach: step.reach,
            factor: step.factor,
            bias: step.bias,
            power: step.power,
        };
        // SAFETY: the processor has the plan's instruction set; the verifier proved both ranges; neighbours are held
        // within the channels.
        unsafe { (self.kernels.neighbours)(&p) }
    }
}
