//! The whole of serving over real sockets, with instances that are fakes.

#[path = "serving/harness.rs"]
mod harness;

#[path = "serving/bad_input.rs"]
mod bad_input;
#[path = "serving/connections.rs"]
mod connections;
#[path = "serving/failures.rs"]
mod failures;
#[path = "serving/protocol.rs"]
mod protocol;
#[path = "serving/switching.rs"]
mod switching;
