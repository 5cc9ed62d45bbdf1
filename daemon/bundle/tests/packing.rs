//! From a description to an archive and back; and every way in which an archive can be wrong.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on shall fail")]

use std::{collections::BTreeMap, io::Cursor};

use agentd_bundle::{
    Change, Description, PrivateKey,
    archive::{Archive, ArchiveError, BundleDocument, blob_path, check_content, read_file, write_archive},
    diff_manifests, diff_tensors, pack,
};
use agentd_onnx::build::mlp;
use agentd_types::{Coded, Digest, chain};

type Files = BTreeMap<String, Vec<u8>>;

fn files(seed: u64) -> Files {
    [
        ("model.onnx", mlp(16, 600, 10, seed)),
        ("golden/0/x.npy", b"not looked at here".to_vec()),
        ("golden/0/y.npy", b"neither".to_vec()),
        ("LICENCE", b"MIT".to_vec()),
        ("card.md", b"# Digits".to_vec()),
        ("stray.txt", b"left out".to_vec()),
    ]
    .map(|(path, bytes)| (path.to_owned(), bytes))
    .into()
}

fn description() -> serde_json::Value {
    let tensor =
        |name, shape: [i64; 2]| serde_json::json!({"name": name, "datatype": "FP32", "shape": shape});
    serde_json::json!({
        "name": "demo/digits", "version": 1, "created": "2026-11-25", "expires": 1_900_000_000, "card": "card.md",
        "model": {"entry": "model.onnx", "inputs": [tensor("x", [-1, 16])], "outputs": [tensor("y", [-1, 10])]},
        "golden": [{"inputs": {"x": "golden/0/x.npy"}, "outputs": {"y": "golden/0/y.npy"}, "tol_ppm": 100}],
        "requires": {"mem_mib": 64, "any_of": ["cpu"]}, "licence": {"spdx": "MIT", "file": "LICENCE"},
    })
}

fn parse(description: serde_json::Value) -> Description {
    serde_json::from_value(description).unwrap()
}

fn archive_of(files: &Files) -> Vec<u8> {
    let packed = pack(&parse(description()), files).unwrap();
    let document = BundleDocument::unsigned(packed.payload().to_vec()).unwrap();
    write_archive(Vec::new(), &document, |digest| Ok(packed.blobs()[&digest])).unwrap()
}

#[test]
fn packing_twice_gives_the_same_bytes_and_only_what_is_described() {
    let files = files(1);
    let packed = pack(&parse(description()), &files).unwrap();
    let paths: Vec<_> = packed.manifest().files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["LICENCE", "card.md", "golden/0/x.npy", "golden/0/y.npy", "model.onnx"]);
    assert_eq!(packed.digest(), Digest::of(packed.payload()));
    assert_eq!(packed.manifest().created.to_string(), "2026-11-25 00:00:00Z");
    assert_eq!(archive_of(&files), archive_of(&files));
}

#[test]
fn a_description_that_breaks_a_rule_is_refused() {
    let with = |path: &[&str], value: serde_json::Value| {
        let mut description = description();
        let place = path.iter().fold(&mut description, |place, key| match key.parse::<usize>() {
            Ok(index) => &mut place[index],
            Err(_) => &mut place[*key],
        });
        *place = value;
        pack(&parse(description), &files(1)).map_err(|error| (error.code().to_string(), chain(&error))).err()
    };
    let json = |value: &str| serde_json::Value::from(value);
    for (path, value, want) in [
        (&["card"][..], json("gone.md"), "pack.missing"),
        (&["card"], json("../card.md"), "verify.path"),
        (&["card"], json("/etc/passwd"), "verify.path"),
        (&["model", "entry"], json("card.md"), "onnx.wire"),
        (&["model", "inputs", "0", "name"], json("z"), "onnx.interface"),
        (&["model", "outputs", "0", "datatype"], json("FP64"), "onnx.interface"),
        (&["golden"], serde_json::json!([]), "verify.golden"),
        (&["golden", "0", "inputs"], serde_json::json!({}), "verify.golden"),
        (&["version"], 0.into(), "verify.schema"),
        (&["extras"], serde_json::json!({"serve": {"rate": 0.5}}), "verify.number"),
    ] {
        let got = with(path, value.clone());
        assert_eq!(got.as_ref().map(|(code, _)| code.as_str()), Some(want), "{path:?} = {value}: {got:?}");
    }
}

