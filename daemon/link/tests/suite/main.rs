//! The tests of the link: what every transport must do, the outbox against a model, the control connection and the
//! transfer over bad networks, and the promised figures.

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
