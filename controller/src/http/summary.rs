//! `/summary`: counts over the whole fleet.

use axum::{Json, extract::State};

use super::{ApiState, problem::Problem, views::summary::Summary};

/// `GET /summary`.
pub async fn show(State(state): State<ApiState>) -> Result<Json<Summary>, Problem> {
    let counts = state.store.summary().await?;
    Ok(Json(Summary::new(counts, state.store.connected_count().await?)))
}
