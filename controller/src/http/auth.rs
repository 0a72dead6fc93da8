//! The gate before every route: who is calling, may they, and do they ask only what the route knows.
//!
//! SECURITY: bearer tokens alone. Nothing is taken from cookies, so no page of another site can act for an operator; an
//! agent's certificate means nothing here. Tokens are 256 random bits and looked up by their SHA-256, so neither the
//! database nor the time a look-up takes tells a token.

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use fleetmend_proto::clock::wall_now;

use super::{ApiState, problem::Problem, request::Params, role::Role, routes::Policy};
use crate::secret;

/// What stands before one route.
#[derive(Clone)]
pub struct Gate {
    pub state: ApiState,
    pub policy: Policy,
    pub query: &'static [&'static str],
}

/// Who is calling: the name their token was given.
#[derive(Clone, Debug)]
pub struct Caller {
    pub name: String,
    pub role: Role,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    /// There on every route that is not open; its absence elsewhere is a bug and refuses.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| no_token("send a token"))
    }
}

/// Lets a request through to its handler, or answers it.
pub async fn pass(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    if let Policy::Roles(roles) = gate.policy {
        match caller(&gate.state, request.headers()).await {
            Err(problem) => return challenge(problem),
            Ok(caller) if !roles.contains(&caller.role) => {
                return forbidden(&caller, roles).into_response();
            }
            Ok(caller) => {
                request.extensions_mut().insert(caller);
            }
        }
    }
    match Params::read(request.uri(), gate.query) {
        Err(problem) => problem.into_response(),
        Ok(params) => {
            request.extensions_mut().insert(params);
            next.run(request).await
        }
    }
}

async fn caller(state: &ApiState, headers: &HeaderMap) -> Result<Caller, Problem> {
    let token = bearer(headers)?;
    let found = state.store.api_token_find(secret::hash(token), wall_now()).await?;
    // One answer for unknown, expired and revoked: it tells a stranger nothing.
    let token = found.ok_or_else(|| no_token("the token is unknown, expired or revoked; ask for a new one"))?;
    let role = Role::from_word(&token.role).ok_or_else(|| {
        tracing::error!(token = %token.id, "this version does not know the role of an API token");
        no_token("the token's role is not known to this controller; ask for a new one")
    })?;
    Ok(Caller { name: token.name, role })
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(no_token("send one header `Authorization: Bearer fm_...`"));
    };
    value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| secret::has_form(secret::Kind::Api, token))
        .ok_or_else(|| no_token("send one header `Authorization: Bearer fm_...`"))
}

fn no_token(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "not-authenticated", detail)
}

fn challenge(problem: Problem) -> Response {
    let is_challenge = problem.status == StatusCode::UNAUTHORIZED.as_u16();
    let mut response = problem.into_response();
    if is_challenge {
        let value = HeaderValue::from_static("Bearer realm=\"fleetmend\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

fn forbidden(caller: &Caller, roles: &[Role]) -> Problem {
    let roles: Vec<_> = roles.iter().map(|role| role.word()).collect();
    let detail =
        format!("the token {:?} has the role {}; this needs {}", caller.name, caller.role.word(), roles.join(" or "));
    Problem::new(StatusCode::FORBIDDEN, "not-permitted", detail)
}
