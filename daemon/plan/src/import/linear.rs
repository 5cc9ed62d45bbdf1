//! Convolutions, matrix products and pooling.

use super::site::{Found, Site, all, found};
use crate::{
    array::is_float,
    error::PlanError,
    graph::ValueId,
    op::{
        Binary, Col2Im, Conv, ConvTranspose, DeformConv, Einsum, MatMul, MaxUnpool, Pool, Reduce, Unary,
        Window,
        pool::{IndexOrder, PoolKind},
        reduce::ReduceKind,
    },
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "Conv" => conv(site, None),
        "ConvTranspose" => conv_transpose(site),
        "DeformConv" => deform_conv(site),
        "MatMul" => {
            let (a, b) = (site.id(0)?, site.id(1)?);
            found(matmul(site, a, b)?)
        }
        "Gemm" => gemm(site, None),
        "Einsum" => einsum(site),
        "MaxPool" => max_pool(site),
        "AveragePool" => {
            let kind = PoolKind::Average { count_padding: site.flag("count_include_pad", false)? };
            pool(site, kind, None)
        }
        "LpPool" => {
            let p = site.int("p", 2)?;
            let p = u32::try_from(p).ok().filter(|p| (1..64).contains(p));
            let p = p.ok_or_else(|| PlanError::attribute("the power of a pool"))?;
            pool(site, PoolKind::Lp { p }, None)
        }
        "GlobalAveragePool" => global(site, ReduceKind::Mean),
        "GlobalMaxPool" => global(site, ReduceKind::Max),
        "GlobalLpPool" => global_lp(site),
        "MaxUnpool" => max_unpool(site),
        "Col2Im" => col2im(site),
        _ => Ok(None),
    }
}

/// A list of sizes from an attribute.
pub(crate) fn sizes(site: &Site<'_, '_, '_>, name: &str) -> Result<Option<Vec<usize>>, PlanError> {
    let fault = |_| PlanError::attribute(format!("a negative number in `{name}`"));
    site.ints(name)?
        .map(|ints| ints.into_iter().map(usize::try_from).collect::<Result<_, _>>().map_err(fault))
        .transpose()
}

/// How padding is found: `NOTSET`, `VALID`, `SAME_UPPER` or `SAME_LOWER`.
fn auto_pad(site: &Site<'_, '_, '_>) -> Result<String, PlanError> {
    let auto = site.text("auto_pad", "NOTSET")?;
    if matches!(auto.as_str(), "NOTSET" | "" | "VALID" | "SAME_UPPER" | "SAME_LOWER") {
        return Ok(auto);
    }
    Err(PlanError::attribute(format!("padding by `{auto}`")))
}

/// The window of a convolution or pool over `input`, its padding resolved.
pub(crate) fn window(
    site: &Site<'_, '_, '_>,
    kernel: &[usize],
    input: &[usize],
) -> Result<Window, PlanError> {
    let rank = kernel.len();
    let or = |list: Option<Vec<usize>>, fill: usize| list.unwrap_or_else(|| vec![fill; rank]);
    let kernel = sizes(site, "kernel_shape")?.unwrap_or_else(|| kernel.to_vec());
    let pads = or(sizes(site, "pads")?, 0);
    let (begin, end) = if site.has("pads") {
        pads.split_at_checked(rank).unwrap_or((&[], &[]))
    } else {
        (&pads[..], &pads[..])
    };
    let mut window = Window {
        kernel,
        strides: or(sizes(site, "strides")?, 1),
        dilations: or(sizes(site, "dilations")?, 1),
        pads_begin: begin.to_vec(),
        pads_end: end.to_vec(),
    };
    window.check()?;
    let auto = auto_pad(site)?;
    if let "SAME_UPPER" | "SAME_LOWER" = auto.as_str() {
        let span = window.span();
        for (axis, size) in input.iter().enumerate().take(rank) {
            let (Some(stride), Some(span)) = (window.strides.get(axis), span.get(axis)) else { continue };
            let output = size.div_ceil(*stride);
            let total = (output.saturating_sub(1) * stride + span).saturating_sub(*size);
            let (small, large) = (total / 2, total - total / 2);
            let (before, after) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
            if let (Some(begin), Some(end)) = (window.pads_begin.get_mut(axis), window.pads_end.get_mut(axis))
            {
                (*begin, *end) = (before, after);
            }
        }
    } else if auto == "VALID" {
        window.pads_begin.fill(0);
        window.pads_end.fill(0);
    }
    Ok(window)
}

