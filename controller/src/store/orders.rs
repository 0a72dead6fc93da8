//! Order rows: reading them, moving them on by the domain's table, making, cancelling and ending them.
//! Leasing is `lease`'s, what devices say of them `progress`'s.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use fleetmend_domain::{
    incident,
    ladder::{Attempt, Verdict},
    order::{self, Event, IllegalTransition, State},
};
use fleetmend_proto::{
    Action, DeviceId, Fence, IncidentId, OrderId, Position, Tier,
    order::{Finding, Refusal, StepState},
};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Actor, IdRow, Store, StoreError, all_written, device_ids,
    devices::{lock, owner, word},
    engine::{Tx, bulk, bulk_fetch, bulk_sql, within},
    error::During as _,
    events::{self, Event as Change},
    from_json, id_rows, incidents,
};

/// An order as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OrderRow {
    pub id: OrderId,
    pub device: DeviceId,
    pub device_name: String,
    pub incident: IncidentId,
    pub action: Action,
    /// What it is charged to; `None` = `Reboot` or `HideUpdate`.
    pub tier: Option<Tier>,
    /// Asked for by a person.
    pub manual: bool,
    pub state: State,
    pub fence: Option<Fence>,
    /// Wall clock.
    pub lease_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub leased_at: Option<DateTime<Utc>>,
    pub begun_at: Option<DateTime<Utc>>,
    /// Newest outcome the device knew when it began.
    pub begun: Option<Position>,
    pub run_deadline_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub detail: String,
    pub refusal: Option<Refusal>,
    pub verdict: Option<Verdict>,
    pub generation: i64,
}

/// A step of an order, newest state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepRow {
    pub order: OrderId,
    pub step: i64,
    pub name: String,
    pub state: StepState,
    pub detail: String,
    pub at: DateTime<Utc>,
    pub findings: Vec<Finding>,
}

/// What of an order can change.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Live {
    pub id: Uuid,
    pub device_id: Uuid,
    pub incident_id: Uuid,
    pub state: State,
    pub fence: Option<i64>,
    pub lease_until: Option<DateTime<Utc>>,
    pub run_seconds: i64,
    pub begun_at: Option<DateTime<Utc>>,
    pub begin_epoch: Option<i64>,
    pub begin_seq: Option<i64>,
    pub run_deadline_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub detail: String,
    pub refusal: Option<String>,
    /// JSON.
    pub verdict: Option<String>,
    /// As read.
    pub generation: i64,
}

impl Live {
    pub(super) const fn order(&self) -> OrderId {
        OrderId(self.id)
    }

    pub(super) const fn device(&self) -> DeviceId {
        DeviceId(self.device_id)
    }

    pub(super) const fn incident(&self) -> IncidentId {
        IncidentId(self.incident_id)
    }

    pub(super) fn take(&mut self, event: Event, now: DateTime<Utc>) -> Result<(), IllegalTransition> {
        self.state = order::next(self.state, event)?;
        if self.state.is_final() {
            self.ended_at = Some(now);
            self.lease_until = None;
        }
        Ok(())
    }
}

const OWNER: &str = "SELECT device_id FROM orders WHERE id = $1";

const LOAD: [&str; 2] = bulk_sql!(
    "SELECT o.id, o.device_id, o.incident_id, o.state, o.fence, o.lease_until, o.run_seconds, o.begun_at, \
     o.begin_epoch, o.begin_seq, o.run_deadline_at, o.ended_at, o.detail, o.refusal, o.verdict, o.generation FROM "
    [id: uuid] " JOIN orders o ON o.id = r.id"
);

const LOAD_OF_INCIDENTS: [&str; 2] = bulk_sql!(
    "SELECT o.id, o.device_id, o.incident_id, o.state, o.fence, o.lease_until, o.run_seconds, o.begun_at, \
     o.begin_epoch, o.begin_seq, o.run_deadline_at, o.ended_at, o.detail, o.refusal, o.verdict, o.generation FROM "
    [id: uuid] " JOIN orders o ON o.incident_id = r.id ORDER BY o.id"
);

const SAVE: [&str; 2] = bulk_sql!(
    "UPDATE orders SET state = r.state, fence = r.fence, lease_until = r.lease_until, begun_at = r.begun_at, \
     begin_epoch = r.begin_epoch, begin_seq = r.begin_seq, run_deadline_at = r.run_deadline_at, \
     ended_at = r.ended_at, detail = r.detail, refusal = r.refusal, verdict = r.verdict, \
     generation = orders.generation + 1 FROM "
    [id: uuid, state: text, fence: bigint, lease_until: timestamptz, begun_at: timestamptz, begin_epoch: bigint,
     begin_seq: bigint, run_deadline_at: timestamptz, ended_at: timestamptz, detail: text, refusal: text, verdict: text,
     generation: bigint]
    " WHERE orders.id = r.id AND orders.generation = r.generation"
);

