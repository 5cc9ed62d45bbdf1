//! Batch normalisation, and products and sums with one number a channel, go into the convolution before, or into one
//! batch normalisation.

use super::{Edit, edit::Work};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    op::{BatchNorm, Binary, Op},
};

/// Folds what follows convolutions with constant weights into them, and joins what follows nothing such.
pub(super) fn fuse(edit: &mut Edit) -> Result<(), PlanError> {
    for at in 0..edit.len() {
        while let Some((line, user)) = following(edit, at) {
            if !fold(edit, at, user, &line)? {
                break;
            }
        }
    }
    for at in 0..edit.len() {
        while join(edit, at)? {}
    }
    Ok(())
}

/// Makes two lines that follow each other one batch normalisation; whether there were two.
fn join(edit: &mut Edit, at: usize) -> Result<bool, PlanError> {
    let lines = edit.node(at).and_then(|node| {
        let x = [node.input(0), node.input(1)].into_iter().flatten().find(|x| edit.constant(*x).is_none())?;
        let first = line(edit, node, x)?;
        let user = edit.only_user(node.output())?;
        let next = edit.node(user)?;
        Some((x, edit.fact(x)?.datatype, first, line(edit, next, node.output())?, next.output()))
    });
    let Some((x, datatype, first, second, to)) = lines else { return Ok(false) };
    let factors: Vec<f64> = first.factors.iter().zip(&second.factors).map(|(a, b)| a * b).collect();
    let offsets = first.offsets.iter().zip(second.factors.iter().zip(&second.offsets));
    let offsets: Vec<f64> = offsets.map(|(a, (factor, b))| a * factor + b).collect();
    if !crate::array::is_float(datatype) || factors.iter().chain(&offsets).any(|number| !number.is_finite()) {
        return Ok(false);
    }
    let channels = factors.len();
    let mut parameter = |numbers: Vec<f64>| {
        Ok::<_, PlanError>(Some(edit.add(Array::from_reals(datatype, [channels], numbers)?)))
    };
    let (scale, bias) = (parameter(factors)?, parameter(offsets)?);
    let (mean, variance) = (parameter(vec![0.0; channels])?, parameter(vec![1.0; channels])?);
    edit.replace(
        at,
        BatchNorm { epsilon: 0.0, activation: None },
        vec![Some(x), scale, bias, mean, variance],
    );
    edit.redefine(at, to);
    Ok(true)
}

/// `factor * y + offset` for each channel.
struct Line {
    factors: Vec<f64>,
    offsets: Vec<f64>,
}

/// What the only user of a convolution does to each channel.
fn following(edit: &Edit, at: usize) -> Option<(Line, usize)> {
    let node = edit.node(at)?;
    let plain = match &node.op {
        Op::Conv(conv) => conv.activation.is_none() && node.input(3).is_none(),
        Op::ConvTranspose(conv) => conv.activation.is_none(),
        _ => false,
    };
    let constants = edit.constant(node.input(1)?).is_some()
        && node.input(2).is_none_or(|bias| edit.constant(bias).is_some());
    let user = edit.only_user(node.output())?;
    let line = line(edit, edit.node(user)?, node.output())?;
    (plain && constants).then_some((line, user))
}

fn line(edit: &Edit, node: &Work, y: usize) -> Option<Line> {
    let fact: &Fact = edit.fact(y)?;
    let channels = *fact.shape.get(1)?;
    match &node.op {
        Op::BatchNorm(norm) if node.input(0) == Some(y) && norm.activation.is_none() => {
            let list = |index: usize| edit.constant(node.input(index)?)?.reals().ok();
            let (scale, bias, mean, variance) = (list(1)?, list(2)?, list(3)?, list(4)?);
            let factors: Vec<f64> =
                scale.iter().zip(&variance).map(|(s, v)| s / (v + f64::from(norm.epsilon)).sqrt()).collect();
            let offsets = bias.iter().zip(mean.iter().zip(&factors)).map(|(b, (m, f))| b - m * f).collect();
            Some(Line { factors, offsets })
        }
        Op::Binary(function @ (Binary::Mul | Binary::Add | Binary::Sub | Binary::Div)) => {
            let (_, other) = edit.either(node, |value| value == y)?;
            if matches!(function, Binary::Sub | Binary::Div) && node.input(0) != Some(y) {
                return None;
            }
            if edit.shape(node.output()) != fact.shape {
                return None;
            }
            let list = by_channel(edit.constant(other)?, fact.rank(), channels)?;
            let none = |fill: f64| vec![fill; channels];
            Some(match function {
                Binary::Mul => Line { factors: list, offsets: none(0.0) },
                Binary::Div => Line { factors: list.iter().map(|x| 1.0 / x).collect(), offsets: none(0.0) },
                Binary::Add => Line { factors: none(1.0), offsets: list },
                _ => Line { factors: none(1.0), offsets: list.iter().map(|x| -x).collect() },
            })
        }
        _ => None,
    }
}

