//! Support vector machines.

use agentd_types::Datatype;

use super::{both, classes, largest, need_floats, pick, rows};
use crate::{
    array::{Array, Fact},
    error::PlanError,
    graph::ValueId,
    import::site::{Found, Site, all, found},
    op::{Binary, Compare, MatMul, PairCoupling, SupportVectors, Unary, Where, ml::Kernel},
};

/// Kernel values against the support vectors; their number.
fn kernel_values(site: &mut Site<'_, '_, '_>) -> Result<(ValueId, usize), PlanError> {
    let x = rows(site)?;
    let features = site.fact_of(x)?.shape.get(1).copied().unwrap_or(0);
    let parameters = site.floats("kernel_params")?.unwrap_or_default();
    let parameter = |at: usize| f64::from(pick(&parameters, at));
    let (gamma, coef0, degree) = (parameter(0), parameter(1), parameter(2));
    let kernel = match site.text("kernel_type", "LINEAR")?.as_str() {
        "LINEAR" => Kernel::Linear,
        "POLY" => Kernel::Poly { gamma, coef0, degree },
        "RBF" => Kernel::Rbf { gamma },
        "SIGMOID" => Kernel::Sigmoid { gamma, coef0 },
        other => return Err(PlanError::attribute(format!("the kernel {other}"))),
    };
    let vectors = need_floats(site, "support_vectors")?.into_iter().map(f64::from).collect::<Vec<_>>();
    let count = vectors.len().checked_div(features).unwrap_or(0);
    Ok((site.one(SupportVectors { kernel, vectors, features }, &[x])?, count))
}

pub(super) fn regressor(site: &mut Site<'_, '_, '_>) -> Found {
    let weights = need_floats(site, "coefficients")?;
    let rho = site.floats("rho")?.unwrap_or_default();
    let scores = if site.size("n_supports", 0)? > 0 {
        let (values, count) = kernel_values(site)?;
        let weights = site.add(Array::new([count, 1], weights)?)?;
        site.one(MatMul::default(), &[values, weights])?
    } else {
        let x = rows(site)?;
        let weights = site.add(Array::new([weights.len(), 1], weights)?)?;
        site.one(MatMul::default(), &[x, weights])?
    };
    let mut y = site.with_number(Binary::Add, scores, f64::from(pick(&rho, 0)))?;
    if site.flag("one_class", false)? {
        let zero = site.number(Datatype::Fp32, 0.0)?;
        let (inside, outside) = (site.number(Datatype::Fp32, 1.0)?, site.number(Datatype::Fp32, -1.0)?);
        let above = site.one(Compare::Greater, &[y, zero])?;
        y = site.one(Where, &[above, inside, outside])?;
    }
    found(y)
}

/// What a classifier is made of: a machine for each pair of classes.
struct Pairs {
    classes: usize,
    /// The classes of each machine.
    pairs: Vec<(usize, usize)>,
}

impl Pairs {
    fn of(site: &mut Site<'_, '_, '_>, classes: usize) -> Result<Self, PlanError> {
        let count = classes.saturating_mul(classes.saturating_sub(1)) / 2;
        site.reserve(&Fact::new(Datatype::Fp32, [count, classes]))?;
        let pairs = (0..classes).flat_map(|i| (i + 1..classes).map(move |j| (i, j))).collect();
        Ok(Self { classes, pairs })
    }

    /// One column of weights for each pair, from rows `[classes - 1, vectors]`: class i's row j - 1, class j's row i.
    fn weights(
        &self,
        site: &mut Site<'_, '_, '_>,
        per_class: &[usize],
        weights: &[f32],
    ) -> Result<ValueId, PlanError> {
        let (count, width) = (per_class.iter().sum::<usize>(), self.pairs.len());
        site.reserve(&Fact::new(Datatype::Fp32, [count, width]))?;
        let starts: Vec<usize> =
            per_class.iter().scan(0, |start, count| Some(std::mem::replace(start, *start + count))).collect();
        let mut matrix = vec![0.0_f32; count * width];
        for (column, (i, j)) in self.pairs.iter().enumerate() {
            for (class, row) in [(*i, j - 1), (*j, *i)] {
                for at in pick(&starts, class)..pick(&starts, class) + pick(per_class, class) {
                    if let Some(slot) = matrix.get_mut(at * width + column) {
                        *slot = pick(weights, row * count + at);
                    }
                }
            }
        }
        site.add(Array::new([count, width], matrix)?)
    }

