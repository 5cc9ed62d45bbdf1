//! The local API on the control socket: what `agentctl` asks and orders.
//!
//! HTTP/1.1 with the bodies of `agentd_wire`. Who may connect is decided by the socket's mode and group. An answer that
//! is not a success carries a stable code, a message and where possible a hint.

mod answer;
mod documents;
mod events;

use std::sync::Arc;

use agentd_types::ModelName;
use agentd_wire::{
    DeviceStatus, DoctorReport, ModelStatus, PinRequest, Receipt, RetryResult, RollbackRequest,
    RollbackResult,
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::answer::{Answer, Problem, ok};
use crate::{doctor, house::House, operate, status};

/// No order has a larger body; a chunk has at most 4 MiB and an envelope 8.
const MAX_BODY: usize = 9 << 20;

/// What every call is given.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    house: Arc<House>,
    stop: CancellationToken,
    /// Streams of events that are being written.
    streams: TaskTracker,
}

/// Answers on `listener` until `stop`.
pub(crate) async fn run(house: Arc<House>, listener: UnixListener, stop: CancellationToken) {
    let streams = TaskTracker::new();
    let api = Api { house, stop: stop.clone(), streams: streams.clone() };
    let router = Router::new()
        .route("/v1/status", get(device))
        .route("/v1/models/{name}", get(model))
        .route("/v1/models/{name}/placement", get(placement))
        .route("/v1/models/{name}/rollback", post(roll_back))
        .route("/v1/models/{name}/pin", post(pin))
        .route("/v1/models/{name}/retry", post(retry))
        .route("/v1/events", get(events::events))
        .route("/v1/audit", get(audit))
        .route("/v1/doctor", get(check))
        .route("/v1/config", get(config))
        .route("/v1/documents", post(documents::document))
        .route("/v1/chunks", get(documents::lacking).post(documents::chunk))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(api);
    let served =
        axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await }).await;
    if let Err(error) = served {
        log::error!(event = "api.failed", error = error.to_string().as_str(); "The local API ended");
    }
    streams.close();
    streams.wait().await;
}

async fn device(State(api): State<Api>) -> Answer<DeviceStatus> {
    ok(status::device(&api.house))
}

async fn model(State(api): State<Api>, Path(name): Path<String>) -> Answer<ModelStatus> {
    let name = parse(&name)?;
    status::model(&api.house, &name).map_or_else(|| Err(Problem::unknown_model(&name)), ok)
}

async fn placement(State(api): State<Api>, Path(name): Path<String>) -> Answer<Receipt> {
    let name = parse(&name)?;
    api.house.store.receipt(&name).map_or_else(|| Err(Problem::never_placed(&name)), ok)
}

async fn roll_back(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<RollbackRequest>,
) -> Answer<RollbackResult> {
    let name = parse(&name)?;
    ok(operate::roll_back(&api.house, &name, request.to, "agentctl").await?)
}

async fn pin(
    State(api): State<Api>,
    Path(name): Path<String>,
    Json(request): Json<PinRequest>,
) -> Answer<ModelStatus> {
    let name = parse(&name)?;
    operate::pin(&api.house, &name, request.action).await?;
    status::model(&api.house, &name).map_or_else(|| Err(Problem::unknown_model(&name)), ok)
}

async fn retry(State(api): State<Api>, Path(name): Path<String>) -> Answer<RetryResult> {
    let name = parse(&name)?;
    ok(operate::retry(&api.house, &name, "agentctl").await?)
}

async fn audit(State(api): State<Api>) -> Answer<Value> {
    let verified =
        api.house.blocking(|house| house.store.journal().verify()).await.map_err(|_| Problem::ending())?;
    let verified = verified.map_err(|error| Problem::of(&error))?;
    ok(json!({
        "entries": verified.entries,
        "first": verified.first_seq,
        "head": verified.head.hash,
        "damage": verified.damage.iter().map(|damage| format!("{damage:?}")).collect::<Vec<_>>(),
    }))
}

async fn check(State(api): State<Api>) -> Answer<DoctorReport> {
    ok(doctor::check(&api.house).await)
}

async fn config(State(api): State<Api>) -> Answer<Value> {
    ok(json!({ "settings": api.house.config.settings }))
}

async fn unknown() -> Answer<Value> {
    Err(Problem::no_such_call())
}

fn parse(name: &str) -> Result<ModelName, Problem> {
    name.parse().map_err(|error| Problem::bad_name(&error))
}
