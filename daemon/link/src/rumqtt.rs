//! The MQTT 5 client of rumqttc 0.25.1 behind [`Transport`], with its traps closed.
//!
//! In: a session to open. Out: a connection. What is guarded, and why:
//! - Every connection has an event loop of its own, which dies with it. So nothing is replayed by the library (it loses
//!   what it holds when the session is gone), a packet-id collision cannot outlive its connection, and what the broker
//!   changed in the options is forgotten.
//! - The window of unacknowledged messages (12) is smaller than the library's table (16), so packet ids do not collide
//!   while the broker acknowledges in order; a collision still ends the connection. 16 also keeps a client at 17 KiB.
//! - The library gives no word per message: the order in which packets leave gives their ids, and ids give the messages.
//! - `poll` must not be dropped half way (a packet would vanish), so it has a task of its own; the one time it is
//!   dropped is when the broker has been silent for too long, and then the connection dies with it.
//! - A flush that hangs also hangs the library's keep-alive; the silence deadline stands outside of it.
//! - The library's default of 10 KiB for incoming packets is replaced; nothing over the broker's limit is handed to it.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use log::debug;
use rumqttc::{
    NetworkOptions, Outgoing, TlsConfiguration,
    v5::{
        AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError,
        mqttbytes::{
            self, QoS,
            v5::{
                ConnAck, ConnectProperties, DisconnectReasonCode, Filter as MqttFilter, LastWill,
                LastWillProperties, Packet, PubAck, PubAckReason, Publish, PublishProperties, SubAck,
                SubscribeReasonCode,
            },
        },
    },
};
use rustls::ClientConfig;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    tls,
    transport::{
        Ack, BoxFuture, CleanStart, Connection, Disconnect, Done, Ends, Inlet, Message, NotAcknowledged,
        Order, Qos, Received, Retain, Session, SubscribeError, Subscription, Terms, Transport, connection,
        next_connection,
    },
};

/// The library's table of unacknowledged messages.
const TABLE: u16 = 16;

/// Our window, smaller than the table, since subscriptions use up packet ids as well.
const WINDOW: u16 = 12;

/// Messages that the broker may send before we acknowledge the first.
const RECEIVE_MAXIMUM: u16 = 32;

/// The library accepts no shorter keep-alive.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// A name or an IP address; with TLS, the name that the broker's certificate must carry.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A name and a password.
#[derive(Clone)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password; never printed.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, ***)", self.user)
    }
}

/// Reaches a broker over TCP or TLS.
#[derive(Clone, Debug)]
pub struct RumqttTransport {
    address: BrokerAddress,
    tls: Option<Arc<ClientConfig>>,
    credentials: Option<Credentials>,
}

impl RumqttTransport {
    /// A broker at `address`, without TLS and without credentials.
    pub const fn new(address: BrokerAddress) -> Self {
        Self { address, tls: None, credentials: None }
    }

    /// The same broker over TLS; [`crate::client_config`] makes the configuration.
    #[must_use]
    pub fn with_tls(self, tls: Arc<ClientConfig>) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The same broker, told who we are.
    #[must_use]
    pub fn with_credentials(self, credentials: Credentials) -> Self {
        Self { credentials: Some(credentials), ..self }
    }

    fn options(&self, session: &Session) -> MqttOptions {
        let mut options = MqttOptions::new(&session.client_id, &self.address.host, self.address.port);
        options
            .set_keep_alive(session.keep_alive.max(SHORTEST_KEEP_ALIVE))
            .set_clean_start(session.clean_start == CleanStart::Yes)
            .set_outgoing_inflight_upper_limit(TABLE)
            .set_request_channel_capacity(1)
            .set_connection_timeout(session.connect_timeout.as_secs().saturating_add(1))
            .set_manual_acks(true)
            .set_connect_properties(ConnectProperties {
                session_expiry_interval: Some(whole_seconds(session.expiry)),
                receive_maximum: Some(RECEIVE_MAXIMUM),
                max_packet_size: Some(session.max_packet),
                topic_alias_max: Some(0),
                ..ConnectProperties::new()
            });
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        if let Some(will) = &session.will {
            options.set_last_will(last_will(will, session.will_delay));
        }
        if let Some(Credentials { user, password }) = &self.credentials {
            options.set_credentials(user, password);
        }
        if let Some(tls) = &self.tls {
            options.set_transport(rumqttc::Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(
                tls,
            ))));
        }
        options
    }

    async fn open(&self, session: Session) -> Result<Connection, Disconnect> {
        let (client, mut events) = AsyncClient::new(self.options(&session), 1);
        let first = timeout(session.connect_timeout, events.poll()).await;
        let accepted = match first.map_err(|_| Disconnect::Timeout(session.connect_timeout))? {
            Ok(Event::Incoming(Packet::ConnAck(accepted))) => accepted,
            Ok(other) => return Err(Disconnect::Protocol(format!("{other:?} came before the acceptance"))),
            Err(error) => return Err(reason(&error, Phase::Opening)),
        };
        let number = next_connection();
        let terms = terms(&accepted, session.max_packet);
        // The broker may have set another keep-alive than we asked for; the library keeps it in its options.
        let silence = events.options.keep_alive().max(SHORTEST_KEEP_ALIVE).mul_f64(1.5);
        Ok(connection(number, &session, terms, |ends, drivers| {
            let Ends { orders, inlet, ended } = ends;
            let waiting = Arc::new(Mutex::new(Waiting::default()));
            drivers.spawn(feed(orders, client, Arc::clone(&waiting)));
            let driver = Driver { events, inlet, waiting, number, silence, acks: BTreeMap::new() };
            drivers.spawn(driver.run(ended));
        }))
    }
}

