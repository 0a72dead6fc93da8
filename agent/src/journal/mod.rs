//! What the agent was ordered to do and how far it is: the write-ahead record of orders and steps, and the highest fence.
//! Written by `execute`; read by the link, which tells the controller what is not told yet.
//!
//! INVARIANT: a step's intent (with all that undoing it needs) is durable before its effect, its end before the next
//! step. Each change gets a number; what was told is remembered by that number, so nothing is lost between the two.

mod record;

use chrono::{DateTime, Duration, Utc};
use fleetmend_proto::{
    Fence, OrderId,
    order::{OrderPhase, OrderText, Refusal, StepReport, StepState},
};
use sqlx::{Row as _, sqlite::SqliteRow};

pub use record::{OrderRecord, OrderUpdate, StepEnd, StepIntent, StepRecord};

use crate::state::{AgentDb, Result, Tx, content, sql};

/// With it, the order is undone from now on and ends in this phase, for this reason.
type Unwind<'a> = Option<(OrderPhase, &'a str)>;

/// This many starts of the agent within [`STARTS_WITHIN`] put it into safe mode.
const STARTS: i64 = 4;
const STARTS_WITHIN: Duration = Duration::minutes(15);
/// How long safe mode lasts.
const SAFE_MODE: Duration = Duration::hours(24);
/// How long finished orders that were told are kept.
const KEPT: Duration = Duration::days(90);

/// The journal part of the agent's file.
#[derive(Clone, Debug)]
pub struct Journal {
    db: AgentDb,
}

impl Journal {
    #[must_use]
    pub const fn new(db: AgentDb) -> Self {
        Self { db }
    }

