//! Documents and chunks that come by hand, as from a USB stick: judged exactly as those from the broker.

use agentd_bundle::Envelope;
use agentd_types::Digest;
use agentd_wire::{Kind, LackingChunks};
use axum::{body::Bytes, extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{
    Api,
    answer::{Answer, Problem, ok},
};

/// Takes a document into effect, or keeps the manifest of a bundle until it is asked for.
pub(super) async fn document(State(api): State<Api>, body: Bytes) -> Answer<Value> {
    let opened = Envelope::read(&body).map_err(|reject| Problem::of(&reject).with(StatusCode::FORBIDDEN))?;
    let kind = opened.kind();
    if kind == Kind::Bundle {
        let digest = opened.digest();
        api.house.source.offer(digest, body.to_vec());
        // It failed to come before, perhaps; now it is here.
        api.house.documents_changed();
        return ok(json!({ "kind": kind, "sha256": digest, "accepted": true }));
    }
    let accepted = api
        .house
        .blocking(move |house| house.authority.accept(Some(kind), &body))
        .await
        .map_err(|_| Problem::ending())??;
    api.house.documents_changed();
    ok(json!({ "kind": kind, "number": accepted.as_ref().map(|accepted| accepted.number), "accepted": true }))
}

/// What may be handed in.
pub(super) async fn lacking(State(api): State<Api>) -> Answer<LackingChunks> {
    ok(LackingChunks { lacking: api.house.source.lacking() })
}

/// Keeps a chunk that a bundle which is asked for lacks.
pub(super) async fn chunk(State(api): State<Api>, body: Bytes) -> Answer<Value> {
    let digest = Digest::of(&body);
    if !api.house.source.lacks(&digest) {
        let message = format!("no bundle that is asked for lacks chunk {}", digest.short());
        return Err(Problem::new(StatusCode::CONFLICT, "chunk.unasked", message)
            .hint("hand in the manifest first: agentctl bundle import does both in the right order"));
    }
    let put = api.house.blocking(move |house| house.store.put_chunk(digest, &body)).await;
    put.map_err(|_| Problem::ending())?.map_err(|error| Problem::of(&error))?;
    api.house.source.arrived(&digest);
    ok(json!({ "sha256": digest, "accepted": true }))
}
