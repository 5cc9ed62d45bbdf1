//! `bundle import` into the daemon of this machine: what a broker would bring, by hand, as from a USB stick.
//!
//! In: a bundle, and the signed documents beside it. The daemon judges each as if it came from the broker; nothing is
//! taken on trust because somebody stands in front of the machine.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use agentd_bundle::{Envelope, MAX_ENVELOPE};
use agentd_client::{Client, ClientError};
use agentd_types::{ByteCount, Code, Coded as _, Digest, ModelName};
use agentd_wire::{Kind, ModelState, ModelStatus};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    bundle_file::{BundleFile, read_bounded},
    context::Context,
    failure::{Exit, Failure},
};

/// How often the daemon is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What was delivered.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    name: ModelName,
    version: u64,
    sha256: Digest,
    documents: Vec<Document>,
    chunks: usize,
    bytes: ByteCount,
    serving: bool,
}

/// A document that was handed in.
#[derive(Debug, Serialize)]
struct Document {
    file: PathBuf,
    kind: Kind,
    /// Why it changed nothing, when the device has the same or a newer one.
    passed_over: Option<Code>,
}

/// A document on the stick.
#[derive(Debug)]
struct Found {
    file: PathBuf,
    kind: Kind,
    number: u64,
    bytes: Vec<u8>,
}

/// Hands in the documents of `folder`, then `bundle`, and waits until it answers or `patience` ends.
pub(super) fn deliver(
    bundle: &mut BundleFile,
    folder: Option<&Path>,
    patience: Duration,
    context: &Context,
) -> Result<Report, Failure> {
    let found = folder.map(documents).transpose()?.unwrap_or_default();
    let document = bundle.document().clone();
    let (name, version) = (document.manifest().name.clone(), document.manifest().version);
    let sha256 = document.envelope().digest();
    let what = format!("cannot import {name} {version}");
    let daemon = context.daemon();
    let bar = context.ui().progress(document.manifest().total_size(), "importing");
    let delivery = Delivery { daemon, what, name, version, sha256, end: Instant::now() + patience };
    let report = context.block_on(async {
        let mut documents = Vec::new();
        for found in found {
            documents.push(delivery.document(found).await?);
        }
        delivery.check_wanted().await?;
        delivery.offer(document.envelope().to_bytes()).await?;
        let blobs = document.blobs().into_keys().collect();
        let (chunks, bytes) = delivery.chunks(bundle, &blobs, |sent| bar.inc(sent)).await?;
        let serving = delivery.until_it_answers().await?;
        let Delivery { name, version, sha256, .. } = delivery;
        Ok(Report { name, version, sha256, documents, chunks, bytes, serving })
    });
    bar.finish_and_clear();
    report
}

/// Every signed document of a folder: trust by version, then what is judged by it.
fn documents(folder: &Path) -> Result<Vec<Found>, Failure> {
    let what = || format!("cannot read the documents in `{}`", folder.display());
    let entries = fs::read_dir(folder).map_err(|error| Failure::new(what()).because(&error))?;
    let mut found = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| Failure::new(what()).because(&error))?.path();
        if file.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes = read_bounded(&file, MAX_ENVELOPE as u64)
            .map_err(|error| Failure::new(format!("cannot read `{}`", file.display())).coded(&error))?;
        let envelope = Envelope::read(&bytes)
            .map_err(|reject| Failure::new(format!("cannot read `{}`", file.display())).coded(&reject))?;
        let payload: serde_json::Value = serde_json::from_slice(envelope.payload()).unwrap_or_default();
        let number = payload.get("version").or(payload.get("seq")).and_then(serde_json::Value::as_u64);
        found.push(Found { kind: envelope.kind(), number: number.unwrap_or_default(), file, bytes });
    }
    found.retain(|found| !matches!(found.kind, Kind::Bundle | Kind::Derived));
    let rank = |kind| match kind {
        Kind::Trust => 0,
        Kind::Catalog => 1,
        Kind::Membership => 2,
        Kind::Desired | Kind::Bundle | Kind::Derived => 3,
    };
    found.sort_by_key(|found| (rank(found.kind), found.number));
    Ok(found)
}

struct Delivery {
    daemon: Client,
    what: String,
    name: ModelName,
    version: u64,
    sha256: Digest,
    end: Instant,
}

impl Delivery {
    fn failed(&self, error: &ClientError) -> Failure {
        Failure::of_client(&self.what, error)
    }

    async fn document(&self, found: Found) -> Result<Document, Failure> {
        let Found { file, kind, bytes, .. } = found;
        let passed_over = match self.daemon.offer_document(bytes).await {
            Ok(_) => None,
            // The device has a newer one, or this very one came before: no reason to stop.
            Err(error) if ["verify.rollback", "verify.replay"].contains(&error.code().as_str()) => {
                Some(error.code())
            }
            Err(error) => {
                return Err(Failure::of_client(&format!("cannot import `{}`", file.display()), &error));
            }
        };
        Ok(Document { file, kind, passed_over })
    }

