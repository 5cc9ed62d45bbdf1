//! Transfers: what they fetch, what they refuse, and what they survive.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use agentd_link::{
    BlockServer, BlockSource, BudgetSpent, DayBudget, Fetched, MemoryBroker, Message, Progress, Qos,
    ServerPolicy, ServerStatus, Session, Subscription, Transfer, TransferConfig, TransferError, Transport,
};
use agentd_tests::{Mosquitto, Proxy};
use agentd_types::{ByteCount, Coded, ManualClock, UnixTime};
use agentd_wire::{Block, BlockRequest, Chunk, Down, Filter, Status, Topic, Up};
use bytes::Bytes;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::common::{Bundle, FAST, Sink, noise, rumqtt, soon};

pub(crate) fn config() -> TransferConfig {
    TransferConfig {
        retry: FAST,
        connect_timeout: Duration::from_secs(2),
        keep_alive: Duration::from_secs(5),
        first_reask: Duration::from_millis(800),
        ..TransferConfig::new("plant".parse().unwrap(), "cam".parse().unwrap())
    }
}

pub(crate) struct Servers {
    pub(crate) statuses: Vec<watch::Receiver<ServerStatus>>,
    _tasks: JoinSet<()>,
}

impl Servers {
    pub(crate) async fn start(
        count: usize,
        transport: Arc<dyn Transport>,
        source: Arc<dyn BlockSource>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let mut statuses = Vec::new();
        for n in 0..count {
            let policy = ServerPolicy { retry: FAST, ..ServerPolicy::new(format!("server-{n}")) };
            let (server, mut status) =
                BlockServer::new(policy, Arc::clone(&transport), Arc::clone(&source), n as u64);
            tasks.spawn(server.run(CancellationToken::new()));
            soon("a server", status.wait_for(|status| status.online)).await.unwrap();
            statuses.push(status);
        }
        Self { statuses, _tasks: tasks }
    }
}

pub(crate) fn transfer(transport: Arc<dyn Transport>, config: TransferConfig) -> Transfer {
    let clock = Arc::new(ManualClock::at(UnixTime(100 * 86_400)));
    Transfer::new(config, transport, Arc::new(Mutex::new(DayBudget::unlimited())), clock, 5)
}

