//! Verification: incidents that wait for Windows' own word on their update, and what was found.

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_domain::{incident, ladder::Verdict};
use fleetmend_proto::{DeviceId, IncidentId, OrderId, Outcome, OutcomeResult, Position, UpdateRef};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Actor, IdRow, Store, StoreError, device_ids,
    devices::{lock, word},
    engine::{Tx, bulk, bulk_read, bulk_sql, on},
    error::During as _,
    events::{self, Event as Change},
    from_json, incidents, json_text, new_id, orders,
};

/// An incident whose proof is due, with the newest evidence since its order began.
#[derive(Clone, Debug)]
pub struct Verifying {
    pub incident: IncidentId,
    pub device: DeviceId,
    /// As read; recording a verdict demands it.
    pub generation: i64,
    pub order: Option<OrderId>,
    /// Newest outcome the device knew when the order began.
    pub begun: Option<Position>,
    pub update: UpdateRef,
    /// When silence counts as still failing.
    pub deadline: DateTime<Utc>,
    pub evidence: Option<Outcome>,
    /// Where the evidence stands in the device's numbering.
    pub evidence_position: Option<Position>,
}

/// What became of one. `None` = look again at the deadline.
#[derive(Clone, Debug)]
pub struct VerificationMade {
    pub verifying: Verifying,
    pub verdict: Option<Verdict>,
}

const EVIDENCE: [&str; 2] = bulk_sql!(
    "SELECT i.id AS incident_id, o.epoch, o.seq, o.operation, o.result, o.code, o.raw_code, o.source, o.occurred_at, \
     o.update_ref FROM "
    [id: uuid, epoch: bigint, seq: bigint]
    " JOIN incidents i ON i.id = r.id JOIN outcomes o ON o.id = i.evidence_id \
     WHERE (i.evidence_epoch, i.evidence_seq) > (r.epoch, r.seq)"
);

const KEEP: [&str; 2] = bulk_sql!(
    "INSERT INTO verifications (id, incident_id, order_id, verdict, epoch, seq, at) \
     SELECT r.id, r.incident_id, r.order_id, r.verdict, r.epoch, r.seq, r.at FROM "
    [id: uuid, incident_id: uuid, order_id: uuid, verdict: text, epoch: bigint, seq: bigint, at: timestamptz]
    ""
);

/// A row of `verifications`.
#[derive(Serialize)]
pub(super) struct Kept {
    pub id: Uuid,
    pub incident_id: Uuid,
    pub order_id: Option<Uuid>,
    pub verdict: String,
    pub epoch: Option<i64>,
    pub seq: Option<i64>,
    pub at: DateTime<Utc>,
}

pub(super) async fn keep(tx: &mut Tx, rows: &[Kept]) -> Result<(), StoreError> {
    if !rows.is_empty() {
        bulk!(tx, KEEP, rows, "verification")?;
    }
    Ok(())
}

