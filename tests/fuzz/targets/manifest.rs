//! Manifests: what is taken keeps every promise that later steps rely on, and serialises to the same bytes.

#![no_main]

use agentd_bundle::{
    Envelope, MAX_CHUNK, MAX_CHUNKS, MAX_FILES, MAX_TOTAL_SIZE, check_chunk, check_manifest, check_path, read_manifest,
};
use libfuzzer_sys::fuzz_target;

fn read(payload: &[u8]) {
    let Ok(manifest) = read_manifest(payload) else { return };
    assert_eq!(check_manifest(&manifest).unwrap(), payload);
    assert!(manifest.files.len() <= MAX_FILES && manifest.total_size() <= MAX_TOTAL_SIZE);
    assert!(manifest.chunks().count() <= MAX_CHUNKS);
    for file in &manifest.files {
        check_path(&file.path).unwrap();
        assert_eq!(file.chunks.iter().map(|chunk| chunk.0).sum::<u64>(), file.size);
        assert!(file.chunks.iter().all(|chunk| (1..=MAX_CHUNK).contains(&chunk.0)));
        assert!(check_chunk(&manifest, &file.path, file.chunks.len(), b"").is_err());
    }
    assert!(manifest.files.is_sorted_by(|left, right| left.path < right.path));
    assert!(manifest.file(&manifest.model.entry).is_some());
    for golden in &manifest.golden {
        assert_eq!(golden.inputs.len(), manifest.model.inputs.len());
        assert!(!golden.outputs.is_empty());
        assert!(golden.inputs.values().chain(golden.outputs.values()).all(|path| manifest.file(path).is_some()));
    }
}

fuzz_target!(|data: &[u8]| {
    read(data);
    if let Ok(envelope) = Envelope::read(data) {
        read(envelope.payload());
    }
});
