//! Windows, Fourier transforms and the mel scale.

use super::{
    elementwise::datatype,
    movement::part,
    site::{Found, Site, found},
};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    op::{Binary, Concat, Fourier},
    shape,
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "HannWindow" => window(site, &[0.5, 0.5]),
        "HammingWindow" => window(site, &[25.0 / 46.0, 21.0 / 46.0]),
        "BlackmanWindow" => window(site, &[0.42, 0.5, 0.08]),
        "DFT" => transform(site),
        "STFT" => short_time(site),
        "MelWeightMatrix" => mel_weights(site),
        _ => Ok(None),
    }
}

/// A sum of cosines with alternating signs.
#[expect(clippy::cast_precision_loss, reason = "lengths are below 2^28")]
fn window(site: &mut Site<'_, '_, '_>, terms: &[f64]) -> Found {
    let size = usize::try_from(site.constant(0)?.int()?).ok().filter(|size| *size <= 1 << 28);
    let size = size.ok_or_else(|| PlanError::value("the length of a window"))?;
    let to = datatype(site.int("output_datatype", 1)?)?;
    site.reserve(&Fact::new(to, [size]))?;
    let period = if site.flag("periodic", true)? { size as f64 } else { size as f64 - 1.0 };
    let value = |at: usize| {
        let turn = 2.0 * std::f64::consts::PI * at as f64 / period;
        let term =
            |(k, factor): (usize, &f64)| if k % 2 == 0 { *factor } else { -factor } * (turn * k as f64).cos();
        terms.iter().enumerate().map(term).sum::<f64>()
    };
    found(site.add(Array::from_reals(to, [size], (0..size).map(value).collect())?)?)
}

fn transform(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, fact) = (site.id(0)?, site.fact(0)?);
    let axis = match site.maybe_int("axis")? {
        Some(axis) => axis,
        None if site.version >= 20 => site.maybe_constant(2)?.map_or(Ok(-2), |axis| axis.int())?,
        None => 1,
    };
    let axis = shape::axis(axis, fact.rank())?;
    let (inverse, one_sided) = (site.flag("inverse", false)?, site.flag("onesided", false)?);
    let dim = fact.shape.get(axis).copied().unwrap_or(0);
    let length = match site.maybe_constant(1)? {
        Some(length) => usize::try_from(length.int()?).map_err(|_| PlanError::value("a negative length"))?,
        None if inverse && one_sided => dim.saturating_sub(1) * 2,
        None => dim,
    };
    found(site.one(Fourier { axis, length, inverse, one_sided }, &[x])?)
}

/// Frames of the signal, each times the window, transformed.
fn short_time(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, fact) = (site.id(0)?, site.fact(0)?);
    let size =
        |array: Array| usize::try_from(array.int()?).map_err(|_| PlanError::value("a negative length"));
    let step = size(site.constant(1)?)?;
    let length = match (site.maybe_constant(3)?, site.maybe(2)) {
        (Some(length), _) => size(length)?,
        (None, Some(window)) => site.fact_of(window)?.elements(),
        (None, None) => return Err(PlanError::Graph("frames without length".to_owned())),
    };
    let shape = match fact.shape.as_slice() {
        [n, s] => vec![*n, *s, 1],
        _ => fact.shape.clone(),
    };
    let x = site.reshape(x, shape.clone())?;
    let [batch, samples, parts] = shape[..] else {
        return Err(PlanError::shape("a signal of other than three axes"));
    };
    let frames = samples.checked_sub(length).and_then(|room| room.checked_div(step)).map(|steps| steps + 1);
    let frames = frames
        .filter(|frames| *frames <= 1 << 16)
        .ok_or_else(|| PlanError::shape("frames longer than the signal"))?;
    let mut list = Vec::with_capacity(frames);
    for frame in 0..frames {
        let cut = part(site, x, 1, frame * step..frame * step + length)?;
        list.push(site.reshape(cut, [batch, 1, length, parts])?);
    }
    let mut all = site.one(Concat { axis: 1 }, &list)?;
    if let Some(window) = site.maybe(2) {
        let window = site.reshape(window, [length, 1])?;
        all = site.binary(Binary::Mul, all, window)?;
    }
    let one_sided = site.flag("onesided", true)?;
    found(site.one(Fourier { axis: 2, length, inverse: false, one_sided }, &[all])?)
}

/// Triangles over the bins of a spectrum, one for each band of the mel scale.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "bins are few, and the bounds are checked"
)]
fn mel_weights(site: &mut Site<'_, '_, '_>) -> Found {
    let size = |site: &Site<'_, '_, '_>, index: usize| {
        let size = usize::try_from(site.constant(index)?.int()?).ok().filter(|size| *size <= 1 << 28);
        size.ok_or_else(|| PlanError::value("a number of bins or samples"))
    };
    let (bands, length, rate) = (size(site, 0)?, size(site, 1)?, size(site, 2)?);
    let (low, high) = (site.constant(3)?.real()?, site.constant(4)?.real()?);
    let to = datatype(site.int("output_datatype", 1)?)?;
    let rows = length / 2 + 1;
    site.reserve(&Fact::new(to, [rows, bands]))?;
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (bands + 2) as f64;
    let bin = |band: usize| {
        let hertz = 700.0 * (10_f64.powf((band as f64 * step + mel(low)) / 2595.0) - 1.0);
        let bin = ((length + 1) as f64 * hertz / rate as f64).floor();
        let inside = (0.0..rows as f64).contains(&bin);
        if inside { Ok(bin as usize) } else { Err(PlanError::value("a band outside the spectrum")) }
    };
    let mut items = vec![0.0; rows * bands];
    let mut put = |row: usize, band: usize, item: f64| {
        if let Some(slot) = items.get_mut(row * bands + band) {
            *slot = item;
        }
    };
    for band in 0..bands {
        let (left, centre, right) = (bin(band)?, bin(band + 1)?, bin(band + 2)?);
        if left == centre {
            put(centre, band, 1.0);
        }
        for row in left..=centre {
            if left < centre {
                put(row, band, (row - left) as f64 / (centre - left) as f64);
            }
        }
        for row in centre..right {
            put(row, band, (right - row) as f64 / (right - centre) as f64);
        }
    }
    found(site.add(Array::from_reals(to, [rows, bands], items)?)?)
}
