//! tract passes the suite that every engine passes.

use agentd_engine::conformance;
use agentd_engine_tract::Tract;

#[test]
fn tract_conforms() {
    assert_eq!(conformance::failures(&Tract::new()), Vec::<String>::new());
}

#[test]
fn tract_conforms_on_two_threads() {
    let mut engine = Tract::new();
    engine.prepare(2).unwrap();
    assert_eq!(conformance::failures_on(&engine, 2), Vec::<String>::new());
}
