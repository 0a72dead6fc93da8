//! What `execute` writes: orders, intents, ends, phases. Each method is one durable write.

use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Fence, OrderId,
    order::{OrderPhase, OrderText, Refusal, StepState},
};

use super::{Journal, StepEnd, StepIntent};
use crate::state::{Result, Tx, content, sql};

/// From when it is written the order is undone, and ends in this phase, for this reason.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unwind<'a> {
    pub phase: OrderPhase,
    /// With [`OrderPhase::Refused`] only.
    pub refusal: Option<Refusal>,
    pub why: &'a str,
}

impl Journal {
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
    pub(crate) async fn ended(&self, order: OrderId, end: &StepEnd, unwind: Option<Unwind<'_>>) -> Result<()> {
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
        unwind: Option<Unwind<'_>>,
    ) -> Result<()> {
        let mut tx = self.db.begin().await?;
        insert_step(&mut tx, order, step).await?;
        end_step(&mut tx, order, end, unwind).await?;
        self.db.commit(tx).await
    }

    /// From now on the order is undone and ends as `unwind` says.
    pub(crate) async fn unwind(&self, order: OrderId, unwind: Unwind<'_>) -> Result<()> {
        let mut tx = self.db.begin().await?;
        set_unwind(&mut tx, order, unwind).await?;
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

    /// Replaces what undoing a step needs, before it begins: an undoing that stops something must know after a crash what
    /// to start again.
    pub(crate) async fn undo_noted(&self, order: OrderId, index: u32, undo: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        sqlx::query("UPDATE steps SET undo = $3 WHERE order_id = $1 AND idx = $2")
            .bind(order.0)
            .bind(index)
            .bind(undo)
            .execute(&mut *tx)
            .await
            .map_err(sql("record an undoing"))?;
        self.db.commit(tx).await
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

async fn end_step(tx: &mut Tx, order: OrderId, end: &StepEnd, unwind: Option<Unwind<'_>>) -> Result<()> {
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
        Some(unwind) => set_unwind(tx, order, unwind).await,
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

async fn set_unwind(tx: &mut Tx, order: OrderId, unwind: Unwind<'_>) -> Result<()> {
    sqlx::query("UPDATE orders SET unwind = $2, refusal = $3, detail = $4 WHERE order_id = $1")
        .bind(order.0)
        .bind(unwind.phase.word())
        .bind(unwind.refusal.map(Refusal::word))
        .bind(unwind.why)
        .execute(&mut **tx)
        .await
        .map_err(sql("record an undoing"))?;
    Ok(())
}
