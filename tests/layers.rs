//! Holds the architecture: who may use whom, and that each outside library has an owner.
//!
//! In: `cargo metadata` and the folders of the repository. `daemon/docs/architecture.md` gives the reasons. Looks at what
//! is linked into programs (normal and build dependencies); what only tests use is free.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

/// Which of our crates each of our crates may use, in the order in which data passes through them.
const MAY_USE: &[(&str, &[&str])] = &[
    ("agentd-types", &[]),
    ("agentd-wire", &["types"]),
    ("agentd-config", &["types", "wire"]),
    ("agentd-onnx", &["types"]),
    ("agentd-bundle", &["types", "wire", "onnx"]),
    ("agentd-link", &["types", "wire"]),
    ("agentd-client", &["types", "wire"]),
    ("agentd-store", &["types", "wire", "bundle"]),
    // onnx only for the conformance suite, which writes its models.
    ("agentd-engine", &["types", "onnx"]),
    ("agentd-plan", &["types", "onnx"]),
    ("agentd-engine-native", &["types", "engine", "plan"]),
    ("agentd-engine-tract", &["types", "engine"]),
    ("agentd-engine-wgpu", &["types", "engine"]),
    ("agentd-isolation", &["types", "engine"]),
    ("agentd-worker", &["types", "engine", "engine-native", "engine-tract", "engine-wgpu", "isolation"]),
    ("agentd-hardware", &["types"]),
    ("agentd-placement", &["types", "wire", "onnx", "store", "engine", "isolation", "hardware"]),
    ("agentd-serving", &["types", "wire", "engine", "isolation"]),
    // The only crate that knows every step.
    (
        "agentd",
        &[
            "types",
            "wire",
            "config",
            "onnx",
            "bundle",
            "link",
            "store",
            "engine",
            "isolation",
            "hardware",
            "placement",
            "serving",
        ],
    ),
    // Signs and publishes; proves, stores and measures on a bench without a daemon.
    (
        "agentctl",
        &[
            "types",
            "wire",
            "config",
            "onnx",
            "bundle",
            "link",
            "client",
            "store",
            "engine",
            "isolation",
            "hardware",
            "placement",
        ],
    ),
    ("agentd-demo", &["types", "wire", "client", "engine"]),
    ("agentd-tests", &[]),
];

/// Outside libraries that one crate alone may use, so that another can take their place without touching the rest.
const ONE_OWNER: &[(&str, &str)] = &[
    ("arc-swap", "agentd-serving"),
    ("axum", "agentd"),
    ("base64", "agentd-bundle"),
    ("clap_complete", "agentctl"),
    ("clap_mangen", "agentctl"),
    ("comfy-table", "agentctl"),
    ("ed25519-dalek", "agentd-bundle"),
    ("fastcdc", "agentd-bundle"),
    ("flate2", "agentd-link"),
    ("hound", "agentctl"),
    ("image", "agentctl"),
    ("mqtt5", "agentd-demo"),
    ("pkcs8", "agentd-bundle"),
    ("prost", "agentd-engine-tract"),
    ("rpassword", "agentctl"),
    ("rumqttc", "agentd-link"),
    ("rustls", "agentd-link"),
    ("sd-notify", "agentd"),
    ("sha2", "agentd-types"),
    ("sled", "agentd-store"),
    ("sysinfo", "agentd-hardware"),
    ("systemd-journal-logger", "agentd"),
    ("tar", "agentd-bundle"),
    ("tract-linalg", "agentd-engine-tract"),
    ("tract-onnx", "agentd-engine-tract"),
    ("wgpu", "agentd-engine-wgpu"),
];

/// Outside libraries that a few crates share.
const SHARED: &[(&str, &[&str])] = &[
    // Programs report to people at their top; libraries have errors of their own.
    ("anyhow", &["agentd", "agentd-worker", "agentctl", "agentd-demo", "agentd-tests"]),
    ("clap", &["agentd", "agentctl"]),
    ("crc32c", &["agentd-wire", "agentd-store"]),
    ("getrandom", &["agentd-link", "agentd", "agentctl"]),
    ("half", &["agentd-engine", "agentd-plan", "agentd-serving"]),
    ("http-body-util", &["agentd-client", "agentd-serving", "agentd", "agentd-demo"]),
    ("hyper", &["agentd-client", "agentd-serving", "agentd-demo"]),
    ("hyper-util", &["agentd-client", "agentd-serving", "agentd-demo"]),
    ("indicatif", &["agentctl", "agentd-demo"]),
    ("rustix", &["agentd-engine-native", "agentd-isolation", "agentd-store", "agentd-demo"]),
    ("tempfile", &["agentd-demo", "agentd-tests"]),
    ("toml", &["agentd-config", "agentd-hardware", "agentd-bundle", "agentctl"]),
];

/// Outside libraries that any crate may use.
const EVERYWHERE: &[&str] = &["bytes", "log", "serde", "serde_json", "thiserror", "tokio", "tokio-util"];

/// Libraries that parse or run models. They are linked into the worker alone, which holds no keys.
const ENGINE_LIBRARIES: &[&str] = &["tract-onnx", "tract-core", "wgpu", "wgpu-core", "naga"];

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ has a parent")
}