const ATTEMPTS: [&str; 2] = bulk_sql!(
    "SELECT o.incident_id, o.action, o.tier, o.state, o.refusal, o.verdict, o.ended_at, o.manual FROM "
    [id: uuid] " JOIN orders o ON o.incident_id = r.id ORDER BY o.id"
);

pub(super) async fn load(tx: &mut Tx, ids: impl IntoIterator<Item = Uuid>) -> Result<Vec<Live>, StoreError> {
    fetch(tx, LOAD, ids).await
}

/// All orders of these incidents, oldest first.
pub(super) async fn load_of_incidents(
    tx: &mut Tx,
    incidents: impl IntoIterator<Item = Uuid>,
) -> Result<Vec<Live>, StoreError> {
    fetch(tx, LOAD_OF_INCIDENTS, incidents).await
}

async fn fetch(
    tx: &mut Tx,
    sql: [&'static str; 2],
    ids: impl IntoIterator<Item = Uuid>,
) -> Result<Vec<Live>, StoreError> {
    let ids = id_rows(ids);
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<RawLive> = bulk_fetch!(tx, sql, &ids, "order load")?;
    rows.into_iter().map(Live::try_from).collect()
}

/// Writes all of them or fails.
pub(super) async fn save(tx: &mut Tx, rows: &[Live]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let written: u64 = bulk!(tx, SAVE, rows, "order save")?;
    all_written("order save", written, rows.len())
}

/// The attempts of incidents as the ladder sees them, oldest first.
pub(super) fn attempts_from(rows: Vec<RawAttempt>) -> Result<HashMap<Uuid, Vec<Attempt>>, StoreError> {
    let mut attempts: HashMap<Uuid, Vec<Attempt>> = HashMap::new();
    for row in rows {
        attempts.entry(row.incident_id).or_default().push(Attempt {
            action: from_json("action", &row.action)?,
            charged_to: incidents::tier(row.tier)?,
            state: word("order state", &row.state, State::from_word)?,
            refusal: row.refusal.as_deref().map(|it| word("refusal", it, Refusal::from_word)).transpose()?,
            verdict: row.verdict.as_deref().map(|it| from_json("verdict", it)).transpose()?,
            ended_at: row.ended_at,
            manual: row.manual,
        });
    }
    Ok(attempts)
}

pub(super) async fn attempts(
    tx: &mut Tx,
    incidents: impl IntoIterator<Item = Uuid>,
) -> Result<HashMap<Uuid, Vec<Attempt>>, StoreError> {
    let ids = id_rows(incidents);
    attempts_from(bulk_fetch!(tx, ATTEMPTS, &ids, "attempts load")?)
}

impl Store {
    /// The attempts of incidents, from the pool that reads.
    pub(super) async fn attempts_read(&self, ids: &[IdRow]) -> Result<HashMap<Uuid, Vec<Attempt>>, StoreError> {
        attempts_from(super::engine::bulk_read!(self.db, ATTEMPTS, ids, "attempts load")?)
    }

    /// Cancels an order that has not ended. One that a device has begun goes on the list that the device is told from
    /// (`orders_cancel_asked`), and ends when it says so. The incident is decided anew, or verified where the order had begun.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::Conflict`] when the order has ended.
    pub async fn order_cancel(
        &self,
        order: OrderId,
        by: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let operation = "order cancel";
        let actor = Actor::Person(by.to_owned());
        let mut tx = self.begin(operation).await?;
        let device = owner(&mut tx, OWNER, order.0).await?.ok_or_else(|| StoreError::not_found("order", order))?;
        lock(&mut tx, &device_ids([device])).await?;
        let mut rows = load(&mut tx, [order.0]).await?;
        let Some(row) = rows.first() else {
            return Err(StoreError::not_found("order", order));
        };
        if row.state.is_final() {
            let reason = format!("the order has ended already: it is {}", row.state);
            return Err(StoreError::Conflict { operation, reason });
        }
        cancel_or_ask(&mut tx, &mut rows, &actor, reason, now).await?;
        tx.commit().await.during(operation)
    }

    /// Orders that devices work on though people cancelled them, with the fence each was begun under.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn orders_cancel_asked(&self) -> Result<Vec<(OrderId, DeviceId, Fence)>, StoreError> {
        let rows: Vec<(Uuid, Uuid, i64)> = super::engine::on!(self.db, pool => sqlx::query_as(
            "SELECT o.id, o.device_id, o.fence FROM orders o \
             WHERE o.state IN ('running', 'awaiting_reboot', 'awaiting_return') AND o.fence IS NOT NULL AND EXISTS \
             (SELECT 1 FROM events e WHERE e.incident_id = o.incident_id AND e.order_id = o.id \
             AND e.kind = 'order_cancel_asked')",
        )
        .fetch_all(pool)
        .await)
        .during("orders to cancel")?;
        Ok(rows.into_iter().map(|(order, device, fence)| (OrderId(order), DeviceId(device), Fence(fence))).collect())
    }

    /// Ends what waited too long, by domain time: queued orders past their expiry become `Expired`, begun ones past
    /// their run deadline `Unknown`. Returns how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn orders_expire(&self, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let operation = "order expiry";
        let actor = Actor::Loop("expire");
        let due: Vec<(Uuid, Uuid)> = super::engine::on!(self.db, pool => sqlx::query_as(
            "SELECT id, device_id FROM orders WHERE state = 'queued' AND expires_at <= $1 \
             UNION ALL SELECT id, device_id FROM orders \
             WHERE state IN ('running', 'awaiting_reboot', 'awaiting_return') AND run_deadline_at <= $1 LIMIT 1000",
        )
        .bind(now)
        .fetch_all(pool)
        .await)
        .during(operation)?;
        if due.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids(due.iter().map(|(_, device)| DeviceId(*device)))).await?;
        let mut rows = load(&mut tx, due.iter().map(|(id, _)| *id)).await?;
        // Looked at again under the lock: a device may have begun or ended it meanwhile.
        rows.retain_mut(|row| {
            let event = match row.state {
                State::Queued => Event::Expired,
                State::Running | State::AwaitingReboot | State::AwaitingReturn => Event::BecameUnknown,
                State::Leased
                | State::Succeeded
                | State::Failed
                | State::Unavailable
                | State::Refused
                | State::Unknown
                | State::Expired
                | State::Cancelled => return false,
            };
            row.take(event, now).is_ok()
        });
        let ended = rows.len();
        settle(&mut tx, &rows, &actor, now).await?;
        save(&mut tx, &rows).await?;
        tx.commit().await.during(operation)?;
        Ok(ended as u64)
    }
}

