//! How much a step computes.

use super::{Convolve, Depthwise, Map, Recurrent, Step, Winograd};

/// The product, without wrapping.
fn product<const N: usize>(factors: [usize; N]) -> u64 {
    factors.into_iter().fold(1, |product, factor| product.saturating_mul(factor as u64))
}

fn numbers(map: &Map) -> u64 {
    product([map.images, map.channels, map.rows, map.columns])
}

impl Step {
    /// Multiply-adds of its sums of products; 0 where it has none.
    ///
    /// Those of the direct method for Winograd's, which does a quarter of them.
    pub(crate) fn multiply_adds(&self) -> u64 {
        match self {
            Self::Convolve(step) => step.multiply_adds(),
            Self::Depthwise(step) => step.multiply_adds(),
            Self::Winograd(step) => step.multiply_adds(),
            Self::Recurrent(step) => step.multiply_adds(),
            _ => 0,
        }
    }
}

impl Convolve {
    fn multiply_adds(&self) -> u64 {
        let sums = product([self.channels, self.taps.0, self.taps.1, self.parts.count]);
        numbers(&self.output).saturating_mul(sums)
    }
}

impl Depthwise {
    fn multiply_adds(&self) -> u64 {
        numbers(&self.output).saturating_mul(self.plane.count() as u64)
    }
}

impl Winograd {
    fn multiply_adds(&self) -> u64 {
        numbers(&self.output).saturating_mul(product([self.input.channels, 9]))
    }
}

impl Recurrent {
    /// Those of the hidden state; what the input adds is a step of its own.
    fn multiply_adds(&self) -> u64 {
        let gates = self.cell.gates();
        product([self.steps, self.rows, self.directions.len(), gates, self.units, self.units])
    }
}
