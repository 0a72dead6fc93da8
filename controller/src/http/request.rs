//! Reading requests strictly: what is unknown or malformed is refused with the name of the field, never skipped.

use std::{fmt::Display, str::FromStr};

use axum::{
    body::{Bytes, HttpBody as _},
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, Path, Query, Request},
    http::{StatusCode, Uri, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{
    ApiState,
    problem::{Problem, WrongField},
};
use crate::store::{DEFAULT_LIMIT, MAX_LIMIT, PageRequest};

const MAX_CURSOR: usize = 1024;

/// The query string's parameters. Which names a route takes stands in its row of the route table.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Reads the query of `uri`, which may hold `allowed` names, each once.
    ///
    /// # Errors
    /// 400 that names every parameter that is unknown or repeated.
    pub fn read(uri: &Uri, allowed: &[&str]) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Problem::wrong_field("query", "is not valid percent-encoded UTF-8"))?;
        let mut errors = Vec::new();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if !allowed.contains(&name.as_str()) {
                let detail = match allowed {
                    [] => "unknown parameter; this route takes none".to_owned(),
                    known => format!("unknown parameter; this route takes {}", known.join(", ")),
                };
                errors.push(WrongField { field: name.chars().take(64).collect(), detail });
            } else if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
                errors.push(WrongField { field: name.clone(), detail: "given more than once".to_owned() });
            }
        }
        if errors.is_empty() { Ok(Self(pairs)) } else { Err(Problem::wrong_fields(errors)) }
    }

    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The parameter as a `T`, `None` when it was not given.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn parsed<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.text(name).map(|text| text.parse().map_err(|error| Problem::wrong_field(name, error))).transpose()
    }

    /// The parameter as one of a closed vocabulary.
    ///
    /// # Errors
    /// 400 that names the parameter and every word it may be.
    pub fn word<T: Copy>(
        &self,
        name: &str,
        all: &[T],
        from_word: fn(&str) -> Option<T>,
        word: fn(T) -> &'static str,
    ) -> Result<Option<T>, Problem> {
        let read = |text| {
            from_word(text).ok_or_else(|| {
                let known: Vec<_> = all.iter().map(|it| word(*it)).collect();
                Problem::wrong_field(name, format_args!("{text:?} is none of {}", known.join(", ")))
            })
        };
        self.text(name).map(read).transpose()
    }

    /// `true` or `false`; not given = `false`.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::wrong_field(name, "must be true or false")),
        }
    }

    /// Which page: `limit` rows after `cursor`.
    ///
    /// # Errors
    /// 400 when the limit is no number from 1 to [`MAX_LIMIT`] or the cursor could not be one.
    pub fn page(&self) -> Result<PageRequest, Problem> {
        let wrong = || Problem::wrong_field("limit", format_args!("must be a number from 1 to {MAX_LIMIT}"));
        let limit = match self.text("limit") {
            None => DEFAULT_LIMIT,
            Some(text) => text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(wrong)?,
        };
        let cursor = self.text("cursor");
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if cursor.is_some_and(|text| text.is_empty() || text.len() > MAX_CURSOR || !plain(text)) {
            return Err(Problem::wrong_field("cursor", "must be the next_cursor of the page before"));
        }
        Ok(PageRequest { cursor: cursor.map(str::to_owned), limit: Some(limit) })
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    /// The gate of the route has read and checked them already.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// The last part of the path: an id or a code.
#[derive(Clone, Copy, Debug)]
pub struct Named<T>(pub T);

impl<S: Sync + Send, T: FromStr<Err: Display>> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let Path(params) = Path::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::wrong_field("path", "is not valid percent-encoded UTF-8"))?;
        let Some((name, text)) = params.into_iter().next() else {
            return Err(Problem::not_found("such resource"));
        };
        text.parse().map(Self).map_err(|error| Problem::wrong_field(&name, error))
    }
}

impl<T: DeserializeOwned> OptionalFromRequest<ApiState> for Body<T> {
    type Rejection = Problem;

    /// `None` for a request without a body; one that says it has one must have a good one.
    async fn from_request(request: Request, state: &ApiState) -> Result<Option<Self>, Self::Rejection> {
        if !request.headers().contains_key(header::CONTENT_TYPE) && request.body().is_end_stream() {
            return Ok(None);
        }
        <Self as FromRequest<ApiState>>::from_request(request, state).await.map(Some)
    }
}

/// A JSON body whose every field is known.
#[derive(Clone, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<ApiState> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Self::Rejection> {
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.split(';').next().unwrap_or_default().trim() == "application/json");
        if !is_json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "send a JSON body with content-type application/json",
            ));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let detail = format!("a request body may hold {} bytes at most; send less at a time", state.max_body);
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
            } else {
                Problem::wrong_field("body", "ended early")
            }
        })?;
        // An array would fill the fields by position.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::wrong_field("body", "must be a JSON object"));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| Problem::wrong_field("body", error))
    }
}