    /// The highest fence of any verified order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn max_fence(&self) -> Result<Fence> {
        self.one("SELECT max_fence FROM meta").await.map(|row| Fence(row.get(0)))
    }

    /// Orders made before this time may have been executed by a journal that was lost; `None` = nothing was lost.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn forgot_before(&self) -> Result<Option<DateTime<Utc>>> {
        let us: Option<i64> = self.one("SELECT forgot_before FROM meta").await?.get(0);
        Ok(us.and_then(DateTime::from_timestamp_micros))
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
        Ok(us.and_then(DateTime::from_timestamp_micros).filter(|until| *until > now))
    }

    /// An order by its id.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn order(&self, order: OrderId) -> Result<Option<OrderRecord>> {
        let row = sqlx::query("SELECT * FROM orders WHERE order_id = $1")
            .bind(order.0)
            .fetch_optional(self.db.pool())
            .await
            .map_err(sql("read an order"))?;
        row.as_ref().map(OrderRecord::from_row).transpose()
    }

    /// Orders that have not ended, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<OrderRecord>> {
        self.orders("SELECT * FROM orders WHERE finished_at IS NULL ORDER BY accepted_at").await
    }

    /// The steps of an order by index.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn steps(&self, order: OrderId) -> Result<Vec<StepRecord>> {
        let rows = sqlx::query("SELECT * FROM steps WHERE order_id = $1 ORDER BY idx")
            .bind(order.0)
            .fetch_all(self.db.pool())
            .await
            .map_err(sql("read steps"))?;
        rows.iter().map(StepRecord::from_row).collect()
    }

    /// What the controller was not told yet, one update an order. After it took one, call [`Journal::told`].
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn untold(&self) -> Result<Vec<OrderUpdate>> {
        let orders = self
            .orders(
                "SELECT * FROM orders WHERE told < change OR EXISTS \
                 (SELECT 1 FROM steps WHERE steps.order_id = orders.order_id AND steps.change > orders.told) \
                 ORDER BY accepted_at",
            )
            .await?;
        let mut updates = Vec::with_capacity(orders.len());
        for order in orders {
            updates.push(self.update_of(&order).await?);
        }
        Ok(updates)
    }

    /// What is known of an order, with the steps the controller was not told yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn update_of(&self, order: &OrderRecord) -> Result<OrderUpdate> {
        let steps = self.steps(order.order).await?;
        let mark = steps.iter().map(|it| it.change).chain([order.change]).max().unwrap_or_default();
        let steps: Vec<StepReport> =
            steps.into_iter().filter(|it| it.change > order.told).map(StepRecord::into_report).collect();
        Ok(OrderUpdate {
            order: order.order,
            fence: order.fence,
            phase: order.phase,
            refusal: order.refusal,
            detail: order.detail.clone(),
            steps,
            mark,
        })
    }

    /// The controller took `update`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn told(&self, update: &OrderUpdate) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query("UPDATE orders SET told = max(told, $2) WHERE order_id = $1")
            .bind(update.order.0)
            .bind(update.mark)
            .execute(&mut *tx)
            .await
            .map_err(sql("record what was told"))?;
        self.db.commit(tx).await
    }

    /// Asks a running order to stop at its next step. `false`: no such order under way with that fence.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn cancel(&self, order: OrderId, fence: Fence) -> Result<bool> {
        let mut tx = self.db.begin().await?;
        let done =
            sqlx::query("UPDATE orders SET cancel = 1 WHERE order_id = $1 AND fence = $2 AND finished_at IS NULL")
                .bind(order.0)
                .bind(fence.0)
                .execute(&mut *tx)
                .await
                .map_err(sql("record a cancellation"))?;
        self.db.commit(tx).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Records a verified order that may run; its preconditions become step 0. A redelivery with a higher fence takes
    /// the place of an order that never began.
    pub(crate) async fn accept(
        &self,
        order: &OrderText,
        note: &[u8],
        conditions: &str,
        boot_id: &str,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let mut tx = self.db.begin().await?;
        self.put_order(&mut tx, order, note, OrderPhase::Running, None, "", now).await?;
        let change = next_change(&mut tx).await?;
        sqlx::query(
            "INSERT INTO steps (order_id, idx, name, state, undo, undo_owed, data, boot_id, detail, findings, at, change) \
             VALUES ($1, 0, 'preconditions', $2, NULL, 0, 'null', $3, $4, '[]', $5, $6)",
        )
        .bind(order.order.0)
        .bind(StepState::Done.word())
        .bind(boot_id)
        .bind(conditions)
        .bind(now.timestamp_micros())
        .bind(change)
        .execute(&mut *tx)
        .await
        .map_err(sql("record preconditions"))?;
        self.db.commit(tx).await
    }

    /// Records a verified order for this device that is refused, so that a second delivery gets the same answer.
    pub(crate) async fn refuse(
        &self,
        order: &OrderText,
        note: &[u8],
        refusal: Refusal,
        detail: &str,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let mut tx = self.db.begin().await?;
        self.put_order(&mut tx, order, note, OrderPhase::Refused, Some(refusal), detail, now).await?;
        self.db.commit(tx).await
    }

    /// A finished order came again under a higher fence: its recorded answer is told again under that fence.
    pub(crate) async fn refenced(&self, order: OrderId, fence: Fence) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let change = next_change(&mut tx).await?;
        sqlx::query("UPDATE orders SET fence = $2, change = $3, told = 0 WHERE order_id = $1")
            .bind(order.0)
            .bind(fence.0)
            .bind(change)
            .execute(&mut *tx)
            .await
            .map_err(sql("record a fence"))?;
        raise_fence(&mut tx, fence).await?;
        self.db.commit(tx).await
    }

    pub(crate) async fn begun(&self, order: OrderId) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query("UPDATE orders SET begun = 1 WHERE order_id = $1")
            .bind(order.0)
            .execute(&mut *tx)
            .await
            .map_err(sql("record a beginning"))?;
        self.db.commit(tx).await
    }

    /// Writes a step's intent; with `reboot`, counts a restart in the same write.
    pub(crate) async fn intent(&self, order: OrderId, step: &StepIntent<'_>, reboot: bool) -> Result<()> {
        let mut tx = self.db.begin().await?;
        insert_step(&mut tx, order, step).await?;
        if reboot {
            sqlx::query("INSERT INTO reboots VALUES ($1, $2)")
                .bind(step.at.timestamp_micros())
                .bind(order.0)
                .execute(&mut *tx)
                .await
                .map_err(sql("record a restart"))?;
        }
        self.db.commit(tx).await
    }

    /// Writes how a step ended; with `unwind`, that the order is from now on undone and ends so.
    pub(crate) async fn ended(&self, order: OrderId, end: &StepEnd, unwind: Unwind<'_>) -> Result<()> {
        let mut tx = self.db.begin().await?;
        end_step(&mut tx, order, end, unwind).await?;
        self.db.commit(tx).await
    }

    /// Writes a step that ended before any effect, in one write: its intent alone would be taken for one to carry out.
    pub(crate) async fn ended_at_once(
        &self,
        order: OrderId,
        step: &StepIntent<'_>,
        end: &StepEnd,
        unwind: Unwind<'_>,
    ) -> Result<()> {
        let mut tx = self.db.begin().await?;
        insert_step(&mut tx, order, step).await?;
        end_step(&mut tx, order, end, unwind).await?;
        self.db.commit(tx).await
    }

    /// From now on the order is undone and ends in `phase`.
    pub(crate) async fn unwind(&self, order: OrderId, phase: OrderPhase, why: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        set_unwind(&mut tx, order, phase, why).await?;
        self.db.commit(tx).await
    }

    pub(crate) async fn phase(
        &self,
        order: OrderId,
        phase: OrderPhase,
        refusal: Option<Refusal>,
        detail: &str,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let change = next_change(&mut tx).await?;
        sqlx::query("UPDATE orders SET phase = $2, refusal = $3, detail = $4, finished_at = $5, change = $6 WHERE order_id = $1")
            .bind(order.0)
            .bind(phase.word())
            .bind(refusal.map(Refusal::word))
            .bind(detail)
            .bind(phase.is_final().then(|| now.timestamp_micros()))
            .bind(change)
            .execute(&mut *tx)
            .await
            .map_err(sql("record a phase"))?;
        self.db.commit(tx).await
    }

    /// Restarts asked for by this order, and by any order since `since`.
    pub(crate) async fn reboots(&self, order: OrderId, since: DateTime<Utc>) -> Result<(i64, i64)> {
        let row =
            sqlx::query("SELECT count(*) FILTER (WHERE order_id = $1), count(*) FILTER (WHERE at >= $2) FROM reboots")
                .bind(order.0)
                .bind(since.timestamp_micros())
                .fetch_one(self.db.pool())
                .await
                .map_err(sql("count restarts"))?;
        Ok((row.get(0), row.get(1)))
    }

    /// Steps of ended orders whose undoing failed.
    pub(crate) async fn owed(&self) -> Result<Vec<(OrderId, StepRecord)>> {
        let rows = sqlx::query(
            "SELECT steps.* FROM steps JOIN orders USING (order_id) \
             WHERE undo_owed = 1 AND finished_at IS NOT NULL ORDER BY finished_at, order_id, idx DESC",
        )
        .fetch_all(self.db.pool())
        .await
        .map_err(sql("read what is still to be undone"))?;
        rows.iter().map(|row| Ok((OrderId(row.get("order_id")), StepRecord::from_row(row)?))).collect()
    }

    /// The newest records of a step of this name in earlier orders.
    pub(crate) async fn earlier(&self, name: &str, order: OrderId, since: DateTime<Utc>) -> Result<Vec<StepRecord>> {
        let rows = sqlx::query(
            "SELECT * FROM steps WHERE name = $1 AND order_id <> $2 AND at >= $3 ORDER BY at DESC LIMIT 50",
        )
        .bind(name)
        .bind(order.0)
        .bind(since.timestamp_micros())
        .fetch_all(self.db.pool())
        .await
        .map_err(sql("read earlier steps"))?;
        rows.iter().map(StepRecord::from_row).collect()
    }

    #[allow(clippy::too_many_arguments)]
    async fn put_order(
        &self,
        tx: &mut Tx,
        order: &OrderText,
        note: &[u8],
        phase: OrderPhase,
        refusal: Option<Refusal>,
        detail: &str,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let failed = sql("record an order");
        sqlx::query("DELETE FROM orders WHERE order_id = $1")
            .bind(order.order.0)
            .execute(&mut **tx)
            .await
            .map_err(&failed)?;
        let change = next_change(tx).await?;
        sqlx::query(
            "INSERT INTO orders (order_id, fence, action, note, phase, refusal, detail, accepted_at, finished_at, begun, cancel, \
             unwind, change, told) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, NULL, $10, 0)",
        )
        .bind(order.order.0)
        .bind(order.fence.0)
        .bind(order.action.name())
        .bind(note)
        .bind(phase.word())
        .bind(refusal.map(Refusal::word))
        .bind(detail)
        .bind(now.timestamp_micros())
        .bind(phase.is_final().then(|| now.timestamp_micros()))
        .bind(change)
        .execute(&mut **tx)
        .await
        .map_err(&failed)?;
        raise_fence(tx, order.fence).await
    }

    async fn orders(&self, query: &'static str) -> Result<Vec<OrderRecord>> {
        let rows = sqlx::query(query).fetch_all(self.db.pool()).await.map_err(sql("read orders"))?;
        rows.iter().map(OrderRecord::from_row).collect()
    }

    async fn one(&self, query: &'static str) -> Result<SqliteRow> {
        sqlx::query(query).fetch_one(self.db.pool()).await.map_err(sql("be read"))
    }
}

