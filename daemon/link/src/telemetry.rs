//! Batches of telemetry: 32 KiB or 60 s, whichever comes first, compressed.
//!
//! In: measurements. Out: the payload of an item of class metric. [`unpack_telemetry`] reads such a payload and refuses
//! one that unpacks to more than the limit.

use std::{
    io::{Read, Write},
    time::Duration,
};

use agentd_types::UnixTime;
use agentd_wire::{BadPayload, MAX_PAYLOAD_BYTES, Payload, Telemetry, TelemetryPoint};
use bytes::Bytes;
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};

const MAX_BYTES: usize = 32 << 10;
const MAX_POINTS: usize = 1_024;
const MAX_AGE: Duration = Duration::from_secs(60);

/// Bytes of a point in JSON beside its names, roughly and rather too many.
const POINT_BYTES: usize = 64;

/// A batch, ready to be put into the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Raw DEFLATE of the JSON of a [`Telemetry`].
    pub payload: Bytes,
    /// How many points it holds.
    pub points: usize,
}

/// Collects points into batches.
#[derive(Debug, Default)]
pub struct Batcher {
    points: Vec<TelemetryPoint>,
    bytes: usize,
    since: Option<UnixTime>,
}

impl Batcher {
    /// Takes a point, and gives a batch when it is large or old enough.
    ///
    /// # Errors
    /// When a point breaks the limits of the message; the batch is lost then.
    pub fn push(&mut self, point: TelemetryPoint, now: UnixTime) -> Result<Option<Batch>, BadPayload> {
        self.bytes += POINT_BYTES + point.name.len() + point.model.as_ref().map_or(0, |m| m.as_str().len());
        self.points.push(point);
        let since = *self.since.get_or_insert(now);
        let due = self.bytes >= MAX_BYTES || self.points.len() >= MAX_POINTS || now.since(since) >= MAX_AGE;
        if due { self.flush() } else { Ok(None) }
    }

    /// The batch so far, if there is one.
    ///
    /// # Errors
    /// When a point breaks the limits of the message; the batch is lost then.
    pub fn flush(&mut self) -> Result<Option<Batch>, BadPayload> {
        let points = std::mem::take(self).points;
        if points.is_empty() {
            return Ok(None);
        }
        let count = points.len();
        let json = Telemetry { points, historical: false }.write()?;
        let packed = pack(&json).ok_or(BadPayload::Bounds("list of points"))?;
        Ok(Some(Batch { payload: packed.into(), points: count }))
    }
}

fn pack(json: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(json).ok()?;
    encoder.finish().ok()
}

/// Reads the payload of a `tele` message.
///
/// # Errors
/// When it is not such a payload, or unpacks to more than the limit.
pub fn unpack_telemetry(payload: &[u8]) -> Result<Telemetry, BadPayload> {
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(BadPayload::Size(payload.len()));
    }
    let mut json = Vec::new();
    let limit = MAX_PAYLOAD_BYTES as u64 + 1;
    DeflateDecoder::new(payload)
        .take(limit)
        .read_to_end(&mut json)
        .map_err(|error| BadPayload::Json(serde::de::Error::custom(error)))?;
    Telemetry::read(&json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(value: f64) -> TelemetryPoint {
        TelemetryPoint { at: UnixTime(7), name: "agentd_requests_total".into(), model: None, value }
    }

    #[test]
    fn a_batch_is_due_when_it_is_large_or_old_and_reads_back() {
        let mut batcher = Batcher::default();
        assert_eq!(batcher.push(point(1.0), UnixTime(100)).unwrap(), None);
        let batch = batcher.push(point(2.0), UnixTime(160)).unwrap().expect("60 s have passed");
        assert_eq!(unpack_telemetry(&batch.payload).unwrap().points, [point(1.0), point(2.0)]);
        let mut pushed = 1;
        while batcher.push(point(3.0), UnixTime(200)).unwrap().is_none() {
            pushed += 1;
        }
        assert!((300..400).contains(&pushed), "{pushed} points made 32 KiB");
        assert_eq!(batcher.flush().unwrap(), None);
    }

    #[test]
    fn a_payload_that_unpacks_to_too_much_is_refused() {
        let bomb = pack(&vec![b' '; 50 << 20]).unwrap();
        assert!(bomb.len() < MAX_PAYLOAD_BYTES);
        assert!(matches!(unpack_telemetry(&bomb), Err(BadPayload::Size(_))));
        assert!(unpack_telemetry(b"garbage").is_err());
    }
}
