//! What the broker said, on its way to whoever acts on it.
//!
//! In: documents, commands and changes of the connection. Out: [`Incoming`], in order, through a bounded channel. Never
//! makes the connection wait: a newer document of a topic takes the place of an older one that nobody has read yet,
//! and commands over the limit are dropped and counted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use agentd_types::Code;
use agentd_wire::{AllTopic, Down, GroupTopic, Kind, Topic};
use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    flood::{FloodPolicy, TokenBucket},
    transport::{Ack, Disconnect},
};

/// Entries that may wait: all documents that a device listens to (at most 64 groups and a long trust chain), commands
/// and changes of the connection.
const MAX_WAITING: usize = 1_024;

/// Bytes that may wait.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// Something that the broker said.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// The connection stands.
    Connected {
        /// Whether the broker still had our session.
        session_present: bool,
    },
    /// The connection is gone, or an attempt failed for another reason than the one before.
    Disconnected {
        /// Why.
        reason: Disconnect,
    },
    /// A signed document, not proved yet.
    Document(Document),
    /// A command; acknowledge it with [`crate::LinkHandle::acknowledge`] once it is in the journal.
    Command {
        /// The message, to be read with [`agentd_wire::Payload::read`].
        bytes: Bytes,
        /// The right to acknowledge it; `None` when it came at QoS 0.
        ack: Option<Ack>,
    },
    /// Messages were dropped unread since the last word of this kind.
    Dropped {
        /// Why.
        code: Code,
        /// How many.
        count: u64,
    },
}

/// A signed document as the broker sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What the topic says it is; the document itself must say the same.
    pub kind: Kind,
    /// Where it stood: names the target, or the version of a trust document.
    pub topic: Topic,
    /// The envelope; empty when somebody removed the document from the broker.
    pub bytes: Bytes,
}

/// The kind of document that stands on a topic, if one does.
pub(crate) const fn kind_on(topic: &Topic) -> Option<Kind> {
    match topic {
        Topic::All { what, .. } => match what {
            AllTopic::Catalog => Some(Kind::Catalog),
            AllTopic::Desired => Some(Kind::Desired),
            AllTopic::Trust(_) => Some(Kind::Trust),
            AllTopic::Params => None,
        },
        Topic::Group { what: GroupTopic::Desired, .. } => Some(Kind::Desired),
        Topic::Down { down, .. } => match down {
            Down::Membership => Some(Kind::Membership),
            Down::Desired => Some(Kind::Desired),
            Down::Cmd | Down::Blk => None,
        },
        Topic::Group { .. } | Topic::Up { .. } => None,
    }
}

/// The queue between the connection and whoever reads.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Incoming>,
    bytes: usize,
    dropped: Vec<(Code, u64)>,
}

impl Queue {
    fn push(&mut self, incoming: Incoming) {
        let bytes = incoming.bytes();
        if let Incoming::Document(new) = &incoming {
            let older = self.waiting.iter_mut().find_map(|held| match held {
                Incoming::Document(held) if held.topic == new.topic => Some(held),
                _ => None,
            });
            if let Some(older) = older {
                self.bytes = self.bytes - older.bytes.len() + bytes;
                *older = new.clone();
                return;
            }
        }
        let is_change = matches!(incoming, Incoming::Connected { .. } | Incoming::Disconnected { .. });
        let full = self.waiting.len() >= MAX_WAITING || self.bytes + bytes > MAX_WAITING_BYTES;
        if full && is_change {
            // Whoever reads so slowly learns the newest change only.
            self.waiting
                .retain(|held| !matches!(held, Incoming::Connected { .. } | Incoming::Disconnected { .. }));
        } else if full {
            self.drop_one(Code::new("link.inbox_full"));
            return;
        }
        self.bytes += bytes;
        let place = match &incoming {
            Incoming::Document(document) => self.waiting.iter().position(|held| comes_before(document, held)),
            _ => None,
        };
        self.waiting.insert(place.unwrap_or(self.waiting.len()), incoming);
    }

    fn drop_one(&mut self, code: Code) {
        match self.dropped.iter_mut().find(|(held, _)| *held == code) {
            Some((_, count)) => *count += 1,
            None => self.dropped.push((code, 1)),
        }
    }

