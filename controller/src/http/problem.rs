//! Errors of the API: problem details (RFC 9457), each with what to do next.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use crate::chain::chain;

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:fleetmend:problem:` and one of the words in `docs/api.md`; never changes its meaning.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    pub status: u16,
    /// What is wrong with this request, and what to do.
    pub detail: String,
    /// Each parameter or field that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<WrongField>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrongField {
    pub field: String,
    pub detail: String,
}

impl Problem {
    #[must_use]
    pub fn new(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:fleetmend:problem:{kind}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
        }
    }

    /// 400: `field` of the path, query or body cannot be read.
    #[must_use]
    pub fn wrong_field(field: &str, detail: impl std::fmt::Display) -> Self {
        Self::wrong_fields(vec![WrongField { field: field.to_owned(), detail: detail.to_string() }])
    }

    /// 400 that names every wrong field.
    #[must_use]
    pub fn wrong_fields(errors: Vec<WrongField>) -> Self {
        let detail: Vec<_> = errors.iter().map(|error| format!("{}: {}", error.field, error.detail)).collect();
        let problem = Self::new(StatusCode::BAD_REQUEST, "invalid-request", detail.join("; "));
        Self { errors, ..problem }
    }

    /// 404: `what` by that name does not exist.
    #[must_use]
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("there is no {what}"))
    }

    /// 409: the thing stands where this cannot be done.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 500, logged here with its whole chain; the person sees none of it.
    #[must_use]
    pub fn internal(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %chain(error), "cannot {doing}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the controller failed; its log says why")
    }

    /// 503, logged here with its whole chain.
    #[must_use]
    pub fn unavailable(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %chain(error), "cannot {doing}: the database does not answer");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "database-unavailable",
            "the controller's database does not answer; try again in a moment",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
