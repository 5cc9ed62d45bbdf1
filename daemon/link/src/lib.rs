//! The broker: connection, outbox, transfer of blocks.
