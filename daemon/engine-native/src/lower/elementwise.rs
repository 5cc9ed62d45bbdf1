//! Functions of one and two numbers, norms, softmax, reductions.

use agentd_plan::{
    Node, ValueId,
    op::{BatchNorm, Binary, Reduce, Unary, reduce::ReduceKind},
};

use super::Lowering;
use crate::{
    kernel::activation::{Function, Pairwise},
    step::{At, Axis, Combine, Map, Operand, Scale, Step},
};

/// No limits.
const EVERYTHING: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);

/// The kernel's function, where there is one.
pub(super) fn function(unary: Unary) -> Option<Function> {
    Some(match unary {
        Unary::Relu => Function::Clamp { low: 0.0, high: f32::INFINITY },
        Unary::Clip { low, high } => Function::Clamp { low, high },
        Unary::LeakyRelu { alpha } => Function::LeakyRelu { slope: alpha },
        Unary::HardSigmoid { alpha, beta } => Function::HardSigmoid { slope: alpha, offset: beta },
        Unary::HardSwish => Function::HardSwish,
        Unary::Sigmoid => Function::Sigmoid,
        Unary::Swish { alpha: 1.0 } => Function::Silu,
        Unary::Tanh => Function::Tanh,
        Unary::Gelu => Function::Gelu,
        Unary::GeluTanh => Function::GeluTanh,
        Unary::Erf => Function::Erf,
        Unary::Exp => Function::Exp,
        Unary::Sqrt => Function::Sqrt,
        Unary::Reciprocal => Function::Reciprocal,
        Unary::Abs => Function::Abs,
        Unary::Neg => Function::Negative,
        Unary::Floor => Function::Floor,
        Unary::Round => Function::Round,
        Unary::Elu { alpha } => Function::Elu { slope: alpha },
        Unary::Selu { alpha, gamma } => Function::Selu { slope: alpha, factor: gamma },
        Unary::Affine { alpha, beta } => Function::Affine { slope: alpha, offset: beta },
        Unary::Swish { alpha } => Function::Swish { slope: alpha },
        Unary::Mish => Function::Mish,
        Unary::Softsign => Function::Softsign,
        Unary::Ceil => Function::Ceiling,
        Unary::Sign => Function::Sign,
        Unary::Not | Unary::BitNot | Unary::IsNan | Unary::IsInf { .. } => return None,
        other => Function::Other(other),
    })
}

fn pairwise(binary: Binary) -> Option<Pairwise> {
    Some(match binary {
        Binary::Add => Pairwise::Add,
        Binary::Sub => Pairwise::Subtract,
        Binary::Mul => Pairwise::Multiply,
        Binary::Div => Pairwise::Divide,
        Binary::Max => Pairwise::Maximum,
        Binary::Min => Pairwise::Minimum,
        Binary::PRelu => Pairwise::Leaky,
        Binary::Pow | Binary::Mod | Binary::Fmod => Pairwise::Other(binary),
        _ => return None,
    })
}

