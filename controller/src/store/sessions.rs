//! Which replica holds a device's stream. Presence itself is the stream's keepalive and lives in memory.

use chrono::{DateTime, Utc};
use fleetmend_proto::{DeviceId, Fence, clock::wall_now};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Store, StoreError,
    engine::{Tx, bulk, bulk_sql, on, within},
    error::During as _,
};

/// No device comes near it by orders alone. More would be a fault or an attempt to leave no number for the next lease.
pub const MAX_FENCE: Fence = Fence(1 << 53);

const CLOSE: [&str; 2] = bulk_sql!(
    "UPDATE sessions SET closed_at = $2 FROM " [device_id: uuid, stream_epoch: bigint]
    " WHERE sessions.device_id = r.device_id AND sessions.stream_epoch = r.stream_epoch AND sessions.closed_at IS NULL"
);

impl Store {
    /// Opens a device's session at `replica` and returns its stream epoch, above all earlier ones. `max_fence` is what
    /// the device has seen: orders to come are above it even when this database was restored from a backup.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a fence that no lease can have had, else when the database fails.
    pub async fn session_open(
        &self,
        device: DeviceId,
        replica: &str,
        max_fence: Fence,
        now: DateTime<Utc>,
    ) -> Result<i64, StoreError> {
        if max_fence < Fence(0) || max_fence > MAX_FENCE {
            let reason = format!("is {max_fence}, it must be 0 to {MAX_FENCE}: the agent's journal is damaged");
            return Err(StoreError::Invalid { field: "max_fence", reason });
        }
        let mut tx = self.begin("session open").await?;
        // The device's row first, as everywhere.
        let known = within!(&mut tx, conn => sqlx::query(
            "UPDATE devices SET last_seen_at = $3, fence = CASE WHEN fence < $2 THEN $2 ELSE fence END WHERE id = $1",
        )
        .bind(device.0)
        .bind(max_fence.0)
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))
        .during("session open")?;
        if known == 0 {
            return Err(StoreError::not_found("device", device));
        }
        let stream_epoch: i64 = within!(&mut tx, conn => sqlx::query_scalar(
            "INSERT INTO sessions (device_id, replica, stream_epoch, opened_at) VALUES ($1, $2, 1, $3) \
             ON CONFLICT (device_id) DO UPDATE SET replica = excluded.replica, opened_at = excluded.opened_at, \
             stream_epoch = sessions.stream_epoch + 1, closed_at = NULL RETURNING stream_epoch",
        )
        .bind(device.0)
        .bind(replica)
        .bind(now)
        .fetch_one(conn)
        .await)
        .during("session open")?;
        tx.commit().await.during("session open")?;
        Ok(stream_epoch)
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
