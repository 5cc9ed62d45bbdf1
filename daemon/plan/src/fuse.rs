//! Recognises what several nodes do together and writes it as one.
//!
//! In: a [`Graph`]. Out: a graph that computes the same, with fewer nodes. Each pattern is one file; each is tested by
//! running both graphs through the interpreter.

mod activation;
mod attention;
mod batch_norm;
mod edit;
mod epilogue;
mod layer_norm;
mod linear;
mod pad;
mod quantized;
mod reshape;
mod scaled;

use self::edit::Edit;
use crate::{error::PlanError, graph::Graph};

/// How far a plan may round otherwise than the model's own order of operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// Scales are folded into weights, sums taken in another order.
    #[default]
    Fast,
    /// As `Fast`: what this crate fuses stays within a few units in the last place; back ends leave out their own
    /// approximations, such as Winograd's convolution.
    Strict,
}

/// What becomes of quantised operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Integers {
    /// Dequantise, operator, quantise becomes a quantised operator where there is one.
    #[default]
    Fuse,
    /// Pairs stay as they are but for constants, whose real numbers are computed.
    Fold,
}

/// Fuses a graph.
///
/// # Errors
/// [`PlanError`] when a rewritten graph is not well formed, which would be a defect of ours.
pub fn fuse(graph: &Graph, numerics: Numerics) -> Result<Graph, PlanError> {
    fuse_with(graph, numerics, Integers::Fuse)
}

/// Fuses a graph that nobody else needs: weights that change do so in place.
///
/// # Errors
/// As [`fuse`].
pub fn fuse_owned(graph: Graph, numerics: Numerics) -> Result<Graph, PlanError> {
    rewrite(graph, numerics, Integers::Fuse)
}

/// Fuses a graph, with a choice about quantised operators.
///
/// # Errors
/// As [`fuse`].
pub fn fuse_with(graph: &Graph, numerics: Numerics, integers: Integers) -> Result<Graph, PlanError> {
    rewrite(graph.clone(), numerics, integers)
}

fn rewrite(graph: Graph, _: Numerics, integers: Integers) -> Result<Graph, PlanError> {
    let mut edit = Edit::new(graph);
    reshape::merge(&mut edit)?;
    if integers == Integers::Fuse {
        quantized::fuse(&mut edit)?;
    }
    edit.fold()?;
    if integers == Integers::Fuse {
        scaled::fuse(&mut edit);
    }
    activation::fuse(&mut edit)?;
    layer_norm::fuse(&mut edit)?;
    attention::fuse(&mut edit)?;
    pad::fuse(&mut edit)?;
    batch_norm::fuse(&mut edit)?;
    linear::fuse(&mut edit)?;
    epilogue::fuse(&mut edit)?;
    edit.finish()
}
