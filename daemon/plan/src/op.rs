//! Operators: what a node computes, normalised so that a back end need not know ONNX.
//!
//! Each family of operators is one file: parameters, shape rule and reference kernel together. Opsets, defaults and
//! attribute strings are resolved at import, so nothing here is left to interpret. Reference kernels are slow and
//! obvious: they compute in `f64` (integers exactly) and round once, and are the oracle for every back end.

pub mod attention;
pub mod binary;
pub mod conv;
pub mod einsum;
pub mod gather;
pub mod integer;
pub mod matmul;
pub mod ml;
pub mod movement;
pub mod ngram;
pub mod norm;
pub mod pool;
pub mod quantize;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod scatter;
pub mod sort;
pub mod text;
pub mod unary;
pub mod vision;
pub mod window;

use agentd_types::Datatype;

pub use self::{
    attention::Attention,
    binary::{Binary, Cast, Compare, Logic, Where},
    conv::{Conv, ConvTranspose, DeformConv},
    einsum::Einsum,
    gather::{Gather, GatherElements, GatherNd},
    integer::{Lookup, QuantizedBinary, ScaledMatMul},
    matmul::MatMul,
    ml::{LabelEncode, PairCoupling, SupportVectors, TreeEnsemble},
    movement::{Col2Im, Concat, Expand, Pad, Reshape, ReverseSequence, Slice, Tile, Transpose, Trilu},
    ngram::NgramCount,
    norm::{BatchNorm, GroupNorm, LayerNorm, LocalResponseNorm, RmsNorm},
    pool::{MaxUnpool, Pool},
    quantize::{
        Dequantize, DynamicQuantize, IntegerConv, IntegerMatMul, Quantize, QuantizedConv, QuantizedMatMul,
    },
    recurrent::Recurrent,
    reduce::{ArgReduce, CumSum, Hardmax, Reduce, Softmax},
    resize::Resize,
    scatter::{OneHot, Scatter, ScatterNd},
    sort::TopK,
    text::TextOp,
    unary::Unary,
    vision::{AffineGrid, Det, Fourier, GridSample, RoiAlign, RoiMaxPool},
    window::Window,
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    shape,
};

/// The inputs of one node, some of which may be absent.
#[derive(Clone, Debug)]
pub struct Inputs<'a, T>(Vec<Option<&'a T>>);

impl<'a, T> Inputs<'a, T> {
    /// Inputs in order; `None` for an absent one.
    pub fn new(items: impl IntoIterator<Item = Option<&'a T>>) -> Self {
        Self(items.into_iter().collect())
    }

    /// The input at `index`; `None` when it is absent.
    pub fn get(&self, index: usize) -> Option<&'a T> {
        self.0.get(index).copied().flatten()
    }

    /// The input at `index`.
    ///
    /// # Errors
    /// [`PlanError::Graph`] when it is absent.
    pub fn need(&self, index: usize) -> Result<&'a T, PlanError> {
        self.get(index).ok_or_else(|| PlanError::Graph(format!("input {index} is missing")))
    }

    /// How many inputs there are, absent ones included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All inputs, which must be present.
    ///
    /// # Errors
    /// [`PlanError::Graph`] when one is absent.
    pub fn all(&self) -> Result<Vec<&'a T>, PlanError> {
        (0..self.len()).map(|index| self.need(index)).collect()
    }

    /// Refuses another number of inputs.
    pub(crate) fn arity(&self, bounds: std::ops::RangeInclusive<usize>) -> Result<(), PlanError> {
        if bounds.contains(&self.len()) {
            return Ok(());
        }
        Err(PlanError::Graph(format!("{} inputs where {bounds:?} are needed", self.len())))
    }
}

/// What every family gives: its shape rule and its reference kernel.
pub(crate) trait Rule {
    /// Facts of the outputs, or why the inputs do not fit.
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError>;

    /// Computes; `outputs` are the facts that [`Rule::outputs`] gives for these inputs.
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError>;

