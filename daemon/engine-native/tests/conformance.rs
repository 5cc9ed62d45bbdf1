//! The native engine passes the suite that every engine passes.

use agentd_engine::conformance;
use agentd_engine_native::Native;

#[test]
fn native_conforms() {
    assert_eq!(conformance::failures(&Native::new()), Vec::<String>::new());
}
