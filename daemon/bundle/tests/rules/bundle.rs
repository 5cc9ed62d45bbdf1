//! Bundles: what the device knows, and what stands in the manifest.

use agentd_bundle::{Cause, FleetState, read_manifest};
use agentd_types::UnixTime;
use agentd_wire::Kind;
use serde_json::{Value, json};

use crate::{
    Row, check,
    fleet::{
        DAY, NOW, asked_for, catalog, cause, desired, digest, id, installed, key, listed, manifest, payload,
        pinned, prove, remove, seal, take, trust, wished, with,
    },
};

fn trust_2(state: &mut FleetState, edit: impl FnOnce(&mut Value)) {
    let next = with(trust(), |document| {
        document["version"] = json!(2);
        edit(document);
    });
    take(state, Kind::Trust, &next);
}

pub(crate) fn rows() -> Vec<Row> {
    let good = manifest();
    let asked = || asked_for(&good);
    let with_trust = |edit: fn(&mut Value)| {
        let mut state = asked();
        trust_2(&mut state, edit);
        cause(prove(&state, &good))
    };
    let with_catalog = |models: Value| {
        let mut state = pinned();
        take(&mut state, Kind::Catalog, &catalog(models));
        take(&mut state, Kind::Desired, &desired(json!({"vision/defect": wished(&good)})));
        cause(prove(&state, &good))
    };
    let wished_as = |name: &str, entry: Value, signer: &str| {
        let mut state = pinned();
        take(&mut state, Kind::Catalog, &catalog(json!({name: listed(&good)})));
        take(&mut state, Kind::Desired, &desired(json!({name: entry})));
        cause(state.prove_bundle(&seal(Kind::Bundle, &good, &[signer]), UnixTime(NOW)))
    };
    let frozen = {
        let mut state = asked();
        let long = with(desired(json!({"vision/defect": wished(&good)})), |document| {
            document["seq"] = json!(2);
            document["expires"] = json!(NOW + 30 * DAY);
        });
        take(&mut state, Kind::Desired, &long);
        cause(state.prove_bundle(&seal(Kind::Bundle, &good, &["release-1"]), UnixTime(NOW + 8 * DAY)))
    };
    let no_catalog = {
        let mut state = pinned();
        take(&mut state, Kind::Desired, &desired(json!({"vision/defect": wished(&good)})));
        cause(prove(&state, &good))
    };
    let old = with(good.clone(), |document| document["expires"] = json!(NOW - 1));
    let early = with(good.clone(), |document| document["created"] = json!(NOW + DAY));
    let older = with(good.clone(), |document| document["version"] = json!(4));
    let rollback = {
        let (mut state, _) = installed();
        let wish =
            with(desired(json!({"vision/defect": wished(&older)})), |document| document["seq"] = json!(2));
        take(&mut state, Kind::Desired, &wish);
        cause(prove(&state, &older))
    };
    vec![
        ("nobody asks for it", Cause::NotDesired, cause(prove(&pinned(), &good))),
        (
            "asked for under another name",
            Cause::NotDesired,
            wished_as("vision/other", wished(&good), "release-1"),
        ),
        (
            "asked for as another version",
            Cause::NotDesired,
            wished_as("vision/defect", with(wished(&good), |entry| entry["version"] = json!(6)), "release-1"),
        ),
        ("a name that no role covers", Cause::Delegation, wished_as("other", wished(&good), "release-1")),
        (
            "signed by another release role",
            Cause::Threshold,
            wished_as("vision/defect", wished(&good), "lab"),
        ),
        ("signed by the fleet", Cause::Threshold, wished_as("vision/defect", wished(&good), "fleet")),
        ("one of two release keys", Cause::Threshold, wished_as("safety/estop", wished(&good), "release-1")),
        (
            "the release key is revoked",
            Cause::Threshold,
            with_trust(|document| document["revoked_keys"] = json!([id("release-1")])),
        ),
        (
            "the bundle is revoked",
            Cause::Revoked,
            with_trust(|document| document["revoked_bundles"] = json!([listed(&manifest())["sha256"]])),
        ),
        (
            "below the minimum",
            Cause::MinVersion,
            with_trust(|document| document["min_versions"] = json!({"vision/defect": 6})),
        ),
        ("no catalog", Cause::NoCatalog, no_catalog),
        ("an old catalog", Cause::Frozen, frozen),
        ("not in the catalog", Cause::Catalog, with_catalog(json!({}))),
        (
            "newer than the catalog",
            Cause::Catalog,
            with_catalog(json!({"vision/defect": {"version": 4, "sha256": digest("four")}})),
        ),
        (
            "another digest in the catalog",
            Cause::Catalog,
            with_catalog(json!({"vision/defect": {"version": 5, "sha256": digest("five")}})),
        ),
        ("expired", Cause::Expired, cause(prove(&asked_for(&old), &old))),
        ("made tomorrow", Cause::Future, cause(prove(&asked_for(&early), &early))),
        ("older than what was installed", Cause::Rollback, rollback),
    ]
}

