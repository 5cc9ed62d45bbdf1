//! Every rule of the format's page with the code that its breach yields, as rows of broken documents.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "helpers of tests stop a test as tests do, and a table is as long as its rows"
)]

mod bundle;
mod content;
mod derived;
mod envelope;
mod fleet;
mod state;
mod statements;
mod trust;

use std::collections::BTreeSet;

use agentd_bundle::Cause;

/// A row: what is broken, and the code that it yields.
type Row = (&'static str, Cause, Option<Cause>);

/// Compares what came out with what should have.
#[track_caller]
fn check(rows: Vec<Row>) {
    let wrong: Vec<_> = rows
        .iter()
        .filter(|(_, expected, got)| Some(*expected) != *got)
        .map(|(what, expected, got)| format!("{what}: expected {expected}, got {got:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_is_produced_by_some_row() {
    let rows = [
        envelope::rows(),
        envelope::payload_rows(),
        trust::rows(),
        statements::catalog_rows(),
        statements::membership_rows(),
        statements::desired_rows(),
        bundle::rows(),
        bundle::manifest_rows(),
        derived::rows(),
        content::rows(),
        state::rows(),
    ];
    let produced: BTreeSet<_> = rows.into_iter().flatten().filter_map(|(_, _, got)| got).collect();
    let missing: Vec<_> = Cause::ALL.iter().filter(|cause| !produced.contains(cause)).collect();
    assert!(missing.is_empty(), "no row yields {missing:?}");
}
