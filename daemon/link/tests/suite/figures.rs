//! The promised figures of the link, measured against a real mosquitto behind a delaying proxy, and printed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use agentd_tests::{Mosquitto, Proxy};
use tokio::time::sleep;

use crate::{
    common::{Bundle, Sink, noise, rumqtt},
    transfer::{Servers, config, fetch, transfer},
};

const MIB: f64 = 1_048_576.0;

/// 64 MiB in chunks of 128 KiB, as small files are cut.
fn large(seed: u64) -> Bundle {
    Bundle::of(&[128 << 10; 512], seed)
}

/// A broker, a far network in front of the device, and a server beside the broker.
async fn far(bundle: &Arc<Bundle>) -> (Mosquitto, Proxy, Servers) {
    let broker = Mosquitto::start().await.unwrap();
    let proxy = Proxy::start(broker.address()).await.unwrap();
    proxy.delay(Duration::from_millis(100));
    let servers = Servers::start(1, rumqtt(broker.address()), Arc::clone(bundle) as _).await;
    (broker, proxy, servers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mebibytes_move_at_twenty_a_second_over_a_far_link() {
    let bundle = Arc::new(large(1));
    let (_broker, proxy, _servers) = far(&bundle).await;
    let mut rates = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        let mut transfer = transfer(rumqtt(proxy.address()), config());
        let sink = Arc::new(Sink::default());
        let fetched = fetch(&mut transfer, &bundle, &sink).await.unwrap();
        let rate = fetched.bytes.0 as f64 / MIB / began.elapsed().as_secs_f64();
        println!("64 MiB at 100 ms round trip: {rate:.1} MiB/s, {:?}", fetched.counters);
        rates.push(rate);
    }
    rates.sort_by(f64::total_cmp);
    assert!(rates[1] >= 20.0, "the median of {rates:?} is below 20 MiB/s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_cuts_cost_at_most_five_percent() {
    let bundle = Arc::new(large(2));
    let (_broker, proxy, _servers) = far(&bundle).await;
    let sink = Arc::new(Sink::default());
    let mut transfer = transfer(rumqtt(proxy.address()), config());
    let mut random = agentd_link::Jitter::new(17);
    let made = std::cell::Cell::new(0);
    let total = bundle.bytes();
    let cuts = async {
        for n in 1..=20 {
            // A cut somewhere in each of 20 parts of the bytes, which end well before the last byte.
            let at = total / 26 * n + random.next_u64() % (total / 52);
            while sink.bytes().0 < at || proxy.connections() < n {
                sleep(Duration::from_millis(2)).await;
            }
            proxy.cut();
            made.set(n);
        }
        std::future::pending::<()>().await;
    };
    let fetched = tokio::select! {
        fetched = fetch(&mut transfer, &bundle, &sink) => fetched.unwrap(),
        () = cuts => unreachable!("it never ends"),
    };
    let ratio = fetched.counters.received.0 as f64 / total as f64;
    let carried = proxy.carried() as f64 / total as f64;
    println!(
        "20 cuts: {} reconnections, bytes received {ratio:.4} of the bundle, bytes that left the network {carried:.4}",
        fetched.counters.reconnections
    );
    // A cut may meet an attempt to connect, which is no reconnection.
    assert_eq!(made.get(), 20, "{fetched:?}");
    assert!(fetched.counters.reconnections >= 15, "{fetched:?}");
    assert!(ratio <= 1.05, "{ratio}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_changes_two_percent_fetches_at_most_three() {
    let old = Arc::new(large(3));
    let mut new = Bundle::of(&[], 4);
    for (n, chunk) in old.order.iter().enumerate() {
        let changed = n >= old.order.len() * 98 / 100;
        new.push(if changed { noise(n as u64, 128 << 10) } else { old.chunks[&chunk.1].clone() });
    }
    let new = Arc::new(new);
    let (_broker, proxy, _servers) = far(&new).await;
    let sink = Arc::new(Sink::default());
    sink.kept.lock().unwrap().extend(old.chunks.iter().map(|(digest, chunk)| (*digest, chunk.len())));
    let before = sink.bytes().0;
    let (progress, _watched) = tokio::sync::watch::channel(agentd_link::Progress::default());
    let fetched = transfer(rumqtt(proxy.address()), config())
        .chunks(new.digest(), new.order.clone(), Arc::clone(&sink) as _, &progress, &Default::default())
        .await
        .unwrap();
    let ratio = fetched.counters.received.0 as f64 / new.bytes() as f64;
    println!("upgrade with 2 % changed: received {:.2} % of the bundle", ratio * 100.0);
    assert!(ratio <= 0.03, "{ratio}");
    assert_eq!(sink.bytes().0 - before, fetched.bytes.0);
}