#[test]
fn descriptions_know_their_fields() {
    let mut surplus = description();
    surplus["colour"] = "red".into();
    assert!(serde_json::from_value::<Description>(surplus).unwrap_err().to_string().contains("colour"));
    let mut date = description();
    date["created"] = "25 November".into();
    let error = serde_json::from_value::<Description>(date).unwrap_err().to_string();
    assert!(error.contains("is not a time"), "{error}");
}

#[test]
fn an_archive_gives_back_what_was_packed() {
    let files = files(1);
    let mut archive = Archive::open(Cursor::new(archive_of(&files))).unwrap();
    let manifest = archive.document().manifest().clone();
    assert!(!archive.document().is_signed());
    check_content(&manifest, |digest| archive.blob(digest)).unwrap();
    for file in &manifest.files {
        let bytes = read_file(&manifest, &file.path, |digest| archive.blob(digest)).unwrap();
        assert_eq!(bytes, files[&file.path], "{}", file.path);
    }
}

#[test]
fn signing_replaces_the_bare_manifest_and_keeps_the_digest() {
    let bytes = archive_of(&files(1));
    let mut archive = Archive::open(Cursor::new(bytes)).unwrap();
    let mut envelope = archive.document().envelope().clone();
    let digest = envelope.digest();
    envelope.sign(&PrivateKey::from_seed(&[7; 32])).unwrap();
    let signed = BundleDocument::new(envelope).unwrap();
    assert_eq!(signed.file_name(), "manifest.dsse.json");
    let blob = |digest| archive.blob(digest).map_err(std::io::Error::other);
    let bytes = write_archive(Vec::new(), &signed, blob).unwrap();
    let again = Archive::open(Cursor::new(bytes)).unwrap();
    assert_eq!(again.document(), &signed);
    assert_eq!(again.document().envelope().digest(), digest);
}

/// Opens `bytes` and reads every chunk; returns the code of the refusal.
fn refusal(bytes: Vec<u8>) -> String {
    let read = |bytes| {
        let mut archive = Archive::open(Cursor::new(bytes))?;
        let manifest = archive.document().manifest().clone();
        check_content(&manifest, |digest| archive.blob(digest))
    };
    read(bytes).map_or_else(|error: ArchiveError| error.code().to_string(), |()| "accepted".to_owned())
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let bytes = archive_of(&files(1));
    assert_eq!(refusal(bytes.clone()), "accepted");
    for position in (0..bytes.len()).step_by(97).chain(bytes.len() - 1536..bytes.len()) {
        let mut flipped = bytes.clone();
        flipped[position] ^= 0x20;
        assert_ne!(refusal(flipped), "accepted", "flipped at {position}");
        assert_ne!(refusal(bytes[..position].to_vec()), "accepted", "cut at {position}");
    }
    assert_eq!(refusal([bytes, vec![0; 512]].concat()), "archive.length");
}

/// A ustar entry as `tar` writes it, with what `change` does to its header.
fn entry(name: &str, bytes: &[u8], change: impl FnOnce(&mut tar::Header)) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    change(&mut header);
    header.set_cksum();
    let padding = vec![0; bytes.len().next_multiple_of(512) - bytes.len()];
    [header.as_bytes(), bytes, &padding].concat()
}