async fn insert_step(tx: &mut Tx, order: OrderId, step: &StepIntent<'_>) -> Result<()> {
    let change = next_change(tx).await?;
    sqlx::query(
        "INSERT INTO steps (order_id, idx, name, state, undo, undo_owed, data, boot_id, detail, findings, at, change) \
         VALUES ($1, $2, $3, $4, $5, 0, $6, $7, '', '[]', $8, $9)",
    )
    .bind(order.0)
    .bind(step.index)
    .bind(step.name)
    .bind(StepState::Started.word())
    .bind(step.undo.as_deref())
    .bind(step.data.to_string())
    .bind(step.boot_id)
    .bind(step.at.timestamp_micros())
    .bind(change)
    .execute(&mut **tx)
    .await
    .map_err(sql("record an intent"))?;
    Ok(())
}

async fn end_step(tx: &mut Tx, order: OrderId, end: &StepEnd, unwind: Unwind<'_>) -> Result<()> {
    let findings = serde_json::to_string(&end.findings).map_err(content("finding"))?;
    let change = next_change(tx).await?;
    sqlx::query(
        "UPDATE steps SET state = $3, detail = $4, findings = $5, at = $6, change = $7, undo_owed = $8, \
         data = coalesce($9, data) WHERE order_id = $1 AND idx = $2",
    )
    .bind(order.0)
    .bind(end.index)
    .bind(end.state.word())
    .bind(&end.detail)
    .bind(findings)
    .bind(end.at.timestamp_micros())
    .bind(change)
    .bind(end.undo_owed)
    .bind(end.data.as_ref().map(ToString::to_string))
    .execute(&mut **tx)
    .await
    .map_err(sql("record a step's end"))?;
    match unwind {
        Some((phase, why)) => set_unwind(tx, order, phase, why).await,
        None => Ok(()),
    }
}

async fn next_change(tx: &mut Tx) -> Result<i64> {
    sqlx::query_scalar("UPDATE meta SET change = change + 1 RETURNING change")
        .fetch_one(&mut **tx)
        .await
        .map_err(sql("count a change"))
}

async fn raise_fence(tx: &mut Tx, fence: Fence) -> Result<()> {
    sqlx::query("UPDATE meta SET max_fence = max(max_fence, $1)")
        .bind(fence.0)
        .execute(&mut **tx)
        .await
        .map_err(sql("raise the fence"))?;
    Ok(())
}

async fn set_unwind(tx: &mut Tx, order: OrderId, phase: OrderPhase, why: &str) -> Result<()> {
    sqlx::query("UPDATE orders SET unwind = $2, detail = $3 WHERE order_id = $1")
        .bind(order.0)
        .bind(phase.word())
        .bind(why)
        .execute(&mut **tx)
        .await
        .map_err(sql("record an undoing"))?;
    Ok(())
}

#[cfg(test)]
mod tests;
