//! The journal as JSON lines, followed as it grows.

use agentd_wire::Event;
use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::Response,
};
use http_body_util::channel::{Channel, Sender};
use serde::Deserialize;

use super::{Api, answer::Problem};

/// Entries read at a time.
const PAGE: usize = 256;

/// Which entries.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct From {
    /// Entries after this position.
    #[serde(default)]
    after: u64,
    /// 1 to wait for new entries.
    #[serde(default)]
    follow: u8,
}

pub(super) async fn events(State(api): State<Api>, Query(from): Query<From>) -> Result<Response, Problem> {
    let (sender, body) = Channel::<Bytes, std::io::Error>::new(4); // 4 pages of at most 256 entries
    let streams = api.streams.clone();
    drop(streams.spawn(write(api, from, sender)));
    Response::builder()
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(Body::new(body))
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "api.defect", error.to_string()))
}

async fn write(api: Api, from: From, mut sender: Sender<Bytes, std::io::Error>) {
    let mut head = api.house.head.subscribe();
    let mut after = from.after;
    loop {
        head.mark_unchanged();
        let read = api.house.blocking(move |house| house.store.journal().since(after, PAGE)).await;
        let Ok(Ok(events)) = read else { return };
        if let Some(last) = events.last() {
            after = last.seq;
            if sender.send_data(lines(&events)).await.is_err() {
                return; // nobody reads on
            }
            continue;
        }
        if from.follow == 0 {
            return;
        }
        // Every arm is safe to drop half way.
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return },
            () = api.stop.cancelled() => return,
        }
    }
}

fn lines(events: &[Event]) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        // An event was read from JSON, so it has a JSON form.
        if let Ok(line) = serde_json::to_vec(event) {
            text.extend(line);
            text.push(b'\n');
        }
    }
    text.into()
}
