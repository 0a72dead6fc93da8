//! Whether this process lives, and whether it can do its work. For load balancers and supervisors: no token needed, and
//! nothing of the fleet told.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{ApiState, problem::Problem};

/// `GET /healthz`: the process answers.
pub async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// `GET /readyz`: the database answers, with a schema this binary can work on.
pub async fn ready(State(state): State<ApiState>) -> Result<Json<Value>, Problem> {
    match state.store.schema_check().await {
        Ok(()) => Ok(Json(json!({ "status": "ready" }))),
        Err(error) => Err(Problem::unavailable("say it is ready", &error)),
    }
}
