//! Trees and ensembles of trees.

use std::collections::BTreeMap;

use agentd_types::Datatype;

use super::{binary, classes, largest, numbers, pick, transformed};
use crate::{
    error::PlanError,
    import::site::{Found, Site, all, found},
    op::{
        TreeEnsemble,
        ml::{Aggregate, Test, TreeNode},
    },
};

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

/// Where a written node's index must be put: the parent, and whether its first branch leads there.
type Parent = Option<(usize, bool)>;

/// Weights of leaves by tree and node.
type Leaves = BTreeMap<(i64, i64), Vec<(usize, f64)>>;

/// Tells a parent where its branch leads.
fn join(nodes: &mut [TreeNode], parent: Parent, new: usize) {
    if let Some((parent, is_yes)) = parent
        && let Some(TreeNode::Branch { yes, no, .. }) = nodes.get_mut(parent)
    {
        *(if is_yes { yes } else { no }) = new;
    }
}

impl Flat {
    fn read(site: &Site<'_, '_, '_>) -> Result<Self, PlanError> {
        let ints = |name: &str| site.ints(name).map(Option::unwrap_or_default);
        let flat = Self {
            trees: ints("nodes_treeids")?,
            nodes: ints("nodes_nodeids")?,
            features: ints("nodes_featureids")?,
            values: numbers(site, "nodes_values")?,
            modes: site.texts("nodes_modes")?.unwrap_or_default(),
            yes: ints("nodes_truenodeids")?,
            no: ints("nodes_falsenodeids")?,
            missing: ints("nodes_missing_value_tracks_true")?,
        };
        let lengths =
            [flat.trees.len(), flat.features.len(), flat.modes.len(), flat.yes.len(), flat.no.len()];
        if lengths != [flat.nodes.len(); 5] {
            return Err(PlanError::attribute("lists of tree nodes of different lengths"));
        }
        Ok(flat)
    }

    /// The first node of each tree.
    fn starts(&self) -> Vec<usize> {
        let mut met = std::collections::BTreeSet::new();
        self.trees.iter().enumerate().filter(|(_, tree)| met.insert(**tree)).map(|(at, _)| at).collect()
    }

    /// The question of node `at`; `None` for a leaf.
    fn test(&self, at: usize) -> Result<Option<Test>, PlanError> {
        Ok(Some(match self.modes.get(at).map(Vec::as_slice) {
            Some(b"LEAF") => return Ok(None),
            Some(b"BRANCH_LEQ") => Test::LessOrEqual,
            Some(b"BRANCH_LT") => Test::Less,
            Some(b"BRANCH_GTE") => Test::GreaterOrEqual,
            Some(b"BRANCH_GT") => Test::Greater,
            Some(b"BRANCH_EQ") => Test::Equal,
            Some(b"BRANCH_NEQ") => Test::NotEqual,
            _ => return Err(PlanError::unsupported("a tree node of this mode")),
        }))
    }

    /// Each tree from its first node on, so that branches lead to larger indices; a node that is met twice is a cycle.
    fn written(&self, mut leaves: Leaves) -> Result<(Vec<TreeNode>, Vec<usize>), PlanError> {
        let ids = self.trees.iter().zip(&self.nodes).enumerate();
        let index: BTreeMap<(i64, i64), usize> = ids.map(|(at, (tree, node))| ((*tree, *node), at)).collect();
        let (mut nodes, mut roots) = (Vec::with_capacity(self.nodes.len()), Vec::new());
        let mut seen = vec![false; self.nodes.len()];
        for start in self.starts() {
            roots.push(nodes.len());
            let mut open: Vec<(usize, Parent)> = vec![(start, None)];
            while let Some((at, parent)) = open.pop() {
                let new = nodes.len();
                match seen.get_mut(at) {
                    Some(seen) if !*seen => *seen = true,
                    _ => return Err(PlanError::attribute("a tree with a cycle")),
                }
                join(&mut nodes, parent, new);
                let tree = pick(&self.trees, at);
                let Some(test) = self.test(at)? else {
                    let own = leaves.remove(&(tree, pick(&self.nodes, at)));
                    nodes.push(TreeNode::Leaf(own.unwrap_or_default()));
                    continue;
                };
                nodes.push(TreeNode::Branch {
                    feature: usize::try_from(pick(&self.features, at))
                        .map_err(|_| PlanError::attribute("a negative feature"))?,
                    test,
                    value: pick(&self.values, at),
                    members: Vec::new(),
                    yes: 0,
                    no: 0,
                    missing: pick(&self.missing, at) != 0,
                });
                for (child, is_yes) in [(pick(&self.no, at), false), (pick(&self.yes, at), true)] {
                    let child = index.get(&(tree, child));
                    let child = child.ok_or_else(|| PlanError::attribute("a branch to nowhere"))?;
                    open.push((*child, Some((new, is_yes))));
                }
            }
        }
        Ok((nodes, roots))
    }
}