/// Moves the incidents of ended orders on: to proof where something may have been tried, else back to the ladder.
pub(super) async fn settle(tx: &mut Tx, ended: &[Live], actor: &Actor, now: DateTime<Utc>) -> Result<(), StoreError> {
    let mut incidents = incidents::load(tx, ended.iter().map(|order| order.incident_id)).await?;
    incidents.retain_mut(|live| {
        let Some(order) = ended.iter().find(|order| Some(order.id) == live.order_id) else {
            return false;
        };
        let event = match order.state {
            State::Succeeded | State::Failed | State::Unknown => incident::Event::OrderFinished,
            State::Unavailable | State::Refused | State::Expired => incident::Event::OrderLapsed,
            // A begun order that was cancelled may have changed something.
            State::Cancelled if order.begun_at.is_some() => incident::Event::OrderFinished,
            State::Cancelled => incident::Event::OrderLapsed,
            State::Queued | State::Leased | State::Running | State::AwaitingReboot | State::AwaitingReturn => {
                return false;
            }
        };
        let moved = live.take(&event, now).is_ok();
        live.due_at = (moved && !live.state.is_ended()).then_some(now);
        moved
    });
    incidents::save(tx, &incidents).await?;
    let log: Vec<_> = ended.iter().map(|order| ended_change(order, actor, now)).collect();
    events::append(tx, &log).await
}

/// What is appended for an order that has ended, whoever ended it.
pub(super) fn ended_change(order: &Live, actor: &Actor, now: DateTime<Utc>) -> Change {
    let data = serde_json::json!({ "state": order.state, "detail": order.detail, "refusal": order.refusal });
    Change::new(actor, "order_ended", now)
        .device(order.device())
        .incident(order.incident())
        .order(order.order())
        .data(&data)
}

/// Cancels orders that have not begun. The caller holds the lock on their devices.
pub(super) async fn cancel(
    tx: &mut Tx,
    rows: &mut Vec<Live>,
    actor: &Actor,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    rows.retain_mut(|row| row.take(Event::Cancelled, now).is_ok());
    settle(tx, rows, actor, now).await?;
    save(tx, rows).await
}

