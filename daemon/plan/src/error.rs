//! Why a model cannot be planned, or a plan not be run.

use agentd_types::{Code, Coded};

/// Why a model cannot be planned, or a plan not be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("the file cannot be read as a model")]
    Read(#[from] agentd_onnx::read::ReadError),
    /// Something went wrong at one node.
    #[error("node {node}")]
    Node {
        /// The node's name and operator.
        node: String,
        /// What went wrong.
        source: Box<Self>,
    },
    /// An operator, or a use of one, that plans do not know; another engine may.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// Shapes that do not fit each other or the operator.
    #[error("{0}")]
    Shape(String),
    /// Datatypes that do not fit each other or the operator.
    #[error("{0}")]
    Datatype(String),
    /// An attribute that is missing, of the wrong kind or out of bounds.
    #[error("{0}")]
    Attribute(String),
    /// A value, such as an index, that is out of bounds.
    #[error("{0}")]
    Value(String),
    /// More of something than is allowed.
    #[error("{what} exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A shape depends on values that are only known when the model runs.
    #[error("{0} depends on values that are only known when the model runs")]
    DataDependent(String),
    /// A node takes what nothing before it defines: the name is unknown, or nodes form a cycle.
    #[error("`{0}` is taken but not defined before")]
    Unresolved(String),
    /// A name is defined twice.
    #[error("`{0}` is defined twice")]
    Duplicate(String),
    /// The inputs that a caller gives do not fit the model.
    #[error("{0}")]
    Input(String),
    /// A graph that is not well formed.
    #[error("{0}")]
    Graph(String),
}

impl PlanError {
    /// The error at a node: wraps it with the node's name.
    #[must_use]
    pub fn at(self, node: &str) -> Self {
        Self::Node { node: node.to_owned(), source: Box::new(self) }
    }

    pub(crate) fn shape(text: impl Into<String>) -> Self {
        Self::Shape(text.into())
    }

    pub(crate) fn datatype(text: impl Into<String>) -> Self {
        Self::Datatype(text.into())
    }

    pub(crate) fn attribute(text: impl Into<String>) -> Self {
        Self::Attribute(text.into())
    }

    pub(crate) fn value(text: impl Into<String>) -> Self {
        Self::Value(text.into())
    }

    pub(crate) fn unsupported(text: impl Into<String>) -> Self {
        Self::Unsupported(text.into())
    }
}

impl Coded for PlanError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Read(error) => return error.code(),
            Self::Node { source, .. } => return source.code(),
            Self::Unsupported(_) => "plan.unsupported",
            Self::Shape(_) => "plan.shape",
            Self::Datatype(_) => "plan.datatype",
            Self::Attribute(_) => "plan.attribute",
            Self::Value(_) => "plan.value",
            Self::TooLarge { .. } => "plan.too_large",
            Self::DataDependent(_) => "plan.data_dependent",
            Self::Unresolved(_) => "plan.unresolved",
            Self::Duplicate(_) => "plan.duplicate",
            Self::Input(_) => "plan.input",
            Self::Graph(_) => "plan.graph",
        })
    }
}
