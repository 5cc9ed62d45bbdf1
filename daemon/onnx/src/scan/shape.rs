//! Shapes of tensors, as far as a few common operators tell them.
//!
//! Enough to follow features from an input into a recurrent operator. Says nothing rather than something wrong.

use std::rc::Rc;

use super::scope::{Fact, Shape};

/// Shapes of higher rank are not followed.
const MAX_RANK: usize = 8;

/// A node whose inputs are known in part.
pub(crate) struct Known<'f> {
    pub(crate) op: &'f str,
    pub(crate) inputs: &'f [Fact],
    /// The attribute `perm` or `axes`.
    pub(crate) list: Option<&'f [i64]>,
    pub(crate) hidden_size: Option<i64>,
    pub(crate) bidirectional: bool,
    pub(crate) batch_first: bool,
    /// Whether `transA`, `transB` are set.
    pub(crate) transposed: (bool, bool),
    pub(crate) axis: i64,
}

/// A shape that is followed.
pub(crate) fn known(dims: &[i64]) -> Shape {
    (dims.len() <= MAX_RANK).then(|| dims.into())
}

impl Known<'_> {
    /// The shape of the node's first output.
    pub(crate) fn output(&self) -> Shape {
        match self.op {
            "Relu"
            | "LeakyRelu"
            | "PRelu"
            | "Elu"
            | "Selu"
            | "Celu"
            | "Gelu"
            | "Sigmoid"
            | "HardSigmoid"
            | "HardSwish"
            | "Tanh"
            | "Softmax"
            | "LogSoftmax"
            | "Clip"
            | "Identity"
            | "Cast"
            | "Dropout"
            | "BatchNormalization"
            | "InstanceNormalization"
            | "LayerNormalization"
            | "Abs"
            | "Neg"
            | "Exp"
            | "Log"
            | "Sqrt"
            | "Erf"
            | "QuantizeLinear"
            | "DequantizeLinear"
            | "DynamicQuantizeLinear" => self.shape(0),
            "Add" | "Sub" | "Mul" | "Div" => broadcast(&self.shape(0)?, &self.shape(1)?),
            "Transpose" => self.transpose(),
            "Squeeze" => self.squeeze(),
            "Unsqueeze" => self.unsqueeze(),
            "MatMul" => self.matmul(),
            "Gemm" => self.gemm(),
            "Gather" => self.gather(),
            "Conv" => self.window(self.shape(1)?.first().copied()?),
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                self.window(self.shape(0)?.get(1).copied()?)
            }
            "LSTM" | "GRU" | "RNN" => self.recurrent(),
            _ => None,
        }
    }

    fn shape(&self, position: usize) -> Shape {
        self.inputs.get(position)?.shape.clone()
    }

    fn axes(&self) -> Option<Vec<i64>> {
        let constant = || self.inputs.get(1).and_then(|fact| fact.ints.as_deref());
        self.list.or_else(constant).map(<[i64]>::to_vec)
    }

    fn transpose(&self) -> Shape {
        let shape = self.shape(0)?;
        let Some(perm) = self.list else { return Some(shape.iter().rev().copied().collect()) };
        let dim = |axis: &i64| shape.get(usize::try_from(*axis).ok()?).copied();
        (perm.len() == shape.len()).then(|| perm.iter().map(dim).collect::<Option<Rc<[i64]>>>())?
    }

    fn squeeze(&self) -> Shape {
        let shape = self.shape(0)?;
        let axes = positions(&self.axes()?, shape.len())?;
        let kept = shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
        Some(kept.map(|(_, dim)| *dim).collect())
    }

    fn unsqueeze(&self) -> Shape {
        let shape = self.shape(0)?;
        let axes = self.axes()?;
        let rank = shape.len() + axes.len();
        let axes = positions(&axes, rank)?;
        let mut dims = shape.iter();
        let out = (0..rank).map(|axis| if axes.contains(&axis) { Some(1) } else { dims.next().copied() });
        known(&out.collect::<Option<Vec<i64>>>()?)
    }

    fn matmul(&self) -> Shape {
        let (a, b) = (self.shape(0)?, self.shape(1)?);
        let (rows, [_, columns]) = (a.get(..a.len().checked_sub(1)?)?, *b.as_array()?);
        Some(rows.iter().copied().chain([columns]).collect())
    }

    fn gemm(&self) -> Shape {
        let ([m, k], [r, n]) = (*self.shape(0)?.as_array()?, *self.shape(1)?.as_array()?);
        let (transposed_a, transposed_b) = self.transposed;
        let (rows, columns) = (if transposed_a { k } else { m }, if transposed_b { r } else { n });
        Some([rows, columns].into())
    }

    fn gather(&self) -> Shape {
        let (data, indices) = (self.shape(0)?, self.shape(1)?);
        let axis = *positions(&[self.axis], data.len())?.first()?;
        let (before, rest) = data.split_at_checked(axis)?;
        known(&[before, &indices, rest.get(1..)?].concat())
    }

    /// Convolution and pooling keep the samples, have `channels`, and change the rest.
    fn window(&self, channels: i64) -> Shape {
        let shape = self.shape(0)?;
        let rest = shape.len().checked_sub(2)?;
        Some(
            shape
                .first()
                .copied()
                .into_iter()
                .chain([channels])
                .chain(std::iter::repeat_n(-1, rest))
                .collect(),
        )
    }

    fn recurrent(&self) -> Shape {
        let [first, second, _] = *self.shape(0)?.as_array()?;
        let directions = if self.bidirectional { 2 } else { 1 };
        let hidden = self.hidden_size.unwrap_or(-1);
        Some(if self.batch_first {
            [first, second, directions, hidden].into()
        } else {
            [first, directions, second, hidden].into()
        })
    }
}

/// Axes counted from the front, each within `rank`, none twice.
fn positions(axes: &[i64], rank: usize) -> Option<Vec<usize>> {
    let size = i64::try_from(rank).ok()?;
    let front = |axis: &i64| usize::try_from(if *axis < 0 { axis + size } else { *axis }).ok();
    let mut found: Vec<usize> = axes.iter().map(front).collect::<Option<_>>()?;
    found.sort_unstable();
    found.dedup();
    (found.len() == axes.len() && found.iter().all(|axis| *axis < rank)).then_some(found)
}

/// Source: ONNX, "Multidirectional Broadcasting".
fn broadcast(a: &[i64], b: &[i64]) -> Shape {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let missing = std::iter::repeat_n(1, long.len() - short.len());
    let pairs = long.iter().copied().zip(missing.chain(short.iter().copied()));
    let dims = pairs.map(|(x, y)| match (x, y) {
        (1, dim) | (dim, 1) => dim,
        // One is free: it is either 1 or the other.
        (-1, dim) | (dim, -1) => dim,
        (x, y) if x == y => x,
        _ => -1,
    });
    Some(dims.collect())
}
