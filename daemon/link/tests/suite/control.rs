//! The control connection: birth, will, reports, documents, commands, and the outbox over bad networks.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agentd_link::{
    Channel, Class, Connection, Disconnect, Draft, Incoming, Link, LinkConfig, LinkHandle, LinkStatus,
    MemoryBroker, MemoryOutbox, Message, Outbox, OutboxLimits, OutboxStore, Qos, Retain, RetryPolicy,
    Session, Subscription, Transport,
};
use agentd_tests::{Mosquitto, Proxy};
use agentd_types::{ManualClock, UnixTime};
use agentd_wire::{
    AllTopic, Condition, Down, Facts, Filter, GroupTopic, Kind, ModelsFacts, Payload, Presence, Report,
    Topic, Up,
};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::common::{SMALL, link_config, rumqtt, soon, text};

/// A link that runs, and ends with the test.
struct Running {
    handle: LinkHandle,
    incoming: mpsc::Receiver<Incoming>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    store: MemoryOutbox,
}

impl Running {
    fn start(transport: Arc<dyn Transport>, config: LinkConfig) -> Self {
        Self::with_store(transport, config, MemoryOutbox::default())
    }

    fn with_store(transport: Arc<dyn Transport>, config: LinkConfig, store: MemoryOutbox) -> Self {
        let outbox = Outbox::open(Box::new(store.clone()), OutboxLimits { items: 10_000, ..SMALL }).unwrap();
        let clock = Arc::new(ManualClock::at(UnixTime(1_000)));
        let (link, handle, incoming) = Link::new(config, transport, outbox, clock, 7);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(link.run(stop.clone()));
        Self { handle, incoming, stop, tasks, store }
    }

    async fn next(&mut self) -> Incoming {
        soon("something incoming", self.incoming.recv()).await.expect("the link runs")
    }

