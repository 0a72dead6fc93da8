//! Which replica holds a device's stream. Presence itself is the stream's keepalive and lives in memory.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use fleetmend_proto::{DeviceId, Fence, clock::wall_now};
use serde::Serialize;
use uuid::Uuid;

use super::{
    DeviceState, IdRow, Store, StoreError, device_ids,
    engine::{Tx, bulk, bulk_read, bulk_sql, on, within},
    error::During as _,
    from_json, json_text,
    renewal::suspect_clone,
};

/// No device comes near it by orders alone. More would be a fault or an attempt to leave no number for the next lease.
pub const MAX_FENCE: Fence = Fence(1 << 53);

const CONNECTED: [&str; 2] = bulk_sql!(
    "SELECT s.device_id FROM " [id: uuid]
    " JOIN sessions s ON s.device_id = r.id JOIN devices d ON d.id = s.device_id \
     WHERE s.closed_at IS NULL AND d.state <> 'banned'"
);

const CLOSE: [&str; 2] = bulk_sql!(
    "UPDATE sessions SET closed_at = $2 FROM " [device_id: uuid, stream_epoch: bigint]
    " WHERE sessions.device_id = r.device_id AND sessions.stream_epoch = r.stream_epoch AND sessions.closed_at IS NULL"
);

const FORGET: [&str; 2] =
    bulk_sql!("UPDATE sessions SET instances = '[]' FROM " [id: uuid] " WHERE sessions.device_id = r.id");

/// A device opens its stream.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    pub device: DeviceId,
    /// The process it streams to.
    pub replica: &'a str,
    /// What the device has seen: orders to come are above it even when this database was restored from a backup.
    pub max_fence: Fence,
    /// Of the agent's process, new with each start; `None` = not told.
    pub instance: Option<Uuid>,
    pub now: DateTime<Utc>,
}

/// An open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOpened {
    /// Above those of all earlier sessions of the device.
    pub stream_epoch: i64,
    /// Two machines stream with one identity: the device has been quarantined for it now.
    pub clone_suspected: bool,
}

/// Instances of an agent that are remembered: as many machines with one certificate are told apart.
const INSTANCES: usize = 8;

impl Store {
    /// Opens a device's session.
    ///
    /// Two machines with one identity end each other's streams and both come back, so that an instance returns after
    /// another has taken its place; a machine that reconnects, or whose agent was started anew, never looks like that.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a fence that no lease can have had, else when the database fails.
    pub async fn session_open(&self, hello: Hello<'_>) -> Result<SessionOpened, StoreError> {
        let operation = "session open";
        if hello.max_fence < Fence(0) || hello.max_fence > MAX_FENCE {
            let reason = format!("is {}, it must be 0 to {MAX_FENCE}: the agent's journal is damaged", hello.max_fence);
            return Err(StoreError::Invalid { field: "max_fence", reason });
        }
        let mut tx = self.begin(operation).await?;
        // The device's row first, as everywhere.
        let state: Option<String> = within!(&mut tx, conn => sqlx::query_scalar(
            "UPDATE devices SET last_seen_at = $3, fence = CASE WHEN fence < $2 THEN $2 ELSE fence END WHERE id = $1 \
             RETURNING state",
        )
        .bind(hello.device.0)
        .bind(hello.max_fence.0)
        .bind(hello.now)
        .fetch_optional(conn)
        .await)
        .during(operation)?;
        let Some(state) = state else {
            return Err(StoreError::not_found("device", hello.device));
        };
        let mut instances = instances(&mut tx, hello.device).await?;
        let returned = hello.instance.is_some_and(|instance| seen(&mut instances, instance) == Seen::Returned);
        let stream_epoch: i64 = within!(&mut tx, conn => sqlx::query_scalar(
            "INSERT INTO sessions (device_id, replica, stream_epoch, instances, opened_at) VALUES ($1, $2, 1, $4, $3) \
             ON CONFLICT (device_id) DO UPDATE SET replica = excluded.replica, opened_at = excluded.opened_at, \
             instances = excluded.instances, stream_epoch = sessions.stream_epoch + 1, closed_at = NULL \
             RETURNING stream_epoch",
        )
        .bind(hello.device.0)
        .bind(hello.replica)
        .bind(hello.now)
        .bind(json_text(&instances)?)
        .fetch_one(conn)
        .await)
        .during(operation)?;
        // Once: while it is quarantined they go on taking turns.
        let clone_suspected = returned && state == DeviceState::Active.word();
        if clone_suspected {
            let data = serde_json::json!({ "instances": instances });
            suspect_clone(&mut tx, hello.device, &data, hello.now).await?;
        }
        tx.commit().await.during(operation)?;
        Ok(SessionOpened { stream_epoch, clone_suspected })
    }

