//! Properties: one spelling for every value, no byte of a signed document can change, nothing from outside panics.

#![expect(clippy::unwrap_used, reason = "helpers of tests stop a test as tests do")]

use std::collections::BTreeMap;

use agentd_bundle::{
    Envelope, FleetState, Identity, PrivateKey, PublicKey, author,
    json::{self, Value},
    read_manifest,
    replay::Case,
};
use agentd_types::{Digest, UnixTime};
use agentd_wire::{Catalog, Kind, SPEC};
use proptest::prelude::*;

const NOW: UnixTime = UnixTime(1_800_000_000);

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

fn identity() -> Identity {
    Identity {
        device: "dev-1".parse().unwrap(),
        fleet: "plant".parse().unwrap(),
        device_key: key(9).public().to_bytes(),
        build: UnixTime(0),
    }
}

fn device() -> FleetState {
    let plan = author::TrustPlan {
        fleet: "plant".parse().unwrap(),
        created: UnixTime(0),
        expires: NOW.plus(1_000_000),
        root: author::RolePlan { keys: vec![key(1).public(), key(2).public()], threshold: 2 },
        fleet_role: author::RolePlan { keys: vec![key(3).public()], threshold: 1 },
        releases: Vec::new(),
    };
    let mut envelope = author::draft_trust(&plan.document()).unwrap();
    envelope.sign(&key(1)).unwrap();
    envelope.sign(&key(2)).unwrap();
    FleetState::pinned(identity(), &envelope.to_bytes()).unwrap()
}

fn catalog() -> Vec<u8> {
    let catalog = Catalog {
        r#type: Kind::Catalog,
        spec: SPEC,
        fleet: "plant".parse().unwrap(),
        version: 1,
        created: NOW,
        expires: NOW.plus(86_400),
        trust_version: 1,
        models: BTreeMap::new(),
    };
    let mut envelope = author::draft_catalog(&catalog).unwrap();
    envelope.sign(&key(3)).unwrap();
    envelope.to_bytes()
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-json::MAX_INT..=json::MAX_INT).prop_map(Value::Int),
        any::<String>().prop_map(Value::Text),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::List),
            prop::collection::btree_map(any::<String>(), inner, 0..8).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn a_canonical_text_reads_back_to_its_value(value in values()) {
        let text = value.canonical();
        prop_assert_eq!(Value::read_canonical(text.as_bytes()).unwrap(), value.clone());
        let serde: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(Value::try_from(serde).unwrap(), value);
    }

    #[test]
    fn a_text_that_two_readers_take_means_the_same_to_both(text in r#"[\[\]{}",:0-9.eE\\u a-]{0,24}"#) {
        if let Ok(value) = Value::read(text.as_bytes()) {
            let serde: serde_json::Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(Value::try_from(serde).unwrap(), value);
        }
    }

    #[test]
    fn any_bytes_are_taken_or_refused_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut device = device();
        prop_assert!(device.accept(None, &bytes, NOW).is_err());
        prop_assert!(read_manifest(&bytes).is_err());
        prop_assert!(FleetState::from_bytes(identity(), &bytes).is_err());
        prop_assert!(Case::read(&bytes).is_err());
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(PrivateKey::from_pem(&text, Some("x")).is_err());
    }

    #[test]
    fn any_text_inside_key_armour_is_refused_but_never_panics(body in "[A-Za-z0-9+/=\n]{0,200}") {
        for label in ["PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
            let pem = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
            prop_assert!(PrivateKey::from_pem(&pem, Some("x")).is_err());
        }
    }

    #[test]
    fn a_signature_holds_for_its_message_only(seed in any::<[u8; 32]>(), message in any::<Vec<u8>>(), at in any::<prop::sample::Index>()) {
        let key = PrivateKey::from_seed(&seed);
        let signature = key.sign(&message);
        prop_assert!(key.public().verifies(&message, &signature));
        prop_assert_eq!(PublicKey::from_hex(&key.public().to_hex()).unwrap(), key.public());
        let mut bent = signature;
        bent[at.index(64)] ^= 1;
        prop_assert!(!key.public().verifies(&message, &bent));
        prop_assert!(!key.public().verifies(&message, &signature[..63]));
    }

    #[test]
    fn another_byte_anywhere_in_a_signed_envelope_is_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = catalog();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        prop_assert!(device().accept(Some(Kind::Catalog), &bytes, NOW).is_err());
    }
}

#[test]
fn every_single_bit_of_a_signed_envelope_counts() {
    let (good, device) = (catalog(), device());
    device.clone().accept(None, &good, NOW).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        let refused = device.clone().accept(Some(Kind::Catalog), &bytes, NOW);
        assert!(refused.is_err(), "byte {at} may be {:?}", char::from(bytes[at]));
    }
}

#[test]
fn the_key_id_is_that_of_securesystemslib() {
    // The device key of the shared cases and its id as computed there.
    let key =
        PublicKey::from_hex("bc092d4922d781bfd76514ad07cb59c717fb993420ca427e59c84fd0efd5a589").unwrap();
    assert_eq!(key.id().to_string(), "0df80999d0b1db09d158d754f3b32863018c9fe4d927bb4c999c949b7d90a5cb");
}

#[test]
fn the_envelope_of_a_draft_reads_back() {
    let bytes = catalog();
    let envelope = Envelope::read(&bytes).unwrap();
    assert_eq!(envelope.to_bytes(), bytes);
    assert_eq!(envelope.digest(), Digest::of(envelope.payload()));
}
