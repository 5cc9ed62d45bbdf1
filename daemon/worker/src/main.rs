//! The program that hosts engines away from the daemon: `agentd-worker`.
//!
//! In: orders of the daemon that started it, on the socket that is its standard input. Out: answers. Adds the engines
//! to the worker's end of the process boundary; does nothing by itself.

use std::process::ExitCode;

fn main() -> ExitCode {
    agentd_worker::main(|engines| engines)
}
