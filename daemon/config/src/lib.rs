//! The daemon's configuration: `/etc/agentd/agentd.toml`, then `conf.d/*.toml` beside it, then the command line.
//!
//! In: files and `key=value` settings. Out: a checked [`Config`] in which nothing is left to guess, with the origin of
//! every value; or every problem at once, each with its file, line and what to write instead. Reads files, nothing
//! else; secrets are paths here and never values.

mod config;
mod duration;
mod key;
mod load;

pub use config::{Broker, Config, Device, Log, LogLevel, Measure, Security, Serving, Store, Tls};
pub use duration::{BadDuration, parse_duration};
pub use key::{KEYS, Key, Shape};
pub use load::{ConfigError, DEFAULT_FILE, Origin, Problem, Setting, Settings};
