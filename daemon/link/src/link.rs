//! The control connection of a device, as one task that its owner runs and stops.
//!
//! In: documents, commands and hints from the broker; reports and items from the device. Out: [`Incoming`] for the
//! device; birth, reports and the outbox's items for the broker. Reconnects for ever, with jitter; the network may be
//! gone for a year and nothing here grows. After a lost session everything is subscribed and reported again.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agentd_types::{Clock, Coded, DeviceId, FleetId, GroupName, UnixTime, chain};
use agentd_wire::{
    AllTopic, BadPayload, ClockState, Down, Filter, GroupTopic, Params, Payload, Presence, Report, Section,
    Topic, Up,
};
use bytes::Bytes;
use log::{debug, info, warn};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::{Backoff, RetryPolicy},
    flood::{FloodPolicy, TokenBucket},
    inbox::{Document, Inbox, Incoming, kind_on},
    outbox::{Draft, Item, ItemId, Outbox, OutboxError, Waiting},
    transport::{
        Ack, Connection, Disconnect, Message, NotAcknowledged, PublishError, Publisher, Qos, Received,
        Session, SubscribeError, Subscription, Transport,
    },
};

/// Items of the outbox in flight at once.
const IN_FLIGHT: usize = 8;

/// Groups that a device may be in.
const MAX_GROUPS: usize = 64;

/// How fast the outbox is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainPolicy {
    /// Items per second, on average.
    pub items_per_second: u32,
    /// Items at once after a pause.
    pub burst: u32,
    /// Bytes per second, on average; the burst is as large as a second's worth.
    pub bytes_per_second: u32,
}

impl Default for DrainPolicy {
    fn default() -> Self {
        Self { items_per_second: 50, burst: 100, bytes_per_second: 512 << 10 }
    }
}

/// What a control connection needs to know.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The fleet.
    pub fleet: FleetId,
    /// This device.
    pub device: DeviceId,
    /// Names this run of the daemon.
    pub boot: String,
    /// The version of the agent.
    pub agent: String,
    /// Silence of one and a half times this means that the broker is gone. At least 5 s.
    pub keep_alive: Duration,
    /// Longest time for one attempt to connect.
    pub connect_timeout: Duration,
    /// How long the broker keeps our session.
    pub session_expiry: Duration,
    /// How long the broker waits before it speaks our will.
    pub will_delay: Duration,
    /// When to try again.
    pub retry: RetryPolicy,
    /// After the broker itself closed, the first attempt is spread over this, unless `all/params` says otherwise.
    pub reconnect_window: Duration,
    /// How fast the outbox is drained.
    pub drain: DrainPolicy,
    /// How much is taken in.
    pub flood: FloodPolicy,
}

impl LinkConfig {
    /// The protocol's own figures for a device.
    pub fn new(fleet: FleetId, device: DeviceId, boot: impl Into<String>, agent: impl Into<String>) -> Self {
        Self {
            fleet,
            device,
            boot: boot.into(),
            agent: agent.into(),
            keep_alive: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            session_expiry: Duration::from_secs(86_400),
            will_delay: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            reconnect_window: Duration::from_secs(60),
            drain: DrainPolicy::default(),
            flood: FloodPolicy::default(),
        }
    }
}

/// How the connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkStatus {
    /// Connected.
    Online {
        /// Where.
        address: String,
        /// Since when, by the device's clock.
        since: UnixTime,
    },
    /// Not connected.
    Offline {
        /// Where the broker should be.
        address: String,
        /// Since when, by the device's clock.
        since: UnixTime,
        /// Why, when an attempt has failed.
        reason: Option<Disconnect>,
    },
}

/// What both ends share.
#[derive(Debug)]
struct Shared {
    outbox: Mutex<Outbox>,
    spoken: Mutex<Spoken>,
    changed: Notify,
}

