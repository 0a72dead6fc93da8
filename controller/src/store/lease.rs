//! Leases: a queued order is claimed by the replica that streams to its device, fenced, signed and kept as sent.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_domain::order::Event;
use fleetmend_proto::{
    DeviceId, Fence, FleetId, OrderId, UpdateRef,
    order::{OrderText, SignedOrder},
};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Actor, Store, StoreError, all_written, device_ids,
    devices::lock,
    engine::{Tx, bulk, bulk_fetch, bulk_sql, on},
    error::During as _,
    events::{self, Event as Change},
    from_json, orders,
};

/// How far a device's clock may be behind before it calls a new order "not yet valid".
const CLOCK_SLACK: TimeDelta = TimeDelta::minutes(5);

/// Whether device `d` may be given order `o`, as a condition in SQL: none while it is banned; in quarantine only what
/// the ladder orders there too (rule `R0.quarantined`), whatever was queued before.
macro_rules! may_get {
    () => {
        "(d.state = 'active' OR (d.state = 'quarantined' AND o.tier <= 2))"
    };
}
pub(super) use may_get;

/// For whom orders are signed, and until when they are leased.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTerms {
    pub fleet: FleetId,
    /// Wall clock.
    pub lease_until: DateTime<Utc>,
    /// Domain time.
    pub now: DateTime<Utc>,
}

/// A leased order, to be pushed as it is.
#[derive(Clone, Debug)]
pub struct Leased {
    pub device: DeviceId,
    pub fence: Fence,
    pub order: OrderText,
    pub note: SignedOrder,
}

/// What of a queued order is not among the columns that change.
const WAITING: [&str; 2] = bulk_sql!(
    "SELECT o.id, o.action, o.expires_at, i.update_ref FROM "
    [id: uuid, device_id: uuid]
    concat!(
        " JOIN orders o ON o.id = r.id AND o.device_id = r.device_id JOIN incidents i ON i.id = o.incident_id \
         JOIN devices d ON d.id = o.device_id WHERE o.state = 'queued' AND o.expires_at > $2 AND ",
        may_get!()
    )
);

// INVARIANT: a device's fence only grows, and no two leases share one.
const RAISE_FENCE: [&str; 2] = bulk_sql!(
    "UPDATE devices SET fence = fence + 1 FROM " [device_id: uuid] " WHERE devices.id = r.device_id RETURNING id, fence"
);

const LEASE: [&str; 2] = bulk_sql!(
    "UPDATE orders SET state = r.state, fence = r.fence, lease_until = r.lease_until, leased_at = r.leased_at, \
     note = r.note, generation = orders.generation + 1 FROM "
    [id: uuid, state: text, fence: bigint, lease_until: timestamptz, leased_at: timestamptz, note: bytea,
     generation: bigint]
    " WHERE orders.id = r.id AND orders.generation = r.generation"
);

