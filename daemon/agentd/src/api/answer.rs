//! The form of every answer.

use agentd_types::{BadName, Code, Coded, ModelName, chain};
use agentd_wire::{ErrorBody, ErrorDetail, Versioned};
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{authority::AcceptError, operate::OperateError};

/// A body with its schema number, or a problem.
pub(super) type Answer<T> = Result<Json<Versioned<T>>, Problem>;

/// A success.
#[expect(clippy::unnecessary_wraps, reason = "the form of every answer")]
pub(super) const fn ok<T>(body: T) -> Answer<T> {
    Ok(Json(Versioned::new(body)))
}

/// What failed.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: ErrorDetail,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, detail: ErrorDetail { code: Code::new(code), message: message.into(), hint: None } }
    }

    /// A failure of ours.
    pub(super) fn of(error: &(impl Coded + 'static)) -> Self {
        let detail = ErrorDetail { code: error.code(), message: chain(error), hint: None };
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, detail }
    }

    pub(super) fn with(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.detail.hint = Some(hint.into());
        self
    }

    pub(super) fn unknown_model(name: &ModelName) -> Self {
        let message = format!("this device does not know a model `{name}`");
        Self::new(StatusCode::NOT_FOUND, "model.unknown", message).hint("agentctl model list")
    }

    pub(super) fn never_placed(name: &ModelName) -> Self {
        let message = format!("model `{name}` was never placed on this device");
        Self::new(StatusCode::NOT_FOUND, "placement.never", message).hint("agentctl model list")
    }

    pub(super) fn bad_name(error: &BadName) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "model.name", error.to_string())
    }

    pub(super) fn no_such_call() -> Self {
        Self::new(StatusCode::NOT_FOUND, "api.unknown", "the local API has no such call")
    }

    pub(super) fn ending() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "daemon.ending", "the daemon is ending")
    }
}

impl From<OperateError> for Problem {
    fn from(error: OperateError) -> Self {
        let status = match &error {
            OperateError::Unknown(_) => StatusCode::NOT_FOUND,
            OperateError::NoOther { .. }
            | OperateError::NotHeld { .. }
            | OperateError::Barred { .. }
            | OperateError::NothingToRetry(_) => StatusCode::CONFLICT,
            OperateError::Loading { .. } => StatusCode::GATEWAY_TIMEOUT,
            OperateError::Record(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::of(&error).with(status).hint("agentctl model list")
    }
}

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        let refused = matches!(error, AcceptError::Reject(_));
        let problem = Self::of(&error);
        if refused { problem.with(StatusCode::FORBIDDEN) } else { problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.detail })).into_response()
    }
}