/// What the device wants the broker to know.
#[derive(Debug)]
struct Spoken {
    sections: BTreeMap<Section, ReportedSection>,
    groups: BTreeSet<GroupName>,
    clock: ClockState,
    publisher: Option<Publisher>,
}

#[derive(Debug)]
struct ReportedSection {
    report: Report,
    payload: Bytes,
    state: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    No,
    Sent,
    Yes,
}

impl Shared {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spoken(&self) -> MutexGuard<'_, Spoken> {
        self.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publisher(&self) -> Option<Publisher> {
        self.spoken().publisher.clone()
    }
}

/// What the device does with its link; clones are the same link.
#[derive(Clone, Debug)]
pub struct LinkHandle {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    status: watch::Receiver<LinkStatus>,
}

impl LinkHandle {
    /// Puts an item into the outbox. Once this returns, the item survives a crash; see [`Outbox::put`].
    ///
    /// # Errors
    /// As [`Outbox::put`].
    pub async fn put(&self, draft: Draft) -> Result<ItemId, OutboxError> {
        let now = self.clock.now();
        let shared = Arc::clone(&self.shared);
        let put = spawn_blocking(move || shared.outbox().put(draft, now));
        let outcome = put.await.map_err(|_| OutboxError::Stopped)?;
        self.shared.changed.notify_one();
        outcome
    }

    /// Reports a section; published when it says something new, now or when the connection stands again.
    ///
    /// # Errors
    /// When the report breaks the limits of the message.
    pub fn report(&self, report: Report) -> Result<(), BadPayload> {
        let section = report.section();
        let payload = report.write()?.into();
        let mut spoken = self.shared.spoken();
        let same = spoken.sections.get(&section).is_some_and(|held| {
            held.report.facts == report.facts && held.report.conditions == report.conditions
        });
        if !same {
            spoken.sections.insert(section, ReportedSection { report, payload, state: Told::No });
        }
        drop(spoken);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Listens to the desired documents of these groups (the first 64 by name) and of no others.
    pub fn set_groups(&self, groups: impl IntoIterator<Item = GroupName>) {
        self.shared.spoken().groups = groups.into_iter().take(MAX_GROUPS).collect();
        self.shared.changed.notify_one();
    }

    /// What the next birth says about the wall clock.
    pub fn set_clock_state(&self, state: ClockState) {
        self.shared.spoken().clock = state;
    }

    /// Tells the broker that a command is in the journal. When the connection that brought it is gone, the broker
    /// sends the command again.
    pub async fn acknowledge(&self, ack: Ack) {
        if let Some(publisher) = self.shared.publisher() {
            // A connection that is gone brings the command again.
            let _acknowledged = publisher.acknowledge(ack).await;
        }
    }

    /// How the connection is, now and whenever it changes.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// What waits in the outbox.
    pub fn waiting(&self) -> Waiting {
        self.shared.outbox().waiting()
    }
}

/// The control connection; [`Link::run`] is the task.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    inbox: Inbox,
    to: mpsc::Sender<Incoming>,
    status: watch::Sender<LinkStatus>,
    backoff: Backoff,
    window: Duration,
    connections: u64,
    subscribed: BTreeSet<GroupName>,
    told_reason: Option<Disconnect>,
}