pub(crate) async fn fetch(
    transfer: &mut Transfer,
    bundle: &Bundle,
    sink: &Arc<Sink>,
) -> Result<Fetched, TransferError> {
    let (progress, _watched) = watch::channel(Progress::default());
    let stop = CancellationToken::new();
    let fetched =
        transfer.chunks(bundle.digest(), bundle.order.clone(), Arc::clone(sink) as _, &progress, &stop).await;
    if fetched.is_ok() {
        assert_eq!(progress.borrow().have, progress.borrow().total);
        assert_eq!(sink.bytes().0, bundle.chunks.values().map(|chunk| chunk.len() as u64).sum::<u64>());
    }
    assert_eq!(*sink.twice.lock().unwrap(), 0, "a chunk was written twice");
    fetched
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifest_and_chunks_come_from_several_servers_through_mosquitto() {
    let broker = Mosquitto::start().await.unwrap();
    let lengths: Vec<_> = (0..60).map(|n| 1 + n * 9_001).chain([4 << 20, 1, 131_072, 131_073]).collect();
    let bundle = Arc::new(Bundle::of(&lengths, 1));
    let servers = Servers::start(3, rumqtt(broker.address()), Arc::clone(&bundle) as _).await;
    let mut transfer = transfer(rumqtt(broker.address()), config());
    let manifest =
        soon("manifest", transfer.manifest(bundle.digest(), &CancellationToken::new())).await.unwrap();
    assert_eq!(manifest, bundle.manifest);
    let sink = Arc::new(Sink::default());
    let fetched = soon("chunks", fetch(&mut transfer, &bundle, &sink)).await.unwrap();
    assert_eq!(fetched.bytes.0, bundle.bytes());
    assert_eq!(fetched.counters.asked_again, 0, "{fetched:?}");
    let loads: Vec<_> = servers.statuses.iter().map(|status| status.borrow().requests).collect();
    assert!(loads.iter().all(|requests| *requests > 0), "the servers share the load: {loads:?}");
    let again = soon("nothing", fetch(&mut transfer, &bundle, &sink)).await.unwrap();
    assert_eq!(again.bytes, ByteCount(0), "what is kept is not fetched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_goes_on_where_an_earlier_one_stopped() {
    let broker = MemoryBroker::new();
    let bundle = Arc::new(Bundle::of(&[200_000; 50], 2));
    let _servers = Servers::start(1, Arc::new(broker.transport()), Arc::clone(&bundle) as _).await;
    let sink = Arc::new(Sink::default());
    let stop = CancellationToken::new();
    let (progress, mut watched) = watch::channel(Progress::default());
    let mut first = transfer(
        Arc::new(broker.transport()),
        TransferConfig { first_window: 1 << 17, near_window: 1 << 17, ..config() },
    );
    let stopper = async {
        watched.wait_for(|progress| progress.have.0 >= 2_000_000).await.unwrap();
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let stopped = tokio::select! {
        outcome = first.chunks(bundle.digest(), bundle.order.clone(), Arc::clone(&sink) as _, &progress, &stop) => outcome,
        () = stopper => unreachable!("it never ends"),
    };
    assert!(matches!(stopped, Err(TransferError::Stopped)));
    let kept = sink.bytes().0;
    assert!((2_000_000..10_000_000).contains(&kept));
    let mut second = transfer(Arc::new(broker.transport()), config());
    let fetched = soon("the rest", fetch(&mut second, &bundle, &sink)).await.unwrap();
    assert_eq!(fetched.bytes.0, bundle.bytes() - kept);
}

/// A server that sends what it should, among much that it should not.
async fn hostile_server(broker: MemoryBroker, bundle: Arc<Bundle>) {
    let mut connection = broker.transport().connect(Session::bulk("hostile")).await.unwrap();
    let publisher = connection.publisher();
    let wanted = vec![Subscription { filter: Filter::block_servers(), qos: Qos::AtMostOnce }];
    publisher.subscribe(wanted).await.unwrap();
    let topic = Topic::down(&"plant".parse().unwrap(), &"cam".parse().unwrap(), Down::Blk);
    let mut random = agentd_link::Jitter::new(3);
    while let Ok(received) = connection.next().await {
        let request = BlockRequest::decode(&received.payload).unwrap();
        let mut blocks = Vec::new();
        for range in &request.ranges {
            let piece = bundle.read(range.object, range.offset, range.length).unwrap().unwrap();
            let right = Block {
                transfer: request.transfer,
                number: request.number,
                status: Status::Data,
                bundle: request.bundle,
                object: range.object,
                offset: range.offset,
                object_bytes: piece.object_bytes,
                edition: 0,
                bytes: piece.bytes,
            };
            let junk = noise(random.next_u64(), right.bytes.len());
            match random.next_u64() % 16 {
                0 => blocks.push(Block { bytes: right.bytes.slice(1..), ..right.clone() }),
                1 => blocks.push(Block { object_bytes: right.object_bytes + 1, ..right.clone() }),
                2 => blocks.push(Block { transfer: right.transfer ^ 1, ..right.clone() }),
                3 => blocks.push(Block {
                    object: agentd_wire::Object::Chunk(agentd_types::Digest::of(&junk)),
                    ..right.clone()
                }),
                4 => blocks.push(right.clone()),
                5 => continue,
                6 if right.bytes.len() < 100_000 => {
                    blocks.push(Block { bytes: junk.into(), ..right });
                    continue;
                }
                7 => blocks.push(Block {
                    status: Status::Busy,
                    bytes: Bytes::new(),
                    object_bytes: 0,
                    ..right.clone()
                }),
                _ => {}
            }
            blocks.push(right);
        }
        while !blocks.is_empty() {
            let at = (random.next_u64() % blocks.len() as u64) as usize;
            let mut payload = blocks.swap_remove(at).encode().unwrap();
            if random.next_u64().is_multiple_of(20) {
                let mut flipped = payload.to_vec();
                flipped[60] ^= 4;
                payload = flipped.into();
            }
            publisher.send(Message::quickly(&topic, payload)).await.unwrap();
            if random.next_u64().is_multiple_of(30) {
                let garbage = noise(random.next_u64(), 50);
                publisher.send(Message::quickly(&topic, garbage)).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_short_long_reordered_doubled_and_unasked_blocks_are_counted_and_harmless() {
    let broker = MemoryBroker::new();
    let lengths: Vec<_> = (0..150).map(|n| 1_000 + n * 2_000).collect();
    let bundle = Arc::new(Bundle::of(&lengths, 3));
    let mut tasks = JoinSet::new();
    tasks.spawn(hostile_server(broker.clone(), Arc::clone(&bundle)));
    soon("the server", async {
        // Requests before the server listens are lost, and asked again; wait so that the counts are the server's.
        while broker.published().is_empty() {
            broker.publish(&Message::quickly("ready", "x"));
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let patient = TransferConfig {
        attempts: 100,
        excess_percent: 400,
        shortest_reask: Duration::from_millis(50),
        first_reask: Duration::from_millis(200),
        ..config()
    };
    let sink = Arc::new(Sink::default());
    let mut transfer = transfer(Arc::new(broker.transport()), patient);
    let fetched = soon("everything", fetch(&mut transfer, &bundle, &sink)).await.unwrap();
    let counters = fetched.counters;
    for (what, count) in [
        ("unreadable", counters.unreadable),
        ("unasked", counters.unasked),
        ("misshapen", counters.misshapen),
        ("stale", counters.stale),
        ("corrupt", counters.corrupt_chunks),
        ("asked again", counters.asked_again),
        ("refused", counters.refused),
    ] {
        assert!(count > 0, "{what}: {counters:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_server_has_ends_the_transfer_with_its_name() {
    let broker = MemoryBroker::new();
    let bundle = Arc::new(Bundle::of(&[1_000; 3], 4));
    let _servers = Servers::start(1, Arc::new(broker.transport()), Arc::clone(&bundle) as _).await;
    let other = Bundle::of(&[1_000; 3], 5);
    let mut transfer = transfer(Arc::new(broker.transport()), config());
    let sink = Arc::new(Sink::default());
    let error = soon("the end", fetch(&mut transfer, &other, &sink)).await.unwrap_err();
    assert_eq!(error.code().as_str(), "transfer.missing");
    let manifest = soon("the end", transfer.manifest(other.digest(), &CancellationToken::new())).await;
    assert_eq!(manifest.unwrap_err().code().as_str(), "transfer.missing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_a_transfer_gives_up_after_a_bounded_number_of_attempts() {
    let broker = MemoryBroker::new();
    let bundle = Bundle::of(&[1_000; 3], 6);
    let impatient = TransferConfig { first_reask: Duration::from_millis(10), attempts: 3, ..config() };
    let mut transfer = transfer(Arc::new(broker.transport()), impatient);
    let sink = Arc::new(Sink::default());
    let error = soon("the end", fetch(&mut transfer, &bundle, &sink)).await.unwrap_err();
    assert_eq!(error.code().as_str(), "transfer.attempts");
    let asked = broker.published().iter().filter(|message| message.topic.ends_with("/up/blk")).count();
    assert_eq!(asked, 4, "once, and three times again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_budget_of_a_day_is_never_exceeded_and_tomorrow_is_another_day() {
    let broker = MemoryBroker::new();
    let bundle = Arc::new(Bundle::of(&[100_000; 20], 7));
    let servers = Servers::start(1, Arc::new(broker.transport()), Arc::clone(&bundle) as _).await;
    let clock = Arc::new(ManualClock::at(UnixTime(100 * 86_400)));
    let budget = DayBudget::new(ByteCount(1_050_000), BudgetSpent::default());
    let budget = Arc::new(Mutex::new(budget));
    let mut transfer =
        Transfer::new(config(), Arc::new(broker.transport()), Arc::clone(&budget), clock.clone(), 5);
    let sink = Arc::new(Sink::default());
    let error = soon("the end", fetch(&mut transfer, &bundle, &sink)).await.unwrap_err();
    assert_eq!(error.code().as_str(), "transfer.budget");
    assert_eq!(sink.bytes(), ByteCount(1_000_000));
    assert!(servers.statuses[0].borrow().bytes.0 <= 1_050_000);
    clock.set(UnixTime(101 * 86_400));
    soon("the rest", fetch(&mut transfer, &bundle, &sink)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_ends_the_transfer_with_the_reason() {
    let broker = MemoryBroker::new();
    let bundle = Arc::new(Bundle::of(&[100_000; 5], 8));
    let _servers = Servers::start(1, Arc::new(broker.transport()), Arc::clone(&bundle) as _).await;
    let sink = Arc::new(Sink::default());
    *sink.fails.lock().unwrap() = Some("no space left on device".into());
    let mut transfer = transfer(Arc::new(broker.transport()), config());
    let error = soon("the end", fetch(&mut transfer, &bundle, &sink)).await.unwrap_err();
    assert_eq!(error.code().as_str(), "transfer.sink");
    assert_eq!(agentd_types::chain(&error), "a chunk cannot be kept: no space left on device");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_is_named() {
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let bundle = Arc::new(Bundle::of(&[100_000; 5], 9));
    let _servers = Servers::start(1, rumqtt(broker.address()), Arc::clone(&bundle) as _).await;
    proxy.throttle(Some(20_000));
    let strict = TransferConfig {
        floor_bytes_per_s: 100_000,
        slow_after: Duration::from_secs(1),
        slow_strikes: 2,
        ..config()
    };
    let mut transfer = transfer(rumqtt(proxy.address()), strict);
    let sink = Arc::new(Sink::default());
    let error = soon("the end", fetch(&mut transfer, &bundle, &sink)).await.unwrap_err();
    assert_eq!(error.code().as_str(), "transfer.slow");
    assert!(proxy.connections() >= 2, "another way was tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_is_slow_and_no_block_is_asked_for_twice() {
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let bundle = Arc::new(Bundle::of(&[60_000; 12], 10));
    let _servers = Servers::start(1, rumqtt(broker.address()), Arc::clone(&bundle) as _).await;
    proxy.delay(Duration::from_millis(40));
    proxy.throttle(Some(200_000));
    let patient = TransferConfig { first_reask: Duration::from_secs(5), ..config() };
    let mut transfer = transfer(rumqtt(proxy.address()), patient);
    let sink = Arc::new(Sink::default());
    let fetched = soon("everything", fetch(&mut transfer, &bundle, &sink)).await.unwrap();
    assert_eq!(fetched.counters.asked_again, 0, "{fetched:?}");
}

#[test]
fn a_chunk_longer_than_chunks_may_be_is_refused_before_anything_is_asked() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for length in [0, (4 << 20) + 1] {
        let chunk = Chunk(length, agentd_types::Digest::of(b"x"));
        let error = runtime.block_on(Transfer::missing([chunk], Arc::new(Sink::default()))).unwrap_err();
        assert_eq!(error.code().as_str(), "transfer.chunk_length");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_cannot_be_read_is_counted_and_answered_by_nobody() {
    let broker = MemoryBroker::new();
    let bundle = Arc::new(Bundle::of(&[1_000], 11));
    let mut servers = Servers::start(1, Arc::new(broker.transport()), bundle as _).await;
    let topic = Topic::up(&"plant".parse().unwrap(), &"cam".parse().unwrap(), Up::Blk);
    broker.publish(&Message::quickly(topic, "garbage"));
    soon("the count", servers.statuses[0].wait_for(|status| status.unreadable == 1)).await.unwrap();
    assert!(!broker.published().iter().any(|message| message.topic.contains("/dn/")));
}