/// The spatial dimensions of input `index`.
pub(crate) fn spatial(site: &Site<'_, '_, '_>, index: usize) -> Result<Vec<usize>, PlanError> {
    let shape = site.fact(index)?.shape;
    let spatial = shape.get(2..).filter(|spatial| !spatial.is_empty());
    spatial.map(<[usize]>::to_vec).ok_or_else(|| PlanError::shape("a tensor without spatial axes"))
}

pub(crate) fn conv(site: &mut Site<'_, '_, '_>, activation: Option<Unary>) -> Found {
    let window = window(site, &spatial(site, 1)?, &spatial(site, 0)?)?;
    let op = Conv { window, groups: site.size("group", 1)?, activation };
    let inputs: Vec<_> = (0..site.len()).map(|index| site.maybe(index)).collect();
    all(site.emit(op, &inputs)?)
}

fn conv_transpose(site: &mut Site<'_, '_, '_>) -> Found {
    let (input, kernel) = (spatial(site, 0)?, spatial(site, 1)?);
    let mut window = window(site, &kernel, &[])?;
    let rank = window.rank();
    let extra = sizes(site, "output_padding")?.unwrap_or_else(|| vec![0; rank]);
    let wanted = sizes(site, "output_shape")?;
    let auto = auto_pad(site)?;
    let span = window.span();
    let mut output = Vec::with_capacity(rank);
    for (axis, size) in input.iter().enumerate() {
        let parts = (window.strides.get(axis), span.get(axis), extra.get(axis));
        let (Some(stride), Some(span), Some(extra)) = parts else {
            return Err(PlanError::shape("a kernel of another rank than its input"));
        };
        let full = size
            .checked_sub(1)
            .and_then(|steps| steps.checked_mul(*stride))
            .and_then(|reach| reach.checked_add(span + extra));
        let full = full.ok_or_else(|| PlanError::shape("a transposed convolution of nothing"))?;
        let wanted = match &wanted {
            Some(list) => list.get(list.len().saturating_sub(rank) + axis).copied(),
            None if auto.starts_with("SAME") => Some(size.saturating_mul(*stride)),
            None => None,
        };
        let (Some(begin), Some(end)) = (window.pads_begin.get_mut(axis), window.pads_end.get_mut(axis))
        else {
            return Err(PlanError::shape("a kernel of another rank than its input"));
        };
        if let Some(wanted) = wanted {
            let total = full.saturating_sub(wanted);
            let (small, large) = (total / 2, total - total / 2);
            (*begin, *end) = if auto == "SAME_UPPER" { (small, large) } else { (large, small) };
            output.push(wanted);
        } else {
            let size = full.checked_sub(*begin + *end);
            output.push(size.ok_or_else(|| PlanError::shape("padding larger than the output"))?);
        }
    }
    let op = ConvTranspose { window, groups: site.size("group", 1)?, output, activation: None };
    let inputs: Vec<_> = (0..site.len()).map(|index| site.maybe(index)).collect();
    all(site.emit(op, &inputs)?)
}

fn deform_conv(site: &mut Site<'_, '_, '_>) -> Found {
    let window = window(site, &spatial(site, 1)?, &spatial(site, 0)?)?;
    let op =
        DeformConv { window, groups: site.size("group", 1)?, offset_groups: site.size("offset_group", 1)? };
    let inputs: Vec<_> = (0..site.len()).map(|index| site.maybe(index)).collect();
    all(site.emit(op, &inputs)?)
}

