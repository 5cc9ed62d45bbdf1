//! Another size by interpolation.

use super::{Inputs, Rule, conv::one};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    shape,
};

/// How elements between samples are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Interpolation {
    /// The nearest sample.
    Nearest(Rounding),
    /// Between two samples along each axis.
    Linear,
    /// Between four samples along each axis, by Keys' kernel.
    Cubic {
        /// The kernel's parameter, often -0.75.
        a: f32,
    },
}

/// Which sample is the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Halves down.
    PreferFloor,
    /// Halves up.
    PreferCeil,
    /// Down.
    Floor,
    /// Up.
    Ceil,
}

/// How places of the output become places of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates {
    /// `(x + 1 / 2) / scale - 1 / 2`
    HalfPixel,
    /// `HalfPixel`, centred where the output is not `scale` times the input exactly.
    HalfPixelSymmetric,
    /// `HalfPixel`, but 0 for an output of length 1.
    PytorchHalfPixel,
    /// First onto first and last onto last.
    AlignCorners,
    /// `x / scale`
    Asymmetric,
    /// Into the region of interest, as TensorFlow does.
    TfCropAndResize,
}

/// Another size by interpolation. Input: x of any number datatype. Output: shape `output`.
///
/// Source: ONNX, Resize 19.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// How elements are found.
    pub interpolation: Interpolation,
    /// How places are mapped.
    pub coordinates: Coordinates,
    /// The output's shape.
    pub output: Vec<usize>,
    /// Output length by input length, for each axis; above 0.
    pub scales: Vec<f32>,
    /// The region of interest for each axis, start and end as fractions; only for `TfCropAndResize`.
    pub region: Vec<(f32, f32)>,
    /// Taps outside count for nothing, and the others are scaled up.
    pub exclude_outside: bool,
    /// The value outside the input; only for `TfCropAndResize`.
    pub extrapolation: f32,
    /// Smooths when making smaller.
    pub antialias: bool,
}

/// For one place of the output along one axis: places of the input with their weights; `None` lies outside.
pub type Taps = Option<Vec<(usize, f64)>>;

impl Resize {
    /// Where place `at` lies in the input along an axis of `size`.
    #[expect(clippy::cast_precision_loss, reason = "lengths are below 2^30")]
    pub fn place(&self, at: usize, axis: usize, size: usize) -> f64 {
        let scale = f64::from(self.scales.get(axis).copied().unwrap_or(1.0));
        let output = self.output.get(axis).copied().unwrap_or(1);
        let (x, size) = (at as f64, size as f64);
        let half = |x: f64| (x + 0.5) / scale - 0.5;
        match self.coordinates {
            Coordinates::HalfPixel => half(x),
            Coordinates::HalfPixelSymmetric => {
                let adjusted = output as f64 / (scale * size);
                size / 2.0 * (1.0 - adjusted) + half(x)
            }
            Coordinates::PytorchHalfPixel if output <= 1 => 0.0,
            Coordinates::PytorchHalfPixel => half(x),
            Coordinates::AlignCorners if output <= 1 => 0.0,
            Coordinates::AlignCorners => x * (size - 1.0) / (scale * size - 1.0).max(1.0),
            Coordinates::Asymmetric => x / scale,
            Coordinates::TfCropAndResize => {
                let (start, end) = self.region.get(axis).copied().unwrap_or((0.0, 1.0));
                let (start, end) = (f64::from(start), f64::from(end));
                if output > 1 {
                    start * (size - 1.0) + x * (end - start) * (size - 1.0) / (output as f64 - 1.0)
                } else {
                    (start + end) / 2.0 * (size - 1.0)
                }
            }
        }
    }

