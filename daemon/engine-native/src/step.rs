//! Steps: what a plan does, one after the other, over the buffers of one arena.
//!
//! Every distance and extent is a number of `f32`s written out in the step, so that what a step touches can be
//! computed from the step alone: [`crate::verify`] does, before a step may run.

pub(crate) mod integer;
mod work;

use crate::kernel::{
    activation::{Function, Pairwise},
    along,
    elements::Each,
    recurrent::Gate,
};

/// A buffer of the plan, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferId(pub(crate) usize);

/// A place in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    /// The buffer.
    pub(crate) buffer: BufferId,
    /// Floats from the buffer's start.
    pub(crate) start: usize,
}

impl At {
    /// The place `floats` further on.
    pub(crate) const fn plus(self, floats: usize) -> Self {
        Self { buffer: self.buffer, start: self.start + floats }
    }
}

/// An image or a batch of images in a buffer: where its pixels and channels are.
///
/// Channels lie in blocks of `lanes`; a plain map has one lane, rows of features have all their features in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    /// Pixel (0, 0) of the first image's first block, after the halo.
    pub(crate) at: At,
    /// Images.
    pub(crate) images: usize,
    /// Channels.
    pub(crate) channels: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Columns.
    pub(crate) columns: usize,
    /// Channels that lie next to each other.
    pub(crate) lanes: usize,
    /// From one image to the next.
    pub(crate) image: usize,
    /// From one block of channels to the next.
    pub(crate) block: usize,
    /// From one row to the next.
    pub(crate) row: usize,
    /// From one pixel to the next.
    pub(crate) pixel: usize,
    /// Zeros around the pixels: above, left, below, right.
    pub(crate) halo: Halo,
}

/// Rows and columns of zeros around a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Halo {
    /// Rows above.
    pub(crate) top: usize,
    /// Columns at the left.
    pub(crate) left: usize,
    /// Rows below.
    pub(crate) bottom: usize,
    /// Columns at the right.
    pub(crate) right: usize,
}

impl Halo {
    /// What holds both.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            top: self.top.max(other.top),
            left: self.left.max(other.left),
            bottom: self.bottom.max(other.bottom),
            right: self.right.max(other.right),
        }
    }
}

impl Map {
    /// Blocks of channels.
    pub(crate) const fn blocks(&self) -> usize {
        self.channels.div_ceil(self.lanes)
    }

    /// Floats before pixel (0, 0) of a block that belong to the halo.
    pub(crate) const fn lead(&self) -> usize {
        self.halo.top * self.row + self.halo.left * self.pixel
    }
}

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
    /// Taps: rows and columns.
    pub(crate) taps: (usize, usize),
    /// Rows and columns from one output pixel to the next.
    pub(crate) strides: (usize, usize),
    /// Rows and columns from one tap to the next.
    pub(crate) dilations: (usize, usize),
    /// Rows and columns of padding before the map.
    pub(crate) padding: (usize, usize),
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
    /// Rows and columns of the window.
    pub(crate) window: (usize, usize),
    /// Rows and columns from one window to the next.
    pub(crate) strides: (usize, usize),
    /// Rows and columns from one tap to the next.
    pub(crate) dilations: (usize, usize),
    /// Rows and columns of padding before the map.
    pub(crate) padding: (usize, usize),
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

/// Numbers in a buffer or among the constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// In a buffer.
    Buffer(At),
    /// Among the constants.
    Constant(usize),
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

/// What a recurrent layer computes in a step in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Gates i, o, f, c.
    Lstm {
        /// The forget gate is `1 - i`.
        input_forget: bool,
    },
    /// Gates z, r, h.
    Gru {
        /// The products of gate h are summed before they are multiplied by r.
        separate: bool,
    },
    /// One gate.
    Rnn,
}

impl Cell {
    /// How many gates it has.
    pub(crate) const fn gates(self) -> usize {
        match self {
            Self::Lstm { .. } => 4,
            Self::Gru { .. } => 3,
            Self::Rnn => 1,
        }
    }
}

/// States of a recurrent layer, `[units]` for each row and direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The first direction's first row.
    pub(crate) at: Operand,
    /// From one row to the next.
    pub(crate) row: usize,
    /// From one direction to the next.
    pub(crate) direction: usize,
}

/// LSTM, GRU or RNN over a sequence, from what its input adds to the gates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recurrent {
    /// What is computed.
    pub(crate) cell: Cell,
    /// Units of the hidden state.
    pub(crate) units: usize,
    /// Steps in time.
    pub(crate) steps: usize,
    /// Rows of the batch.
    pub(crate) rows: usize,
    /// For each direction whether time runs backwards, and its activations.
    pub(crate) directions: Vec<(bool, [Gate; 3])>,
    /// What the input and biases add, `[directions][panels][gates][LANES]` for each step and row; overwritten.
    pub(crate) gates: At,
    /// From one step to the next.
    pub(crate) gates_step: usize,
    /// From one row to the next.
    pub(crate) gates_row: usize,
    /// Factors of the hidden state among the constants, as the kernel reads them, `units` times all gates for each
    /// direction.
    pub(crate) weights: usize,
    /// LSTM: factors of the cell state among the constants, `[directions][panels][3][LANES]`.
    pub(crate) peepholes: Option<usize>,
    /// GRU: the bias of gate h that belongs to the hidden state, among the constants, `[directions][panels][LANES]`.
    pub(crate) bias: usize,
    /// How many steps each row has (`i32`); `None` for all.
    pub(crate) lengths: Option<Operand>,
    /// The hidden state at first.
    pub(crate) first_hidden: State,
    /// LSTM: the cell state at first.
    pub(crate) first_cell: State,
    /// The hidden state after each step, `[units]` for each step, direction and row.
    pub(crate) output: At,
    /// From one step to the next.
    pub(crate) output_step: usize,
    /// From one row to the next.
    pub(crate) output_row: usize,
    /// From one direction to the next.
    pub(crate) output_direction: usize,
    /// The hidden state in the end, laid out as `last_cell`.
    pub(crate) last_hidden: At,
    /// LSTM: the cell state in the end, and meanwhile.
    pub(crate) last_cell: At,
    /// From one row to the next in states in the end.
    pub(crate) last_row: usize,
    /// From one direction to the next in states in the end.
    pub(crate) last_direction: usize,
    /// GRU: `[rows][panels * LANES]`.
    pub(crate) scratch: Option<At>,
    /// What goes into activations is held between this and its negative.
    pub(crate) bound: f32,
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
