//! Sampling at computed places, regions of interest, determinants, Fourier transforms.

use agentd_types::Datatype;

use super::{
    Inputs, Rule,
    conv::{leading, one},
    need_float, need_shape, need_type, same_type,
    window::cube_shape,
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    shape,
};

/// Samples an image between its elements, zero outside.
#[expect(clippy::cast_possible_truncation, reason = "places are checked to lie near the image")]
pub(crate) fn bilinear(image: &[f64], (height, width): (usize, usize), (y, x): (f64, f64)) -> f64 {
    let read = |y: i64, x: i64| match (usize::try_from(y), usize::try_from(x)) {
        (Ok(y), Ok(x)) if y < height && x < width => image.get(y * width + x).copied().unwrap_or(0.0),
        _ => 0.0,
    };
    if !(y.abs() < 1e9 && x.abs() < 1e9) {
        return 0.0;
    }
    let (top, left) = (y.floor(), x.floor());
    let (dy, dx) = (y - top, x - left);
    let (top, left) = (top as i64, left as i64);
    read(top, left) * (1.0 - dy) * (1.0 - dx)
        + read(top, left + 1) * (1.0 - dy) * dx
        + read(top + 1, left) * dy * (1.0 - dx)
        + read(top + 1, left + 1) * dy * dx
}

/// How samples between elements are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// The nearest element, halves to even.
    Nearest,
    /// Between two along each axis.
    Linear,
    /// Between four along each axis, Keys' kernel with -0.75.
    Cubic,
}

/// What lies outside of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Zeros.
    Zeros,
    /// The border's elements.
    Border,
    /// The image mirrored.
    Reflection,
}

/// Samples at given places. Inputs: x `[N, C, spatial..]`, grid `[N, output.., spatial rank]` of places from -1 to 1, the
/// last axis first. Output: `[N, C, output..]`. Floats, one to three spatial axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridSample {
    /// How samples are found.
    pub sampling: Sampling,
    /// What lies outside.
    pub outside: Outside,
    /// -1 and 1 are the centres of the border elements, not their outer edges.
    pub align_corners: bool,
}

impl GridSample {
    #[expect(clippy::cast_precision_loss, reason = "lengths are below 2^30")]
    fn place(self, x: f64, size: usize) -> f64 {
        let size = size as f64;
        if self.align_corners { (x + 1.0) / 2.0 * (size - 1.0) } else { ((x + 1.0) * size - 1.0) / 2.0 }
    }