impl Store {
    /// Incidents in `Verifying` that are due, longest due first. `verify_deadline` runs from the end of the order.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn incidents_verifying(
        &self,
        now: DateTime<Utc>,
        limit: u32,
        verify_deadline: TimeDelta,
    ) -> Result<Vec<Verifying>, StoreError> {
        let operation = "incidents verifying";
        let rows: Vec<Raw> = on!(self.db, pool => sqlx::query_as(
            "SELECT i.id, i.device_id, i.generation, i.order_id, i.update_ref, i.due_at, o.begin_epoch, o.begin_seq, \
             o.ended_at FROM incidents i LEFT JOIN orders o ON o.id = i.order_id \
             WHERE i.due_at <= $1 AND i.state = 'verifying' ORDER BY i.due_at LIMIT $2",
        )
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await)
        .during(operation)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let since: Vec<_> = rows
            .iter()
            .map(|row| Since { id: row.id, epoch: row.begin_epoch.unwrap_or(0), seq: row.begin_seq.unwrap_or(0) })
            .collect();
        let outcomes: Vec<RawEvidence> = bulk_read!(self.db, EVIDENCE, &since, operation)?;
        rows.into_iter()
            .map(|row| {
                let newest = outcomes.iter().find(|outcome| outcome.incident_id == row.id);
                let begun = row.begin_epoch.zip(row.begin_seq).map(|(epoch, seq)| Position { epoch, seq });
                Ok(Verifying {
                    incident: IncidentId(row.id),
                    device: DeviceId(row.device_id),
                    generation: row.generation,
                    order: row.order_id.map(OrderId),
                    begun,
                    update: from_json("update", &row.update_ref)?,
                    deadline: row.ended_at.unwrap_or(row.due_at) + verify_deadline,
                    evidence: newest.map(RawEvidence::outcome).transpose()?,
                    evidence_position: newest.map(|it| Position { epoch: it.epoch, seq: it.seq }),
                })
            })
            .collect()
    }

    /// Records verdicts and moves the incidents on; those that changed meanwhile are left for the next pass.
    /// Returns how many got a verdict.
    ///
    /// # Errors
    /// When the database fails; nothing of the batch is stored then.
    pub async fn verifications_record(
        &self,
        made: Vec<VerificationMade>,
        now: DateTime<Utc>,
    ) -> Result<usize, StoreError> {
        let operation = "verification";
        if made.is_empty() {
            return Ok(0);
        }
        let actor = Actor::Loop("verify");
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids(made.iter().map(|it| it.verifying.device))).await?;
        let mut live = incidents::load(&mut tx, made.iter().map(|it| it.verifying.incident.0)).await?;
        let mut kept = Vec::new();
        let mut log = Vec::new();
        let find = |id: Uuid| made.iter().find(|it| it.verifying.incident.0 == id);
        let mut error = None;
        live.retain_mut(|row| {
            let Some(it) = find(row.id).filter(|it| it.verifying.generation == row.generation) else {
                return false;
            };
            let Some(verdict) = it.verdict else {
                row.due_at = Some(it.verifying.deadline);
                row.deadline_at = Some(it.verifying.deadline);
                return true;
            };
            let event = event_of(verdict);
            if row.take(&event, now).is_err() {
                return false;
            }
            row.due_at = (!row.state.is_ended()).then_some(now);
            row.deadline_at = None;
            let text = match json_text(&verdict) {
                Ok(text) => text,
                Err(broken) => {
                    error = Some(broken);
                    return false;
                }
            };
            log.push(change(&actor, it, &text, now));
            kept.push(Kept {
                id: new_id(),
                incident_id: row.id,
                order_id: it.verifying.order.map(|order| order.0),
                verdict: text,
                epoch: it.verifying.evidence_position.map(|at| at.epoch),
                seq: it.verifying.evidence_position.map(|at| at.seq),
                at: now,
            });
            true
        });
        if let Some(error) = error {
            return Err(error);
        }
        let mut verified = orders::load(&mut tx, kept.iter().filter_map(|it| it.order_id)).await?;
        for order in &mut verified {
            order.verdict = kept.iter().find(|it| it.order_id == Some(order.id)).map(|it| it.verdict.clone());
        }
        orders::save(&mut tx, &verified).await?;
        keep(&mut tx, &kept).await?;
        // After the verdicts are on the orders: they say what fixed it.
        let resolved = live.iter().filter(|row| row.state == incident::State::Resolved).map(|row| row.id);
        let resolved: Vec<_> = resolved.map(|id| IdRow { id }).collect();
        if !resolved.is_empty() {
            let attempts = orders::attempts(&mut tx, resolved.iter().map(|row| row.id)).await?;
            for row in &mut live {
                if row.state == incident::State::Resolved {
                    row.fixed_by = incidents::fixed_by(attempts.get(&row.id).map_or(&[], Vec::as_slice));
                }
            }
        }
        incidents::save(&mut tx, &live).await?;
        events::append(&mut tx, &log).await?;
        tx.commit().await.during(operation)?;
        Ok(kept.len())
    }
}

const fn event_of(verdict: Verdict) -> incident::Event {
    match verdict {
        Verdict::Installed => incident::Event::Installed,
        Verdict::StillFailing { .. } | Verdict::DeadlinePassed => incident::Event::StillFailing,
        Verdict::RebootOwed => incident::Event::RebootOwed,
    }
}

fn change(actor: &Actor, it: &VerificationMade, verdict: &str, now: DateTime<Utc>) -> Change {
    let event = Change::new(actor, "verified", now)
        .device(it.verifying.device)
        .incident(it.verifying.incident)
        .data(&serde_json::json!({ "verdict": verdict }));
    match it.verifying.order {
        Some(order) => event.order(order),
        None => event,
    }
}

#[derive(Serialize)]
struct Since {
    id: Uuid,
    epoch: i64,
    seq: i64,
}

#[derive(FromRow)]
struct Raw {
    id: Uuid,
    device_id: Uuid,
    generation: i64,
    order_id: Option<Uuid>,
    update_ref: String,
    due_at: DateTime<Utc>,
    begin_epoch: Option<i64>,
    begin_seq: Option<i64>,
    ended_at: Option<DateTime<Utc>>,
}

/// An outcome row with its incident.
#[derive(FromRow)]
pub(super) struct RawEvidence {
    pub incident_id: Uuid,
    pub epoch: i64,
    pub seq: i64,
    operation: String,
    result: String,
    code: String,
    raw_code: String,
    source: String,
    occurred_at: DateTime<Utc>,
    update_ref: String,
}

impl RawEvidence {
    pub(super) fn outcome(&self) -> Result<Outcome, StoreError> {
        Ok(Outcome {
            update: from_json("update", &self.update_ref)?,
            operation: word("operation", &self.operation, fleetmend_proto::Operation::from_word)?,
            result: word("result", &self.result, OutcomeResult::from_word)?,
            code: incidents::code(&self.code)?,
            raw_code: incidents::code(&self.raw_code)?,
            occurred_at: self.occurred_at,
            source: word("record source", &self.source, fleetmend_proto::Source::from_word)?,
        })
    }
}
