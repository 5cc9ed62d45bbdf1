//! Operators that move elements.

use agentd_types::Datatype;

use super::site::{Found, Site, all, found};
use crate::{
    array::Array,
    error::PlanError,
    graph::ValueId,
    op::{
        Binary, Concat, Expand, Gather, GatherElements, GatherNd, OneHot, Pad, Resize, ReverseSequence,
        Scatter, ScatterNd, Slice, Tile, Trilu,
        movement::PadMode,
        resize::{Coordinates, Interpolation, Rounding},
    },
    shape,
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "Reshape" => reshape(site),
        "Flatten" => flatten(site),
        "Squeeze" => squeeze(site),
        "Unsqueeze" => unsqueeze(site),
        "Transpose" => transpose(site),
        "Concat" => {
            let ids = site.ids()?;
            let axis = site.axis(1, site.rank(0)?)?;
            if let [only] = ids.as_slice() {
                return found(*only);
            }
            found(site.one(Concat { axis }, &ids)?)
        }
        "Split" => split(site),
        "Slice" => slice(site),
        "Gather" => {
            let (x, indices) = (site.id(0)?, site.id(1)?);
            let axis = site.axis(0, site.rank(0)?)?;
            found(site.one(Gather { axis }, &[x, indices])?)
        }
        "GatherElements" => {
            let (x, indices) = (site.id(0)?, site.id(1)?);
            let axis = site.axis(0, site.rank(0)?)?;
            found(site.one(GatherElements { axis }, &[x, indices])?)
        }
        "GatherND" => {
            let (x, indices) = (site.id(0)?, site.id(1)?);
            found(site.one(GatherNd { batch: site.size("batch_dims", 0)? }, &[x, indices])?)
        }
        "Scatter" | "ScatterElements" => {
            let ids = site.ids()?;
            let axis = site.axis(0, site.rank(0)?)?;
            found(site.one(Scatter { axis, combine: combine(site)? }, &ids)?)
        }
        "ScatterND" => {
            let ids = site.ids()?;
            found(site.one(ScatterNd { combine: combine(site)? }, &ids)?)
        }
        "Pad" => pad(site),
        "Expand" => expand(site),
        "Tile" => tile(site),
        "Trilu" => trilu(site),
        "DepthToSpace" => depth_to_space(site),
        "SpaceToDepth" => space_to_depth(site),
        "ReverseSequence" => reverse_sequence(site),
        "CenterCropPad" => center_crop_pad(site),
        "OneHot" => one_hot(site),
        "Resize" | "Upsample" => resize(site),
        _ => Ok(None),
    }
}

/// Sizes from a constant.
pub(crate) fn sizes_of(array: &Array) -> Result<Vec<usize>, PlanError> {
    let fault = |_| PlanError::value("a negative size");
    array.ints()?.into_iter().map(usize::try_from).collect::<Result<_, _>>().map_err(fault)
}

fn reshape(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let fact = site.fact(0)?;
    let wanted =
        site.ints_at(1, "shape")?.ok_or_else(|| PlanError::Graph("no shape to reshape to".to_owned()))?;
    let keep_zero = site.flag("allowzero", false)?;
    let fault = || PlanError::shape(format!("{:?} does not reshape to {wanted:?}", fact.shape));
    let mut shape = Vec::with_capacity(wanted.len());
    let mut free = None;
    for (axis, dim) in wanted.iter().enumerate() {
        shape.push(match dim {
            -1 if free.replace(axis).is_none() => 1,
            0 if !keep_zero => *fact.shape.get(axis).ok_or_else(fault)?,
            dim => usize::try_from(*dim).map_err(|_| fault())?,
        });
    }
    if let Some(slot) = free.and_then(|axis| shape.get_mut(axis)) {
        *slot = 1;
        let known = shape::count(&shape)?;
        let rest = fact.elements().checked_div(known).unwrap_or(0);
        if let Some(slot) = free.and_then(|axis| shape.get_mut(axis)) {
            *slot = rest;
        }
    }
    found(site.reshape(x, shape)?)
}

fn flatten(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    // The axis may be the rank itself.
    let axis = site.int("axis", 1)?;
    let axis =
        if usize::try_from(axis) == Ok(shape.len()) { shape.len() } else { shape::axis(axis, shape.len())? };
    let (outer, inner) = shape.split_at(axis);
    found(site.reshape(x, [outer.iter().product::<usize>(), inner.iter().product()])?)
}