    /// An element's index after mirroring or clamping; `None` in the zeros.
    fn index(self, place: f64, size: usize) -> Option<usize> {
        #[expect(clippy::cast_precision_loss, reason = "lengths are below 2^30")]
        let last = size as f64 - 1.0;
        let place = match self.outside {
            Outside::Zeros if !(0.0..=last).contains(&place) => return None,
            Outside::Zeros => place,
            Outside::Border => place.clamp(0.0, last),
            Outside::Reflection if self.align_corners => mirrored(place, 0.0, last),
            Outside::Reflection => mirrored(place, -0.5, last + 0.5),
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the axis")]
        let index = place.round().clamp(0.0, last) as usize;
        Some(index)
    }

    /// Elements along one axis with their weights.
    fn taps(self, x: f64, size: usize) -> Vec<(Option<usize>, f64)> {
        #[expect(clippy::cast_precision_loss, reason = "lengths are below 2^30")]
        let last = size as f64 - 1.0;
        let mut place = self.place(x, size);
        if !place.is_finite() || place.abs() > 1e9 {
            place = if self.outside == Outside::Zeros { -1e6 } else { 0.0 };
        }
        // For linear sampling the place itself is moved inside; for the nearest and cubic each tap is.
        if self.sampling != Sampling::Cubic {
            place = match self.outside {
                Outside::Zeros => place,
                Outside::Border => place.clamp(0.0, last),
                Outside::Reflection if self.align_corners => mirrored(place, 0.0, last).clamp(0.0, last),
                Outside::Reflection => mirrored(place, -0.5, last + 0.5).clamp(0.0, last),
            };
        }
        let (whole, part) = (place.floor(), place - place.floor());
        let tap = |ahead: f64, weight: f64| (self.index(whole + ahead, size), weight);
        match self.sampling {
            Sampling::Nearest => vec![(self.index(place.round_ties_even(), size), 1.0)],
            Sampling::Linear => vec![tap(0.0, 1.0 - part), tap(1.0, part)],
            Sampling::Cubic => {
                let weight = |x: f64| super::resize::keys(x, -0.75);
                [-1.0, 0.0, 1.0, 2.0].into_iter().map(|ahead| tap(ahead, weight(ahead - part))).collect()
            }
        }
    }
}

/// `x` mirrored at both ends until it lies between them.
fn mirrored(x: f64, low: f64, high: f64) -> f64 {
    let span = high - low;
    if span <= 0.0 {
        return low;
    }
    let turned = (x - low).rem_euclid(2.0 * span);
    low + if turned > span { 2.0 * span - turned } else { turned }
}

impl Rule for GridSample {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (x, grid) = (inputs.need(0)?, inputs.need(1)?);
        need_float(x)?;
        need_float(grid)?;
        let spatial = x.rank().saturating_sub(2);
        let fits = (1..=3).contains(&spatial)
            && grid.rank() == x.rank()
            && grid.shape.first() == x.shape.first()
            && grid.shape.last() == Some(&spatial);
        if !fits || (x.elements() == 0) {
            return Err(PlanError::shape(format!("samples of {:?} at {:?}", x.shape, grid.shape)));
        }
        let (n, c) = leading(&x.shape).unwrap_or((0, 0));
        let places = grid.shape.get(1..=spatial).unwrap_or_default();
        Ok(vec![x.shaped([&[n, c], places].concat())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, grid, output) = (inputs.need(0)?, inputs.need(1)?.reals()?, one(outputs)?);
        let spatial = x.shape().len() - 2;
        let size = cube_shape(x.shape());
        let plane: usize = size.iter().product();
        let per_image: usize = output.shape.iter().skip(2).product();
        let (_, channels) = leading(x.shape()).unwrap_or((0, 0));
        let items = x.reals()?;
        let mut samples = Vec::with_capacity(output.elements());
        for at in 0..output.elements() {
            let (image, place) = (at / per_image, at % per_image);
            let point = (image / channels * per_image + place) * spatial;
            let axis = |back: usize| {
                let size = size.get(2 - back).copied().unwrap_or(1);
                match grid.get(point + back).filter(|_| back < spatial) {
                    Some(x) => self.taps(*x, size),
                    None => vec![(Some(0), 1.0)],
                }
            };
            let (xs, ys, zs) = (axis(0), axis(1), axis(2));
            let mut sum = 0.0;
            for (z, wz) in &zs {
                for (y, wy) in &ys {
                    for (x, wx) in &xs {
                        let (Some(z), Some(y), Some(x)) = (z, y, x) else { continue };
                        let offset = image * plane + (z * size[1] + y) * size[2] + x;
                        sum += items.get(offset).copied().unwrap_or(0.0) * wz * wy * wx;
                    }
                }
            }
            samples.push(sum);
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), samples)?])
    }

    fn work(&self, _: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        outputs.first().map_or(0, |output| output.elements() as u64).saturating_mul(64)
    }
}

/// Sampling places of an affine map. Input: theta `[N, r, r + 1]` for r = 2 or 3 axes. Output: `[N, size.., r]`, for
/// [`GridSample`]. Floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffineGrid {
    /// The spatial size.
    pub size: Vec<usize>,
    /// -1 and 1 are the centres of the border elements.
    pub align_corners: bool,
}

impl Rule for AffineGrid {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let theta = inputs.need(0)?;
        need_float(theta)?;
        let rank = self.size.len();
        let batch = theta.shape.first().copied().unwrap_or(0);
        need_shape(theta, &[batch, rank, rank + 1])?;
        Ok(vec![theta.shaped([&[batch], self.size.as_slice(), &[rank]].concat())])
    }

    #[expect(clippy::cast_precision_loss, reason = "lengths are below 2^30")]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (theta, output) = (inputs.need(0)?.reals()?, one(outputs)?);
        let rank = self.size.len();
        let steps = shape::strides(&self.size);
        let per_image: usize = self.size.iter().product();
        let items = (0..output.elements()).map(|at| {
            let (row, point) = (at % rank, at / rank);
            let (image, point) = (point / per_image, point % per_image);
            let factors = theta.get((image * rank + row) * (rank + 1)..).unwrap_or_default();
            let axes = self.size.iter().zip(&steps).rev().map(|(size, step)| {
                let (place, size) = ((point / step % size) as f64, *size as f64);
                match self.align_corners {
                    true if size > 1.0 => 2.0 * place / (size - 1.0) - 1.0,
                    true => 0.0,
                    false => (2.0 * place + 1.0) / size - 1.0,
                }
            });
            axes.chain([1.0]).zip(factors).map(|(place, factor)| place * factor).sum()
        });
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items.collect())?])
    }
}

