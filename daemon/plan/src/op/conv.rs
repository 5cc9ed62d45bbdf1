//! Convolutions.

use agentd_types::Datatype;

use super::{
    Inputs, Rule, Window, need_float, need_shape, same_type,
    unary::Unary,
    window::{Cube, cube_shape},
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
};

/// Convolution, then bias, then residual, then activation.
///
/// Inputs: x `[N, C, spatial..]`, w `[M, C / groups, kernel..]`, bias `[M]` or absent, residual of the output's shape or
/// absent (inputs 2 and 3 may be left out). Output: `[N, M, spatial..]`. Any float; all of one type.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Kernel size, strides, dilations and padding of the spatial axes.
    pub window: Window,
    /// Groups of channels that do not mix; divides C and M.
    pub groups: usize,
    /// Applied last.
    pub activation: Option<Unary>,
}

/// The checks that all convolutions share; gives the output's shape.
pub(crate) fn conv_shape(
    x: &Fact,
    w: &Fact,
    window: &Window,
    groups: usize,
) -> Result<Vec<usize>, PlanError> {
    let rank = window.rank() + 2;
    let fault =
        || PlanError::shape(format!("convolution of {:?} by {:?} in {groups} groups", x.shape, w.shape));
    let (Some((n, c)), Some((m, per_group))) = (leading(&x.shape), leading(&w.shape)) else {
        return Err(fault());
    };
    let fits = x.rank() == rank && w.rank() == rank && groups > 0 && c == per_group.saturating_mul(groups);
    if !fits || m % groups != 0 || w.shape.get(2..) != Some(window.kernel.as_slice()) {
        return Err(fault());
    }
    let mut shape = vec![n, m];
    shape.extend(window.output(x.shape.get(2..).unwrap_or_default())?);
    Ok(shape)
}

/// The first two dimensions.
pub(crate) fn leading(shape: &[usize]) -> Option<(usize, usize)> {
    Some((*shape.first()?, *shape.get(1)?))
}

/// Refuses a bias that is not `[channels]`.
pub(crate) fn check_bias(bias: Option<&Fact>, channels: usize) -> Result<(), PlanError> {
    bias.map_or(Ok(()), |bias| need_shape(bias, &[channels]))
}

impl Rule for Conv {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=4)?;
        let (x, w) = (inputs.need(0)?, inputs.need(1)?);
        need_float(x)?;
        for index in 1..4 {
            inputs.get(index).map_or(Ok(()), |fact| same_type(x, fact))?;
        }
        let output = x.shaped(conv_shape(x, w, &self.window, self.groups)?);
        check_bias(inputs.get(2), output.shape.get(1).copied().unwrap_or(0))?;
        inputs.get(3).map_or(Ok(()), |residual| need_shape(residual, &output.shape))?;
        Ok(vec![output])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, w) = (inputs.need(0)?, inputs.need(1)?);
        let output = one(outputs)?;
        let bias = inputs.get(2).map(Array::reals).transpose()?;
        let mut sums = convolve(&Operands {
            x: &x.reals()?,
            x_shape: x.shape(),
            w: &w.reals()?,
            bias: bias.as_deref(),
            output: &output.shape,
            window: &self.window,
            groups: self.groups,
        });
        if let Some(residual) = inputs.get(3) {
            sums.iter_mut().zip(residual.reals()?).for_each(|(sum, more)| *sum += more);
        }
        finish(&mut sums, self.activation);
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), sums)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        conv_work(inputs.get(1), outputs)
    }
}

/// Multiply-adds of a convolution with weights `w`.
pub(crate) fn conv_work(w: Option<&Fact>, outputs: &[Fact]) -> u64 {
    let taps = w.map_or(1, |w| {
        w.shape.iter().skip(1).fold(1_u64, |product, dim| product.saturating_mul(*dim as u64))
    });
    outputs.first().map_or(0, |output| (output.elements() as u64).saturating_mul(taps))
}

/// Applies an activation to every element.
pub(crate) fn finish(items: &mut [f64], activation: Option<Unary>) {
    if let Some(activation) = activation {
        items.iter_mut().for_each(|item| *item = activation.apply(*item));
    }
}

/// The only output.
pub(crate) fn one(outputs: &[Fact]) -> Result<&Fact, PlanError> {
    outputs.first().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
}

