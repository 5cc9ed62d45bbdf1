//! Journal, blobs, trust state, outbox and index of one device: everything that must survive a power cut.
//!
//! In: bundles that were proved, events, chunks, state. Out: [`InstalledBundle`], which only this crate makes, and
//! the [`Facts`] from which the reconciler works. Truth lies in plain files: the journal and the chunks. The index is
//! made from them and never asked what is so. What a call acknowledged is there after `kill -9` and after a power cut;
//! after a failed sync nothing is retried and trusted. Refuses a folder that another process owns. Every call blocks.

mod ballast;
mod blobs;
mod errors;
mod facts;
mod frames;
mod index;
mod installed;
mod journal;
mod outbox;
mod slots;
pub mod storage;
mod store;
#[cfg(test)]
mod tests;

pub use blobs::{BlobError, Blobs, MAX_CHUNK, MAX_PENDING, MAX_PENDING_BYTES, Put};
pub use errors::DiskError;
pub use facts::{
    Facts, FetchFact, InstalledFact, MAX_QUARANTINED, QuarantineFact, RollbackFact, ServingFact,
};
pub use index::IndexKind;
pub use installed::{InstallError, InstalledBundle, ReadError};
pub use journal::{
    Damage, Head, Journal, JournalError, JournalOptions, JournalReport, MAX_EVENT, RecordError, Verified,
};
pub use outbox::{Appended, Class, MAX_ITEM, Outbox, OutboxError, OutboxItem, OutboxReport};
pub use slots::{Loaded, MAX_STATE, SaveError};
pub use storage::{RealStorage, Room, Storage};
pub use store::{
    CollectError, Collected, DamagedBundle, DiskState, Fit, Keep, OpenError, OpenReport, Store, StoreOptions,
};