/// Regions pooled by interpolation.
///
/// Inputs: x `[N, C, H, W]`, regions `[R, 4]` (x1, y1, x2, y2), images `[R]` as `INT64`. Output: `[R, C, height, width]`.
///
/// Source: He et al., "Mask R-CNN" (2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiAlign {
    /// The output's height and width.
    pub size: (usize, usize),
    /// Multiplies the regions' coordinates.
    pub scale: f32,
    /// Samples along each axis of a bin; 0 for as many as it has elements.
    pub samples: usize,
    /// Half an element is taken off coordinates.
    pub half_pixel: bool,
    /// The largest (of weighted corners) and not the mean.
    pub max: bool,
}

impl Rule for RoiAlign {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(3..=3)?;
        let (x, regions, images) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        need_float(x)?;
        same_type(x, regions)?;
        need_type(images, Datatype::Int64)?;
        let count = images.shape.first().copied().unwrap_or(0);
        need_shape(images, &[count])?;
        need_shape(regions, &[count, 4])?;
        let [_, c, _, _] = x.shape.as_slice() else { return Err(PlanError::shape("regions of no image")) };
        if self.samples > 1 << 10 {
            return Err(PlanError::attribute("more than 1024 samples a bin"));
        }
        Ok(vec![x.shaped([count, *c, self.size.0, self.size.1])])
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "places are bounded by the image, samples by 1024"
    )]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, regions, images) = (inputs.need(0)?, inputs.need(1)?.reals()?, inputs.need(2)?.ints()?);
        let output = one(outputs)?;
        let [_, height, width] = cube_shape(x.shape());
        let (batch, channels) = leading(x.shape()).unwrap_or((0, 0));
        let plane = height * width;
        let items = x.reals()?;
        let mut pooled = Vec::with_capacity(output.elements());
        for at in 0..output.elements() {
            let (bin_x, bin_y) = (at % self.size.1, at / self.size.1 % self.size.0);
            let (channel, region) =
                (at / self.size.1 / self.size.0 % channels, at / self.size.1 / self.size.0 / channels);
            let image = super::gather::resolve(images.get(region).copied().unwrap_or(0), batch)?;
            let bounds = regions.get(region * 4..region * 4 + 4).unwrap_or_default();
            let shift = if self.half_pixel { 0.5 } else { 0.0 };
            let bound =
                |index: usize| bounds.get(index).copied().unwrap_or(0.0) * f64::from(self.scale) - shift;
            let (left, top) = (bound(0), bound(1));
            let (mut wide, mut high) = (bound(2) - left, bound(3) - top);
            if !self.half_pixel {
                (wide, high) = (wide.max(1.0), high.max(1.0));
            }
            let (step_x, step_y) = (wide / self.size.1 as f64, high / self.size.0 as f64);
            let count = |step: f64| {
                if self.samples > 0 { self.samples } else { step.ceil().clamp(0.0, 1024.0) as usize }
            };
            let (nx, ny) = (count(step_x), count(step_y));
            let start = (image * channels + channel) * plane;
            let picture = items.get(start..start + plane).unwrap_or_default();
            let (mut sum, mut best) = (0.0, f64::NEG_INFINITY);
            for iy in 0..ny {
                let y = top + (bin_y as f64 + (iy as f64 + 0.5) / ny as f64) * step_y;
                for ix in 0..nx {
                    let x = left + (bin_x as f64 + (ix as f64 + 0.5) / nx as f64) * step_x;
                    let corners = corners(picture, (height, width), (y, x));
                    sum += corners.iter().sum::<f64>();
                    best = corners.iter().fold(best, |a, b| a.max(*b));
                }
            }
            let samples = (nx * ny).max(1) as f64;
            pooled.push(match self.max {
                true if nx * ny > 0 => best,
                true => 0.0,
                false => sum / samples,
            });
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), pooled)?])
    }

    fn work(&self, _: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        let samples = if self.samples == 0 { 64 } else { self.samples as u64 };
        outputs.first().map_or(0, |output| output.elements() as u64).saturating_mul(samples * samples)
    }
}

/// The four weighted corners around a place; zeros more than one element outside.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the image"
)]
fn corners(image: &[f64], (height, width): (usize, usize), (y, x): (f64, f64)) -> [f64; 4] {
    if !(-1.0..=height as f64).contains(&y) || !(-1.0..=width as f64).contains(&x) || image.is_empty() {
        return [0.0; 4];
    }
    let axis = |place: f64, size: usize| {
        let place = place.max(0.0);
        let low = place.floor() as usize;
        if low + 1 >= size { (size - 1, size - 1, 0.0) } else { (low, low + 1, place - low as f64) }
    };
    let ((top, bottom, dy), (left, right, dx)) = (axis(y, height), axis(x, width));
    let read = |y: usize, x: usize| image.get(y * width + x).copied().unwrap_or(0.0);
    [
        read(top, left) * (1.0 - dy) * (1.0 - dx),
        read(top, right) * (1.0 - dy) * dx,
        read(bottom, left) * dy * (1.0 - dx),
        read(bottom, right) * dy * dx,
    ]
}