    async fn status(&self) -> Result<Option<ModelStatus>, Failure> {
        match self.daemon.model(&self.name).await {
            Ok(status) => Ok(Some(status)),
            Err(error) if error.code().as_str() == "model.unknown" => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn check_wanted(&self) -> Result<(), Failure> {
        let wanted = self.status().await?.and_then(|status| status.desired_version);
        if wanted == Some(self.version) {
            return Ok(());
        }
        let cause = wanted.map_or_else(
            || "no signed order asks this device for that model".to_owned(),
            |wanted| format!("the signed order asks this device for version {wanted}"),
        );
        Err(Failure::new(&self.what)
            .cause(cause)
            .hint(
                "bring the order as well: agentctl fleet deploy BUNDLE --folder STICK/documents --device ID",
            )
            .code(Code::new("verify.not_desired"))
            .exit_with(Exit::Refused))
    }

    async fn offer(&self, envelope: Vec<u8>) -> Result<(), Failure> {
        self.daemon.offer_document(envelope).await.map(drop).map_err(|error| self.failed(&error))
    }

    /// Hands in what the daemon lacks until the bundle is on its disk; returns how much that was.
    async fn chunks(
        &self,
        bundle: &mut BundleFile,
        blobs: &BTreeSet<Digest>,
        tell: impl Fn(u64),
    ) -> Result<(usize, ByteCount), Failure> {
        let (mut chunks, mut bytes) = (0, ByteCount(0));
        loop {
            let lacking = self.daemon.lacking_chunks().await.map_err(|error| self.failed(&error))?;
            for digest in lacking.into_iter().filter(|digest| blobs.contains(digest)) {
                let chunk = bundle.blob(digest).map_err(|error| Failure::new(&self.what).coded(&error))?;
                let length = chunk.len() as u64;
                match self.daemon.offer_chunk(chunk).await {
                    Ok(_) => {
                        chunks += 1;
                        bytes.0 += length;
                        tell(length);
                    }
                    Err(error) if error.code().as_str() == "chunk.unasked" => {} // it came another way
                    Err(error) => return Err(self.failed(&error)),
                }
            }
            let Some(status) = self.status().await? else { return Ok((chunks, bytes)) };
            if status.held.iter().any(|held| held.bundle == self.sha256) {
                return Ok((chunks, bytes));
            }
            self.go_on(&status)?;
            sleep(ASK_EVERY).await;
        }
    }

    /// Whether it answers; false when an older version is held in its place.
    async fn until_it_answers(&self) -> Result<bool, Failure> {
        loop {
            let Some(status) = self.status().await? else { return Ok(false) };
            if status.serving.as_ref().is_some_and(|serving| serving.bundle == self.sha256) {
                return Ok(true);
            }
            if status.state == ModelState::HeldBack {
                return Ok(false);
            }
            self.go_on(&status)?;
            sleep(ASK_EVERY).await;
        }
    }

    fn go_on(&self, status: &ModelStatus) -> Result<(), Failure> {
        if let ModelState::Failed { code, message } = &status.state {
            return Err(Failure::new(&self.what)
                .cause(message)
                .code(code.clone())
                .hint("agentctl events")
                .exit_with(Exit::Refused));
        }
        if Instant::now() < self.end {
            return Ok(());
        }
        Err(Failure::new(&self.what)
            .cause("it takes longer than expected; the daemon goes on with it")
            .hint("agentctl status")
            .exit_with(Exit::TimedOut))
    }
}

impl Report {
    pub(super) fn lines(&self) -> Vec<String> {
        let document = |document: &Document| {
            let file = document.file.display();
            match &document.passed_over {
                None => format!("{file}   {}, taken", document.kind),
                Some(code) => format!("{file}   {}, the device has a newer one [{code}]", document.kind),
            }
        };
        let mut lines: Vec<_> = self.documents.iter().map(document).collect();
        let Self { name, version, chunks, bytes, .. } = self;
        let state = if self.serving { "serving" } else { "kept; another version is held in its place" };
        lines.push(format!("{name} {version}   {bytes} in {chunks} chunks were missing   {state}"));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_reads_like_this() {
        let report = Report {
            name: "demo/digits".parse().unwrap(),
            version: 2,
            sha256: Digest::of(b"payload"),
            documents: vec![
                Document { file: "stick/trust-1.json".into(), kind: Kind::Trust, passed_over: None },
                Document {
                    file: "stick/catalog.json".into(),
                    kind: Kind::Catalog,
                    passed_over: Some(Code::new("verify.rollback")),
                },
            ],
            chunks: 3,
            bytes: ByteCount(97_000),
            serving: true,
        };
        assert_eq!(
            report.lines().join("\n"),
            "stick/trust-1.json   trust, taken\n\
             stick/catalog.json   catalog, the device has a newer one [verify.rollback]\n\
             demo/digits 2   94.7 KiB in 3 chunks were missing   serving"
        );
    }
}
