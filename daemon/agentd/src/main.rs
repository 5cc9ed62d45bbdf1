//! The daemon: config, wiring, the reconciler, the local API.

fn main() {}
