//! Windows that slide over the spatial axes: convolution and pooling.

use crate::error::PlanError;

/// No window has more taps than this.
pub const MAX_TAPS: usize = 1 << 20;
/// No stride, dilation or padding is larger than this.
pub const MAX_STEP: usize = 1 << 24;

/// A window over `n` spatial axes; every list has `n` entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Taps along each axis; at least 1.
    pub kernel: Vec<usize>,
    /// Elements from one window to the next; at least 1.
    pub strides: Vec<usize>,
    /// Elements from one tap to the next; at least 1.
    pub dilations: Vec<usize>,
    /// Elements added before each axis.
    pub pads_begin: Vec<usize>,
    /// Elements added after each axis.
    pub pads_end: Vec<usize>,
}

impl Window {
    /// A window of `kernel` taps that moves by one, without padding.
    pub fn new(kernel: impl Into<Vec<usize>>) -> Self {
        let kernel = kernel.into();
        let rank = kernel.len();
        Self {
            kernel,
            strides: vec![1; rank],
            dilations: vec![1; rank],
            pads_begin: vec![0; rank],
            pads_end: vec![0; rank],
        }
    }

    /// How many spatial axes it has.
    pub const fn rank(&self) -> usize {
        self.kernel.len()
    }

    /// How many taps it has.
    pub fn taps(&self) -> usize {
        self.kernel.iter().fold(1, |product, taps| product.saturating_mul(*taps))
    }

    /// Refuses lists of different lengths, zero steps and sizes out of bounds.
    ///
    /// # Errors
    /// [`PlanError::Attribute`]; [`PlanError::Unsupported`] for more than three axes.
    pub fn check(&self) -> Result<(), PlanError> {
        let rank = self.rank();
        if rank == 0 || rank > 3 {
            return Err(PlanError::unsupported(format!("a window over {rank} axes")));
        }
        let steps = [&self.kernel, &self.strides, &self.dilations];
        let lengths = steps.iter().chain(&[&self.pads_begin, &self.pads_end]).all(|list| list.len() == rank);
        let bounded = steps.iter().all(|list| list.iter().all(|step| (1..=MAX_STEP).contains(step)))
            && self.pads_begin.iter().chain(&self.pads_end).all(|pad| *pad <= MAX_STEP);
        if lengths && bounded && self.taps() <= MAX_TAPS {
            return Ok(());
        }
        Err(PlanError::attribute(format!("window {self:?} is out of bounds")))
    }

    /// Elements that the taps span along each axis: `(kernel - 1) * dilation + 1`.
    pub fn span(&self) -> Vec<usize> {
        let span =
            |(taps, step): (&usize, &usize)| taps.saturating_sub(1).saturating_mul(*step).saturating_add(1);
        self.kernel.iter().zip(&self.dilations).map(span).collect()
    }

    /// The size of the output over an input of spatial size `input`, rounded down.
    ///
    /// # Errors
    /// As [`Window::check`]; [`PlanError::Shape`] when the window is larger than the padded input.
    pub fn output(&self, input: &[usize]) -> Result<Vec<usize>, PlanError> {
        self.check()?;
        if input.len() != self.rank() {
            return Err(PlanError::shape(format!("a window over {} axes on {}", self.rank(), input.len())));
        }
        if input.iter().any(|size| *size > crate::shape::MAX_ELEMENTS) {
            return Err(PlanError::shape("a window over a size out of bounds"));
        }
        let padded =
            input.iter().zip(self.pads_begin.iter().zip(&self.pads_end)).map(|(size, (a, b))| size + a + b);
        padded
            .zip(self.span().iter().zip(&self.strides))
            .map(|(padded, (span, stride))| {
                padded
                    .checked_sub(*span)
                    .map(|room| room / stride + 1)
                    .ok_or_else(|| PlanError::shape("a window larger than its padded input"))
            })
            .collect()
    }

    /// As three axes, the missing ones in front with one tap.
    pub(crate) fn cube(&self) -> Cube {
        let cube = |list: &[usize], fill: usize| {
            let mut cube = [fill; 3];
            for (slot, item) in cube.iter_mut().rev().zip(list.iter().rev()) {
                *slot = *item;
            }
            cube
        };
        Cube {
            kernel: cube(&self.kernel, 1),
            strides: cube(&self.strides, 1),
            dilations: cube(&self.dilations, 1),
            pads: cube(&self.pads_begin, 0),
        }
    }
}

/// A window over exactly three axes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cube {
    pub(crate) kernel: [usize; 3],
    pub(crate) strides: [usize; 3],
    pub(crate) dilations: [usize; 3],
    pub(crate) pads: [usize; 3],
}

impl Cube {
    /// The input index that tap `tap` of window `out` reads along `axis`; `None` in the padding.
    #[expect(clippy::indexing_slicing, reason = "axis is 0, 1 or 2")]
    pub(crate) fn place(&self, axis: usize, out: usize, tap: usize, size: usize) -> Option<usize> {
        let place = (out * self.strides[axis] + tap * self.dilations[axis]).checked_sub(self.pads[axis])?;
        (place < size).then_some(place)
    }
}

/// The last one to three dimensions of `shape` from axis 2, as three.
pub(crate) fn cube_shape(shape: &[usize]) -> [usize; 3] {
    let mut cube = [1; 3];
    for (slot, dim) in cube.iter_mut().rev().zip(shape.iter().skip(2).rev()) {
        *slot = *dim;
    }
    cube
}
