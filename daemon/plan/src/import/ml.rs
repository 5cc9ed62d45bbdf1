//! Operators of classic machine learning, as scikit-learn's exporters write them.

use agentd_types::Datatype;

use super::site::{Found, Site, all, found};
use crate::{
    array::{Array, is_float},
    error::PlanError,
    graph::ValueId,
    op::{
        ArgReduce, Binary, Compare, Concat, Gather, LabelEncode, MatMul, PairCoupling, Reduce, Softmax,
        SupportVectors, TreeEnsemble, Unary, Where,
        ml::{Aggregate, Kernel, Test, TreeNode},
        reduce::ReduceKind,
    },
};

pub(crate) fn import(site: &mut Site<'_, '_, '_>) -> Found {
    match site.node.operator {
        "Scaler" => scaler(site),
        "Imputer" => imputer(site),
        "Binarizer" => binarizer(site),
        "Normalizer" => normalizer(site),
        "LabelEncoder" => label_encoder(site),
        "OneHotEncoder" => one_hot(site),
        "ArrayFeatureExtractor" => extract(site),
        "FeatureVectorizer" => vectorize(site),
        "LinearRegressor" => linear_regressor(site),
        "LinearClassifier" => linear_classifier(site),
        "TreeEnsembleRegressor" => tree_regressor(site),
        "TreeEnsembleClassifier" => tree_classifier(site),
        "TreeEnsemble" => tree_ensemble(site),
        "SVMRegressor" => svm_regressor(site),
        "SVMClassifier" => svm_classifier(site),
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

fn scaler(site: &mut Site<'_, '_, '_>) -> Found {
    let x = rows(site)?;
    let (offset, scale) = (need_floats(site, "offset")?, need_floats(site, "scale")?);
    let (offset, scale) = (site.list(offset)?, site.list(scale)?);
    let moved = site.binary(Binary::Sub, x, offset)?;
    found(site.binary(Binary::Mul, moved, scale)?)
}

fn imputer(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let datatype = site.fact(0)?.datatype;
    let (values, replaced) = if is_float(datatype) {
        (
            Array::list(need_floats(site, "imputed_value_floats")?),
            f64::from(site.float("replaced_value_float", 0.0)?),
        )
    } else {
        let values = site.ints("imputed_value_int64s")?.unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "markers are small numbers")]
        let replaced = site.int("replaced_value_int64", 0)? as f64;
        (Array::list(values), replaced)
    };
    let values = site.add(values)?;
    let values = site.cast(values, datatype)?;
    let values = if site.fact_of(values)?.shape == [1] { site.reshape(values, [])? } else { values };
    let missing = if replaced.is_nan() {
        site.unary(Unary::IsNan, x)?
    } else {
        let marker = site.number(datatype, replaced)?;
        site.one(Compare::Equal, &[x, marker])?
    };
    found(site.one(Where, &[missing, values, x])?)
}

fn binarizer(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let datatype = site.fact(0)?.datatype;
    let threshold = site.float("threshold", 0.0)?;
    let threshold = site.number(datatype, f64::from(threshold))?;
    let above = site.one(Compare::Greater, &[x, threshold])?;
    found(site.cast(above, datatype)?)
}

fn normalizer(site: &mut Site<'_, '_, '_>) -> Found {
    let x = rows(site)?;
    let kind = match site.text("norm", "MAX")?.as_str() {
        "MAX" => ReduceKind::Max,
        "L1" => ReduceKind::L1,
        "L2" => ReduceKind::L2,
        other => return Err(PlanError::attribute(format!("the norm `{other}`"))),
    };
    let sized = if kind == ReduceKind::Max { site.unary(Unary::Abs, x)? } else { x };
    let norm = site.one(Reduce { kind, axes: vec![1], keep: true }, &[sized])?;
    // Rows of zeros stay.
    let (zero, unit) = (site.number(Datatype::Fp32, 0.0)?, site.number(Datatype::Fp32, 1.0)?);
    let empty = site.one(Compare::Equal, &[norm, zero])?;
    let divisor = site.one(Where, &[empty, unit, norm])?;
    found(site.binary(Binary::Div, x, divisor)?)
}