/// Regions pooled by maximum. Inputs: x `[N, C, H, W]`, regions `[R, 5]` (image, x1, y1, x2, y2). Output:
/// `[R, C, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiMaxPool {
    /// The output's height and width.
    pub size: (usize, usize),
    /// Multiplies the regions' coordinates.
    pub scale: f32,
}

impl Rule for RoiMaxPool {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=2)?;
        let (x, regions) = (inputs.need(0)?, inputs.need(1)?);
        need_float(x)?;
        same_type(x, regions)?;
        let ([_, c, _, _], [count, 5]) = (x.shape.as_slice(), regions.shape.as_slice()) else {
            return Err(PlanError::shape("regions of other than five numbers, or of no image"));
        };
        Ok(vec![x.shaped([*count, *c, self.size.0, self.size.1])])
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "places are clamped to the image"
    )]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, regions, output) = (inputs.need(0)?, inputs.need(1)?.reals()?, one(outputs)?);
        let [_, height, width] = cube_shape(x.shape());
        let (batch, channels) = leading(x.shape()).unwrap_or((0, 0));
        let items = x.reals()?;
        let mut pooled = Vec::with_capacity(output.elements());
        for at in 0..output.elements() {
            let (bin_x, bin_y) = (at % self.size.1, at / self.size.1 % self.size.0);
            let (channel, region) =
                (at / self.size.1 / self.size.0 % channels, at / self.size.1 / self.size.0 / channels);
            let number = |index: usize| regions.get(region * 5 + index).copied().unwrap_or(0.0);
            let image = super::gather::resolve(number(0) as i64, batch)?;
            let edge = |index| (number(index) * f64::from(self.scale)).round();
            let (left, top) = (edge(1), edge(2));
            let (wide, high) = ((edge(3) - left + 1.0).max(1.0), (edge(4) - top + 1.0).max(1.0));
            let range = |bin: usize, bins: usize, start: f64, length: f64, size: usize| {
                let step = length / bins as f64;
                let clamp = |place: f64| (place + start).clamp(0.0, size as f64) as usize;
                clamp((bin as f64 * step).floor())..clamp(((bin + 1) as f64 * step).ceil())
            };
            let first = (image * channels + channel) * height * width;
            let mut best: Option<f64> = None;
            for y in range(bin_y, self.size.0, top, high, height) {
                for x in range(bin_x, self.size.1, left, wide, width) {
                    let item = items.get(first + y * width + x).copied().unwrap_or(0.0);
                    best = Some(best.map_or(item, |best| best.max(item)));
                }
            }
            pooled.push(best.unwrap_or(0.0));
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), pooled)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        let plane = inputs.get(0).map_or(0, |x| x.shape.iter().skip(2).product::<usize>()) as u64;
        outputs.first().map_or(0, |output| output.elements() as u64).saturating_mul(plane)
    }
}

/// Determinants. Input: x `[.., n, n]`. Output: `[..]`. Floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Det;

impl Rule for Det {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        need_float(x)?;
        match x.shape.as_slice() {
            [batch @ .., rows, columns] if rows == columns => Ok(vec![x.shaped(batch)]),
            _ => Err(PlanError::shape("the determinant of no square matrix")),
        }
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let n = x.shape().last().copied().unwrap_or(0);
        let items = x.reals()?;
        let list = (0..output.elements())
            .map(|at| determinant(items.get(at * n * n..(at + 1) * n * n).unwrap_or_default(), n));
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), list.collect())?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, _: &[Fact]) -> u64 {
        let Some(x) = inputs.get(0) else { return 0 };
        (x.elements() as u64).saturating_mul(x.shape.last().copied().unwrap_or(1) as u64)
    }
}

