//! Real worker processes: what they answer, and what happens when they do not.

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

mod contained;
mod lifecycle;
mod plans;
mod serves;
mod support;