/// The trees of a node; leaves from attributes that start with `prefix`.
fn trees(site: &Site<'_, '_, '_>, prefix: &str) -> Result<(Vec<TreeNode>, Vec<usize>), PlanError> {
    let ints = |name: &str| site.ints(&format!("{prefix}_{name}")).map(Option::unwrap_or_default);
    let flat = Flat::read(site)?;
    let mut leaves = Leaves::new();
    let (leaf_trees, leaf_nodes, leaf_ids) = (ints("treeids")?, ints("nodeids")?, ints("ids")?);
    let weights = numbers(site, &format!("{prefix}_weights"))?;
    for (at, key) in leaf_trees.into_iter().zip(leaf_nodes).enumerate() {
        let target =
            usize::try_from(pick(&leaf_ids, at)).map_err(|_| PlanError::attribute("a negative target"))?;
        leaves.entry(key).or_default().push((target, pick(&weights, at)));
    }
    flat.written(leaves)
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

pub(super) fn regressor(site: &mut Site<'_, '_, '_>) -> Found {
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

pub(super) fn classifier(site: &mut Site<'_, '_, '_>) -> Found {
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

/// Attributes of TreeEnsemble of version 5: branches and leaves in lists of their own.
struct Lists {
    features: Vec<i64>,
    splits: Vec<f64>,
    modes: Vec<i64>,
    /// The set of each node that asks for membership.
    members: Vec<Vec<f64>>,
    yes: Vec<i64>,
    yes_leafs: Vec<i64>,
    no: Vec<i64>,
    no_leafs: Vec<i64>,
    missing: Vec<i64>,
    targets: Vec<i64>,
    weights: Vec<f64>,
}

impl Lists {
    fn read(site: &Site<'_, '_, '_>) -> Result<Self, PlanError> {
        let ints = |name: &str| site.ints(name).map(Option::unwrap_or_default);
        let reals = |name: &str| {
            let tensor = site.tensor(name)?.map(|tensor| tensor.reals()).transpose()?;
            Ok::<_, PlanError>(tensor.unwrap_or_default())
        };
        let modes = site.tensor("nodes_modes")?.map(|tensor| tensor.ints()).transpose()?.unwrap_or_default();
        let values = reals("membership_values")?;
        // The sets belong to the nodes of their mode, in order.
        let mut sets = values.split(|value| value.is_nan());
        let own = |mode: &i64| if *mode == 6 { sets.next().unwrap_or_default() } else { &[] }.to_vec();
        let members = modes.iter().map(own).collect();
        Ok(Self {
            features: ints("nodes_featureids")?,
            splits: reals("nodes_splits")?,
            modes,
            members,
            yes: ints("nodes_truenodeids")?,
            yes_leafs: ints("nodes_trueleafs")?,
            no: ints("nodes_falsenodeids")?,
            no_leafs: ints("nodes_falseleafs")?,
            missing: ints("nodes_missing_value_tracks_true")?,
            targets: ints("leaf_targetids")?,
            weights: reals("leaf_weights")?,
        })
    }

    fn branch(&self, at: usize) -> Result<TreeNode, PlanError> {
        let feature = self.features.get(at).and_then(|feature| usize::try_from(*feature).ok());
        Ok(TreeNode::Branch {
            feature: feature.ok_or_else(|| PlanError::attribute("a branch to nowhere"))?,
            test: match pick(&self.modes, at) {
                0 => Test::LessOrEqual,
                1 => Test::Less,
                2 => Test::GreaterOrEqual,
                3 => Test::Greater,
                4 => Test::Equal,
                5 => Test::NotEqual,
                _ => Test::Member,
            },
            value: pick(&self.splits, at),
            members: self.members.get(at).cloned().unwrap_or_default(),
            yes: 0,
            no: 0,
            missing: pick(&self.missing, at) != 0,
        })
    }

    fn leaf(&self, at: usize) -> Result<TreeNode, PlanError> {
        let target = self.targets.get(at).and_then(|target| usize::try_from(*target).ok());
        let target = target.ok_or_else(|| PlanError::attribute("a branch to nowhere"))?;
        Ok(TreeNode::Leaf(vec![(target, pick(&self.weights, at))]))
    }

    /// The trees below `starts`, with branches that lead to larger indices.
    fn written(&self, starts: &[i64]) -> Result<(Vec<TreeNode>, Vec<usize>), PlanError> {
        let (mut nodes, mut roots) = (Vec::new(), Vec::new());
        let limit = 2 * self.features.len() + self.targets.len() + 1;
        for root in starts {
            roots.push(nodes.len());
            // What waits to be written: its index, whether it is a leaf, and where its new index must be put.
            let mut open: Vec<(i64, bool, Parent)> = vec![(*root, false, None)];
            while let Some((at, is_leaf, parent)) = open.pop() {
                let new = nodes.len();
                if new > limit {
                    return Err(PlanError::attribute("a tree with a cycle"));
                }
                join(&mut nodes, parent, new);
                let at = usize::try_from(at).map_err(|_| PlanError::attribute("a branch to nowhere"))?;
                if is_leaf {
                    nodes.push(self.leaf(at)?);
                    continue;
                }
                nodes.push(self.branch(at)?);
                open.push((pick(&self.no, at), pick(&self.no_leafs, at) != 0, Some((new, false))));
                open.push((pick(&self.yes, at), pick(&self.yes_leafs, at) != 0, Some((new, true))));
            }
        }
        Ok((nodes, roots))
    }
}

/// TreeEnsemble of version 5.
pub(super) fn ensemble(site: &mut Site<'_, '_, '_>) -> Found {
    let x = site.id(0)?;
    let (nodes, roots) = Lists::read(site)?.written(&site.ints("tree_roots")?.unwrap_or_default())?;
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
        double: site.fact(0)?.datatype == Datatype::Fp64,
    };
    found(site.one(op, &[x])?)
}
