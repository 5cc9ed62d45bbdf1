//! Why a model cannot be lowered or run.

use agentd_plan::PlanError;
use agentd_types::{Code, Coded};

use crate::verify::VerifyError;

/// Why a graph cannot be lowered to a plan.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// More memory than addresses allow.
    #[error("the plan needs more memory than can be addressed")]
    TooLarge,
    /// The lowering made a plan that does not stay inside its memory.
    #[error("the plan does not stay inside its memory")]
    Verify(#[from] VerifyError),
    /// What the graph holds does not fit together.
    #[error("{0}")]
    Graph(String),
}

impl Coded for LowerError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::TooLarge => "native.too_large",
            Self::Verify(_) => "native.verify",
            Self::Graph(_) => "native.graph",
        })
    }
}

/// Why a plan could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The arena is smaller than the plan needs.
    #[error("the arena is too small for the plan")]
    Arena,
    /// An input does not fit.
    #[error("input {index} does not fit: {reason}")]
    Input {
        /// Which input.
        index: usize,
        /// Why not.
        reason: String,
    },
    /// A thread that took part in the run ended.
    #[error("a thread of the run has failed")]
    Stopped,
    /// A datatype that has no fixed size.
    #[error("texts have no place in a buffer")]
    Text,
    /// The interpreter refused a node.
    #[error("node {node}")]
    Node {
        /// The node's name.
        node: String,
        /// Why.
        source: PlanError,
    },
    /// A value does not make an array.
    #[error("a value does not fit its shape")]
    Value(#[from] PlanError),
}

impl Coded for RunError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Arena => "native.arena",
            Self::Input { .. } => "native.input",
            Self::Stopped => "native.stopped",
            Self::Text => "native.text",
            Self::Node { .. } => "native.node",
            Self::Value(_) => "native.value",
        })
    }
}
