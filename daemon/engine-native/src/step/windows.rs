//! Sums of products, pools and resizes: what looks at pixels through a window.

use super::{At, Map, Plane};
use crate::kernel::activation::Function;

/// Where the factors of products are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// Packed by [`crate::pack`] among the constants, groups of blocks after each other.
    Packed {
        /// Floats from the start of the constants.
        start: usize,
    },
    /// Packed the same way, in a buffer.
    Computed {
        /// The first group.
        at: At,
    },
    /// Rows of a matrix in a buffer; the output's channels are its columns.
    Rows {
        /// Row 0, column 0.
        at: At,
        /// From one row to the next.
        step: usize,
    },
}

/// Sums of products: convolutions and matrix products.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Convolve {
    /// Independent parts with distances between their operands: groups of channels, or matrices of a batch.
    pub(crate) parts: Parts,
    /// The input at the first tap of output pixel (0, 0).
    pub(crate) input: At,
    /// From one image to the next.
    pub(crate) in_image: usize,
    /// From one output row to the next, in the input.
    pub(crate) in_row: usize,
    /// From one output pixel to the next, in the input.
    pub(crate) in_pixel: usize,
    /// From one block of channels to the next.
    pub(crate) in_block: usize,
    /// Input channels (of one part).
    pub(crate) channels: usize,
    /// Channels next to each other.
    pub(crate) channel_block: usize,
    /// Taps: rows and columns.
    pub(crate) taps: (usize, usize),
    /// From a tap to the one below.
    pub(crate) tap_row: usize,
    /// From a tap to the one at its right.
    pub(crate) tap_column: usize,
    /// The factors.
    pub(crate) weights: Weights,
    /// Bias among the constants, padded to whole vectors.
    pub(crate) bias: usize,
    /// The output of the first part; its channels are those of one part.
    pub(crate) output: Map,
    /// What is added, laid out as a map of the same size.
    pub(crate) residual: Option<Map>,
    /// Results are held between these; NaN stays.
    pub(crate) range: (f32, f32),
    /// Applied last.
    pub(crate) function: Option<Function>,
}

/// Independent parts of a step and the distances between their operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// How many.
    pub(crate) count: usize,
    /// Between inputs.
    pub(crate) input: usize,
    /// Between weights.
    pub(crate) weights: usize,
    /// Between biases.
    pub(crate) bias: usize,
    /// Between outputs, and between residuals.
    pub(crate) output: usize,
}

impl Parts {
    /// One part.
    pub(crate) const ONE: Self = Self { count: 1, input: 0, weights: 0, bias: 0, output: 0 };
}

/// Convolution of each channel by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Depthwise {
    /// The input; its halo holds the padding.
    pub(crate) input: Map,
    /// The output.
    pub(crate) output: Map,
    /// The window.
    pub(crate) plane: Plane,
    /// Weights among the constants, `[block][tap row][tap column][LANES]`.
    pub(crate) weights: usize,
    /// Bias among the constants, padded to whole vectors.
    pub(crate) bias: usize,
    /// Results are held between these; NaN stays.
    pub(crate) range: (f32, f32),
    /// Applied last.
    pub(crate) function: Option<Function>,
}

/// Convolution 3x3 by Winograd's method.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Winograd {
    /// The input; its halo holds the padding above and at the left, 1 each.
    pub(crate) input: Map,
    /// The output, of the same size.
    pub(crate) output: Map,
    /// What is added.
    pub(crate) residual: Option<Map>,
    /// Transformed weights among the constants, 36 packed matrices.
    pub(crate) weights: usize,
    /// Bias among the constants, padded to whole vectors.
    pub(crate) bias: usize,
    /// Zeros among the constants, as many as the bias.
    pub(crate) zeros: usize,
    /// Transformed windows and products.
    pub(crate) scratch: At,
    /// Rows of tiles that are done at once.
    pub(crate) band: usize,
    /// Results are held between these; NaN stays.
    pub(crate) range: (f32, f32),
    /// Applied last.
    pub(crate) function: Option<Function>,
}

/// Pooling by a window that is clipped at the edges.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pool {
    /// The input.
    pub(crate) input: Map,
    /// The output.
    pub(crate) output: Map,
    /// Whether the maximum is taken instead of the mean.
    pub(crate) maximum: bool,
    /// The window.
    pub(crate) plane: Plane,
    /// What a mean divides by; 0 where it is the number of pixels seen.
    pub(crate) divisor: f32,
}

/// Where a pixel of a resized map comes from along one axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Rows or columns of the input.
    pub(crate) places: (usize, usize),
    /// How much each counts; where the second is 0 only the first is read, as it is.
    pub(crate) weights: (f32, f32),
}

/// Another number of rows and columns by interpolation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resize {
    /// The input.
    pub(crate) input: Map,
    /// The output.
    pub(crate) output: Map,
    /// One for each row of the output.
    pub(crate) rows: Vec<Sample>,
    /// One for each column of the output.
    pub(crate) columns: Vec<Sample>,
}
