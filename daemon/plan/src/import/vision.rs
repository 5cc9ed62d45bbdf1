//! Sampling and regions of interest.

use super::{
    movement::sizes_of,
    site::{Found, Site, found},
};
use crate::{
    array::Array,
    error::PlanError,
    op::{
        AffineGrid, Det, GridSample, RoiAlign, RoiMaxPool,
        vision::{Outside, Sampling},
    },
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "GridSample" => grid_sample(site),
        "AffineGrid" => affine_grid(site),
        "RoiAlign" => roi_align(site),
        "MaxRoiPool" => roi_pool(site),
        "Det" => {
            let x = site.id(0)?;
            found(site.one(Det, &[x])?)
        }
        _ => Ok(None),
    }
}

fn grid_sample(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, grid) = (site.id(0)?, site.id(1)?);
    let op = GridSample {
        sampling: match site.text("mode", "linear")?.as_str() {
            "linear" | "bilinear" => Sampling::Linear,
            "nearest" => Sampling::Nearest,
            "cubic" | "bicubic" => Sampling::Cubic,
            other => return Err(PlanError::attribute(format!("sampling `{other}`"))),
        },
        outside: match site.text("padding_mode", "zeros")?.as_str() {
            "zeros" => Outside::Zeros,
            "border" => Outside::Border,
            "reflection" => Outside::Reflection,
            other => return Err(PlanError::attribute(format!("padding `{other}`"))),
        },
        align_corners: site.flag("align_corners", false)?,
    };
    found(site.one(op, &[x, grid])?)
}

fn affine_grid(site: &mut Site<'_, '_, '_>) -> Found {
    let theta = site.id(0)?;
    let size = sizes_of(&site.constant(1)?)?;
    let size = size.get(2..).unwrap_or_default().to_vec();
    found(site.one(AffineGrid { size, align_corners: site.flag("align_corners", false)? }, &[theta])?)
}

fn roi_align(site: &mut Site<'_, '_, '_>) -> Found {
    let ids = site.ids()?;
    let default = if site.version < 16 { "output_half_pixel" } else { "half_pixel" };
    let op = RoiAlign {
        size: (site.size("output_height", 1)?, site.size("output_width", 1)?),
        scale: site.float("spatial_scale", 1.0)?,
        samples: site.size("sampling_ratio", 0)?,
        half_pixel: site.text("coordinate_transformation_mode", default)? == "half_pixel",
        max: site.text("mode", "avg")? == "max",
    };
    found(site.one(op, &ids)?)
}

fn roi_pool(site: &mut Site<'_, '_, '_>) -> Found {
    let ids = site.ids()?;
    let size = super::linear::sizes(site, "pooled_shape")?;
    let Some([height, width]) = size.as_deref() else {
        return Err(PlanError::attribute("a pool without shape"));
    };
    let op = RoiMaxPool { size: (*height, *width), scale: site.float("spatial_scale", 1.0)? };
    found(site.one(op, &ids)?)
}

/// Boxes that do not overlap a better one. All is known at import, since nothing else tells how many there are.
pub(crate) fn suppress(site: &mut Site<'_, '_, '_>) -> Found {
    let (boxes, scores) = (site.constant(0)?, site.constant(1)?);
    let number =
        |index: usize, default: f64| site.maybe_constant(index)?.map_or(Ok(default), |array| array.real());
    let (most, overlap, least) = (number(2, 0.0)?, number(3, 0.0)?, number(4, f64::NEG_INFINITY)?);
    let centred = site.flag("center_point_box", false)?;
    let ([batches, classes, count], [_, held, 4]) = (scores.shape(), boxes.shape()) else {
        return Err(PlanError::shape("boxes of other than four numbers"));
    };
    if count != held || boxes.shape().first() != Some(batches) {
        return Err(PlanError::shape("boxes and scores of different numbers"));
    }
    let (boxes, scores) = (boxes.reals()?, scores.reals()?);
    let corners = |at: usize| -> [f64; 4] {
        let part = |index: usize| boxes.get(at * 4 + index).copied().unwrap_or(0.0);
        let (a, b, c, d) = (part(0), part(1), part(2), part(3));
        if centred {
            [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0]
        } else {
            [a.min(c), b.min(d), a.max(c), b.max(d)]
        }
    };
    let mut chosen: Vec<i64> = Vec::new();
    for at in 0..batches * classes {
        let (batch, class) = (at / classes, at % classes);
        let scores = scores.get(at * count..(at + 1) * count).unwrap_or_default();
        let mut order: Vec<(usize, f64)> =
            scores.iter().copied().enumerate().filter(|(_, score)| *score > least).collect();
        order.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let mut kept: Vec<[f64; 4]> = Vec::new();
        for (index, _) in order {
            #[expect(clippy::cast_precision_loss, reason = "a count")]
            if kept.len() as f64 >= most {
                break;
            }
            let candidate = corners(batch * count + index);
            if kept.iter().all(|other| intersection_over_union(&candidate, other) <= overlap) {
                kept.push(candidate);
                chosen.extend([batch, class, index].map(|number| i64::try_from(number).unwrap_or(0)));
            }
        }
    }
    found(site.add(Array::new([chosen.len() / 3, 3], chosen)?)?)
}

fn intersection_over_union(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let area = |[left, top, right, bottom]: &[f64; 4]| (right - left).max(0.0) * (bottom - top).max(0.0);
    let shared = area(&[a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}
