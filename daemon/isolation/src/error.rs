//! How a worker fails.

use std::{fmt, io, path::PathBuf, time::Duration};

use agentd_engine::EngineError;
use agentd_types::{ByteCount, Code, Coded};

/// Why a worker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program cannot be run.
    #[error("cannot run the worker program `{path}`")]
    Spawn {
        /// The program.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A system call that prepares the worker failed.
    #[error("cannot prepare a worker: {what}")]
    Prepare {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It runs but did not get ready.
    #[error("the worker did not get ready")]
    Ready(#[source] WorkerError),
}

/// Why a worker did not answer. After `Deadline`, `Died` and `Protocol` the process is gone and every further call
/// says `Died`; after the others it can be asked again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WorkerError {
    /// The engine says no.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No answer in time; the worker was killed.
    #[error("no answer within {} while it should {doing}; the worker was killed", agentd_types::human_duration(*.after))]
    Deadline {
        /// What it was asked to do.
        doing: &'static str,
        /// How long it had.
        after: Duration,
    },
    /// The process ended.
    #[error("the worker died: {how}")]
    Died {
        /// How it ended.
        how: Death,
    },
    /// The worker broke the rules of the boundary; it was killed.
    #[error("the worker broke the protocol ({what}) and was killed")]
    Protocol {
        /// What it did.
        what: &'static str,
    },
    /// The tensors of a request or an answer are larger than the limits allow.
    #[error("{what} of {bytes} exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: ByteCount,
        /// The limit.
        limit: ByteCount,
    },
    /// A request before any model was loaded.
    #[error("no model is loaded in this worker")]
    NoModel,
    /// A system call on our side failed.
    #[error("cannot reach the worker: {what}: {message}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        message: String,
    },
}

impl WorkerError {
    /// Whether the process is gone, so that a new worker is needed.
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Deadline { .. } | Self::Died { .. } | Self::Protocol { .. })
    }
}

impl Coded for WorkerError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::Engine(error) => return error.code(),
            Self::Deadline { .. } => "worker.deadline",
            Self::Died { .. } => "worker.died",
            Self::Protocol { .. } => "worker.protocol",
            Self::TooLarge { .. } => "worker.too_large",
            Self::NoModel => "worker.no_model",
            Self::System { .. } => "worker.system",
        })
    }
}

impl Coded for StartError {
    fn code(&self) -> Code {
        match self {
            Self::Ready(error) => error.code(),
            Self::Spawn { .. } | Self::Prepare { .. } => Code::new("worker.start"),
        }
    }
}

/// How a worker process ended, with the last words it wrote to its error output (bounded, printable).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Its exit status, if it exited by itself.
    pub exit: Option<i32>,
    /// What probably happened, for people.
    pub cause: &'static str,
    /// The end of its error output; empty when it said nothing.
    pub last_words: String,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause)?;
        match (self.signal, self.exit) {
            (Some(signal), _) => write!(f, " (signal {signal})")?,
            (None, Some(exit)) => write!(f, " (exit status {exit})")?,
            (None, None) => {}
        }
        if self.last_words.is_empty() { Ok(()) } else { write!(f, ", last words: {}", self.last_words) }
    }
}
