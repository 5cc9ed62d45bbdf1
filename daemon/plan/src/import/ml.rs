//! Operators of classic machine learning, as scikit-learn's exporters write them.

mod encoders;
mod linear;
mod trees;
mod vectors;

use agentd_types::Datatype;

use super::site::{Found, Site, all};
use crate::{
    array::Array,
    error::PlanError,
    graph::ValueId,
    op::{ArgReduce, Binary, Compare, Concat, Gather, Softmax, Unary},
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "Scaler" => encoders::scaler(site),
        "Imputer" => encoders::imputer(site),
        "Binarizer" => encoders::binarizer(site),
        "Normalizer" => encoders::normalizer(site),
        "LabelEncoder" => encoders::label_encoder(site),
        "OneHotEncoder" => encoders::one_hot(site),
        "ArrayFeatureExtractor" => encoders::extract(site),
        "FeatureVectorizer" => encoders::vectorize(site),
        "LinearRegressor" => linear::regressor(site),
        "LinearClassifier" => linear::classifier(site),
        "TreeEnsembleRegressor" => trees::regressor(site),
        "TreeEnsembleClassifier" => trees::classifier(site),
        "TreeEnsemble" => trees::ensemble(site),
        "SVMRegressor" => vectors::regressor(site),
        "SVMClassifier" => vectors::classifier(site),
        _ => Ok(None),
    }
}

/// Input 0 as a table in single precision.
fn rows(site: &mut Site<'_, '_, '_>) -> Result<ValueId, PlanError> {
    let x = site.id(0)?;
    let shape = site.fact(0)?.shape;
    let x = if let [columns] = shape[..] { site.reshape(x, [1, columns])? } else { x };
    site.cast(x, Datatype::Fp32)
}

fn need_floats(site: &Site<'_, '_, '_>, name: &str) -> Result<Vec<f32>, PlanError> {
    site.floats(name)?.ok_or_else(|| PlanError::attribute(format!("no `{name}`")))
}

/// Applies `post_transform`.
fn transformed(site: &mut Site<'_, '_, '_>, scores: ValueId) -> Result<ValueId, PlanError> {
    match site.text("post_transform", "NONE")?.as_str() {
        "NONE" => Ok(scores),
        "LOGISTIC" => site.unary(Unary::Sigmoid, scores),
        "SOFTMAX" => site.one(Softmax { axis: 1, log: false }, &[scores]),
        other => Err(PlanError::unsupported(format!("post-transform {other}"))),
    }
}

/// The labels of a classifier.
fn classes(site: &Site<'_, '_, '_>) -> Result<Array, PlanError> {
    let texts = site.texts("classlabels_strings")?.or(site.texts("classlabels_string")?).map(Array::list);
    let ints = site.ints("classlabels_ints")?.or(site.ints("classlabels_int64s")?).map(Array::list);
    texts.or(ints).ok_or_else(|| PlanError::attribute("a classifier without labels"))
}

/// The label of the largest score.
fn largest(site: &mut Site<'_, '_, '_>, scores: ValueId, labels: Array) -> Result<ValueId, PlanError> {
    let best = site.one(ArgReduce { largest: true, axis: 1, keep: false, last: false }, &[scores])?;
    let labels = site.add(labels)?;
    site.one(Gather { axis: 0 }, &[labels, best])
}

/// Scores of one column become two: those of the other class, then these.
fn both(site: &mut Site<'_, '_, '_>, score: ValueId, other: ValueId) -> Result<ValueId, PlanError> {
    site.one(Concat { axis: 1 }, &[other, score])
}

/// `1 - p`
fn complement(site: &mut Site<'_, '_, '_>, score: ValueId) -> Result<ValueId, PlanError> {
    let unit = site.number(Datatype::Fp32, 1.0)?;
    site.binary(Binary::Sub, unit, score)
}

/// Label and scores from one score column: positive where it is above the threshold.
fn binary(
    site: &mut Site<'_, '_, '_>,
    raw: ValueId,
    labels: Array,
    threshold: f64,
    probability: bool,
) -> Found {
    let limit = site.number(Datatype::Fp32, threshold)?;
    let above = site.one(Compare::Greater, &[raw, limit])?;
    let index = site.cast(above, Datatype::Int64)?;
    let rows = site.fact_of(index)?.elements();
    let index = site.reshape(index, [rows])?;
    let labels = site.add(labels)?;
    let label = site.one(Gather { axis: 0 }, &[labels, index])?;
    let (score, other) = match site.text("post_transform", "NONE")?.as_str() {
        "NONE" if probability => (raw, complement(site, raw)?),
        "NONE" => (raw, site.unary(Unary::Neg, raw)?),
        "LOGISTIC" => {
            let score = site.unary(Unary::Sigmoid, raw)?;
            (score, complement(site, score)?)
        }
        "SOFTMAX" => {
            let negative = site.unary(Unary::Neg, raw)?;
            let pair = both(site, raw, negative)?;
            let pair = site.one(Softmax { axis: 1, log: false }, &[pair])?;
            return all(vec![label, pair]);
        }
        other => return Err(PlanError::unsupported(format!("post-transform {other}"))),
    };
    let scores = both(site, score, other)?;
    all(vec![label, scores])
}

fn pick<T: Copy + Default>(list: &[T], at: usize) -> T {
    list.get(at).copied().unwrap_or_default()
}

/// Numbers of an attribute that may be in double precision, as a tensor of another name.
fn numbers(site: &Site<'_, '_, '_>, name: &str) -> Result<Vec<f64>, PlanError> {
    if let Some(tensor) = site.tensor(&format!("{name}_as_tensor"))? {
        return tensor.reals();
    }
    Ok(site.floats(name)?.unwrap_or_default().into_iter().map(f64::from).collect())
}