impl Link {
    /// A link that is not running yet, its handle, and where it tells what the broker said.
    ///
    /// `seed` drives the jitter of reconnections: devices should differ in it.
    pub fn new(
        config: LinkConfig,
        transport: Arc<dyn Transport>,
        outbox: Outbox,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> (Self, LinkHandle, mpsc::Receiver<Incoming>) {
        let offline = LinkStatus::Offline { address: transport.address(), since: clock.now(), reason: None };
        let (status, status_rx) = watch::channel(offline);
        let (to, incoming) = mpsc::channel(16); // 16 documents of at most 1 MiB: 16 MiB
        let spoken = Spoken {
            sections: BTreeMap::new(),
            groups: BTreeSet::new(),
            clock: ClockState::Plausible,
            publisher: None,
        };
        let shared = Arc::new(Shared {
            outbox: Mutex::new(outbox),
            spoken: Mutex::new(spoken),
            changed: Notify::new(),
        });
        let handle = LinkHandle { shared: Arc::clone(&shared), clock: Arc::clone(&clock), status: status_rx };
        let link = Self {
            backoff: Backoff::new(config.retry, seed),
            window: config.reconnect_window,
            config,
            transport,
            clock,
            shared,
            inbox: Inbox::default(),
            to,
            status,
            connections: 0,
            subscribed: BTreeSet::new(),
            told_reason: None,
        };
        (link, handle, incoming)
    }

    /// Keeps the connection until told to stop; then says good-bye and ends within about 3 s.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut helpers = JoinSet::new();
        helpers.spawn(self.inbox.clone().hand_on(self.config.flood, self.to.clone(), stop.child_token()));
        while !stop.is_cancelled() {
            let wait = self.once(&stop).await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(wait) => {}
            }
        }
        helpers.join_all().await;
    }

    /// One connection from the attempt to its end; returns how long to wait before the next.
    async fn once(&mut self, stop: &CancellationToken) -> Duration {
        self.connections += 1;
        let attempt = self.transport.connect(self.session());
        let attempt = tokio::select! {
            () = stop.cancelled() => return Duration::ZERO,
            attempt = timeout(self.config.connect_timeout, attempt) => attempt,
        };
        let opened = attempt.unwrap_or(Err(Disconnect::Timeout(self.config.connect_timeout)));
        let (reason, stood) = match opened {
            Err(reason) => (reason, None),
            Ok(connection) => {
                let since = Instant::now();
                let reason = self.connected(connection, stop).await;
                (reason, Some(since.elapsed()))
            }
        };
        self.offline(&reason);
        match stood {
            Some(stood) => {
                self.backoff.stood(stood);
                let server_side = matches!(reason, Disconnect::Closed(_));
                let wait = self.backoff.failed();
                if server_side { wait.max(self.backoff.spread(self.window)) } else { wait }
            }
            None => self.backoff.failed(),
        }
    }

    fn session(&self) -> Session {
        let LinkConfig { fleet, device, boot, .. } = &self.config;
        let lost = Presence::Lost { boot: boot.clone(), connection: self.connections };
        let will = lost
            .write()
            .ok()
            .map(|payload| Message::surely(Topic::up(fleet, device, Up::Conn), payload).retained());
        Session {
            expiry: self.config.session_expiry,
            keep_alive: self.config.keep_alive,
            connect_timeout: self.config.connect_timeout,
            will,
            will_delay: self.config.will_delay,
            ..Session::control(device.as_str())
        }
    }

    fn offline(&mut self, reason: &Disconnect) {
        let was_online = matches!(&*self.status.borrow(), LinkStatus::Online { .. });
        if was_online || self.told_reason.as_ref() != Some(reason) {
            info!(event = "link.offline", code = reason.code().as_str(), error = chain(reason).as_str(); "Broker not connected");
            self.inbox.push(Incoming::Disconnected { reason: reason.clone() });
            self.told_reason = Some(reason.clone());
        }
        let now = self.clock.now();
        self.status.send_modify(|status| {
            let since = match status {
                LinkStatus::Offline { since, .. } => *since,
                LinkStatus::Online { .. } => now,
            };
            let address = self.transport.address();
            *status = LinkStatus::Offline { address, since, reason: Some(reason.clone()) };
        });
    }

    /// Everything on one connection; returns why it ended.
    async fn connected(&mut self, mut connection: Connection, stop: &CancellationToken) -> Disconnect {
        let publisher = connection.publisher();
        let mut talk = Talk::new(&self.config.drain, self.config.flood);
        let end = self.converse(&mut connection, &publisher, &mut talk, stop).await;
        let reason = match end {
            End::Stopped => {
                self.farewell(connection, &publisher).await;
                Disconnect::Ours
            }
            End::Lost(reason) => reason,
            End::Gone => why(&mut connection).await,
        };
        self.forget(reason)
    }

    async fn converse(
        &mut self,
        connection: &mut Connection,
        publisher: &Publisher,
        talk: &mut Talk,
        stop: &CancellationToken,
    ) -> End {
        let fresh = !connection.session_present() || self.connections == 1;
        // Dropped half way only when everything ends.
        let greeted = tokio::select! {
            () = stop.cancelled() => Err(End::Stopped),
            greeted = self.greet(connection, publisher, talk, fresh) => greeted,
        };
        if let Err(end) = greeted {
            return end;
        }
        loop {
            // Dropped half way only when everything ends: what was taken from the outbox is still in its store.
            let spoken = tokio::select! {
                () = stop.cancelled() => Err(End::Stopped),
                pause = self.speak(publisher, talk) => pause,
            };
            let pause = match spoken {
                Ok(pause) => pause,
                Err(end) => return end,
            };
            // Every arm may be dropped half way: the queue keeps what was not taken out of it.
            tokio::select! {
                () = stop.cancelled() => return End::Stopped,
                received = connection.next() => match received {
                    Ok(received) => self.received(received, publisher, talk).await,
                    Err(reason) => return End::Lost(reason),
                },
                Some(Ok((what, outcome))) = talk.answers.join_next() => self.answered(what, outcome).await,
                () = self.shared.changed.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// What was sent and not acknowledged is not known to have arrived.
    fn forget(&self, reason: Disconnect) -> Disconnect {
        self.shared.outbox().connection_lost();
        let mut spoken = self.shared.spoken();
        spoken.publisher = None;
        for section in spoken.sections.values_mut() {
            if section.state == Told::Sent {
                section.state = Told::No;
            }
        }
        reason
    }

    /// Birth, subscriptions, and after a lost session everything reported anew.
    async fn greet(
        &mut self,
        connection: &mut Connection,
        publisher: &Publisher,
        talk: &mut Talk,
        fresh: bool,
    ) -> Result<(), End> {
        let session_present = connection.session_present();
        let birth = self.birth().write().map_err(|error| End::Lost(Disconnect::Protocol(chain(&error))))?;
        let topic = Topic::up(&self.config.fleet, &self.config.device, Up::Conn);
        talk.send(publisher, What::Birth, Message::surely(topic, birth).retained()).await?;
        self.online(session_present);
        let groups = {
            let mut spoken = self.shared.spoken();
            spoken.publisher = Some(publisher.clone());
            if fresh {
                for section in spoken.sections.values_mut() {
                    section.state = Told::No;
                }
            }
            spoken.groups.clone()
        };
        if fresh {
            let wanted = self.subscriptions(&groups);
            self.subscribe(connection, publisher, talk, wanted).await?;
            self.subscribed = groups;
        }
        Ok(())
    }

    /// Subscribes while messages are taken in, since the retained ones come before the subscription is acknowledged.
    async fn subscribe(
        &mut self,
        connection: &mut Connection,
        publisher: &Publisher,
        talk: &mut Talk,
        wanted: Vec<Subscription>,
    ) -> Result<(), End> {
        let subscribing = publisher.subscribe(wanted);
        tokio::pin!(subscribing);
        let deadline = sleep(self.config.connect_timeout);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                outcome = &mut subscribing => {
                    return outcome.map_err(|error| match error {
                        SubscribeError::Refused { .. } => End::Lost(Disconnect::Refused(chain(&error))),
                        SubscribeError::Gone => End::Gone,
                    });
                }
                received = connection.next() => {
                    self.received(received.map_err(End::Lost)?, publisher, talk).await;
                }
                () = &mut deadline => return Err(End::Lost(Disconnect::Timeout(self.config.connect_timeout))),
            }
        }
    }

    fn birth(&self) -> Presence {
        Presence::Online {
            boot: self.config.boot.clone(),
            connection: self.connections,
            agent: self.config.agent.clone(),
            protocols: vec![1],
            clock: self.shared.spoken().clock,
            at: self.clock.now(),
        }
    }

    fn online(&mut self, session_present: bool) {
        let address = self.transport.address();
        info!(event = "link.online", address = address.as_str(), session_present; "Broker connected");
        self.told_reason = None;
        self.status.send_replace(LinkStatus::Online { address, since: self.clock.now() });
        self.inbox.push(Incoming::Connected { session_present });
    }

    fn subscriptions(&self, groups: &BTreeSet<GroupName>) -> Vec<Subscription> {
        let LinkConfig { fleet, device, .. } = &self.config;
        let down = |down| Filter::exactly(&Topic::down(fleet, device, down));
        let all = |what| Filter::exactly(&Topic::all(fleet, what));
        let mut filters = vec![
            Filter::trust(fleet),
            all(AllTopic::Params),
            all(AllTopic::Catalog),
            down(Down::Membership),
            all(AllTopic::Desired),
            down(Down::Desired),
            down(Down::Cmd),
        ];
        filters.extend(groups.iter().map(|group| self.group_filter(group)));
        filters.into_iter().map(|filter| Subscription { filter, qos: Qos::AtLeastOnce }).collect()
    }

    fn group_filter(&self, group: &GroupName) -> Filter {
        Filter::exactly(&Topic::group(&self.config.fleet, group, GroupTopic::Desired))
    }

    /// Sends what is due; returns after how long to look again.
    async fn speak(&mut self, publisher: &Publisher, talk: &mut Talk) -> Result<Duration, End> {
        self.follow_groups(publisher, talk).await?;
        self.tell_sections(publisher, talk).await?;
        self.drain(publisher, talk).await
    }

    async fn follow_groups(&mut self, publisher: &Publisher, talk: &mut Talk) -> Result<(), End> {
        let wanted = self.shared.spoken().groups.clone();
        let gone: Vec<_> =
            self.subscribed.difference(&wanted).map(|group| self.group_filter(group)).collect();
        let new: Vec<_> = wanted
            .difference(&self.subscribed)
            .map(|group| Subscription { filter: self.group_filter(group), qos: Qos::AtLeastOnce })
            .collect();
        publisher.unsubscribe(gone).await.map_err(|_| End::Gone)?;
        if !new.is_empty() {
            let publisher = publisher.clone();
            talk.answers.spawn(async move {
                let outcome = publisher.subscribe(new).await;
                (What::Groups, outcome.map_err(|error| NotAcknowledged::Refused(chain(&error))))
            });
        }
        self.subscribed = wanted;
        Ok(())
    }

    async fn tell_sections(&mut self, publisher: &Publisher, talk: &mut Talk) -> Result<(), End> {
        loop {
            if talk.answers.len() >= IN_FLIGHT {
                return Ok(());
            }
            let next = {
                let mut spoken = self.shared.spoken();
                let next = spoken.sections.iter_mut().find(|(_, section)| section.state == Told::No);
                next.map(|(name, section)| {
                    section.state = Told::Sent;
                    (*name, section.payload.clone())
                })
            };
            let Some((section, payload)) = next else {
                return Ok(());
            };
            let topic = Topic::up(&self.config.fleet, &self.config.device, Up::Rep(section));
            let message = Message::surely(topic, payload.clone()).retained();
            talk.send(publisher, What::Section(section, payload), message).await?;
        }
    }

    async fn drain(&mut self, publisher: &Publisher, talk: &mut Talk) -> Result<Duration, End> {
        const LOOK_AGAIN: Duration = Duration::from_secs(30);
        loop {
            if talk.answers.len() >= IN_FLIGHT || !self.shared.outbox().has_next() {
                // An answer, or an item put in, wakes us.
                return Ok(LOOK_AGAIN);
            }
            let now = Instant::now();
            let wait = talk.items.wait(1, now).max(talk.bytes.wait(1, now));
            if !wait.is_zero() {
                return Ok(wait);
            }
            let item = match self.with_outbox(Outbox::next_item).await {
                Ok(Some(item)) => item,
                Ok(None) => return Ok(LOOK_AGAIN),
                Err(error) => {
                    warn!(event = "outbox.unreadable", code = error.code().as_str(), error = chain(&error).as_str(); "Outbox cannot be read");
                    return Ok(LOOK_AGAIN);
                }
            };
            talk.items.take(1, now);
            talk.bytes.take(u32::try_from(item.payload.len()).unwrap_or(u32::MAX).max(1), now);
            let id = item.id;
            talk.send(publisher, What::Item(id), self.message(item)).await?;
        }
    }

    fn message(&self, item: Item) -> Message {
        let topic = Topic::up(&self.config.fleet, &self.config.device, item.channel.into());
        let message = Message::surely(topic, item.payload);
        match item.channel {
            crate::Channel::Rep(_) => message.retained(),
            _ => message,
        }
    }

    /// The store may wait for the disk, so it is called where waiting is allowed.
    async fn with_outbox<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Outbox) -> Result<T, OutboxError> + Send + 'static,
    ) -> Result<T, OutboxError> {
        let shared = Arc::clone(&self.shared);
        spawn_blocking(move || act(&mut shared.outbox())).await.map_err(|_| OutboxError::Stopped)?
    }

    async fn answered(&self, what: What, outcome: Result<(), NotAcknowledged>) {
        match (what, outcome) {
            (What::Item(id), Ok(())) => {
                if let Err(error) = self.with_outbox(move |outbox| outbox.acknowledged(id)).await {
                    warn!(event = "outbox.remove_failed", code = error.code().as_str(), error = chain(&error).as_str(); "Outbox keeps a delivered item");
                }
            }
            (What::Item(id), Err(NotAcknowledged::Lost)) => self.shared.outbox().returned(id),
            (What::Item(id), Err(NotAcknowledged::Refused(reason))) => {
                warn!(event = "link.refused", reason = reason.as_str(); "Broker refuses an item of the outbox");
                self.shared.outbox().refused(id);
            }
            (What::Section(name, payload), outcome) => {
                if let Some(section) = self.shared.spoken().sections.get_mut(&name)
                    && section.payload == payload
                    && section.state == Told::Sent
                {
                    // What the broker refuses is not told again before the next connection.
                    let lost = matches!(outcome, Err(NotAcknowledged::Lost));
                    section.state = if lost { Told::No } else { Told::Yes };
                }
            }
            (What::Birth, Err(error)) | (What::Groups, Err(error)) => {
                warn!(event = "link.refused", error = chain(&error).as_str(); "Broker refuses birth or groups");
            }
            (What::Birth | What::Groups, Ok(())) => {}
        }
    }

    async fn received(&mut self, received: Received, publisher: &Publisher, talk: &mut Talk) {
        let Received { topic, payload, ack, .. } = received;
        let mut ours = ack;
        match topic.parse::<Topic>() {
            Ok(topic) if topic.fleet() == &self.config.fleet => match topic {
                Topic::Down { down: Down::Cmd, .. } => {
                    if talk.commands.take(1, Instant::now())
                        && payload.len() <= agentd_wire::MAX_PAYLOAD_BYTES
                    {
                        // Acknowledged by whoever writes it into the journal.
                        self.inbox.push(Incoming::Command { bytes: payload, ack: ours.take() });
                    } else {
                        self.inbox.drop_one("link.command_flood");
                    }
                }
                Topic::All { what: AllTopic::Params, .. } => self.take_params(&payload),
                topic => self.take_document(topic, payload),
            },
            _ => self.inbox.drop_one("link.unknown_topic"),
        }
        if let Some(ack) = ours {
            // Documents stand at the broker and are asked for again at every start, so they are safe already.
            let _acknowledged = publisher.acknowledge(ack).await;
        }
    }

    fn take_document(&self, topic: Topic, payload: Bytes) {
        match kind_on(&topic) {
            Some(_) if payload.len() > self.config.flood.max_document => {
                self.inbox.drop_one("link.document_size");
            }
            Some(kind) => self.inbox.push(Incoming::Document(Document { kind, topic, bytes: payload })),
            None => self.inbox.drop_one("link.unknown_topic"),
        }
    }

    fn take_params(&mut self, payload: &[u8]) {
        let read = if payload.is_empty() { Ok(Params::default()) } else { Params::read(payload) };
        match read {
            Ok(params) => self.window = Duration::from_secs(params.reconnect_window_s.into()),
            Err(error) => {
                debug!(event = "link.params", error = chain(&error).as_str(); "Hints cannot be read");
                self.inbox.drop_one("link.params");
            }
        }
    }

    async fn farewell(&self, connection: Connection, publisher: &Publisher) {
        let LinkConfig { fleet, device, boot, .. } = &self.config;
        let stopped =
            Presence::Stopped { boot: boot.clone(), connection: self.connections, at: self.clock.now() };
        let say = async {
            let topic = Topic::up(fleet, device, Up::Conn);
            let message = Message::surely(topic, stopped.write().ok()?).retained();
            publisher.publish(message).await.ok()?.await.ok()
        };
        // The broker speaks the will when this does not get through.
        let _said = timeout(Duration::from_secs(2), say).await;
        connection.close(Duration::from_secs(1)).await;
    }
}

