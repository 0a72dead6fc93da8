//! What a device says of an order it holds: begun, its steps, its end. Only the newest fence counts; what comes with
//! an older one is kept as evidence.

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_domain::order::{Event, State};
use fleetmend_proto::{
    DeviceId, Fence, OrderId, Position,
    order::{OrderPhase, Refusal, StepReport},
};
use serde::Serialize;
use uuid::Uuid;

use super::{
    Actor, Store, StoreError, device_ids,
    devices::lock,
    engine::{Tx, bulk, bulk_sql, within},
    error::During as _,
    events::{self, Event as Change},
    json_text,
    lease::may_get,
    orders,
};
use crate::sabotage::Sabotage;

/// A device may say as much as it likes of an order that it does not hold; this much of it is kept.
const MOST_EVIDENCE: i64 = 100;

/// A device asks for leave to begin, or to go on, with an order.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    pub device: DeviceId,
    pub order: OrderId,
    pub fence: Fence,
    /// Newest outcome the device knows: later ones belong to the order.
    pub position: Position,
    /// Domain time.
    pub now: DateTime<Utc>,
    pub now_wall: DateTime<Utc>,
    /// Wall clock.
    pub lease_until: DateTime<Utc>,
}

/// What a device says of an order.
#[derive(Clone, Debug)]
pub struct OrderProgress {
    pub device: DeviceId,
    pub order: OrderId,
    pub fence: Fence,
    pub phase: OrderPhase,
    /// New or changed ones.
    pub steps: Vec<StepReport>,
    pub detail: String,
    pub refusal: Option<Refusal>,
    pub now: DateTime<Utc>,
}

impl Store {
    /// Lets a device begin, or renews the lease of an order it has begun under the same fence.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the device has no such order; [`StoreError::Conflict`] with the reason when the
    /// fence is stale, the lease is over, or the order has ended.
    pub async fn order_begin(&self, begin: Begin) -> Result<(), StoreError> {
        let operation = "begin";
        let refuse = |reason: String| Err(StoreError::Conflict { operation, reason });
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids([begin.device])).await?;
        let Some(mut row) = load(&mut tx, begin.order, begin.device).await? else {
            return Err(StoreError::not_found("order", begin.order));
        };
        if !holds(&row, begin.fence) {
            return refuse(format!("fence {} is stale", begin.fence));
        }
        let first = row.state == State::Leased;
        if first && row.lease_until.is_none_or(|until| until <= begin.now_wall) {
            return refuse("the lease has ended before the order began".to_owned());
        }
        // What has begun goes on: a PC is not left half repaired.
        if first && !may_begin(&mut tx, begin.order).await? {
            return refuse("the device is quarantined: this order waits until it is approved".to_owned());
        }
        let resumes = row.state == State::AwaitingReboot;
        let event = if resumes { Event::Resumed } else { Event::Begun };
        if let Err(error) = row.take(event, begin.now) {
            return refuse(error.to_string());
        }
        row.lease_until = Some(begin.lease_until);
        if first {
            row.begun_at = Some(begin.now);
            row.begin_epoch = Some(begin.position.epoch);
            row.begin_seq = Some(begin.position.seq);
            row.run_deadline_at = Some(begin.now + TimeDelta::seconds(row.run_seconds));
        }
        if first || resumes {
            let kind = if first { "order_begun" } else { "order_resumed" };
            let data = serde_json::json!({ "fence": begin.fence });
            let event = change(&row, kind, begin.now).data(&data);
            events::append(&mut tx, &[event]).await?;
        }
        orders::save(&mut tx, std::slice::from_ref(&row)).await?;
        tx.commit().await.during(operation)
    }

    /// Keeps what a device says of its order and moves order and incident on. `false` = the fence is stale or the
    /// order has ended otherwise: kept as evidence, the device need not say it again. Saying it twice changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when the device has no such order.
    pub async fn order_update(&self, progress: OrderProgress) -> Result<bool, StoreError> {
        let operation = "order update";
        let actor = Actor::Device(progress.device);
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids([progress.device])).await?;
        let Some(mut row) = load(&mut tx, progress.order, progress.device).await? else {
            return Err(StoreError::not_found("order", progress.order));
        };
        if holds(&row, progress.fence) && row.state.word() == progress.phase.word() && row.state.is_final() {
            // The answer to the first telling was lost; steps may be new.
            keep_steps(&mut tx, &progress).await?;
            tx.commit().await.during(operation)?;
            return Ok(true);
        }
        let passed = if holds(&row, progress.fence) { advance(&mut row, &progress) } else { None };
        let Some(passed) = passed else {
            if keep_evidence(&mut tx, &progress).await? {
                let data =
                    serde_json::json!({ "fence": progress.fence, "current": row.fence, "phase": progress.phase });
                let event = change(&row, "order_evidence", progress.now).data(&data);
                events::append(&mut tx, &[event]).await?;
            }
            tx.commit().await.during(operation)?;
            return Ok(false);
        };
        let log: Vec<_> = passed.iter().map(|kind| change(&row, kind, progress.now)).collect();
        events::append(&mut tx, &log).await?;
        keep_steps(&mut tx, &progress).await?;
        row.detail = progress.detail;
        row.refusal = progress.refusal.map(|refusal| refusal.word().to_owned());
        let rows = std::slice::from_ref(&row);
        if row.state.is_final() {
            orders::settle(&mut tx, rows, &actor, progress.now).await?;
        }
        orders::save(&mut tx, rows).await?;
        tx.commit().await.during(operation)?;
        Ok(true)
    }
}

