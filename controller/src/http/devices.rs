//! `/devices`: the PCs of the fleet; letting them in, throwing them out, asking for a remedy.

use std::collections::HashSet;

use axum::{Json, extract::State};
use fleetmend_proto::{
    DeviceId,
    v1::{self, directive::Kind},
};

use super::{
    ApiState,
    auth::Caller,
    problem::{Problem, WrongField},
    request::{Body, Named, Params},
    views::{
        Page, Reason,
        device::{ApproveSerials, Approved, Ban, Device, DeviceDetail, Remediate, Remediated},
        incident::Incident,
    },
};
use crate::store::{DeviceFilter, DeviceRow, DeviceState, IncidentFilter, Selector};

/// Parameters of the list.
pub const FILTERS: &[&str] = &["state", "name", "limit", "cursor"];
/// Serial numbers of one request, and the longest.
const MAX_SERIALS: usize = 1000;
const MAX_SERIAL: usize = 128;
const MAX_REASON: usize = 512;

/// `GET /devices`: by name.
pub async fn list(State(state): State<ApiState>, params: Params) -> Result<Json<Page<Device>>, Problem> {
    let filter = DeviceFilter {
        state: params.word("state", DeviceState::ALL, DeviceState::from_word, DeviceState::word)?,
        name_prefix: params.text("name").map(str::to_owned),
    };
    let page = state.store.device_list(&filter, &params.page()?).await?;
    let ids: Vec<_> = page.items.iter().map(|row| row.id).collect();
    let connected = state.store.devices_connected(&ids).await?;
    Ok(Json(Page::new(page, |row| {
        let connected = connected.contains(&row.id);
        Device::new(row, connected)
    })))
}

/// `GET /devices/{id}`: with its newest condition and the incidents that have not ended.
pub async fn show(State(state): State<ApiState>, Named(id): Named<DeviceId>) -> Result<Json<DeviceDetail>, Problem> {
    let row = get(&state, id).await?;
    let condition = state.store.device_condition(id).await?;
    let filter = IncidentFilter { device: Some(id), open: true, ..IncidentFilter::default() };
    let open = state.store.incident_list(&filter, &Params::default().page()?).await?;
    let open_incidents = open.items.into_iter().map(Incident::from).collect();
    Ok(Json(DeviceDetail { device: device(&state, row).await?, condition, open_incidents }))
}

/// `POST /devices/{id}/approve`: ends its quarantine, or a ban.
pub async fn approve(
    State(state): State<ApiState>,
    caller: Caller,
    Named(id): Named<DeviceId>,
) -> Result<Json<Device>, Problem> {
    state.store.devices_approve(Selector::Id(id), &caller.name, state.clock.now()).await?;
    tracing::info!(device_id = %id, by = caller.name, "device approved");
    state.nudges.decide();
    Ok(Json(device(&state, get(&state, id).await?).await?))
}

/// `POST /devices/approve`: by serial number, those that are here and those that are yet to enrol.
pub async fn approve_serials(
    State(state): State<ApiState>,
    caller: Caller,
    Body(body): Body<ApproveSerials>,
) -> Result<Json<Approved>, Problem> {
    let serials = checked_serials(body.serials)?;
    let approved = state.store.devices_approve(Selector::Serials(serials), &caller.name, state.clock.now()).await?;
    tracing::info!(
        approved = approved.approved.len(),
        expected = approved.remembered.len(),
        by = caller.name,
        "devices approved by serial number"
    );
    state.nudges.decide();
    Ok(Json(approved.into()))
}

/// `POST /devices/{id}/ban`: refused from now on; a stream of this process ends at once, others within seconds.
pub async fn ban(
    State(state): State<ApiState>,
    caller: Caller,
    Named(id): Named<DeviceId>,
    Body(body): Body<Ban>,
) -> Result<Json<Device>, Problem> {
    check_text("reason", &body.reason, MAX_REASON)?;
    state.store.device_ban(id, &body.reason, &caller.name, state.clock.now()).await?;
    state.streams.cut(id);
    tracing::warn!(device_id = %id, by = caller.name, "device banned");
    Ok(Json(device(&state, get(&state, id).await?).await?))
}

/// `POST /devices/{id}/remediate`: its open incidents are decided anew, with what the person asked for.
pub async fn remediate(
    State(state): State<ApiState>,
    caller: Caller,
    Named(id): Named<DeviceId>,
    Body(body): Body<Remediate>,
) -> Result<Json<Remediated>, Problem> {
    let asked = state.store.remediate(id, body.tier, body.now, &caller.name, state.clock.now()).await?;
    if asked.incidents.is_empty() {
        return Err(Problem::conflict(
            "the device has no incident that waits for a remedy: its updates are fine, or an order is out already",
        ));
    }
    tracing::info!(device_id = %id, by = caller.name, tier = ?body.tier, now = body.now, "remedy asked for by hand");
    // The ladder should see the PC as it is now.
    state.streams.push(id, Kind::Refresh(v1::Refresh {}));
    state.nudges.decide();
    Ok(Json(Remediated { incidents: asked.incidents }))
}

async fn get(state: &ApiState, id: DeviceId) -> Result<DeviceRow, Problem> {
    state.store.device_get(id).await?.ok_or_else(|| Problem::not_found(format_args!("device {id}")))
}

async fn device(state: &ApiState, row: DeviceRow) -> Result<Device, Problem> {
    let connected = state.store.devices_connected(&[row.id]).await?.contains(&row.id);
    Ok(Device::new(row, connected))
}

/// Why, as a person gave it; nothing when they did not.
pub(super) fn reason_of(body: Option<Body<Reason>>) -> Result<String, Problem> {
    let Body(Reason { reason }) = body.unwrap_or(Body(Reason::default()));
    check_text("reason", &reason, MAX_REASON)?;
    Ok(reason)
}

/// Each once, none empty, none that could not be a serial number.
fn checked_serials(serials: Vec<String>) -> Result<Vec<String>, Problem> {
    if serials.is_empty() || serials.len() > MAX_SERIALS {
        return Err(Problem::wrong_field("serials", format_args!("give 1 to {MAX_SERIALS} serial numbers")));
    }
    let mut seen = HashSet::new();
    let mut errors = Vec::new();
    let mut kept = Vec::with_capacity(serials.len());
    for (at, serial) in serials.into_iter().enumerate() {
        let serial = serial.trim();
        let fine = !serial.is_empty() && serial.len() <= MAX_SERIAL && !serial.chars().any(char::is_control);
        if !fine {
            let detail = format!("must be 1 to {MAX_SERIAL} bytes of text without control characters");
            errors.push(WrongField { field: format!("serials[{at}]"), detail });
        } else if seen.insert(serial.to_owned()) {
            kept.push(serial.to_owned());
        }
    }
    if errors.is_empty() { Ok(kept) } else { Err(Problem::wrong_fields(errors)) }
}

/// What people write is kept and shown, so it is bounded and plain.
pub(super) fn check_text(field: &str, text: &str, max: usize) -> Result<(), Problem> {
    if text.len() > max || text.chars().any(char::is_control) {
        return Err(Problem::wrong_field(
            field,
            format_args!("must be at most {max} bytes of text without control characters"),
        ));
    }
    Ok(())
}
