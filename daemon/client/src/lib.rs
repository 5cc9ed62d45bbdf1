//! Typed client of the local API on the daemon's control socket.
//!
//! In: what a person or program wants to know or do. Out: bodies of `agentd-wire`, or a [`ClientError`] with the
//! daemon's own code and hint. Every call has a deadline.

mod client;
mod events;
mod infer;

pub use client::{Client, ClientError};
pub use events::EventStream;
