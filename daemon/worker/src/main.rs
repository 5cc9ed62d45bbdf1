//! The program that hosts engines away from the daemon.

fn main() {}
