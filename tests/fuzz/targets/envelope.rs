//! Envelopes and the documents in them, against a device.
//!
//! The bytes are taken twice: as an envelope from anybody, and as a payload that the right keys signed. Both are accepted
//! or refused; a refusal changes nothing, and what was read has one spelling.

#![no_main]

use std::sync::LazyLock;

use agentd_bundle::{
    Envelope, FleetState, Identity, PrivateKey,
    author::{RolePlan, TrustPlan, draft_trust},
    json::Value,
};
use agentd_types::UnixTime;
use agentd_wire::Kind;
use libfuzzer_sys::fuzz_target;

const NOW: UnixTime = UnixTime(1_815_704_563);

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

static DEVICE: LazyLock<FleetState> = LazyLock::new(|| {
    let role = |seed: u8| RolePlan { keys: vec![key(seed).public()], threshold: 1 };
    let plan = TrustPlan {
        fleet: "plant-efa".parse().unwrap(),
        created: UnixTime(0),
        expires: NOW.plus(1_000_000_000),
        root: role(1),
        fleet_role: role(2),
        releases: vec![(vec!["*".into()], role(3))],
    };
    let mut envelope = draft_trust(&plan.document()).unwrap();
    envelope.sign(&key(1)).unwrap();
    let identity = Identity {
        device: "dev-1f37".parse().unwrap(),
        fleet: plan.fleet,
        device_key: key(4).public().to_bytes(),
        build: UnixTime(0),
    };
    FleetState::pinned(identity, &envelope.to_bytes()).unwrap()
});

fn offer(bytes: &[u8]) {
    let mut device = DEVICE.clone();
    match device.accept(None, bytes, NOW) {
        Ok(_) => {
            let kept = FleetState::from_bytes(device.identity().clone(), &device.to_bytes()).unwrap();
            assert_eq!(kept.to_bytes(), device.to_bytes());
            assert!(kept.holds(bytes));
        }
        Err(_) => assert_eq!(device.to_bytes(), DEVICE.to_bytes()),
    }
    assert!(DEVICE.prove_bundle(bytes, NOW).is_err(), "nobody asked for a bundle");
    let _ = DEVICE.prove_derived(bytes, NOW, |_| None).unwrap_err();
}

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = Value::read(data) {
        assert_eq!(Value::read_canonical(value.canonical().as_bytes()).unwrap(), value);
        // Whoever reads with another library reads the same.
        let other: serde_json::Value = serde_json::from_slice(data).unwrap();
        assert_eq!(Value::try_from(other).unwrap(), value);
    }
    if let Ok(envelope) = Envelope::read(data) {
        assert_eq!(Envelope::read(&envelope.to_bytes()).unwrap(), envelope);
    }
    offer(data);
    let Some((first, payload)) = data.split_first() else { return };
    let (kind, signer) = match first % 6 {
        0 => (Kind::Trust, 1),
        1 => (Kind::Catalog, 2),
        2 => (Kind::Membership, 2),
        3 => (Kind::Desired, 2),
        4 => (Kind::Bundle, 3),
        _ => (Kind::Derived, 4),
    };
    let mut envelope = Envelope::unsigned(kind, payload.to_vec());
    envelope.sign(&key(signer)).unwrap();
    offer(&envelope.to_bytes());
});
