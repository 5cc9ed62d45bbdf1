//! One inference request from its head to its answer.

use std::{sync::Arc, time::Instant};

use agentd_engine::Tensor;
use hyper::{HeaderMap, Request as HttpRequest, body::Incoming, header::CONTENT_ENCODING};
use tokio::task::spawn_blocking;

use super::{
    body::{self, BodyError},
    reply::{self, HEADER_LENGTH, Reply},
    watch::{Phase, Watch},
};
use crate::{
    InferError, Instance, RequestError,
    oip::{self, Answer, Parts, Request},
    served::Served,
    serving::Serving,
};

/// JSON beyond this is read and written on a thread of its own, since it takes longer than async code may.
const OFFLOAD_ABOVE: usize = 128 << 10;

/// Why there is no answer.
enum Failure {
    Refused(RequestError),
    Failed(InferError),
    Busy,
    Internal,
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Refused(error)
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Refused(error) => Self::Refused(error),
            BodyError::Busy => Self::Busy,
        }
    }
}

/// Answers one inference request and counts it.
pub(crate) async fn infer<I: Instance>(
    serving: &Serving<I>,
    served: &Arc<Served<I>>,
    watch: &Watch,
    request: HttpRequest<Incoming>,
) -> Reply {
    let arrival = Instant::now();
    let counters = &served.counters;
    let _in_flight = counters.enter();
    let result = attempt(serving, served, watch, request).await;
    let now = Instant::now();
    let failure = match result {
        Ok(answer) => {
            counters.answered(arrival, now);
            return reply::answer(answer);
        }
        Err(failure) => failure,
    };
    let refused = matches!(
        failure,
        Failure::Busy | Failure::Failed(InferError::QueueFull { .. } | InferError::Expired { .. })
    );
    if !refused {
        counters.failure.add(now.saturating_duration_since(arrival));
    }
    match failure {
        Failure::Refused(error) => {
            if error.leaves_body() {
                watch.linger();
            }
            reply::refused(&error)
        }
        Failure::Failed(error) => reply::failed(&error),
        Failure::Busy => {
            watch.linger();
            reply::busy()
        }
        Failure::Internal => reply::internal(),
    }
}

async fn attempt<I: Instance>(
    serving: &Serving<I>,
    served: &Arc<Served<I>>,
    watch: &Watch,
    request: HttpRequest<Incoming>,
) -> Result<Answer, Failure> {
    let (head, incoming) = request.into_parts();
    let limit = served.body_limit.min(serving.limits.body.0);
    let mut reserve = serving.traffic.reserve(serving.limits.bodies.0);
    watch.set(Phase::Body);
    let body = body::read(incoming, limit, &mut reserve).await?;
    watch.set(Phase::Work);
    // Only now, so that the connection can go on after a refusal.
    let header_length = header_length(&head.headers)?;

    let begun = Instant::now();
    let parts = Parts { body, header_length };
    let json_bytes = header_length.unwrap_or(parts.body.len());
    let request = if json_bytes > OFFLOAD_ABOVE {
        let served = Arc::clone(served);
        spawn_blocking(move || oip::read(&parts, &served.inputs, &served.outputs))
            .await
            .map_err(|_| Failure::Internal)??
    } else {
        oip::read(&parts, &served.inputs, &served.outputs)?
    };
    served.counters.input.add(begun.elapsed());

    let Request { id, inputs, wanted, patience } = request;
    let outputs = served.infer(inputs, patience).await.map_err(Failure::Failed)?;

    let begun = Instant::now();
    let size: usize = outputs.iter().map(|output| output.bytes.len()).sum();
    let json_wanted = wanted.iter().any(|wanted| wanted.is_json());
    let answer = if json_wanted && size > OFFLOAD_ABOVE {
        let served = Arc::clone(served);
        spawn_blocking(move || write(&served, id.as_deref(), &wanted, &outputs))
            .await
            .map_err(|_| Failure::Internal)??
    } else {
        write(served, id.as_deref(), &wanted, &outputs)?
    };
    served.counters.output.add(begun.elapsed());
    Ok(answer)
}

fn write<I: Instance>(
    served: &Served<I>,
    id: Option<&str>,
    wanted: &[oip::Wanted],
    outputs: &[Tensor],
) -> Result<Answer, RequestError> {
    let names = (served.subject.model.as_str(), served.version_text.as_str());
    oip::encode(names, id, wanted, &served.outputs, outputs)
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, RequestError> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && encoding != "identity"
    {
        let encoding = oip::shown(&String::from_utf8_lossy(encoding.as_bytes()));
        return Err(RequestError::Encoding { encoding });
    }
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value
        .to_str()
        .ok()
        .filter(|text| values.next().is_none() && text.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| {
        let value = oip::shown(&String::from_utf8_lossy(value.as_bytes()));
        RequestError::field(
            "inference-header-content-length",
            format!("is `{value}`, not one number of bytes"),
        )
    })
}