    /// Closes a session unless a newer one has replaced it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session_close(&self, device: DeviceId, stream_epoch: i64) -> Result<(), StoreError> {
        let mut tx = self.begin("session close").await?;
        within!(&mut tx, conn => sqlx::query(
            "UPDATE sessions SET closed_at = $3 WHERE device_id = $1 AND stream_epoch = $2 AND closed_at IS NULL",
        )
        .bind(device.0)
        .bind(stream_epoch)
        .bind(wall_now())
        .execute(conn)
        .await
        .map(|_| ()))
        .during("session close")?;
        tx.commit().await.during("session close")
    }

    /// The sessions that are open at `replica`, each with its stream epoch.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sessions_open(&self, replica: &str) -> Result<Vec<(DeviceId, i64)>, StoreError> {
        let rows: Vec<(Uuid, i64)> = on!(self.db, pool => sqlx::query_as(
            "SELECT device_id, stream_epoch FROM sessions WHERE replica = $1 AND closed_at IS NULL",
        )
        .bind(replica)
        .fetch_all(pool)
        .await)
        .during("sessions open")?;
        Ok(rows.into_iter().map(|(device, epoch)| (DeviceId(device), epoch)).collect())
    }

    /// Those of `devices` that stream to some controller now. A banned one counts as gone: its stream is being cut.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices_connected(&self, devices: &[DeviceId]) -> Result<HashSet<DeviceId>, StoreError> {
        let ids = device_ids(devices.iter().copied());
        let rows: Vec<(Uuid,)> = bulk_read!(self.db, CONNECTED, &ids, "sessions read")?;
        Ok(rows.into_iter().map(|(id,)| DeviceId(id)).collect())
    }

    /// How many devices stream to some controller now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn connected_count(&self) -> Result<i64, StoreError> {
        on!(self.db, pool => sqlx::query_scalar(
            "SELECT COUNT(*) FROM sessions s JOIN devices d ON d.id = s.device_id \
             WHERE s.closed_at IS NULL AND d.state <> 'banned'",
        )
        .fetch_one(pool)
        .await)
        .during("sessions read")
    }

    /// Closes these sessions, except those that a newer one has replaced. Returns how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sessions_close(&self, sessions: &[(DeviceId, i64)]) -> Result<u64, StoreError> {
        let rows: Vec<_> = sessions
            .iter()
            .map(|(device, stream_epoch)| SessionRow { device_id: device.0, stream_epoch: *stream_epoch })
            .collect();
        let mut tx = self.begin("sessions close").await?;
        let closed: u64 = bulk!(&mut tx, CLOSE, &rows, "sessions close", wall_now())?;
        tx.commit().await.during("sessions close")?;
        Ok(closed)
    }

    /// Closes what a former process of the same replica left open.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sessions_clear(&self, replica: &str) -> Result<u64, StoreError> {
        let mut tx = self.begin("sessions clear").await?;
        let cleared = clear(&mut tx, replica).await?;
        tx.commit().await.during("sessions clear")?;
        Ok(cleared)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// For the first time, or the one that was there last.
    InTurn,
    /// After another had taken its place.
    Returned,
}

/// Puts an instance at the end of those seen.
fn seen(instances: &mut Vec<Uuid>, instance: Uuid) -> Seen {
    let seen = match instances.iter().position(|it| *it == instance) {
        Some(at) if at + 1 < instances.len() => {
            instances.remove(at);
            Seen::Returned
        }
        Some(_) => return Seen::InTurn,
        None => Seen::InTurn,
    };
    instances.push(instance);
    if instances.len() > INSTANCES {
        instances.remove(0);
    }
    seen
}

async fn instances(tx: &mut Tx, device: DeviceId) -> Result<Vec<Uuid>, StoreError> {
    let text: Option<String> = within!(tx, conn =>
        sqlx::query_scalar("SELECT instances FROM sessions WHERE device_id = $1")
            .bind(device.0)
            .fetch_optional(conn)
            .await)
    .during("session open")?;
    text.map_or_else(|| Ok(Vec::new()), |text| from_json("list of instances", &text))
}

/// Whoever approved a device has seen to its double: what was seen before does not count any more.
pub(super) async fn forget_instances(tx: &mut Tx, devices: &[IdRow]) -> Result<(), StoreError> {
    bulk!(tx, FORGET, devices, "device approval").map(|_: u64| ())
}

async fn clear(tx: &mut Tx, replica: &str) -> Result<u64, StoreError> {
    within!(tx, conn => sqlx::query("UPDATE sessions SET closed_at = $2 WHERE replica = $1 AND closed_at IS NULL")
        .bind(replica)
        .bind(wall_now())
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
    .during("sessions clear")
}

#[derive(Serialize)]
struct SessionRow {
    device_id: Uuid,
    stream_epoch: i64,
}
