//! Models of classic machine learning: trees, support vector machines, tables of labels.

use agentd_types::Datatype;

use super::{Inputs, Rule, conv::one};
use crate::{
    array::{Array, Fact, is_float, is_int},
    error::PlanError,
};

/// How a tree's node decides: true goes to the first branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// `x <= value`
    LessOrEqual,
    /// `x < value`
    Less,
    /// `x >= value`
    GreaterOrEqual,
    /// `x > value`
    Greater,
    /// `x == value`
    Equal,
    /// `x != value`
    NotEqual,
    /// Whether x is one of the values of a set.
    Member,
}

/// A place of a tree.
#[derive(Clone, Debug, PartialEq)]
pub enum TreeNode {
    /// Asks for one feature.
    Branch {
        /// The feature's index.
        feature: usize,
        /// The question.
        test: Test,
        /// What is compared with.
        value: f64,
        /// For [`Test::Member`]: the set.
        members: Vec<f64>,
        /// The node's index where the test holds; larger than this node's.
        yes: usize,
        /// The node's index where it does not; larger than this node's.
        no: usize,
        /// NaN takes the first branch.
        missing: bool,
    },
    /// Gives weights: targets and what is added.
    Leaf(Vec<(usize, f64)>),
}

/// How the trees' weights for one target become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// Their sum.
    Sum,
    /// Their sum by the number of trees.
    Average,
    /// The smallest.
    Min,
    /// The largest.
    Max,
}

/// Decision trees. Input: x `[N, F]` of any number. Output: `[N, targets]` as `FP32` (or `FP64` when `double`).
#[derive(Clone, Debug, PartialEq)]
pub struct TreeEnsemble {
    /// All nodes. Invariant: branches lead to larger indices, so that no walk is endless.
    pub nodes: Vec<TreeNode>,
    /// The index of each tree's first node.
    pub roots: Vec<usize>,
    /// How many targets there are.
    pub targets: usize,
    /// How weights become one.
    pub aggregate: Aggregate,
    /// Added to each target; empty or one for each.
    pub base: Vec<f64>,
    /// Answers in double precision.
    pub double: bool,
}

/// Rows and columns of a table; a list is one row.
fn table(x: &Fact) -> Result<(usize, usize), PlanError> {
    match x.shape.as_slice() {
        [rows, columns] => Ok((*rows, *columns)),
        [columns] => Ok((1, *columns)),
        _ => Err(PlanError::shape(format!("a table of shape {:?}", x.shape))),
    }
}

fn need_number(x: &Fact) -> Result<(), PlanError> {
    if is_float(x.datatype) || is_int(x.datatype) || x.datatype == Datatype::Bool {
        return Ok(());
    }
    Err(PlanError::datatype("text where numbers are needed"))
}

impl TreeEnsemble {
    fn check(&self, features: usize) -> Result<(), PlanError> {
        let count = self.nodes.len();
        let fits = |(at, node): (usize, &TreeNode)| match node {
            TreeNode::Branch { feature, yes, no, .. } => {
                *feature < features && *yes > at && *no > at && *yes < count && *no < count
            }
            TreeNode::Leaf(weights) => weights.iter().all(|(target, _)| *target < self.targets),
        };
        let base = self.base.is_empty() || self.base.len() == self.targets;
        if self.nodes.iter().enumerate().all(fits) && self.roots.iter().all(|root| *root < count) && base {
            return Ok(());
        }
        Err(PlanError::attribute(
            "trees that lead outside, backwards, or ask for a feature that does not exist",
        ))
    }

    fn leaf(&self, root: usize, row: &[f64]) -> &[(usize, f64)] {
        let mut at = root;
        loop {
            match self.nodes.get(at) {
                Some(TreeNode::Branch { feature, test, value, members, yes, no, missing }) => {
                    let x = row.get(*feature).copied().unwrap_or(f64::NAN);
                    let holds = x.is_nan() && *missing
                        || match test {
                            Test::LessOrEqual => x <= *value,
                            Test::Less => x < *value,
                            Test::GreaterOrEqual => x >= *value,
                            Test::Greater => x > *value,
                            #[expect(clippy::float_cmp, reason = "that is the question asked")]
                            Test::Equal => x == *value,
                            #[expect(clippy::float_cmp, reason = "that is the question asked")]
                            Test::NotEqual => x != *value,
                            Test::Member => members.contains(&x),
                        };
                    at = if holds { *yes } else { *no };
                }
                Some(TreeNode::Leaf(weights)) => return weights,
                None => return &[],
            }
        }
    }
}

