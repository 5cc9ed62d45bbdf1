//! What the worker program is made of: the engines, and what it says to people who run it by hand.

mod engines;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use agentd_isolation::host::{self, Host};

pub use engines::Engines;

const HELP: &str = "\
agentd-worker hosts one model for agentd, away from the daemon.

It is not for people: agentd starts it, with `run` and a socket as its standard
input, and ends it. To run a model by hand, use `agentctl model infer` or
`agentctl bench`.

Usage: agentd-worker run | --help | --version
";

/// The whole program: reads its arguments and serves the daemon; `wrap` may put something between it and the engines.
pub fn main<H: Host>(wrap: impl FnOnce(Engines) -> H) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.iter().map(|argument| argument.to_str()).collect::<Vec<_>>().as_slice() {
        [Some("run")] => match host::serve(&mut wrap(Engines::default())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&mut io::stderr(), &format!("agentd-worker: {error}\n"));
                ExitCode::FAILURE
            }
        },
        [Some("--version" | "-V")] => {
            say(&mut io::stdout(), concat!("agentd-worker ", env!("CARGO_PKG_VERSION"), "\n"));
            ExitCode::SUCCESS
        }
        [Some("--help" | "-h")] => {
            say(&mut io::stdout(), HELP);
            ExitCode::SUCCESS
        }
        _ => {
            say(&mut io::stderr(), HELP);
            ExitCode::from(2)
        }
    }
}

/// Writes a text; a reader that is gone is no error.
fn say(to: &mut dyn Write, text: &str) {
    to.write_all(text.as_bytes()).ok();
}
