//! What every implementation of `Transport` must do: the same tests against rumqttc with a real mosquitto and against
//! the broker in memory.

use std::{sync::Arc, time::Duration};

use agentd_link::{
    CleanStart, Connection, Disconnect, MemoryBroker, Message, NotAcknowledged, PublishError, Qos, Received,
    Session, Subscription, Transport,
};
use agentd_tests::Mosquitto;
use agentd_wire::{AllTopic, Filter, GroupTopic, Topic, Up};
use tokio::time::timeout;

use crate::common::{self, PATIENCE, rumqtt, soon, text};

fn topic(version: u64) -> Topic {
    Topic::all(&"plant".parse().unwrap(), AllTopic::Trust(version))
}

fn at(filter: Filter, qos: Qos) -> Subscription {
    Subscription { filter, qos }
}

fn trust(qos: Qos) -> Subscription {
    at(Filter::trust(&"plant".parse().unwrap()), qos)
}

async fn open(transport: &dyn Transport, session: Session) -> Connection {
    soon("a connection", transport.connect(session)).await.unwrap()
}

async fn clean(transport: &dyn Transport, client: &str) -> Connection {
    open(transport, Session::bulk(client)).await
}

async fn next(connection: &mut Connection) -> Received {
    soon("a message", connection.next()).await.unwrap()
}

async fn end(mut connection: Connection) -> Disconnect {
    soon("the end", async {
        loop {
            if let Err(reason) = connection.next().await {
                return reason;
            }
        }
    })
    .await
}

async fn say(connection: &Connection, message: Message) {
    let completion = soon("a place", connection.publisher().publish(message)).await.unwrap();
    soon("the acknowledgement", completion).await.unwrap();
}

/// Asks the broker something; the driver has taken in everything sent before once it has the answer. `false` when the
/// connection has ended.
async fn caught_up(connection: &Connection) -> bool {
    let marker = Topic::group(&"plant".parse().unwrap(), &"caught-up".parse().unwrap(), GroupTopic::Desired);
    let wanted = vec![at(Filter::exactly(&marker), Qos::AtMostOnce)];
    soon("an answer", connection.publisher().subscribe(wanted)).await.is_ok()
}

/// Nothing more is on its way: what we publish to ourselves comes next.
async fn nothing_more(connection: &mut Connection) {
    let marker = Topic::group(&"plant".parse().unwrap(), &"marker".parse().unwrap(), GroupTopic::Desired);
    let publisher = connection.publisher();
    soon("marker", publisher.subscribe(vec![at(Filter::exactly(&marker), Qos::AtMostOnce)])).await.unwrap();
    soon("marker", publisher.send(Message::quickly(&marker, "marker"))).await.unwrap();
    assert_eq!(text(&next(connection).await), "marker");
}

async fn delivers_in_order_and_completes_on_acknowledgement(transport: &dyn Transport) {
    let mut reader = clean(transport, "reader").await;
    assert!(!reader.session_present());
    soon("subscribe", reader.publisher().subscribe(vec![trust(Qos::AtLeastOnce)])).await.unwrap();
    let writer = clean(transport, "writer").await;
    let mut completions = Vec::new();
    for n in 0..100 {
        let message = Message::surely(topic(n), n.to_string());
        completions.push(soon("a place", writer.publisher().publish(message)).await.unwrap());
        if n >= 5 {
            soon("the acknowledgement", completions.remove(0)).await.unwrap();
        }
        let received = next(&mut reader).await;
        assert_eq!((received.topic.clone(), text(&received)), (topic(n).to_string(), n.to_string()));
        reader.publisher().acknowledge(received.ack.expect("QoS 1")).await.unwrap();
    }
}

async fn qos_0_and_payloads_of_all_sizes_arrive_unchanged(transport: &dyn Transport) {
    let mut both = clean(transport, "both").await;
    soon("subscribe", both.publisher().subscribe(vec![trust(Qos::AtMostOnce)])).await.unwrap();
    for length in [0, 1, 127, 128, 16_384, 131_168] {
        let payload = common::noise(length as u64, length);
        soon("send", both.publisher().send(Message::quickly(topic(1), payload.clone()))).await.unwrap();
        let received = next(&mut both).await;
        assert_eq!(received.payload, payload);
        assert_eq!(received.ack, None);
    }
}

