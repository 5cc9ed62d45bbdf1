//! Operators of ONNX Runtime's own domain.

use agentd_types::Datatype;

use super::site::{Found, Site, all, found};
use crate::{
    error::PlanError,
    graph::ValueId,
    op::{Attention, Binary, Dequantize, LayerNorm, RmsNorm, Unary, quantize::Granularity, recurrent::Cell},
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "FusedConv" => {
            let activation = activation(site)?;
            super::linear::conv(site, activation)
        }
        "FusedGemm" => {
            let activation = activation(site)?;
            super::linear::gemm(site, activation)
        }
        "FusedMatMul" => {
            let (a, b) = (site.id(0)?, site.id(1)?);
            let op = crate::op::MatMul {
                transpose_a: site.flag("transA", false)?,
                transpose_b: site.flag("transB", false)?,
                alpha: site.float("alpha", 1.0)?,
                activation: None,
            };
            found(site.one(op, &[a, b])?)
        }
        "BiasGelu" => biased(site, Unary::Gelu),
        "FastGelu" => biased(site, Unary::GeluTanh),
        "SkipLayerNormalization" => skip_norm(site, true),
        "SkipSimplifiedLayerNormalization" => skip_norm(site, false),
        "SimplifiedLayerNormalization" => {
            let ids = site.ids()?;
            let axis = site.axis(-1, site.rank(0)?)?;
            found(site.one(RmsNorm { axis, epsilon: site.float("epsilon", 1e-5)? }, &ids)?)
        }
        "DynamicQuantizeLSTM" => dynamic_lstm(site),
        "MultiHeadAttention" => multi_head(site),
        _ => Ok(None),
    }
}

fn activation(site: &Site<'_, '_, '_>) -> Result<Option<Unary>, PlanError> {
    let parameters = site.floats("activation_params")?.unwrap_or_default();
    let parameter = |index: usize, default: f32| parameters.get(index).copied().unwrap_or(default);
    Ok(Some(match site.text("activation", "")?.as_str() {
        "" => return Ok(None),
        "Relu" => Unary::Relu,
        "Tanh" => Unary::Tanh,
        "Sigmoid" => Unary::Sigmoid,
        "LeakyRelu" => Unary::LeakyRelu { alpha: parameter(0, site.float("activation_alpha", 0.01)?) },
        "Clip" => Unary::Clip { low: parameter(0, f32::NEG_INFINITY), high: parameter(1, f32::INFINITY) },
        "HardSigmoid" => Unary::HardSigmoid { alpha: parameter(0, 0.2), beta: parameter(1, 0.5) },
        other => return Err(PlanError::unsupported(format!("the activation `{other}`"))),
    }))
}

fn biased(site: &mut Site<'_, '_, '_>, function: Unary) -> Found {
    let mut x = site.id(0)?;
    if let Some(bias) = site.maybe(1) {
        x = site.binary(Binary::Add, x, bias)?;
    }
    found(site.unary(function, x)?)
}

fn skip_norm(site: &mut Site<'_, '_, '_>, centred: bool) -> Found {
    let (x, skip, scale) = (site.id(0)?, site.id(1)?, site.id(2)?);
    let mut sum = site.binary(Binary::Add, x, skip)?;
    let (beta, bias) = if centred { (site.maybe(3), site.maybe(4)) } else { (None, site.maybe(3)) };
    if let Some(bias) = bias {
        sum = site.binary(Binary::Add, sum, bias)?;
    }
    let axis = site.rank(0)?.saturating_sub(1);
    let epsilon = site.float("epsilon", 1e-12)?;
    let y = if centred {
        site.emit(LayerNorm { axis, epsilon, statistics: false }, &[Some(sum), Some(scale), beta])?
    } else {
        site.emit(RmsNorm { axis, epsilon }, &[Some(sum), Some(scale)])?
    };
    let y = y.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))?;
    // Outputs 1 and 2 are statistics of training.
    all(vec![y, sum, sum, sum])
}

/// An LSTM whose weights are 8-bit integers, stored `[D, I, 4 H]`, with a scale for each direction or each column. ONNX
/// Runtime quantises its input on the way too; in single precision the answer is nearer to what was trained.
fn dynamic_lstm(site: &mut Site<'_, '_, '_>) -> Found {
    let mut inputs: Vec<Option<ValueId>> = (0..8).map(|index| site.maybe(index)).collect();
    for (weights, scale) in [(1, 8), (2, 10)] {
        let (w, scales, zeros) = (site.id(weights)?, site.id(scale)?, site.maybe(scale + 1));
        let shape = site.fact(weights)?.shape;
        let [directions, rows, columns] = shape[..] else {
            return Err(PlanError::shape("weights of other than three axes"));
        };
        let wide = |site: &mut Site<'_, '_, '_>, id: ValueId| {
            let count = site.fact_of(id)?.elements();
            let per = count.checked_div(directions).unwrap_or(0);
            let split = site.reshape(id, [directions, 1, per])?;
            site.one(crate::op::Expand { shape: vec![directions, 1, columns] }, &[split])
        };
        let scales = wide(site, scales)?;
        let zeros = zeros.map(|zeros| wide(site, zeros)).transpose()?;
        let op = Dequantize { granularity: Granularity::Block { axis: 1, size: rows.max(1) } };
        let real = site.emit(op, &[Some(w), Some(scales), zeros])?;
        let real = real
            .first()
            .copied()
            .ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))?;
        let turned = site.transpose(real, &[0, 2, 1])?;
        if let Some(slot) = inputs.get_mut(weights) {
            *slot = Some(turned);
        }
    }
    if let Some(Some(lengths)) = inputs.get(4).copied() {
        let lengths = site.cast(lengths, Datatype::Int32)?;
        if let Some(slot) = inputs.get_mut(4) {
            *slot = Some(lengths);
        }
    }
    let cell = Cell::Lstm { input_forget: site.flag("input_forget", false)? };
    let op = super::recurrent::layer(site, cell, &["Sigmoid", "Tanh", "Tanh"])?;
    all(site.emit(op, &inputs)?)
}

fn multi_head(site: &mut Site<'_, '_, '_>) -> Found {
    if (4..site.len()).any(|index| site.maybe(index).is_some() && index != 5) {
        return Err(PlanError::unsupported("attention with masks of keys or a past"));
    }
    let (q, k, v) = (site.id(0)?, site.id(1)?, site.id(2)?);
    let heads = site.size("num_heads", 1)?;
    let shape = site.fact(0)?.shape;
    let features = shape.last().copied().unwrap_or(0).checked_div(heads).unwrap_or(0).max(1);
    let scale = site.float("scale", 0.0)?;
    let scale = if scale == 0.0 { 1.0 / (features as f32).sqrt() } else { scale };
    let (mut q, mut k, mut v) = (q, k, v);
    if let Some(bias) = site.maybe(3) {
        let widths = [q, k, v]
            .map(|id| site.fact_of(id).ok().and_then(|fact| fact.shape.last().copied()).unwrap_or(0));
        let mut start = 0;
        for (id, width) in [&mut q, &mut k, &mut v].into_iter().zip(widths) {
            let part = super::movement::part(site, bias, 0, start..start + width)?;
            *id = site.binary(Binary::Add, *id, part)?;
            start += width;
        }
    }
    all(site.emit(Attention { heads, scale }, &[Some(q), Some(k), Some(v), site.maybe(5)])?)
}
