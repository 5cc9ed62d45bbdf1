//! Documents that do not hold yet and may hold after another one: kept for a while, within bounds, and judged again.
//!
//! A broker gives what is retained in any order, and once: without this, trust 3 before trust 2 would be lost until the
//! link connects again. Not durable: after a restart they come again.

use std::sync::Arc;

use agentd_bundle::{Cause, Reject};
use agentd_wire::Kind;

/// Documents that wait at most; beyond, the oldest go.
const MAX_DOCUMENTS: usize = 32;

/// Bytes that wait at most; one document has at most 8 MiB.
const MAX_BYTES: usize = 16 << 20;

/// A document that waits.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) kind: Option<Kind>,
    pub(super) envelope: Arc<[u8]>,
}

/// The documents that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<Document>);

impl Waiting {
    /// Keeps a refused document when another one may make it hold.
    pub(super) fn keep(&mut self, kind: Option<Kind>, envelope: &[u8], reject: &Reject) {
        self.forget(envelope);
        if !may_hold_later(reject.cause()) || envelope.len() > MAX_BYTES {
            return;
        }
        self.push(kind, envelope);
    }

    fn push(&mut self, kind: Option<Kind>, envelope: &[u8]) {
        self.0.push(Document { kind, envelope: envelope.into() });
        while self.0.len() > MAX_DOCUMENTS || self.bytes() > MAX_BYTES {
            self.0.remove(0);
        }
    }

    /// The document took effect, or never will.
    pub(super) fn forget(&mut self, envelope: &[u8]) {
        self.0.retain(|held| *held.envelope != *envelope);
    }

    /// All that wait, oldest first.
    pub(super) fn all(&self) -> Vec<Document> {
        self.0.clone()
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|document| document.envelope.len()).sum()
    }
}

/// Whether a newer trust document, catalog or membership may lift this refusal.
fn may_hold_later(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Chain
            | Cause::StaleTrust
            | Cause::Threshold
            | Cause::TrustExpired
            | Cause::StateLost
            | Cause::Future
            | Cause::Target
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_holds_is_not_kept() {
        let mut waiting = Waiting::default();
        let reject = agentd_bundle::Envelope::read(b"{").unwrap_err();
        waiting.keep(None, b"{", &reject);
        assert!(waiting.all().is_empty(), "{reject:?}");
    }

    #[test]
    fn number_and_bytes_are_bounded_and_the_oldest_go() {
        let mut waiting = Waiting::default();
        for number in 0..100_u32 {
            waiting.push(None, &number.to_le_bytes());
        }
        let kept: Vec<_> = waiting.all().iter().map(|document| document.envelope.to_vec()).collect();
        assert_eq!(kept.len(), MAX_DOCUMENTS);
        assert_eq!(kept.first(), Some(&68_u32.to_le_bytes().to_vec()));
        for number in 0..4_u8 {
            waiting.push(None, &vec![number; 6 << 20]);
        }
        assert_eq!(waiting.all().len(), 2);
    }
}
