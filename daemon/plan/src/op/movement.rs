//! Operators that move elements and compute nothing.

use agentd_types::Datatype;

use super::{Inputs, Rule, conv::one, need_type, same_type};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    shape::{self, Walk},
};

/// The same elements in another shape. Input: x. Output: shape `shape`, of as many elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshape {
    /// The output's shape.
    pub shape: Vec<usize>,
}

impl Rule for Reshape {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        if shape::count(&self.shape)? != x.elements() {
            return Err(PlanError::shape(format!("{:?} does not reshape to {:?}", x.shape, self.shape)));
        }
        Ok(vec![x.shaped(self.shape.clone())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        Ok(vec![inputs.need(0)?.reshaped(self.shape.clone())?])
    }
}

/// Axes in another order. Input: x. Output: axis `i` is x's axis `perm[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transpose {
    /// A permutation of the axes.
    pub perm: Vec<usize>,
}

/// `items` of `shape` by a permutation.
fn permute(items: &[usize], perm: &[usize]) -> Vec<usize> {
    perm.iter().filter_map(|axis| items.get(*axis).copied()).collect()
}

/// `x` with its axes in the order `perm`.
pub(crate) fn transposed(x: &Array, perm: &[usize]) -> Result<Array, PlanError> {
    let shape = permute(x.shape(), perm);
    if perm.is_sorted() {
        return Ok(x.clone());
    }
    let steps = permute(&shape::strides(x.shape()), perm);
    x.pick(shape.clone(), Walk::forward(&shape, &steps))
}

impl Rule for Transpose {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..x.rank()) {
            return Err(PlanError::attribute(format!(
                "{:?} is no permutation of {} axes",
                self.perm,
                x.rank()
            )));
        }
        Ok(vec![x.shaped(permute(&x.shape, &self.perm))])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        Ok(vec![transposed(inputs.need(0)?, &self.perm)?])
    }
}

/// Tensors one after the other along an axis. Inputs: one or more, of one datatype, alike but along `axis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

impl Rule for Concat {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        let first = inputs.need(0)?;
        let mut shape = first.shape.clone();
        let mut total = 0_usize;
        for fact in inputs.all()? {
            same_type(first, fact)?;
            let alike = fact.rank() == first.rank()
                && fact
                    .shape
                    .iter()
                    .zip(&first.shape)
                    .enumerate()
                    .all(|(axis, (a, b))| axis == self.axis || a == b);
            let size = fact.shape.get(self.axis).filter(|_| alike);
            let size = size.ok_or_else(|| {
                PlanError::shape(format!(
                    "{:?} and {:?} joined along axis {}",
                    first.shape, fact.shape, self.axis
                ))
            })?;
            total = total.saturating_add(*size);
        }
        if let Some(dim) = shape.get_mut(self.axis) {
            *dim = total;
        }
        Ok(vec![first.shaped(shape)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (parts, output) = (inputs.all()?, one(outputs)?);
        let outer: usize = output.shape.iter().take(self.axis).product();
        let mut starts = Vec::with_capacity(parts.len());
        let mut start = 0;
        for part in &parts {
            starts.push((start, part.len().checked_div(outer).unwrap_or(0)));
            start += part.len();
        }
        let places = (0..outer).flat_map(|row| {
            starts.iter().flat_map(move |(start, size)| start + row * size..start + (row + 1) * size)
        });
        Ok(vec![Array::chain(&parts)?.pick(output.shape.clone(), places)?])
    }
}

/// Every so many elements of a part. Input: x. Output: `sizes[i]` elements along axis i, from `starts[i]` on, `steps[i]`
/// apart (steps may be negative).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The first index along each axis.
    pub starts: Vec<usize>,
    /// The length along each axis.
    pub sizes: Vec<usize>,
    /// The step along each axis; not 0.
    pub steps: Vec<isize>,
}

impl Rule for Slice {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        let rank = x.rank();
        let axes = x.shape.iter().zip(&self.starts).zip(self.sizes.iter().zip(&self.steps));
        let inside = axes.into_iter().all(|((dim, start), (size, step))| {
            let Some(moves) = size.checked_sub(1) else { return true };
            let moved = isize::try_from(moves).ok().and_then(|moves| moves.checked_mul(*step));
            let last = moved.and_then(|moved| start.checked_add_signed(moved));
            *step != 0 && start < dim && last.is_some_and(|last| last < *dim)
        });
        if [self.starts.len(), self.sizes.len(), self.steps.len()] != [rank; 3] || !inside {
            return Err(PlanError::shape(format!("slice {self:?} of {:?}", x.shape)));
        }
        Ok(vec![x.shaped(self.sizes.clone())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let strides = shape::strides(x.shape());
        let offset: usize = strides.iter().zip(&self.starts).map(|(stride, start)| stride * start).sum();
        let steps = strides.iter().zip(&self.steps).map(|(stride, step)| stride.cast_signed() * step);
        let walk = Walk::new(&output.shape, steps, offset.cast_signed());
        Ok(vec![x.pick(output.shape.clone(), walk)?])
    }
}

/// What stands in the padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadMode {
    /// The value of input 1, or 0.
    Constant,
    /// The elements mirrored, the border one not repeated.
    Reflect,
    /// The border element.
    Edge,
    /// The elements from the other end.
    Wrap,
}

