//! One command that shows the whole product; holds the embedded broker.

fn main() {}