fn squeeze(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    let axes = match site.ints_at(1, "axes")? {
        Some(axes) => crate::op::reduce::resolve_axes(&axes, shape.len())?,
        None => (0..shape.len()).filter(|axis| shape.get(*axis) == Some(&1)).collect(),
    };
    if axes.iter().any(|axis| shape.get(*axis) != Some(&1)) {
        return Err(PlanError::shape(format!("axes {axes:?} of {shape:?} are not all 1")));
    }
    let kept = shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, dim)| *dim);
    found(site.reshape(x, kept.collect::<Vec<_>>())?)
}

fn unsqueeze(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    let axes = site.ints_at(1, "axes")?.ok_or_else(|| PlanError::Graph("no axes to add".to_owned()))?;
    let axes = crate::op::reduce::resolve_axes(&axes, shape.len() + axes.len())?;
    let mut dims = shape.iter().copied();
    let new = (0..shape.len() + axes.len())
        .map(|axis| if axes.contains(&axis) { 1 } else { dims.next().unwrap_or(1) });
    found(site.reshape(x, new.collect::<Vec<_>>())?)
}

fn transpose(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, rank) = (site.id(0)?, site.rank(0)?);
    let perm = match site.ints("perm")? {
        Some(perm) => perm.iter().map(|axis| shape::axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).rev().collect(),
    };
    if perm.len() != rank {
        return Err(PlanError::attribute(format!("{perm:?} is no permutation of {rank} axes")));
    }
    found(site.transpose(x, &perm)?)
}

/// A part of `x` along one axis.
pub(crate) fn part(
    site: &mut Site<'_, '_, '_>,
    x: ValueId,
    axis: usize,
    range: std::ops::Range<usize>,
) -> Result<ValueId, PlanError> {
    let mut sizes = site.fact_of(x)?.shape;
    let mut starts = vec![0; sizes.len()];
    if let (Some(start), Some(size)) = (starts.get_mut(axis), sizes.get_mut(axis)) {
        if *size == range.len() && range.start == 0 {
            return Ok(x);
        }
        (*start, *size) = if range.is_empty() { (0, 0) } else { (range.start, range.len()) };
    }
    let steps = vec![1; sizes.len()];
    site.one(Slice { starts, sizes, steps }, &[x])
}

/// The lengths of `outputs` parts of an axis.
pub(crate) fn split_sizes(
    site: &Site<'_, '_, '_>,
    dim: usize,
    outputs: usize,
) -> Result<Vec<usize>, PlanError> {
    let given = site.ints_at(1, "split")?;
    let sizes = match given {
        Some(ints) => ints
            .into_iter()
            .map(usize::try_from)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| PlanError::value("a negative size"))?,
        None => {
            let count = site.size("num_outputs", i64::try_from(outputs).unwrap_or(1))?.max(1);
            let size = dim.div_ceil(count);
            (0..count.min(1 << 16)).map(|at| size.min(dim.saturating_sub(at * size))).collect()
        }
    };
    if sizes.iter().try_fold(0_usize, |sum, size| sum.checked_add(*size)) != Some(dim) {
        return Err(PlanError::shape(format!("parts {sizes:?} of a length of {dim}")));
    }
    Ok(sizes)
}

fn split(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    let axis = site.axis(0, shape.len())?;
    let sizes = split_sizes(site, shape.get(axis).copied().unwrap_or(0), site.node.outputs.len())?;
    let mut start = 0;
    let mut parts = Vec::new();
    for size in sizes {
        parts.push(part(site, x, axis, start..start + size)?);
        start += size;
    }
    all(parts)
}

