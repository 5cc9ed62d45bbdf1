//! A broker inside the process behind [`Transport`]: for tests, for import from a stick, and as the second reader of
//! what the trait promises.
//!
//! In: connections and messages. Out: the same, routed as MQTT 5 says: retained messages, sessions that outlive their
//! connection, unacknowledged messages that come again, shared subscriptions, wills, takeover. Faults can be asked
//! for: the broker stops, a connection is cut, sessions are forgotten, acknowledgements are held back.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::transport::{
    Ack, BoxFuture, CleanStart, Connection, Disconnect, Done, Ends, Inlet, Message, Order, Qos, Received,
    Retain, Session, Subscription, Terms, Transport, connection, next_connection,
};

/// Messages that a session holds for an absent client; the oldest go first.
const QUEUE: usize = 1_000;

/// Messages in flight to one client.
const IN_FLIGHT: usize = 32;

/// A broker inside the process; clones are the same broker.
#[derive(Clone, Debug, Default)]
pub struct MemoryBroker(Arc<Mutex<State>>);

/// Reaches a [`MemoryBroker`].
#[derive(Clone, Debug)]
pub struct MemoryTransport(MemoryBroker);

#[derive(Default)]
struct State {
    down: bool,
    holding: bool,
    held: Vec<Held>,
    sessions: BTreeMap<String, ClientSession>,
    retained: BTreeMap<String, Message>,
    shares: BTreeMap<String, usize>,
    published: Vec<Message>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("down", &self.down)
            .field("sessions", &self.sessions.len())
            .field("retained", &self.retained.len())
            .finish_non_exhaustive()
    }
}

struct Held {
    connection: u64,
    message: Message,
    done: Option<Done>,
}

#[derive(Default)]
struct ClientSession {
    subscriptions: Vec<Subscription>,
    queue: VecDeque<(Message, bool)>,
    unacknowledged: BTreeMap<u16, (Message, bool)>,
    next_packet: u16,
    online: Option<Online>,
    gone_at: Option<Instant>,
    expiry: std::time::Duration,
}

struct Online {
    connection: u64,
    inlet: Inlet,
    will: Option<Message>,
    end: watch::Sender<Option<Disconnect>>,
}

impl MemoryBroker {
    /// A broker that knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// How clients reach it.
    pub fn transport(&self) -> MemoryTransport {
        MemoryTransport(self.clone())
    }

    /// Publishes as if a client did.
    pub fn publish(&self, message: &Message) {
        self.lock().route(message);
    }

    /// Every message at QoS 1 that the broker acknowledged, and every one at QoS 0 that it took, in order.
    pub fn published(&self) -> Vec<Message> {
        self.lock().published.clone()
    }

    /// The retained message on `topic`.
    pub fn retained(&self, topic: &str) -> Option<Message> {
        self.lock().retained.get(topic).cloned()
    }

    /// Cuts the connection of `client`, as a broken network does: its will is spoken, what it sent and was not
    /// acknowledged is lost.
    pub fn cut(&self, client: &str) {
        self.lock().end(client, &Disconnect::Closed("cut".to_owned()), Speak::Will);
    }

    /// Cuts every connection and accepts none until [`Self::start`].
    pub fn stop(&self) {
        let mut state = self.lock();
        state.down = true;
        let clients: Vec<_> = state.sessions.keys().cloned().collect();
        for client in clients {
            state.end(&client, &Disconnect::Closed("the broker stopped".to_owned()), Speak::Nothing);
        }
    }

    /// Accepts connections again.
    pub fn start(&self) {
        self.lock().down = false;
    }

    /// Forgets all sessions of clients that are not connected.
    pub fn forget_sessions(&self) {
        self.lock().sessions.retain(|_, session| session.online.is_some());
    }

    /// Takes messages without acting on them or acknowledging them, as a stalled broker does, until
    /// [`Self::release`].
    pub fn hold(&self) {
        self.lock().holding = true;
    }

