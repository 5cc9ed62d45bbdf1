//! Matrix products.

use super::{
    Inputs, Rule,
    conv::{finish, one},
    need_shape, same_type,
    unary::Unary,
};
use crate::{
    array::{Array, Fact, is_float, is_int},
    error::PlanError,
    shape::{self, Walk},
};

/// Matrix product `alpha * a b`, then bias, then residual, then activation; ONNX's `Gemm` too.
///
/// Inputs: a `[.., M, K]` (or `[.., K, M]` when transposed), b `[.., K, N]` (or `[.., N, K]`), bias that broadcasts to the
/// output or absent, residual of the output's shape or absent. Leading axes broadcast. Output: `[.., M, N]`. Both have
/// at least two axes. Floats or integers; integers wrap around and take neither `alpha` nor an activation.
#[derive(Clone, Debug, PartialEq)]
pub struct MatMul {
    /// Whether the last two axes of a are swapped.
    pub transpose_a: bool,
    /// Whether the last two axes of b are swapped.
    pub transpose_b: bool,
    /// Multiplies the product.
    pub alpha: f32,
    /// Applied last.
    pub activation: Option<Unary>,
}

impl Default for MatMul {
    fn default() -> Self {
        Self { transpose_a: false, transpose_b: false, alpha: 1.0, activation: None }
    }
}

/// Sizes of a product: batch shape, rows, inner size, columns.
pub(crate) struct Sizes {
    pub(crate) batch: Vec<usize>,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
}

impl Sizes {
    pub(crate) fn of(a: &[usize], b: &[usize], transpose: (bool, bool)) -> Result<Self, PlanError> {
        let fault = || PlanError::shape(format!("product of {a:?} and {b:?}"));
        let split = |shape: &[usize], swap: bool| match shape {
            [batch @ .., rows, columns] => {
                Some((batch.to_vec(), if swap { (*columns, *rows) } else { (*rows, *columns) }))
            }
            _ => None,
        };
        let (batch_a, (m, k)) = split(a, transpose.0).ok_or_else(fault)?;
        let (batch_b, (k_b, n)) = split(b, transpose.1).ok_or_else(fault)?;
        if k != k_b {
            return Err(fault());
        }
        Ok(Self { batch: shape::broadcast(&batch_a, &batch_b)?, m, k, n })
    }

    pub(crate) fn output(&self) -> Vec<usize> {
        let mut shape = self.batch.clone();
        shape.extend([self.m, self.n]);
        shape
    }

    fn work(&self) -> u64 {
        let sizes = self.batch.iter().chain([&self.m, &self.k, &self.n]);
        sizes.fold(1_u64, |product, size| product.saturating_mul(*size as u64))
    }
}

/// Offsets of each matrix of an operand whose leading axes broadcast to `batch`.
fn matrices(shape: &[usize], batch: &[usize]) -> Result<Walk, PlanError> {
    let (leading, matrix) = shape.split_at(shape.len().saturating_sub(2));
    let size: usize = matrix.iter().product();
    let steps = shape::broadcast_strides(leading, batch)?;
    Ok(Walk::new(batch, steps.iter().map(|step| (step * size).cast_signed()), 0))
}

/// Operands of [`product`].
pub(crate) struct Product<'a, T> {
    pub(crate) a: (&'a [T], &'a [usize]),
    pub(crate) b: (&'a [T], &'a [usize]),
    pub(crate) transpose: (bool, bool),
}

/// Multiplies matrices; `add` is `sum += x * y`.
pub(crate) fn product<T: Copy + Default>(
    this: &Product<'_, T>,
    sizes: &Sizes,
    add: impl Fn(&mut T, T, T),
) -> Result<Vec<T>, PlanError> {
    let Sizes { m, k, n, .. } = *sizes;
    let mut sums = vec![T::default(); shape::count(&sizes.output())?];
    if m == 0 || n == 0 || k == 0 {
        return Ok(sums);
    }
    let offsets = matrices(this.a.1, &sizes.batch)?.zip(matrices(this.b.1, &sizes.batch)?);
    for (sums, (at_a, at_b)) in sums.chunks_exact_mut(m * n).zip(offsets) {
        let (Some(a), Some(b)) = (this.a.0.get(at_a..at_a + m * k), this.b.0.get(at_b..at_b + k * n)) else {
            return Err(PlanError::shape("a matrix outside its tensor"));
        };
        let turned;
        let b = if this.transpose.1 {
            turned = turn(b, n, k);
            &turned
        } else {
            b
        };
        for (row, sums) in sums.chunks_exact_mut(n).enumerate() {
            for (inner, b) in b.chunks_exact(n).enumerate() {
                let place = if this.transpose.0 { inner * m + row } else { row * k + inner };
                let Some(x) = a.get(place).copied() else { continue };
                sums.iter_mut().zip(b).for_each(|(sum, y)| add(sum, x, *y));
            }
        }
    }
    Ok(sums)
}

/// The transpose of a matrix of `rows` rows and `columns` columns.
fn turn<T: Copy>(matrix: &[T], rows: usize, columns: usize) -> Vec<T> {
    Walk::forward(&[columns, rows], &[1, columns]).filter_map(|place| matrix.get(place).copied()).collect()
}

impl Rule for MatMul {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=4)?;
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        if !is_float(a.datatype) && !is_int(a.datatype) {
            return Err(PlanError::datatype(format!("a product of {}", a.datatype.as_str())));
        }
        for index in 1..4 {
            inputs.get(index).map_or(Ok(()), |fact| same_type(a, fact))?;
        }
        let sizes = Sizes::of(&a.shape, &b.shape, (self.transpose_a, self.transpose_b))?;
        let output = a.shaped(sizes.output());
        if let Some(bias) = inputs.get(2) {
            let _steps = shape::broadcast_strides(&bias.shape, &output.shape)?;
        }
        inputs.get(3).map_or(Ok(()), |residual| need_shape(residual, &output.shape))?;
        Ok(vec![output])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        let output = one(outputs)?;
        let transpose = (self.transpose_a, self.transpose_b);
        let sizes = Sizes::of(a.shape(), b.shape(), transpose)?;
        if is_int(output.datatype) {
            let (x, y) = (a.wholes()?, b.wholes()?);
            let operands = Product { a: (&x, a.shape()), b: (&y, b.shape()), transpose };
            let mut sums =
                product(&operands, &sizes, |sum, x: i128, y| *sum = sum.wrapping_add(x.wrapping_mul(y)))?;
            for index in 2..4 {
                if let Some(more) = inputs.get(index) {
                    let more = more.broadcast(&output.shape)?.wholes()?;
                    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.wrapping_add(more));
                }
            }
            return Ok(vec![Array::from_wholes(output.datatype, output.shape.clone(), sums)?]);
        }
        let (x, y) = (a.reals()?, b.reals()?);
        let operands = Product { a: (&x, a.shape()), b: (&y, b.shape()), transpose };
        let mut sums = product(&operands, &sizes, |sum, x, y| *sum += x * y)?;
        let alpha = f64::from(self.alpha);
        sums.iter_mut().for_each(|sum| *sum *= alpha);
        for index in 2..4 {
            if let Some(more) = inputs.get(index) {
                let more = more.broadcast(&output.shape)?.reals()?;
                sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
        }
        finish(&mut sums, self.activation);
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), sums)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, _: &[Fact]) -> u64 {
        let (Some(a), Some(b)) = (inputs.get(0), inputs.get(1)) else { return 0 };
        Sizes::of(&a.shape, &b.shape, (self.transpose_a, self.transpose_b)).map_or(0, |sizes| sizes.work())
    }
}
