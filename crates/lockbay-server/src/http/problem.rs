//! Errors as they leave the server: `application/problem+json` (RFC 9457).
//!
//! The one table from the library's kinds to HTTP statuses is [`status_of`]. The library knows no
//! HTTP, and no handler picks a status of its own.

use std::fmt;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lockbay::{Error, ErrorKind};
use serde::Serialize;
use utoipa::ToSchema;

use super::caller::current_request;
use super::openapi::ProblemType;

/// A refusal with everything a client needs in order to act on it.
#[derive(Debug)]
pub(crate) struct Problem(Box<Body>);

/// What went wrong, as RFC 9457 writes it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body {
    /// What kind of problem it is. It stays the same from version to version.
    #[serde(rename = "type")]
    #[schema(value_type = ProblemType)]
    kind: String,
    /// The kind in words.
    title: &'static str,
    /// The status of the answer.
    #[serde(serialize_with = "number")]
    #[schema(value_type = u16, minimum = 400, maximum = 599)]
    status: StatusCode,
    /// What is wrong with which value, and what to do next.
    detail: String,
    /// Whether the same call may simply be made again later.
    retryable: bool,
    /// Who has what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    holder: Option<String>,
    /// The job that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    job_id: Option<String>,
    /// Which of its attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    attempt: Option<u32>,
    /// After how many milliseconds to ask again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
    /// By which it is found in the log and in the audit trail.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    request_id: Option<String>,
}

fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    /// A problem of this kind with its usual status.
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Problem(Box::new(Body {
            kind: type_of(kind),
            title: title_of(kind),
            status: status_of(kind),
            detail: detail.into(),
            retryable: kind.retryable(),
            holder: None,
            job_id: None,
            attempt: None,
            retry_after_ms: None,
            request_id: current_request(),
        }))
    }

    /// The request is wrong, and nothing was done.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Problem::new(ErrorKind::Invalid, detail)
    }

    /// The request is wrong in a way that HTTP has a word for.
    pub(crate) fn refused(status: StatusCode, detail: impl Into<String>) -> Self {
        let mut problem = Problem::invalid(detail);
        problem.0.status = status;
        problem
    }

    /// The caller has not shown who they are.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Problem::new(ErrorKind::Unauthorized, detail)
    }

    /// The caller may not ask for this.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        let mut problem = Problem::new(ErrorKind::Unauthorized, detail);
        problem.0.kind = "/problems/forbidden".into();
        problem.0.title = "not allowed";
        problem.0.status = StatusCode::FORBIDDEN;
        problem
    }

    /// Somebody has it.
    pub(crate) fn held(detail: impl Into<String>, holder: String, after: Duration) -> Self {
        Problem::new(ErrorKind::Held, detail).holder(holder).retry_after(after)
    }

    /// Says who has it.
    pub(crate) fn holder(mut self, holder: String) -> Self {
        self.0.holder = Some(holder);
        self
    }

    /// Says which job this is about, and which of its attempts.
    pub(crate) fn job(mut self, job_id: String, attempt: u32) -> Self {
        self.0.job_id = Some(job_id);
        self.0.attempt = Some(attempt);
        self
    }

    /// Says that asking again does not help.
    fn final_answer(mut self) -> Self {
        self.0.retryable = false;
        self
    }

    /// Says when to ask again.
    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if error.kind() == ErrorKind::Internal {
            tracing::error!(%error, "internal error");
        }
        let problem = Problem::new(error.kind(), error.to_string());
        match error.retry_after() {
            Some(after) => problem.retry_after(after),
            // Nothing lapses by itself here: asking again changes nothing.
            None if error.kind() == ErrorKind::Held => problem.final_answer(),
            None => problem,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).unwrap_or_else(|_| b"{}".to_vec());
        let mut response = (self.0.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.0.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.0.retryable {
            let seconds = self.0.retry_after_ms.unwrap_or_default().div_ceil(1_000).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The stable type. The list of types is fixed and has no word for a refusal by the business, which
/// so shares one with the request that is wrong; its status tells them apart.
fn type_of(kind: ErrorKind) -> String {
    let kind = if kind == ErrorKind::Refused { ErrorKind::Invalid } else { kind };
    format!("/problems/{}", kind.name())
}

/// The table from kinds to statuses.
fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Held | ErrorKind::Fenced => StatusCode::CONFLICT,
        ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::KeyReused | ErrorKind::Refused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Unavailable | ErrorKind::RolledBack => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Unknown => StatusCode::GATEWAY_TIMEOUT,
        // The enum may grow; what we do not know yet is a defect of ours.
        ErrorKind::Internal | _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn title_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Held => "held by somebody else",
        ErrorKind::Busy => "a limit is reached",
        ErrorKind::Fenced => "the right is gone",
        ErrorKind::KeyReused => "the key was used with other parameters",
        ErrorKind::Refused => "refused by the business",
        ErrorKind::NotFound => "not found",
        ErrorKind::Invalid => "the request is wrong",
        ErrorKind::Unauthorized => "not authorized",
        ErrorKind::Unavailable => "the store cannot be reached",
        ErrorKind::Unknown => "the outcome is unknown",
        ErrorKind::RolledBack => "the store has lost data",
        ErrorKind::Internal | _ => "a defect of this server",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_status_of_its_class() {
        for kind in ErrorKind::ALL {
            let status = Problem::new(kind, "").0.status;
            let ours = matches!(
                kind,
                ErrorKind::Unavailable
                    | ErrorKind::RolledBack
                    | ErrorKind::Unknown
                    | ErrorKind::Internal
            );
            assert_eq!(status.is_server_error(), ours, "{kind:?} is {status}");
        }
    }

    #[test]
    fn a_refusal_by_the_business_is_told_apart_by_its_status() {
        let refused = Problem::from(Error::new(ErrorKind::Refused, "too little money"));
        assert_eq!(refused.0.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!((refused.0.kind.as_str(), refused.0.retryable), ("/problems/invalid", false));
    }

    #[test]
    fn a_retry_after_is_rounded_up_to_whole_seconds() {
        let problem = Problem::held("", "web-1".into(), Duration::from_millis(1_001));
        assert_eq!(problem.into_response().headers()[RETRY_AFTER], "2");
    }
}