impl Store {
    /// Queued orders of devices that stream to `replica`, oldest first: at most `limit` of those after `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn orders_leasable(
        &self,
        replica: &str,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<(OrderId, DeviceId)>, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = on!(self.db, pool => sqlx::query_as(concat!(
            "SELECT o.id, o.device_id FROM orders o JOIN sessions s ON s.device_id = o.device_id \
             JOIN devices d ON d.id = o.device_id \
             WHERE o.state = 'queued' AND o.id > $2 AND s.replica = $1 AND s.closed_at IS NULL AND ",
            may_get!(),
            " ORDER BY o.id LIMIT $3",
        ))
        .bind(replica)
        .bind(after.map_or(Uuid::nil(), |order| order.0))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await)
        .during("orders leasable")?;
        Ok(rows.into_iter().map(|(order, device)| (OrderId(order), DeviceId(device))).collect())
    }

    /// Orders that devices with an open session at this replica have begun and not ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn orders_begun(&self, replica: &str) -> Result<Vec<(OrderId, DeviceId, Fence)>, StoreError> {
        let rows: Vec<(Uuid, Uuid, i64)> = on!(self.db, pool => sqlx::query_as(
            "SELECT o.id, o.device_id, o.fence FROM orders o JOIN sessions s ON s.device_id = o.device_id \
             JOIN devices d ON d.id = o.device_id \
             WHERE o.state IN ('running', 'awaiting_reboot', 'awaiting_return') AND o.fence IS NOT NULL \
             AND s.replica = $1 AND s.closed_at IS NULL AND d.state <> 'banned'",
        )
        .bind(replica)
        .fetch_all(pool)
        .await)
        .during("orders begun")?;
        Ok(rows.into_iter().map(|(order, device, fence)| (OrderId(order), DeviceId(device), Fence(fence))).collect())
    }

    /// The order that a device has begun and not ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn order_begun_of(&self, device: DeviceId) -> Result<Option<(OrderId, Fence)>, StoreError> {
        let row: Option<(Uuid, i64)> = on!(self.db, pool => sqlx::query_as(
            "SELECT o.id, o.fence FROM orders o JOIN devices d ON d.id = o.device_id \
             WHERE o.device_id = $1 AND o.state IN ('running', 'awaiting_reboot', 'awaiting_return') \
             AND o.fence IS NOT NULL AND d.state <> 'banned'",
        )
        .bind(device.0)
        .fetch_optional(pool)
        .await)
        .during("order begun")?;
        Ok(row.map(|(order, fence)| (OrderId(order), Fence(fence))))
    }

    /// Claims queued orders in one transaction: raises the fence of each device, signs each text with it and keeps the
    /// exact bytes. Left out are those not queued any more or expired, and those whose device may not get them now.
    ///
    /// # Errors
    /// When the database fails or an order's row cannot be used; nothing was leased then.
    pub async fn orders_lease(
        &self,
        wanted: &[(OrderId, DeviceId)],
        terms: LeaseTerms,
        sign: &(dyn Fn(&OrderText) -> SignedOrder + Send + Sync),
    ) -> Result<Vec<Leased>, StoreError> {
        let operation = "order lease";
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids(wanted.iter().map(|(_, device)| *device))).await?;
        let ids: Vec<_> = wanted.iter().map(|(order, device)| Wanted { id: order.0, device_id: device.0 }).collect();
        let waiting: Vec<Waiting> = bulk_fetch!(&mut tx, WAITING, &ids, operation, terms.now)?;
        let mut waiting: HashMap<Uuid, Waiting> = waiting.into_iter().map(|it| (it.id, it)).collect();
        let mut rows = orders::load(&mut tx, waiting.keys().copied()).await?;
        rows.retain_mut(|row| row.take(Event::Leased, terms.now).is_ok());
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let fences = raise_fences(&mut tx, &rows).await?;
        let mut leased = Vec::with_capacity(rows.len());
        let mut kept = Vec::with_capacity(rows.len());
        let mut log = Vec::with_capacity(rows.len());
        for row in &rows {
            let (Some(it), Some(fence)) = (waiting.remove(&row.id), fences.get(&row.device_id)) else {
                return Err(StoreError::corrupt("order", format_args!("{} without a device", row.id)));
            };
            let order = it.text(row, *fence, &terms)?;
            let note = sign(&order);
            kept.push(Kept {
                id: row.id,
                state: row.state.word(),
                fence: fence.0,
                lease_until: terms.lease_until,
                leased_at: terms.now,
                note: format!("\\x{}", hex::encode(&note.0)),
                generation: row.generation,
            });
            let data = serde_json::json!({ "fence": fence, "action": order.action.name() });
            log.push(
                Change::new(&Actor::Loop("dispatch"), "order_leased", terms.now)
                    .device(row.device())
                    .incident(row.incident())
                    .order(row.order())
                    .data(&data),
            );
            leased.push(Leased { device: row.device(), fence: *fence, order, note });
        }
        let written: u64 = bulk!(&mut tx, LEASE, &kept, operation)?;
        all_written(operation, written, kept.len())?;
        events::append(&mut tx, &log).await?;
        tx.commit().await.during(operation)?;
        Ok(leased)
    }

    /// Gives orders whose lease ended before `Begin` back to the queue (wall clock). Returns how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn leases_lapse(&self, now_wall: DateTime<Utc>) -> Result<u64, StoreError> {
        let operation = "lease lapse";
        let due: Vec<(Uuid, Uuid)> = on!(self.db, pool => sqlx::query_as(
            "SELECT id, device_id FROM orders WHERE state = 'leased' AND lease_until <= $1 LIMIT 1000",
        )
        .bind(now_wall)
        .fetch_all(pool)
        .await)
        .during(operation)?;
        if due.is_empty() {
            return Ok(0);
        }
        let actor = Actor::Loop("expire");
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids(due.iter().map(|(_, device)| DeviceId(*device)))).await?;
        let mut rows = orders::load(&mut tx, due.iter().map(|(id, _)| *id)).await?;
        rows.retain_mut(|row| {
            let over = row.lease_until.is_some_and(|until| until <= now_wall);
            let lapsed = over && row.take(Event::LeaseLapsed, now_wall).is_ok();
            row.lease_until = None;
            lapsed
        });
        orders::save(&mut tx, &rows).await?;
        let log: Vec<_> = rows
            .iter()
            .map(|row| {
                Change::new(&actor, "lease_lapsed", now_wall)
                    .device(row.device())
                    .incident(row.incident())
                    .order(row.order())
            })
            .collect();
        events::append(&mut tx, &log).await?;
        tx.commit().await.during(operation)?;
        Ok(rows.len() as u64)
    }
}

async fn raise_fences(tx: &mut Tx, rows: &[orders::Live]) -> Result<HashMap<Uuid, Fence>, StoreError> {
    let devices: Vec<_> = rows.iter().map(|row| Raised { device_id: row.device_id }).collect();
    let raised: Vec<(Uuid, i64)> = bulk_fetch!(tx, RAISE_FENCE, &devices, "order lease")?;
    Ok(raised.into_iter().map(|(device, fence)| (device, Fence(fence))).collect())
}

#[derive(Serialize)]
struct Wanted {
    id: Uuid,
    device_id: Uuid,
}

#[derive(Serialize)]
struct Raised {
    device_id: Uuid,
}

#[derive(Serialize)]
struct Kept {
    id: Uuid,
    state: &'static str,
    fence: i64,
    lease_until: DateTime<Utc>,
    leased_at: DateTime<Utc>,
    /// `\x` and hex digits.
    note: String,
    generation: i64,
}

#[derive(FromRow)]
struct Waiting {
    id: Uuid,
    action: String,
    expires_at: DateTime<Utc>,
    update_ref: String,
}

impl Waiting {
    fn text(&self, row: &orders::Live, fence: Fence, terms: &LeaseTerms) -> Result<OrderText, StoreError> {
        let update: UpdateRef = from_json("update", &self.update_ref)?;
        Ok(OrderText {
            fleet: terms.fleet,
            device: row.device(),
            order: row.order(),
            incident: row.incident(),
            fence,
            not_before: terms.now - CLOCK_SLACK,
            not_after: self.expires_at,
            action: from_json("action", &self.action)?,
            update_id: update.update_id,
            revision: update.revision,
            kb: update.kb,
        })
    }
}
