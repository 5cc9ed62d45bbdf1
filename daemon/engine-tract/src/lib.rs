//! The CPU engine that is always there: tract.
