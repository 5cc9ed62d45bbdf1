//! Stable error codes: the same in logs, reports, JSON and the manual.

use std::{borrow::Cow, error::Error, fmt};

use serde::{Deserialize, Serialize};

/// A stable, searchable name of a failure, such as `verify.rollback`: an area, a dot, a cause.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(Cow<'static, str>);

impl Code {
    /// A code known at compile time.
    pub const fn new(code: &'static str) -> Self {
        Self(Cow::Borrowed(code))
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error that has a stable code.
pub trait Coded: Error {
    /// The code that logs, reports and JSON carry.
    fn code(&self) -> Code;

    /// Whether trying the same again later can succeed without anybody changing anything.
    fn is_transient(&self) -> bool {
        false
    }
}

/// The message of an error and of all its sources, joined by `: `.
///
/// Our errors never repeat their source, so the chain reads as one sentence.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