    /// Acts on what was held, as far as its connection still stands.
    pub fn release(&self) {
        let mut state = self.lock();
        state.holding = false;
        for held in std::mem::take(&mut state.held) {
            state.accept(&held.message, held.done);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, session: &Session) -> Result<Connection, Disconnect> {
        let number = next_connection();
        let mut state = self.lock();
        if state.down {
            return Err(Disconnect::Unreachable("the broker is stopped".to_owned()));
        }
        state.end(&session.client_id, &Disconnect::TakenOver, Speak::Will);
        state.expire();
        if session.clean_start == CleanStart::Yes {
            state.sessions.remove(&session.client_id);
        }
        let terms = Terms {
            session_present: state.sessions.contains_key(&session.client_id),
            max_packet: session.max_packet,
            window: 12,
        };
        let (end, ends) = watch::channel(None);
        let client = session.client_id.clone();
        let broker = self.clone();
        let held = state.sessions.entry(client.clone()).or_default();
        let opened = connection(number, session, terms, |parts, drivers| {
            let Ends { orders, inlet, ended } = parts;
            held.online = Some(Online { connection: number, inlet, will: session.will.clone(), end });
            held.expiry = session.expiry;
            held.gone_at = None;
            let guard = Guard { broker, client, number, speak: Speak::Will };
            drivers.spawn(drive(guard, orders, ends, ended));
        });
        held.resend();
        Ok(opened)
    }
}

impl Transport for MemoryTransport {
    fn address(&self) -> String {
        "memory".to_owned()
    }

    fn connect(&self, session: Session) -> BoxFuture<'_, Result<Connection, Disconnect>> {
        Box::pin(std::future::ready(self.0.open(&session)))
    }
}

/// Carries out a client's orders until either side ends the connection.
///
/// The guard speaks the will when the connection is dropped, be it before this was ever polled.
async fn drive(
    mut guard: Guard,
    mut orders: mpsc::Receiver<Order>,
    mut ends: watch::Receiver<Option<Disconnect>>,
    ended: oneshot::Sender<Disconnect>,
) {
    let why = loop {
        let order = tokio::select! {
            biased;
            end = ends.wait_for(Option::is_some) => {
                let why = end.ok().and_then(|why| why.clone());
                break why.unwrap_or_else(|| Disconnect::Closed("the broker is gone".to_owned()));
            }
            order = orders.recv() => order,
        };
        match order {
            Some(Order::Close) => {
                guard.speak = Speak::Nothing;
                break Disconnect::Ours;
            }
            Some(order) => guard.broker.lock().carry_out(&guard.client, guard.number, order),
            None => break Disconnect::Ours,
        }
    };
    drop(guard);
    // Whoever held the connection may be gone; then nobody asks why.
    let _heard = ended.send(why);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speak {
    Will,
    Nothing,
}

struct Guard {
    broker: MemoryBroker,
    client: String,
    number: u64,
    speak: Speak,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.broker.lock();
        let ours = state
            .sessions
            .get(&self.client)
            .and_then(|session| session.online.as_ref())
            .is_some_and(|online| online.connection == self.number);
        if ours {
            state.end(&self.client, &Disconnect::Ours, self.speak);
        }
    }
}

impl State {
    fn carry_out(&mut self, client: &str, connection: u64, order: Order) {
        let online = self.sessions.get(client).and_then(|session| session.online.as_ref());
        if online.is_none_or(|online| online.connection != connection) {
            return; // It ended while the order was on its way: whoever waits hears that it is lost.
        }
        match order {
            Order::Publish { message, done } if self.holding => {
                self.held.push(Held { connection, message, done });
            }
            Order::Publish { message, done } => self.accept(&message, done),
            Order::Subscribe { wanted, done } => {
                self.subscribe(client, &wanted);
                // Whoever asked may have gone.
                let _heard = done.send(Ok(()));
            }
            Order::Unsubscribe { filters } => {
                if let Some(session) = self.sessions.get_mut(client) {
                    session.subscriptions.retain(|held| !filters.contains(&held.filter));
                }
            }
            Order::Acknowledge { packet } => {
                if let Some(session) = self.sessions.get_mut(client) {
                    session.unacknowledged.remove(&packet);
                    session.pump();
                }
            }
            Order::Close => {}
        }
    }

    fn accept(&mut self, message: &Message, done: Option<Done>) {
        self.route(message);
        if let Some(done) = done {
            done.tell(Ok(()));
        }
    }

