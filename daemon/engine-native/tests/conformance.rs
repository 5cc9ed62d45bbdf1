//! The native engine passes the suite that every engine passes.

use agentd_engine::conformance;
use agentd_engine_native::Native;

#[test]
fn native_conforms() {
    assert_eq!(conformance::failures(&Native::new()), Vec::<String>::new());
}

#[test]
fn native_conforms_on_two_threads() {
    let mut engine = Native::new();
    engine.prepare(2).unwrap();
    assert_eq!(conformance::failures_on(&engine, 2), Vec::<String>::new());
}
