//! Outcomes waiting for the controller: written by detection, sent and removed by the link, numbered (epoch, seq).
//!
//! INVARIANT: outcomes and the cursor they were read up to are stored in one transaction; an outcome leaves only when
//! the controller acknowledged it. The caps make noise and never drop one: nothing else is kept here.

use fleetmend_proto::{Outcome, Position};
use sqlx::Row as _;

use crate::state::{AgentDb, Result, content, sql};

/// Most outcomes in one report.
pub const MAX_BATCH: usize = 500;
/// Most bytes of outcomes in one report (their stored text, which is longer than their wire form).
pub const MAX_BATCH_BYTES: usize = 192 * 1024;
/// Above this many waiting outcomes the agent says so.
pub const CAP_OUTCOMES: i64 = 10_000;
/// Above this many waiting bytes the agent says so.
pub const CAP_BYTES: i64 = 64 * 1024 * 1024;

/// What waits to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    pub outcomes: i64,
    pub bytes: i64,
}

impl Pending {
    /// Whether a cap is passed: told to the controller with the next report, nothing is dropped.
    #[must_use]
    pub const fn is_over_cap(self) -> bool {
        self.outcomes > CAP_OUTCOMES || self.bytes > CAP_BYTES
    }
}

/// The outbox part of the agent's file.
#[derive(Clone, Debug)]
pub struct Outbox {
    db: AgentDb,
}

impl Outbox {
    #[must_use]
    pub const fn new(db: AgentDb) -> Self {
        Self { db }
    }

    /// Stores outcomes and, with them, the cursor they were read up to. Gives the position of the newest outcome ever
    /// stored (seq 0 = none yet).
    ///
    /// # Errors
    /// When the file cannot be written; then neither outcomes nor cursor are stored.
    pub async fn append(&self, outcomes: &[Outcome], cursor_json: Option<&str>) -> Result<Position> {
        let mut tx = self.db.begin().await?;
        let row = sqlx::query("SELECT epoch, next_seq FROM meta")
            .fetch_one(&mut *tx)
            .await
            .map_err(sql("read its position"))?;
        let (epoch, mut seq): (i64, i64) = (row.get(0), row.get(1));
        for outcome in outcomes {
            let body = serde_json::to_string(outcome).map_err(content("outcome"))?;
            sqlx::query("INSERT INTO outcomes (seq, body) VALUES ($1, $2)")
                .bind(seq)
                .bind(body)
                .execute(&mut *tx)
                .await
                .map_err(sql("store an outcome"))?;
            seq += 1;
        }
        let count = i64::try_from(outcomes.len()).unwrap_or(i64::MAX);
        sqlx::query("UPDATE meta SET next_seq = $1, recorded = recorded + $2, cursor = coalesce($3, cursor)")
            .bind(seq)
            .bind(count)
            .bind(cursor_json)
            .execute(&mut *tx)
            .await
            .map_err(sql("store a cursor"))?;
        self.db.commit(tx).await?;
        Ok(Position { epoch, seq: seq - 1 })
    }

    /// The oldest waiting outcomes with their numbers, at least one if any waits.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn batch(&self, max_outcomes: usize, max_bytes: usize) -> Result<(i64, Vec<(i64, Outcome)>)> {
        let limit = i64::try_from(max_outcomes.min(MAX_BATCH)).unwrap_or(0);
        let rows = sqlx::query(
            "SELECT meta.epoch, outcomes.seq, outcomes.body FROM meta LEFT JOIN outcomes ORDER BY outcomes.seq LIMIT $1",
        )
        .bind(limit.max(1))
        .fetch_all(self.db.pool())
        .await
        .map_err(sql("read waiting outcomes"))?;
        let mut epoch = 1;
        let mut batch = Vec::with_capacity(rows.len());
        let mut bytes = 0;
        for row in rows {
            epoch = row.get(0);
            let (seq, body): (Option<i64>, Option<String>) = (row.get(1), row.get(2));
            let (Some(seq), Some(body)) = (seq, body) else { break };
            bytes += body.len();
            if bytes > max_bytes.min(MAX_BATCH_BYTES) && !batch.is_empty() {
                break;
            }
            batch.push((seq, serde_json::from_str(&body).map_err(content("outcome"))?));
        }
        Ok((epoch, batch))
    }

    /// Removes everything up to and including `seq`, if `epoch` is the one in use.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn acked(&self, epoch: i64, seq: i64) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let known = sqlx::query("UPDATE meta SET acked_seq = max(acked_seq, min($2, next_seq - 1)) WHERE epoch = $1")
            .bind(epoch)
            .bind(seq)
            .execute(&mut *tx)
            .await
            .map_err(sql("store an acknowledgement"))?;
        if known.rows_affected() == 0 {
            return Ok(());
        }
        sqlx::query("DELETE FROM outcomes WHERE seq <= $1")
            .bind(seq)
            .execute(&mut *tx)
            .await
            .map_err(sql("remove sent outcomes"))?;
        self.db.commit(tx).await
    }

    /// Begins a new epoch, as the controller asks when it has other content under our numbers (this file was rolled
    /// back). Waiting outcomes are kept under new numbers from 1.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn new_epoch(&self) -> Result<i64> {
        let mut tx = self.db.begin().await?;
        let failed = sql("begin a new epoch");
        // Twice, by way of negative numbers: no row may meet another's old number half-way.
        sqlx::query("UPDATE outcomes SET seq = (SELECT acked_seq FROM meta) - seq")
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query("UPDATE outcomes SET seq = -seq").execute(&mut *tx).await.map_err(&failed)?;
        sqlx::query("UPDATE meta SET epoch = epoch + 1, next_seq = next_seq - acked_seq, acked_seq = 0")
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        let epoch = sqlx::query_scalar("SELECT epoch FROM meta").fetch_one(&mut *tx).await.map_err(&failed)?;
        self.db.commit(tx).await?;
        Ok(epoch)
    }

    /// The newest outcome stored in this epoch; seq 0 = none yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn position(&self) -> Result<Position> {
        let row = self.meta("SELECT epoch, next_seq - 1 FROM meta").await?;
        Ok(Position { epoch: row.get(0), seq: row.get(1) })
    }

    /// The newest acknowledged outcome; seq 0 = none yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn acked_position(&self) -> Result<Position> {
        let row = self.meta("SELECT epoch, acked_seq FROM meta").await?;
        Ok(Position { epoch: row.get(0), seq: row.get(1) })
    }

    /// The cursor as detection stored it; `None` before the first read.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn cursor(&self) -> Result<Option<String>> {
        Ok(self.meta("SELECT cursor FROM meta").await?.get(0))
    }

    /// # Errors
    /// When the file cannot be read.
    pub async fn pending(&self) -> Result<Pending> {
        let row = self.meta("SELECT count(*), coalesce(sum(length(CAST(body AS BLOB))), 0) FROM outcomes").await?;
        Ok(Pending { outcomes: row.get(0), bytes: row.get(1) })
    }

    /// Outcomes ever stored in this file, sent or not.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn recorded_total(&self) -> Result<i64> {
        Ok(self.meta("SELECT recorded FROM meta").await?.get(0))
    }

    async fn meta(&self, query: &'static str) -> Result<sqlx::sqlite::SqliteRow> {
        sqlx::query(query).fetch_one(self.db.pool()).await.map_err(sql("be read"))
    }
}

#[cfg(test)]
mod tests;