/// More elements at the borders, or fewer. Inputs: x, and for `Constant` one element of x's datatype or absent.
///
/// Output: axis i has `before[i] + x + after[i]` elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pad {
    /// What stands there.
    pub mode: PadMode,
    /// Elements before each axis; negative ones are cut off.
    pub before: Vec<isize>,
    /// Elements after each axis; negative ones are cut off.
    pub after: Vec<isize>,
}

impl Rule for Pad {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=2)?;
        let x = inputs.need(0)?;
        if let Some(fill) = inputs.get(1) {
            same_type(x, fill)?;
            if fill.elements() != 1 {
                return Err(PlanError::shape("padding with other than one element"));
            }
        }
        let fault =
            || PlanError::shape(format!("padding {:?} by {:?} and {:?}", x.shape, self.before, self.after));
        if [self.before.len(), self.after.len()] != [x.rank(); 2] {
            return Err(fault());
        }
        let padded = x.shape.iter().zip(self.before.iter().zip(&self.after)).map(|(dim, (before, after))| {
            let empty = *dim == 0 && self.mode != PadMode::Constant && (*before > 0 || *after > 0);
            dim.checked_add_signed(*before)?.checked_add_signed(*after).filter(|_| !empty)
        });
        Ok(vec![x.shaped(padded.collect::<Option<Vec<_>>>().ok_or_else(fault)?)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let zero = Array::zeros(x.datatype(), [])?;
        let fill = inputs.get(1).unwrap_or(&zero);
        let strides = shape::strides(x.shape());
        // For each axis and index of the output, where it comes from.
        let sources: Vec<Vec<Option<usize>>> = output
            .shape
            .iter()
            .zip(x.shape().iter().zip(&self.before))
            .map(|(size, (dim, before))| (0..*size).map(|at| self.source(at, *before, *dim)).collect())
            .collect();
        let mut place = vec![0_usize; output.rank()];
        let places = (0..output.elements()).map(|_| {
            let spots = place.iter().zip(&sources).map(|(at, source)| source.get(*at).copied().flatten());
            let offset = spots.zip(&strides).try_fold(0, |sum, (spot, stride)| Some(sum + spot? * stride));
            advance(&mut place, &output.shape);
            offset
        });
        Ok(vec![x.pick_or(fill, output.shape.clone(), places)?])
    }
}

impl Pad {
    /// Where in an axis of length `dim` the element at place `at` of the output comes from; `None` for the fill.
    pub fn source(&self, at: usize, before: isize, dim: usize) -> Option<usize> {
        let at = at.cast_signed() - before;
        let size = dim.cast_signed();
        if (0..size).contains(&at) {
            return usize::try_from(at).ok();
        }
        let source = match self.mode {
            PadMode::Constant => return None,
            PadMode::Edge => at.clamp(0, size - 1),
            PadMode::Wrap => at.rem_euclid(size),
            PadMode::Reflect if size == 1 => 0,
            PadMode::Reflect => {
                let period = 2 * (size - 1);
                let at = at.rem_euclid(period);
                if at < size { at } else { period - at }
            }
        };
        usize::try_from(source).ok()
    }
}

/// The next place in row-major order.
pub(crate) fn advance(place: &mut [usize], shape: &[usize]) {
    for (at, dim) in place.iter_mut().zip(shape).rev() {
        *at += 1;
        if *at < *dim {
            return;
        }
        *at = 0;
    }
}

/// Broadcast. Input: x, which broadcasts to `shape`. Output: shape `shape`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expand {
    /// The output's shape.
    pub shape: Vec<usize>,
}

impl Rule for Expand {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        let _steps = shape::broadcast_strides(&x.shape, &self.shape)?;
        Ok(vec![x.shaped(self.shape.clone())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        Ok(vec![inputs.need(0)?.broadcast(&self.shape)?])
    }
}

/// Repetition. Input: x. Output: axis i repeated `repeats[i]` times as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// How often along each axis.
    pub repeats: Vec<usize>,
}

impl Rule for Tile {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        if self.repeats.len() != x.rank() {
            return Err(PlanError::shape(format!("{:?} repeated {:?} times", x.shape, self.repeats)));
        }
        let tiled = x.shape.iter().zip(&self.repeats).map(|(dim, times)| dim.saturating_mul(*times));
        Ok(vec![x.shaped(tiled.collect::<Vec<_>>())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        // Each axis becomes two, (times, dim), of which the first stands still.
        let strides = shape::strides(x.shape());
        let shape: Vec<usize> =
            self.repeats.iter().zip(x.shape()).flat_map(|(times, dim)| [*times, *dim]).collect();
        let steps: Vec<usize> = strides.iter().flat_map(|stride| [0, *stride]).collect();
        Ok(vec![x.pick(output.shape.clone(), Walk::forward(&shape, &steps))?])
    }
}

/// A triangle of each matrix, zeros elsewhere. Input: x `[.., M, N]`. Output: the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trilu {
    /// The upper triangle, not the lower.
    pub upper: bool,
    /// Diagonals by which the border is moved up.
    pub diagonal: i64,
}

