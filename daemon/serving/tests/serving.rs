//! The whole of serving over real sockets, with instances that are fakes.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::panic,
    clippy::string_slice,
    clippy::too_many_lines,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "helpers of tests fail like tests"
)]

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
