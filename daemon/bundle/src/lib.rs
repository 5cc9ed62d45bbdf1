//! Packs, chunks, signs and proves model bundles; trust and its rotation.
//!
//! In: bytes as they came from a broker, a stick or an author. Out: documents that were proved, above all
//! [`VerifiedBundle`], which only this crate can make. Does no input or output and reads no clock, so it can be fuzzed
//! and never waits. Refuses with a [`Reject`], whose codes are those of the bundle format's page.

mod reject;

pub mod json;

mod content;
mod documents;
mod envelope;
mod fields;
mod key;
mod signatures;
mod state;

mod chunk;
mod diff;
mod pack;

pub mod archive;
pub mod author;
pub mod replay;
mod report;

pub use chunk::Cutter;
pub use content::{check_chunk, check_file, check_file_set};
pub use diff::{BundleDiff, Change, FileDiff, TensorDiff, diff_manifests, diff_tensors};
pub use documents::{
    MAX_CHUNK, MAX_CHUNKS, MAX_DERIVED_DEPTH, MAX_FILES, MAX_TOTAL_SIZE, TrustRoot, check_manifest,
    check_path, glob_matches, read_manifest,
};
pub use envelope::{Envelope, EnvelopeSignature, MAX_ENVELOPE, MAX_SIGNATURES};
pub use key::{KeyFileError, KeyFileSalt, PrivateKey, PublicKey};
pub use pack::{Description, ModelDescription, PackError, Packed, pack};
pub use reject::{Cause, Reject};
pub use report::{SignatureReport, report_signatures};
pub use state::{
    Accepted, FleetState, Identity, MAX_AHEAD_S, MAX_CATALOG_LIFE_S, StateError, TrustedKey, VerifiedBundle,
    Wish,
};