/// By Gaussian elimination with row exchange.
fn determinant(matrix: &[f64], n: usize) -> f64 {
    let mut rows: Vec<Vec<f64>> = matrix.chunks(n.max(1)).map(<[f64]>::to_vec).collect();
    let mut product = 1.0;
    for column in 0..n {
        let size = |row: &Vec<f64>| row.get(column).copied().unwrap_or(0.0).abs();
        let best = (column..n).max_by(|a, b| {
            let (a, b) = (rows.get(*a).map_or(0.0, size), rows.get(*b).map_or(0.0, size));
            a.total_cmp(&b)
        });
        let Some(best) = best else { return product };
        if best != column {
            rows.swap(best, column);
            product = -product;
        }
        let Some(pivot) = rows.get(column).cloned() else { return product };
        let head = pivot.get(column).copied().unwrap_or(0.0);
        product *= head;
        if head == 0.0 {
            return 0.0;
        }
        for row in rows.iter_mut().skip(column + 1) {
            let factor = row.get(column).copied().unwrap_or(0.0) / head;
            row.iter_mut().zip(&pivot).for_each(|(item, pivot)| *item -= factor * pivot);
        }
    }
    product
}

/// Discrete Fourier transform along an axis. Input: x `[.., 1 or 2]`, the last axis real (and imaginary) parts. Output: the
/// same with `axis` of the transform's length (or half of it and one), and two parts. Floats. Quadratic in the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fourier {
    /// The axis, not the last.
    pub axis: usize,
    /// The transform's length; x is cut or filled with zeros to it.
    pub length: usize,
    /// Backwards, divided by the length.
    pub inverse: bool,
    /// Only the first half of the output, which determines the rest of a real signal's; backwards: x is that half and
    /// the output is real.
    pub one_sided: bool,
}

impl Rule for Fourier {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        need_float(x)?;
        let mut shape = x.shape.clone();
        let parts = shape.last().copied().unwrap_or(0);
        if !(1..=2).contains(&parts)
            || self.axis + 1 >= shape.len()
            || self.length == 0
            || self.length > 1 << 20
        {
            return Err(PlanError::shape(format!("transform of {:?} along {}", x.shape, self.axis)));
        }
        let half = self.one_sided && !self.inverse;
        if let Some(dim) = shape.get_mut(self.axis) {
            *dim = if half { self.length / 2 + 1 } else { self.length };
        }
        if let Some(dim) = shape.last_mut() {
            *dim = if self.one_sided && self.inverse { 1 } else { 2 };
        }
        Ok(vec![x.shaped(shape)])
    }

    #[expect(clippy::cast_precision_loss, reason = "lengths are at most 2^20")]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let items = x.reals()?;
        let parts = x.shape().last().copied().unwrap_or(1);
        let out_parts = output.shape.last().copied().unwrap_or(2);
        let size = x.shape().get(self.axis).copied().unwrap_or(0);
        let out_size = output.shape.get(self.axis).copied().unwrap_or(0);
        let outer: usize = x.shape().iter().take(self.axis).product();
        let inner: usize = x.shape().iter().skip(self.axis + 1).rev().skip(1).product();
        let sign = if self.inverse { 1.0 } else { -1.0 };
        let n = self.length;
        let turns: Vec<(f64, f64)> =
            (0..n).map(|k| (sign * 2.0 * std::f64::consts::PI * k as f64 / n as f64).sin_cos()).collect();
        let read = |row: usize, place: usize, column: usize| {
            let at = |part: usize| {
                let found = items.get(((row * size + place) * inner + column) * parts + part);
                found.filter(|_| place < size && part < parts).copied().unwrap_or(0.0)
            };
            (at(0), at(1))
        };
        let mut list = vec![0.0; output.elements()];
        for row in 0..outer {
            for column in 0..inner {
                let signal: Vec<(f64, f64)> = (0..n)
                    .map(|place| {
                        // Backwards from half: the other half is its mirror, conjugated.
                        if self.one_sided && self.inverse && place > n / 2 {
                            let (re, im) = read(row, n - place, column);
                            (re, -im)
                        } else {
                            read(row, place, column)
                        }
                    })
                    .collect();
                for k in 0..out_size {
                    let (mut re, mut im) = (0.0, 0.0);
                    for (place, (a, b)) in signal.iter().enumerate() {
                        let (sin, cos) = turns.get(place * k % n).copied().unwrap_or((0.0, 1.0));
                        re += a * cos - b * sin;
                        im += a * sin + b * cos;
                    }
                    let scale = if self.inverse { 1.0 / n as f64 } else { 1.0 };
                    for (part, value) in [re * scale, im * scale].into_iter().take(out_parts).enumerate() {
                        if let Some(slot) =
                            list.get_mut(((row * out_size + k) * inner + column) * out_parts + part)
                        {
                            *slot = value;
                        }
                    }
                }
            }
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), list)?])
    }

    fn work(&self, _: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        outputs.first().map_or(0, |output| output.elements() as u64).saturating_mul(self.length as u64)
    }
}