fn slice(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    let need =
        |list: Option<Vec<i64>>| list.ok_or_else(|| PlanError::Graph("a slice without bounds".to_owned()));
    let starts = need(site.ints_at(1, "starts")?)?;
    let ends = need(site.ints_at(2, "ends")?)?;
    let axes = site.ints_at(3, "axes")?.unwrap_or_else(|| (0..).take(starts.len()).collect());
    let steps = site.maybe_constant(4)?.map_or(Ok(vec![1; starts.len()]), |steps| steps.ints())?;
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(PlanError::shape("slice bounds of different lengths"));
    }
    let rank = shape.len();
    let mut op = Slice { starts: vec![0; rank], sizes: shape.clone(), steps: vec![1; rank] };
    for ((start, end), (axis, step)) in starts.iter().zip(&ends).zip(axes.iter().zip(&steps)) {
        let axis = shape::axis(*axis, rank)?;
        let dim = i64::try_from(shape.get(axis).copied().unwrap_or(0)).unwrap_or(i64::MAX);
        if *step == 0 {
            return Err(PlanError::value("a slice with step 0"));
        }
        let wrap = |bound: i64| if bound < 0 { bound.saturating_add(dim) } else { bound };
        let (low, high) = if *step > 0 { (0, dim) } else { (-1, dim - 1) };
        // The bound below which nothing lies keeps its meaning when counted from the end.
        let (start, end) = (wrap(*start).clamp(low.max(0), high.max(0)), wrap(*end).clamp(low, high));
        let span = if *step > 0 { end - start } else { start - end };
        let size = if dim == 0 || span <= 0 {
            0
        } else {
            (span - 1) / i64::try_from(step.unsigned_abs()).unwrap_or(i64::MAX) + 1
        };
        let parts = (op.starts.get_mut(axis), op.sizes.get_mut(axis), op.steps.get_mut(axis));
        if let (Some(to_start), Some(to_size), Some(to_step)) = parts {
            *to_start = if size == 0 { 0 } else { usize::try_from(start).unwrap_or(0) };
            *to_size = usize::try_from(size).unwrap_or(0);
            *to_step = if size <= 1 { 1 } else { isize::try_from(*step).unwrap_or(1) };
        }
    }
    if op.sizes == shape && op.steps.iter().all(|step| *step == 1) {
        return found(x);
    }
    found(site.one(op, &[x])?)
}

fn combine(site: &Site<'_, '_, '_>) -> Result<Option<Binary>, PlanError> {
    Ok(match site.text("reduction", "none")?.as_str() {
        "none" => None,
        "add" => Some(Binary::Add),
        "mul" => Some(Binary::Mul),
        "max" => Some(Binary::Max),
        "min" => Some(Binary::Min),
        other => return Err(PlanError::attribute(format!("the reduction `{other}`"))),
    })
}

fn pad(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, fact) = (site.id(0)?, site.fact(0)?);
    let rank = fact.rank();
    let mode = match site.text("mode", "constant")?.as_str() {
        "constant" => PadMode::Constant,
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return Err(PlanError::attribute(format!("padding by `{other}`"))),
    };
    let old = if site.has("paddings") { site.ints("paddings")? } else { None };
    let pads = match old {
        Some(pads) => pads,
        None => site.ints_at(1, "pads")?.ok_or_else(|| PlanError::Graph("no padding given".to_owned()))?,
    };
    let axes = match site.maybe_constant(3)? {
        Some(axes) => {
            axes.ints()?.iter().map(|axis| shape::axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(PlanError::shape(format!("{} paddings for {} axes", pads.len(), axes.len())));
    }
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    let (first, second) = pads.split_at(axes.len());
    for (axis, (a, b)) in axes.iter().zip(first.iter().zip(second)) {
        let fits = |pad: i64| {
            isize::try_from(pad).ok().filter(|pad| pad.unsigned_abs() <= crate::op::window::MAX_STEP)
        };
        let (Some(a), Some(b)) = (fits(*a), fits(*b)) else {
            return Err(PlanError::value("padding out of bounds"));
        };
        if let (Some(slot), Some(end)) = (before.get_mut(*axis), after.get_mut(*axis)) {
            (*slot, *end) = (a, b);
        }
    }
    if before.iter().chain(&after).all(|pad| *pad == 0) {
        return found(x);
    }
    let mut fill = site.maybe(2).filter(|_| mode == PadMode::Constant);
    if fill.is_none() && mode == PadMode::Constant && site.has("value") {
        let value = site.float("value", 0.0)?;
        fill = Some(site.number(fact.datatype, f64::from(value))?);
    }
    all(site.emit(Pad { mode, before, after }, &[Some(x), fill])?)
}

fn expand(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    let wanted = shape::broadcast(&shape, &sizes_of(&site.constant(1)?)?)?;
    if wanted == shape {
        return found(x);
    }
    found(site.one(Expand { shape: wanted }, &[x])?)
}

fn tile(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let repeats = if site.version < 6 {
        let rank = site.rank(0)?;
        let (times, axis) = (site.constant(1)?.int()?, site.constant(2)?.int()?);
        let axis = shape::axis(axis, rank)?;
        (0..rank).map(|at| if at == axis { usize::try_from(times).unwrap_or(0) } else { 1 }).collect()
    } else {
        sizes_of(&site.constant(1)?)?
    };
    found(site.one(Tile { repeats }, &[x])?)
}

fn trilu(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let diagonal = site.maybe_constant(1)?.map_or(Ok(0), |k| k.int())?;
    found(site.one(Trilu { upper: site.flag("upper", true)?, diagonal }, &[x])?)
}

fn blocks(site: &Site<'_, '_, '_>) -> Result<([usize; 4], usize), PlanError> {
    let shape = site.fact(0)?.shape;
    let block = site.size("blocksize", 0)?;
    match shape.as_slice() {
        [n, c, h, w] if block > 0 && block <= 1 << 12 => Ok(([*n, *c, *h, *w], block)),
        _ => Err(PlanError::shape(format!("blocks of {block} in {shape:?}"))),
    }
}

fn depth_to_space(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, ([n, c, h, w], b)) = (site.id(0)?, blocks(site)?);
    let inner = c / (b * b);
    let (shape, perm) = match site.text("mode", "DCR")?.as_str() {
        "DCR" => ([n, b, b, inner, h, w], [0, 3, 4, 1, 5, 2]),
        _ => ([n, inner, b, b, h, w], [0, 1, 4, 2, 5, 3]),
    };
    let cut = site.reshape(x, shape)?;
    let turned = site.transpose(cut, &perm)?;
    found(site.reshape(turned, [n, inner, h * b, w * b])?)
}

