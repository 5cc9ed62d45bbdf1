//! Answers requests for blocks: the fleet's end of a transfer.
//!
//! In: requests from a subscription that all servers share. Out: blocks, only on the fixed topic of the device that
//! asked, never more than its credit, the devices in turn. Refuses politely: an object that is not there and a queue that
//! is full are told, so that the device need not wait. Holds nothing that matters: when it dies, devices ask again.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use agentd_types::{ByteCount, Coded, DeviceId, FleetId, chain};
use agentd_wire::{Block, BlockRequest, Down, Filter, MAX_BLOCK_BYTES, Range, Status, Topic, Up};
use bytes::Bytes;
use log::{debug, info, warn};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, RetryPolicy},
    source::BlockSource,
    transport::{
        Connection, Disconnect, Message, Publisher, Qos, Received, Session, Subscription, Transport,
    },
};

/// Bytes that one device gets before it is another's turn.
const TURN: u32 = 4 * MAX_BLOCK_BYTES;

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    /// Names the server at the broker; two servers must differ.
    pub client_id: String,
    /// Devices that are served at once; others are told that the server is busy.
    pub devices: usize,
    /// Requests of one device that wait.
    pub requests: usize,
    /// When to connect again.
    pub retry: RetryPolicy,
    /// Silence of one and a half times this means that the broker is gone. At least 5 s.
    pub keep_alive: Duration,
}

impl ServerPolicy {
    /// The usual figures.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            devices: 4_096,
            requests: 64,
            retry: RetryPolicy { longest: Duration::from_secs(30), ..RetryPolicy::default() },
            keep_alive: Duration::from_secs(30),
        }
    }
}

/// What a server has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct ServerStatus {
    pub online: bool,
    /// Why it is not online.
    pub reason: Option<Disconnect>,
    pub requests: u64,
    pub blocks: u64,
    pub bytes: ByteCount,
    /// Requests that could not be read.
    pub unreadable: u64,
    /// Objects asked for that are not there.
    pub missing: u64,
    /// Requests turned away since the queue was full.
    pub busy: u64,
    /// Devices that are being served.
    pub devices: usize,
}

/// One server of blocks; several may run beside each other.
#[derive(Debug)]
pub struct BlockServer {
    transport: Arc<dyn Transport>,
    source: Arc<dyn BlockSource>,
    policy: ServerPolicy,
    status: watch::Sender<ServerStatus>,
    backoff: Backoff,
    queue: Queue,
}

impl BlockServer {
    /// A server that is not running yet, and how it is doing.
    pub fn new(
        policy: ServerPolicy,
        transport: Arc<dyn Transport>,
        source: Arc<dyn BlockSource>,
        seed: u64,
    ) -> (Self, watch::Receiver<ServerStatus>) {
        let (status, status_rx) = watch::channel(ServerStatus::default());
        let backoff = Backoff::new(policy.retry, seed);
        (Self { transport, source, policy, status, backoff, queue: Queue::default() }, status_rx)
    }

