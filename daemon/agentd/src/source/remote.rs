//! Bundles from the broker. One transfer at a time: it owns the bulk connection.

use std::sync::{Arc, Mutex};

use agentd_link::{
    BudgetSpent, ChunkSink, DayBudget, LinkHandle, LinkStatus, Progress, SinkError, Transfer, TransferConfig,
    TransferError, Transport,
};
use agentd_store::{Loaded, Store};
use agentd_types::{ByteCount, Clock, DeviceId, Digest, FleetId, chain};
use agentd_wire::Chunk;
use log::warn;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio_util::sync::CancellationToken;

use super::Reach;
use crate::house::{House, lock};

/// The record that holds what is gone of the day's budget of bytes.
const SPENT: &str = "day-budget";

/// What the broker offers.
#[derive(Debug)]
pub(crate) struct Remote {
    transfer: AsyncMutex<Transfer>,
    budget: Arc<Mutex<DayBudget>>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    status: watch::Receiver<LinkStatus>,
}

/// What a remote source is made of.
pub(crate) struct Parts {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) link: LinkHandle,
    pub(crate) fleet: FleetId,
    pub(crate) device: DeviceId,
    pub(crate) daily: Option<ByteCount>,
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) seed: u64,
}

impl Remote {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { transport, link, fleet, device, daily, store, clock, seed } = parts;
        let budget = daily.map_or_else(DayBudget::unlimited, |limit| DayBudget::new(limit, spent(&store)));
        let budget = Arc::new(Mutex::new(budget));
        let config = TransferConfig::new(fleet, device);
        let transfer = Transfer::new(config, transport, Arc::clone(&budget), Arc::clone(&clock), seed);
        Self { transfer: AsyncMutex::new(transfer), budget, store, clock, status: link.status() }
    }

    /// How the broker is reached.
    pub(super) fn reach(&self) -> Reach {
        match &*self.status.borrow() {
            LinkStatus::Online { since, .. } => Reach::Online { since: *since },
            LinkStatus::Offline { since, reason, .. } => {
                let reason = reason.as_ref().map_or_else(|| "not tried yet".to_owned(), |error| chain(error));
                Reach::Offline { since: *since, reason }
            }
        }
    }

    pub(super) async fn manifest(&self, bundle: Digest) -> Result<Vec<u8>, TransferError> {
        // A step that is dropped drops the transfer; nobody else stops it.
        let mut transfer = self.transfer.lock().await;
        let _ledger = Ledger::open(self);
        Ok(transfer.manifest(bundle, &CancellationToken::new()).await?.to_vec())
    }

    /// Returns how many bytes came.
    pub(super) async fn chunks(
        &self,
        house: &Arc<House>,
        bundle: Digest,
        missing: &[Chunk],
        tell: impl Fn(ByteCount),
    ) -> Result<ByteCount, TransferError> {
        let sink = Arc::new(StoreSink(Arc::clone(&house.store)));
        let (progress, mut seen) = watch::channel(Progress::default());
        let stop = CancellationToken::new();
        let mut transfer = self.transfer.lock().await;
        let mut ledger = Ledger::open(self);
        let fetching = transfer.chunks(bundle, missing.iter().copied(), sink, &progress, &stop);
        tokio::pin!(fetching);
        let fetched = loop {
            // Both arms are safe to drop half way: the transfer is pinned outside.
            tokio::select! {
                fetched = &mut fetching => break fetched,
                changed = seen.changed() => if changed.is_ok() {
                    tell(seen.borrow_and_update().have);
                    ledger.keep_up();
                },
            }
        };
        Ok(fetched?.bytes)
    }

    fn keep(&self, spent: BudgetSpent) {
        let kept = serde_json::to_vec(&spent).ok().map(|bytes| self.store.save_record(SPENT, &bytes));
        if !matches!(kept, Some(Ok(()))) {
            warn!(event = "budget.not_kept"; "What is gone of the day's budget is forgotten at a restart");
        }
    }
}

/// Keeps what is gone of the day's budget while a transfer runs: somewhat more than is spent, so that a crash gives
/// nothing back; when the transfer ends or is dropped, exactly what is.
struct Ledger<'a> {
    remote: &'a Remote,
    kept: BudgetSpent,
}

impl<'a> Ledger<'a> {
    fn open(remote: &'a Remote) -> Self {
        let mut ledger = Self { remote, kept: spent(&remote.store) };
        ledger.keep_up();
        ledger
    }

    /// A write of some bytes, once in an eighth of the budget.
    fn keep_up(&mut self) {
        let ahead = {
            let mut budget = lock(&self.remote.budget);
            budget.left(self.remote.clock.now());
            budget.outgrew(self.kept).then(|| budget.ahead())
        };
        if let Some(ahead) = ahead {
            self.remote.keep(ahead);
            self.kept = ahead;
        }
    }
}

impl Drop for Ledger<'_> {
    fn drop(&mut self) {
        let spent = lock(&self.remote.budget).spent();
        if spent != self.kept {
            self.remote.keep(spent);
        }
    }
}

fn spent(store: &Store) -> BudgetSpent {
    match store.load_record(SPENT) {
        Ok(Loaded::Present(bytes)) => serde_json::from_slice(&bytes).unwrap_or_default(),
        _ => BudgetSpent::default(),
    }
}

/// Chunks go to the store.
#[derive(Debug)]
struct StoreSink(Arc<Store>);

impl ChunkSink for StoreSink {
    fn has(&self, digest: Digest) -> Result<bool, SinkError> {
        Ok(self.0.blobs().has(&digest)?)
    }

    fn put(&self, digest: Digest, bytes: &[u8]) -> Result<(), SinkError> {
        self.0.put_chunk(digest, bytes)?;
        Ok(())
    }
}
