//! How messages move: the one trait behind which an MQTT 5 client stands, and the connection that it yields.
//!
//! In: a [`Session`] to open. Out: a [`Connection`], which lives until it ends once; there is no reconnection inside,
//! so nothing of one connection can leak into the next. A publish at QoS 1 yields a [`Completion`] that tells whether
//! the broker acknowledged it; an acknowledgement of ours carries the connection it belongs to and is dropped on any
//! other. QoS 2 and topic aliases do not exist here. `tests/conformance.rs` is what every implementation must pass.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use agentd_types::{Code, Coded};
use agentd_wire::Filter;
use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
};

/// A future on the heap, since a trait object cannot return another kind.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Reaches one broker.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Where the broker is, for people.
    fn address(&self) -> String;

    /// Opens a session; ends within the session's `connect_timeout`.
    fn connect(&self, session: Session) -> BoxFuture<'_, Result<Connection, Disconnect>>;
}

/// What a connection shall be like.
#[derive(Clone, Debug)]
pub struct Session {
    /// Names the session at the broker; a second client with the same id takes it over.
    pub client_id: String,
    /// Whether an older session is thrown away.
    pub clean_start: CleanStart,
    /// How long the broker keeps the session after the connection is gone.
    pub expiry: Duration,
    /// A broker that is silent for one and a half times this is taken for dead. At least 5 s.
    pub keep_alive: Duration,
    /// Longest time until the broker has accepted.
    pub connect_timeout: Duration,
    /// What the broker says when the connection is lost.
    pub will: Option<Message>,
    /// How long it waits before it says so.
    pub will_delay: Duration,
    /// Messages that may wait for [`Connection::next`]; further ones are dropped at QoS 0 and end the connection at 1.
    pub queue_messages: usize,
    /// Bytes that may wait; further messages likewise.
    pub queue_bytes: u64,
    /// The largest packet accepted and sent, in bytes.
    pub max_packet: u32,
}

impl Session {
    /// The control connection of a device: a small session that the broker keeps for a day.
    pub fn control(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            clean_start: CleanStart::No,
            expiry: Duration::from_secs(86_400),
            keep_alive: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            will: None,
            will_delay: Duration::ZERO,
            queue_messages: 128, // 128 messages, bounded by 4 MiB
            queue_bytes: 4 << 20,
            max_packet: 1 << 20,
        }
    }

    /// A connection that lives for one transfer.
    pub fn bulk(client_id: impl Into<String>) -> Self {
        Self {
            clean_start: CleanStart::Yes,
            expiry: Duration::ZERO,
            queue_messages: 2_048, // 2,048 messages, bounded by 24 MiB: three windows
            queue_bytes: 24 << 20,
            max_packet: 256 << 10,
            ..Self::control(client_id)
        }
    }
}

/// Whether an older session is thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named with their meaning")]
pub enum CleanStart {
    Yes,
    No,
}

/// How surely a message arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce,
}

/// Whether the broker keeps a message for later subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named with their meaning")]
pub enum Retain {
    Yes,
    No,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to; no wildcards.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// How surely.
    pub qos: Qos,
    /// Whether the broker keeps it.
    pub retain: Retain,
    /// After this the broker need not deliver it any more.
    pub expiry: Option<Duration>,
}

impl Message {
    /// A message at QoS 1.
    pub fn surely(topic: impl fmt::Display, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.to_string(),
            payload: payload.into(),
            qos: Qos::AtLeastOnce,
            retain: Retain::No,
            expiry: None,
        }
    }

    /// A message at QoS 0.
    pub fn quickly(topic: impl fmt::Display, payload: impl Into<Bytes>) -> Self {
        Self { qos: Qos::AtMostOnce, ..Self::surely(topic, payload) }
    }

    /// The same message, kept by the broker.
    #[must_use]
    pub fn retained(self) -> Self {
        Self { retain: Retain::Yes, ..self }
    }
}

/// A message that arrived.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where it was published.
    pub topic: String,
    /// What it says.
    pub payload: Bytes,
    /// Whether it stood at the broker before we subscribed.
    pub retained: bool,
    /// To be handed to [`Publisher::acknowledge`] once the message is safe; `None` at QoS 0.
    pub ack: Option<Ack>,
}

