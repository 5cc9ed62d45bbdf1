//! What goes upstream and what comes from there.
//!
//! In: documents and commands from the broker; the journal; the state of this device. Out: documents judged, commands
//! answered, sections of the reported state, telemetry, and every entry of the journal, once at least.

mod commands;
mod sections;

use std::{sync::Arc, time::Duration};

use agentd_link::{Batcher, Channel, Class, Document, Draft, Incoming, LinkHandle};
use agentd_store::Loaded;
use agentd_types::{Coded, Digest, chain};
use agentd_wire::{Payload as _, ReportedEvent, TelemetryPoint, What};
use bytes::Bytes;
use log::{debug, warn};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{authority::AcceptError, house::House};

/// How often sections are compared with what was told last.
const SECTIONS_EVERY: Duration = Duration::from_secs(2);

/// How often measurements are taken.
const TELEMETRY_EVERY: Duration = Duration::from_secs(10);

/// Entries of the journal that are told at a time.
const PAGE: usize = 64;

/// The record that holds the position of the last entry of the journal in the outbox.
const CURSOR: &str = "reported-events";

/// Reports until `stop`.
pub(crate) async fn run(house: Arc<House>, link: LinkHandle, stop: CancellationToken) {
    let mut sections = interval(SECTIONS_EVERY);
    let mut telemetry = interval(TELEMETRY_EVERY);
    sections.set_missed_tick_behavior(MissedTickBehavior::Delay);
    telemetry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut head = house.head.subscribe();
    let mut batcher = Batcher::default();
    let mut cursor = cursor(&house);
    let hardware = sections::hardware(&house).await;
    tell(&link, hardware);
    head.mark_changed(); // what was written before anybody listened
    loop {
        // Every arm is safe to drop half way.
        tokio::select! {
            () = stop.cancelled() => break,
            _ = sections.tick() => sections::changing(&house).into_iter().for_each(|report| tell(&link, report)),
            _ = telemetry.tick() => measure(&house, &link, &mut batcher).await,
            changed = head.changed() => {
                if changed.is_err() {
                    break;
                }
                cursor = tell_journal(&house, &link, cursor).await;
            }
        }
    }
    // The last words of the journal wait in it and are told after the next start.
}

fn tell(link: &LinkHandle, report: agentd_wire::Report) {
    if let Err(error) = link.report(report) {
        warn!(event = "report.form", code = error.code().as_str(), error = chain(&error).as_str();
            "A section cannot be reported");
    }
}

fn cursor(house: &House) -> u64 {
    match house.store.load_record(CURSOR) {
        Ok(Loaded::Present(bytes)) => bytes.try_into().map_or(0, u64::from_le_bytes),
        _ => 0,
    }
}

/// Puts new entries of the journal into the outbox; returns the position of the last.
async fn tell_journal(house: &Arc<House>, link: &LinkHandle, mut cursor: u64) -> u64 {
    loop {
        let read = house.blocking(move |house| house.store.journal().since(cursor, PAGE)).await;
        let Ok(Ok(events)) = read else { return cursor };
        let Some(last) = events.last().map(|event| event.seq) else { return cursor };
        for entry in events {
            let reported = ReportedEvent { boot: house.boot.clone(), entry };
            let Ok(payload) = reported.write() else { continue };
            let draft = Draft {
                class: class(&reported.entry.what),
                channel: Channel::Event,
                key: None,
                payload: payload.into(),
            };
            if let Err(error) = link.put(draft).await {
                warn!(event = "outbox.refuses", error = chain(&error).as_str(); "The outbox refuses an event");
                return cursor;
            }
        }
        cursor = last;
        let saved = house.blocking(move |house| house.store.save_record(CURSOR, &cursor.to_le_bytes())).await;
        if !matches!(saved, Ok(Ok(()))) {
            return cursor; // told again after a restart
        }
    }
}

/// What decides who may do what is never dropped.
const fn class(what: &What) -> Class {
    match what {
        What::DocumentAccepted { .. }
        | What::Refused { .. }
        | What::Quarantined { .. }
        | What::QuarantineLifted { .. }
        | What::RolledBack { .. } => Class::Audit,
        _ => Class::Event,
    }
}

