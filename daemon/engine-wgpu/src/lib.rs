//! The GPU engine: for now the inventory of adapters.
//!
//! In: what the drivers of this machine say. Out: [`agentd_types::Adapter`]s. Runs in worker processes only, since
//! a driver may crash or hang while it is asked; a panic on the way is an empty list, not an error.

mod adapters;

pub use adapters::adapters;
