//! Functions of texts.

use agentd_types::Datatype;

use super::{Inputs, Rule, conv::one, need_type};
use crate::{
    array::{Array, Fact, is_float},
    error::PlanError,
    shape::{self, Walk},
};

/// A function of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextOp {
    /// Inputs a and b, `BYTES`, which broadcast; output each a with its b behind it.
    Join,
    /// Input x, `BYTES` in UTF-8; output each with its letters small.
    Lower,
    /// Input x, `BYTES` in UTF-8; output each with its letters capital.
    Upper,
}

impl Rule for TextOp {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        if *self != Self::Join {
            inputs.arity(1..=1)?;
            need_type(inputs.need(0)?, Datatype::Bytes)?;
            return Ok(vec![inputs.need(0)?.clone()]);
        }
        inputs.arity(2..=2)?;
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        need_type(a, Datatype::Bytes)?;
        need_type(b, Datatype::Bytes)?;
        Ok(vec![a.shaped(shape::broadcast(&a.shape, &b.shape)?)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let output = one(outputs)?;
        if *self != Self::Join {
            let texts = inputs.need(0)?.view::<Vec<u8>>()?.iter();
            let texts = texts.map(|text| with_case(text, *self == Self::Upper)).collect::<Result<_, _>>()?;
            return Ok(vec![Array::new::<Vec<u8>>(output.shape.clone(), texts)?]);
        }
        let (a, b) = (inputs.need(0)?, inputs.need(1)?);
        let steps = |array: &Array| shape::broadcast_strides(array.shape(), &output.shape);
        let walk = |array: &Array| steps(array).map(|steps| Walk::forward(&output.shape, &steps));
        let (texts_a, texts_b) = (a.view::<Vec<u8>>()?, b.view::<Vec<u8>>()?);
        let pairs = walk(a)?.zip(walk(b)?).filter_map(|(x, y)| Some((texts_a.get(x)?, texts_b.get(y)?)));
        Ok(vec![Array::new(output.shape.clone(), pairs.map(|(a, b)| [a.as_slice(), b].concat()).collect())?])
    }
}

/// A text with all letters capital or small, but for letters of which that would make several.
pub(crate) fn with_case(text: &[u8], upper: bool) -> Result<Vec<u8>, PlanError> {
    fn single(letter: char, mut turned: impl Iterator<Item = char>) -> char {
        match (turned.next(), turned.next()) {
            (Some(turned), None) => turned,
            _ => letter,
        }
    }
    let text = str::from_utf8(text).map_err(|_| PlanError::value("a text that is not in UTF-8"))?;
    let turned = text.chars().map(|letter| {
        if upper { single(letter, letter.to_uppercase()) } else { single(letter, letter.to_lowercase()) }
    });
    Ok(turned.collect::<String>().into_bytes())
}

/// A text as a number.
pub(crate) fn parse(text: &[u8]) -> Result<f64, PlanError> {
    let text = String::from_utf8_lossy(text);
    text.trim().parse().map_err(|_| PlanError::value(format!("the text `{text}` is no number")))
}

/// Numbers as texts.
pub(crate) fn format(x: &Array) -> Result<Vec<Vec<u8>>, PlanError> {
    if let Some(items) = x.items::<f32>() {
        return Ok(items.iter().map(|item| real(&item.to_string()).into_bytes()).collect());
    }
    if is_float(x.datatype()) {
        return Ok(x.reals()?.iter().map(|item| real(&item.to_string()).into_bytes()).collect());
    }
    Ok(x.wholes()?.iter().map(|item| item.to_string().into_bytes()).collect())
}

/// Rust's spelling of a float, as numpy spells what is not a number.
fn real(text: &str) -> String {
    match text {
        "NaN" => "nan".to_owned(),
        "inf" => "INF".to_owned(),
        "-inf" => "-INF".to_owned(),
        _ => text.to_owned(),
    }
}