/// Cancels orders that have not ended: those that wait at once, those that were begun by asking their device. The caller
/// holds the lock on their devices.
pub(super) async fn cancel_or_ask(
    tx: &mut Tx,
    rows: &mut Vec<Live>,
    actor: &Actor,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    rows.retain(|row| !row.state.is_final());
    let data = serde_json::json!({ "reason": reason });
    let asked = |row: &Live| {
        let change = Change::new(actor, "order_cancel_asked", now).device(row.device()).incident(row.incident());
        change.order(row.order()).data(&data)
    };
    events::append(tx, &rows.iter().map(asked).collect::<Vec<_>>()).await?;
    rows.retain(|row| matches!(row.state, State::Queued | State::Leased));
    cancel(tx, rows, actor, now).await
}

/// Cancels what a device has not begun. The caller holds the lock on the device.
pub(super) async fn cancel_waiting(
    tx: &mut Tx,
    device: DeviceId,
    actor: &Actor,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = within!(tx, conn => sqlx::query_scalar(
        "SELECT id FROM orders WHERE device_id = $1 AND state IN ('queued', 'leased')",
    )
    .bind(device.0)
    .fetch_all(conn)
    .await)
    .during("order cancel")?;
    let mut rows = load(tx, ids).await?;
    cancel(tx, &mut rows, actor, now).await
}

#[derive(FromRow)]
pub(super) struct RawAttempt {
    incident_id: Uuid,
    action: String,
    tier: Option<i64>,
    state: String,
    refusal: Option<String>,
    verdict: Option<String>,
    ended_at: Option<DateTime<Utc>>,
    manual: bool,
}

#[derive(FromRow)]
struct RawLive {
    id: Uuid,
    device_id: Uuid,
    incident_id: Uuid,
    state: String,
    fence: Option<i64>,
    lease_until: Option<DateTime<Utc>>,
    run_seconds: i64,
    begun_at: Option<DateTime<Utc>>,
    begin_epoch: Option<i64>,
    begin_seq: Option<i64>,
    run_deadline_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    detail: String,
    refusal: Option<String>,
    verdict: Option<String>,
    generation: i64,
}

impl TryFrom<RawLive> for Live {
    type Error = StoreError;

    fn try_from(raw: RawLive) -> Result<Self, StoreError> {
        Ok(Self {
            id: raw.id,
            device_id: raw.device_id,
            incident_id: raw.incident_id,
            state: word("order state", &raw.state, State::from_word)?,
            fence: raw.fence,
            lease_until: raw.lease_until,
            run_seconds: raw.run_seconds,
            begun_at: raw.begun_at,
            begin_epoch: raw.begin_epoch,
            begin_seq: raw.begin_seq,
            run_deadline_at: raw.run_deadline_at,
            ended_at: raw.ended_at,
            detail: raw.detail,
            refusal: raw.refusal,
            verdict: raw.verdict,
            generation: raw.generation,
        })
    }
}

/// The columns of an [`OrderRow`].
#[derive(FromRow)]
pub(super) struct RawRow {
    id: Uuid,
    device_id: Uuid,
    device_name: String,
    incident_id: Uuid,
    action: String,
    tier: Option<i64>,
    manual: bool,
    state: String,
    fence: Option<i64>,
    lease_until: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    leased_at: Option<DateTime<Utc>>,
    begun_at: Option<DateTime<Utc>>,
    begin_epoch: Option<i64>,
    begin_seq: Option<i64>,
    run_deadline_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    detail: String,
    refusal: Option<String>,
    verdict: Option<String>,
    generation: i64,
}

impl TryFrom<RawRow> for OrderRow {
    type Error = StoreError;

    fn try_from(raw: RawRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: OrderId(raw.id),
            device: DeviceId(raw.device_id),
            device_name: raw.device_name,
            incident: IncidentId(raw.incident_id),
            action: from_json("action", &raw.action)?,
            tier: incidents::tier(raw.tier)?,
            manual: raw.manual,
            state: word("order state", &raw.state, State::from_word)?,
            fence: raw.fence.map(Fence),
            lease_until: raw.lease_until,
            created_at: raw.created_at,
            expires_at: raw.expires_at,
            leased_at: raw.leased_at,
            begun_at: raw.begun_at,
            begun: raw.begin_epoch.zip(raw.begin_seq).map(|(epoch, seq)| Position { epoch, seq }),
            run_deadline_at: raw.run_deadline_at,
            ended_at: raw.ended_at,
            detail: raw.detail,
            refusal: raw.refusal.as_deref().map(|it| word("refusal", it, Refusal::from_word)).transpose()?,
            verdict: raw.verdict.as_deref().map(|it| from_json("verdict", it)).transpose()?,
            generation: raw.generation,
        })
    }
}
