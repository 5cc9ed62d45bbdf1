//! Small bundles with everything that a manifest needs.

use std::{collections::BTreeMap, sync::Arc};

use agentd_bundle::{Envelope, PrivateKey, check_manifest};
use agentd_types::{Datatype, Digest, TensorSpec, UnixTime};
use agentd_wire::{Chunk, FileEntry, Golden, Kind, Licence, Manifest, ModelSection, Requires, SPEC};

/// A bundle and what it is made of.
pub(super) struct TestBundle {
    pub(super) manifest: Arc<Manifest>,
    pub(super) digest: Digest,
    pub(super) envelope: Vec<u8>,
    pub(super) chunks: BTreeMap<Digest, Vec<u8>>,
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// `len` bytes that differ by `seed`.
pub(super) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect()
}

/// Version `version` of `demo/digits`: its model's first chunk is in every version.
pub(super) fn bundle(version: u64) -> TestBundle {
    let shared = bytes(1, 900);
    let contents: [(&str, Vec<Vec<u8>>); 5] = [
        ("LICENSE", vec![b"CC0-1.0".to_vec()]),
        ("card.md", vec![format!("# Digits {version}").into_bytes()]),
        ("golden/in.npy", vec![bytes(2, 200)]),
        ("golden/out.npy", vec![bytes(3, 100)]),
        ("model.onnx", vec![shared, bytes(1_000 + version, 700), bytes(2_000 + version, 300)]),
    ];
    let mut chunks = BTreeMap::new();
    let mut files = BTreeMap::new();
    let entries = contents
        .into_iter()
        .map(|(path, parts)| {
            let whole = parts.concat();
            let list = parts.iter().map(|part| Chunk(part.len() as u64, Digest::of(part))).collect();
            chunks.extend(parts.iter().map(|part| (Digest::of(part), part.clone())));
            let entry = FileEntry {
                path: path.to_owned(),
                size: whole.len() as u64,
                sha256: Digest::of(&whole),
                chunks: list,
            };
            files.insert(path.to_owned(), whole);
            entry
        })
        .collect();
    let tensor = |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: vec![1, 4] };
    let path = |name: &str, path: &str| BTreeMap::from([(name.to_owned(), path.to_owned())]);
    let manifest = Manifest {
        r#type: Kind::Bundle,
        spec: SPEC,
        fleet: "*".into(),
        name: "demo/digits".parse().unwrap(),
        version,
        created: UnixTime(1_795_000_000),
        expires: UnixTime(1_895_000_000),
        files: entries,
        model: ModelSection {
            format: "onnx".into(),
            entry: "model.onnx".into(),
            inputs: vec![tensor("x")],
            outputs: vec![tensor("y")],
        },
        golden: vec![Golden {
            inputs: path("x", "golden/in.npy"),
            outputs: path("y", "golden/out.npy"),
            tol_ppm: 1_000,
        }],
        requires: Requires { mem_mib: 16, any_of: vec![agentd_types::EngineKind::Cpu] },
        licence: Licence { spdx: "CC0-1.0".into(), file: "LICENSE".into() },
        card: "card.md".into(),
        lineage: None,
        extras: serde_json::Map::new(),
    };
    let payload = check_manifest(&manifest).unwrap();
    let mut envelope = Envelope::unsigned(Kind::Bundle, payload);
    envelope.sign(&PrivateKey::from_seed(&[7; 32])).unwrap();
    let digest = envelope.digest();
    TestBundle { manifest: Arc::new(manifest), digest, envelope: envelope.to_bytes(), chunks, files }
}
