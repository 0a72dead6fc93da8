//! What the agent was ordered to do and how far it is: the write-ahead record of orders and steps, and the highest fence.
//! Written by `execute`; read by the link, which tells the controller what is not told yet.
//!
//! INVARIANT: a step's intent (with all that undoing it needs) is durable before its effect, its end before the next
//! step. Each change gets a number; what was told is remembered by that number, so nothing is lost between the two.

mod limits;
mod record;
mod write;

use chrono::{DateTime, Utc};
use fleetmend_proto::{Fence, OrderId, order::StepReport};
use sqlx::{Row as _, sqlite::SqliteRow};

pub use record::{OrderRecord, OrderUpdate, StepEnd, StepIntent, StepRecord};
pub(crate) use write::Unwind;

use crate::state::{AgentDb, Result, sql};

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
            // While it is being undone the reason is only the journal's.
            refusal: order.refusal.filter(|_| order.phase.is_final()),
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

    /// Whether an order accepted after this one did a step of this name and has not undone it.
    pub(crate) async fn done_since(&self, order: OrderId, name: &str) -> Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM steps JOIN orders USING (order_id) WHERE name = $2 AND undo IS NOT NULL \
             AND state NOT IN ('skipped', 'undone') AND orders.rowid > (SELECT rowid FROM orders WHERE order_id = $1))",
        )
        .bind(order.0)
        .bind(name)
        .fetch_one(self.db.pool())
        .await
        .map_err(sql("read newer orders"))
    }

    /// The newest records of a step of this name in earlier orders that left it done: what they took back is not theirs.
    pub(crate) async fn earlier(&self, name: &str, order: OrderId, since: DateTime<Utc>) -> Result<Vec<StepRecord>> {
        let rows = sqlx::query(
            "SELECT * FROM steps WHERE name = $1 AND order_id <> $2 AND at >= $3 AND state <> 'undone' ORDER BY at DESC LIMIT 50",
        )
        .bind(name)
        .bind(order.0)
        .bind(since.timestamp_micros())
        .fetch_all(self.db.pool())
        .await
        .map_err(sql("read earlier steps"))?;
        rows.iter().map(StepRecord::from_row).collect()
    }

    async fn orders(&self, query: &'static str) -> Result<Vec<OrderRecord>> {
        let rows = sqlx::query(query).fetch_all(self.db.pool()).await.map_err(sql("read orders"))?;
        rows.iter().map(OrderRecord::from_row).collect()
    }

    async fn one(&self, query: &'static str) -> Result<SqliteRow> {
        sqlx::query(query).fetch_one(self.db.pool()).await.map_err(sql("be read"))
    }
}

#[cfg(test)]
mod tests;