    fn pop(&mut self) -> Option<Incoming> {
        if let Some(incoming) = self.waiting.pop_front() {
            self.bytes -= incoming.bytes();
            return Some(incoming);
        }
        self.dropped.pop().map(|(code, count)| Incoming::Dropped { code, count })
    }
}

/// Whether a trust document must be read before something that waits: the chain goes up by one, and all else is judged
/// by its end.
fn comes_before(document: &Document, waiting: &Incoming) -> bool {
    let version = |topic: &Topic| match topic {
        Topic::All { what: AllTopic::Trust(version), .. } => Some(*version),
        _ => None,
    };
    match (version(&document.topic), waiting) {
        (Some(new), Incoming::Document(held)) => version(&held.topic).is_none_or(|held| held > new),
        _ => false,
    }
}

impl Incoming {
    fn bytes(&self) -> usize {
        match self {
            Self::Document(document) => document.bytes.len(),
            Self::Command { bytes, .. } => bytes.len(),
            Self::Connected { .. } | Self::Disconnected { .. } | Self::Dropped { .. } => 0,
        }
    }
}

/// Takes in what arrives; clones are the same inbox.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inbox {
    queue: Arc<Mutex<Queue>>,
    filled: Arc<Notify>,
}

impl Inbox {
    pub(crate) fn push(&self, incoming: Incoming) {
        self.with(|queue| queue.push(incoming));
        self.filled.notify_one();
    }

    pub(crate) fn drop_one(&self, code: &'static str) {
        self.with(|queue| queue.drop_one(Code::new(code)));
        self.filled.notify_one();
    }

    fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands everything on, documents no faster than the policy allows, until told to stop or nobody reads.
    pub(crate) async fn hand_on(
        self,
        policy: FloodPolicy,
        to: mpsc::Sender<Incoming>,
        stop: CancellationToken,
    ) {
        let mut documents =
            TokenBucket::new(policy.documents_per_second, policy.documents_burst, Instant::now());
        let work = async {
            while let Ok(place) = to.reserve().await {
                let Some(incoming) = self.with(Queue::pop) else {
                    drop(place);
                    self.filled.notified().await;
                    continue;
                };
                if matches!(incoming, Incoming::Document(_)) {
                    sleep(documents.wait(1, Instant::now())).await;
                    documents.take(1, Instant::now());
                }
                place.send(incoming);
            }
        };
        // Dropped half way only when everything ends: documents stand at the broker, commands are unacknowledged.
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(version: u64, bytes: &'static [u8]) -> Incoming {
        let topic = Topic::all(&"plant".parse().unwrap(), AllTopic::Trust(version));
        Incoming::Document(Document { kind: Kind::Trust, topic, bytes: Bytes::from_static(bytes) })
    }

    fn drain(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|incoming| match incoming {
                Incoming::Document(document) => String::from_utf8(document.bytes.to_vec()).unwrap(),
                Incoming::Dropped { code, count } => format!("{code} {count}"),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_newer_document_takes_the_place_of_an_unread_older_one() {
        let mut queue = Queue::default();
        for incoming in [document(1, b"old"), document(2, b"other"), document(1, b"new")] {
            queue.push(incoming);
        }
        assert_eq!(drain(&mut queue), ["new", "other"]);
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn the_trust_chain_comes_in_order_and_before_all_else_that_waits() {
        let mut queue = Queue::default();
        let topic = Topic::all(&"plant".parse().unwrap(), AllTopic::Catalog);
        let catalog = Document { kind: Kind::Catalog, topic, bytes: Bytes::from_static(b"catalog") };
        queue.push(Incoming::Connected { session_present: false });
        for incoming in
            [document(3, b"3"), Incoming::Document(catalog), document(2, b"2"), document(10, b"10")]
        {
            queue.push(incoming);
        }
        assert_eq!(drain(&mut queue)[1..], ["2", "3", "10", "catalog"]);
    }

    #[test]
    fn a_flood_is_bounded_and_counted_and_the_newest_change_gets_through() {
        let mut queue = Queue::default();
        for version in 0..2_000 {
            queue.push(document(version, b"x"));
        }
        queue.push(Incoming::Connected { session_present: true });
        let drained = drain(&mut queue);
        assert_eq!(drained.len(), MAX_WAITING + 2);
        assert_eq!(drained[MAX_WAITING], "Connected { session_present: true }");
        assert_eq!(drained[MAX_WAITING + 1], "link.inbox_full 976");
    }
}
