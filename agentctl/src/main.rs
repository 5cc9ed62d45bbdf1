//! The command line of agentd, for one machine and for a fleet.

fn main() {}