impl Lowering<'_> {
    pub(super) fn unary(&mut self, unary: Unary, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let function = function(unary)?;
        if !self.is_f32(x) || !self.is_f32(output) {
            return None;
        }
        if self.form(x).map.is_some()
            && let Some(input) = self.map(x)
        {
            let output = self.new_map(output)?;
            self.push(Step::MapFunction { input, output, function });
            return Some(());
        }
        let count = self.fact(x).elements();
        let (input, output) = (self.plain(x), self.new_plain(output));
        self.push(Step::Function { input, output, count, function });
        Some(())
    }

    pub(super) fn binary(&mut self, binary: Binary, node: &Node) -> Option<()> {
        let (a, b) = (node.inputs.first().copied()??, node.inputs.get(1).copied()??);
        let output = *node.outputs.first()?;
        let square = binary == Binary::Pow && self.constant_of(Some(b)).is_some_and(|items| *items == [2.0]);
        let same = square && self.fact(a).shape == self.fact(output).shape;
        let (binary, b) = if same { (Binary::Mul, a) } else { (binary, b) };
        let pairwise = pairwise(binary)?;
        if !self.is_f32(a) || !self.is_f32(b) {
            return None;
        }
        let commutes =
            matches!(pairwise, Pairwise::Add | Pairwise::Multiply | Pairwise::Maximum | Pairwise::Minimum);
        if self.on_maps(pairwise, a, b, output).is_some()
            || (commutes && self.on_maps(pairwise, b, a, output).is_some())
        {
            return Some(());
        }
        self.on_plain(pairwise, a, b, output)
    }

    /// `a` as a map, `b` as a map of the same size or as one number a channel.
    fn on_maps(&mut self, pairwise: Pairwise, a: ValueId, b: ValueId, output: ValueId) -> Option<()> {
        let (fact, other) = (self.fact(a), self.fact(b));
        let shape = &self.fact(output).shape;
        if self.form(a).map.is_none() || fact.shape != *shape {
            return None;
        }
        if other.shape == *shape {
            let (a, b, output) = (self.map(a)?, self.map(b)?, self.new_map(output)?);
            self.push(Step::MapCombine { a, b, output, pairwise, range: EVERYTHING });
            return Some(());
        }
        let (images, channels) = (*shape.first()?, *shape.get(1)?);
        if let Some(items) = self.constant_of(Some(b)) {
            let items = by_channel(items, &other.shape, shape)?;
            let vector = Operand::Constant(self.channel_constants(Some(&items), channels));
            return self.scale(a, vector, 0, pairwise, output);
        }
        let ones = shape.iter().map(|_| 1).skip(2);
        let one_pixel: Vec<usize> = [images, channels].into_iter().chain(ones).collect();
        if other.shape != one_pixel || self.needs.get(b.index())?.halo != crate::step::Halo::default() {
            return None;
        }
        let map = self.map(b)?;
        (map.block == map.lanes).then_some(())?;
        self.scale(a, Operand::Buffer(map.at), map.image, pairwise, output)
    }

    fn scale(
        &mut self,
        a: ValueId,
        vector: Operand,
        vector_image: usize,
        pairwise: Pairwise,
        output: ValueId,
    ) -> Option<()> {
        let (input, output) = (self.map(a)?, self.new_map(output)?);
        let step = Scale { input, vector, vector_image, offset: None, pairwise, output, range: EVERYTHING };
        self.push(Step::Scale(Box::new(step)));
        Some(())
    }

    fn on_plain(&mut self, pairwise: Pairwise, a: ValueId, b: ValueId, output: ValueId) -> Option<()> {
        let shape = &self.fact(output).shape;
        let axes =
            merged(shape, &strides(&self.fact(a).shape, shape)?, &strides(&self.fact(b).shape, shape)?);
        let (a, b, output) = (self.operand(a), self.operand(b), self.new_plain(output));
        let step = Combine { a, b, output, axes, pairwise, range: EVERYTHING };
        self.push(Step::Combine(Box::new(step)));
        Some(())
    }

    pub(super) fn batch_norm(&mut self, norm: &BatchNorm, node: &Node) -> Option<()> {
        let (range, function) = Self::ending(norm.activation)?;
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let parameter = |index: usize| self.constant_of(node.inputs.get(index).copied()?);
        let (scale, bias, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
        let factors: Vec<f32> =
            scale.iter().zip(variance).map(|(s, v)| s / (v + norm.epsilon).sqrt()).collect();
        let offsets: Vec<f32> =
            bias.iter().zip(mean).zip(&factors).map(|((b, m), f)| m.mul_add(-f, *b)).collect();
        let input = self.map(x)?;
        let channels = input.channels;
        let vector = Operand::Constant(self.channel_constants(Some(&factors), channels));
        let offset = Some(self.channel_constants(Some(&offsets), channels));
        let output = self.new_map(output)?;
        let pairwise = Pairwise::Multiply;
        let step = Scale { input, vector, vector_image: 0, offset, pairwise, output, range };
        self.push(Step::Scale(Box::new(step)));
        if let Some(function) = function {
            self.push(Step::MapFunction { input: output, output, function });
        }
        Some(())
    }

    pub(super) fn layer_norm(
        &mut self,
        axis: usize,
        epsilon: f32,
        keep_mean: bool,
        node: &Node,
    ) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let shape = &self.fact(x).shape;
        let length: usize = shape.get(axis..)?.iter().product();
        let rows: usize = shape.get(..axis)?.iter().product();
        let parameter = |index: usize| match node.inputs.get(index).copied().flatten() {
            Some(id) => {
                let items = self.constant_of(Some(id))?;
                match items {
                    [one] => Some(Some(vec![*one; length])),
                    _ => (items.len() == length).then(|| Some(items.to_vec())),
                }
            }
            None => Some(None),
        };
        let scale = parameter(1)?.unwrap_or_else(|| vec![1.0; length]);
        let bias = parameter(2)?;
        if !self.is_f32(x) {
            return None;
        }
        let scale = self.constants(&scale);
        let bias = bias.map(|bias| self.constants(&bias));
        let (input, output) = (self.plain(x), self.new_plain(output));
        let residual = None;
        self.push(Step::Normalise { input, residual, output, rows, length, scale, bias, epsilon, keep_mean });
        Some(())
    }

    pub(super) fn softmax(&mut self, axis: usize, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let shape = &self.fact(x).shape;
        if !self.is_f32(x) || shape.get(axis + 1..)?.iter().any(|dim| *dim != 1) {
            return None;
        }
        let (length, rows) = (*shape.get(axis)?, shape.get(..axis)?.iter().product());
        let (input, output) = (self.plain(x), self.new_plain(output));
        self.push(Step::Softmax { input, output, rows, length, scale: 1.0, mask: None, mask_row: 0 });
        Some(())
    }

    /// The mean or maximum over whole maps.
    pub(super) fn reduce(&mut self, reduce: &Reduce, node: &Node) -> Option<()> {
        let (x, output) = (node.inputs.first().copied()??, *node.outputs.first()?);
        let maximum = match reduce.kind {
            ReduceKind::Mean => false,
            ReduceKind::Max => true,
            _ => return None,
        };
        let rank = self.fact(x).rank();
        let whole = (3..=4).contains(&rank) && reduce.axes == (2..rank).collect::<Vec<_>>();
        if !whole || !self.is_f32(x) || self.form(x).map.is_none() {
            return None;
        }
        let input = self.map(x)?;
        if reduce.keep {
            let output = self.new_map(output)?;
            self.push(Step::Whole { input, output, maximum });
            return Some(());
        }
        let lanes = self.kernels.lanes;
        let image = input.blocks() * lanes;
        let at = self.buffer(input.images.checked_mul(image)?);
        let one = Map {
            at,
            rows: 1,
            columns: 1,
            image,
            block: lanes,
            row: lanes,
            pixel: lanes,
            halo: crate::step::Halo::default(),
            ..input
        };
        self.push(Step::Whole { input, output: one, maximum });
        let to = self.new_plain(output);
        self.copy_rows(Operand::Buffer(at), to, (input.images, image, input.channels), input.channels);
        Some(())
    }

    /// Copies the first `length` floats of rows.
    pub(super) fn copy_rows(
        &mut self,
        from: Operand,
        to: At,
        (rows, from_row, length): (usize, usize, usize),
        to_row: usize,
    ) {
        let axes = vec![
            Axis { count: rows, a: from_row, b: 0, out: to_row },
            Axis { count: length, a: 1, b: 0, out: 1 },
        ];
        self.push(Step::Copy(Box::new(crate::step::Copy { from, to, axes })));
    }
}

