//! A small fleet with keys, and documents to break.

use agentd_bundle::{Cause, Envelope, FleetState, Identity, PrivateKey, Reject, VerifiedBundle, json};
use agentd_types::{Digest, UnixTime};
use agentd_wire::{Kind, Manifest};
use serde_json::{Value, json};

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const DAY: u64 = 86_400;
pub(crate) const BUILD: u64 = NOW - 100 * DAY;

/// One private key a name, always the same.
pub(crate) fn key(name: &str) -> PrivateKey {
    PrivateKey::from_seed(Digest::of(name.as_bytes()).as_bytes())
}

pub(crate) fn id(name: &str) -> String {
    key(name).public().id().to_string()
}

pub(crate) fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

/// The canonical bytes of a document.
pub(crate) fn payload(document: &Value) -> Vec<u8> {
    json::canonical_bytes(document).unwrap()
}

pub(crate) fn seal_bytes(kind: Kind, payload: Vec<u8>, keys: &[&str]) -> Vec<u8> {
    let mut envelope = Envelope::unsigned(kind, payload);
    for name in keys {
        envelope.sign(&key(name)).unwrap();
    }
    envelope.to_bytes()
}

pub(crate) fn seal(kind: Kind, document: &Value, keys: &[&str]) -> Vec<u8> {
    seal_bytes(kind, payload(document), keys)
}

pub(crate) fn identity() -> Identity {
    Identity {
        device: "dev-1".parse().unwrap(),
        fleet: "plant".parse().unwrap(),
        device_key: key("device").public().to_bytes(),
        build: UnixTime(BUILD),
    }
}

pub(crate) fn trust() -> Value {
    let keys: serde_json::Map<_, _> =
        ["root-1", "root-2", "root-3", "fleet", "release-1", "release-2", "lab"]
            .iter()
            .map(|name| (id(name), json!(key(name).public().to_hex())))
            .collect();
    json!({
        "type": "trust", "spec": 1, "fleet": "plant", "version": 1, "created": NOW - DAY, "expires": NOW + 365 * DAY,
        "keys": keys,
        "roles": {
            "root": {"keyids": [id("root-1"), id("root-2"), id("root-3")], "threshold": 2},
            "fleet": {"keyids": [id("fleet")], "threshold": 1},
            "releases": [
                {"names": ["safety/*"], "keyids": [id("release-1"), id("release-2")], "threshold": 2},
                {"names": ["vision/*", "audio/*"], "keyids": [id("release-1")], "threshold": 1},
                {"names": ["lab/*"], "keyids": [id("lab")], "threshold": 1},
            ],
        },
        "revoked_keys": [], "revoked_bundles": [], "min_versions": {},
    })
}

pub(crate) fn pinned_with(document: &Value) -> Result<FleetState, Reject> {
    FleetState::pinned(identity(), &seal(Kind::Trust, document, &["root-1", "root-2"]))
}

pub(crate) fn pinned() -> FleetState {
    pinned_with(&trust()).unwrap()
}

pub(crate) fn catalog(models: Value) -> Value {
    json!({
        "type": "catalog", "spec": 1, "fleet": "plant", "version": 10, "created": NOW - 600,
        "expires": NOW + 7 * DAY, "trust_version": 1, "models": models,
    })
}

pub(crate) fn membership() -> Value {
    json!({
        "type": "membership", "spec": 1, "fleet": "plant", "device": "dev-1", "seq": 1, "created": NOW - 60,
        "expires": NOW + 30 * DAY, "groups": {"line-a": 10, "line-b": 20}, "labels": {"site": "a"},
    })
}

pub(crate) fn desired(models: Value) -> Value {
    json!({
        "type": "desired", "spec": 1, "fleet": "plant", "target": "device:dev-1", "seq": 1, "created": NOW - 60,
        "expires": NOW + DAY, "models": models,
    })
}

fn file(path: &str, contents: &[&str]) -> Value {
    let chunks: Vec<_> = contents.iter().map(|chunk| json!([chunk.len(), digest(chunk)])).collect();
    let whole = contents.concat();
    json!({"path": path, "size": whole.len(), "sha256": digest(&whole), "chunks": chunks})
}

