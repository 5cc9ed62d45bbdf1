//! The durable form of the state and what happens when it is lost.

use agentd_bundle::{Cause, FleetState, StateError};
use agentd_types::{Coded as _, UnixTime};
use agentd_wire::Kind;
use serde_json::json;

use crate::{
    Row, check,
    fleet::{
        NOW, catalog, cause, desired, identity, installed, manifest, membership, prove, seal, take, trust,
        wished, with,
    },
};

fn recovering() -> FleetState {
    FleetState::recovering(identity(), &seal(Kind::Trust, &trust(), &["root-1", "root-2"])).unwrap()
}

pub(crate) fn rows() -> Vec<Row> {
    let mut state = recovering();
    let sealed = seal(Kind::Catalog, &catalog(json!({})), &["fleet"]);
    vec![
        ("a catalog after a loss", Cause::StateLost, cause(state.accept(None, &sealed, UnixTime(NOW)))),
        ("a bundle after a loss", Cause::StateLost, cause(prove(&state, &manifest()))),
    ]
}

#[test]
fn after_a_loss_only_trust_is_taken() {
    check(rows());
}

#[test]
fn a_trust_document_that_is_not_older_ends_a_loss() {
    for version in [1, 2] {
        let mut state = recovering();
        assert!(state.is_recovering());
        assert!(FleetState::from_bytes(identity(), &state.to_bytes()).unwrap().is_recovering());
        take(&mut state, Kind::Trust, &with(trust(), |document| document["version"] = json!(version)));
        assert!(!state.is_recovering());
        take(&mut state, Kind::Catalog, &catalog(json!({})));
    }
}

#[test]
fn the_state_survives_a_restart_with_every_counter() {
    let (mut state, _) = installed();
    take(&mut state, Kind::Membership, &membership());
    let again = FleetState::from_bytes(identity(), &state.to_bytes()).unwrap();
    assert_eq!(again.to_bytes(), state.to_bytes());
    assert_eq!(again.wishes(UnixTime(NOW)), state.wishes(UnixTime(NOW)));
    assert_eq!(again.effective_time(UnixTime(0)), UnixTime(NOW - 600));
    assert_eq!(again.highest_version(&"vision/defect".parse().unwrap()), Some(5));
    let mut again = again;
    let replayed = seal(Kind::Desired, &desired(json!({"vision/defect": wished(&manifest())})), &["fleet"]);
    assert!(again.holds(&replayed));
    assert_eq!(cause(again.accept(None, &replayed, UnixTime(NOW))), Some(Cause::Replay));
}

#[test]
fn a_refused_document_changes_nothing() {
    let (state, _) = installed();
    for document in [
        with(catalog(json!({})), |document| document["version"] = json!(9)),
        with(catalog(json!({})), |document| document["trust_version"] = json!(7)),
    ] {
        let mut after = state.clone();
        after.accept(None, &seal(Kind::Catalog, &document, &["fleet"]), UnixTime(NOW)).unwrap_err();
        assert_eq!(after.to_bytes(), state.to_bytes());
    }
}

#[test]
fn a_state_that_is_damaged_or_foreign_is_refused() {
    let (state, _) = installed();
    let bytes = state.to_bytes();
    let code = |result: Result<FleetState, StateError>| result.unwrap_err().code().to_string();
    let foreign = agentd_bundle::Identity { device: "dev-2".parse().unwrap(), ..identity() };
    assert_eq!(code(FleetState::from_bytes(foreign, &bytes)), "state.foreign");
    assert_eq!(code(FleetState::from_bytes(identity(), &bytes[1..])), "state.malformed");
    let text = String::from_utf8(bytes).unwrap();
    let newer = text.replacen("\"format\":1", "\"format\":2", 1);
    assert_eq!(code(FleetState::from_bytes(identity(), newer.as_bytes())), "state.format");
    let broken = text.replacen("\\\"spec\\\":1", "\\\"spec\\\":2", 1);
    assert_eq!(code(FleetState::from_bytes(identity(), broken.as_bytes())), "state.document");
}