/// The right to acknowledge one message on the connection that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub(crate) connection: u64,
    pub(crate) packet: u16,
}

/// What to listen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Which topics.
    pub filter: Filter,
    /// How surely at most.
    pub qos: Qos,
}

/// Why there is no connection, or no longer one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Disconnect {
    /// Nothing came back in time.
    #[error("the broker does not answer within {0:?}")]
    Timeout(Duration),
    /// No way to it.
    #[error("the broker cannot be reached: {0}")]
    Unreachable(String),
    /// It does not want us.
    #[error("the broker refuses the connection: {0}")]
    Refused(String),
    /// No secure connection.
    #[error("no secure connection to the broker: {0}")]
    Tls(String),
    /// A certificate is not valid at the time that our clock tells.
    #[error("a certificate is not valid at the time that this device's clock tells: {0}")]
    TlsTime(String),
    /// The broker closed it, with a reason when it gave one.
    #[error("the broker closed the connection: {0}")]
    Closed(String),
    /// Another client uses our id.
    #[error("another client took over the session: two devices use one id")]
    TakenOver,
    /// The broker is silent for too long.
    #[error("the broker has been silent for {0:?}")]
    Silent(Duration),
    /// The broker sends faster than we read.
    #[error("more messages wait than the queue holds")]
    Flooded,
    /// The connection cannot go on.
    #[error("the protocol was broken: {0}")]
    Protocol(String),
    /// We closed it.
    #[error("closed by this device")]
    Ours,
}

impl Disconnect {
    /// What a person can do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Timeout(_) | Self::Silent(_) => "check the network between this device and the broker",
            Self::Unreachable(_) => "check `broker.address` and that the broker runs",
            Self::Refused(_) => "check this device's credentials and the broker's access list",
            Self::Tls(_) => "check `broker.ca`, `broker.certificate` and `broker.key`",
            Self::TlsTime(_) => "check this device's clock first, then the dates of the certificates",
            Self::Closed(_) => {
                "look into the broker's log; when this repeats soon after connecting, another device may use the same id"
            }
            Self::TakenOver => "give each device its own id",
            Self::Flooded => "find out who publishes so much to this device",
            Self::Protocol(_) => "report this, with the broker's name and version",
            Self::Ours => "nothing to do",
        }
    }
}

impl Coded for Disconnect {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Timeout(_) => "link.timeout",
            Self::Unreachable(_) => "link.unreachable",
            Self::Refused(_) => "link.refused",
            Self::Tls(_) => "link.tls",
            Self::TlsTime(_) => "link.tls_time",
            Self::Closed(_) => "link.closed",
            Self::TakenOver => "link.taken_over",
            Self::Silent(_) => "link.silent",
            Self::Flooded => "link.flooded",
            Self::Protocol(_) => "link.protocol",
            Self::Ours => "link.ours",
        })
    }

    fn is_transient(&self) -> bool {
        !matches!(self, Self::Ours)
    }
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The connection is gone.
    #[error("the connection is gone")]
    Gone,
    /// Larger than we or the broker accept.
    #[error("the message has {bytes} bytes, more than the {limit} that the broker takes")]
    TooLarge {
        /// Bytes of the packet.
        bytes: usize,
        /// The limit.
        limit: u32,
    },
    /// A topic with a wildcard, an empty one, or one that is too long.
    #[error("`{0}` is not a topic to publish to")]
    Topic(String),
}

/// Why a message is not at the broker, as far as we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAcknowledged {
    /// The broker said no.
    #[error("the broker refuses the message: {0}")]
    Refused(String),
    /// The connection ended first; the broker may have it or not.
    #[error("the connection ended before the broker acknowledged the message")]
    Lost,
}

/// Why there is no subscription.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The broker said no.
    #[error("the broker refuses the subscription to `{filter}`: {reason}")]
    Refused {
        /// Which.
        filter: String,
        /// Why.
        reason: String,
    },
    /// The connection ended first.
    #[error("the connection ended before the broker acknowledged the subscription")]
    Gone,
}

/// Tells whether the broker acknowledged a message.
#[derive(Debug)]
pub struct Completion(oneshot::Receiver<Result<(), NotAcknowledged>>);