async fn retained_messages_come_on_subscribing_and_go_when_emptied(transport: &dyn Transport) {
    let writer = clean(transport, "writer").await;
    for n in 0..200 {
        say(&writer, Message::surely(topic(n), n.to_string()).retained()).await;
    }
    let mut reader = clean(transport, "reader").await;
    soon("subscribe", reader.publisher().subscribe(vec![trust(Qos::AtLeastOnce)])).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let received = next(&mut reader).await;
        assert!(received.retained);
        reader.publisher().acknowledge(received.ack.unwrap()).await.unwrap();
        seen.push(text(&received).parse::<u64>().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
    for n in 0..200 {
        say(&writer, Message::surely(topic(n), "").retained()).await;
    }
    let mut late = clean(transport, "late").await;
    soon("subscribe", late.publisher().subscribe(vec![trust(Qos::AtLeastOnce)])).await.unwrap();
    nothing_more(&mut late).await;
}

async fn a_session_outlives_its_connection_and_redelivers_what_was_not_acknowledged(
    transport: &dyn Transport,
) {
    let session = || Session { expiry: Duration::from_secs(60), ..Session::control("keeper") };
    let mut keeper = open(transport, Session { clean_start: CleanStart::Yes, ..session() }).await;
    soon("subscribe", keeper.publisher().subscribe(vec![trust(Qos::AtLeastOnce)])).await.unwrap();
    let writer = clean(transport, "writer").await;
    say(&writer, Message::surely(topic(1), "acknowledged")).await;
    let first = next(&mut keeper).await;
    keeper.publisher().acknowledge(first.ack.unwrap()).await.unwrap();
    say(&writer, Message::surely(topic(2), "seen only")).await;
    let stale = next(&mut keeper).await.ack.unwrap();
    keeper.close(PATIENCE).await;
    say(&writer, Message::surely(topic(3), "while away")).await;
    let mut keeper = open(transport, session()).await;
    assert!(keeper.session_present());
    // An acknowledgement of the old connection does nothing on the new one.
    keeper.publisher().acknowledge(stale).await.unwrap();
    let mut came = Vec::new();
    for _ in 0..2 {
        let received = next(&mut keeper).await;
        came.push(text(&received));
        keeper.publisher().acknowledge(received.ack.unwrap()).await.unwrap();
    }
    assert_eq!(came, ["seen only", "while away"]);
    nothing_more(&mut keeper).await;
}

async fn a_clean_start_forgets_the_session(transport: &dyn Transport) {
    let session = Session { expiry: Duration::from_secs(60), ..Session::control("keeper") };
    let keeper = open(transport, session.clone()).await;
    soon("subscribe", keeper.publisher().subscribe(vec![trust(Qos::AtLeastOnce)])).await.unwrap();
    keeper.close(PATIENCE).await;
    let mut fresh = open(transport, Session { clean_start: CleanStart::Yes, ..session }).await;
    assert!(!fresh.session_present());
    let writer = clean(transport, "writer").await;
    say(&writer, Message::surely(topic(1), "x")).await;
    nothing_more(&mut fresh).await;
}

async fn the_will_is_spoken_when_the_connection_is_cut_and_not_when_it_is_closed(transport: &dyn Transport) {
    let conn = |device: &str| Topic::up(&"plant".parse().unwrap(), &device.parse().unwrap(), Up::Conn);
    let mut watcher = clean(transport, "watcher").await;
    let presences = at(Filter::presences(&"plant".parse().unwrap()), Qos::AtLeastOnce);
    soon("subscribe", watcher.publisher().subscribe(vec![presences])).await.unwrap();
    let with_will = |device: &str| Session {
        will: Some(Message::surely(conn(device), device.to_owned()).retained()),
        ..Session::bulk(device)
    };
    let closed = open(transport, with_will("closed")).await;
    closed.close(PATIENCE).await;
    drop(open(transport, with_will("cut")).await);
    let received = next(&mut watcher).await;
    assert_eq!(text(&received), "cut");
    watcher.publisher().acknowledge(received.ack.unwrap()).await.unwrap();
    nothing_more(&mut watcher).await;
}

async fn a_second_client_with_the_same_id_takes_over(transport: &dyn Transport) {
    let first = clean(transport, "twin").await;
    let second = clean(transport, "twin").await;
    // Some brokers say why, mosquitto 2.0.11 just closes.
    let reason = end(first).await;
    assert!(matches!(reason, Disconnect::TakenOver | Disconnect::Closed(_)), "{reason:?}");
    say(&second, Message::surely(topic(1), "still here")).await;
}

async fn a_share_gets_each_message_once(transport: &dyn Transport) {
    let mut servers = [clean(transport, "server-1").await, clean(transport, "server-2").await];
    for server in &servers {
        let shared = at(Filter::block_servers(), Qos::AtMostOnce);
        soon("subscribe", server.publisher().subscribe(vec![shared])).await.unwrap();
    }
    let writer = clean(transport, "writer").await;
    let asks = Topic::up(&"plant".parse().unwrap(), &"cam".parse().unwrap(), Up::Blk);
    for n in 0..40 {
        soon("send", writer.publisher().send(Message::quickly(&asks, n.to_string()))).await.unwrap();
    }
    let [one, two] = &mut servers;
    let mut counts = [0, 0];
    let mut came = Vec::new();
    while came.len() < 40 {
        let (who, received) = soon("a share", async {
            tokio::select! {
                received = one.next() => (0, received.unwrap()),
                received = two.next() => (1, received.unwrap()),
            }
        })
        .await;
        counts[who] += 1;
        came.push(text(&received).parse::<u32>().unwrap());
    }
    came.sort_unstable();
    assert_eq!(came, (0..40).collect::<Vec<_>>());
    assert!(counts.iter().all(|count| *count >= 5), "{counts:?}");
}

async fn unsubscribing_ends_the_messages(transport: &dyn Transport) {
    let mut reader = clean(transport, "reader").await;
    let filter = Filter::trust(&"plant".parse().unwrap());
    soon("subscribe", reader.publisher().subscribe(vec![trust(Qos::AtMostOnce)])).await.unwrap();
    say(&reader, Message::surely(topic(1), "before")).await;
    assert_eq!(text(&next(&mut reader).await), "before");
    soon("unsubscribe", reader.publisher().unsubscribe(vec![filter])).await.unwrap();
    say(&reader, Message::surely(topic(2), "after")).await;
    nothing_more(&mut reader).await;
}

async fn what_cannot_be_sent_is_refused_and_harms_nothing(transport: &dyn Transport) {
    let connection = clean(transport, "writer").await;
    let publish = |message| {
        let publisher = connection.publisher();
        async move { soon("a place", publisher.publish(message)).await.map(drop).unwrap_err() }
    };
    let huge = Message::surely(topic(1), vec![0; 256 << 10]);
    assert!(matches!(publish(huge).await, PublishError::TooLarge { .. }));
    for bad in ["", "a/+/b", "a/#", "a\0b"] {
        assert!(matches!(publish(Message::surely(bad, "x")).await, PublishError::Topic(_)), "{bad:?}");
    }
    say(&connection, Message::surely(topic(1), "x")).await;
}

async fn a_reader_who_does_not_read_loses_qos_0_and_is_cut_off_at_qos_1(transport: &dyn Transport) {
    let session = |client: &str| Session { queue_messages: 4, ..Session::bulk(client) };
    let mut reader = open(transport, session("reader")).await;
    soon("subscribe", reader.publisher().subscribe(vec![trust(Qos::AtMostOnce)])).await.unwrap();
    let writer = clean(transport, "writer").await;
    for n in 0..50 {
        say(&writer, Message::surely(topic(n), n.to_string())).await;
    }
    say(&writer, Message::surely(topic(99), "last")).await;
    assert!(caught_up(&reader).await);
    assert_eq!(text(&next(&mut reader).await), "0");
    let mut left = 1;
    while timeout(Duration::from_millis(500), reader.next()).await.is_ok() {
        left += 1;
    }
    assert_eq!(left + reader.dropped(), 51);
    // How many depends on how the broker puts messages into packets.
    assert!(reader.dropped() >= 16, "{} dropped", reader.dropped());

    let slow = open(transport, session("slow")).await;
    soon("subscribe", slow.publisher().subscribe(vec![trust(Qos::AtLeastOnce)])).await.unwrap();
    for n in 0..10 {
        say(&writer, Message::surely(topic(n), n.to_string())).await;
    }
    // A driver that is behind must not be relieved by our reading; it may have ended already.
    caught_up(&slow).await;
    assert_eq!(end(slow).await, Disconnect::Flooded);
}

async fn a_broker_that_is_not_there_is_told_within_the_deadline(transport: &dyn Transport) {
    let session = Session { connect_timeout: Duration::from_secs(3), ..Session::bulk("nobody") };
    let reason = soon("the failure", transport.connect(session)).await.unwrap_err();
    assert!(matches!(reason, Disconnect::Unreachable(_)), "{reason:?}");
}

macro_rules! conform {
    ($($test:ident)*) => {
        mod mosquitto {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let broker = Mosquitto::start().await.unwrap();
                    super::$test(&*rumqtt(broker.address())).await;
                }
            )*
        }

        mod memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&agentd_link::MemoryBroker::new().transport()).await;
                }
            )*
        }
    };
}

