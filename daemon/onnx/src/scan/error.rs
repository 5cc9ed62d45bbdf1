//! Why a model is refused.

use agentd_types::{Code, Coded};

use crate::{tensor::TensorFault, wire::WireError};

/// Why an ONNX file is refused before any engine sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The file is too large.
    #[error("the model has {bytes} bytes, more than {limit}")]
    Size {
        /// Bytes of the file.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The bytes are no protobuf message of ONNX's kind.
    #[error("the file is no ONNX model, or a damaged one")]
    Wire(#[from] WireError),
    /// The file has no graph.
    #[error("the file holds no graph: it is no ONNX model")]
    NoGraph,
    /// The version of the file format is unknown.
    #[error("the file is of ONNX IR version {0}; versions 3 to 20 are read")]
    IrVersion(u64),
    /// Functions inside the model.
    #[error("the model holds functions of its own, which are not supported: inline them with onnx.inliner")]
    Functions,
    /// Training information.
    #[error("the model holds training information, which is not supported: export it for inference")]
    Training,
    /// An operator set is too old, too new or not declared.
    #[error("operators of {domain} version {version} are not supported; versions {} to {} are", bounds.0, bounds.1)]
    Opset {
        /// The domain.
        domain: String,
        /// The version that the model asks for; 0 when it does not say.
        version: i64,
        /// Lowest and highest version read.
        bounds: (i64, i64),
    },
    /// A node of an operator set that is not read.
    #[error("node {node} is of domain `{domain}`; ai.onnx, ai.onnx.ml and com.microsoft are supported")]
    Domain {
        /// The node.
        node: String,
        /// Its domain.
        domain: String,
    },
    /// A node without an operator.
    #[error("node {node} names no operator")]
    NoOperator {
        /// The node.
        node: String,
    },
    /// More of something than allowed.
    #[error("the model has more than {limit} {what}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// Graphs are nested too deep.
    #[error("node {node} nests graphs more than {limit} deep")]
    Depth {
        /// The node.
        node: String,
        /// Levels allowed.
        limit: usize,
    },
    /// A name is too long.
    #[error("a name has {bytes} bytes, more than {limit}: `{name}...`")]
    LongName {
        /// How the name starts.
        name: String,
        /// Its length.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A name has no text where one is needed.
    #[error("a {what} has no name")]
    NoName {
        /// What has no name.
        what: &'static str,
    },
    /// A node takes what nothing defines.
    #[error("node {node} takes `{name}`, which nothing defines there")]
    Unresolved {
        /// The node, or the graph whose output it is.
        node: String,
        /// The name.
        name: String,
    },
    /// A node takes what is only defined later: a cycle, or nodes in a wrong order.
    #[error("node {node} takes `{name}` before it is computed: nodes form a cycle or stand in a wrong order")]
    Order {
        /// The node.
        node: String,
        /// The name.
        name: String,
    },
    /// A name is defined twice.
    #[error("the {what} `{name}` is defined twice")]
    Duplicate {
        /// The name.
        name: String,
        /// What bears it.
        what: &'static str,
    },
    /// A weight's claims do not hold.
    #[error("tensor `{tensor}`")]
    Tensor {
        /// The weight, or the node that holds it.
        tensor: String,
        /// What is wrong.
        source: TensorFault,
    },
    /// Sparse weights.
    #[error("the model holds sparse weights, which are not supported: save it with dense ones")]
    Sparse,
    /// An attribute is out of bounds.
    #[error("node {node}: attribute `{attribute}` {reason}")]
    Attribute {
        /// The node.
        node: String,
        /// The attribute.
        attribute: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// An input or output is no tensor that can be served.
    #[error("{role} `{name}` {reason}")]
    Interface {
        /// `input` or `output`.
        role: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Recurrent weights fit neither each other nor their input.
    #[error("node {node}: {reason}")]
    Recurrent {
        /// The node.
        node: String,
        /// What does not fit.
        reason: String,
    },
}

impl Coded for ScanError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Size { .. } => "onnx.size",
            Self::Wire(_) => "onnx.wire",
            Self::NoGraph => "onnx.graph",
            Self::IrVersion(_) => "onnx.ir_version",
            Self::Functions => "onnx.functions",
            Self::Training => "onnx.training",
            Self::Opset { .. } => "onnx.opset",
            Self::Domain { .. } => "onnx.domain",
            Self::NoOperator { .. } => "onnx.operator",
            Self::TooMany { .. } => "onnx.limit",
            Self::Depth { .. } => "onnx.depth",
            Self::LongName { .. } | Self::NoName { .. } => "onnx.name",
            Self::Unresolved { .. } => "onnx.unresolved",
            Self::Order { .. } => "onnx.order",
            Self::Duplicate { .. } => "onnx.duplicate",
            Self::Tensor { source, .. } => return source.code(),
            Self::Sparse => "onnx.sparse",
            Self::Attribute { .. } => "onnx.attribute",
            Self::Interface { .. } => "onnx.interface",
            Self::Recurrent { .. } => "onnx.recurrent",
        })
    }
}

/// A name from a file, fit for a message: at most 80 characters, nothing that could steer a terminal.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}