impl Future for Completion {
    type Output = Result<(), NotAcknowledged>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|outcome| outcome.unwrap_or(Err(NotAcknowledged::Lost)))
    }
}

/// What a connection's driver is asked to do, in order.
#[derive(Debug)]
pub(crate) enum Order {
    Publish { message: Message, done: Option<Done> },
    Subscribe { wanted: Vec<Subscription>, done: oneshot::Sender<Result<(), SubscribeError>> },
    Unsubscribe { filters: Vec<Filter> },
    Acknowledge { packet: u16 },
    Close,
}

/// Tells the publisher how a message at QoS 1 fared; frees its place in the window when it is dropped.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) tell: oneshot::Sender<Result<(), NotAcknowledged>>,
    _place: OwnedSemaphorePermit,
}

impl Done {
    pub(crate) fn tell(self, outcome: Result<(), NotAcknowledged>) {
        // Nobody may be waiting any more; that is their choice.
        let _heard = self.tell.send(outcome);
    }
}

/// Sends on a connection; may be cloned.
#[derive(Clone, Debug)]
pub struct Publisher {
    orders: mpsc::Sender<Order>,
    window: Arc<Semaphore>,
    connection: u64,
    max_packet: u32,
}

/// Bytes that a packet has at most beside topic and payload: fixed header, lengths, packet id, properties.
const PACKET_OVERHEAD: usize = 32;

impl Publisher {
    /// Sends a message at QoS 0; waits while the connection has too much to send already.
    ///
    /// # Errors
    /// When the message cannot be sent, or the connection is gone.
    pub async fn send(&self, message: Message) -> Result<(), PublishError> {
        self.check(&message)?;
        let message = Message { qos: Qos::AtMostOnce, ..message };
        self.order(Order::Publish { message, done: None }).await
    }

    /// Sends a message at QoS 1; waits for a place in the window of unacknowledged messages.
    ///
    /// # Errors
    /// When the message cannot be sent, or the connection is gone.
    pub async fn publish(&self, message: Message) -> Result<Completion, PublishError> {
        self.check(&message)?;
        let message = Message { qos: Qos::AtLeastOnce, ..message };
        let place = Arc::clone(&self.window).acquire_owned().await.map_err(|_| PublishError::Gone)?;
        let (tell, outcome) = oneshot::channel();
        let done = Some(Done { tell, _place: place });
        self.order(Order::Publish { message, done }).await?;
        Ok(Completion(outcome))
    }

    /// Subscribes, and waits until the broker has acknowledged.
    ///
    /// # Errors
    /// When the broker refuses one of them, or the connection is gone.
    pub async fn subscribe(&self, wanted: Vec<Subscription>) -> Result<(), SubscribeError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let (done, outcome) = oneshot::channel();
        self.order(Order::Subscribe { wanted, done }).await.map_err(|_| SubscribeError::Gone)?;
        outcome.await.unwrap_or(Err(SubscribeError::Gone))
    }

    /// Ends subscriptions; does not wait for the broker.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn unsubscribe(&self, filters: Vec<Filter>) -> Result<(), PublishError> {
        if filters.is_empty() { Ok(()) } else { self.order(Order::Unsubscribe { filters }).await }
    }

    /// Tells the broker that a message is safe here. Does nothing when another connection brought it: the broker
    /// sends it again.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn acknowledge(&self, ack: Ack) -> Result<(), PublishError> {
        if ack.connection != self.connection {
            return Ok(());
        }
        self.order(Order::Acknowledge { packet: ack.packet }).await
    }

    async fn order(&self, order: Order) -> Result<(), PublishError> {
        self.orders.send(order).await.map_err(|_| PublishError::Gone)
    }

    fn check(&self, message: &Message) -> Result<(), PublishError> {
        let Message { topic, payload, .. } = message;
        if topic.is_empty() || topic.len() > 1_024 || topic.contains(['+', '#', '\0']) {
            return Err(PublishError::Topic(topic.chars().take(80).collect()));
        }
        let bytes = topic.len() + payload.len() + PACKET_OVERHEAD;
        if bytes > self.max_packet as usize {
            return Err(PublishError::TooLarge { bytes, limit: self.max_packet });
        }
        Ok(())
    }
}

