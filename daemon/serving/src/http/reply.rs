//! Answers: bodies in a few pieces, errors as the protocol writes them.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use agentd_types::{Code, Coded, chain};
use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::{Value, json};

use crate::{InferError, InstanceError, RequestError, oip::Answer};

/// A body of known pieces.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
}

impl Pieces {
    pub(crate) const fn one(bytes: Bytes) -> Self {
        Self { first: Some(bytes), rest: VecDeque::new() }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.first.take().or_else(|| self.rest.pop_front());
        Poll::Ready(next.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let length: usize = self.first.iter().chain(&self.rest).map(Bytes::len).sum();
        SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
    }
}

/// An answer on its way out.
pub(crate) type Reply = Response<Pieces>;

/// Says where the JSON of a binary answer ends.
pub(crate) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// Carries the stable code of an error.
const CODE: HeaderName = HeaderName::from_static("agentd-code");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

fn reply(status: StatusCode, content_type: HeaderValue, body: Pieces) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// An inference that worked.
pub(crate) fn answer(answer: Answer) -> Reply {
    let content_type = if answer.header_length.is_some() { BINARY } else { JSON };
    let body = Pieces { first: Some(Bytes::from(answer.head)), rest: VecDeque::from(answer.tail) };
    let mut reply = reply(StatusCode::OK, content_type, body);
    if let Some(length) = answer.header_length {
        reply.headers_mut().insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    reply
}

/// A document.
pub(crate) fn document(value: &Value) -> Reply {
    reply(StatusCode::OK, JSON, Pieces::one(Bytes::from(value.to_string())))
}

/// Prometheus text.
pub(crate) fn metrics(text: String) -> Reply {
    reply(StatusCode::OK, METRICS, Pieces::one(Bytes::from(text)))
}

/// A status without a body.
pub(crate) fn status(status: StatusCode) -> Reply {
    let mut reply = Response::new(Pieces::default());
    *reply.status_mut() = status;
    reply
}

/// A request that was not in order.
pub(crate) fn refused(error: &RequestError) -> Reply {
    let mut reply = failure(error.status(), &error.code(), &chain(error));
    if let RequestError::Method { allow } = error {
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    // What is left of such a body is not read.
    if error.leaves_body() {
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// A request in order that got no answer.
pub(crate) fn failed(error: &InferError) -> Reply {
    let status = match error {
        InferError::QueueFull { .. } | InferError::Expired { .. } => StatusCode::SERVICE_UNAVAILABLE,
        InferError::Instance { source: InstanceError::Input { .. }, .. } => StatusCode::BAD_REQUEST,
        InferError::Instance { source: InstanceError::Late { .. }, .. } => StatusCode::GATEWAY_TIMEOUT,
        InferError::Instance { source: InstanceError::Died { .. }, .. } => StatusCode::BAD_GATEWAY,
        InferError::Instance { source: InstanceError::Failed { .. }, .. }
        | InferError::NotFinite { .. }
        | InferError::WrongOutputs { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut reply = failure(status, &error.code(), &chain(error));
    if error.is_transient() {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}

/// The bodies of other requests fill their budget.
pub(crate) fn busy() -> Reply {
    let message = "the bodies of other requests fill the memory set aside for them";
    let mut reply = failure(StatusCode::SERVICE_UNAVAILABLE, &Code::new("serving.bodies"), message);
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// A thing that is there but not ready.
pub(crate) fn unready(message: &str) -> Reply {
    failure(StatusCode::SERVICE_UNAVAILABLE, &Code::new("model.not_ready"), message)
}

/// Something of ours broke.
pub(crate) fn internal() -> Reply {
    failure(StatusCode::INTERNAL_SERVER_ERROR, &Code::new("serving.internal"), "the request was given up")
}

fn failure(status: StatusCode, code: &Code, message: &str) -> Reply {
    let body = json!({"error": message, "code": code.as_str()}).to_string();
    let mut reply = reply(status, JSON, Pieces::one(Bytes::from(body)));
    if let Ok(value) = HeaderValue::from_str(code.as_str()) {
        reply.headers_mut().insert(CODE, value);
    }
    reply
}

/// What a caller reads, as it is on the wire, whose request did not come in time.
pub(crate) fn too_slow() -> String {
    let message = "the request did not come in within its time limit";
    on_the_wire("408 Request Timeout", "request.slow", message)
}

/// What a caller reads, as it is on the wire, for whom there is no room.
pub(crate) fn no_room() -> String {
    let message = "as many connections as may be are busy";
    on_the_wire("503 Service Unavailable\r\nretry-after: 1", "serving.connections", message)
}

/// An answer where no HTTP server is there to write it; `status` may have headers behind it.
fn on_the_wire(status: &str, code: &str, message: &str) -> String {
    let body = json!({"error": message, "code": code}).to_string();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nagentd-code: {code}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}
