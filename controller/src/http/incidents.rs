//! `/incidents`: one update failing on one device, and everything that happened to it.

use axum::{Json, extract::State};
use fleetmend_domain::incident::StateName;
use fleetmend_proto::IncidentId;

use super::{
    ApiState,
    auth::Caller,
    devices::reason_of,
    problem::Problem,
    request::{Body, Named, Params},
    views::{
        Page, Reason,
        incident::{Incident, IncidentDetail},
        timeline::Moment,
    },
};
use crate::store::{IncidentFilter, IncidentRow};

/// Parameters of the list.
pub const FILTERS: &[&str] = &["state", "device", "code", "tier", "open", "limit", "cursor"];

/// `GET /incidents`: newest first.
pub async fn list(State(state): State<ApiState>, params: Params) -> Result<Json<Page<Incident>>, Problem> {
    let filter = IncidentFilter {
        state: params.word("state", StateName::ALL, StateName::from_word, StateName::word)?,
        device: params.parsed("device")?,
        code: params.parsed("code")?,
        tier: params.parsed("tier")?,
        open: params.flag("open")?,
    };
    let page = state.store.incident_list(&filter, &params.page()?).await?;
    Ok(Json(Page::new(page, Incident::from)))
}

/// `GET /incidents/{id}`: what its code means, and its whole story.
pub async fn show(
    State(state): State<ApiState>,
    Named(id): Named<IncidentId>,
) -> Result<Json<IncidentDetail>, Problem> {
    let incident = Incident::from(get(&state, id).await?);
    let story = state.store.incident_timeline(id).await?;
    let (timeline, truncated) = (story.moments.into_iter().map(Moment::from).collect(), story.truncated);
    let entry = state.catalogue.resolve(incident.code).into_owned();
    let (symbol, category, advice) = (entry.symbol, entry.category, entry.advice);
    Ok(Json(IncidentDetail { incident, symbol, category, advice, timeline, truncated }))
}

/// `POST /incidents/{id}/dismiss`: a person ends it; its orders are cancelled.
pub async fn dismiss(
    State(state): State<ApiState>,
    caller: Caller,
    Named(id): Named<IncidentId>,
    body: Option<Body<Reason>>,
) -> Result<Json<Incident>, Problem> {
    let reason = reason_of(body)?;
    state.store.incident_dismiss(id, &caller.name, &reason, state.clock.now()).await?;
    tracing::info!(incident_id = %id, by = caller.name, "incident dismissed");
    state.nudges.dispatch();
    state.nudges.renew();
    Ok(Json(get(&state, id).await?.into()))
}

async fn get(state: &ApiState, id: IncidentId) -> Result<IncidentRow, Problem> {
    state.store.incident_get(id).await?.ok_or_else(|| Problem::not_found(format_args!("incident {id}")))
}