impl Rule for TreeEnsemble {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        need_number(x)?;
        let (rows, columns) = table(x)?;
        self.check(columns)?;
        Ok(vec![Fact::new(if self.double { Datatype::Fp64 } else { Datatype::Fp32 }, [rows, self.targets])])
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of trees")]
    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let (_, columns) = table(&x.fact())?;
        let items = x.reals()?;
        let mut all = Vec::with_capacity(output.elements());
        for row in items.chunks(columns.max(1)) {
            let mut sums: Vec<Option<f64>> = vec![None; self.targets];
            for root in &self.roots {
                for (target, weight) in self.leaf(*root, row) {
                    if let Some(sum) = sums.get_mut(*target) {
                        *sum = Some(match (*sum, self.aggregate) {
                            (None, _) => *weight,
                            (Some(sum), Aggregate::Sum | Aggregate::Average) => sum + weight,
                            (Some(sum), Aggregate::Min) => sum.min(*weight),
                            (Some(sum), Aggregate::Max) => sum.max(*weight),
                        });
                    }
                }
            }
            all.extend(sums.into_iter().enumerate().map(|(target, sum)| {
                let divisor =
                    if self.aggregate == Aggregate::Average { self.roots.len().max(1) as f64 } else { 1.0 };
                sum.unwrap_or(0.0) / divisor + self.base.get(target).copied().unwrap_or(0.0)
            }));
        }
        all.resize(output.elements(), 0.0);
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), all)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, _: &[Fact]) -> u64 {
        let rows = inputs.get(0).and_then(|x| table(x).ok()).map_or(0, |(rows, _)| rows as u64);
        rows.saturating_mul(self.nodes.len() as u64)
    }
}

/// A kernel function of two vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// `a . b`
    Linear,
    /// `(gamma a . b + coef0)^degree`
    Poly {
        /// Multiplies the product.
        gamma: f64,
        /// Is added.
        coef0: f64,
        /// The power.
        degree: f64,
    },
    /// `exp(-gamma |a - b|^2)`
    Rbf {
        /// Multiplies the square of the distance.
        gamma: f64,
    },
    /// `tanh(gamma a . b + coef0)`
    Sigmoid {
        /// Multiplies the product.
        gamma: f64,
        /// Is added.
        coef0: f64,
    },
}

impl Kernel {
    fn apply(self, a: &[f64], b: &[f64]) -> f64 {
        let dot = || a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        match self {
            Self::Linear => dot(),
            Self::Poly { gamma, coef0, degree } => (gamma * dot() + coef0).powf(degree),
            Self::Rbf { gamma } => {
                (-gamma * a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>()).exp()
            }
            Self::Sigmoid { gamma, coef0 } => (gamma * dot() + coef0).tanh(),
        }
    }
}

/// Kernel values of each row against each support vector. Input: x `[N, F]`. Output: `[N, vectors]` as `FP32`. What a
/// machine makes of them is a matrix product and elementwise functions, which import writes out.
#[derive(Clone, Debug, PartialEq)]
pub struct SupportVectors {
    /// The kernel.
    pub kernel: Kernel,
    /// The vectors, one after the other; `features` numbers each.
    pub vectors: Vec<f64>,
    /// F.
    pub features: usize,
}

impl Rule for SupportVectors {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        need_number(x)?;
        let (rows, columns) = table(x)?;
        if self.features == 0 || columns != self.features || !self.vectors.len().is_multiple_of(self.features)
        {
            return Err(PlanError::shape(format!(
                "support vectors of {} features for {columns}",
                self.features
            )));
        }
        Ok(vec![Fact::new(Datatype::Fp32, [rows, self.vectors.len() / self.features])])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?.reals()?, one(outputs)?);
        let rows = x.chunks(self.features.max(1));
        let values = rows.flat_map(|row| {
            self.vectors.chunks(self.features.max(1)).map(|vector| self.kernel.apply(row, vector))
        });
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), values.collect())?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, _: &[Fact]) -> u64 {
        let rows = inputs.get(0).and_then(|x| table(x).ok()).map_or(0, |(rows, _)| rows as u64);
        rows.saturating_mul(self.vectors.len() as u64)
    }
}

/// Probabilities of classes from those of pairs of classes.
///
/// Input: `[N, classes * (classes - 1) / 2]`, `FP32`: for each pair i < j, in order, the probability of i where it is one
/// of both. Output: `[N, classes]`. Stops as the machines' own library does, at an error of `0.005 / classes`, since the
/// answers that models are compared with do.
///
/// Source: Wu, Lin and Weng, "Probability Estimates for Multi-class Classification by Pairwise Coupling" (2004),
/// algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairCoupling {
    /// How many classes there are; at least 2.
    pub classes: usize,
}

