//! Operator-facing HTTP: the JSON API under `/api/v1`, health and readiness. From a checked request to one store call and
//! back; no decisions, no SQL. The route table says who may do what.

mod auth;
mod catalog;
mod devices;
mod health;
mod incidents;
mod orders;
pub mod problem;
mod request;
mod respond;
mod role;
mod routes;
mod summary;
pub mod views;

use std::{path::PathBuf, sync::Arc};

use fleetmend_domain::catalogue::Catalogue;
use fleetmend_proto::Clock;

use crate::{
    nudge::Nudges,
    store::{Store, StoreError},
    streams::Streams,
};

pub use problem::Problem;
pub use role::Role;
pub use routes::{Policy, ROUTES, Route, Verb, router};

/// What the handlers work with; cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    pub store: Store,
    /// Domain time: when people ask for remedies. Tokens expire by the wall clock.
    pub clock: Arc<dyn Clock>,
    pub catalogue: &'static Catalogue,
    pub nudges: Nudges,
    /// Streams of this process: who is connected, and whom a ban cuts off.
    pub streams: Streams,
    /// Where a full disk would stop this controller.
    pub data_dir: PathBuf,
    /// Largest request body, in bytes (`limits.operators.max_body`).
    pub max_body: usize,
}

/// A store's error as an answer.
fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::NotFound { what, id } => Problem::not_found(format_args!("{what} {id}")),
        StoreError::Conflict { reason, .. } => Problem::conflict(reason.clone()),
        StoreError::Invalid { field, reason } => Problem::wrong_field(field, reason),
        StoreError::Unreachable { .. } | StoreError::Busy { .. } => Problem::unavailable("serve a request", error),
        StoreError::BadUrl { .. }
        | StoreError::NewerSchema { .. }
        | StoreError::OlderSchema { .. }
        | StoreError::OtherFleet { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Database { .. } => Problem::internal("serve a request", error),
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        store_problem(&error)
    }
}
