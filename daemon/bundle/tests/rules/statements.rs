//! Catalogs, memberships and desired documents.

use agentd_bundle::Cause;
use agentd_types::UnixTime;
use agentd_wire::Kind;
use serde_json::{Value, json};

use crate::{
    Row, check,
    fleet::{BUILD, DAY, NOW, catalog, cause, desired, digest, membership, pinned, seal, take, with},
};

type Edit = (&'static str, Cause, fn(&mut Value));

/// Breaks `document` in each way, on a device that has taken `first`.
fn broken(kind: Kind, first: Option<&Value>, document: &Value, edits: &[Edit]) -> Vec<Row> {
    edits
        .iter()
        .map(|(what, expected, edit)| {
            let mut state = pinned();
            if let Some(first) = first {
                take(&mut state, kind, first);
            }
            let sealed = seal(kind, &with(document.clone(), edit), &["fleet"]);
            (*what, *expected, cause(state.accept(Some(kind), &sealed, UnixTime(NOW))))
        })
        .collect()
}

fn one_model() -> Value {
    json!({"a": {"version": 5, "sha256": digest("five")}})
}

pub(crate) fn catalog_rows() -> Vec<Row> {
    let first = catalog(one_model());
    broken(
        Kind::Catalog,
        Some(&first),
        &with(first.clone(), |next| next["version"] = json!(11)),
        &[
            ("expired", Cause::Expired, |d| d["expires"] = json!(NOW - 1)),
            ("made tomorrow", Cause::Future, |d| d["created"] = json!(NOW + 601)),
            ("15 days", Cause::Lifetime, |d| d["expires"] = json!(NOW - 600 + 14 * DAY + 1)),
            ("an older catalog", Cause::Rollback, |d| d["version"] = json!(9)),
            ("another one of the same version", Cause::Equivocation, |d| {
                d["version"] = json!(10);
                d["expires"] = json!(NOW + DAY);
            }),
            ("from a later trust", Cause::StaleTrust, |d| d["trust_version"] = json!(2)),
            ("an older model", Cause::Rollback, |d| d["models"]["a"]["version"] = json!(4)),
            ("another model of the same version", Cause::Equivocation, |d| {
                d["models"]["a"]["sha256"] = json!(digest("x"))
            }),
            ("a malformed name", Cause::Schema, |d| d["models"]["A"] = d["models"]["a"].clone()),
            ("a local name", Cause::Schema, |d| d["models"]["a@local"] = d["models"]["a"].clone()),
            ("an entry with a field more", Cause::Schema, |d| d["models"]["a"]["x"] = json!(1)),
            ("an entry without a digest", Cause::Schema, |d| {
                crate::fleet::remove(&mut d["models"]["a"], "sha256")
            }),
            ("an upper-case digest", Cause::Schema, |d| {
                d["models"]["a"]["sha256"] = json!(digest("x").to_uppercase())
            }),
            ("a version that is a string", Cause::Schema, |d| d["version"] = json!("11")),
            ("models that are a list", Cause::Schema, |d| d["models"] = json!([])),
        ],
    )
}

pub(crate) fn membership_rows() -> Vec<Row> {
    let next = with(membership(), |next| next["seq"] = json!(2));
    broken(
        Kind::Membership,
        Some(&membership()),
        &next,
        &[
            ("for another device", Cause::Target, |d| d["device"] = json!("dev-2")),
            ("the same number", Cause::Replay, |d| d["seq"] = json!(1)),
            ("an older number", Cause::Replay, |d| d["seq"] = json!(0)),
            ("expired", Cause::Expired, |d| d["expires"] = json!(NOW - 1)),
            ("made tomorrow", Cause::Future, |d| d["created"] = json!(NOW + DAY)),
            ("priority 1001", Cause::Schema, |d| d["groups"]["line-a"] = json!(1001)),
            ("priority -1", Cause::Schema, |d| d["groups"]["line-a"] = json!(-1)),
            ("a malformed group", Cause::Schema, |d| d["groups"]["../a"] = json!(1)),
            ("a label that is a number", Cause::Schema, |d| d["labels"]["a"] = json!(1)),
            ("a negative number", Cause::Schema, |d| d["seq"] = json!(-1)),
            ("a malformed device", Cause::Schema, |d| d["device"] = json!("A B")),
        ],
    )
}

pub(crate) fn desired_rows() -> Vec<Row> {
    let entry =
        json!({"version": 5, "sha256": digest("five"), "allow_downgrade": false, "policy": {"unknown": [1]}});
    let first = desired(json!({"a": entry}));
    broken(
        Kind::Desired,
        Some(&first),
        &with(first.clone(), |next| next["seq"] = json!(2)),
        &[
            ("for another device", Cause::Target, |d| d["target"] = json!("device:dev-2")),
            ("for a group that we are not in", Cause::Target, |d| d["target"] = json!("group:line-a")),
            ("for garbage", Cause::Schema, |d| d["target"] = json!("group:../x")),
            ("for nobody", Cause::Schema, |d| d["target"] = json!("")),
            ("for an object", Cause::Schema, |d| d["target"] = json!({"device": "dev-1"})),
            ("the same number", Cause::Replay, |d| d["seq"] = json!(1)),
            ("expired", Cause::Expired, |d| d["expires"] = json!(NOW - 1)),
            ("made tomorrow", Cause::Future, |d| d["created"] = json!(NOW + DAY)),
            ("a downgrade that is a number", Cause::Schema, |d| {
                d["models"]["a"]["allow_downgrade"] = json!(0)
            }),
            ("a policy that is a list", Cause::Schema, |d| d["models"]["a"]["policy"] = json!([])),
            ("version 0", Cause::Schema, |d| d["models"]["a"]["version"] = json!(0)),
            ("a local name", Cause::Schema, |d| d["models"]["a@local"] = d["models"]["a"].clone()),
        ],
    )
}

#[test]
fn broken_statements_are_refused() {
    check(catalog_rows());
    check(membership_rows());
    check(desired_rows());
}

#[test]
fn the_same_catalog_may_come_again() {
    let mut state = pinned();
    take(&mut state, Kind::Catalog, &catalog(one_model()));
    take(&mut state, Kind::Catalog, &catalog(one_model()));
    assert!(state.holds(&seal(Kind::Catalog, &catalog(one_model()), &["fleet"])));
    assert!(!state.holds(&seal(Kind::Catalog, &catalog(json!({})), &["fleet"])));
}

#[test]
fn a_document_is_valid_up_to_the_second_in_which_it_expires() {
    for (expires, expected) in [(NOW, None), (NOW - 1, Some(Cause::Expired))] {
        let document = with(catalog(json!({})), |document| document["expires"] = json!(expires));
        let sealed = seal(Kind::Catalog, &document, &["fleet"]);
        assert_eq!(cause(pinned().accept(None, &sealed, UnixTime(NOW))), expected);
    }
}

#[test]
fn wishes_merge_from_all_over_groups_to_the_device() {
    let wish = |version: u64| json!({"version": version, "sha256": digest("m"), "allow_downgrade": false, "policy": {}});
    let mut state = pinned();
    take(&mut state, Kind::Membership, &membership());
    for (target, models) in [
        ("all", json!({"a": wish(1), "b": wish(1), "c": wish(1), "d": wish(1)})),
        ("group:line-b", json!({"b": wish(3), "c": wish(3)})),
        ("group:line-a", json!({"b": wish(2), "c": wish(2), "d": wish(2)})),
        ("device:dev-1", json!({"c": wish(4)})),
    ] {
        take(
            &mut state,
            Kind::Desired,
            &with(desired(models), |document| document["target"] = json!(target)),
        );
    }
    let versions = |state: &agentd_bundle::FleetState, now| -> Vec<_> {
        state
            .desired(UnixTime(now))
            .into_iter()
            .map(|(name, entry)| format!("{name}{}", entry.version))
            .collect()
    };
    assert_eq!(versions(&state, NOW), ["a1", "b3", "c4", "d2"]);
    assert_eq!(state.wishes(UnixTime(NOW))["b"].target.to_string(), "group:line-b");
    // Every document is out of date, so none has a say; but nobody said that a model shall go.
    assert!(versions(&state, NOW + 2 * DAY).is_empty());
    assert!(state.is_mentioned(&"a".parse().unwrap()));
    assert!(!state.is_mentioned(&"z".parse().unwrap()));
    // Out of the groups, their documents no longer count.
    let alone = with(membership(), |document| {
        document["seq"] = json!(2);
        document["groups"] = json!({});
    });
    take(&mut state, Kind::Membership, &alone);
    assert_eq!(versions(&state, NOW), ["a1", "b1", "c4", "d1"]);
}

#[test]
fn groups_of_the_same_priority_merge_by_name() {
    let wish = |version: u64| json!({"version": version, "sha256": digest("m"), "allow_downgrade": false, "policy": {}});
    let mut state = pinned();
    take(&mut state, Kind::Membership, &with(membership(), |d| d["groups"] = json!({"x": 1, "y": 1})));
    for (target, version) in [("group:y", 2), ("group:x", 1)] {
        let document =
            with(desired(json!({"a": wish(version)})), |document| document["target"] = json!(target));
        take(&mut state, Kind::Desired, &document);
    }
    assert_eq!(state.desired(UnixTime(NOW))["a"].version, 2);
}

#[test]
fn a_device_without_a_clock_takes_documents_from_the_future_but_not_expired_ones() {
    let mut state = pinned();
    let wall = UnixTime(1_000);
    assert!(state.is_clock_behind(wall));
    assert_eq!(state.effective_time(wall), UnixTime(BUILD));
    let old = with(catalog(json!({})), |document| {
        document["created"] = json!(BUILD - 2 * DAY);
        document["expires"] = json!(BUILD - DAY);
    });
    assert_eq!(cause(state.accept(None, &seal(Kind::Catalog, &old, &["fleet"]), wall)), Some(Cause::Expired));
    state.accept(None, &seal(Kind::Catalog, &catalog(json!({})), &["fleet"]), wall).unwrap();
    // The catalog now stands in for the clock.
    assert_eq!(state.effective_time(wall), UnixTime(NOW - 600));
    assert!(!state.is_clock_behind(UnixTime(NOW)));
}
