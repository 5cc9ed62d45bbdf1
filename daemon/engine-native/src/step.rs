//! Steps: what a plan does, one after the other, over the buffers of one arena.
//!
//! Every distance and extent is a number of `f32`s written out in the step, so that what a step touches can be
//! computed from the step alone: [`crate::verify`] does, before a step may run.

mod elements;
pub(crate) mod integer;
mod map;
mod recurrent;
mod windows;
mod work;

pub(crate) use elements::{
    Along, Axis, Combine, Copy, Elements, Gather, GroupNorm, LocalNorm, Scale, Source, Turn,
};
pub(crate) use map::{At, BufferId, Halo, Map, Operand, Plane};
pub(crate) use recurrent::{Cell, Recurrent, State};
pub(crate) use windows::{Convolve, Depthwise, Parts, Pool, Resize, Sample, Weights, Winograd};

use crate::kernel::{
    activation::{Function, Pairwise},
    along,
};

/// What a plan does, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Sums of products.
    Convolve(Box<Convolve>),
    /// Convolution of each channel by itself.
    Depthwise(Box<Depthwise>),
    /// Convolution 3x3 by Winograd's method.
    Winograd(Box<Winograd>),
    /// Pooling by a window.
    Pool(Box<Pool>),
    /// Another size by interpolation.
    Resize(Box<Resize>),
    /// The mean or maximum of each channel; the output has one pixel.
    Whole {
        /// The input.
        input: Map,
        /// The output.
        output: Map,
        /// Whether the maximum is wanted.
        maximum: bool,
    },
    /// A map into one of another layout, with its halo.
    Reorder {
        /// The source.
        from: Map,
        /// The destination.
        to: Map,
    },
    /// Zeros around a map whose pixels were written in parts.
    Halo {
        /// The map.
        map: Map,
    },
    /// A function of each number of a map.
    MapFunction {
        /// The input.
        input: Map,
        /// The output; may be the input.
        output: Map,
        /// The function.
        function: Function,
    },
    /// A function of each of so many numbers next to each other.
    Function {
        /// The input.
        input: At,
        /// The output; may be the input.
        output: At,
        /// How many.
        count: usize,
        /// The function.
        function: Function,
    },
    /// Two maps of the same size, number by number.
    MapCombine {
        /// The first operand.
        a: Map,
        /// The second operand.
        b: Map,
        /// The results; may be an operand.
        output: Map,
        /// What is done to the pairs.
        pairwise: Pairwise,
        /// Results are held between these; NaN stays.
        range: (f32, f32),
    },
    /// Pairs of numbers, broadcasting.
    Combine(Box<Combine>),
    /// Each pixel combined with one vector.
    Scale(Box<Scale>),
    /// A strided copy.
    Copy(Box<Copy>),
    /// Numbers along one axis taken together.
    Along(Along),
    /// A function of elements of several datatypes.
    Elements(Box<Elements>),
    /// Slices by index.
    Gather(Box<Gather>),
    /// Norm over groups of channels.
    GroupNorm(Box<GroupNorm>),
    /// Norm over neighbouring channels.
    LocalNorm(Box<LocalNorm>),
    /// Softmax of rows.
    Softmax {
        /// `[rows][length]`.
        input: At,
        /// The same; may be the input.
        output: At,
        /// Rows.
        rows: usize,
        /// Floats in a row.
        length: usize,
        /// Multiplies each number first.
        scale: f32,
        /// Added then.
        mask: Option<Operand>,
        /// From the mask of one row to that of the next; 0 where all rows share one.
        mask_row: usize,
    },
    /// Layer norm or root mean square norm of rows.
    Normalise {
        /// `[rows][length]`.
        input: At,
        /// Added first.
        residual: Option<At>,
        /// The same; may be the input.
        output: At,
        /// Rows.
        rows: usize,
        /// Floats in a row.
        length: usize,
        /// Factors among the constants.
        scale: usize,
        /// Summands among the constants.
        bias: Option<usize>,
        /// Added to the variance.
        epsilon: f32,
        /// Whether the mean is left where it is.
        keep_mean: bool,
    },
    /// Packs a matrix in a buffer as weights: `columns` of them in rows `step` apart.
    Pack {
        /// Row 0, column 0.
        from: At,
        /// From one row to the next.
        row: usize,
        /// From one column to the next.
        column: usize,
        /// Rows: the inner size.
        rows: usize,
        /// Columns: output channels.
        columns: usize,
        /// Matrices, and the distances between them.
        parts: Parts,
        /// The first group.
        to: At,
        /// Multiplies each factor.
        scale: f32,
    },
    /// On quantised numbers.
    Integer(integer::Integer),
    /// A recurrent layer.
    Recurrent(Box<Recurrent>),
    /// A node by the reference interpreter, on plain buffers.
    Reference {
        /// Which of the graph's nodes.
        node: usize,
        /// Plain places of the inputs that are no constants.
        inputs: Vec<Option<At>>,
        /// Plain places of the outputs.
        outputs: Vec<At>,
    },
}

impl Step {
    /// Its name in profiles.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Convolve(_) => "convolve",
            Self::Depthwise(_) => "depthwise",
            Self::Winograd(_) => "winograd",
            Self::Pool(_) => "pool",
            Self::Resize(_) => "resize",
            Self::Whole { .. } => "whole",
            Self::Reorder { .. } => "reorder",
            Self::Halo { .. } => "halo",
            Self::MapFunction { .. } | Self::Function { .. } => "function",
            Self::MapCombine { .. } | Self::Combine(_) => "combine",
            Self::Scale(_) => "scale",
            Self::Copy(_) => "copy",
            Self::Along(along) => match along.kind {
                along::Kind::Fold { .. } => "reduce",
                along::Kind::Softmax { .. } => "softmax",
                along::Kind::Arg { .. } => "best",
            },
            Self::Elements(_) => "elements",
            Self::Gather(_) => "gather",
            Self::Normalise { .. } | Self::GroupNorm(_) | Self::LocalNorm(_) => "normalise",
            Self::Softmax { .. } => "softmax",
            Self::Pack { .. } => "pack",
            Self::Integer(step) => step.name(),
            Self::Recurrent(_) => "recurrent",
            Self::Reference { .. } => "reference",
        }
    }
}