#[test]
fn bundles_that_nobody_ordered_or_allowed_are_refused() {
    check(rows());
}

fn set(pointer: &'static str, value: Value) -> impl Fn(&mut Value) {
    move |document| *document.pointer_mut(pointer).unwrap() = value.clone()
}

fn add_file(path: &str) -> impl Fn(&mut Value) + use<> {
    let path = path.to_owned();
    move |document| {
        let entry = json!({"path": path, "size": 1, "sha256": digest("x"), "chunks": [[1, digest("x")]]});
        let files = document["files"].as_array_mut().unwrap();
        files.push(entry);
        files.sort_by(|left, right| left["path"].as_str().cmp(&right["path"].as_str()));
    }
}

pub(crate) fn manifest_rows() -> Vec<Row> {
    type Edit = Box<dyn Fn(&mut Value)>;
    let edit = |what: &'static str, cause: Cause, edit: Edit| (what, cause, edit);
    let at = |what, cause, pointer, value| edit(what, cause, Box::new(set(pointer, value)));
    let path = |what, bad: &str| edit(what, Cause::Path, Box::new(add_file(bad)));
    let many = |count: usize| {
        Value::from_iter(
            (0..count)
                .map(|n| json!({"path": format!("{n:06}"), "size": 0, "sha256": digest(""), "chunks": []})),
        )
    };
    let chunks = |count: usize| Value::from_iter((0..count).map(|_| json!([1, digest("x")])));
    let long = "a".repeat(256);
    let rows: Vec<(&'static str, Cause, Edit)> = vec![
        at("a fleet that is not ours", Cause::Fleet, "/fleet", json!("other")),
        at("an empty name", Cause::Name, "/name", json!("")),
        at("an upper-case name", Cause::Name, "/name", json!("Vision/defect")),
        at("five segments", Cause::Name, "/name", json!("a/b/c/d/e")),
        at("a local name", Cause::Name, "/name", json!("vision/defect@local")),
        at("a name that is a number", Cause::Name, "/name", json!(1)),
        at("a name with an empty segment", Cause::Name, "/name", json!("vision//defect")),
        at("version 0", Cause::Schema, "/version", json!(0)),
        at("a lineage in a release", Cause::Lineage, "/lineage", json!({})),
        at("extras that are a list", Cause::Schema, "/extras", json!([])),
        at("an unknown engine", Cause::Schema, "/requires/any_of", json!(["abacus"])),
        at("memory below 0", Cause::Schema, "/requires/mem_mib", json!(-1)),
        at("no licence file", Cause::Schema, "/licence", json!({"spdx": "MIT"})),
        at("files that are an object", Cause::Files, "/files", json!({})),
        at("a file that is a string", Cause::Files, "/files/0", json!("card.md")),
        at("a size below 0", Cause::Files, "/files/0/size", json!(-1)),
        at("an upper-case digest", Cause::Files, "/files/0/sha256", json!(digest("a card").to_uppercase())),
        at("4,097 files", Cause::Files, "/files", many(4_097)),
        edit("a field more", Cause::Files, Box::new(|document| document["files"][0]["mode"] = json!(493))),
        edit("a field less", Cause::Files, Box::new(|document| remove(&mut document["files"][0], "chunks"))),
        edit(
            "files of more than 1 TiB",
            Cause::Files,
            Box::new(|document| document["files"][0]["size"] = json!((1_u64 << 40) + 1)),
        ),
        edit(
            "files out of order",
            Cause::Canonical,
            Box::new(|document| document["files"].as_array_mut().unwrap().reverse()),
        ),
        at("a size that lies", Cause::Chunks, "/files/0/size", json!(7)),
        at("chunks that are a string", Cause::Chunks, "/files/0/chunks", json!("x")),
        at("a chunk without a digest", Cause::Chunks, "/files/0/chunks/0", json!([6])),
        at("a chunk of 0 bytes", Cause::Chunks, "/files/0/chunks/0/0", json!(0)),
        at("a chunk of more than 4 MiB", Cause::Chunks, "/files/0/chunks/0/0", json!((4 << 20) + 1)),
        at(
            "a chunk with an upper-case digest",
            Cause::Chunks,
            "/files/0/chunks/0/1",
            json!(digest("x").to_uppercase()),
        ),
        edit(
            "65,537 chunks",
            Cause::Chunks,
            Box::new(move |document| {
                document["files"][0]["chunks"] = chunks(65_537);
                document["files"][0]["size"] = json!(65_537);
            }),
        ),
        path("an absolute path", "/etc/passwd"),
        path("an empty path", ""),
        path("a parent", "a/../b"),
        path("a dot", "./a"),
        path("a dot-led name", ".ssh/keys"),
        path("an empty segment", "a//b"),
        path("a folder", "a/"),
        path("a backslash", "a\\b"),
        path("a new line", "a\nb"),
        path("a NUL", "a\0b"),
        path("DEL", "a\u{7f}"),
        path("beyond ASCII", "modèle"),
        path("a device of Windows", "aux"),
        path("a device with an extension", "golden/NUL.npy"),
        path("a numbered device", "Com1.txt"),
        path("a printer", "lpt9"),
        path("256 bytes", &long),
        path("the same path twice", "card.md"),
        path("the same path in capitals", "CARD.MD"),
        path("a file used as a folder", "card.md/x"),
        path("a file used as a folder in capitals", "MODEL.onnx/x/y"),
        at("another format", Cause::Model, "/model/format", json!("pickle")),
        at("an entry that is no file", Cause::Model, "/model/entry", json!("other.onnx")),
        at("a model that is a list", Cause::Model, "/model", json!([])),
        at("an unknown datatype", Cause::Model, "/model/inputs/0/datatype", json!("FP8")),
        at("a dimension below -1", Cause::Model, "/model/inputs/0/shape", json!([-2])),
        at("a dimension that is a name", Cause::Model, "/model/inputs/0/shape", json!(["n"])),
        at(
            "a shape of 2^32 + 1 elements",
            Cause::Model,
            "/model/inputs/0/shape",
            json!([-1, (1_u64 << 32) + 1]),
        ),
        at(
            "a shape that overflows",
            Cause::Model,
            "/model/inputs/0/shape",
            json!([1_u64 << 33, 1_u64 << 33, 1_u64 << 33]),
        ),
        edit(
            "two tensors of one name",
            Cause::Model,
            Box::new(|document| {
                let tensor = document["model"]["inputs"][0].clone();
                document["model"]["inputs"].as_array_mut().unwrap().push(tensor);
            }),
        ),
        edit(
            "a model with a field more",
            Cause::Model,
            Box::new(|document| document["model"]["x"] = json!(1)),
        ),
        at("no golden vectors", Cause::Golden, "/golden", json!([])),
        at("golden vectors that are an object", Cause::Golden, "/golden", json!({})),
        at("a missing input", Cause::Golden, "/golden/0/inputs", json!({})),
        at("an unknown output", Cause::Golden, "/golden/0/outputs", json!({"z": "golden/out.npy"})),
        at("no outputs", Cause::Golden, "/golden/0/outputs", json!({})),
        at("a path outside", Cause::Golden, "/golden/0/inputs/x", json!("/dev/zero")),
        at("a file that is no array", Cause::Golden, "/golden/0/inputs/x", json!("card.md")),
        at("a tolerance below 0", Cause::Golden, "/golden/0/tol_ppm", json!(-1)),
        edit(
            "a field more in a vector",
            Cause::Golden,
            Box::new(|document| document["golden"][0]["x"] = json!(1)),
        ),
    ];
    rows.into_iter()
        .map(|(what, expected, edit)| {
            let document = with(manifest(), edit);
            // The wish always names `vision/defect`, whatever the manifest says.
            let mut state = pinned();
            take(
                &mut state,
                Kind::Catalog,
                &catalog(json!({"vision/defect": {"version": 5, "sha256": listed(&document)["sha256"]}})),
            );
            let wish =
                with(wished(&manifest()), |entry| entry["sha256"] = listed(&document)["sha256"].clone());
            take(&mut state, Kind::Desired, &desired(json!({"vision/defect": wish})));
            (what, expected, cause(prove(&state, &document)))
        })
        .collect()
}