fn space_to_depth(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, ([n, c, h, w], b)) = (site.id(0)?, blocks(site)?);
    let cut = site.reshape(x, [n, c, h / b, b, w / b, b])?;
    let turned = site.transpose(cut, &[0, 3, 5, 1, 2, 4])?;
    found(site.reshape(turned, [n, c * b * b, h / b, w / b])?)
}

fn reverse_sequence(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, lengths, rank) = (site.id(0)?, site.id(1)?, site.rank(0)?);
    let batch_axis = shape::axis(site.int("batch_axis", 1)?, rank)?;
    let time_axis = shape::axis(site.int("time_axis", 0)?, rank)?;
    found(site.one(ReverseSequence { batch_axis, time_axis }, &[x, lengths])?)
}

fn center_crop_pad(site: &mut Site<'_, '_, '_>) -> Found {
    let (mut x, fact) = (site.id(0)?, site.fact(0)?);
    let (rank, wanted) = (fact.rank(), sizes_of(&site.constant(1)?)?);
    let axes = match site.ints("axes")? {
        Some(axes) => axes.iter().map(|axis| shape::axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    let (mut before, mut after) = (vec![0_isize; rank], vec![0_isize; rank]);
    for (axis, want) in axes.iter().zip(&wanted) {
        let size = fact.shape.get(*axis).copied().unwrap_or(0);
        if want < &size {
            let start = (size - want) / 2;
            x = part(site, x, *axis, start..start + want)?;
        } else if let (Some(a), Some(b)) = (before.get_mut(*axis), after.get_mut(*axis)) {
            let more = want.checked_sub(size).and_then(|more| isize::try_from(more).ok()).unwrap_or(0);
            (*a, *b) = (more / 2, more - more / 2);
        }
    }
    if before.iter().chain(&after).all(|pad| *pad == 0) {
        return found(x);
    }
    found(site.one(Pad { mode: PadMode::Constant, before, after }, &[x])?)
}

fn one_hot(site: &mut Site<'_, '_, '_>) -> Found {
    let (mut indices, values) = (site.id(0)?, site.id(2)?);
    let depth = site.constant(1)?.int()?;
    let depth = usize::try_from(depth).map_err(|_| PlanError::value("a negative depth"))?;
    indices = site.cast(indices, Datatype::Int64)?;
    let axis = site.axis(-1, site.rank(0)? + 1)?;
    found(site.one(OneHot { axis, depth }, &[indices, values])?)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    clippy::too_many_lines,
    reason = "lengths are below 2^30, and sizes are checked by the operator"
)]
fn resize(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, shape) = (site.id(0)?, site.fact(0)?.shape);
    let rank = shape.len();
    let old = site.node.operator == "Upsample" || site.version < 11;
    let mode = site.text("mode", "nearest")?;
    let rounding = match site.text("nearest_mode", "round_prefer_floor")?.as_str() {
        _ if old => Rounding::Floor,
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return Err(PlanError::attribute(format!("rounding `{other}`"))),
    };
    let interpolation = match mode.as_str() {
        "nearest" => Interpolation::Nearest(rounding),
        "linear" | "bilinear" => Interpolation::Linear,
        "cubic" => Interpolation::Cubic { a: site.float("cubic_coeff_a", -0.75)? },
        other => return Err(PlanError::attribute(format!("interpolation `{other}`"))),
    };
    let coordinates = match site.text("coordinate_transformation_mode", "half_pixel")?.as_str() {
        _ if old => Coordinates::Asymmetric,
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::TfCropAndResize,
        other => return Err(PlanError::attribute(format!("coordinates `{other}`"))),
    };
    let axes = match site.ints("axes")? {
        Some(axes) => axes.iter().map(|axis| shape::axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    let (scales_at, sizes_at) = if old { (1, usize::MAX) } else { (2, 3) };
    let given: Option<Vec<f64>> = match site.floats("scales")? {
        Some(floats) => Some(floats.into_iter().map(f64::from).collect()),
        None => site.maybe_constant(scales_at)?.map(|array| array.reals()).transpose()?,
    };
    let given = given.filter(|scales| !scales.is_empty());
    let sizes = site
        .maybe_constant(sizes_at)?
        .map(|array| sizes_of(&array))
        .transpose()?
        .filter(|sizes| !sizes.is_empty());
    let region = site.maybe_constant(1)?.filter(|_| !old).map_or(Ok(Vec::new()), |array| array.reals())?;
    let mut op = Resize {
        interpolation,
        coordinates,
        output: shape.clone(),
        scales: vec![1.0; rank],
        region: vec![(0.0, 1.0); rank],
        exclude_outside: site.flag("exclude_outside", false)?,
        extrapolation: site.float("extrapolation_value", 0.0)?,
        antialias: site.flag("antialias", false)?,
    };
    let count = axes.len();
    let policy = site.text("keep_aspect_ratio_policy", "stretch")?;
    let mut wanted = sizes;
    if let Some(sizes) = &mut wanted {
        if sizes.len() != count {
            return Err(PlanError::shape("sizes of another rank"));
        }
        if policy != "stretch" {
            let ratios = sizes
                .iter()
                .zip(&axes)
                .map(|(size, axis)| *size as f64 / shape.get(*axis).copied().unwrap_or(1) as f64);
            let ratio = if policy == "not_larger" {
                ratios.fold(f64::INFINITY, f64::min)
            } else {
                ratios.fold(0.0, f64::max)
            };
            for (size, axis) in sizes.iter_mut().zip(&axes) {
                *size = (ratio * shape.get(*axis).copied().unwrap_or(1) as f64).round() as usize;
                if let Some(scale) = op.scales.get_mut(*axis) {
                    *scale = ratio as f32;
                }
            }
        }
    } else if given.as_ref().is_none_or(|scales| scales.len() != count) {
        return Err(PlanError::shape("neither scales nor sizes for each axis"));
    }
    for (at, axis) in axes.iter().enumerate() {
        let dim = shape.get(*axis).copied().unwrap_or(1) as f64;
        let start = region.get(at).copied().unwrap_or(0.0);
        let end = region.get(count + at).copied().unwrap_or(1.0);
        let (Some(output), Some(scale), Some(span)) =
            (op.output.get_mut(*axis), op.scales.get_mut(*axis), op.region.get_mut(*axis))
        else {
            continue;
        };
        *span = (start as f32, end as f32);
        if let Some(sizes) = &wanted {
            *output = sizes.get(at).copied().unwrap_or(0);
            if policy == "stretch" {
                *scale = (*output as f64 / dim) as f32;
            }
        } else if let Some(factor) = given.as_ref().and_then(|scales| scales.get(at)) {
            *scale = *factor as f32;
            let cropped = if coordinates == Coordinates::TfCropAndResize { dim * (end - start) } else { dim };
            *output = (cropped * factor).floor() as usize;
        }
    }
    let same = op.output == shape
        && op.scales.iter().all(|scale| *scale == 1.0)
        && coordinates != Coordinates::TfCropAndResize;
    if same {
        return found(x);
    }
    found(site.one(op, &[x])?)
}