fn metadata() -> Result<Metadata> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    Ok(MetadataCommand::new()
        .manifest_path(root()?.join("Cargo.toml"))
        // Offline: what this platform needs was fetched to build the test itself.
        .other_options(["--locked", "--offline", "--filter-platform", &host].map(String::from))
        .exec()?)
}

/// The names that `package` links: ours when `ours`, else those of others.
fn uses(package: &Package, ours: bool) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .filter(|dependency| dependency.path.is_some() == ours)
        .map(|dependency| dependency.name.as_str())
        .collect()
}

/// Fails with every line of `wrong`.
#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n  {}\n", wrong.join("\n  "));
}

#[test]
fn crates_use_only_the_crates_below_them() -> Result<()> {
    let metadata = metadata()?;
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let Some(row) = allowed.get(name) else {
            wrong.push(format!("{name} has no row in MAY_USE"));
            continue;
        };
        for used in uses(package, true) {
            if !row.contains(&used.trim_start_matches("agentd-")) {
                wrong.push(format!("{name} uses {used}, which MAY_USE does not allow"));
            }
        }
    }
    none(&wrong);
    Ok(())
}

#[test]
fn the_table_of_crates_has_no_way_back_up() {
    let mut below = BTreeSet::new();
    let mut wrong = Vec::new();
    for (name, row) in MAY_USE {
        let unknown = row.iter().filter(|used| !below.contains(&format!("agentd-{used}")));
        wrong.extend(unknown.map(|used| format!("{name} may use {used}, which does not stand above it")));
        below.insert((*name).to_owned());
    }
    none(&wrong);
}

#[test]
fn each_outside_library_is_used_by_its_owner_alone() -> Result<()> {
    let metadata = metadata()?;
    let mut owners: BTreeMap<&str, Vec<&str>> =
        ONE_OWNER.iter().map(|(library, owner)| (*library, vec![*owner])).collect();
    owners.extend(SHARED.iter().map(|(library, users)| (*library, users.to_vec())));
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        for library in uses(package, false) {
            match owners.get(library) {
                Some(users) if users.contains(&name) => {}
                Some(users) => wrong.push(format!("{name} uses {library}, which belongs to {users:?}")),
                None if EVERYWHERE.contains(&library) => {}
                None => wrong.push(format!("{name} uses {library}, which no table gives an owner")),
            }
        }
    }
    none(&wrong);
    Ok(())
}

/// Every package that `start` links, directly or not.
fn reachable<'a>(metadata: &'a Metadata, start: &'a PackageId) -> Result<BTreeSet<&'a PackageId>> {
    let nodes = &metadata.resolve.as_ref().context("cargo metadata resolves")?.nodes;
    let by_id: BTreeMap<_, _> = nodes.iter().map(|node| (&node.id, node)).collect();
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            let node = by_id.get(id).with_context(|| format!("{id} is resolved"))?;
            let linked = node
                .deps
                .iter()
                .filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
            open.extend(linked.map(|dep| &dep.pkg));
        }
    }
    Ok(seen)
}

#[test]
fn engines_are_linked_into_the_worker_alone() -> Result<()> {
    let metadata = metadata()?;
    let mut wrong = Vec::new();
    let mut seen_in_worker = 0;
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let reached = reachable(&metadata, &package.id)?;
        let engines: Vec<&str> = metadata
            .packages
            .iter()
            .filter(|other| reached.contains(&other.id) && ENGINE_LIBRARIES.contains(&other.name.as_str()))
            .map(|other| other.name.as_str())
            .collect();
        match name {
            "agentd-worker" => seen_in_worker = engines.len(),
            "agentd-engine-tract" | "agentd-engine-wgpu" => {}
            _ => wrong.extend(engines.iter().map(|engine| format!("{name} reaches {engine}"))),
        }
    }
    none(&wrong);
    assert_eq!(
        seen_in_worker,
        ENGINE_LIBRARIES.len(),
        "the worker links every engine, so the names are right"
    );
    Ok(())
}

#[test]
fn every_folder_is_the_crate_that_it_is_named_after() -> Result<()> {
    let (root, metadata) = (root()?, metadata()?);
    let mut wrong = Vec::new();
    let mut crates = BTreeSet::new();
    for package in metadata.workspace_packages() {
        let folder = package.manifest_path.parent().context("a manifest has a folder")?;
        let folder = folder.strip_prefix(root)?.as_str().to_owned();
        let last = folder.rsplit('/').next().unwrap_or_default();
        let name = package.name.as_str();
        if name != last && name != format!("agentd-{last}") {
            wrong.push(format!("{folder} holds {name}"));
        }
        crates.insert(folder);
    }
    for entry in fs::read_dir(root.join("daemon"))? {
        let folder = format!("daemon/{}", entry?.file_name().to_string_lossy());
        if folder != "daemon/docs" && !crates.contains(&folder) {
            wrong.push(format!("{folder} holds no crate of the workspace"));
        }
    }
    none(&wrong);
    Ok(())
}
