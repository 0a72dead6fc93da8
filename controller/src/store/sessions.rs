//! Which replica holds a device's stream. Presence itself is the stream's keepalive and lives in memory.

use chrono::{DateTime, Utc};
use fleetmend_proto::{DeviceId, Fence, clock::wall_now};

use super::{
    Store, StoreError,
    engine::{Tx, within},
    error::During as _,
};

impl Store {
    /// Opens a device's session at `replica` and returns its stream epoch, above all earlier ones. `max_fence` is what
    /// the device has seen: orders to come are above it even when this database was restored from a backup.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session_open(
        &self,
        device: DeviceId,
        replica: &str,
        max_fence: Fence,
        now: DateTime<Utc>,
    ) -> Result<i64, StoreError> {
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