/// Whether this is the fence of the newest lease.
fn holds(row: &orders::Live, fence: Fence) -> bool {
    row.fence == Some(fence.0) || Sabotage::FenceIgnored.is_on()
}

/// Moves the order to what the device says and names the changes on the way there, its end apart (that is told with what
/// follows from it). `None` = that has no meaning for it any more.
fn advance(row: &mut orders::Live, progress: &OrderProgress) -> Option<Vec<&'static str>> {
    let event = match progress.phase {
        OrderPhase::Running => Event::Resumed,
        OrderPhase::AwaitingReboot => Event::RebootAwaited,
        OrderPhase::Succeeded => Event::Succeeded,
        OrderPhase::Failed => Event::Failed,
        OrderPhase::Unavailable => Event::FoundUnavailable,
        OrderPhase::Refused => Event::Refused,
        OrderPhase::Unknown => Event::BecameUnknown,
        OrderPhase::Cancelled => Event::Cancelled,
    };
    let before = row.state;
    if row.take(event, progress.now).is_ok() {
        let passed = match event {
            _ if row.state == before || row.state.is_final() => None,
            Event::RebootAwaited => Some("order_awaits_reboot"),
            Event::Resumed => Some("order_resumed"),
            Event::Leased
            | Event::LeaseLapsed
            | Event::Begun
            | Event::ResetStarted
            | Event::Succeeded
            | Event::Failed
            | Event::FoundUnavailable
            | Event::Refused
            | Event::BecameUnknown
            | Event::Expired
            | Event::Cancelled => None,
        };
        return Some(passed.into_iter().collect());
    }
    // "Running again" may be skipped by an agent that found its end straight after the restart.
    let skipped = row.state == State::AwaitingReboot
        && row.take(Event::Resumed, progress.now).is_ok()
        && row.take(event, progress.now).is_ok();
    skipped.then(|| vec!["order_resumed"])
}

fn change(row: &orders::Live, kind: &'static str, at: DateTime<Utc>) -> Change {
    Change::new(&Actor::Device(row.device()), kind, at).device(row.device()).incident(row.incident()).order(row.order())
}

async fn may_begin(tx: &mut Tx, order: OrderId) -> Result<bool, StoreError> {
    let found: Option<Uuid> = within!(tx, conn => sqlx::query_scalar(concat!(
        "SELECT o.id FROM orders o JOIN devices d ON d.id = o.device_id WHERE o.id = $1 AND ",
        may_get!(),
    ))
    .bind(order.0)
    .fetch_optional(conn)
    .await)
    .during("begin")?;
    Ok(found.is_some())
}

async fn load(tx: &mut Tx, order: OrderId, device: DeviceId) -> Result<Option<orders::Live>, StoreError> {
    Ok(orders::load(tx, [order.0]).await?.pop().filter(|row| row.device_id == device.0))
}

const KEEP_STEPS: [&str; 2] = bulk_sql!(
    "INSERT INTO order_steps (order_id, step, name, state, detail, at, findings) \
     SELECT r.order_id, r.step, r.name, r.state, r.detail, r.at, r.findings FROM "
    [order_id: uuid, step: bigint, name: text, state: text, detail: text, at: timestamptz, findings: text]
    " WHERE true ON CONFLICT (order_id, step) DO UPDATE SET name = excluded.name, state = excluded.state, \
     detail = excluded.detail, at = excluded.at, findings = excluded.findings"
);

#[derive(Serialize)]
struct KeptStep<'a> {
    order_id: Uuid,
    step: u32,
    name: &'a str,
    state: &'static str,
    detail: &'a str,
    at: DateTime<Utc>,
    findings: String,
}

async fn keep_steps(tx: &mut Tx, progress: &OrderProgress) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(progress.steps.len());
    for (index, step) in progress.steps.iter().enumerate() {
        // One row a step in one statement: the last word on it wins.
        if progress.steps[index + 1..].iter().any(|later| later.index == step.index) {
            continue;
        }
        rows.push(KeptStep {
            order_id: progress.order.0,
            step: step.index,
            name: &step.name,
            state: step.state.word(),
            detail: &step.detail,
            at: step.at,
            findings: json_text(&step.findings)?,
        });
    }
    if !rows.is_empty() {
        bulk!(tx, KEEP_STEPS, &rows, "order update")?;
    }
    Ok(())
}

/// Keeps what was said by somebody who no longer holds the order; `false` = it holds [`MOST_EVIDENCE`] of that already.
async fn keep_evidence(tx: &mut Tx, progress: &OrderProgress) -> Result<bool, StoreError> {
    let kept: i64 = within!(tx, conn =>
        sqlx::query_scalar("SELECT COUNT(*) FROM order_evidence WHERE order_id = $1")
            .bind(progress.order.0)
            .fetch_one(conn)
            .await)
    .during("order update")?;
    if kept >= MOST_EVIDENCE {
        return Ok(false);
    }
    let data = serde_json::json!({
        "detail": progress.detail, "refusal": progress.refusal, "steps": progress.steps,
    });
    within!(tx, conn => sqlx::query(
        "INSERT INTO order_evidence (order_id, device_id, fence, phase, data, at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(progress.order.0)
    .bind(progress.device.0)
    .bind(progress.fence.0)
    .bind(progress.phase.word())
    .bind(data.to_string())
    .bind(progress.now)
    .execute(conn)
    .await
    .map(|_| true))
    .during("order update")
}