    /// Serves until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let work = async {
            loop {
                let started = Instant::now();
                let reason = match self.once().await {
                    Ok(never) => match never {},
                    Err(reason) => reason,
                };
                info!(event = "blocks.offline", code = reason.code().as_str(), error = chain(&reason).as_str(); "Server of blocks not connected");
                self.queue = Queue::default();
                self.status.send_modify(|status| {
                    status.online = false;
                    status.devices = 0;
                    status.reason = Some(reason);
                });
                self.backoff.stood(started.elapsed());
                sleep(self.backoff.failed()).await;
            }
        };
        // Dropped half way when told to stop: devices ask again.
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn once(&mut self) -> Result<std::convert::Infallible, Disconnect> {
        let session = Session {
            keep_alive: self.policy.keep_alive,
            max_packet: 256 << 10,
            ..Session::bulk(self.policy.client_id.clone())
        };
        let mut connection = self.transport.connect(session).await?;
        let publisher = connection.publisher();
        let wanted = vec![Subscription { filter: Filter::block_servers(), qos: Qos::AtMostOnce }];
        publisher.subscribe(wanted).await.map_err(|error| Disconnect::Refused(chain(&error)))?;
        self.status.send_modify(|status| {
            status.online = true;
            status.reason = None;
        });
        loop {
            self.serve(&mut connection, &publisher).await?;
        }
    }

    /// Takes requests in while there is nothing to send, and whatever has arrived between two turns.
    async fn serve(&mut self, connection: &mut Connection, publisher: &Publisher) -> Result<(), Disconnect> {
        if self.queue.turns.is_empty() {
            let received = connection.next().await?;
            self.take(&received, publisher).await?;
        }
        loop {
            // Ready at once or not at all.
            tokio::select! {
                biased;
                received = connection.next() => self.take(&received?, publisher).await?,
                () = std::future::ready(()) => break,
            }
        }
        let Some((device, turn)) = self.queue.next_turn() else {
            return Ok(());
        };
        let blocks = self.read(turn).await;
        for block in blocks {
            self.send(publisher, &device, &block).await?;
        }
        let devices = self.queue.turns.len();
        self.status.send_modify(|status| status.devices = devices);
        Ok(())
    }

    async fn take(&mut self, received: &Received, publisher: &Publisher) -> Result<(), Disconnect> {
        let device = match received.topic.parse() {
            Ok(Topic::Up { fleet, device, up: Up::Blk }) => Device { fleet, device },
            _ => return Ok(()),
        };
        let request = match BlockRequest::decode(&received.payload) {
            Ok(request) => request,
            Err(error) => {
                debug!(event = "blocks.unreadable", code = error.code().as_str(); "Request cannot be read");
                self.status.send_modify(|status| status.unreadable += 1);
                return Ok(());
            }
        };
        self.status.send_modify(|status| status.requests += 1);
        if let Err(request) = self.queue.push(device.clone(), request, &self.policy) {
            self.status.send_modify(|status| status.busy += 1);
            for range in &request.ranges {
                self.send(publisher, &device, &empty(&request, range, Status::Busy)).await?;
            }
        }
        Ok(())
    }

    /// Reads what one turn sends, where waiting is allowed.
    async fn read(&self, turn: Turn) -> Vec<Block> {
        let source = Arc::clone(&self.source);
        spawn_blocking(move || turn.ranges.iter().map(|range| read(&*source, &turn.request, range)).collect())
            .await
            .unwrap_or_default()
    }

    async fn send(&self, publisher: &Publisher, device: &Device, block: &Block) -> Result<(), Disconnect> {
        let Ok(payload) = block.encode() else {
            return Ok(());
        };
        let bytes = block.bytes.len() as u64;
        self.status.send_modify(|status| match block.status {
            Status::Data => {
                status.blocks += 1;
                status.bytes.0 += bytes;
            }
            Status::Missing => status.missing += 1,
            Status::Busy => {}
        });
        let topic = Topic::down(&device.fleet, &device.device, Down::Blk);
        let sent = publisher.send(Message::quickly(topic, payload)).await;
        sent.map_err(|error| Disconnect::Closed(chain(&error)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Device {
    fleet: FleetId,
    device: DeviceId,
}

/// What waits: requests by device, and whose turn it is.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<Device, VecDeque<Pending>>,
    // Invariant: holds exactly the devices of `waiting`, each once.
    turns: VecDeque<Device>,
}

/// A request and what of it is left.
#[derive(Debug)]
struct Pending {
    request: Arc<BlockRequest>,
    left: VecDeque<Range>,
    credit: u32,
}

/// What one turn sends: ranges of at most a block.
struct Turn {
    request: Arc<BlockRequest>,
    ranges: Vec<Range>,
}

impl Queue {
    /// Takes a request, or gives it back when the queue is full.
    fn push(
        &mut self,
        device: Device,
        request: BlockRequest,
        policy: &ServerPolicy,
    ) -> Result<(), BlockRequest> {
        let is_new = !self.waiting.contains_key(&device);
        if is_new && self.waiting.len() >= policy.devices {
            return Err(request);
        }
        let waiting = self.waiting.entry(device.clone()).or_default();
        // A device that begins another transfer has given the older one up.
        waiting.retain(|pending| pending.request.transfer == request.transfer);
        if waiting.len() >= policy.requests {
            return Err(request);
        }
        let pending = Pending {
            left: request.ranges.iter().copied().collect(),
            credit: request.credit,
            request: Arc::new(request),
        };
        waiting.push_back(pending);
        if is_new {
            self.turns.push_back(device);
        }
        Ok(())
    }

    /// The next device's turn; it goes to the end of the line when more is left.
    fn next_turn(&mut self) -> Option<(Device, Turn)> {
        let device = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&device)?;
        let first = waiting.front_mut()?;
        let turn = Turn { request: Arc::clone(&first.request), ranges: first.take(TURN) };
        if first.left.is_empty() || first.credit == 0 {
            waiting.pop_front();
        }
        if waiting.is_empty() {
            self.waiting.remove(&device);
        } else {
            self.turns.push_back(device.clone());
        }
        Some((device, turn))
    }
}

impl Pending {
    /// The next ranges, `limit` bytes at most, none longer than a block, never beyond the credit.
    fn take(&mut self, limit: u32) -> Vec<Range> {
        let mut ranges = Vec::new();
        let mut room = limit;
        while let Some(range) = self.left.front_mut() {
            let length = range.length.min(MAX_BLOCK_BYTES).min(self.credit);
            if length == 0 || length > room {
                break;
            }
            ranges.push(Range { length, ..*range });
            room -= length;
            self.credit -= length;
            range.offset += length;
            range.length -= length;
            if range.length == 0 {
                self.left.pop_front();
            }
        }
        ranges
    }
}

fn read(source: &dyn BlockSource, request: &BlockRequest, range: &Range) -> Block {
    match source.read(range.object, range.offset, range.length) {
        Ok(Some(piece)) => Block {
            transfer: request.transfer,
            number: request.number,
            status: Status::Data,
            bundle: request.bundle,
            object: range.object,
            offset: range.offset,
            object_bytes: piece.object_bytes,
            edition: piece.edition,
            bytes: piece.bytes,
        },
        Ok(None) => empty(request, range, Status::Missing),
        Err(error) => {
            warn!(event = "blocks.unreadable", code = error.code().as_str(), error = chain(&error).as_str(); "Object cannot be read");
            empty(request, range, Status::Busy)
        }
    }
}

const fn empty(request: &BlockRequest, range: &Range, status: Status) -> Block {
    Block {
        transfer: request.transfer,
        number: request.number,
        status,
        bundle: request.bundle,
        object: range.object,
        offset: range.offset,
        object_bytes: 0,
        edition: 0,
        bytes: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use agentd_types::Digest;
    use agentd_wire::Object;

    use super::*;

    fn device(name: &str) -> Device {
        Device { fleet: "plant".parse().unwrap(), device: name.parse().unwrap() }
    }

    fn request(transfer: u32, lengths: &[u32], credit: u32) -> BlockRequest {
        let digest = Digest::of(b"x");
        let ranges =
            lengths.iter().map(|length| Range { object: Object::Chunk(digest), offset: 0, length: *length });
        BlockRequest { transfer, number: 1, bundle: digest, credit, ranges: ranges.collect() }
    }

    fn drain(queue: &mut Queue) -> Vec<(String, u32)> {
        std::iter::from_fn(|| queue.next_turn())
            .map(|(device, turn)| {
                (device.device.to_string(), turn.ranges.iter().map(|range| range.length).sum())
            })
            .collect()
    }

    #[test]
    fn devices_take_turns_and_nobody_gets_more_than_the_credit() {
        let mut queue = Queue::default();
        let policy = ServerPolicy::new("server");
        queue.push(device("a"), request(1, &[4 << 20], 1 << 20), &policy).unwrap();
        queue.push(device("b"), request(1, &[100, 200], 250), &policy).unwrap();
        let half = 512 << 10;
        assert_eq!(drain(&mut queue), [("a".into(), half), ("b".into(), 250), ("a".into(), half)]);
        assert!(queue.waiting.is_empty());
    }

    #[test]
    fn a_full_queue_gives_the_request_back_and_a_new_transfer_replaces_the_old() {
        let mut queue = Queue::default();
        let policy = ServerPolicy { devices: 1, requests: 1, ..ServerPolicy::new("server") };
        queue.push(device("a"), request(1, &[10], 10), &policy).unwrap();
        assert!(queue.push(device("a"), request(1, &[10], 10), &policy).is_err());
        assert!(queue.push(device("b"), request(1, &[10], 10), &policy).is_err());
        queue.push(device("a"), request(2, &[20], 20), &policy).unwrap();
        assert_eq!(drain(&mut queue), [("a".into(), 20)]);
    }
}