/// An open connection. Dropping it cuts it off, so that the broker speaks the will.
#[derive(Debug)]
pub struct Connection {
    session_present: bool,
    publisher: Publisher,
    received: mpsc::Receiver<Received>,
    queued: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
    ended: Option<oneshot::Receiver<Disconnect>>,
    // Dropped last: whoever drives the connection ends with it.
    drivers: JoinSet<()>,
}

impl Connection {
    /// Whether the broker still had our session: subscriptions stand, what was unacknowledged comes again.
    pub const fn session_present(&self) -> bool {
        self.session_present
    }

    /// Sends on this connection.
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// Messages at QoS 0 that were dropped since nobody read them in time.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The next message; may be dropped half way without loss.
    ///
    /// # Errors
    /// Once the connection has ended, and ever after.
    pub async fn next(&mut self) -> Result<Received, Disconnect> {
        if let Some(received) = self.received.recv().await {
            self.queued.fetch_sub(received.payload.len() as u64, Ordering::Relaxed);
            return Ok(received);
        }
        let gone = || Disconnect::Closed("it is gone".to_owned());
        match self.ended.as_mut() {
            Some(ended) => {
                let reason = ended.await.unwrap_or_else(|_| gone());
                self.ended = None;
                Err(reason)
            }
            None => Err(gone()),
        }
    }

    /// Closes in an orderly way: what was ordered before is sent, the will is not spoken. Takes at most `patience`.
    pub async fn close(mut self, patience: Duration) {
        let end = async {
            if self.publisher.order(Order::Close).await.is_ok() {
                while self.next().await.is_ok() {}
            }
        };
        // Whether it ended or not, the connection is dropped now.
        let _ended = tokio::time::timeout(patience, end).await;
        self.drivers.abort_all();
    }
}

/// Where a driver puts what it received.
#[derive(Clone, Debug)]
pub(crate) struct Inlet {
    received: mpsc::Sender<Received>,
    queued: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
    limit: u64,
}

impl Inlet {
    /// Queues a message, or says that the connection must end since it may not be dropped.
    pub(crate) fn offer(&self, received: Received) -> Result<(), Disconnect> {
        let bytes = received.payload.len() as u64;
        let must_arrive = received.ack.is_some();
        if self.queued.load(Ordering::Relaxed) + bytes <= self.limit {
            self.queued.fetch_add(bytes, Ordering::Relaxed);
            match self.received.try_send(received) {
                Ok(()) => return Ok(()),
                Err(_) => self.queued.fetch_sub(bytes, Ordering::Relaxed),
            };
        }
        if must_arrive {
            return Err(Disconnect::Flooded);
        }
        self.dropped.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// The other end of a [`Connection`], for whoever implements [`Transport`].
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) inlet: Inlet,
    pub(crate) ended: oneshot::Sender<Disconnect>,
}

/// What the broker allows, learnt when it accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) session_present: bool,
    pub(crate) max_packet: u32,
    pub(crate) window: usize,
}

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// A number that no other connection of this process has.
pub(crate) fn next_connection() -> u64 {
    CONNECTIONS.fetch_add(1, Ordering::Relaxed)
}

/// A connection and its other end; `drive` starts what moves between them.
pub(crate) fn connection(
    number: u64,
    session: &Session,
    terms: Terms,
    drive: impl FnOnce(Ends, &mut JoinSet<()>),
) -> Connection {
    let (orders_tx, orders) = mpsc::channel(64); // 64 orders of at most 1 MiB: 64 MiB, 128 KiB each in practice
    let (received_tx, received) = mpsc::channel(session.queue_messages.max(1));
    let (ended_tx, ended) = oneshot::channel();
    let (queued, dropped) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let inlet = Inlet {
        received: received_tx,
        queued: Arc::clone(&queued),
        dropped: Arc::clone(&dropped),
        limit: session.queue_bytes,
    };
    let publisher = Publisher {
        orders: orders_tx,
        window: Arc::new(Semaphore::new(terms.window.max(1))),
        connection: number,
        max_packet: terms.max_packet.min(session.max_packet),
    };
    let mut drivers = JoinSet::new();
    drive(Ends { orders, inlet, ended: ended_tx }, &mut drivers);
    Connection {
        session_present: terms.session_present,
        publisher,
        received,
        queued,
        dropped,
        ended: Some(ended),
        drivers,
    }
}