#[test]
fn entries_that_no_bundle_has_are_refused() {
    let good = archive_of(&files(1));
    let (name, bytes) = (blob_path(Digest::of(b"x")), b"x".as_slice());
    let plain = |name: &str| entry(name, bytes, |_| ());
    let upper = name.to_uppercase().replace("BLOBS/SHA256", "blobs/sha256");
    for (first, want) in [
        (plain("../../etc/passwd"), "archive.form"),
        (plain("/etc/passwd"), "archive.form"),
        (plain("blobs/sha256/../x"), "archive.form"),
        (plain("blobs/sha256/x"), "archive.entry"),
        (plain(&upper), "archive.entry"),
        (plain("readme"), "archive.entry"),
        (plain("manifest.json"), "archive.length"),
        (entry(&name, b"", |_| ()), "archive.size"),
        (entry(&name, &vec![0; (4 << 20) + 1], |_| ()), "archive.size"),
        (entry(&name, bytes, |header| header.set_entry_type(tar::EntryType::Symlink)), "archive.form"),
        (entry(&name, bytes, |header| header.set_entry_type(tar::EntryType::Directory)), "archive.form"),
        (entry(&name, bytes, |header| header.set_mode(0o755)), "archive.form"),
        (entry(&name, bytes, |header| header.set_uid(1000)), "archive.form"),
        (entry(&name, bytes, |header| header.set_mtime(1)), "archive.form"),
        (entry(&name, bytes, |header| header.set_size(u64::MAX >> 1)), "archive.length"),
        (entry(&name, bytes, |header| header.set_size(1 << 32)), "archive.length"),
        ([plain(&name), plain(&name)].concat(), "archive.order"),
        (plain(&blob_path(Digest::from_bytes([0xff; 32]))), "archive.order"),
        (plain(&blob_path(Digest::from_bytes([0; 32]))), "archive.surplus"),
        (vec![0; 1024], "archive.manifest"),
    ] {
        let shown = String::from_utf8_lossy(&first[..100]).into_owned();
        assert_eq!(refusal([first, good.clone()].concat()), want, "{shown}");
    }
    assert_eq!(refusal(Vec::new()), "archive.length");
}

#[test]
fn a_missing_chunk_is_refused() {
    let files = files(1);
    let packed = pack(&parse(description()), &files).unwrap();
    let document = BundleDocument::unsigned(packed.payload().to_vec()).unwrap();
    let whole = archive_of(&files);
    let (_, first) = packed.blobs().first_key_value().unwrap();
    let rest = whole[512 + first.len().next_multiple_of(512)..].to_vec();
    assert_eq!(refusal(rest), "archive.missing");
    let short = write_archive(Vec::new(), &document, |_| Ok(b""));
    assert_eq!(short.unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn a_diff_names_what_changed_and_what_it_costs() {
    let (old_files, mut new_files) = (files(1), files(2));
    new_files.insert("labels.txt".into(), b"0 1 2".to_vec());
    let mut newer = description();
    newer["version"] = 2.into();
    newer["files"] = serde_json::json!(["labels.txt"]);
    let (old, new) =
        (pack(&parse(description()), &old_files).unwrap(), pack(&parse(newer), &new_files).unwrap());
    let diff = diff_manifests(old.manifest(), new.manifest());
    let changes: Vec<_> = diff.files.iter().map(|file| (file.path.as_str(), file.change)).collect();
    assert_eq!(
        changes,
        [
            ("LICENCE", Change::Same),
            ("card.md", Change::Same),
            ("golden/0/x.npy", Change::Same),
            ("golden/0/y.npy", Change::Same),
            ("labels.txt", Change::Added),
            ("model.onnx", Change::Changed),
        ]
    );
    assert!(diff.fetch_bytes > 0 && diff.fetch_bytes <= diff.total_bytes);
    let back = diff_manifests(new.manifest(), old.manifest());
    assert!(back.files.iter().any(|file| file.path == "labels.txt" && file.change == Change::Removed));
    assert_eq!(diff_manifests(new.manifest(), new.manifest()).fetch_bytes, 0);
    let tensors = diff_tensors(&old_files["model.onnx"], &new_files["model.onnx"]).unwrap();
    assert_eq!(tensors.changed, ["b1", "b2", "w1", "w2"]);
    assert_eq!((tensors.total, tensors.added.len(), tensors.removed.len()), (4, 0, 0));
}