pub(crate) fn manifest() -> Value {
    json!({
        "type": "bundle", "spec": 1, "fleet": "plant", "name": "vision/defect", "version": 5,
        "created": NOW - 3_600, "expires": NOW + 180 * DAY,
        "files": [
            file("card.md", &["a card"]), file("golden/in.npy", &["input"]), file("golden/out.npy", &["output"]),
            file("licence.txt", &["a licence"]), file("model.onnx", &["first half", "second half"]),
        ],
        "model": {
            "format": "onnx", "entry": "model.onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}],
        },
        "golden": [{"inputs": {"x": "golden/in.npy"}, "outputs": {"y": "golden/out.npy"}, "tol_ppm": 100}],
        "requires": {"mem_mib": 64, "any_of": ["cpu", "gpu"]},
        "licence": {"spdx": "Apache-2.0", "file": "licence.txt"},
        "card": "card.md", "lineage": null, "extras": {},
    })
}

pub(crate) fn derived(parent: &Digest, base: &Digest, depth: u64, seq: u64) -> Value {
    let mut document = manifest();
    document["type"] = json!("derived");
    document["name"] = json!("vision/defect@local");
    document["files"][4] = file("model.onnx", &["learned"]);
    document["lineage"] = json!({
        "parent": parent, "base": base, "device": "dev-1", "seq": seq, "depth": depth,
        "data_sha256": digest("data"), "method": "head-sgd", "metrics": {"acc_ppm": 912_000},
    });
    document
}

/// An entry of a catalog for a manifest.
pub(crate) fn listed(manifest: &Value) -> Value {
    json!({"version": manifest["version"], "sha256": Digest::of(&payload(manifest))})
}

/// An entry of a desired document for a manifest.
pub(crate) fn wished(manifest: &Value) -> Value {
    let mut entry = listed(manifest);
    entry["allow_downgrade"] = json!(false);
    entry["policy"] = json!({});
    entry
}

/// Takes documents, all of which must pass.
#[track_caller]
pub(crate) fn take(state: &mut FleetState, kind: Kind, document: &Value) {
    let keys: &[&str] = if kind == Kind::Trust { &["root-1", "root-2"] } else { &["fleet"] };
    state.accept(Some(kind), &seal(kind, document, keys), UnixTime(NOW)).unwrap();
}

/// A device that is asked to run `manifest`.
pub(crate) fn asked_for(manifest: &Value) -> FleetState {
    let mut state = pinned();
    let name = manifest["name"].as_str().unwrap_or("vision/defect").to_owned();
    take(&mut state, Kind::Catalog, &catalog(json!({&name: listed(manifest)})));
    take(&mut state, Kind::Desired, &desired(json!({&name: wished(manifest)})));
    state
}

pub(crate) fn prove(state: &FleetState, manifest: &Value) -> Result<VerifiedBundle, Reject> {
    state.prove_bundle(&seal(Kind::Bundle, manifest, &["release-1"]), UnixTime(NOW))
}

/// A device that has the bundle of [`manifest`] installed, and the lookup that `prove_derived` needs.
pub(crate) fn installed() -> (FleetState, VerifiedBundle) {
    let mut state = asked_for(&manifest());
    let bundle = prove(&state, &manifest()).unwrap();
    state.record_installed(&bundle);
    (state, bundle)
}

pub(crate) fn lookup(bundles: &[VerifiedBundle]) -> impl Fn(&Digest) -> Option<Manifest> {
    let bundles: Vec<_> = bundles.iter().map(|bundle| (bundle.digest(), bundle.manifest().clone())).collect();
    move |wanted| bundles.iter().find(|(digest, _)| digest == wanted).map(|(_, manifest)| manifest.clone())
}

pub(crate) fn cause<T>(result: Result<T, Reject>) -> Option<Cause> {
    result.err().map(|reject| reject.cause())
}

/// `document` after `edit`.
pub(crate) fn with(mut document: Value, edit: impl FnOnce(&mut Value)) -> Value {
    edit(&mut document);
    document
}

pub(crate) fn remove(document: &mut Value, field: &str) {
    document.as_object_mut().unwrap().remove(field).unwrap();
}
