//! LSTM, GRU and RNN: their weights against each other and against the features of their input.
//!
//! An engine that trusts these shapes reads past the weights, and answers then carry memory of other models. So what
//! is known is held to fit here, and what is not known is said, for whoever loads the model to hold.
//!
//! Source: ONNX operators LSTM-14, GRU-14, RNN-14 (inputs and their shapes).

use super::{
    error::ScanError,
    scope::{Fact, Shape},
};

/// A recurrent node, and what its input must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recurrence {
    /// The node, for messages.
    pub node: String,
    /// `LSTM`, `GRU`, `RNN` or `DynamicQuantizeLSTM`.
    pub operator: String,
    /// The tensor that it takes step by step; its last dimension are the features.
    pub input: String,
    /// Features that the weights are for; `None` when only an engine can tell.
    pub features: Option<u64>,
    /// Whether the input was proved to have these features. If not, whoever compiles the model must hold its shape
    /// against them before it runs.
    pub proved: bool,
}

/// A node of a recurrent operator.
pub(crate) struct RecurrentNode<'f> {
    pub(crate) node: &'f str,
    pub(crate) op: &'f str,
    pub(crate) inputs: &'f [Fact],
    pub(crate) hidden_size: Option<i64>,
    pub(crate) bidirectional: bool,
}

/// Whether `op` has recurrent weights.
pub(crate) fn has_weights(op: &str) -> bool {
    gates(op).is_some()
}

/// Whether `op` keeps state from step to step.
pub(crate) fn is_recurrent(op: &str) -> bool {
    has_weights(op) || matches!(op, "Scan" | "Loop")
}

fn gates(op: &str) -> Option<i64> {
    Some(match op {
        "LSTM" | "DynamicQuantizeLSTM" => 4,
        "GRU" => 3,
        "RNN" => 1,
        _ => return None,
    })
}

impl RecurrentNode<'_> {
    /// The features that the weights are for, and whether the input was proved to have them.
    pub(crate) fn check(&self) -> Result<(Option<u64>, bool), ScanError> {
        let gates = gates(self.op).unwrap_or(1);
        let directions = if self.bidirectional { 2 } else { 1 };
        // The quantised operator keeps its weights transposed: [directions, features, gates * hidden].
        let transposed = self.op == "DynamicQuantizeLSTM";
        let weights = |shape: &[i64; 3]| {
            let [d, first, second] = *shape;
            if transposed { [d, second, first] } else { [d, first, second] }
        };
        let w = self.rank_3("W", 1)?.as_ref().map(weights);
        let r = self.rank_3("R", 2)?.as_ref().map(weights);
        let hidden = self.hidden_size.or_else(|| r.map(|[.., hidden]| hidden)).unwrap_or(-1);
        let stacked = if hidden < 0 { -1 } else { gates.saturating_mul(hidden) };
        if let Some(w) = w {
            self.agree("W", &w, &[directions, stacked, -1])?;
        }
        if let Some(r) = r {
            self.agree("R", &r, &[directions, stacked, hidden])?;
        }
        if !transposed && let Some(bias) = self.dims(3) {
            self.agree("B", &bias, &[directions, stacked.saturating_mul(2).max(-1)])?;
        }
        for (name, position) in [("initial_h", 5), ("initial_c", 6)] {
            if let Some(state) = self.dims(position) {
                self.agree(name, &state, &[-1, -1, hidden])?;
            }
        }
        let features = w.map(|[.., features]| features).filter(|features| *features >= 0);
        let given = self.rank_3("X", 0)?.map(|[.., given]| given).filter(|given| *given >= 0);
        match (features, given) {
            (Some(features), Some(given)) if features != given => {
                Err(self.fault(format!("X has {given} features, but its weights are for {features}")))
            }
            (features, given) => Ok((
                features.and_then(|features| u64::try_from(features).ok()),
                features.is_some() && given.is_some(),
            )),
        }
    }

    fn dims(&self, position: usize) -> Shape {
        self.inputs.get(position)?.shape.clone()
    }

    fn rank_3(&self, name: &str, position: usize) -> Result<Option<[i64; 3]>, ScanError> {
        let Some(shape) = self.dims(position) else { return Ok(None) };
        match shape.as_array() {
            Some(dims) => Ok(Some(*dims)),
            None => Err(self.fault(format!("{name} has {} dimensions, not 3", shape.len()))),
        }
    }

    /// -1 in either agrees with anything.
    fn agree(&self, name: &str, got: &[i64], want: &[i64]) -> Result<(), ScanError> {
        let fits = |(got, want): (&i64, &i64)| *got < 0 || *want < 0 || got == want;
        if got.len() == want.len() && got.iter().zip(want).all(fits) {
            Ok(())
        } else {
            Err(self.fault(format!("{name} has shape {got:?}, but the other weights ask for {want:?}")))
        }
    }

    fn fault(&self, reason: String) -> ScanError {
        ScanError::Recurrent { node: self.node.to_owned(), reason }
    }
}