    /// About how many multiply-adds or element visits one run takes.
    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        let touched = outputs.iter().chain((0..inputs.len()).filter_map(|index| inputs.get(index)));
        touched.fold(0, |sum, fact| sum.saturating_add(fact.elements() as u64))
    }
}

macro_rules! operators {
    ($($(#[$doc:meta])* $name:ident($kind:ty),)*) => {
        /// An operator with its parameters. Inputs and outputs are listed at each family's type.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum Op {
            $($(#[$doc])* $name($kind),)*
        }

        impl Op {
            /// The operator's name.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }

            fn rule(&self) -> &dyn Rule {
                match self {
                    $(Self::$name(op) => op,)*
                }
            }
        }

        $(impl From<$kind> for Op {
            fn from(op: $kind) -> Self {
                Self::$name(op)
            }
        })*
    };
}

operators! {
    /// Convolution.
    Conv(Conv),
    /// Transposed convolution.
    ConvTranspose(ConvTranspose),
    /// Deformable convolution.
    DeformConv(DeformConv),
    /// Matrix product.
    MatMul(MatMul),
    /// Sum of products over named axes.
    Einsum(Einsum),
    /// Scaled dot-product attention.
    Attention(Attention),
    /// Pooling by a window.
    Pool(Pool),
    /// Inverse of max pooling.
    MaxUnpool(MaxUnpool),
    /// A function of one element.
    Unary(Unary),
    /// A function of two elements, broadcasting.
    Binary(Binary),
    /// A comparison of two elements, broadcasting.
    Compare(Compare),
    /// A logical function of two booleans, broadcasting.
    Logic(Logic),
    /// Choice between two tensors, broadcasting.
    Where(Where),
    /// Another datatype.
    Cast(Cast),
    /// A function of all elements along some axes.
    Reduce(Reduce),
    /// The index of the largest or smallest element along an axis.
    ArgReduce(ArgReduce),
    /// Running sums.
    CumSum(CumSum),
    /// Softmax or its logarithm.
    Softmax(Softmax),
    /// One at the largest element, zero elsewhere.
    Hardmax(Hardmax),
    /// The largest or smallest elements along an axis.
    TopK(TopK),
    /// Normalisation by given statistics of each channel.
    BatchNorm(BatchNorm),
    /// Normalisation over the last axes.
    LayerNorm(LayerNorm),
    /// Normalisation by the root of the mean square.
    RmsNorm(RmsNorm),
    /// Normalisation over groups of channels.
    GroupNorm(GroupNorm),
    /// Normalisation over neighbouring channels.
    LocalResponseNorm(LocalResponseNorm),
    /// The same elements in another shape.
    Reshape(Reshape),
    /// Axes in another order.
    Transpose(Transpose),
    /// Tensors one after the other.
    Concat(Concat),
    /// Every so many elements of a part.
    Slice(Slice),
    /// More elements at the borders.
    Pad(Pad),
    /// Broadcast to a shape.
    Expand(Expand),
    /// Repetition.
    Tile(Tile),
    /// A triangle of each matrix.
    Trilu(Trilu),
    /// The first elements of each sequence in reverse order.
    ReverseSequence(ReverseSequence),
    /// Overlapping blocks added into an image.
    Col2Im(Col2Im),
    /// Slices by index along an axis.
    Gather(Gather),
    /// Elements by index along an axis.
    GatherElements(GatherElements),
    /// Slices by index tuples.
    GatherNd(GatherNd),
    /// Elements written by index along an axis.
    Scatter(Scatter),
    /// Slices written by index tuples.
    ScatterNd(ScatterNd),
    /// A one at each index.
    OneHot(OneHot),
    /// Another size by interpolation.
    Resize(Resize),
    /// LSTM, GRU or RNN over a sequence.
    Recurrent(Recurrent),
    /// Floats to 8- or 16-bit integers.
    Quantize(Quantize),
    /// Integers to floats.
    Dequantize(Dequantize),
    /// Floats to 8-bit integers, with a scale found on the way.
    DynamicQuantize(DynamicQuantize),
    /// Product of integer matrices.
    IntegerMatMul(IntegerMatMul),
    /// Convolution of integers.
    IntegerConv(IntegerConv),
    /// Product of quantised matrices, quantised again.
    QuantizedMatMul(QuantizedMatMul),
    /// Convolution of quantised tensors, quantised again.
    QuantizedConv(QuantizedConv),
    /// A function of two quantised tensors, quantised again.
    QuantizedBinary(QuantizedBinary),
    /// A function of 8-bit integers as a table.
    Lookup(Lookup),
    /// Product of integer matrices, scaled to floats.
    ScaledMatMul(ScaledMatMul),
    /// Samples at given places.
    GridSample(GridSample),
    /// Sampling places of an affine map.
    AffineGrid(AffineGrid),
    /// Regions pooled by interpolation.
    RoiAlign(RoiAlign),
    /// Regions pooled by maximum.
    RoiMaxPool(RoiMaxPool),
    /// Determinants.
    Det(Det),
    /// Discrete Fourier transform along an axis.
    Fourier(Fourier),
    /// Decision trees.
    TreeEnsemble(TreeEnsemble),
    /// Support vector machines.
    SupportVectors(SupportVectors),
    /// Probabilities of classes from those of pairs.
    PairCoupling(PairCoupling),
    /// Keys to values.
    LabelEncode(LabelEncode),
    /// Functions of texts.
    Text(TextOp),
    /// Counts of n-grams.
    NgramCount(NgramCount),
}

impl Op {
    /// The facts of the outputs for inputs with these facts.
    ///
    /// # Errors
    /// Why the inputs do not fit: their number, datatypes, shapes or size.
    pub fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        let outputs = self.rule().outputs(inputs)?;
        for fact in &outputs {
            let _count = shape::count(&fact.shape)?;
        }
        Ok(outputs)
    }

    /// Computes the outputs by the reference kernel.
    ///
    /// # Errors
    /// Why the inputs do not fit, or a value among them that is out of bounds.
    pub fn run(&self, inputs: &Inputs<'_, Array>) -> Result<Vec<Array>, PlanError> {
        let facts: Vec<Option<Fact>> =
            (0..inputs.len()).map(|index| inputs.get(index).map(Array::fact)).collect();
        let outputs = self.outputs(&Inputs::new(facts.iter().map(Option::as_ref)))?;
        self.rule().run(inputs, &outputs)
    }

    /// About how many multiply-adds or element visits one run takes.
    pub fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        self.rule().work(inputs, outputs)
    }
}

/// Refuses a datatype that is no floating-point number.
pub(crate) fn need_float(fact: &Fact) -> Result<(), PlanError> {
    if crate::array::is_float(fact.datatype) {
        return Ok(());
    }
    Err(PlanError::datatype(format!("{} where floating-point numbers are needed", fact.datatype.as_str())))
}

/// Refuses any datatype but `want`.
pub(crate) fn need_type(fact: &Fact, want: Datatype) -> Result<(), PlanError> {
    if fact.datatype == want {
        return Ok(());
    }
    Err(PlanError::datatype(format!("{} where {} is needed", fact.datatype.as_str(), want.as_str())))
}

/// Refuses two inputs of different datatypes.
pub(crate) fn same_type(a: &Fact, b: &Fact) -> Result<(), PlanError> {
    if a.datatype == b.datatype {
        return Ok(());
    }
    Err(PlanError::datatype(format!("{} and {} do not mix", a.datatype.as_str(), b.datatype.as_str())))
}

/// Refuses any shape but `want`.
pub(crate) fn need_shape(fact: &Fact, want: &[usize]) -> Result<(), PlanError> {
    if fact.shape == want {
        return Ok(());
    }
    Err(PlanError::shape(format!("shape {:?} where {want:?} is needed", fact.shape)))
}
