//! What a command fails with: what failed, why, what to do, and a code to search for.

use std::{error::Error, process::ExitCode};

use agentd_client::ClientError;
use agentd_types::{Code, Coded, chain};

/// For whoever may not connect to a socket of the daemon; `agentctl doctor` says who may.
const JOIN: &str =
    "sudo adduser $USER agentd-admin (for predictions: agentd), then log in again; or use sudo";

/// How a command ends; printed in the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// The answer is no: unhealthy, validation failed, no match.
    No = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The daemon or the broker cannot be reached.
    Unreachable = 3,
    /// Refused by policy, signature or permission.
    Refused = 4,
    /// It took too long.
    TimedOut = 5,
    /// A part of a fleet failed.
    Partial = 6,
    /// A defect of this program.
    Defect = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    what: String,
    cause: Option<String>,
    hint: Option<String>,
    code: Option<Code>,
    exit: Exit,
}

impl Failure {
    /// `what` could not be done, for example ``cannot roll back model `belt-camera` ``.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None, hint: None, code: None, exit: Exit::No }
    }

    /// `what` could not be done because the daemon gave no answer or said no; its own hint is passed on.
    pub(crate) fn of_client(what: &str, error: &ClientError) -> Self {
        let failure = Self::new(what).coded(error);
        match error {
            ClientError::Unreachable { source, .. } => {
                let may_not = source.kind() == std::io::ErrorKind::PermissionDenied;
                let hint = if may_not { JOIN } else { "systemctl status agentd" };
                failure.hint(hint).exit_with(Exit::Unreachable)
            }
            ClientError::TimedOut(_) => failure.exit_with(Exit::TimedOut),
            ClientError::Garbled(_) => failure.exit_with(Exit::Defect),
            ClientError::Refused { status, detail } => {
                let failure = failure.exit_with(if *status == 404 { Exit::No } else { Exit::Refused });
                detail.hint.iter().cloned().fold(failure, Self::hint)
            }
        }
    }

    /// What could not be done.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Because of `error` and all its sources.
    pub(crate) fn because(self, error: &dyn Error) -> Self {
        self.cause(chain(error))
    }

    /// Because of an error that has a stable code.
    pub(crate) fn coded(self, error: &(impl Coded + 'static)) -> Self {
        let code = error.code();
        self.because(error).code(code)
    }

    /// Because of `cause`.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// What the person can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The stable code.
    pub(crate) fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    /// The exit status; [`Exit::No`] when not said.
    pub(crate) const fn exit_with(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// How the program ends.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// The lines that people read.
    pub(crate) fn lines(&self) -> Vec<(&'static str, &str)> {
        let mut lines = vec![("error: ", self.what.as_str())];
        lines.extend(self.cause.as_deref().map(|cause| ("  cause: ", cause)));
        lines.extend(self.hint.as_deref().map(|hint| ("  hint:  ", hint)));
        lines
    }

    /// The code, for people and machines.
    pub(crate) fn code_str(&self) -> Option<&str> {
        self.code.as_ref().map(Code::as_str)
    }

    /// The error as a JSON document.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "schema": agentd_wire::SCHEMA,
            "error": {
                "message": self.what, "cause": self.cause, "hint": self.hint,
                "code": self.code_str(), "exit": self.exit as u8,
            },
        })
    }
}