/// What a convolution takes, as plain numbers whose shapes were checked.
pub(crate) struct Operands<'a> {
    pub(crate) x: &'a [f64],
    pub(crate) x_shape: &'a [usize],
    pub(crate) w: &'a [f64],
    pub(crate) bias: Option<&'a [f64]>,
    pub(crate) output: &'a [usize],
    pub(crate) window: &'a Window,
    pub(crate) groups: usize,
}

/// Convolves plane by plane: each tap adds a scaled, shifted input plane to an output plane.
pub(crate) fn convolve(this: &Operands<'_>) -> Vec<f64> {
    let cube = this.window.cube();
    let (size_in, size_out) = (cube_shape(this.x_shape), cube_shape(this.output));
    let (plane_in, plane_out): (usize, usize) = (size_in.iter().product(), size_out.iter().product());
    let (_, channels_in) = leading(this.x_shape).unwrap_or((0, 0));
    let (_, channels_out) = leading(this.output).unwrap_or((0, 0));
    let mut sums = vec![0.0; this.output.iter().product()];
    if plane_out == 0 || plane_in == 0 || channels_out == 0 || channels_in == 0 {
        fill_bias(&mut sums, this.bias, channels_out, plane_out);
        return sums;
    }
    let (per_in, per_out) = (channels_in / this.groups, channels_out / this.groups);
    let taps = this.window.taps();
    for (at, plane) in sums.chunks_exact_mut(plane_out).enumerate() {
        let (n, m) = (at / channels_out, at % channels_out);
        if let Some(bias) = this.bias.and_then(|bias| bias.get(m)) {
            plane.fill(*bias);
        }
        let first = n * channels_in + m / per_out * per_in;
        let planes = this.x.chunks_exact(plane_in).skip(first).take(per_in);
        let filters = this.w.chunks_exact(taps).skip(m * per_in);
        for (x, w) in planes.zip(filters) {
            add_plane(plane, x, w, &cube, size_in, size_out);
        }
    }
    sums
}

fn fill_bias(sums: &mut [f64], bias: Option<&[f64]>, channels: usize, plane: usize) {
    let Some(bias) = bias else { return };
    for (at, sum) in sums.iter_mut().enumerate() {
        *sum = bias.get(at / plane.max(1) % channels.max(1)).copied().unwrap_or_default();
    }
}

fn add_plane(sums: &mut [f64], x: &[f64], w: &[f64], cube: &Cube, size_in: [usize; 3], size_out: [usize; 3]) {
    let [kz, ky, kx] = cube.kernel;
    let [depth, height, width] = size_out;
    let mut taps = w.iter();
    for z in 0..kz {
        for y in 0..ky {
            for column in 0..kx {
                let Some(weight) = taps.next() else { return };
                for oz in 0..depth {
                    let Some(iz) = cube.place(0, oz, z, size_in[0]) else { continue };
                    for oy in 0..height {
                        let Some(iy) = cube.place(1, oy, y, size_in[1]) else { continue };
                        let row_in = (iz * size_in[1] + iy) * size_in[2];
                        let row_out = (oz * height + oy) * width;
                        let (Some(from), Some(to)) =
                            (x.get(row_in..row_in + size_in[2]), sums.get_mut(row_out..row_out + width))
                        else {
                            continue;
                        };
                        add_row(to, from, *weight, column, cube);
                    }
                }
            }
        }
    }
}

/// Adds `weight` times the elements of `from` that tap `tap` reads.
fn add_row(to: &mut [f64], from: &[f64], weight: f64, tap: usize, cube: &Cube) {
    let (stride, ahead, pad) = (cube.strides[2], tap * cube.dilations[2], cube.pads[2]);
    // The first window whose tap lies in the row, and where it lies.
    let first = pad.saturating_sub(ahead).div_ceil(stride);
    let Some(start) = (first * stride + ahead).checked_sub(pad) else { return };
    let (Some(to), Some(from)) = (to.get_mut(first..), from.get(start..)) else { return };
    if stride == 1 {
        to.iter_mut().zip(from).for_each(|(sum, item)| *sum += weight * item);
    } else {
        to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(sum, item)| *sum += weight * item);
    }
}

/// Transposed convolution, then bias, then activation.
///
/// Inputs: x `[N, C, spatial..]`, w `[C, M / groups, kernel..]`, bias `[M]` or absent. Output: `[N, M, output..]`. Any float.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvTranspose {
    /// The window of the convolution whose transpose this is; padding is cut off the output.
    pub window: Window,
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// Spatial size of the output; elements that no window reaches are the bias alone.
    pub output: Vec<usize>,
    /// Applied last.
    pub activation: Option<Unary>,
}

