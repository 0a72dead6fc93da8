//! `/catalog`: what Fleetmend knows of error codes. The same rows, under the same names, as `fleetmend catalog`.

use axum::{Json, extract::State};
use fleetmend_domain::catalogue::{Category, Entry};
use fleetmend_proto::HResult;

use super::{
    ApiState,
    problem::Problem,
    request::{Named, Params},
    views::Page,
};

/// Filters of the list.
pub const FILTERS: &[&str] = &["category"];

/// `GET /catalog`: all rows on one page; they are part of the program and few.
pub async fn list(State(state): State<ApiState>, params: Params) -> Result<Json<Page<Entry>>, Problem> {
    let category = params.word("category", Category::ALL, Category::from_word, Category::word)?;
    let entries = state.catalogue.entries().iter();
    let items = entries.filter(|entry| category.is_none_or(|category| entry.category == category)).cloned().collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// `GET /catalog/{code}`.
pub async fn show(State(state): State<ApiState>, Named(code): Named<HResult>) -> Result<Json<Entry>, Problem> {
    let entry = state.catalogue.get(code).ok_or_else(|| {
        let entry = state.catalogue.resolve(code);
        Problem::not_found(format_args!("{code} in the catalogue; {}", entry.advice))
    })?;
    Ok(Json(entry.clone()))
}