/// A list from one of the attributes `prefix_strings`, `_int64s`, `_floats` or the tensor `prefix_tensor`.
fn list(site: &Site<'_, '_, '_>, prefix: &str) -> Result<Option<Array>, PlanError> {
    if let Some(texts) = site.texts(&format!("{prefix}_strings"))? {
        return Ok(Some(Array::list(texts)));
    }
    if let Some(ints) = site.ints(&format!("{prefix}_int64s"))? {
        return Ok(Some(Array::list(ints)));
    }
    if let Some(floats) = site.floats(&format!("{prefix}_floats"))? {
        return Ok(Some(Array::list(floats)));
    }
    site.tensor(&format!("{prefix}_tensor"))
}

fn label_encoder(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let from = site.fact(0)?.datatype;
    let (keys, values) = match (list(site, "keys")?, list(site, "values")?) {
        (Some(keys), Some(values)) => (keys, values),
        // Version 1: positions and names.
        _ => {
            let names = Array::list(site.texts("classes_strings")?.unwrap_or_default());
            let places = Array::list((0..).take(names.len()).collect::<Vec<i64>>());
            if from == Datatype::Bytes { (names, places) } else { (places, names) }
        }
    };
    let default = match (site.tensor("default_tensor")?, values.datatype()) {
        (Some(default), _) => default.reshaped([])?,
        (None, Datatype::Bytes) => Array::scalar(site.text("default_string", "_Unused")?.into_bytes()),
        (None, Datatype::Int64) => Array::scalar(site.int("default_int64", -1)?),
        (None, Datatype::Fp32) => Array::scalar(site.float("default_float", -0.0)?),
        (None, datatype) => Array::zeros(datatype, [])?,
    };
    found(site.one(LabelEncode { keys, values, default }, &[x])?)
}

/// One column a category; what is none of them has zeros alone, also where the model would refuse it (`zeros` is 0).
fn one_hot(site: &mut Site<'_, '_, '_>) -> Found {
    let (mut x, fact) = (site.id(0)?, site.fact(0)?);
    let keys = match (site.texts("cats_strings")?, site.ints("cats_int64s")?) {
        (Some(texts), _) if fact.datatype == Datatype::Bytes => Array::list(texts),
        (_, Some(ints)) => Array::list(ints),
        _ => return Err(PlanError::attribute("no categories")),
    };
    if keys.datatype() == Datatype::Int64 {
        x = site.cast(x, Datatype::Int64)?;
    }
    let keys = site.add(keys)?;
    let column = site.reshape(x, [fact.shape.as_slice(), &[1]].concat())?;
    let hot = site.one(Compare::Equal, &[column, keys])?;
    found(site.cast(hot, Datatype::Fp32)?)
}

fn extract(site: &mut Site<'_, '_, '_>) -> Found {
    let (x, indices, fact) = (site.id(0)?, site.id(1)?, site.fact(0)?);
    let x = if fact.rank() == 1 { site.reshape(x, [1, fact.elements()])? } else { x };
    let count = site.fact(1)?.elements();
    let indices = site.reshape(indices, [count])?;
    let axis = site.fact_of(x)?.rank().saturating_sub(1);
    found(site.one(Gather { axis }, &[x, indices])?)
}

fn vectorize(site: &mut Site<'_, '_, '_>) -> Found {
    let mut parts = Vec::new();
    for id in site.ids()? {
        let fact = site.fact_of(id)?;
        let rows = fact.shape.first().copied().unwrap_or(1);
        let part = site.reshape(id, [rows, fact.elements().checked_div(rows).unwrap_or(0)])?;
        parts.push(site.cast(part, Datatype::Fp32)?);
    }
    found(site.one(Concat { axis: 1 }, &parts)?)
}

/// `x w^T + b` for coefficients `[targets, features]`.
fn linear(site: &mut Site<'_, '_, '_>, targets: usize) -> Result<ValueId, PlanError> {
    let x = rows(site)?;
    let features = site.fact_of(x)?.shape.get(1).copied().unwrap_or(0);
    let weights = site.add(Array::new([targets, features], need_floats(site, "coefficients")?)?)?;
    let mut inputs = vec![Some(x), Some(weights)];
    if let Some(intercepts) = site.floats("intercepts")? {
        inputs.push(Some(site.list(intercepts)?));
    }
    let scores = site.emit(MatMul { transpose_b: true, ..MatMul::default() }, &inputs)?;
    scores.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))
}

