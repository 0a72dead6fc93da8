//! Leases: a queued order is claimed by the replica that streams to its device, fenced, signed and kept as sent.

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_domain::order::Event;
use fleetmend_proto::{
    DeviceId, Fence, FleetId, OrderId, UpdateRef,
    order::{OrderText, SignedOrder},
};
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Actor, Store, StoreError, device_ids,
    devices::lock,
    engine::{Tx, on, within},
    error::During as _,
    events::{self, Event as Change},
    from_json, orders,
};

/// How far a device's clock may be behind before it calls a new order "not yet valid".
const CLOCK_SLACK: TimeDelta = TimeDelta::minutes(5);

/// Who leases what, until when.
#[derive(Clone, Copy, Debug)]
pub struct OrderLease {
    pub order: OrderId,
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

impl Store {
    /// Queued orders of devices that stream to `replica`, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn orders_leasable(&self, replica: &str, limit: u32) -> Result<Vec<(OrderId, DeviceId)>, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = on!(self.db, pool => sqlx::query_as(
            "SELECT o.id, o.device_id FROM orders o JOIN sessions s ON s.device_id = o.device_id \
             JOIN devices d ON d.id = o.device_id \
             WHERE o.state = 'queued' AND s.replica = $1 AND s.closed_at IS NULL AND d.state <> 'banned' \
             ORDER BY o.id LIMIT $2",
        )
        .bind(replica)
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

    /// Claims one queued order: raises the device's fence, signs the text with it and keeps the exact bytes.
    /// `None` = it is not queued any more, has expired, or its device is banned.
    ///
    /// # Errors
    /// When the database fails; nothing was leased then.
    pub async fn order_lease(
        &self,
        lease: OrderLease,
        sign: &(dyn Fn(&OrderText) -> SignedOrder + Send + Sync),
    ) -> Result<Option<Leased>, StoreError> {
        let operation = "order lease";
        let mut tx = self.begin(operation).await?;
        let Some(device) = orders::device_of(&mut tx, lease.order).await? else {
            return Ok(None);
        };
        lock(&mut tx, &device_ids([device])).await?;
        let Some(waiting) = waiting(&mut tx, &lease).await? else {
            return Ok(None);
        };
        let Some(mut row) = orders::load(&mut tx, [lease.order.0]).await?.pop() else {
            return Ok(None);
        };
        if row.take(Event::Leased, lease.now).is_err() {
            return Ok(None);
        }
        let fence = raise_fence(&mut tx, device).await?;
        let update: UpdateRef = from_json("update", &waiting.update_ref)?;
        let order = OrderText {
            fleet: lease.fleet,
            device,
            order: lease.order,
            incident: row.incident(),
            fence,
            not_before: lease.now - CLOCK_SLACK,
            not_after: waiting.expires_at,
            action: from_json("action", &waiting.action)?,
            update_id: update.update_id,
            revision: update.revision,
            kb: update.kb,
        };
        let note = sign(&order);
        row.fence = Some(fence.0);
        row.lease_until = Some(lease.lease_until);
        orders::save(&mut tx, std::slice::from_ref(&row)).await?;
        keep_note(&mut tx, &lease, &note).await?;
        let data = serde_json::json!({ "fence": fence, "action": order.action.name() });
        let event = Change::new(&Actor::Loop("dispatch"), "order_leased", lease.now)
            .device(device)
            .incident(row.incident())
            .order(lease.order)
            .data(&data);
        events::append(&mut tx, &[event]).await?;
        tx.commit().await.during(operation)?;
        Ok(Some(Leased { device, fence, order, note }))
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

#[derive(FromRow)]
struct Waiting {
    action: String,
    expires_at: DateTime<Utc>,
    update_ref: String,
}

async fn waiting(tx: &mut Tx, lease: &OrderLease) -> Result<Option<Waiting>, StoreError> {
    within!(tx, conn => sqlx::query_as(
        "SELECT o.action, o.expires_at, i.update_ref FROM orders o \
         JOIN incidents i ON i.id = o.incident_id JOIN devices d ON d.id = o.device_id \
         WHERE o.id = $1 AND o.state = 'queued' AND o.expires_at > $2 AND d.state <> 'banned'",
    )
    .bind(lease.order.0)
    .bind(lease.now)
    .fetch_optional(conn)
    .await)
    .during("order lease")
}

/// INVARIANT: a device's fence only grows, and no two leases share one.
async fn raise_fence(tx: &mut Tx, device: DeviceId) -> Result<Fence, StoreError> {
    within!(tx, conn => sqlx::query_scalar("UPDATE devices SET fence = fence + 1 WHERE id = $1 RETURNING fence")
        .bind(device.0)
        .fetch_one(conn)
        .await)
    .during("order lease")
    .map(Fence)
}

async fn keep_note(tx: &mut Tx, lease: &OrderLease, note: &SignedOrder) -> Result<(), StoreError> {
    within!(tx, conn => sqlx::query("UPDATE orders SET note = $2, leased_at = $3 WHERE id = $1")
        .bind(lease.order.0)
        .bind(&note.0)
        .bind(lease.now)
        .execute(conn)
        .await
        .map(|_| ()))
    .during("order lease")
}
