//! Refuses recurrent operators whose sizes do not agree.
//!
//! tract 0.23.9 does not compare the features of an LSTM's, GRU's or RNN's input with those of its weights, and then
//! reads past the weights: the answer depends on what else lies in memory, or the process crashes. Sizes that are
//! still open once the inputs' shapes are known are refused too.

use tract_onnx::{
    prelude::{InferenceModel, InferenceModelExt as _, OutletId},
    tract_hir::infer::Factoid as _,
};

use crate::words;

/// The recurrent operators, and how many matrices each stacks in its weights.
///
/// Source: ONNX operator specification, LSTM (iofc), GRU (zrh), RNN (i).
const OPERATORS: [(&str, i64); 3] = [("LSTM", 4), ("GRU", 3), ("RNN", 1)];

/// Whether an operator is recurrent.
pub(crate) fn is_recurrent(operator: &str) -> bool {
    OPERATORS.iter().any(|(recurrent, _)| *recurrent == operator)
}

/// Whether a model has recurrent operators, or loops that may hold state.
pub(crate) fn has_state(model: &InferenceModel) -> bool {
    model.nodes.iter().any(|node| {
        let name = node.op.name();
        name == "Scan" || name == "Loop" || is_recurrent(&name)
    })
}

/// Holds the sizes of every recurrent operator against each other, in a model whose inputs have concrete shapes.
pub(crate) fn check(model: &mut InferenceModel) -> Result<(), String> {
    let gates =
        |name: &str| OPERATORS.iter().find(|(operator, _)| *operator == name).map(|(_, gates)| *gates);
    if !model.nodes.iter().any(|node| gates(&node.op.name()).is_some()) {
        return Ok(());
    }
    model.analyse(false).map_err(|error| words(&error))?;
    for node in &model.nodes {
        let Some(gates) = gates(&node.op.name()) else { continue };
        let [x, w, r, ..] = node.inputs.as_slice() else {
            return Err(format!("the recurrent operator `{}` lacks inputs", node.name));
        };
        let features = dim(model, *x, 2);
        let (stacked, weight_features) = (dim(model, *w, 1), dim(model, *w, 2));
        let (recurrent_stacked, hidden) = (dim(model, *r, 1), dim(model, *r, 2));
        let agree = features.is_some()
            && features == weight_features
            && stacked.is_some()
            && stacked == recurrent_stacked
            && hidden.and_then(|hidden| hidden.checked_mul(gates)) == stacked
            && dim(model, *w, 0) == dim(model, *r, 0);
        if !agree {
            return Err(format!("the sizes of the recurrent operator `{}` do not agree", node.name));
        }
    }
    Ok(())
}

fn dim(model: &InferenceModel, outlet: OutletId, axis: usize) -> Option<i64> {
    let dims = &model.outlet_fact(outlet).ok()?.shape;
    dims.dim(axis)?.concretize()?.to_i64().ok()
}
