//! The end of incidents whose update is installed: by a success that was recorded, or by a device's build. Called inside
//! the transaction of a batch, with its devices locked.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use fleetmend_domain::{incident, ladder::Verdict, matching, order};
use fleetmend_proto::UpdateRef;
use serde::Serialize;
use uuid::Uuid;

use super::{DeviceReport, ReportRecorded};
use crate::store::{
    Actor, StoreError,
    engine::{Tx, bulk_fetch, bulk_sql},
    error::During as _,
    events::Event,
    from_json,
    incidents::{self, Live},
    json_text, new_id, orders, verifications,
};

/// Ends incidents whose update a device's build proves to be installed, where the update's title says which build that
/// is: a later cumulative update brings it too, under another name.
pub(super) async fn close_reached(
    tx: &mut Tx,
    reports: &[DeviceReport],
    recorded: &[ReportRecorded],
) -> Result<Vec<Event>, StoreError> {
    let kept = reports.iter().zip(recorded).filter(|(_, answer)| !answer.new_epoch);
    // The newest of each device.
    let builds: HashMap<Uuid, BuildRow> = kept
        .filter_map(|(report, _)| {
            let condition = report.condition.as_ref()?;
            let (device_id, at) = (report.device.0, report.received_at);
            Some((device_id, BuildRow { device_id, os_build: condition.os_build, ubr: condition.ubr, at }))
        })
        .collect();
    let mut log = Vec::new();
    if builds.is_empty() {
        return Ok(log);
    }
    let rows: Vec<_> = builds.values().collect();
    let named: Vec<(Uuid, Uuid, String)> = bulk_fetch!(tx, NAMING_A_BUILD, &rows, "report")?;
    let mut reached = HashMap::new();
    for (id, device, update) in named {
        let update: UpdateRef = from_json("update", &update)?;
        if let Some(row) = builds.get(&device).filter(|row| matching::is_reached(&update, row.os_build, row.ubr)) {
            reached.insert(id, row.at);
        }
    }
    let mut closed = Vec::new();
    for mut live in incidents::load(tx, reached.keys().copied()).await? {
        let Some(at) = reached.get(&live.id).copied() else { continue };
        if live.take(&incident::Event::Installed, at).is_ok() {
            closed.push((live, None, at));
        }
    }
    if !closed.is_empty() {
        close(tx, closed, &mut log).await?;
    }
    Ok(log)
}

const NAMING_A_BUILD: [&str; 2] = bulk_sql!(
    "SELECT i.id, i.device_id, i.update_ref FROM " [device_id: uuid, os_build: bigint]
    " JOIN incidents i ON i.device_id = r.device_id AND i.closed_at IS NULL AND i.kind = 'quality' \
     AND i.title LIKE '%(' || r.os_build || '.%'"
);

/// The build of a device as its condition says.
#[derive(Serialize)]
struct BuildRow {
    device_id: Uuid,
    os_build: u32,
    ubr: u32,
    at: DateTime<Utc>,
}

/// An incident to end, the position of the success (`None` = the device's build proves it), and when.
pub(super) type Closed = (Live, Option<(i64, i64)>, DateTime<Utc>);

/// Ends incidents whose update is installed: credits the order that did it, cancels what has not begun.
pub(super) async fn close(tx: &mut Tx, closed: Vec<Closed>, log: &mut Vec<Event>) -> Result<(), StoreError> {
    let mut rows = orders::load_of_incidents(tx, closed.iter().map(|(live, ..)| live.id)).await?;
    let installed = json_text(&Verdict::Installed)?;
    let mut proofs = Vec::new();
    let mut changed = HashSet::new();
    for (live, position, at) in &closed {
        // The newest order that had begun before the success was recorded.
        let credited = rows.iter_mut().rfind(|order| {
            order.incident_id == live.id
                && order.state.has_begun()
                && position.is_none_or(|(epoch, seq)| (order.begin_epoch, order.begin_seq) < (Some(epoch), Some(seq)))
        });
        let order_id = credited.map(|order| {
            order.verdict = Some(installed.clone());
            changed.insert(order.id);
            order.id
        });
        proofs.push(verifications::Kept {
            id: new_id(),
            incident_id: live.id,
            order_id,
            verdict: installed.clone(),
            epoch: position.map(|at| at.0),
            seq: position.map(|at| at.1),
            at: *at,
        });
        for order in rows.iter_mut().filter(|order| order.incident_id == live.id) {
            if matches!(order.state, order::State::Queued | order::State::Leased)
                && order.take(order::Event::Cancelled, *at).is_ok()
            {
                "the update was installed before the order began".clone_into(&mut order.detail);
                log.push(orders::ended_change(order, &Actor::Device(live.device()), *at));
                changed.insert(order.id);
            }
        }
    }
    rows.retain(|order| changed.contains(&order.id));
    orders::save(tx, &rows).await?;
    verifications::keep(tx, &proofs).await?;
    let attempts = orders::attempts(tx, closed.iter().map(|(live, ..)| live.id)).await?;
    let mut ended = Vec::with_capacity(closed.len());
    for (mut live, _, at) in closed {
        live.fixed_by = incidents::fixed_by(attempts.get(&live.id).map_or(&[], Vec::as_slice));
        let data = serde_json::json!({ "fixed_by": live.fixed_by });
        log.push(
            Event::new(&Actor::Device(live.device()), "incident_resolved", at)
                .device(live.device())
                .incident(live.incident())
                .data(&data),
        );
        ended.push(live);
    }
    // Opened by this very batch: the row is at generation 1 already.
    incidents::save(tx, &ended).await
}