impl PairCoupling {
    fn solve(self, pairs: &[f64]) -> Vec<f64> {
        let k = self.classes;
        let at = |matrix: &[f64], i: usize, j: usize| matrix.get(i * k + j).copied().unwrap_or(0.0);
        let mut r = vec![0.0; k * k];
        let places = (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j)));
        for ((i, j), pair) in places.zip(pairs) {
            for (place, value) in [(i * k + j, *pair), (j * k + i, 1.0 - pair)] {
                if let Some(slot) = r.get_mut(place) {
                    *slot = value;
                }
            }
        }
        let entry = |t: usize, j: usize| -> f64 {
            if t == j {
                return (0..k).filter(|j| *j != t).map(|j| at(&r, j, t) * at(&r, j, t)).sum();
            }
            -at(&r, j, t) * at(&r, t, j)
        };
        let q: Vec<f64> = (0..k * k).map(|place| entry(place / k, place % k)).collect();
        #[expect(clippy::cast_precision_loss, reason = "a count of classes")]
        let count = k as f64;
        let mut p = vec![1.0 / count; k];
        for _ in 0..k.max(100) {
            let mut qp: Vec<f64> =
                q.chunks(k).map(|row| row.iter().zip(&p).map(|(a, b)| a * b).sum()).collect();
            let mut pqp: f64 = p.iter().zip(&qp).map(|(a, b)| a * b).sum();
            let error = qp.iter().map(|item| (item - pqp).abs()).fold(0.0, f64::max);
            if error < 0.005 / count {
                break;
            }
            for t in 0..k {
                let corner = at(&q, t, t);
                let now = qp.get(t).copied().unwrap_or(0.0);
                let step = (pqp - now) / corner;
                if let Some(slot) = p.get_mut(t) {
                    *slot += step;
                }
                pqp = (pqp + step * (step * corner + 2.0 * now)) / (1.0 + step) / (1.0 + step);
                for (j, (qp, p)) in qp.iter_mut().zip(&mut p).enumerate() {
                    *qp = (*qp + step * at(&q, t, j)) / (1.0 + step);
                    *p /= 1.0 + step;
                }
            }
        }
        p
    }
}

impl Rule for PairCoupling {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        super::need_type(x, Datatype::Fp32)?;
        let (rows, columns) = table(x)?;
        if self.classes < 2 || self.classes > 1 << 12 || columns != self.classes * (self.classes - 1) / 2 {
            return Err(PlanError::shape(format!("{columns} pairs of {} classes", self.classes)));
        }
        Ok(vec![x.shaped([rows, self.classes])])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        let (x, output) = (inputs.need(0)?.reals()?, one(outputs)?);
        let rows = x.chunks((self.classes * (self.classes - 1) / 2).max(1));
        let items = rows.flat_map(|row| self.solve(row)).collect();
        Ok(vec![Array::from_reals(output.datatype, output.shape.clone(), items)?])
    }

    fn work(&self, inputs: &Inputs<'_, Fact>, _: &[Fact]) -> u64 {
        let rounds = self.classes.max(100) as u64;
        inputs.get(0).map_or(0, |x| x.elements() as u64).saturating_mul(rounds).saturating_mul(4)
    }
}

/// Keys to values by a table. Input: x of the keys' datatype. Output: x's shape, the values' datatype.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelEncode {
    /// The keys, a list; NaN is a key.
    pub keys: Array,
    /// The values, a list as long.
    pub values: Array,
    /// What other keys become; one element of the values' datatype.
    pub default: Array,
}

impl Rule for LabelEncode {
    fn outputs(&self, inputs: &Inputs<'_, Fact>) -> Result<Vec<Fact>, PlanError> {
        inputs.arity(1..=1)?;
        let x = inputs.need(0)?;
        super::same_type(x, &self.keys.fact())?;
        super::same_type(&self.values.fact(), &self.default.fact())?;
        if self.keys.len() != self.values.len() || self.default.len() != 1 {
            return Err(PlanError::attribute("a table with more keys than values"));
        }
        Ok(vec![x.with(self.values.datatype())])
    }

    fn run(&self, inputs: &Inputs<'_, Array>, outputs: &[Fact]) -> Result<Vec<Array>, PlanError> {
        use std::collections::BTreeMap;
        let (x, output) = (inputs.need(0)?, one(outputs)?);
        let places: Vec<Option<usize>> =
            if let (Some(keys), Some(items)) = (self.keys.items::<Vec<u8>>(), x.items::<Vec<u8>>()) {
                let table: BTreeMap<&[u8], usize> =
                    keys.iter().enumerate().rev().map(|(at, key)| (key.as_slice(), at)).collect();
                items.iter().map(|item| table.get(item.as_slice()).copied()).collect()
            } else {
                // Bits, with one zero and one NaN, so that numbers can be looked up.
                let bits = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { (x + 0.0).to_bits() };
                let keys = self.keys.reals()?;
                let table: BTreeMap<u64, usize> =
                    keys.into_iter().enumerate().rev().map(|(at, key)| (bits(key), at)).collect();
                x.reals()?.into_iter().map(|item| table.get(&bits(item)).copied()).collect()
            };
        Ok(vec![self.values.pick_or(&self.default, output.shape.clone(), places)?])
    }
}