    fn subscribe(&mut self, client: &str, wanted: &[Subscription]) {
        let Some(session) = self.sessions.get_mut(client) else {
            return;
        };
        for subscription in wanted {
            session.subscriptions.retain(|held| held.filter != subscription.filter);
            session.subscriptions.push(subscription.clone());
            if subscription.filter.as_str().starts_with("$share/") {
                continue;
            }
            for message in self.retained.values() {
                if subscription.filter.matches(&message.topic) {
                    session.deliver(message, subscription.qos, true);
                }
            }
        }
    }

    fn route(&mut self, message: &Message) {
        self.published.push(message.clone());
        if message.retain == Retain::Yes {
            if message.payload.is_empty() {
                self.retained.remove(&message.topic);
            } else {
                self.retained.insert(message.topic.clone(), message.clone());
            }
        }
        self.expire();
        let mut shares: BTreeMap<String, Vec<(String, Qos)>> = BTreeMap::new();
        for (client, session) in &mut self.sessions {
            let matching: Vec<_> = session
                .subscriptions
                .iter()
                .filter(|held| held.filter.matches(&message.topic))
                .cloned()
                .collect();
            let mut direct = None;
            for Subscription { filter, qos } in matching {
                if filter.as_str().starts_with("$share/") {
                    if session.online.is_some() {
                        shares.entry(filter.to_string()).or_default().push((client.clone(), qos));
                    }
                } else {
                    direct = direct.max(Some(qos));
                }
            }
            if let Some(qos) = direct {
                session.deliver(message, qos, false);
            }
        }
        for (share, clients) in shares {
            let turn = self.shares.entry(share).or_default();
            *turn = turn.wrapping_add(1);
            let chosen = clients.get(*turn % clients.len());
            if let Some((session, qos)) =
                chosen.and_then(|(client, qos)| Some((self.sessions.get_mut(client)?, *qos)))
            {
                session.deliver(message, qos, false);
            }
        }
    }

    fn end(&mut self, client: &str, why: &Disconnect, speak: Speak) {
        let Some(online) = self.sessions.get_mut(client).and_then(|session| {
            session.gone_at = Some(Instant::now());
            session.online.take()
        }) else {
            return;
        };
        online.end.send_replace(Some(why.clone()));
        self.held.retain(|held| held.connection != online.connection);
        self.expire();
        if let (Some(will), Speak::Will) = (online.will, speak) {
            self.route(&will);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        self.sessions.retain(|_, session| match session.gone_at {
            Some(gone) => now.saturating_duration_since(gone) < session.expiry,
            None => true,
        });
    }
}

impl ClientSession {
    fn deliver(&mut self, message: &Message, qos: Qos, retained: bool) {
        if message.qos.min(qos) == Qos::AtLeastOnce {
            if self.queue.len() >= QUEUE {
                self.queue.pop_front();
            }
            self.queue.push_back((message.clone(), retained));
            self.pump();
        } else if let Some(online) = &self.online {
            // At QoS 0 nothing ends a connection.
            let _queued = online.inlet.offer(received(message, retained, None));
        }
    }

    fn pump(&mut self) {
        while self.online.is_some() && self.unacknowledged.len() < IN_FLIGHT {
            let Some((message, retained)) = self.queue.pop_front() else {
                return;
            };
            self.next_packet = self.next_packet.checked_add(1).unwrap_or(1);
            while self.unacknowledged.contains_key(&self.next_packet) {
                self.next_packet = self.next_packet.checked_add(1).unwrap_or(1);
            }
            let packet = self.next_packet;
            self.unacknowledged.insert(packet, (message.clone(), retained));
            self.send(packet, &message, retained);
        }
    }

    fn resend(&mut self) {
        for (packet, (message, retained)) in self.unacknowledged.clone() {
            self.send(packet, &message, retained);
        }
        self.pump();
    }

    fn send(&self, packet: u16, message: &Message, retained: bool) {
        if let Some(online) = &self.online {
            let ack = Ack { connection: online.connection, packet };
            if let Err(why) = online.inlet.offer(received(message, retained, Some(ack))) {
                online.end.send_replace(Some(why));
            }
        }
    }
}

fn received(message: &Message, retained: bool, ack: Option<Ack>) -> Received {
    Received { topic: message.topic.clone(), payload: message.payload.clone(), retained, ack }
}
