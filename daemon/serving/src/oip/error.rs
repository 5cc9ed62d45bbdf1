//! What can be wrong with a request. Always the caller's fault, so always a status of the 400s.

use agentd_types::{Code, Coded, Datatype};
use hyper::StatusCode;

/// Why a request was refused before any model saw it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are named with their meaning and repeated in the message")]
pub enum RequestError {
    /// Nothing is at this path.
    #[error("nothing is at `{path}`")]
    Path { path: String },
    /// The path is there for other methods.
    #[error("this path answers {allow} only")]
    Method { allow: &'static str },
    /// No such model is deployed.
    #[error("model `{model}` is not deployed")]
    Model { model: String },
    /// The model is deployed, but not this version.
    #[error("version `{version}` of model `{model}` is not loaded")]
    Version { model: String, version: String },
    /// Something that this server does not do.
    #[error("{what}")]
    Unsupported { what: &'static str },
    /// The body is encoded.
    #[error("header `content-encoding` is `{encoding}`: send the body without encoding")]
    Encoding { encoding: String },
    /// The body is longer than the model's schema allows.
    #[error("the body is longer than the limit of {limit} bytes for this model")]
    TooLarge { limit: u64 },
    /// The body broke off.
    #[error("the body ended before its end")]
    Body { source: hyper::Error },
    /// `Inference-Header-Content-Length` is not a length within the body.
    #[error("header `inference-header-content-length` is `{value}` and the body has {body} bytes")]
    HeaderLength { value: String, body: usize },
    /// The JSON part is not a request.
    #[error("the request is not valid JSON of the protocol")]
    Json { source: serde_json::Error },
    /// A field is missing, twice there or of the wrong form.
    #[error("field `{field}` {problem}")]
    Field { field: &'static str, problem: String },
    /// An input that the model does not have.
    #[error("input `{name}` is not one of the model's inputs: {known}")]
    UnknownInput { name: String, known: String },
    /// An input that is missing.
    #[error("input `{name}` is missing")]
    MissingInput { name: String },
    /// An input that stands there twice.
    #[error("input `{name}` is given twice")]
    TwiceInput { name: String },
    /// A datatype that is not the model's.
    #[error("input `{name}`: field `datatype` is `{got}`, the model wants {want}")]
    Datatype { name: String, got: String, want: Datatype },
    /// A shape that is not the model's.
    #[error("input `{name}`: field `shape` is {got}, the model wants {want}")]
    Shape { name: String, got: String, want: String },
    /// A shape whose product is out of bounds.
    #[error("input `{name}`: field `shape` has more than 2^32 elements")]
    Elements { name: String },
    /// Elements that do not make the tensor.
    #[error("input `{name}`: field `data` {reason}")]
    Data { name: String, reason: String },
    /// A binary size that is not the tensor's.
    #[error("input `{name}`: parameter `binary_data_size` is {got}, shape and datatype need {want}")]
    BinarySize { name: String, got: u64, want: u64 },
    /// Binary data that does not make the tensor.
    #[error("input `{name}`: {reason}")]
    Binary { name: String, reason: String },
    /// Binary bytes that belong to no input, or too few of them.
    #[error("the inputs claim {claimed} binary bytes and {got} follow the JSON header")]
    BinaryTotal { claimed: u64, got: usize },
    /// An output that the model does not have.
    #[error("output `{name}` is not one of the model's outputs: {known}")]
    UnknownOutput { name: String, known: String },
    /// An output that is asked for twice.
    #[error("output `{name}` is asked for twice")]
    TwiceOutput { name: String },
    /// An output that JSON cannot hold.
    #[error("output `{name}` {reason}: ask for it with the parameter `binary_data`")]
    NeedsBinary { name: String, reason: &'static str },
}

impl RequestError {
    /// The status that answers it.
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Path { .. } | Self::Model { .. } | Self::Version { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Encoding { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether the body was not read to its end, so that the connection cannot go on.
    pub(crate) const fn leaves_body(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Body { .. })
    }

    pub(crate) fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }
}

impl Coded for RequestError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Path { .. } => "request.path",
            Self::Method { .. } => "request.method",
            Self::Model { .. } => "model.unknown",
            Self::Version { .. } => "model.version",
            Self::Unsupported { .. } => "request.unsupported",
            Self::Encoding { .. } => "request.encoding",
            Self::TooLarge { .. } => "request.too_large",
            Self::Body { .. } => "request.body",
            Self::HeaderLength { .. } => "request.header_length",
            Self::Json { .. } => "request.json",
            Self::Field { .. } => "request.field",
            Self::UnknownInput { .. } => "request.input_unknown",
            Self::MissingInput { .. } => "request.input_missing",
            Self::TwiceInput { .. } => "request.input_twice",
            Self::Datatype { .. } => "request.datatype",
            Self::Shape { .. } | Self::Elements { .. } => "request.shape",
            Self::Data { .. } => "request.data",
            Self::BinarySize { .. } | Self::Binary { .. } | Self::BinaryTotal { .. } => "request.binary",
            Self::UnknownOutput { .. } => "request.output_unknown",
            Self::TwiceOutput { .. } => "request.output_twice",
            Self::NeedsBinary { .. } => "request.needs_binary",
        })
    }
}