impl Rule for ConvTranspose {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(2..=3)?;
        let (x, w) = (inputs.need(0)?, inputs.need(1)?);
        need_float(x)?;
        same_type(x, w)?;
        self.window.check()?;
        let rank = self.window.rank() + 2;
        let fault = || PlanError::shape(format!("transposed convolution of {:?} by {:?}", x.shape, w.shape));
        let (Some((n, c)), Some((w_c, per_group))) = (leading(&x.shape), leading(&w.shape)) else {
            return Err(fault());
        };
        let fits =
            x.rank() == rank && w.rank() == rank && c == w_c && self.groups > 0 && c % self.groups == 0;
        if !fits || w.shape.get(2..) != Some(self.window.kernel.as_slice()) || self.output.len() != rank - 2 {
            return Err(fault());
        }
        let channels = per_group.checked_mul(self.groups).ok_or_else(fault)?;
        check_bias(inputs.get(2), channels)?;
        let mut shape = vec![n, channels];
        shape.extend(&self.output);
        Ok(vec![x.shaped(shape)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x_array, w) = (inputs.need(0)?, inputs.need(1)?.reals()?);
        let output = one(outputs)?;
        let x = x_array.reals()?;
        let cube = self.window.cube();
        let (size_in, size_out) = (cube_shape(x_array.shape()), cube_shape(&output.shape));
        let (plane_in, plane_out): (usize, usize) = (size_in.iter().product(), size_out.iter().product());
        let (batch, channels_in) = leading(x_array.shape()).unwrap_or((0, 0));
        let (_, channels_out) = leading(&output.shape).unwrap_or((0, 0));
        let (per_in, per_out) = (channels_in / self.groups, channels_out / self.groups);
        let mut sums = vec![0.0; output.elements()];
        let bias = inputs.get(2).map(Array::reals).transpose()?;
        fill_bias(&mut sums, bias.as_deref(), channels_out, plane_out);
        let taps = self.window.taps();
        for n in 0..batch {
            for c in 0..channels_in {
                let from = (n * channels_in + c) * plane_in;
                for m in 0..per_out {
                    let to = (n * channels_out + c / per_in * per_out + m) * plane_out;
                    let filter = (c * per_out + m) * taps;
                    if let (Some(x), Some(w), Some(sums)) = (
                        x.get(from..from + plane_in),
                        w.get(filter..filter + taps),
                        sums.get_mut(to..to + plane_out),
                    ) {
                        spread_plane(sums, x, w, &cube, size_in, size_out);
                    }
                }
            }
        }
        finish(&mut sums, self.activation);
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), sums)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        let taps = inputs.get(1).map_or(1, |w| w.shape.iter().skip(1).product::<usize>()) as u64;
        let spread = inputs.get(0).map_or(0, |x| (x.elements() as u64).saturating_mul(taps));
        spread.saturating_add(outputs.first().map_or(0, Fact::elements) as u64)
    }
}

fn spread_plane(
    sums: &mut [f64],
    x: &[f64],
    w: &[f64],
    cube: &Cube,
    size_in: [usize; 3],
    size_out: [usize; 3],
) {
    let [kz, ky, kx] = cube.kernel;
    for (at, item) in x.iter().enumerate() {
        let (iz, iy, ix) = (at / (size_in[1] * size_in[2]), at / size_in[2] % size_in[1], at % size_in[2]);
        let mut taps = w.iter();
        for z in 0..kz {
            for y in 0..ky {
                for column in 0..kx {
                    let Some(weight) = taps.next() else { return };
                    let place = (
                        cube.place(0, iz, z, size_out[0]),
                        cube.place(1, iy, y, size_out[1]),
                        cube.place(2, ix, column, size_out[2]),
                    );
                    if let (Some(oz), Some(oy), Some(ox)) = place
                        && let Some(sum) = sums.get_mut((oz * size_out[1] + oy) * size_out[2] + ox)
                    {
                        *sum += item * weight;
                    }
                }
            }
        }
    }
}