    async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(Incoming) -> Option<T>) -> T {
        soon(what, async {
            loop {
                if let Some(picked) = self.incoming.recv().await.and_then(&mut pick) {
                    return picked;
                }
            }
        })
        .await
    }

    async fn connected(&mut self) -> bool {
        self.until("a connection", |incoming| match incoming {
            Incoming::Connected { session_present } => Some(session_present),
            _ => None,
        })
        .await
    }

    async fn put(&self, class: Class, payload: impl Into<Vec<u8>>) {
        let draft = Draft { class, channel: Channel::Event, key: None, payload: payload.into().into() };
        self.handle.put(draft).await.unwrap();
    }

    async fn drained(&self) {
        soon("an empty outbox", async {
            while self.handle.waiting().items > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    async fn stop(mut self) {
        self.stop.cancel();
        soon("the end", async { while self.tasks.join_next().await.is_some() {} }).await;
    }
}

fn up(device: &str, up: Up) -> String {
    Topic::up(&"plant".parse().unwrap(), &device.parse().unwrap(), up).to_string()
}

fn presence(broker: &MemoryBroker) -> Option<Presence> {
    broker.retained(&up("cam", Up::Conn)).map(|message| Presence::read(&message.payload).unwrap())
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    soon(what, async {
        while !check() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn models_report(at: u64) -> Report {
    Report { at: UnixTime(at), facts: Facts::Models(ModelsFacts::default()), conditions: Vec::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn birth_is_retained_a_cut_speaks_the_will_and_an_orderly_end_says_stopped() {
    let broker = MemoryBroker::new();
    let mut link = Running::start(Arc::new(broker.transport()), link_config("cam"));
    assert!(!link.connected().await);
    eventually("birth", || matches!(presence(&broker), Some(Presence::Online { connection: 1, .. }))).await;
    broker.cut("cam");
    assert!(link.connected().await, "the broker still had the session");
    eventually("a second birth", || {
        matches!(presence(&broker), Some(Presence::Online { connection: 2.., .. }))
    })
    .await;
    link.stop().await;
    assert!(matches!(presence(&broker), Some(Presence::Stopped { connection: 2.., .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_changed_sections_are_published_and_all_after_a_lost_session() {
    let broker = MemoryBroker::new();
    let mut link = Running::start(Arc::new(broker.transport()), link_config("cam"));
    let reports = || broker.published().iter().filter(|m| m.topic.contains("/rep/")).count();
    link.handle.report(models_report(1)).unwrap();
    let health = Report { at: UnixTime(1), facts: Facts::Health, conditions: Vec::<Condition>::new() };
    link.handle.report(health).unwrap();
    link.connected().await;
    eventually("two reports", || reports() == 2).await;
    link.handle.report(models_report(2)).unwrap();
    link.put(Class::Event, "marker").await;
    link.drained().await;
    assert_eq!(reports(), 2, "nothing new was said");
    broker.cut("cam");
    assert!(link.connected().await);
    link.put(Class::Event, "marker").await;
    link.drained().await;
    assert_eq!(reports(), 2, "the session stood, so the broker knows");
    broker.stop();
    broker.forget_sessions();
    broker.start();
    assert!(!link.connected().await);
    eventually("all again", || reports() == 4).await;
    assert!(broker.published().iter().filter(|m| m.topic.contains("/rep/")).all(|m| m.retain == Retain::Yes));
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_come_with_their_kind_and_topic_and_groups_are_followed() {
    let broker = MemoryBroker::new();
    let (fleet, device) = (&"plant".parse().unwrap(), &"cam".parse().unwrap());
    let group = "line-4".parse().unwrap();
    let topics = [
        (Topic::all(fleet, AllTopic::Trust(2)), Kind::Trust),
        (Topic::all(fleet, AllTopic::Catalog), Kind::Catalog),
        (Topic::all(fleet, AllTopic::Desired), Kind::Desired),
        (Topic::down(fleet, device, Down::Membership), Kind::Membership),
        (Topic::down(fleet, device, Down::Desired), Kind::Desired),
        (Topic::group(fleet, &group, GroupTopic::Desired), Kind::Desired),
    ];
    for (topic, _) in &topics {
        broker.publish(&Message::surely(topic, topic.to_string()).retained());
    }
    // Another device's and another group's are not ours.
    broker.publish(&Message::surely("agentd/1/plant/d/other/dn/desired", "no").retained());
    broker.publish(&Message::surely("agentd/1/plant/g/other/desired", "no").retained());
    let mut link = Running::start(Arc::new(broker.transport()), link_config("cam"));
    link.handle.set_groups([group.clone()]);
    let mut seen = BTreeSet::new();
    while seen.len() < topics.len() {
        if let Incoming::Document(document) = link.next().await {
            assert_eq!(document.bytes, document.topic.to_string().as_bytes());
            assert!(topics.contains(&(document.topic.clone(), document.kind)), "{document:?}");
            seen.insert(document.topic);
        }
    }
    link.handle.set_groups([]);
    let group_topic = Topic::group(fleet, &group, GroupTopic::Desired);
    link.put(Class::Event, "marker").await;
    link.drained().await;
    broker.publish(&Message::surely(&group_topic, "left").retained());
    broker.publish(&Message::surely(Topic::all(fleet, AllTopic::Catalog), "marker").retained());
    let next = link
        .until("the marker", |incoming| match incoming {
            Incoming::Document(document) => Some(document.bytes),
            _ => None,
        })
        .await;
    assert_eq!(next, "marker");
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_comes_again_until_it_is_acknowledged() {
    let broker = MemoryBroker::new();
    let topic = Topic::down(&"plant".parse().unwrap(), &"cam".parse().unwrap(), Down::Cmd);
    let mut link = Running::start(Arc::new(broker.transport()), link_config("cam"));
    link.connected().await;
    eventually("subscribed", || presence(&broker).is_some()).await;
    link.put(Class::Event, "marker").await;
    link.drained().await;
    broker.publish(&Message::surely(&topic, "do it"));
    let command = |incoming| match incoming {
        Incoming::Command { bytes, ack } => Some((bytes, ack)),
        _ => None,
    };
    let (first, _unacknowledged) = link.until("the command", command).await;
    broker.cut("cam");
    let (again, ack) = link.until("the command again", command).await;
    assert_eq!(first, again);
    link.handle.acknowledge(ack.unwrap()).await;
    link.put(Class::Event, "marker").await;
    link.drained().await;
    broker.cut("cam");
    link.connected().await;
    broker.publish(&Message::surely(&topic, "next"));
    assert_eq!(link.until("another command", command).await.0, "next");
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_commands_and_of_foreign_messages_is_dropped_and_counted() {
    let broker = MemoryBroker::new();
    let topic = Topic::down(&"plant".parse().unwrap(), &"cam".parse().unwrap(), Down::Cmd);
    let mut link = Running::start(Arc::new(broker.transport()), link_config("cam"));
    link.connected().await;
    link.put(Class::Event, "marker").await;
    link.drained().await;
    for n in 0..60 {
        broker.publish(&Message::quickly(&topic, n.to_string()));
    }
    let huge = vec![b'x'; (1 << 20) + 1];
    broker.publish(&Message::quickly(Topic::all(&"plant".parse().unwrap(), AllTopic::Catalog), huge));
    let (mut commands, mut dropped) = (0, BTreeSet::new());
    while dropped.len() < 2 {
        match link.next().await {
            Incoming::Command { .. } => commands += 1,
            Incoming::Dropped { code, .. } => {
                dropped.insert(code.as_str().to_owned());
            }
            _ => {}
        }
    }
    assert!((32..40).contains(&commands), "{commands} commands got through");
    assert_eq!(Vec::from_iter(dropped), ["link.command_flood", "link.document_size"]);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_broker_is_told_once_and_the_first_chance_is_taken() {
    let broker = MemoryBroker::new();
    broker.stop();
    let mut link = Running::start(Arc::new(broker.transport()), link_config("cam"));
    for n in 0..20 {
        link.put(Class::Event, n.to_string()).await;
    }
    let reason = link
        .until("the reason", |incoming| match incoming {
            Incoming::Disconnected { reason } => Some(reason),
            _ => None,
        })
        .await;
    assert!(matches!(reason, Disconnect::Unreachable(_)));
    assert!(matches!(&*link.handle.status().borrow(), LinkStatus::Offline { reason: Some(_), .. }));
    broker.start();
    assert!(matches!(link.next().await, Incoming::Connected { .. }), "the same reason is not told again");
    link.drained().await;
    let payloads: Vec<_> =
        broker.published().iter().filter(|m| m.topic.ends_with("/up/event")).cloned().collect();
    assert_eq!(payloads.len(), 20);
    assert!(payloads.windows(2).all(|pair| pair[0].payload != pair[1].payload), "each once, in order");
    link.stop().await;
}

/// Reads everything that the device says on `event`, in a session that the broker keeps while we are away.
struct Listener {
    seen: BTreeSet<String>,
    copies: usize,
    connection: Connection,
}

impl Listener {
    async fn start(transport: &dyn Transport) -> Self {
        let connection = soon("listener", transport.connect(Session::bulk("listener"))).await.unwrap();
        let filter = Filter::from_all(&"plant".parse().unwrap(), Up::Event);
        let wanted = vec![Subscription { filter, qos: Qos::AtLeastOnce }];
        soon("subscribe", connection.publisher().subscribe(wanted)).await.unwrap();
        Self { seen: BTreeSet::new(), copies: 0, connection }
    }

    async fn hear(&mut self, wanted: usize) {
        while self.seen.len() < wanted {
            let received = soon("an event", self.connection.next()).await.unwrap();
            self.connection.publisher().acknowledge(received.ack.unwrap()).await.unwrap();
            self.seen.insert(text(&received));
            self.copies += 1;
        }
    }
}

/// The case that loses 58 of 61 messages when the library alone keeps them: a stall, then a reconnection on which the
/// broker no longer has the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_and_a_lost_session_lose_nothing() {
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let mut listener = Listener::start(&*rumqtt(broker.address())).await;
    // An expiry of nothing: the broker forgets the session as soon as the connection is gone.
    let config = LinkConfig { session_expiry: Duration::ZERO, ..link_config("cam") };
    let mut link = Running::start(rumqtt(proxy.address()), config);
    assert!(!link.connected().await);
    link.put(Class::Event, "before").await;
    listener.hear(1).await;
    proxy.stall();
    for n in 0..61 {
        link.put(Class::Event, n.to_string()).await;
    }
    eventually("items in flight", || link.handle.waiting().in_flight > 0).await;
    assert!(link.handle.waiting().items >= 61, "nothing leaves before its acknowledgement");
    proxy.cut();
    proxy.flow();
    assert!(!link.connected().await, "the session is gone");
    listener.hear(62).await;
    link.drained().await;
    println!("stall and lost session: 61 accepted, 61 arrived, 0 lost, {} duplicates", listener.copies - 62);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_link_and_a_killed_broker_lose_nothing() {
    let mut broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let link = Running::start(rumqtt(proxy.address()), link_config("cam"));
    let mut random = agentd_link::Jitter::new(11);
    let mut listener = Listener::start(&*rumqtt(broker.address())).await;
    for n in 0..100 {
        link.put(Class::Event, n.to_string()).await;
        if n % 10 == 9 {
            sleep(random.up_to(Duration::from_millis(50))).await;
            proxy.cut();
        }
    }
    listener.hear(100).await;
    link.drained().await;
    broker.kill();
    for n in 100..150 {
        link.put(Class::Event, n.to_string()).await;
    }
    broker.resume().await.unwrap();
    // The killed broker forgot the listener's subscription: what was delivered to it before it subscribes anew is
    // gone for the listener, not for the device, so the outbox tells.
    link.drained().await;
    assert!(link.store.clone().pending().unwrap().is_empty());
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_device_loses_nothing() {
    let broker = MemoryBroker::new();
    let store = MemoryOutbox::default();
    for round in 0..10 {
        let mut link = Running::with_store(Arc::new(broker.transport()), link_config("cam"), store.clone());
        link.connected().await;
        if round % 2 == 1 {
            broker.hold();
        }
        for n in 0..20 {
            link.put(Class::Audit, format!("{round}-{n}")).await;
        }
        // Dropped without good-bye, wherever it stands.
        drop(link);
        broker.release();
    }
    let link = Running::with_store(Arc::new(broker.transport()), link_config("cam"), store.clone());
    link.drained().await;
    let arrived: BTreeSet<_> = broker
        .published()
        .iter()
        .filter(|message| message.topic.ends_with("/up/event"))
        .map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
        .collect();
    assert_eq!(arrived.len(), 200);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_noticed_within_one_and_a_half_keep_alives() {
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let mut link = Running::start(rumqtt(proxy.address()), link_config("cam"));
    link.connected().await;
    link.put(Class::Event, "the greeting is over").await;
    link.drained().await;
    // Enough to fill the sockets, so that a ping cannot get out either.
    proxy.stall();
    for _ in 0..40 {
        link.put(Class::Event, vec![b'x'; 20_000]).await;
    }
    let began = tokio::time::Instant::now();
    let reason = link
        .until("the end", |incoming| match incoming {
            Incoming::Disconnected { reason } => Some(reason),
            _ => None,
        })
        .await;
    let noticed = began.elapsed();
    assert!(matches!(reason, Disconnect::Silent(_) | Disconnect::Closed(_)), "{reason:?}");
    assert!(noticed < Duration::from_millis(9_500), "noticed after {noticed:?}");
    println!("half-open connection with a keep-alive of 5 s: noticed after {noticed:?}");
    proxy.cut();
    proxy.flow();
    link.drained().await;
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_duplicate_id_is_named_and_both_back_off() {
    let broker = MemoryBroker::new();
    let slow = || LinkConfig { retry: RetryPolicy::default(), ..link_config("twin") };
    let mut one = Running::start(Arc::new(broker.transport()), slow());
    one.connected().await;
    let mut two = Running::start(Arc::new(broker.transport()), slow());
    two.connected().await;
    let reason = one
        .until("the reason", |incoming| match incoming {
            Incoming::Disconnected { reason } => Some(reason),
            _ => None,
        })
        .await;
    assert_eq!(reason, Disconnect::TakenOver);
    sleep(Duration::from_secs(3)).await;
    let births = broker.published().iter().filter(|message| message.topic.ends_with("/conn")).count();
    assert!(births < 60, "{births} births and wills in 3 s: nobody backs off");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_over_the_brokers_packet_limit_stays_and_the_others_pass() {
    let broker = Mosquitto::start_with("max_packet_size 20000").await.unwrap();
    let mut link = Running::start(rumqtt(broker.address()), link_config("cam"));
    let mut listener = Listener::start(&*rumqtt(broker.address())).await;
    link.connected().await;
    link.put(Class::Event, vec![b'x'; 30_000]).await;
    for n in 0..5 {
        link.put(Class::Event, n.to_string()).await;
    }
    listener.hear(5).await;
    eventually("only the large one is left", || link.handle.waiting().items == 1).await;
    assert!(matches!(&*link.handle.status().borrow(), LinkStatus::Online { .. }));
    link.stop().await;
}