impl Transport for RumqttTransport {
    fn address(&self) -> String {
        self.address.to_string()
    }

    fn connect(&self, session: Session) -> BoxFuture<'_, Result<Connection, Disconnect>> {
        Box::pin(self.open(session))
    }
}

fn terms(accepted: &ConnAck, max_packet: u32) -> Terms {
    let properties = accepted.properties.as_ref();
    let receive = properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX);
    let window = match receive {
        TABLE.. => WINDOW,
        // The library's table shrinks to what the broker takes.
        fewer => (fewer / 4 * 3).max(1),
    };
    Terms {
        session_present: accepted.session_present,
        max_packet: properties.and_then(|properties| properties.max_packet_size).unwrap_or(max_packet),
        window: window.into(),
    }
}

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

fn last_will(will: &Message, delay: Duration) -> LastWill {
    let properties = LastWillProperties {
        delay_interval: (!delay.is_zero()).then(|| whole_seconds(delay)),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    LastWill::new(
        &will.topic,
        will.payload.to_vec(),
        qos(will.qos),
        will.retain == Retain::Yes,
        Some(properties),
    )
}

const fn qos(qos: Qos) -> QoS {
    match qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
    }
}

/// Who waits for packets that are still on their way to the library, in the order in which they will leave.
#[derive(Debug, Default)]
struct Waiting {
    publishes: VecDeque<Done>,
    subscribes: VecDeque<(Vec<Subscription>, Subscribed)>,
}

type Subscribed = oneshot::Sender<Result<(), SubscribeError>>;

type SharedWaiting = Arc<Mutex<Waiting>>;

