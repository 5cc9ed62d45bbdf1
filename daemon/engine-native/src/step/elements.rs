//! What is done to numbers where they lie, along an axis, or by index; and what only moves them.

use super::{At, Map, Operand};
use crate::kernel::{activation::Pairwise, along, elements::Each};

/// One axis of a loop: how often, and the distances in up to three operands (a, b, output).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// How often.
    pub(crate) count: usize,
    /// Distance in the first operand.
    pub(crate) a: usize,
    /// Distance in the second operand.
    pub(crate) b: usize,
    /// Distance in the output.
    pub(crate) out: usize,
}

/// Pairs of numbers, broadcasting.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Combine {
    /// The first operand.
    pub(crate) a: Operand,
    /// The second operand.
    pub(crate) b: Operand,
    /// The results.
    pub(crate) output: At,
    /// Loops, outermost first; along the last one the distances are 1 in the output and 0 or 1 in the operands.
    pub(crate) axes: Vec<Axis>,
    /// What is done to the pairs.
    pub(crate) pairwise: Pairwise,
    /// Results are held between these; NaN stays.
    pub(crate) range: (f32, f32),
}

/// Each pixel combined with one vector of channels, or multiplied by one and added to another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scale {
    /// The input.
    pub(crate) input: Map,
    /// One number a channel (padded to whole vectors), `[images][blocks][LANES]`.
    pub(crate) vector: Operand,
    /// From the vector of one image to that of the next; 0 where they share one.
    pub(crate) vector_image: usize,
    /// Added after a multiplication, among the constants.
    pub(crate) offset: Option<usize>,
    /// What is done to each pair.
    pub(crate) pairwise: Pairwise,
    /// The output; may be the input.
    pub(crate) output: Map,
    /// Results are held between these; NaN stays.
    pub(crate) range: (f32, f32),
}

/// A strided copy of whole numbers of floats; also transposes, slices, repeats.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Copy {
    /// The source.
    pub(crate) from: Operand,
    /// The destination.
    pub(crate) to: At,
    /// Loops, outermost first; `a` is the distance in the source.
    pub(crate) axes: Vec<Axis>,
}

/// Numbers along one axis taken together: `[outer][count][inner]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Along {
    /// The numbers.
    pub(crate) input: At,
    /// The results; for softmax may be the input.
    pub(crate) output: At,
    /// Turns.
    pub(crate) outer: usize,
    /// Numbers along the axis, at least 1.
    pub(crate) count: usize,
    /// Neighbours.
    pub(crate) inner: usize,
    /// What is done.
    pub(crate) kind: along::Kind,
}

/// Groups of channels of plain maps, each brought to mean 0 and variance 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GroupNorm {
    /// `[images][groups][channels][plane]`.
    pub(crate) input: At,
    /// The same; may be the input.
    pub(crate) output: At,
    /// Images.
    pub(crate) images: usize,
    /// Groups of an image.
    pub(crate) groups: usize,
    /// Channels of a group.
    pub(crate) channels: usize,
    /// Floats of a channel.
    pub(crate) plane: usize,
    /// Factors among the constants, one a channel.
    pub(crate) scale: usize,
    /// Summands among the constants, one a channel.
    pub(crate) bias: usize,
    /// Added to the variance.
    pub(crate) epsilon: f32,
}

/// Channels of plain maps divided by a power of the squares of their neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LocalNorm {
    /// `[images][channels][plane]`.
    pub(crate) input: At,
    /// The same; not the input.
    pub(crate) output: At,
    /// Images.
    pub(crate) images: usize,
    /// Channels.
    pub(crate) channels: usize,
    /// Floats of a channel.
    pub(crate) plane: usize,
    /// Channels before and after that count.
    pub(crate) reach: (usize, usize),
    /// Multiplies the sum of squares.
    pub(crate) factor: f32,
    /// Added to it.
    pub(crate) bias: f32,
    /// The power.
    pub(crate) power: f32,
}

/// One axis of a loop over elements of several datatypes, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// How often.
    pub(crate) count: usize,
    /// Distances in the operands.
    pub(crate) steps: [usize; 3],
    /// Distance in the output.
    pub(crate) out: usize,
}

/// A function of elements of several datatypes, broadcasting.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Elements {
    /// As many operands as the function has; the others are not read.
    pub(crate) operands: [Operand; 3],
    /// The results.
    pub(crate) output: At,
    /// Loops, outermost first; along the last one the results lie next to each other.
    pub(crate) turns: Vec<Turn>,
    /// The function.
    pub(crate) each: Each,
}

/// From where slices are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From a buffer or the plan's constants.
    Operand(Operand),
    /// From a constant of the graph, of `f32`, where it lies: tables may be large.
    Value(usize),
}

/// Slices by index along an axis; an index that lies outside is refused when it is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gather {
    /// `[outer][size][inner]` floats.
    pub(crate) from: Source,
    /// Turns.
    pub(crate) outer: usize,
    /// Slices along the axis.
    pub(crate) size: usize,
    /// Floats of a slice.
    pub(crate) inner: usize,
    /// `[count]`, which may count from the end.
    pub(crate) indices: Operand,
    /// Whether they have 8 bytes each, not 4.
    pub(crate) wide: bool,
    /// How many.
    pub(crate) count: usize,
    /// `[outer][count][inner]` floats.
    pub(crate) to: At,
    /// The graph's node, for the error.
    pub(crate) node: usize,
}
