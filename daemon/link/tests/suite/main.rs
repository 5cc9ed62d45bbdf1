//! The tests of the link: what every transport must do, the outbox against a model, the control connection and the
//! transfer over bad networks, and the promised figures.

#![allow(
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
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "small numbers made by the tests themselves"
)]

mod common;
mod conformance;
mod control;
mod figures;
mod outbox;
mod tls;
mod transfer;