conform! {
    delivers_in_order_and_completes_on_acknowledgement
    qos_0_and_payloads_of_all_sizes_arrive_unchanged
    retained_messages_come_on_subscribing_and_go_when_emptied
    a_session_outlives_its_connection_and_redelivers_what_was_not_acknowledged
    a_clean_start_forgets_the_session
    the_will_is_spoken_when_the_connection_is_cut_and_not_when_it_is_closed
    a_second_client_with_the_same_id_takes_over
    a_share_gets_each_message_once
    unsubscribing_ends_the_messages
    what_cannot_be_sent_is_refused_and_harms_nothing
    a_reader_who_does_not_read_loses_qos_0_and_is_cut_off_at_qos_1
}

#[tokio::test]
async fn a_stopped_broker_is_told_by_both() {
    let memory = MemoryBroker::new();
    memory.stop();
    a_broker_that_is_not_there_is_told_within_the_deadline(&memory.transport()).await;
    let mut gone = Mosquitto::start().await.unwrap();
    gone.kill();
    a_broker_that_is_not_there_is_told_within_the_deadline(&*rumqtt(gone.address())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_broker_loses_what_it_did_not_acknowledge_and_says_so() {
    let broker = MemoryBroker::new();
    let connection = clean(&broker.transport(), "writer").await;
    broker.hold();
    let completion = connection.publisher().publish(Message::surely(topic(1), "x")).await.unwrap();
    broker.stop();
    assert_eq!(soon("the outcome", completion).await, Err(NotAcknowledged::Lost));
    assert!(broker.published().is_empty());
    let _held: Arc<dyn Transport> = Arc::new(broker.transport());
}