fn linear_regressor(site: &mut Site<'_, '_, '_>) -> Found {
    let scores = linear(site, site.size("targets", 1)?)?;
    transformed(site, scores).map(|id| Some(vec![id.into()]))
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

fn linear_classifier(site: &mut Site<'_, '_, '_>) -> Found {
    let labels = classes(site)?;
    let features = rows(site)?;
    let features = site.fact_of(features)?.shape.get(1).copied().unwrap_or(1).max(1);
    let targets = need_floats(site, "coefficients")?.len() / features;
    let scores = linear(site, targets)?;
    if targets == 1 && labels.len() == 2 {
        return binary(site, scores, labels, 0.0, false);
    }
    let label = largest(site, scores, labels)?;
    let scores = transformed(site, scores)?;
    all(vec![label, scores])
}

/// Attributes of the tree operators before version 5.
struct Flat {
    trees: Vec<i64>,
    nodes: Vec<i64>,
    features: Vec<i64>,
    values: Vec<f64>,
    modes: Vec<Vec<u8>>,
    yes: Vec<i64>,
    no: Vec<i64>,
    missing: Vec<i64>,
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

/// The trees of a node; leaves from attributes that start with `prefix`.
fn trees(site: &Site<'_, '_, '_>, prefix: &str) -> Result<(Vec<TreeNode>, Vec<usize>), PlanError> {
    use std::collections::BTreeMap;
    let ints = |name: &str| site.ints(name).map(Option::unwrap_or_default);
    let flat = Flat {
        trees: ints("nodes_treeids")?,
        nodes: ints("nodes_nodeids")?,
        features: ints("nodes_featureids")?,
        values: numbers(site, "nodes_values")?,
        modes: site.texts("nodes_modes")?.unwrap_or_default(),
        yes: ints("nodes_truenodeids")?,
        no: ints("nodes_falsenodeids")?,
        missing: ints("nodes_missing_value_tracks_true")?,
    };
    let count = flat.nodes.len();
    if [flat.trees.len(), flat.features.len(), flat.modes.len(), flat.yes.len(), flat.no.len()] != [count; 5]
    {
        return Err(PlanError::attribute("lists of tree nodes of different lengths"));
    }
    let index: BTreeMap<(i64, i64), usize> = flat
        .trees
        .iter()
        .zip(&flat.nodes)
        .enumerate()
        .map(|(at, (tree, node))| ((*tree, *node), at))
        .collect();
    let mut leaves: BTreeMap<(i64, i64), Vec<(usize, f64)>> = BTreeMap::new();
    let (leaf_trees, leaf_nodes) = (ints(&format!("{prefix}_treeids"))?, ints(&format!("{prefix}_nodeids"))?);
    let (leaf_ids, weights) = (ints(&format!("{prefix}_ids"))?, numbers(site, &format!("{prefix}_weights"))?);
    for (at, key) in leaf_trees.into_iter().zip(leaf_nodes).enumerate() {
        let target =
            usize::try_from(pick(&leaf_ids, at)).map_err(|_| PlanError::attribute("a negative target"))?;
        leaves.entry(key).or_default().push((target, pick(&weights, at)));
    }
    // Each tree from its first node on, so that branches lead to larger indices; a node that is met twice is a cycle.
    let (mut nodes, mut roots) = (Vec::with_capacity(count), Vec::new());
    let mut seen = vec![false; count];
    let mut first = BTreeMap::new();
    for tree in &flat.trees {
        let next = first.len();
        first.entry(*tree).or_insert(next);
    }
    let mut starts: Vec<(usize, usize)> = Vec::new();
    for (at, tree) in flat.trees.iter().enumerate() {
        let order = first.get(tree).copied().unwrap_or(0);
        if starts.len() == order {
            starts.push((order, at));
        }
    }
    for (_, start) in starts {
        roots.push(nodes.len());
        // Where the new index of a node must be written: the parent and the branch.
        let mut open: Vec<(usize, Option<(usize, bool)>)> = vec![(start, None)];
        while let Some((at, parent)) = open.pop() {
            let new = nodes.len();
            match seen.get_mut(at) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(PlanError::attribute("a tree with a cycle")),
            }
            if let Some((parent, is_yes)) = parent
                && let Some(TreeNode::Branch { yes, no, .. }) = nodes.get_mut(parent)
            {
                *(if is_yes { yes } else { no }) = new;
            }
            let tree = pick(&flat.trees, at);
            let test = match flat.modes.get(at).map(Vec::as_slice) {
                Some(b"LEAF") => {
                    nodes.push(TreeNode::Leaf(
                        leaves.remove(&(tree, pick(&flat.nodes, at))).unwrap_or_default(),
                    ));
                    continue;
                }
                Some(b"BRANCH_LEQ") => Test::LessOrEqual,
                Some(b"BRANCH_LT") => Test::Less,
                Some(b"BRANCH_GTE") => Test::GreaterOrEqual,
                Some(b"BRANCH_GT") => Test::Greater,
                Some(b"BRANCH_EQ") => Test::Equal,
                Some(b"BRANCH_NEQ") => Test::NotEqual,
                _ => return Err(PlanError::unsupported("a tree node of this mode")),
            };
            nodes.push(TreeNode::Branch {
                feature: usize::try_from(pick(&flat.features, at))
                    .map_err(|_| PlanError::attribute("a negative feature"))?,
                test,
                value: pick(&flat.values, at),
                members: Vec::new(),
                yes: 0,
                no: 0,
                missing: pick(&flat.missing, at) != 0,
            });
            for (child, is_yes) in [(pick(&flat.no, at), false), (pick(&flat.yes, at), true)] {
                let child =
                    index.get(&(tree, child)).ok_or_else(|| PlanError::attribute("a branch to nowhere"))?;
                open.push((*child, Some((new, is_yes))));
            }
        }
    }
    Ok((nodes, roots))
}

fn aggregate(site: &Site<'_, '_, '_>) -> Result<Aggregate, PlanError> {
    Ok(match site.text("aggregate_function", "SUM")?.as_str() {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => return Err(PlanError::attribute(format!("aggregate {other}"))),
    })
}

fn tree_regressor(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let (nodes, roots) = trees(site, "target")?;
    let op = TreeEnsemble {
        nodes,
        roots,
        targets: site.size("n_targets", 1)?,
        aggregate: aggregate(site)?,
        base: numbers(site, "base_values")?,
        double: false,
    };
    let scores = site.one(op, &[x])?;
    transformed(site, scores).map(|id| Some(vec![id.into()]))
}

fn tree_classifier(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let labels = classes(site)?;
    let (mut nodes, roots) = trees(site, "class")?;
    let targets = |node: &TreeNode| match node {
        TreeNode::Leaf(weights) => weights.iter().map(|(target, _)| *target).max(),
        TreeNode::Branch { .. } => None,
    };
    let only = |node: &TreeNode, wanted: usize| match node {
        TreeNode::Leaf(weights) => weights.iter().all(|(target, _)| *target == wanted),
        TreeNode::Branch { .. } => true,
    };
    let base = numbers(site, "base_values")?;
    // Two classes of which the trees weigh only one: the other has the rest.
    let one = nodes.iter().filter_map(targets).max().unwrap_or(0);
    let single = labels.len() == 2 && nodes.iter().all(|node| only(node, one));
    let weights = numbers(site, "class_weights")?;
    let probability = weights.iter().all(|weight| *weight >= 0.0);
    if single {
        for node in &mut nodes {
            if let TreeNode::Leaf(weights) = node {
                weights.iter_mut().for_each(|(target, _)| *target = 0);
            }
        }
        let base: Vec<f64> = if base.len() > 1 { base.last().copied().into_iter().collect() } else { base };
        let op = TreeEnsemble { nodes, roots, targets: 1, aggregate: Aggregate::Sum, base, double: false };
        let scores = site.one(op, &[x])?;
        return binary(site, scores, labels, if probability { 0.5 } else { 0.0 }, probability);
    }
    let op =
        TreeEnsemble { nodes, roots, targets: labels.len(), aggregate: Aggregate::Sum, base, double: false };
    let scores = site.one(op, &[x])?;
    let label = largest(site, scores, labels)?;
    let scores = transformed(site, scores)?;
    all(vec![label, scores])
}

/// A node that waits: its index, whether it is a leaf, and the parent and branch that lead to it.
type Branch = (i64, bool, Option<(usize, bool)>);

/// TreeEnsemble of version 5: branches and leaves in lists of their own.
fn tree_ensemble(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let double = site.fact(0)?.datatype == Datatype::Fp64;
    let ints = |name: &str| site.ints(name).map(Option::unwrap_or_default);
    let reals = |name: &str| {
        Ok::<_, PlanError>(site.tensor(name)?.map(|tensor| tensor.reals()).transpose()?.unwrap_or_default())
    };
    let (features, splits) = (ints("nodes_featureids")?, reals("nodes_splits")?);
    let modes = site.tensor("nodes_modes")?.map(|tensor| tensor.ints()).transpose()?.unwrap_or_default();
    let (yes, yes_leafs) = (ints("nodes_truenodeids")?, ints("nodes_trueleafs")?);
    let (no, no_leafs) = (ints("nodes_falsenodeids")?, ints("nodes_falseleafs")?);
    let missing = ints("nodes_missing_value_tracks_true")?;
    let (targets, weights) = (ints("leaf_targetids")?, reals("leaf_weights")?);
    let sets: Vec<Vec<f64>> =
        reals("membership_values")?.split(|value| value.is_nan()).map(<[f64]>::to_vec).collect();
    // The sets belong to the nodes of their mode, in order.
    let mut set = 0;
    let members: Vec<Vec<f64>> = modes
        .iter()
        .map(|mode| {
            let own = if *mode == 6 { sets.get(set).cloned().unwrap_or_default() } else { Vec::new() };
            set += usize::from(*mode == 6);
            own
        })
        .collect();
    let (mut nodes, mut roots) = (Vec::new(), Vec::new());
    let limit = 2 * features.len() + targets.len() + 1;
    for root in ints("tree_roots")? {
        roots.push(nodes.len());
        let mut open: Vec<Branch> = vec![(root, false, None)];
        while let Some((at, is_leaf, parent)) = open.pop() {
            let new = nodes.len();
            if new > limit {
                return Err(PlanError::attribute("a tree with a cycle"));
            }
            if let Some((parent, is_yes)) = parent
                && let Some(TreeNode::Branch { yes, no, .. }) = nodes.get_mut(parent)
            {
                *(if is_yes { yes } else { no }) = new;
            }
            let at = usize::try_from(at).map_err(|_| PlanError::attribute("a branch to nowhere"))?;
            if is_leaf {
                let target = targets.get(at).and_then(|target| usize::try_from(*target).ok());
                let target = target.ok_or_else(|| PlanError::attribute("a branch to nowhere"))?;
                nodes.push(TreeNode::Leaf(vec![(target, pick(&weights, at))]));
                continue;
            }
            let feature = features.get(at).and_then(|feature| usize::try_from(*feature).ok());
            nodes.push(TreeNode::Branch {
                feature: feature.ok_or_else(|| PlanError::attribute("a branch to nowhere"))?,
                test: match pick(&modes, at) {
                    0 => Test::LessOrEqual,
                    1 => Test::Less,
                    2 => Test::GreaterOrEqual,
                    3 => Test::Greater,
                    4 => Test::Equal,
                    5 => Test::NotEqual,
                    _ => Test::Member,
                },
                value: pick(&splits, at),
                members: members.get(at).cloned().unwrap_or_default(),
                yes: 0,
                no: 0,
                missing: pick(&missing, at) != 0,
            });
            open.push((pick(&no, at), pick(&no_leafs, at) != 0, Some((new, false))));
            open.push((pick(&yes, at), pick(&yes_leafs, at) != 0, Some((new, true))));
        }
    }
    let aggregate = match site.int("aggregate_function", 1)? {
        0 => Aggregate::Average,
        2 => Aggregate::Min,
        3 => Aggregate::Max,
        _ => Aggregate::Sum,
    };
    if site.int("post_transform", 0)? != 0 {
        return Err(PlanError::unsupported("a post-transform of trees"));
    }
    let op = TreeEnsemble {
        nodes,
        roots,
        targets: site.size("n_targets", 1)?,
        aggregate,
        base: Vec::new(),
        double,
    };
    found(site.one(op, &[x])?)
}

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

fn svm_regressor(site: &mut Site<'_, '_, '_>) -> Found {
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

/// One machine for each pair of classes; the class with the most wins.
fn svm_classifier(site: &mut Site<'_, '_, '_>) -> Found {
    let labels = classes(site)?;
    let per_class = super::linear::sizes(site, "vectors_per_class")?.unwrap_or_default();
    let (weights, rho) = (need_floats(site, "coefficients")?, need_floats(site, "rho")?);
    let (prob_a, prob_b) =
        (site.floats("prob_a")?.unwrap_or_default(), site.floats("prob_b")?.unwrap_or_default());
    let classes = labels.len();
    if per_class.is_empty() {
        return Err(PlanError::unsupported("a linear support vector classifier"));
    }
    let (values, count) = kernel_values(site)?;
    if per_class.len() != classes
        || per_class.iter().sum::<usize>() != count
        || weights.len() != count * (classes - 1)
    {
        return Err(PlanError::attribute("support vectors of another number than their classes say"));
    }
    let starts: Vec<usize> =
        per_class.iter().scan(0, |start, count| Some(std::mem::replace(start, *start + count))).collect();
    let pairs: Vec<(usize, usize)> =
        (0..classes).flat_map(|i| (i + 1..classes).map(move |j| (i, j))).collect();
    // One column of weights for each pair: class i's row j - 1, class j's row i.
    let mut matrix = vec![0.0_f32; count * pairs.len()];
    for (column, (i, j)) in pairs.iter().enumerate() {
        for (class, row) in [(*i, j - 1), (*j, *i)] {
            for at in pick(&starts, class)..pick(&starts, class) + pick(&per_class, class) {
                if let Some(slot) = matrix.get_mut(at * pairs.len() + column) {
                    *slot = pick(&weights, row * count + at);
                }
            }
        }
    }
    let matrix = site.add(Array::new([count, pairs.len()], matrix)?)?;
    let rho = site.list(rho.into_iter().take(pairs.len()).collect::<Vec<f32>>())?;
    let scores = site.emit(MatMul::default(), &[Some(values), Some(matrix), Some(rho)])?;
    let scores =
        scores.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))?;
    // Votes: a score above 0 is for class i, else for class j.
    let zero = site.number(Datatype::Fp32, 0.0)?;
    let wins = site.one(Compare::Greater, &[scores, zero])?;
    let wins = site.cast(wins, Datatype::Fp32)?;
    let mut table = vec![0.0_f32; pairs.len() * classes];
    let mut losses = vec![0.0_f32; classes];
    for (row, (i, j)) in pairs.iter().enumerate() {
        for (class, vote) in [(*i, 1.0), (*j, -1.0)] {
            if let Some(slot) = table.get_mut(row * classes + class) {
                *slot = vote;
            }
        }
        if let Some(slot) = losses.get_mut(*j) {
            *slot += 1.0;
        }
    }
    let (table, losses) = (site.add(Array::new([pairs.len(), classes], table)?)?, site.list(losses)?);
    let votes = site.emit(MatMul::default(), &[Some(wins), Some(table), Some(losses)])?;
    let votes =
        votes.first().copied().ok_or_else(|| PlanError::Graph("an operator without outputs".to_owned()))?;
    if prob_a.is_empty() {
        let label = largest(site, votes, labels)?;
        if classes == 2 {
            let other = site.unary(Unary::Neg, scores)?;
            let pair = both(site, scores, other)?;
            return all(vec![label, pair]);
        }
        return all(vec![label, scores]);
    }
    // Platt's probabilities of each pair: 1 / (1 + e^(a score + b)).
    let (a, b) = (site.list(prob_a)?, site.list(prob_b)?);
    let line = site.binary(Binary::Mul, scores, a)?;
    let line = site.binary(Binary::Add, line, b)?;
    let line = site.unary(Unary::Neg, line)?;
    let pairwise = site.unary(Unary::Sigmoid, line)?;
    let pairwise = site.unary(Unary::Clip { low: 1e-7, high: 1.0 - 1e-7 }, pairwise)?;
    let probabilities = site.one(PairCoupling { classes }, &[pairwise])?;
    let label = largest(site, votes, labels)?;
    all(vec![label, probabilities])
}