#[test]
fn broken_manifests_are_refused() {
    check(manifest_rows());
}

#[test]
fn good_bundles_pass() {
    let check = |what: &str, edit: fn(&mut Value)| {
        let document = with(manifest(), edit);
        let proved = prove(&asked_for(&document), &document);
        let proved = proved.unwrap_or_else(|reject| panic!("{what}: {reject}"));
        assert_eq!(payload(&serde_json::to_value(proved.manifest()).unwrap()), payload(&document), "{what}");
        assert_eq!(proved.manifest(), &read_manifest(&payload(&document)).unwrap(), "{what}");
        assert_eq!(proved.signers(), [key("release-1").public().id()]);
    };
    check("as it is", |_| {});
    check("for any fleet", |document| document["fleet"] = json!("*"));
    check("with an empty file", |document| {
        document["files"][0]["size"] = json!(0);
        document["files"][0]["chunks"] = json!([]);
    });
    check("with a dot, a space and a long name", |document| {
        add_file(&format!("zoo/a b.c..d/{}", "x".repeat(200)))(document);
    });
    check("with com0 and console", |document| {
        add_file("zoo/com0")(document);
        add_file("zoo/console")(document);
    });
    check("with the largest shape", |document| {
        document["model"]["inputs"][0]["shape"] = json!([-1, 1_u64 << 32])
    });
    check("with an empty shape and an empty dimension", |document| {
        document["model"]["inputs"][0]["shape"] = json!([]);
        document["model"]["outputs"][0]["shape"] = json!([1_u64 << 40, 0]);
    });
    check("with extras", |document| {
        document["extras"] = json!({"preprocess": {"scale": [1, -2, null, true, "ä\n"]}})
    });
}

