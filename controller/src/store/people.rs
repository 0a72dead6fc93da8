//! What people have in hand: remedies they ask for, incidents they end, and those they are told of again.

use chrono::{DateTime, Utc};
use fleetmend_domain::incident::{Event, REMINDER, State};
use fleetmend_proto::{DeviceId, IncidentId, Tier};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Actor, Store, StoreError, device_ids,
    devices::{lock, owner},
    engine::{Tx, bulk, bulk_sql, on, within},
    error::During as _,
    events::{self, Event as Change},
    incidents::{self, Live},
    new_id, orders,
};

/// What a request by hand reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remediation {
    /// Incidents of the device that have not ended; each is decided anew, or after the order that is out.
    pub incidents: Vec<IncidentId>,
}

const OWNER: &str = "SELECT device_id FROM incidents WHERE id = $1";

const REQUEST: [&str; 2] = bulk_sql!(
    "INSERT INTO manual_requests (id, incident_id, device_id, tier, skip_waits, requested_by, requested_at) \
     SELECT r.id, r.incident_id, r.device_id, r.tier, r.skip_waits, r.requested_by, r.requested_at FROM "
    [id: uuid, incident_id: uuid, device_id: uuid, tier: bigint, skip_waits: boolean, requested_by: text,
     requested_at: timestamptz]
    ""
);

#[derive(Serialize)]
struct NewRequest<'a> {
    id: Uuid,
    incident_id: Uuid,
    device_id: Uuid,
    tier: Option<u8>,
    skip_waits: bool,
    requested_by: &'a str,
    requested_at: DateTime<Utc>,
}