/// Deformable convolution over two spatial axes.
///
/// Inputs: x `[N, C, H, W]`, w `[M, C / groups, kH, kW]`, offset `[N, offset_groups * kH * kW * 2, oH, oW]`, bias `[M]`
/// or absent, mask `[N, offset_groups * kH * kW, oH, oW]` or absent. Output: `[N, M, oH, oW]`. Any float.
///
/// Source: Zhu et al., "Deformable ConvNets v2" (2018); sampling is bilinear with zeros outside.
#[derive(Clone, Debug, PartialEq)]
pub struct DeformConv {
    /// The window.
    pub window: Window,
    /// Groups of channels that do not mix.
    pub groups: usize,
    /// Groups of channels that share offsets.
    pub offset_groups: usize,
}

impl Rule for DeformConv {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(3..=5)?;
        let (x, w, offset) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
        need_float(x)?;
        if self.window.rank() != 2 {
            return Err(PlanError::unsupported("deformable convolution over other than two axes"));
        }
        let shape = conv_shape(x, w, &self.window, self.groups)?;
        let (Some((n, m)), Some((_, c))) = (leading(&shape), leading(&x.shape)) else {
            return Err(PlanError::shape("a tensor without channels"));
        };
        if self.offset_groups == 0 || c % self.offset_groups != 0 {
            return Err(PlanError::attribute("offset groups that do not divide the channels"));
        }
        let taps = self.offset_groups * self.window.taps();
        let spatial = shape.get(2..).unwrap_or_default();
        need_shape(offset, &[&[n, taps * 2], spatial].concat())?;
        check_bias(inputs.get(3), m)?;
        inputs.get(4).map_or(Ok(()), |mask| need_shape(mask, &[&[n, taps], spatial].concat()))?;
        Ok(vec![x.shaped(shape)])
    }

    #[expect(clippy::cast_precision_loss, reason = "places are far below 2^53")]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let output = one(outputs)?;
        let (x_array, w, offset) = (inputs.need(0)?, inputs.need(1)?.reals()?, inputs.need(2)?.reals()?);
        let x = x_array.reals()?;
        let bias = inputs.get(3).map(Array::reals).transpose()?;
        let mask = inputs.get(4).map(Array::reals).transpose()?;
        let [_, height, width] = cube_shape(x_array.shape());
        let [_, out_height, out_width] = cube_shape(&output.shape);
        let cube = self.window.cube();
        let taps = self.window.taps();
        let (_, channels_in) = leading(x_array.shape()).unwrap_or((0, 0));
        let (_, channels_out) = leading(&output.shape).unwrap_or((0, 0));
        let (per_in, per_out) = (channels_in / self.groups, channels_out / self.groups);
        let per_offset = channels_in / self.offset_groups;
        let plane = out_height * out_width;
        let at = |list: &[f64], index: usize| list.get(index).copied().unwrap_or_default();
        let mut sums = Vec::with_capacity(output.elements());
        for index in 0..output.elements() {
            let (oy, ox) = (index / out_width % out_height, index % out_width);
            let (n, m) = (index / plane / channels_out, index / plane % channels_out);
            let mut sum = bias.as_ref().map_or(0.0, |bias| at(bias, m));
            for c in 0..per_in {
                let channel = m / per_out * per_in + c;
                let first = channel * height * width + n * channels_in * height * width;
                let image = x.get(first..first + height * width).unwrap_or_default();
                for tap in 0..taps {
                    let group = channel / per_offset * taps + tap;
                    let moved = ((n * self.offset_groups * taps + group) * 2) * plane + oy * out_width + ox;
                    let (ky, kx) = (tap / cube.kernel[2], tap % cube.kernel[2]);
                    let y = (oy * cube.strides[1] + ky * cube.dilations[1]) as f64 - cube.pads[1] as f64;
                    let column = (ox * cube.strides[2] + kx * cube.dilations[2]) as f64 - cube.pads[2] as f64;
                    let sample = super::vision::bilinear(
                        image,
                        (height, width),
                        (y + at(&offset, moved), column + at(&offset, moved + plane)),
                    );
                    let masked = (n * self.offset_groups * taps + group) * plane + oy * out_width + ox;
                    let factor = mask.as_ref().map_or(1.0, |mask| at(mask, masked));
                    sum += sample * factor * at(&w, (m * per_in + c) * taps + tap);
                }
            }
            sums.push(sum);
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), sums)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        conv_work(inputs.get(1), outputs).saturating_mul(8)
    }
}

/// The datatype in which integer products are summed.
pub(crate) const SUMS: Datatype = Datatype::Int32;
