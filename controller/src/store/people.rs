//! What people ask for by hand: a remedy for a device, the end of an incident.

use chrono::{DateTime, Utc};
use fleetmend_domain::{
    incident::{Event, State},
    order,
};
use fleetmend_proto::{DeviceId, IncidentId, Tier};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Actor, Store, StoreError, device_ids,
    devices::lock,
    engine::{Tx, bulk, bulk_sql, within},
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
        let ids: Vec<Uuid> = within!(&mut tx, conn =>
            sqlx::query_scalar("SELECT id FROM incidents WHERE device_id = $1 AND closed_at IS NULL")
                .bind(device.0)
                .fetch_all(conn)
                .await)
        .during(operation)?;
        let mut live = incidents::load(&mut tx, ids).await?;
        live.retain_mut(|row| row.take(&Event::ManualRequested, now).is_ok());
        for row in &mut live {
            if row.state == State::Open {
                row.due_at = Some(now);
            }
        }
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

    /// Ends an incident because a person says so, and cancels its orders that have not begun.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::Conflict`] when it has ended already.
    pub async fn incident_dismiss(&self, incident: IncidentId, by: &str, now: DateTime<Utc>) -> Result<(), StoreError> {
        let operation = "incident dismissal";
        let actor = Actor::Person(by.to_owned());
        let mut tx = self.begin(operation).await?;
        let device = device_of(&mut tx, incident).await?.ok_or_else(|| StoreError::not_found("incident", incident))?;
        lock(&mut tx, &device_ids([device])).await?;
        let Some(mut row) = incidents::load(&mut tx, [incident.0]).await?.pop() else {
            return Err(StoreError::not_found("incident", incident));
        };
        row.take(&Event::Dismissed { by: by.to_owned() }, now)
            .map_err(|error| StoreError::Conflict { operation, reason: error.to_string() })?;
        incidents::save(&mut tx, std::slice::from_ref(&row)).await?;
        let mut waiting = orders::load_of_incidents(&mut tx, [incident.0]).await?;
        waiting.retain(|order| matches!(order.state, order::State::Queued | order::State::Leased));
        orders::cancel(&mut tx, &mut waiting, &actor, now).await?;
        let change = Change::new(&actor, "incident_dismissed", now).device(device).incident(incident);
        events::append(&mut tx, &[change]).await?;
        tx.commit().await.during(operation)
    }
}

async fn device_of(tx: &mut Tx, incident: IncidentId) -> Result<Option<DeviceId>, StoreError> {
    let found: Option<Uuid> = within!(tx, conn =>
        sqlx::query_scalar("SELECT device_id FROM incidents WHERE id = $1")
            .bind(incident.0)
            .fetch_optional(conn)
            .await)
    .during("incident look-up")?;
    Ok(found.map(DeviceId))
}