/// A constant that broadcasts to `shape` as one number a channel; `None` when it varies along other axes.
fn by_channel(items: &[f32], of: &[usize], shape: &[usize]) -> Option<Vec<f32>> {
    let channels = *shape.get(1)?;
    if let [one] = items {
        return Some(vec![*one; channels]);
    }
    let rank = shape.len();
    let axis = (rank - 1).checked_sub(rank.checked_sub(of.len())?)?;
    let only = of.iter().enumerate().all(|(at, dim)| *dim == 1 || at + (rank - of.len()) == 1);
    let _ = axis;
    (only && items.len() == channels).then(|| items.to_vec())
}

/// Distances in a plain value of shape `of` along the axes of `shape`, to which it broadcasts.
pub(super) fn strides(of: &[usize], shape: &[usize]) -> Option<Vec<usize>> {
    let missing = shape.len().checked_sub(of.len())?;
    let mut strides = vec![0; shape.len()];
    let mut step = 1;
    for (at, dim) in of.iter().enumerate().rev() {
        if *dim != 1 {
            (*dim == *shape.get(missing + at)?).then_some(())?;
            *strides.get_mut(missing + at)? = step;
        }
        step *= dim;
    }
    Some(strides)
}

/// Loops over `shape` with neighbouring axes merged where all operands allow it; at least one.
pub(super) fn merged(shape: &[usize], a: &[usize], b: &[usize]) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    let mut out = 1;
    for ((count, a), b) in shape.iter().zip(a).zip(b).rev() {
        let axis = Axis { count: *count, a: *a, b: *b, out };
        out *= count;
        match axes.last_mut() {
            _ if *count == 1 => {}
            Some(inner) if axis.a == inner.a * inner.count && axis.b == inner.b * inner.count => {
                inner.count *= axis.count;
            }
            _ => axes.push(axis),
        }
    }
    if axes.is_empty() {
        axes.push(Axis { count: 1, a: 0, b: 0, out: 1 });
    }
    axes.reverse();
    axes
}
