//! Models that a device makes.

use agentd_bundle::{Cause, FleetState, VerifiedBundle};
use agentd_types::{Digest, UnixTime};
use agentd_wire::Kind;
use serde_json::{Value, json};

use crate::{
    Row, check,
    fleet::{DAY, NOW, cause, derived, digest, id, installed, lookup, seal, take, trust, with},
};

fn prove(
    state: &FleetState,
    held: &[VerifiedBundle],
    document: &Value,
    signer: &str,
) -> Result<VerifiedBundle, agentd_bundle::Reject> {
    state.prove_derived(&seal(Kind::Derived, document, &[signer]), UnixTime(NOW), lookup(held))
}

pub(crate) fn rows() -> Vec<Row> {
    let (state, base) = installed();
    let root = base.digest();
    let first = derived(&root, &root, 1, 1);
    type Edit = fn(&mut Value);
    let edits: Vec<(&'static str, Cause, Edit)> = vec![
        ("made elsewhere", Cause::Target, |d| d["lineage"]["device"] = json!("dev-2")),
        ("no lineage", Cause::Lineage, |d| d["lineage"] = json!(null)),
        ("a lineage with a field more", Cause::Lineage, |d| d["lineage"]["x"] = json!(1)),
        ("a lineage with a field less", Cause::Lineage, |d| {
            crate::fleet::remove(&mut d["lineage"], "method")
        }),
        ("depth 0", Cause::Lineage, |d| d["lineage"]["depth"] = json!(0)),
        ("depth 2 from a release", Cause::Lineage, |d| d["lineage"]["depth"] = json!(2)),
        ("depth 9", Cause::Lineage, |d| d["lineage"]["depth"] = json!(9)),
        ("a parent that is not here", Cause::Lineage, |d| d["lineage"]["parent"] = json!(digest("x"))),
        ("a base that is not here", Cause::Lineage, |d| d["lineage"]["base"] = json!(digest("x"))),
        ("a version that upstream did not give", Cause::Lineage, |d| d["version"] = json!(99)),
        ("another name", Cause::Lineage, |d| d["name"] = json!("vision/other@local")),
        ("the name of the release", Cause::Lineage, |d| d["name"] = json!("vision/defect")),
        ("a malformed name", Cause::Name, |d| d["name"] = json!("vision/defect@local@local")),
        ("another input", Cause::Widened, |d| d["model"]["inputs"][0]["shape"] = json!([-1, 4])),
        ("another output", Cause::Widened, |d| d["model"]["outputs"][0]["datatype"] = json!("FP16")),
        ("more memory", Cause::Widened, |d| d["requires"]["mem_mib"] = json!(65)),
        ("more engines", Cause::Widened, |d| d["requires"]["any_of"] = json!(["cpu", "gpu", "ort"])),
        ("a wider tolerance", Cause::Widened, |d| d["golden"][0]["tol_ppm"] = json!(101)),
        ("other golden bytes", Cause::Widened, |d| d["files"][2]["sha256"] = json!(digest("x"))),
        ("another licence", Cause::Widened, |d| d["licence"]["spdx"] = json!("MIT")),
        ("another licence text", Cause::Widened, |d| d["files"][3]["sha256"] = json!(digest("x"))),
        ("a longer life", Cause::Widened, |d| d["expires"] = json!(NOW + 180 * DAY + 1)),
        ("expired", Cause::Expired, |d| d["expires"] = json!(NOW - 1)),
        ("made tomorrow", Cause::Future, |d| d["created"] = json!(NOW + DAY)),
        ("another type", Cause::Type, |d| d["type"] = json!("bundle")),
    ];
    let mut rows: Vec<Row> = edits
        .into_iter()
        .map(|(what, expected, edit)| {
            let refused = prove(&state, std::slice::from_ref(&base), &with(first.clone(), edit), "device");
            (what, expected, cause(refused))
        })
        .collect();
    rows.push((
        "signed by a release key",
        Cause::Threshold,
        cause(prove(&state, std::slice::from_ref(&base), &first, "release-1")),
    ));
    for (what, expected, field, value) in [
        ("its base is revoked", Cause::Revoked, "revoked_bundles", root.to_string()),
        ("the device's key is revoked", Cause::Threshold, "revoked_keys", id("device")),
    ] {
        let mut state = state.clone();
        let next = with(trust(), |document| {
            document["version"] = json!(2);
            document[field] = json!([value]);
        });
        take(&mut state, Kind::Trust, &next);
        rows.push((what, expected, cause(prove(&state, std::slice::from_ref(&base), &first, "device"))));
    }
    let mut learned = state.clone();
    let model = prove(&state, std::slice::from_ref(&base), &first, "device").unwrap();
    learned.record_installed(&model);
    let held = [base.clone(), model.clone()];
    let again = derived(&root, &root, 1, 1);
    let wrong_base = derived(&model.digest(), &model.digest(), 2, 2);
    rows.push(("the same number", Cause::Replay, cause(prove(&learned, &held, &again, "device"))));
    rows.push((
        "a base that is no release",
        Cause::Lineage,
        cause(prove(&learned, &held, &wrong_base, "device")),
    ));
    rows
}

#[test]
fn derived_models_that_do_not_follow_are_refused() {
    check(rows());
}

#[test]
fn eight_generations_follow_each_other_and_no_ninth() {
    let (mut state, base) = installed();
    let mut held = vec![base.clone()];
    let mut parent: Digest = base.digest();
    for depth in 1..=8 {
        assert_eq!(state.next_derived_seq(&"vision/defect".parse().unwrap()), depth);
        let model = prove(&state, &held, &derived(&parent, &base.digest(), depth, depth), "device").unwrap();
        state.record_installed(&model);
        parent = model.digest();
        held.push(model);
    }
    let ninth = prove(&state, &held, &derived(&parent, &base.digest(), 9, 9), "device");
    assert_eq!(cause(ninth), Some(Cause::Lineage));
}