/// A product with numpy's rules for lists.
pub(crate) fn matmul(site: &mut Site<'_, '_, '_>, a: ValueId, b: ValueId) -> Result<ValueId, PlanError> {
    let (left, right) = (site.fact_of(a)?.shape, site.fact_of(b)?.shape);
    let a = if left.len() == 1 { site.reshape(a, [&[1], left.as_slice()].concat())? } else { a };
    let b = if right.len() == 1 { site.reshape(b, [right.as_slice(), &[1]].concat())? } else { b };
    let product = site.one(MatMul::default(), &[a, b])?;
    let mut shape = site.fact_of(product)?.shape;
    if right.len() == 1 {
        shape.pop();
    }
    if left.len() == 1 {
        let at = shape.len().saturating_sub(if right.len() == 1 { 1 } else { 2 });
        if at < shape.len() {
            shape.remove(at);
        }
    }
    site.reshape(product, shape)
}

pub(crate) fn gemm(site: &mut Site<'_, '_, '_>, activation: Option<Unary>) -> Found {
    let (mut a, b) = (site.id(0)?, site.id(1)?);
    let (alpha, beta) = (site.float("alpha", 1.0)?, site.float("beta", 1.0)?);
    let shape = site.fact(0)?.shape;
    if shape.len() > 2 && site.version < 7 {
        let rows = shape.first().copied().unwrap_or(1);
        a = site.reshape(a, [rows, shape.iter().skip(1).product()])?;
    }
    let is_real = is_float(site.fact(0)?.datatype);
    let mut bias = site.maybe(2).filter(|_| beta != 0.0);
    if let Some(id) = bias
        && beta.to_bits() != 1.0_f32.to_bits()
    {
        bias = Some(site.with_number(Binary::Mul, id, f64::from(beta))?);
    }
    let op = MatMul {
        transpose_a: site.flag("transA", false)?,
        transpose_b: site.flag("transB", false)?,
        alpha: if is_real { alpha } else { 1.0 },
        activation,
    };
    if !is_real && alpha.to_bits() != 1.0_f32.to_bits() {
        return Err(PlanError::unsupported("a product of integers times a number"));
    }
    all(site.emit(op, &[Some(a), Some(b), bias])?)
}

fn einsum(site: &mut Site<'_, '_, '_>) -> Found {
    let ids = site.ids()?;
    let equation: String = site.text("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_owned(), Some(right.to_owned())),
        None => (equation.clone(), None),
    };
    let fault = || PlanError::attribute(format!("the equation `{equation}`"));
    let letters = |term: &str| -> Result<(Vec<u16>, Option<usize>), PlanError> {
        let (mut names, mut ellipsis, mut rest) = (Vec::new(), None, term);
        while let Some(c) = rest.chars().next() {
            if let Some(after) = rest.strip_prefix("...") {
                if ellipsis.replace(names.len()).is_some() {
                    return Err(fault());
                }
                rest = after;
            } else if c.is_ascii_alphabetic() {
                names.push(u16::from(u8::try_from(c).unwrap_or(0)));
                rest = rest.get(1..).unwrap_or_default();
            } else {
                return Err(fault());
            }
        }
        Ok((names, ellipsis))
    };
    let mut terms = Vec::new();
    let mut widest = 0;
    for (term, id) in left.split(',').zip(&ids) {
        let (mut names, ellipsis) = letters(term)?;
        let rank = site.fact_of(*id)?.rank();
        let missing = rank.checked_sub(names.len()).ok_or_else(fault)?;
        if let Some(at) = ellipsis {
            // Names 256.. stand for the axes of an ellipsis, counted from its end.
            names.splice(at..at, (0..missing).rev().filter_map(|back| u16::try_from(256 + back).ok()));
            widest = widest.max(missing);
        }
        terms.push(names);
    }
    if left.split(',').count() != ids.len() {
        return Err(fault());
    }
    let wide = || (0..widest).rev().filter_map(|back| u16::try_from(256 + back).ok());
    let output = if let Some(right) = right {
        let (mut names, ellipsis) = letters(&right)?;
        if let Some(at) = ellipsis {
            names.splice(at..at, wide());
        }
        names
    } else {
        // Without an arrow: the ellipsis, then what stands once, in alphabetical order.
        let mut once: Vec<u16> = terms.iter().flatten().copied().filter(|name| *name < 256).collect();
        once.sort_unstable();
        let single = once.chunk_by(|a, b| a == b).filter(|run| run.len() == 1).flatten().copied();
        wide().chain(single).collect()
    };
    let mut sorted = output.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(fault());
    }
    found(site.one(Einsum { terms, output }, &ids)?)
}