/// One number for each channel, from a constant that broadcasts to `[N, C, ..]` and varies along C alone.
fn by_channel(array: &Array, rank: usize, channels: usize) -> Option<Vec<f64>> {
    let list = array.reals().ok()?;
    if let [only] = list[..] {
        return Some(vec![only; channels]);
    }
    let ahead = rank.checked_sub(array.shape().len())?;
    let fits = array
        .shape()
        .iter()
        .enumerate()
        .all(|(axis, dim)| *dim == if axis + ahead == 1 { channels } else { 1 });
    (fits && list.len() == channels).then_some(list)
}

fn fold(edit: &mut Edit, at: usize, user: usize, line: &Line) -> Result<bool, PlanError> {
    let (Some(node), Some(next)) = (edit.node(at).cloned(), edit.node(user)) else { return Ok(false) };
    let to = next.output();
    let Some(w) = node.input(1) else { return Ok(false) };
    let Some(fact) = edit.fact(w).cloned() else { return Ok(false) };
    let rows = Rows::of(&node.op, &fact.shape);
    let scaled =
        edit.constant(w).map(|weights| rows.scaled_are_finite(weights, &line.factors)).transpose()?;
    if scaled != Some(true) {
        return Ok(false);
    }
    let bias = match node.input(2).and_then(|bias| edit.constant(bias)) {
        Some(bias) => bias.reals()?,
        None => vec![0.0; line.factors.len()],
    };
    let bias = bias.iter().zip(line.factors.iter().zip(&line.offsets)).map(|(b, (f, o))| b * f + o).collect();
    let bias = edit.add(Array::from_reals(fact.datatype, [line.factors.len()], bias)?);
    let Some(weights) = edit.take(w, at) else { return Ok(false) };
    let weights = edit.add(rows.scale(weights, &line.factors)?);
    edit.replace(at, node.op.clone(), vec![node.input(0), Some(weights), Some(bias)]);
    edit.redefine(at, to);
    Ok(true)
}

/// Runs of weights that belong to the same output channel.
struct Rows {
    /// Weights in a run.
    length: usize,
    /// Runs that follow each other before the channels begin anew, and how many times they do so before the next group.
    channels: usize,
    turns: usize,
}

impl Rows {
    /// A convolution's weights are `[M, C / g, ..]`, a transposed one's `[C, M / g, ..]`, group by group.
    fn of(op: &Op, shape: &[usize]) -> Self {
        let taps: usize = shape.iter().skip(2).product();
        let (rows, per_group) = (shape.first().copied().unwrap_or(1), shape.get(1).copied().unwrap_or(1));
        match op {
            Op::ConvTranspose(conv) => {
                Self { length: taps, channels: per_group, turns: (rows / conv.groups).max(1) }
            }
            _ => Self { length: per_group * taps, channels: 1, turns: 1 },
        }
    }

    /// The output channel of a run.
    const fn channel(&self, run: usize) -> usize {
        run / self.channels / self.turns * self.channels + run % self.channels
    }

    fn factor(&self, run: usize, factors: &[f64]) -> f64 {
        factors.get(self.channel(run)).copied().unwrap_or(1.0)
    }

    /// Whether all weights are finite once they are scaled.
    fn scaled_are_finite(&self, weights: &Array, factors: &[f64]) -> Result<bool, PlanError> {
        let finite = |(run, items): (usize, &[f64])| {
            let factor = self.factor(run, factors);
            items.iter().all(|item| (item * factor).is_finite())
        };
        let Some(items) = weights.items::<f32>() else {
            return Ok(weights.reals()?.chunks(self.length.max(1)).enumerate().all(finite));
        };
        Ok(items.chunks(self.length.max(1)).enumerate().all(|(run, items)| {
            let factor = self.factor(run, factors);
            items.iter().all(|item| (f64::from(*item) * factor).is_finite())
        }))
    }

    /// The weights times the factor of their channel, rounded once.
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the weights' own precision")]
    fn scale(&self, mut weights: Array, factors: &[f64]) -> Result<Array, PlanError> {
        if let Some(items) = weights.items_mut::<f32>() {
            for (run, items) in items.chunks_mut(self.length.max(1)).enumerate() {
                let factor = self.factor(run, factors);
                items.iter_mut().for_each(|item| *item = (f64::from(*item) * factor) as f32);
            }
            return Ok(weights);
        }
        let mut items = weights.reals()?;
        for (run, items) in items.chunks_mut(self.length.max(1)).enumerate() {
            let factor = self.factor(run, factors);
            items.iter_mut().for_each(|item| *item *= factor);
        }
        Array::from_reals(weights.datatype(), weights.shape(), items)
    }
}
