//! LSTM, GRU and RNN.

use agentd_types::Datatype;

use super::site::{Found, Site, all};
use crate::{
    error::PlanError,
    op::{
        Recurrent, Unary,
        recurrent::{Cell, Direction},
    },
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    let (cell, defaults): (_, &[&str]) = match site.node.operator {
        "LSTM" => {
            (Cell::Lstm { input_forget: site.flag("input_forget", false)? }, &["Sigmoid", "Tanh", "Tanh"])
        }
        "GRU" => (
            Cell::Gru { linear_before_reset: site.flag("linear_before_reset", false)? },
            &["Sigmoid", "Tanh"],
        ),
        "RNN" => (Cell::Rnn, &["Tanh"]),
        _ => return Ok(None),
    };
    let op = layer(site, cell, defaults)?;
    let mut inputs: Vec<_> = (0..site.len()).map(|index| site.maybe(index)).collect();
    if let Some(Some(lengths)) = inputs.get(4).copied() {
        let lengths = site.cast(lengths, Datatype::Int32)?;
        if let Some(slot) = inputs.get_mut(4) {
            *slot = Some(lengths);
        }
    }
    all(site.emit(op, &inputs)?)
}

/// The parameters of a recurrent layer.
pub(crate) fn layer(site: &Site<'_, '_, '_>, cell: Cell, defaults: &[&str]) -> Result<Recurrent, PlanError> {
    let direction = match site.text("direction", "forward")?.as_str() {
        "forward" => Direction::Forward,
        "reverse" => Direction::Reverse,
        "bidirectional" => Direction::Both,
        other => return Err(PlanError::attribute(format!("the direction `{other}`"))),
    };
    let names = match site.texts("activations")? {
        Some(names) => names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        None => defaults.repeat(direction.count()).iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
    };
    let (mut alphas, mut betas) = (
        site.floats("activation_alpha")?.unwrap_or_default().into_iter(),
        site.floats("activation_beta")?.unwrap_or_default().into_iter(),
    );
    let activations = names
        .iter()
        .map(|name| {
            // Only activations that have parameters use them up.
            Ok(match name.to_ascii_lowercase().as_str() {
                "sigmoid" => Unary::Sigmoid,
                "tanh" => Unary::Tanh,
                "relu" => Unary::Relu,
                "softsign" => Unary::Softsign,
                "softplus" => Unary::Softplus,
                "leakyrelu" => Unary::LeakyRelu { alpha: alphas.next().unwrap_or(0.01) },
                "thresholdedrelu" => Unary::ThresholdedRelu { alpha: alphas.next().unwrap_or(1.0) },
                "elu" => Unary::Elu { alpha: alphas.next().unwrap_or(1.0) },
                "hardsigmoid" => Unary::HardSigmoid {
                    alpha: alphas.next().unwrap_or(0.2),
                    beta: betas.next().unwrap_or(0.5),
                },
                "scaledtanh" => Unary::ScaledTanh {
                    alpha: alphas.next().unwrap_or(1.0),
                    beta: betas.next().unwrap_or(1.0),
                },
                "affine" => {
                    Unary::Affine { alpha: alphas.next().unwrap_or(1.0), beta: betas.next().unwrap_or(0.0) }
                }
                other => return Err(PlanError::unsupported(format!("the activation `{other}`"))),
            })
        })
        .collect::<Result<Vec<_>, PlanError>>()?;
    let hidden = match site.maybe_int("hidden_size")? {
        Some(_) => site.size("hidden_size", 0)?,
        None => site.fact(2)?.shape.last().copied().unwrap_or(0),
    };
    Ok(Recurrent {
        cell,
        direction,
        hidden,
        activations,
        clip: site.float("clip", f32::INFINITY)?,
        batch_first: site.flag("layout", false)?,
    })
}
