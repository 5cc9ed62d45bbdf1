//! tract passes the suite that every engine passes.

use agentd_engine::conformance;
use agentd_engine_tract::Tract;

#[test]
fn tract_conforms() {
    assert_eq!(conformance::failures(&Tract::new()), Vec::<String>::new());
}
