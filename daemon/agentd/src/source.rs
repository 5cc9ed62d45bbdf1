//! Where bundles come from: the broker, or somebody who hands them in at this machine.
//!
//! In: digests of bundles and the chunks that are missing. Out: manifests as they came, unproved, and chunks on the
//! disk, each checked against its digest.

mod remote;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use agentd_link::TransferError;
use agentd_types::{ByteCount, Code, Coded, Digest, ModelName, UnixTime};
use agentd_wire::{Chunk, ModelState};
use tokio::{sync::Notify, time::timeout};

pub(crate) use remote::{Parts as RemoteParts, Remote};

use crate::house::{House, lock};

/// Manifests that are kept until the bundle is asked for; beyond, the oldest are forgotten.
const MAX_OFFERS: usize = 16;

/// Chunks shown at a time: as many as a bundle has at most.
const MAX_LACKING: usize = 65_536;

/// Whoever handed in a manifest hands in the chunks too; when none came for so long, the broker is asked.
const HAND_PAUSE: Duration = Duration::from_secs(20);

/// Where bundles come from.
#[derive(Debug)]
pub(crate) struct Source {
    remote: Option<Remote>,
    offers: Mutex<Vec<(Digest, Vec<u8>)>>,
    /// Chunks that bundles under way lack.
    lacking: Mutex<BTreeMap<Digest, BTreeSet<Digest>>>,
    handed_in: Notify,
}

/// How the broker is reached.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// Connected.
    Online { since: UnixTime },
    /// Not connected.
    Offline { since: UnixTime, reason: String },
}

/// Why a bundle does not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// There is no broker, and nobody handed the bundle in.
    #[error("no broker is configured and nobody handed in the manifest of bundle {}", .0.short())]
    NoSource(Digest),
    /// The transfer failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

impl Coded for FetchError {
    fn code(&self) -> Code {
        match self {
            Self::NoSource(_) => Code::new("fetch.no_source"),
            Self::Transfer(error) => error.code(),
        }
    }

    fn is_transient(&self) -> bool {
        true
    }
}

impl Source {
    /// Only what is handed in.
    pub(crate) fn local() -> Self {
        Self { remote: None, offers: Mutex::default(), lacking: Mutex::default(), handed_in: Notify::new() }
    }

    /// The broker, and what is handed in.
    pub(crate) fn remote(remote: Remote) -> Self {
        Self { remote: Some(remote), ..Self::local() }
    }

    /// How the broker is reached; without one, as if it were gone since 1970.
    pub(crate) fn reach(&self) -> Reach {
        self.remote.as_ref().map_or_else(
            || Reach::Offline { since: UnixTime(0), reason: "no broker is configured".to_owned() },
            Remote::reach,
        )
    }

    /// Keeps the manifest of a bundle that somebody handed in.
    pub(crate) fn offer(&self, bundle: Digest, envelope: Vec<u8>) {
        let mut offers = lock(&self.offers);
        offers.retain(|(held, _)| *held != bundle);
        offers.push((bundle, envelope));
        let surplus = offers.len().saturating_sub(MAX_OFFERS);
        offers.drain(..surplus);
    }

    /// The manifest of a bundle as it came.
    ///
    /// # Errors
    /// When it does not come.
    pub(crate) async fn manifest(&self, bundle: Digest) -> Result<Vec<u8>, FetchError> {
        let offered =
            lock(&self.offers).iter().find(|(held, _)| *held == bundle).map(|(_, bytes)| bytes.clone());
        match (offered, &self.remote) {
            (Some(envelope), _) => Ok(envelope),
            (None, Some(remote)) => Ok(remote.manifest(bundle).await?),
            (None, None) => Err(FetchError::NoSource(bundle)),
        }
    }

    /// Brings missing chunks onto the disk; returns how many bytes came over the link.
    ///
    /// # Errors
    /// When they do not come; those that came stay.
    pub(crate) async fn chunks(
        &self,
        house: &Arc<House>,
        model: &ModelName,
        bundle: Digest,
        missing: &[Chunk],
        total: ByteCount,
    ) -> Result<ByteCount, FetchError> {
        lock(&self.lacking).insert(bundle, missing.iter().map(|chunk| chunk.1).collect());
        let _forget = Forget { source: self, bundle };
        match &self.remote {
            // What somebody brought costs no byte of the link.
            Some(_) if self.is_offered(bundle) && self.brought(bundle).await => Ok(ByteCount(0)),
            Some(remote) => {
                let missing_bytes: u64 = missing.iter().map(|chunk| chunk.0).sum();
                let before = total.0.saturating_sub(missing_bytes);
                let tell = |have: ByteCount| {
                    let have = ByteCount(before.saturating_add(have.0));
                    house.set_progress(model, Some(ModelState::Fetching { have, total }));
                };
                Ok(remote.chunks(house, bundle, missing, tell).await?)
            }
            None => {
                self.all_handed_in(bundle).await;
                Ok(ByteCount(0))
            }
        }
    }

    fn is_offered(&self, bundle: Digest) -> bool {
        lock(&self.offers).iter().any(|(held, _)| *held == bundle)
    }

    /// Waits while chunks are handed in, with no long pause between them; returns whether all came.
    async fn brought(&self, bundle: Digest) -> bool {
        loop {
            let left = lock(&self.lacking).get(&bundle).map_or(0, BTreeSet::len);
            if timeout(HAND_PAUSE, self.all_handed_in(bundle)).await.is_ok() {
                return true;
            }
            if lock(&self.lacking).get(&bundle).map_or(0, BTreeSet::len) == left {
                return false;
            }
        }
    }

    async fn all_handed_in(&self, bundle: Digest) {
        loop {
            let next = self.handed_in.notified();
            if lock(&self.lacking).get(&bundle).is_none_or(BTreeSet::is_empty) {
                return;
            }
            next.await;
        }
    }

    /// Chunks that bundles under way lack.
    pub(crate) fn lacking(&self) -> Vec<Digest> {
        lock(&self.lacking).values().flatten().copied().take(MAX_LACKING).collect()
    }

    /// Whether a bundle under way lacks this chunk.
    pub(crate) fn lacks(&self, chunk: &Digest) -> bool {
        lock(&self.lacking).values().any(|chunks| chunks.contains(chunk))
    }

    /// A chunk was handed in and is on disk.
    pub(crate) fn arrived(&self, chunk: &Digest) {
        lock(&self.lacking).values_mut().for_each(|chunks| chunks.retain(|lacking| lacking != chunk));
        self.handed_in.notify_waiters();
    }
}

/// Nobody waits for the chunks of a bundle any more.
struct Forget<'a> {
    source: &'a Source,
    bundle: Digest,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.source.lacking).remove(&self.bundle);
    }
}
