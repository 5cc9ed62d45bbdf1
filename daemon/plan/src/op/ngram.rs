//! Counts of n-grams.

use std::collections::BTreeMap;

use agentd_types::Datatype;

use super::{Inputs, Rule, conv::one, need_type};
use crate::{
    array::{Array, Fact, is_int},
    error::PlanError,
};

/// The tokens that n-grams are made of, numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Whole numbers.
    Ints(BTreeMap<i64, usize>),
    /// Texts.
    Texts(BTreeMap<Vec<u8>, usize>),
}

/// How often n-grams occur in each row, their tokens up to `skips + 1` places apart.
///
/// Input: x `[C]` or `[B, C]`, of integers or texts as the tokens are. Output: `[width]` or `[B, width]`, `FP32`.
#[derive(Clone, Debug, PartialEq)]
pub struct NgramCount {
    /// The numbers of tokens.
    pub tokens: Tokens,
    /// Sequences of token numbers, and the column in which each is counted, below `width`.
    pub grams: BTreeMap<Vec<usize>, usize>,
    /// The shortest n-grams that count; at least 1.
    pub shortest: usize,
    /// The longest n-grams that count.
    pub longest: usize,
    /// How many tokens may lie between two of an n-gram.
    pub skips: usize,
    /// Columns of the output.
    pub width: usize,
    /// Whether a column holds only that an n-gram occurs.
    pub once: bool,
    /// What counts are multiplied with, for each column; none for 1.
    pub weights: Vec<f32>,
}

impl NgramCount {
    fn number(&self, x: &Array) -> Result<Vec<Option<usize>>, PlanError> {
        Ok(match &self.tokens {
            Tokens::Ints(known) => x.ints()?.iter().map(|item| known.get(item).copied()).collect(),
            Tokens::Texts(known) => {
                x.view::<Vec<u8>>()?.iter().map(|item| known.get(item).copied()).collect()
            }
        })
    }

    fn row(&self, row: &[Option<usize>], counts: &mut [f64]) {
        // No n-gram is longer than the longest of the pool.
        let longest = self.grams.keys().map(Vec::len).max().unwrap_or(0).min(self.longest);
        let mut shortest = self.shortest.max(1);
        for distance in 1..=self.skips.saturating_add(1).min(row.len().max(1)) {
            if shortest > longest {
                return;
            }
            for start in 0..row.len() {
                let mut gram = Vec::with_capacity(longest);
                for token in row.iter().skip(start).step_by(distance).take(longest) {
                    let Some(token) = token else { break };
                    gram.push(*token);
                    if gram.len() >= shortest
                        && let Some(count) = self.grams.get(&gram).and_then(|column| counts.get_mut(*column))
                    {
                        *count += 1.0;
                    }
                }
            }
            // Single tokens know no distance.
            shortest = shortest.max(2);
        }
    }
}

impl Rule for NgramCount {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        match &self.tokens {
            Tokens::Texts(_) => need_type(x, Datatype::Bytes)?,
            Tokens::Ints(_) if is_int(x.datatype) => {}
            Tokens::Ints(_) => return Err(PlanError::datatype("n-grams of other than integers or texts")),
        }
        let shape = match x.shape[..] {
            [_] => vec![self.width],
            [rows, _] => vec![rows, self.width],
            _ => return Err(PlanError::shape(format!("n-grams of {:?}", x.shape))),
        };
        Ok(vec![Fact::new(Datatype::Fp32, shape)])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let length = x.shape().last().copied().unwrap_or(0);
        let numbers = self.number(x)?;
        let mut counts = vec![0.0; output.elements()];
        if length > 0 && self.width > 0 {
            for (row, counts) in numbers.chunks(length).zip(counts.chunks_mut(self.width)) {
                self.row(row, counts);
                for (at, count) in counts.iter_mut().enumerate() {
                    let weight = self.weights.get(at).map_or(1.0, |weight| f64::from(*weight));
                    *count = if self.once { count.min(1.0) } else { *count } * weight;
                }
            }
        }
        Ok(vec![Array::from_reals(Datatype::Fp32, output.shape.clone(), counts)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, outputs: &[Fact]) -> u64 {
        let x = inputs.get(0);
        let length = x.and_then(|x| x.shape.last()).copied().unwrap_or(0);
        let distances = self.skips.saturating_add(1).min(length.max(1)) as u64;
        let longest = self.grams.keys().map(Vec::len).max().unwrap_or(0).min(self.longest) as u64;
        let visits = x.map_or(0, |x| x.elements() as u64).saturating_mul(distances).saturating_mul(longest);
        outputs.iter().fold(visits, |sum, fact| sum.saturating_add(fact.elements() as u64))
    }
}
