//! What the tests of this crate share.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use agentd_link::{
    BlockSource, BrokerAddress, ChunkSink, LinkConfig, OutboxLimits, Piece, Received, RetryPolicy,
    RumqttTransport, SinkError, SourceError, Transport,
};
use agentd_types::{ByteCount, Digest};
use agentd_wire::{Chunk, Object, edition_of};
use bytes::Bytes;
use tokio::time::timeout;

/// No test waits longer for something that should come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `what`, but not for ever.
#[track_caller]
pub fn soon<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move { timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not come, {caller}")) }
}

pub fn rumqtt(address: SocketAddr) -> Arc<dyn Transport> {
    Arc::new(RumqttTransport::new(BrokerAddress { host: address.ip().to_string(), port: address.port() }))
}

/// A fast back-off for tests.
pub const FAST: RetryPolicy = RetryPolicy {
    first: Duration::from_millis(20),
    longest: Duration::from_millis(200),
    shortest: Duration::from_millis(5),
    stable_after: Duration::from_millis(100),
};

pub fn link_config(device: &str) -> LinkConfig {
    LinkConfig {
        retry: FAST,
        reconnect_window: Duration::ZERO,
        will_delay: Duration::ZERO,
        keep_alive: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(2),
        ..LinkConfig::new("plant".parse().unwrap(), device.parse().unwrap(), "boot", "0.1.0")
    }
}

pub const SMALL: OutboxLimits = OutboxLimits { bytes: 1 << 20, items: 1_000 };

/// A bundle in memory: its manifest, and chunks by digest.
#[derive(Debug, Default)]
pub struct Bundle {
    pub digest: Option<Digest>,
    pub manifest: Vec<u8>,
    pub chunks: BTreeMap<Digest, Vec<u8>>,
    pub order: Vec<Chunk>,
}

impl Bundle {
    /// Chunks of these lengths; the same seed and number give the same bytes.
    pub fn of(lengths: &[u32], seed: u64) -> Self {
        let mut bundle = Self { digest: Some(Digest::of(&seed.to_be_bytes())), ..Self::default() };
        bundle.manifest = noise(seed ^ 0xABCD, 300_000);
        for (n, length) in lengths.iter().enumerate() {
            bundle.push(noise(seed.wrapping_mul(1_000_003).wrapping_add(n as u64), *length as usize));
        }
        bundle
    }

    pub fn push(&mut self, bytes: Vec<u8>) {
        let digest = Digest::of(&bytes);
        self.order.push(Chunk(bytes.len() as u64, digest));
        self.chunks.insert(digest, bytes);
    }

    pub fn digest(&self) -> Digest {
        self.digest.unwrap()
    }

    pub fn bytes(&self) -> u64 {
        self.order.iter().map(|chunk| chunk.0).sum()
    }
}

impl BlockSource for Bundle {
    fn read(&self, object: Object, offset: u32, length: u32) -> Result<Option<Piece>, SourceError> {
        let (whole, edition) = match object {
            Object::Manifest(digest) if digest == self.digest() => {
                (&self.manifest, edition_of(&self.manifest))
            }
            Object::Manifest(_) => return Ok(None),
            Object::Chunk(digest) => match self.chunks.get(&digest) {
                Some(chunk) => (chunk, 0),
                None => return Ok(None),
            },
        };
        let end = (offset + length).min(whole.len() as u32);
        Ok(whole.get(offset as usize..end as usize).map(|bytes| Piece {
            bytes: Bytes::copy_from_slice(bytes),
            object_bytes: whole.len() as u32,
            edition,
        }))
    }
}

/// Bytes that do not compress and differ by seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = agentd_link::Jitter::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.next_u64().to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A sink in memory that refuses nothing and checks everything.
#[derive(Debug, Default)]
pub struct Sink {
    pub kept: Mutex<BTreeMap<Digest, usize>>,
    pub twice: Mutex<u64>,
    pub fails: Mutex<Option<String>>,
}

impl Sink {
    pub fn bytes(&self) -> ByteCount {
        ByteCount(self.kept.lock().unwrap().values().map(|length| *length as u64).sum())
    }
}

impl ChunkSink for Sink {
    fn has(&self, digest: Digest) -> Result<bool, SinkError> {
        Ok(self.kept.lock().unwrap().contains_key(&digest))
    }

    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), SinkError> {
        if let Some(reason) = &*self.fails.lock().unwrap() {
            return Err(reason.clone().into());
        }
        assert_eq!(Digest::of(bytes), digest, "unverified bytes reached the sink");
        if self.kept.lock().unwrap().insert(digest, bytes.len()).is_some() {
            *self.twice.lock().unwrap() += 1;
        }
        Ok(())
    }
}

/// The text of a message.
pub fn text(received: &Received) -> String {
    String::from_utf8(received.payload.to_vec()).unwrap()
}
