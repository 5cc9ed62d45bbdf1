//! Trust documents: keys, roles and their succession.

use agentd_bundle::Cause;
use agentd_types::UnixTime;
use agentd_wire::Kind;
use serde_json::{Value, json};

use crate::{
    Row, check,
    fleet::{
        DAY, NOW, catalog, cause, desired, id, key, manifest, pinned, pinned_with, seal, take, trust, wished,
        with,
    },
};

/// A small-order point, a point of mixed order, a second spelling of the identity, minus zero, and no point at all.
const BAD_KEYS: [(&str, &str); 7] = [
    ("a point of order 8", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    ("a point of order 2", "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ("the identity", "0100000000000000000000000000000000000000000000000000000000000000"),
    ("a point of mixed order", "98519eadf35b995233b51b5cd23e9cc5a28b639b5a4af0ec903cb960d81b7819"),
    ("y above the prime", "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ("minus zero", "0100000000000000000000000000000000000000000000000000000000000080"),
    ("no point of the curve", "0200000000000000000000000000000000000000000000000000000000000000"),
];

fn key_id_of(public: &str) -> String {
    crate::fleet::digest(&format!(
        r#"{{"keytype":"ed25519","keyval":{{"public":"{public}"}},"scheme":"ed25519"}}"#
    ))
}

fn next(edit: impl FnOnce(&mut Value)) -> Value {
    with(trust(), |document| {
        document["version"] = json!(2);
        edit(document);
    })
}

fn accept(document: &Value, signers: &[&str]) -> Option<Cause> {
    cause(pinned().accept(Some(Kind::Trust), &seal(Kind::Trust, document, signers), UnixTime(NOW)))
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = BAD_KEYS
        .iter()
        .map(|(what, public)| {
            let document = next(|document| document["keys"][key_id_of(public)] = json!(public));
            (*what, Cause::Key, accept(&document, &["root-1", "root-2"]))
        })
        .collect();
    let role =
        |path: &'static str, value: Value| next(|document| *document.pointer_mut(path).unwrap() = value);
    let edits: Vec<(&'static str, Cause, Value)> = vec![
        (
            "an upper-case key",
            Cause::Key,
            next(|d| d["keys"][id("fleet")] = json!(key("fleet").public().to_hex().to_uppercase())),
        ),
        ("a key that is a number", Cause::Key, next(|d| d["keys"][id("fleet")] = json!(1))),
        (
            "a key under another id",
            Cause::KeyId,
            next(|d| d["keys"][id("fleet")] = json!(key("lab").public().to_hex())),
        ),
        (
            "a key id that is no digest",
            Cause::KeyId,
            next(|d| d["keys"]["x"] = json!(key("lab").public().to_hex())),
        ),
        ("threshold 0", Cause::Role, role("/roles/fleet/threshold", json!(0))),
        ("threshold -1", Cause::Role, role("/roles/fleet/threshold", json!(-1))),
        ("a threshold that is true", Cause::Role, role("/roles/fleet/threshold", json!(true))),
        ("a threshold out of reach", Cause::Role, role("/roles/releases/0/threshold", json!(3))),
        (
            "a key id twice in a role",
            Cause::Role,
            role("/roles/releases/0/keyids", json!([id("release-1"), id("release-1")])),
        ),
        ("a role with an unknown key", Cause::Role, role("/roles/fleet/keyids", json!([id("nobody")]))),
        ("a role without keys", Cause::Role, role("/roles/fleet/keyids", json!([]))),
        (
            "a root key that signs models",
            Cause::Role,
            role("/roles/releases/2/keyids", json!([id("root-3")])),
        ),
        ("a root key for the fleet", Cause::Role, role("/roles/fleet/keyids", json!([id("root-1")]))),
        ("key ids that are no list", Cause::Schema, role("/roles/fleet/keyids", json!("x"))),
        ("a role with a field more", Cause::Schema, next(|d| d["roles"]["fleet"]["x"] = json!(1))),
        (
            "a release role without names",
            Cause::Schema,
            next(|d| crate::fleet::remove(&mut d["roles"]["releases"][0], "names")),
        ),
        ("names that are numbers", Cause::Schema, role("/roles/releases/0/names", json!([1]))),
        ("a fourth role", Cause::Schema, next(|d| d["roles"]["x"] = json!({"keyids": [], "threshold": 1}))),
        ("a revoked key that is no digest", Cause::Schema, next(|d| d["revoked_keys"] = json!(["x"]))),
        ("a minimum version below 0", Cause::Schema, next(|d| d["min_versions"] = json!({"a": -1}))),
        ("version 0", Cause::Schema, next(|d| d["version"] = json!(0))),
        ("the same version", Cause::Rollback, trust()),
        ("two versions on", Cause::Chain, next(|d| d["version"] = json!(3))),
        (
            "the last version there is",
            Cause::Chain,
            next(|d| d["version"] = json!(9_007_199_254_740_991_u64)),
        ),
        ("another fleet", Cause::Fleet, next(|d| d["fleet"] = json!("other"))),
        ("made tomorrow", Cause::Future, next(|d| d["created"] = json!(NOW + DAY))),
        (
            "its own revocations leave too few",
            Cause::Threshold,
            next(|d| d["revoked_keys"] = json!([id("root-1")])),
        ),
    ];
    rows.extend(
        edits
            .iter()
            .map(|(what, expected, document)| (*what, *expected, accept(document, &["root-1", "root-2"]))),
    );
    let new_root = next(|document| {
        document["keys"][id("new-1")] = json!(key("new-1").public().to_hex());
        document["keys"][id("new-2")] = json!(key("new-2").public().to_hex());
        document["roles"]["root"] = json!({"keyids": [id("new-1"), id("new-2")], "threshold": 2});
    });
    rows.extend([
        ("only one root key", Cause::Threshold, accept(&next(|_| {}), &["root-1"])),
        ("the fleet key", Cause::Threshold, accept(&next(|_| {}), &["fleet", "release-1"])),
        ("only the new root", Cause::Threshold, accept(&new_root, &["new-1", "new-2"])),
        ("only the old root", Cause::Threshold, accept(&new_root, &["root-1", "root-2"])),
    ]);
    assert_eq!(accept(&new_root, &["new-1", "new-2", "root-1", "root-2"]), None);
    let old = with(trust(), |document| document["expires"] = json!(NOW - 1));
    let mut expired = pinned_with(&old).unwrap();
    let sealed = seal(Kind::Catalog, &catalog(json!({})), &["fleet"]);
    rows.push((
        "trust that ran out",
        Cause::TrustExpired,
        cause(expired.accept(None, &sealed, UnixTime(NOW))),
    ));
    rows
}

#[test]
fn broken_trust_documents_are_refused() {
    check(rows());
}

#[test]
fn a_device_pins_only_trust_that_signed_itself() {
    let one = seal(Kind::Trust, &trust(), &["root-1"]);
    let refused = agentd_bundle::FleetState::pinned(crate::fleet::identity(), &one);
    assert_eq!(cause(refused), Some(Cause::Threshold));
}

#[test]
fn the_refusal_says_who_signed_and_who_is_missing() {
    let refused =
        pinned().accept(None, &seal(Kind::Trust, &next(|_| {}), &["root-1", "fleet"]), UnixTime(NOW));
    let short = |name: &str| id(name).chars().take(8).collect::<String>();
    let message = refused.unwrap_err().to_string();
    assert_eq!(
        message,
        format!(
            "it is signed by 1 of the 2 keys that the root role of trust 1 needs; signed by {}; missing one of {}, {}; \
             {} is not a key of this role",
            short("root-1"),
            short("root-2"),
            short("root-3"),
            short("fleet")
        )
    );
}

#[test]
fn new_fleet_keys_clear_what_the_old_ones_signed() {
    let mut state = crate::fleet::asked_for(&manifest());
    let next = next(|document| {
        document["keys"][id("fleet-2")] = json!(key("fleet-2").public().to_hex());
        document["roles"]["fleet"]["keyids"] = json!([id("fleet-2")]);
    });
    let sealed = seal(Kind::Trust, &next, &["root-1", "root-2"]);
    let accepted = state.accept(None, &sealed, UnixTime(NOW)).unwrap();
    assert!(accepted.cleared);
    assert!(state.catalog().is_none());
    assert!(state.desired(UnixTime(NOW)).is_empty());
    // The counters start anew: version 10 and sequence number 1 were used before.
    for (kind, document) in [
        (Kind::Catalog, catalog(json!({}))),
        (Kind::Desired, desired(json!({"vision/defect": wished(&manifest())}))),
    ] {
        state.accept(None, &seal(kind, &document, &["fleet-2"]), UnixTime(NOW)).unwrap();
    }
}

#[test]
fn a_trust_document_that_changes_no_fleet_key_clears_nothing() {
    let mut state = crate::fleet::asked_for(&manifest());
    take(&mut state, Kind::Trust, &next(|_| {}));
    assert_eq!((state.trust_version(), state.catalog_version()), (2, Some(10)));
    assert_eq!(state.desired(UnixTime(NOW)).len(), 1);
}

#[test]
fn an_expired_link_leads_to_the_next() {
    let mut state = pinned();
    take(&mut state, Kind::Trust, &next(|document| document["expires"] = json!(NOW - 1)));
    let third = next(|document| document["version"] = json!(3));
    take(&mut state, Kind::Trust, &third);
    assert_eq!(state.trust_version(), 3);
}

#[test]
fn the_first_glob_that_matches_decides() {
    for (glob, name, expected) in [
        ("*", "vision/defect", true),
        ("vision/*", "vision/defect", true),
        ("vision/*", "vision/a/b", true),
        ("vision/*", "vision", false),
        ("vision/*", "visionary/x", false),
        ("*/defect", "vision/defect", true),
        ("v*n/d*t", "vision/defect", true),
        ("v*n/d*x", "vision/defect", false),
        ("vision/defec?", "vision/defect", true),
        ("", "a", false),
        ("**", "a", true),
        ("a", "a", true),
        ("a", "ab", false),
        ("[a-z]", "a", false),
    ] {
        assert_eq!(agentd_bundle::glob_matches(glob, name), expected, "{glob} on {name}");
    }
}

#[test]
fn keys_are_listed_with_their_roles() {
    let state =
        pinned_with(&with(trust(), |document| document["revoked_keys"] = json!([id("lab")]))).unwrap();
    let keys = state.keys();
    let find = |name: &str| keys.iter().find(|key| key.id.to_string() == id(name)).unwrap();
    assert_eq!(find("root-1").roles, ["root"]);
    assert_eq!(find("release-1").roles, ["release safety/*", "release vision/*, audio/*"]);
    assert!(find("lab").revoked);
    assert!(!find("fleet").revoked);
}
