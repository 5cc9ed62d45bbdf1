//! The process boundary, both ends: spawn, shared memory, deadlines.