    /// What place `at` of the output is made of, along an axis of `size`.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "places are clamped to the axis"
    )]
    pub fn taps(&self, at: usize, axis: usize, size: usize) -> Taps {
        let x = self.place(at, axis, size);
        let last = size as f64 - 1.0;
        if self.coordinates == Coordinates::TfCropAndResize && !(0.0..=last).contains(&x) {
            return None;
        }
        let clamp = |place: f64| place.clamp(0.0, last) as usize;
        let scale = f64::from(self.scales.get(axis).copied().unwrap_or(1.0));
        let stretch = if self.antialias { scale.min(1.0) } else { 1.0 };
        let (reach, kernel): (f64, Box<dyn Fn(f64) -> f64>) = match self.interpolation {
            Interpolation::Nearest(rounding) => {
                let place = match rounding {
                    Rounding::PreferFloor => (x - 0.5).ceil(),
                    Rounding::PreferCeil => (x + 0.5).floor(),
                    Rounding::Floor => x.floor(),
                    Rounding::Ceil => x.ceil(),
                };
                return Some(vec![(clamp(place), 1.0)]);
            }
            Interpolation::Linear => (1.0, Box::new(|x: f64| (1.0 - x.abs()).max(0.0))),
            Interpolation::Cubic { a } => (2.0, Box::new(move |x: f64| keys(x, f64::from(a)))),
        };
        let width = reach / stretch;
        let (first, end) = ((x - width).floor() + 1.0, (x + width).ceil());
        let mut taps = Vec::new();
        let mut place = first;
        while place < end && taps.len() < 1 << 20 {
            let inside = (0.0..=last).contains(&place);
            let weight = kernel((place - x) * stretch);
            if (inside || !self.exclude_outside) && weight != 0.0 {
                taps.push((clamp(place), weight));
            }
            place += 1.0;
        }
        let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
        if sum != 0.0 && (self.exclude_outside || self.antialias) {
            taps.iter_mut().for_each(|(_, weight)| *weight /= sum);
        }
        Some(taps)
    }
}

/// Keys' cubic kernel.
///
/// Source: Keys, "Cubic Convolution Interpolation for Digital Image Processing" (1981).
pub(crate) fn keys(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

impl Rule for Resize {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        let rank = x.rank();
        let region = self.coordinates != Coordinates::TfCropAndResize || self.region.len() == rank;
        let scales = self.scales.iter().all(|scale| *scale > 0.0 && scale.is_finite());
        let empty = x.elements() == 0 && !self.output.contains(&0);
        if [self.output.len(), self.scales.len()] != [rank; 2] || !scales || !region || empty {
            return Err(PlanError::shape(format!(
                "resizing {:?} to {:?} by {:?}",
                x.shape, self.output, self.scales
            )));
        }
        if x.datatype == agentd_types::Datatype::Bytes {
            return Err(PlanError::datatype("resizing text"));
        }
        Ok(vec![x.shaped(self.output.clone())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let mut items = x.reals()?;
        let mut shape = x.shape().to_vec();
        // Axis by axis: each place of the output is a weighted sum along one axis.
        for (axis, (from, to)) in x.shape().iter().zip(&output.shape).enumerate() {
            let scale = self.scales.get(axis).copied().unwrap_or(1.0);
            let is_same = from == to
                && (scale - 1.0).abs() < f32::EPSILON
                && self.coordinates != Coordinates::TfCropAndResize;
            if is_same {
                continue;
            }
            let taps: Vec<Taps> = (0..*to).map(|at| self.taps(at, axis, *from)).collect();
            let inner = shape::strides(&shape).get(axis).copied().unwrap_or(1);
            let outer: usize = shape.iter().take(axis).product();
            let mut next = Vec::with_capacity(outer * to * inner);
            for row in 0..outer {
                for taps in &taps {
                    for column in 0..inner {
                        let read = |place: usize| {
                            items.get((row * from + place) * inner + column).copied().unwrap_or(0.0)
                        };
                        next.push(taps.as_ref().map_or(f64::from(self.extrapolation), |taps| {
                            taps.iter().map(|(place, weight)| read(*place) * weight).sum()
                        }));
                    }
                }
            }
            items = next;
            if let Some(dim) = shape.get_mut(axis) {
                *dim = *to;
            }
        }
        if crate::array::is_int(output.datatype) {
            items.iter_mut().for_each(|item| *item = item.round_ties_even());
        }
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items)?])
    }

    fn work(&self, _: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        outputs.first().map_or(0, |output| output.elements() as u64).saturating_mul(16)
    }
}
