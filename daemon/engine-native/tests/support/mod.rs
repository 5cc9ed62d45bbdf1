//! What several test programs hold models to.

use std::sync::{Arc, Mutex};

use agentd_engine_native::{Isa, Model, Options, Team};
use agentd_plan::{Array, Graph, Numerics};

/// Holds 2, 3 and 5 threads against one, bit by bit.
#[track_caller]
pub(crate) fn same_bits_on_any_number_of_threads(graph: &Arc<Graph>, inputs: &[Array]) {
    let options = Options { isa: Isa::detect(), numerics: Numerics::Fast };
    let model = || Model::new(Arc::clone(graph), options).unwrap();
    let alone = model().run_arrays(inputs).unwrap();
    for threads in [2, 3, 5] {
        let mut model = model().with_team(Arc::new(Mutex::new(Team::new(threads))));
        for _ in 0..3 {
            assert_eq!(model.run_arrays(inputs).unwrap(), alone, "{threads} threads");
        }
    }
}