    /// Votes of each class: a score above 0 is for class i of its pair, else for class j.
    fn votes(&self, site: &mut Site<'_, '_, '_>, scores: ValueId) -> Result<ValueId, PlanError> {
        let zero = site.number(Datatype::Fp32, 0.0)?;
        let wins = site.one(Compare::Greater, &[scores, zero])?;
        let wins = site.cast(wins, Datatype::Fp32)?;
        let mut table = vec![0.0_f32; self.pairs.len() * self.classes];
        let mut losses = vec![0.0_f32; self.classes];
        for (row, (i, j)) in self.pairs.iter().enumerate() {
            for (class, vote) in [(*i, 1.0), (*j, -1.0)] {
                if let Some(slot) = table.get_mut(row * self.classes + class) {
                    *slot = vote;
                }
            }
            if let Some(slot) = losses.get_mut(*j) {
                *slot += 1.0;
            }
        }
        let table = site.add(Array::new([self.pairs.len(), self.classes], table)?)?;
        let losses = site.list(losses)?;
        product(site, wins, table, losses)
    }
}

/// `a b + bias`
fn product(site: &mut Site<'_, '_, '_>, a: ValueId, b: ValueId, bias: ValueId) -> Result<ValueId, PlanError> {
    let outputs = site.emit(MatMul::default(), &[Some(a), Some(b), Some(bias)])?;
    outputs.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
}

/// One machine for each pair of classes; the class with the most wins.
pub(super) fn classifier(site: &mut Site<'_, '_, '_>) -> Found {
    let labels = classes(site)?;
    let per_class = crate::import::linear::sizes(site, "vectors_per_class")?.unwrap_or_default();
    let (weights, rho) = (need_floats(site, "coefficients")?, need_floats(site, "rho")?);
    let count = labels.len();
    if per_class.is_empty() {
        return Err(PlanError::unsupported("a linear support vector classifier"));
    }
    let (values, vectors) = kernel_values(site)?;
    let claimed = per_class.iter().fold(0_usize, |sum, count| sum.saturating_add(*count));
    if per_class.len() != count || claimed != vectors || weights.len() != vectors * (count - 1) {
        return Err(PlanError::attribute("support vectors of another number than their classes say"));
    }
    let pairs = Pairs::of(site, count)?;
    let matrix = pairs.weights(site, &per_class, &weights)?;
    let rho = site.list(rho.into_iter().take(pairs.pairs.len()).collect::<Vec<f32>>())?;
    let scores = product(site, values, matrix, rho)?;
    let votes = pairs.votes(site, scores)?;
    let label = largest(site, votes, labels)?;
    let (prob_a, prob_b) =
        (site.floats("prob_a")?.unwrap_or_default(), site.floats("prob_b")?.unwrap_or_default());
    if prob_a.is_empty() {
        if count == 2 {
            let other = site.unary(Unary::Neg, scores)?;
            let pair = both(site, scores, other)?;
            return all(vec![label, pair]);
        }
        return all(vec![label, scores]);
    }
    let probabilities = probabilities(site, scores, count, (prob_a, prob_b))?;
    all(vec![label, probabilities])
}

/// Platt's probabilities of each pair, `1 / (1 + e^(a score + b))`, and from them those of the classes.
fn probabilities(
    site: &mut Site<'_, '_, '_>,
    scores: ValueId,
    classes: usize,
    (a, b): (Vec<f32>, Vec<f32>),
) -> Result<ValueId, PlanError> {
    let (a, b) = (site.list(a)?, site.list(b)?);
    let line = site.binary(Binary::Mul, scores, a)?;
    let line = site.binary(Binary::Add, line, b)?;
    let line = site.unary(Unary::Neg, line)?;
    let pairwise = site.unary(Unary::Sigmoid, line)?;
    let pairwise = site.unary(Unary::Clip { low: 1e-7, high: 1.0 - 1e-7 }, pairwise)?;
    site.one(PairCoupling { classes }, &[pairwise])
}
