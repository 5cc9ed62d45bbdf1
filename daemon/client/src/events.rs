//! The journal as it grows.

use agentd_wire::Event;
use bytes::BytesMut;
use http_body_util::BodyExt as _;

use crate::{ClientError, client::Answer};

/// No entry of the journal is longer.
const MAX_LINE: usize = 8 << 20;

/// Entries of the journal, one by one.
#[derive(Debug)]
pub struct EventStream {
    answer: Answer,
    pending: BytesMut,
}

impl EventStream {
    pub(crate) fn new(answer: Answer) -> Self {
        Self { answer, pending: BytesMut::new() }
    }

    /// The next entry; `None` when the stream ends.
    ///
    /// # Errors
    /// When the connection breaks or an entry cannot be understood.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line = self.pending.split_to(end + 1);
                let event = serde_json::from_slice(&line);
                return event.map(Some).map_err(|error| ClientError::Garbled(error.to_string()));
            }
            if self.pending.len() > MAX_LINE {
                return Err(ClientError::Garbled("an entry of the journal has no end".to_owned()));
            }
            match self.answer.response.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Garbled(error.to_string())),
                Some(Ok(frame)) => self.pending.extend(frame.into_data().ok().iter().flatten().copied()),
            }
        }
    }
}