impl Rule for Trilu {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        if x.rank() < 2 {
            return Err(PlanError::shape("a triangle of no matrix"));
        }
        Ok(vec![x.clone()])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let x = inputs.need(0)?;
        let [.., rows, columns] = x.shape() else { return Err(PlanError::shape("a triangle of no matrix")) };
        let places = (0..x.len()).map(|at| {
            let (row, column) = (at / columns % rows, at % columns);
            let ahead = i128::try_from(column).unwrap_or(0) - i128::try_from(row).unwrap_or(0);
            let diagonal = i128::from(self.diagonal);
            let inside = if self.upper { ahead >= diagonal } else { ahead <= diagonal };
            inside.then_some(at)
        });
        Ok(vec![x.pick_or(&Array::zeros(x.datatype(), [])?, x.shape(), places)?])
    }
}

/// The first elements of each sequence in reverse order. Inputs: x, lengths `[batch]` as `INT64`. Output: x's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReverseSequence {
    /// The axis that counts sequences.
    pub batch_axis: usize,
    /// The axis along which they run.
    pub time_axis: usize,
}

impl Rule for ReverseSequence {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (x, lengths) = (inputs.need(0)?, inputs.need(1)?);
        need_type(lengths, Datatype::Int64)?;
        let batch = x.shape.get(self.batch_axis).filter(|_| self.time_axis < x.rank());
        let batch = batch.ok_or_else(|| PlanError::attribute("an axis that does not exist"))?;
        super::need_shape(lengths, &[*batch])?;
        Ok(vec![x.clone()])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, _: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, lengths) = (inputs.need(0)?, inputs.need(1)?.ints()?);
        let time = x.shape().get(self.time_axis).copied().unwrap_or(0);
        if let Some(length) =
            lengths.iter().find(|length| !usize::try_from(**length).is_ok_and(|length| length <= time))
        {
            return Err(PlanError::value(format!("a sequence of length {length} in {time}")));
        }
        let strides = shape::strides(x.shape());
        let along = |at: usize, axis: usize| {
            let (stride, dim) =
                (strides.get(axis).copied().unwrap_or(1), x.shape().get(axis).copied().unwrap_or(1));
            (at / stride % dim, stride)
        };
        let places = (0..x.len()).map(|at| {
            let (batch, _) = along(at, self.batch_axis);
            let (time, stride) = along(at, self.time_axis);
            let length = usize::try_from(lengths.get(batch).copied().unwrap_or(0)).unwrap_or(0);
            if time < length { (at - time * stride) + (length - 1 - time) * stride } else { at }
        });
        Ok(vec![x.pick(x.shape(), places)?])
    }
}

/// Overlapping blocks added into an image. Input: x `[N, C * taps, blocks]`. Output: `[N, C, image..]`. Floats.
#[derive(Clone, Debug, PartialEq)]
pub struct Col2Im {
    /// The window by which the image was cut into blocks.
    pub window: super::Window,
    /// Spatial size of the image.
    pub image: Vec<usize>,
}

impl Rule for Col2Im {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        super::need_float(x)?;
        let _count = shape::count(&self.image)?;
        let blocks = shape::count(&self.window.output(&self.image)?)?;
        let ([n, rows, columns], taps) = (x.shape.as_slice(), self.window.taps()) else {
            return Err(PlanError::shape("blocks of other than three axes"));
        };
        if *columns != blocks || rows % taps != 0 {
            return Err(PlanError::shape(format!("blocks {:?} of an image of {:?}", x.shape, self.image)));
        }
        let mut shape = vec![*n, rows / taps];
        shape.extend(&self.image);
        Ok(vec![x.shaped(shape)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let (cube, taps) = (self.window.cube(), self.window.taps());
        let size = super::window::cube_shape(&output.shape);
        let plane: usize = size.iter().product();
        let mut blocks = [1; 3];
        for (slot, dim) in blocks.iter_mut().rev().zip(self.window.output(&self.image)?.iter().rev()) {
            *slot = *dim;
        }
        let per_row: usize = blocks.iter().product();
        let [_, ky, kx] = cube.kernel;
        let mut sums = vec![0.0; output.elements()];
        for (at, item) in x.reals()?.into_iter().enumerate() {
            let (row, block) = (at / per_row, at % per_row);
            let (channel, tap) = (row / taps, row % taps);
            let place = (
                cube.place(0, block / (blocks[1] * blocks[2]), tap / (ky * kx), size[0]),
                cube.place(1, block / blocks[2] % blocks[1], tap / kx % ky, size[1]),
                cube.place(2, block % blocks[2], tap % kx, size[2]),
            );
            if let (Some(z), Some(y), Some(column)) = place
                && let Some(sum) = sums.get_mut(channel * plane + (z * size[1] + y) * size[2] + column)
            {
                *sum += item;
            }
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), sums)?])
    }
}
