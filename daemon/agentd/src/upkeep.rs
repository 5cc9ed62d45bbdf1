//! What must be done now and then although nothing happened: the disk is looked at, a long index is finished.

use std::{sync::Arc, time::Duration};

use agentd_types::chain;
use log::warn;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::house::House;

const EVERY: Duration = Duration::from_secs(60);

/// Looks after the store until `stop`; the first time at once.
pub(crate) async fn run(house: Arc<House>, stop: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are safe to drop half way.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let looked = house.blocking(|house| {
            house.store.mend_index();
            house.store.check_disk()
        });
        if let Ok(Err(error)) = looked.await {
            warn!(event = "disk.unknown", error = chain(&error).as_str(); "The disk cannot be asked");
        }
        house.tell_head();
    }
}
