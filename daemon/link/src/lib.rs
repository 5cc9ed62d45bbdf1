//! The broker: connection, outbox, transfer of blocks.
//!
//! In: signed documents, commands and blocks as the broker sends them, unproved. Out: what the device reports, from
//! an outbox that forgets nothing before the broker has acknowledged it. Proves nothing and stores nothing itself:
//! documents go to `agentd-bundle`, chunks to a [`ChunkSink`], the outbox to an [`OutboxStore`].
//!
//! Read in this order: [`Transport`] is how messages move; [`Outbox`] keeps what must arrive; [`Link`] is the control
//! connection; [`Transfer`] fetches the blocks of a bundle over a connection of its own; [`BlockServer`] is the other
//! end of that.

mod backoff;
mod budget;
mod flood;
mod inbox;
mod link;
mod memory;
mod outbox;
mod rumqtt;
mod server;
mod source;
mod telemetry;
mod tls;
mod transfer;
mod transport;

pub use backoff::{Backoff, Jitter, RetryPolicy};
pub use budget::{BudgetSpent, DayBudget};
pub use flood::{FloodPolicy, TokenBucket};
pub use inbox::{Document, Incoming};
pub use link::{DrainPolicy, Link, LinkConfig, LinkHandle, LinkStatus};
pub use memory::{MemoryBroker, MemoryTransport};
pub use outbox::{
    Channel, Class, Draft, Dropped, Entry, Item, ItemId, MAX_ITEM_BYTES, MemoryOutbox, Outbox, OutboxError,
    OutboxLimits, OutboxStore, StoreError, Waiting,
};
pub use rumqtt::{BrokerAddress, Credentials, RumqttTransport};
pub use server::{BlockServer, ServerPolicy, ServerStatus};
pub use source::{BlockSource, FolderSource, Piece, SourceError};
pub use telemetry::{Batch, Batcher, unpack_telemetry};
pub use tls::{TlsError, TlsSettings, client_config};
pub use transfer::{
    ChunkSink, Counters, Fetched, Missing, Progress, SinkError, Transfer, TransferConfig, TransferError,
};
pub use transport::{
    Ack, BoxFuture, CleanStart, Completion, Connection, Disconnect, Message, NotAcknowledged, PublishError,
    Publisher, Qos, Received, Retain, Session, SubscribeError, Subscription, Transport,
};
