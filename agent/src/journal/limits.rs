//! What is counted over time: starts of the agent (safe mode), restarts of the PC, and what a lost journal may have done.
//! Used by the runner at a start, by the guard and by the step that restarts. Wall-clock times that a wrong clock wrote
//! must never bind longer than right ones could.

use chrono::{DateTime, Duration, Utc};
use fleetmend_proto::OrderId;
use sqlx::Row as _;

use super::Journal;
use crate::state::{Result, sql};

/// This many starts of the agent within [`STARTS_WITHIN`] put it into safe mode.
const STARTS: i64 = 4;
const STARTS_WITHIN: Duration = Duration::minutes(15);
/// How long safe mode lasts.
const SAFE_MODE: Duration = Duration::hours(24);
/// How far a clock may be set back before what it wrote counts as wrong.
const SLACK: Duration = Duration::hours(1);
/// How long finished orders that were told are kept.
const KEPT: Duration = Duration::days(90);

impl Journal {
    /// Orders made before this time may have been executed by a journal that was lost; `None` = nothing was lost.
    ///
    /// # Errors
    /// When the file cannot be read or set right.
    pub async fn forgot_before(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        let us: Option<i64> = self.one("SELECT forgot_before FROM meta").await?.get(0);
        let Some(lost) = us.and_then(DateTime::from_timestamp_micros) else { return Ok(None) };
        if lost <= now {
            return Ok(Some(lost));
        }
        // The clock was ahead when the loss was noted. The loss is past, so what is made from now on is new.
        let mut tx = self.db.begin().await?;
        sqlx::query("UPDATE meta SET forgot_before = $1")
            .bind(now.timestamp_micros())
            .execute(&mut *tx)
            .await
            .map_err(sql("set a time right"))?;
        self.db.commit(tx).await?;
        Ok(Some(now))
    }

    /// Records a start of the agent and drops what is kept no longer. Gives until when safe mode lasts, if it is on:
    /// four starts within 15 minutes put it on for a day.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn start_recorded(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        let failed = sql("record a start");
        let mut tx = self.db.begin().await?;
        let us = now.timestamp_micros();
        sqlx::query("INSERT INTO starts VALUES ($1)").bind(us).execute(&mut *tx).await.map_err(&failed)?;
        sqlx::query("DELETE FROM starts WHERE at <= $1 OR at > $2")
            .bind((now - STARTS_WITHIN).timestamp_micros())
            .bind(us)
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        let starts: i64 =
            sqlx::query_scalar("SELECT count(*) FROM starts").fetch_one(&mut *tx).await.map_err(&failed)?;
        if starts >= STARTS {
            sqlx::query("UPDATE meta SET safe_until = $1")
                .bind((now + SAFE_MODE).timestamp_micros())
                .execute(&mut *tx)
                .await
                .map_err(&failed)?;
        }
        sqlx::query("DELETE FROM orders WHERE finished_at < $1 AND told >= change AND NOT EXISTS (SELECT 1 FROM steps WHERE steps.order_id = orders.order_id AND undo_owed = 1)")
            .bind((now - KEPT).timestamp_micros())
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query("DELETE FROM reboots WHERE at < $1")
            .bind((now - KEPT).timestamp_micros())
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        self.db.commit(tx).await?;
        self.safe_until(now).await
    }

    /// Until when the agent does nothing but look; `None` = it works normally.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn safe_until(&self, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
        let us: Option<i64> = self.one("SELECT safe_until FROM meta").await?.get(0);
        // One that ends later than it could last was put on under a clock that was wrong.
        Ok(us
            .and_then(DateTime::from_timestamp_micros)
            .filter(|until| *until > now && *until <= now + SAFE_MODE + SLACK))
    }

    /// Restarts asked for by this order, and by any order in the day before `now`.
    pub(crate) async fn reboots(&self, order: OrderId, now: DateTime<Utc>) -> Result<(i64, i64)> {
        let query =
            "SELECT count(*) FILTER (WHERE order_id = $1), count(*) FILTER (WHERE at > $2 AND at <= $3) FROM reboots";
        let row = sqlx::query(query)
            .bind(order.0)
            .bind((now - Duration::hours(24)).timestamp_micros())
            .bind(now.timestamp_micros())
            .fetch_one(self.db.pool())
            .await
            .map_err(sql("count restarts"))?;
        Ok((row.get(0), row.get(1)))
    }
}