impl Store {
    /// Asks for a remedy on every incident of a device that has not ended. `skip_waits`: cool-downs and windows do not
    /// count; guard, journal and caps do.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such device.
    pub async fn remediate(
        &self,
        device: DeviceId,
        tier: Option<Tier>,
        skip_waits: bool,
        by: &str,
        now: DateTime<Utc>,
    ) -> Result<Remediation, StoreError> {
        let operation = "remediate";
        let actor = Actor::Person(by.to_owned());
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids([device])).await?;
        let ids = open_of(&mut tx, device).await?;
        let mut live = incidents::load(&mut tx, ids).await?;
        live.retain_mut(|row| {
            // What people have stays with them until the request is met: the ladder may have to decline it.
            let moved = if row.state.is_with_people() { Ok(()) } else { row.take(&Event::ManualRequested, now) };
            if row.state == State::Open || row.state.is_with_people() {
                row.due_at = Some(now);
            }
            moved.is_ok()
        });
        incidents::save(&mut tx, &live).await?;
        let requests: Vec<_> = live
            .iter()
            .map(|row| NewRequest {
                id: new_id(),
                incident_id: row.id,
                device_id: row.device_id,
                tier: tier.map(Tier::number),
                skip_waits,
                requested_by: by,
                requested_at: now,
            })
            .collect();
        if !requests.is_empty() {
            bulk!(&mut tx, REQUEST, &requests, operation)?;
        }
        let data = serde_json::json!({ "tier": tier, "now": skip_waits });
        let change = |row: &Live| {
            Change::new(&actor, "remedy_requested", now).device(device).incident(row.incident()).data(&data)
        };
        events::append(&mut tx, &live.iter().map(change).collect::<Vec<_>>()).await?;
        tx.commit().await.during(operation)?;
        Ok(Remediation { incidents: live.iter().map(Live::incident).collect() })
    }

    /// Ends an incident because a person says so, and cancels its orders: one that was begun by telling its device.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::Conflict`] when it has ended already.
    pub async fn incident_dismiss(
        &self,
        incident: IncidentId,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let operation = "incident dismissal";
        let actor = Actor::Person(by.to_owned());
        let mut tx = self.begin(operation).await?;
        let device = owner(&mut tx, OWNER, incident.0).await?;
        let device = device.ok_or_else(|| StoreError::not_found("incident", incident))?;
        lock(&mut tx, &device_ids([device])).await?;
        let Some(mut row) = incidents::load(&mut tx, [incident.0]).await?.pop() else {
            return Err(StoreError::not_found("incident", incident));
        };
        row.take(&Event::Dismissed { by: by.to_owned() }, now)
            .map_err(|error| StoreError::Conflict { operation, reason: error.to_string() })?;
        incidents::save(&mut tx, std::slice::from_ref(&row)).await?;
        let mut theirs = orders::load_of_incidents(&mut tx, [incident.0]).await?;
        orders::cancel_or_ask(&mut tx, &mut theirs, &actor, "the incident was dismissed", now).await?;
        let data = serde_json::json!({ "reason": reason });
        let change = Change::new(&actor, "incident_dismissed", now).device(device).incident(incident).data(&data);
        events::append(&mut tx, &[change]).await?;
        tx.commit().await.during(operation)
    }

    /// Serves the deadlines of what people have: a reset that nobody made while its evidence was young is exhausted
    /// (`handover_expired`), and of an exhausted incident they are told again (`still_exhausted`). One with a request
    /// that waits for its decision is left to that. Returns how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn people_remind(&self, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let operation = "reminder";
        let due: Vec<(Uuid, Uuid)> = on!(self.db, pool => sqlx::query_as(
            "SELECT i.id, i.device_id FROM incidents i WHERE i.due_at <= $1 AND i.state <> 'verifying' \
             AND i.state IN ('exhausted', 'handed_over', 'awaiting_approval') AND NOT EXISTS (SELECT 1 \
             FROM manual_requests m WHERE m.incident_id = i.id AND m.decision_id IS NULL) ORDER BY i.due_at LIMIT 1000",
        )
        .bind(now)
        .fetch_all(pool)
        .await)
        .during(operation)?;
        if due.is_empty() {
            return Ok(0);
        }
        let actor = Actor::Loop("expire");
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids(due.iter().map(|(_, device)| DeviceId(*device)))).await?;
        let mut live = incidents::load(&mut tx, due.iter().map(|(id, _)| *id)).await?;
        let mut log = Vec::with_capacity(live.len());
        // Looked at again under the lock: somebody may have acted meanwhile.
        live.retain_mut(|row| {
            let kind = if row.state == State::Exhausted { "still_exhausted" } else { "handover_expired" };
            let is_due = row.state.is_with_people() && row.due_at.is_some_and(|due| due <= now);
            if !is_due || row.take(&Event::LadderExhausted, now).is_err() {
                return false;
            }
            row.due_at = Some(now + REMINDER);
            row.deadline_at = None;
            log.push(Change::new(&actor, kind, now).device(row.device()).incident(row.incident()));
            true
        });
        incidents::save(&mut tx, &live).await?;
        events::append(&mut tx, &log).await?;
        tx.commit().await.during(operation)?;
        Ok(live.len() as u64)
    }
}

/// Ends all incidents of a device that may not speak any more: no proof could ever come for them. The caller holds the
/// lock on the device.
pub(super) async fn dismiss_all(
    tx: &mut Tx,
    device: DeviceId,
    by: &str,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let actor = Actor::Person(by.to_owned());
    let open = open_of(tx, device).await?;
    let mut live = incidents::load(tx, open).await?;
    live.retain_mut(|row| row.take(&Event::Dismissed { by: by.to_owned() }, now).is_ok());
    incidents::save(tx, &live).await?;
    let data = serde_json::json!({ "reason": reason });
    let change =
        |row: &Live| Change::new(&actor, "incident_dismissed", now).device(device).incident(row.incident()).data(&data);
    events::append(tx, &live.iter().map(change).collect::<Vec<_>>()).await
}

async fn open_of(tx: &mut Tx, device: DeviceId) -> Result<Vec<Uuid>, StoreError> {
    within!(tx, conn => sqlx::query_scalar("SELECT id FROM incidents WHERE device_id = $1 AND closed_at IS NULL")
        .bind(device.0)
        .fetch_all(conn)
        .await)
    .during("incident look-up")
}