#[test]
fn a_version_below_the_newest_of_the_catalog_may_be_ordered() {
    let mut state = pinned();
    take(
        &mut state,
        Kind::Catalog,
        &catalog(json!({"vision/defect": {"version": 6, "sha256": digest("six")}})),
    );
    take(&mut state, Kind::Desired, &desired(json!({"vision/defect": wished(&manifest())})));
    assert_eq!(cause(prove(&state, &manifest())), None);
}

#[test]
fn a_downgrade_needs_an_order() {
    let older = with(manifest(), |document| document["version"] = json!(4));
    let (mut state, _) = installed();
    let mut wish = wished(&older);
    wish["allow_downgrade"] = json!(true);
    take(&mut state, Kind::Desired, &with(desired(json!({"vision/defect": wish})), |d| d["seq"] = json!(2)));
    let bundle = prove(&state, &older).unwrap();
    state.record_installed(&bundle);
    assert_eq!(state.highest_version(&"vision/defect".parse().unwrap()), Some(5));
}

#[test]
fn two_names_for_one_digest_do_not_hide_the_right_one() {
    let good = manifest();
    let mut state = pinned();
    take(&mut state, Kind::Catalog, &catalog(json!({"vision/defect": listed(&good)})));
    let wishes = json!({"audio/x": wished(&good), "vision/defect": wished(&good), "zzz": wished(&good)});
    take(&mut state, Kind::Desired, &desired(wishes));
    assert_eq!(prove(&state, &good).unwrap().manifest().name.as_str(), "vision/defect");
}
