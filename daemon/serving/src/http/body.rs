//! Reads a request's body within its limit and the budget of all bodies.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::traffic::Reserve;
use crate::RequestError;

/// Why a body was not read.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It is not in order.
    Refused(RequestError),
    /// The bodies of other requests fill the budget.
    Busy,
}

/// Reads the whole body, at most `limit` bytes. A body that comes in one piece is not copied.
pub(crate) async fn read(
    mut body: Incoming,
    limit: u64,
    reserve: &mut Reserve<'_>,
) -> Result<Bytes, BodyError> {
    let too_large = || BodyError::Refused(RequestError::TooLarge { limit });
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    if !reserve.grow_to(announced.unwrap_or(0)) {
        return Err(BodyError::Busy);
    }
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| BodyError::Refused(RequestError::Body { source }))?;
        let Ok(piece) = frame.into_data() else { continue }; // trailers
        if whole.is_empty() && body.is_end_stream() {
            return Ok(piece);
        }
        let length = u64::try_from(whole.len() + piece.len()).unwrap_or(u64::MAX);
        if length > limit {
            return Err(too_large());
        }
        if !reserve.grow_to(length) {
            return Err(BodyError::Busy);
        }
        if whole.is_empty() {
            whole.reserve_exact(announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(0));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(Bytes::from(whole))
}