/// The spatial size of a pool's output; rounding up leaves out windows that start in the end padding.
fn pooled(site: &Site<'_, '_, '_>, window: &Window, input: &[usize]) -> Result<Vec<usize>, PlanError> {
    let floor = window.output(input)?;
    let auto = auto_pad(site)?;
    if !site.flag("ceil_mode", false)? || auto != "NOTSET" {
        return Ok(floor);
    }
    let span = window.span();
    let axes = input
        .iter()
        .zip(&span)
        .zip(window.strides.iter().zip(window.pads_begin.iter().zip(&window.pads_end)));
    let ceil = axes.map(|((size, span), (stride, (begin, end)))| {
        let output = (size + begin + end - span).div_ceil(*stride) + 1;
        if (output - 1) * stride >= size + begin { output - 1 } else { output }
    });
    Ok(ceil.collect())
}

pub(crate) fn pool(site: &mut Site<'_, '_, '_>, kind: PoolKind, indices: Option<IndexOrder>) -> Found {
    let x = site.id(0)?;
    let input = spatial(site, 0)?;
    let kernel = sizes(site, "kernel_shape")?.ok_or_else(|| PlanError::attribute("a pool without kernel"))?;
    let window = window(site, &kernel, &input)?;
    let output = pooled(site, &window, &input)?;
    all(site.emit(Pool { kind, window, output, indices }, &[Some(x)])?)
}

fn max_pool(site: &mut Site<'_, '_, '_>) -> Found {
    let order =
        if site.flag("storage_order", false)? { IndexOrder::ColumnMajor } else { IndexOrder::RowMajor };
    let indices = site.wants(1).then_some(order);
    pool(site, PoolKind::Max, indices)
}

fn global(site: &mut Site<'_, '_, '_>, kind: ReduceKind) -> Found {
    let x = site.id(0)?;
    let axes = (2..site.rank(0)?).collect();
    found(site.one(Reduce { kind, axes, keep: true }, &[x])?)
}

fn global_lp(site: &mut Site<'_, '_, '_>) -> Found {
    match site.int("p", 2)? {
        1 => global(site, ReduceKind::L1),
        2 => global(site, ReduceKind::L2),
        p => {
            let x = site.id(0)?;
            let axes = (2..site.rank(0)?).collect();
            let size = site.unary(Unary::Abs, x)?;
            #[expect(clippy::cast_precision_loss, reason = "a small power")]
            let p = p as f64;
            let power = site.with_number(Binary::Pow, size, p)?;
            let sum = site.one(Reduce { kind: ReduceKind::Sum, axes, keep: true }, &[power])?;
            found(site.with_number(Binary::Pow, sum, 1.0 / p)?)
        }
    }
}

fn max_unpool(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, indices) = (site.id(0)?, site.id(1)?);
    let kernel = sizes(site, "kernel_shape")?.ok_or_else(|| PlanError::attribute("a pool without kernel"))?;
    let window = window(site, &kernel, &[])?;
    let shape = site.fact(0)?.shape;
    let mut counted: Vec<usize> = shape.iter().take(2).copied().collect();
    let axes = shape
        .iter()
        .skip(2)
        .zip(&window.strides)
        .zip(window.kernel.iter().zip(window.pads_begin.iter().zip(&window.pads_end)));
    for ((size, stride), (kernel, (begin, end))) in axes {
        let full = size.saturating_sub(1).saturating_mul(*stride) + kernel;
        counted.push(
            full.checked_sub(begin + end)
                .ok_or_else(|| PlanError::shape("padding larger than the output"))?,
        );
    }
    let output = match site.maybe_constant(2)? {
        Some(shape) => super::movement::sizes_of(&shape)?,
        None => counted.clone(),
    };
    found(site.one(MaxUnpool { output, counted }, &[x, indices])?)
}

fn col2im(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let (image, kernel) =
        (super::movement::sizes_of(&site.constant(1)?)?, super::movement::sizes_of(&site.constant(2)?)?);
    let window = window(site, &kernel, &[])?;
    found(site.one(Col2Im { window, image }, &[x])?)
}
