//! Steps on quantised numbers.
//!
//! Quantised maps lie in buffers as words of two channels, 16-bit integers less their zero point, so that what is not
//! there (a halo, a channel that fills up a block) is 0. A [`Map`] of words counts words where one of floats counts
//! channels; distances are the same, since a word is as wide as a float.

use super::{At, Map, Operand, Plane, Pool};
use crate::kernel::{activation::Function, quantised::maps::PairFunction};

/// Sums of products of integers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Product {
    /// The input at the first tap of output pixel (0, 0).
    pub(crate) input: At,
    /// From one image to the next.
    pub(crate) in_image: usize,
    /// From one output row to the next, in the input.
    pub(crate) in_row: usize,
    /// From one output pixel to the next, in the input.
    pub(crate) in_pixel: usize,
    /// Whether a word of the input is four bytes, instead of two halves.
    pub(crate) bytes: bool,
    /// What the groups of two vectors of output channels multiply.
    pub(crate) groups: Vec<Factors>,
    /// Bias of the integer sums among the constants, two vectors a group.
    pub(crate) bias: usize,
    /// What becomes of the sums.
    pub(crate) ending: Ending,
    /// Words, or rows of floats.
    pub(crate) output: Map,
}

/// The products of one group of output channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Factors {
    /// Among the constants: from a pixel's first word to that of each product, integers.
    pub(crate) offsets: usize,
    /// Factors among the constants, `[inner][2 * LANES]` words.
    pub(crate) weights: usize,
    /// Products, a multiple of [`crate::kernel::dot::UNROLLED`].
    pub(crate) inner: usize,
}

/// What becomes of integer sums.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    /// Quantised again.
    Quantise {
        /// How.
        how: Requantise,
        /// 256 halves among the constants, applied last.
        table: Option<usize>,
    },
    /// Scaled to floats.
    Scale {
        /// One number.
        scale: Operand,
        /// Factors among the constants, two vectors a group.
        factors: usize,
        /// A byte to be taken from each byte of the input, and the sums of weights among the constants, likewise.
        zero: Option<(At, usize)>,
        /// Summands, likewise.
        summands: Option<usize>,
        /// What is added then, laid out as a map of the same size.
        residual: Option<Map>,
        /// Applied last.
        function: Option<Function>,
    },
}

/// How sums are quantised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Requantise {
    /// Factors among the constants, two vectors a group.
    pub(crate) factors: usize,
    /// What they lack of their exact values, likewise.
    pub(crate) rests: usize,
    /// Results are held between these.
    pub(crate) range: (f32, f32),
}

/// Convolution of each channel by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WordDepthwise {
    /// The input; its halo holds the padding.
    pub(crate) input: Map,
    /// The output.
    pub(crate) output: Map,
    /// The window.
    pub(crate) plane: Plane,
    /// Weights among the constants, `[block][tap row][tap column][2 * LANES]`.
    pub(crate) weights: usize,
    /// Bias among the constants, two vectors a block.
    pub(crate) bias: usize,
    /// How sums are quantised.
    pub(crate) how: Requantise,
    /// 256 halves among the constants, applied last.
    pub(crate) table: Option<usize>,
}

/// Bytes in a buffer: where the elements of a tensor of 8-bit integers are. Distances are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes {
    /// The first.
    pub(crate) at: At,
    /// Channels, two a word.
    pub(crate) channels: usize,
    /// From one image to the next.
    pub(crate) image: usize,
    /// From one channel to the next.
    pub(crate) channel: usize,
    /// From one row to the next.
    pub(crate) row: usize,
    /// From one pixel to the next.
    pub(crate) pixel: usize,
    /// Whether they have signs.
    pub(crate) signed: bool,
    /// Their zero point.
    pub(crate) zero: i16,
}

/// Pairs of quantised numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WordPairs {
    /// The first operand.
    pub(crate) a: Map,
    /// The second operand: of the same size, or one pixel an image.
    pub(crate) b: Map,
    /// The results.
    pub(crate) output: Map,
    /// What one step of each is worth.
    pub(crate) scales: [f32; 3],
    /// Results are held between these.
    pub(crate) range: (f32, f32),
    /// What is done to the pairs.
    pub(crate) function: PairFunction,
}

/// A step on quantised numbers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Integer {
    /// Sums of products.
    Product(Box<Product>),
    /// Convolution of each channel by itself.
    Depthwise(Box<WordDepthwise>),
    /// Floats, with one lane or in blocks, to words.
    Quantise {
        /// The floats.
        from: Map,
        /// The words.
        to: Map,
        /// What one step is worth.
        scale: f32,
        /// Steps are held between these.
        range: (f32, f32),
    },
    /// Words to floats with one lane or in blocks.
    Dequantise {
        /// The words.
        from: Map,
        /// The floats.
        to: Map,
        /// What one step is worth.
        scale: f32,
    },
    /// Bytes to words.
    Widen {
        /// The bytes.
        from: Bytes,
        /// The words.
        to: Map,
    },
    /// Words to bytes.
    Narrow {
        /// The words.
        from: Map,
        /// The bytes.
        to: Bytes,
    },
    /// A function of each number as a table.
    Table {
        /// The input.
        input: Map,
        /// The output.
        output: Map,
        /// 256 halves among the constants.
        table: usize,
    },
    /// Pairs of numbers.
    Pairs(Box<WordPairs>),
    /// The largest of each window.
    Largest(Box<Pool>),
    /// The mean of each channel.
    Mean {
        /// The words.
        input: Map,
        /// `[images][channels]`, floats.
        output: At,
        /// Channels.
        channels: usize,
        /// What one step is worth.
        scale: f32,
    },
    /// Words of halves to words of bytes, with the halo.
    Squeeze {
        /// Halves.
        from: Map,
        /// Bytes: half as many words a block.
        to: Map,
        /// The least half: what becomes byte 0.
        low: i16,
    },
    /// Rows of floats to words with the scale that just covers them and 0.
    Cover {
        /// `[rows][length]`.
        input: At,
        /// Rows.
        rows: usize,
        /// Floats in a row.
        length: usize,
        /// The words, a row a pixel.
        output: Map,
        /// Whether a word is four bytes as they are, instead of two halves less the zero point.
        bytes: bool,
        /// The scale.
        scale: At,
        /// The zero point, a byte.
        zero: At,
    },
}

impl Integer {
    /// Its name in profiles.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Product(_) => "dot",
            Self::Depthwise(_) => "dot depthwise",
            Self::Quantise { .. } => "quantise",
            Self::Dequantise { .. } => "dequantise",
            Self::Widen { .. } | Self::Narrow { .. } => "bytes",
            Self::Table { .. } => "table",
            Self::Pairs(_) => "pairs",
            Self::Largest(_) => "largest",
            Self::Mean { .. } => "mean",
            Self::Squeeze { .. } => "squeeze",
            Self::Cover { .. } => "cover",
        }
    }
}