async fn measure(house: &Arc<House>, link: &LinkHandle, batcher: &mut Batcher) {
    let at = house.clock.now();
    let mut points = Vec::new();
    for status in house.serving.statuses() {
        let active = &status.active;
        let mut point = |name: &str, value: f64| {
            points.push(TelemetryPoint {
                at,
                name: name.to_owned(),
                model: Some(status.name.clone()),
                value,
            });
        };
        point("agentd_requests_per_second", active.per_second);
        #[expect(clippy::cast_precision_loss, reason = "counts and microseconds far below 2^53")]
        {
            point("agentd_failures_total", active.failure as f64);
            if let Some(latency) = active.latency {
                point("agentd_latency_p50_us", latency.p50_us as f64);
                point("agentd_latency_p99_us", latency.p99_us as f64);
            }
        }
    }
    for point in points {
        let Ok(Some(batch)) = batcher.push(point, at) else { continue };
        let draft = Draft { class: Class::Metric, channel: Channel::Tele, key: None, payload: batch.payload };
        if let Err(error) = link.put(draft).await {
            debug!(event = "outbox.refuses", error = chain(&error).as_str(); "The outbox refuses telemetry");
        }
    }
}

/// Acts on what the broker says until `stop`.
pub(crate) async fn listen(
    house: Arc<House>,
    link: LinkHandle,
    mut incoming: mpsc::Receiver<Incoming>,
    stop: CancellationToken,
) {
    let mut refused = Refused::default();
    listen_to_groups(&house, &link);
    loop {
        // Both arms are safe to drop half way: a channel keeps what was not taken.
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = incoming.recv() => next,
        };
        match next {
            None => return,
            Some(Incoming::Document(document)) => judge(&house, &link, document, &mut refused).await,
            Some(Incoming::Command { bytes, ack }) => commands::take(&house, &link, &bytes, ack).await,
            Some(Incoming::Connected { .. }) => house.wake.notify_one(),
            Some(Incoming::Disconnected { .. }) => {}
            Some(Incoming::Dropped { code, count }) => {
                warn!(event = "link.dropped", code = code.as_str(), count; "Messages were dropped unread");
            }
        }
    }
}

/// The last documents refused, so that one which a broker repeats is journalled once.
#[derive(Debug, Default)]
struct Refused(Vec<Digest>);

impl Refused {
    fn is_new(&mut self, document: &[u8]) -> bool {
        let digest = Digest::of(document);
        if self.0.contains(&digest) {
            return false;
        }
        self.0.push(digest);
        if self.0.len() > 64 {
            self.0.remove(0);
        }
        true
    }
}

async fn judge(house: &Arc<House>, link: &LinkHandle, document: Document, refused: &mut Refused) {
    let Document { kind, topic, bytes } = document;
    if bytes.is_empty() {
        return; // taken off the broker: what holds is what was signed
    }
    let (judged, envelope): (_, Bytes) = (bytes.clone(), bytes);
    let accepted = house.blocking(move |house| house.authority.accept(Some(kind), &judged)).await;
    match accepted {
        Err(_) | Ok(Ok(None)) => {}
        Ok(Ok(Some(_))) => {
            house.documents_changed();
            listen_to_groups(house, link);
        }
        Ok(Err(error)) => {
            let (code, message) = (error.code(), chain(&error));
            if !refused.is_new(&envelope) {
                return;
            }
            warn!(event = "document.refused", code = code.as_str(), error = message.as_str(); "Document is refused");
            let is_ours = !matches!(error, AcceptError::Reject(_));
            if !is_ours {
                drop(house.record(What::Refused { subject: topic.to_string(), code, message }).await);
            }
        }
    }
}

fn listen_to_groups(house: &House, link: &LinkHandle) {
    let now = house.clock.now();
    let (groups, behind) = house.authority.look(|state| (state.groups(now), state.is_clock_behind(now)));
    link.set_groups(groups);
    link.set_clock_state(if behind {
        agentd_wire::ClockState::Behind
    } else {
        agentd_wire::ClockState::Plausible
    });
}