fn with<T>(waiting: &SharedWaiting, act: impl FnOnce(&mut Waiting) -> T) -> T {
    act(&mut waiting.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Hands orders to the library one by one; who waits for what is noted first, so that the order is the same.
async fn feed(mut orders: mpsc::Receiver<Order>, client: AsyncClient, waiting: SharedWaiting) {
    while let Some(order) = orders.recv().await {
        let handed = match order {
            Order::Publish { message, done } => {
                if let Some(done) = done {
                    with(&waiting, |waiting| waiting.publishes.push_back(done));
                }
                publish(&client, message).await
            }
            Order::Subscribe { wanted, done } => {
                let filters: Vec<_> = wanted
                    .iter()
                    .map(|wanted| MqttFilter::new(wanted.filter.as_str(), qos(wanted.qos)))
                    .collect();
                with(&waiting, |waiting| waiting.subscribes.push_back((wanted, done)));
                client.subscribe_many(filters).await
            }
            Order::Unsubscribe { filters } => {
                let mut handed = Ok(());
                for filter in filters {
                    handed = handed.and(client.unsubscribe(filter.as_str()).await);
                }
                handed
            }
            Order::Acknowledge { packet } => {
                let received = Publish {
                    qos: QoS::AtLeastOnce,
                    pkid: packet,
                    ..Publish::new("", QoS::AtLeastOnce, "", None)
                };
                client.ack(&received).await
            }
            Order::Close => client.disconnect().await,
        };
        if handed.is_err() {
            return;
        }
    }
}

async fn publish(client: &AsyncClient, message: Message) -> Result<(), rumqttc::v5::ClientError> {
    let Message { topic, payload, qos: wanted, retain, expiry } = message;
    let retain = retain == Retain::Yes;
    match expiry {
        None => client.publish(topic, qos(wanted), retain, payload).await,
        Some(expiry) => {
            let properties = PublishProperties {
                message_expiry_interval: Some(whole_seconds(expiry)),
                ..PublishProperties::default()
            };
            client.publish_with_properties(topic, qos(wanted), retain, payload, properties).await
        }
    }
}

/// Moves one event loop until it ends.
struct Driver {
    events: EventLoop,
    inlet: Inlet,
    waiting: SharedWaiting,
    number: u64,
    silence: Duration,
    /// Who waits for the acknowledgement of which packet.
    acks: BTreeMap<u16, Await>,
}

enum Await {
    Publish(Done),
    Subscribe(Vec<Subscription>, Subscribed),
}

impl Driver {
    async fn run(mut self, ended: oneshot::Sender<Disconnect>) {
        let why = self.until_it_ends().await;
        debug!(event = "link.ended", error = why.to_string().as_str(); "Connection ended");
        // Whoever waits hears it when `self` is dropped; the receiver of this may be gone, which is fine.
        let _heard = ended.send(why);
    }

    async fn until_it_ends(&mut self) -> Disconnect {
        let mut last_word = Instant::now();
        loop {
            let event = match timeout_at(last_word + self.silence, self.events.poll()).await {
                Err(_) => return Disconnect::Silent(self.silence),
                Ok(Err(error)) => return reason(&error, Phase::Open),
                Ok(Ok(event)) => event,
            };
            let handled = match event {
                Event::Incoming(packet) => {
                    last_word = Instant::now();
                    self.incoming(packet)
                }
                Event::Outgoing(outgoing) => self.outgoing(&outgoing),
            };
            if let Err(why) = handled {
                return why;
            }
        }
    }

    fn outgoing(&mut self, outgoing: &Outgoing) -> Result<(), Disconnect> {
        match outgoing {
            Outgoing::Publish(packet) if *packet != 0 => {
                let done = with(&self.waiting, |waiting| waiting.publishes.pop_front());
                self.acks.extend(done.map(|done| (*packet, Await::Publish(done))));
            }
            Outgoing::Subscribe(packet) => {
                let subscribe = with(&self.waiting, |waiting| waiting.subscribes.pop_front());
                self.acks.extend(subscribe.map(|(wanted, done)| (*packet, Await::Subscribe(wanted, done))));
            }
            Outgoing::AwaitAck(packet) => {
                return Err(Disconnect::Protocol(format!(
                    "packet id {packet} came round while it was in use"
                )));
            }
            Outgoing::Disconnect => return Err(Disconnect::Ours),
            _ => {}
        }
        Ok(())
    }

    fn incoming(&mut self, packet: Packet) -> Result<(), Disconnect> {
        match packet {
            Packet::Publish(publish) => self.received(publish),
            Packet::PubAck(ack) => {
                self.published(&ack);
                Ok(())
            }
            Packet::SubAck(ack) => {
                self.subscribed(&ack);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn received(&self, publish: Publish) -> Result<(), Disconnect> {
        let Ok(topic) = String::from_utf8(publish.topic.to_vec()) else {
            return Err(Disconnect::Protocol("a topic is not UTF-8".to_owned()));
        };
        let ack = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(Ack { connection: self.number, packet: publish.pkid }),
            QoS::ExactlyOnce => return Err(Disconnect::Protocol("a message came at QoS 2".to_owned())),
        };
        // The payload is a window into the library's read buffer, which would stay alive as long as the message.
        let payload = Bytes::copy_from_slice(&publish.payload);
        self.inlet.offer(Received { topic, payload, retained: publish.retain, ack })
    }

    fn published(&mut self, ack: &PubAck) {
        if let Some(Await::Publish(done)) = self.acks.remove(&ack.pkid) {
            done.tell(match ack.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
                other => Err(NotAcknowledged::Refused(format!("{other:?}"))),
            });
        }
    }

    fn subscribed(&mut self, ack: &SubAck) {
        let Some(Await::Subscribe(wanted, done)) = self.acks.remove(&ack.pkid) else {
            return;
        };
        let refused = wanted.iter().zip(&ack.return_codes).find_map(|(wanted, code)| match code {
            SubscribeReasonCode::Success(_) => None,
            other => Some(SubscribeError::Refused {
                filter: wanted.filter.to_string(),
                reason: format!("{other:?}"),
            }),
        });
        // Nobody may be waiting any more; that is their choice.
        let _heard = done.send(refused.map_or(Ok(()), Err));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
}

/// What an error of the library means.
fn reason(error: &ConnectionError, phase: Phase) -> Disconnect {
    if let Some(tls) = tls::diagnose(error) {
        return tls;
    }
    match error {
        ConnectionError::ConnectionRefused(code) => Disconnect::Refused(format!("{code:?}")),
        ConnectionError::Io(error) if phase == Phase::Opening => Disconnect::Unreachable(error.to_string()),
        ConnectionError::Io(error) => Disconnect::Closed(error.to_string()),
        ConnectionError::Tls(error) => Disconnect::Tls(error.to_string()),
        ConnectionError::Timeout(_) => Disconnect::Timeout(Duration::ZERO),
        ConnectionError::MqttState(error) => state_reason(error),
        other => Disconnect::Protocol(other.to_string()),
    }
}

fn state_reason(error: &StateError) -> Disconnect {
    match error {
        StateError::ServerDisconnect { reason_code: DisconnectReasonCode::SessionTakenOver, .. } => {
            Disconnect::TakenOver
        }
        StateError::ServerDisconnect { reason_code, reason_string } => {
            Disconnect::Closed(reason_string.clone().unwrap_or_else(|| format!("{reason_code:?}")))
        }
        StateError::ConnectionAborted => Disconnect::Closed("without a word".to_owned()),
        StateError::Io(error) => {
            tls::diagnose(error).unwrap_or_else(|| Disconnect::Closed(error.to_string()))
        }
        StateError::Deserialization(mqttbytes::Error::Io(error)) => {
            tls::diagnose(error).unwrap_or_else(|| Disconnect::Closed(error.to_string()))
        }
        StateError::AwaitPingResp => Disconnect::Closed("it does not answer pings".to_owned()),
        other => Disconnect::Protocol(other.to_string()),
    }
}