/// How a conversation ended.
enum End {
    /// We were told to stop.
    Stopped,
    /// The connection ended, and this is why.
    Lost(Disconnect),
    /// It cannot be sent on any more; the connection itself knows why.
    Gone,
}

/// Why a connection that cannot be sent on has ended.
async fn why(connection: &mut Connection) -> Disconnect {
    let ended = async {
        loop {
            if let Err(reason) = connection.next().await {
                break reason;
            }
        }
    };
    let gone = |_| Disconnect::Closed("it is gone".to_owned());
    timeout(Duration::from_secs(1), ended).await.unwrap_or_else(gone)
}

/// What an acknowledgement is about.
#[derive(Debug)]
enum What {
    Birth,
    Groups,
    Section(Section, Bytes),
    Item(ItemId),
}

/// What one connection has to say and hear.
struct Talk {
    answers: JoinSet<(What, Result<(), NotAcknowledged>)>,
    items: TokenBucket,
    bytes: TokenBucket,
    commands: TokenBucket,
}

impl Talk {
    fn new(drain: &DrainPolicy, flood: FloodPolicy) -> Self {
        let now = Instant::now();
        Self {
            answers: JoinSet::new(),
            items: TokenBucket::new(drain.items_per_second, drain.burst, now),
            bytes: TokenBucket::new(drain.bytes_per_second, drain.bytes_per_second, now),
            commands: TokenBucket::new(flood.commands_per_second, flood.commands_burst, now),
        }
    }

    async fn send(&mut self, publisher: &Publisher, what: What, message: Message) -> Result<(), End> {
        match publisher.publish(message).await {
            Ok(completion) => {
                self.answers.spawn(async move { (what, completion.await) });
                Ok(())
            }
            Err(PublishError::Gone) => Err(End::Gone),
            Err(error) => {
                // Cannot be sent on this connection at all: as if the broker had refused it.
                let refused = NotAcknowledged::Refused(chain(&error));
                self.answers.spawn(async move { (what, Err(refused)) });
                Ok(())
            }
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // Nobody waits for answers of a connection that is gone.
        mem::take(&mut self.answers).abort_all();
    }
}
