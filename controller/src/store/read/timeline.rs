//! An incident's whole story in order of time: outcomes, decisions with rule and reason, orders, steps, verifications,
//! what people asked for, and who changed what.

use chrono::{DateTime, Utc};
use fleetmend_domain::ladder::{Next, Verdict};
use fleetmend_proto::{IncidentId, OrderId, Outcome, Position, Tier};
use serde::Serialize;
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;

use super::orders::RawStep;
use crate::store::{
    OrderRow, StepRow, Store, StoreError, engine::on, error::During as _, from_json, incidents,
    orders::RawRow as RawOrder, verifications::RawEvidence,
};

/// Moments of one kind that are told at most: the newest. An incident that is past its deadline or cap has fewer; a
/// device that says the same for months has not.
const MOST: i64 = 500;

/// An incident's story in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    pub moments: Vec<Moment>,
    /// Older moments were left out.
    pub truncated: bool,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    pub at: DateTime<Utc>,
    #[serde(flatten)]
    pub what: MomentKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MomentKind {
    /// What Windows recorded; `at` is Windows' own time.
    Outcome {
        position: Position,
        outcome: Outcome,
    },
    Decision {
        rule: String,
        reason: String,
        next: Next,
        order: Option<OrderId>,
        policy_version: i64,
        catalogue_version: i64,
        /// The whole case as the ladder saw it.
        inputs: Value,
    },
    /// `at` is when it was made.
    Order {
        order: Box<OrderRow>,
    },
    Step {
        step: StepRow,
    },
    Verification {
        order: Option<OrderId>,
        verdict: Verdict,
        /// The outcome that proves it; `None` = silence until the deadline.
        evidence: Option<Position>,
    },
    RemedyRequested {
        tier: Option<Tier>,
        now: bool,
        by: String,
    },
    Event {
        name: String,
        actor_kind: String,
        actor: String,
        order: Option<OrderId>,
        data: Value,
    },
}

impl Timeline {
    /// Adds moments of one kind, which come newest first and one more than fit when there are more.
    fn newest(&mut self, mut moments: Vec<Moment>) {
        if moments.len() as u64 > MOST.unsigned_abs() {
            moments.pop();
            self.truncated = true;
        }
        self.moments.extend(moments.into_iter().rev());
    }
}

impl Store {
    /// Everything about an incident in order of time, of each kind at most the newest 500; empty when there is no such
    /// incident.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn incident_timeline(&self, incident: IncidentId) -> Result<Timeline, StoreError> {
        let mut story = Timeline::default();
        story.newest(self.outcomes(incident).await?);
        story.newest(self.decisions(incident).await?);
        story.moments.extend(self.orders_and_steps(incident).await?);
        story.newest(self.verifications(incident).await?);
        story.newest(self.requests(incident).await?);
        story.newest(self.events(incident).await?);
        // Stable: of one instant, causes (outcomes, decisions) come before what they led to.
        story.moments.sort_by_key(|moment| moment.at);
        Ok(story)
    }

    async fn outcomes(&self, incident: IncidentId) -> Result<Vec<Moment>, StoreError> {
        let rows: Vec<RawEvidence> = on!(self.db, pool => sqlx::query_as(
            "SELECT i.id AS incident_id, o.epoch, o.seq, o.operation, o.result, o.code, o.raw_code, o.source, \
             o.occurred_at, o.update_ref FROM incidents i JOIN positions p ON p.device_id = i.device_id \
             AND (p.incident_id = i.id OR (p.epoch = i.evidence_epoch AND p.seq = i.evidence_seq)) \
             JOIN outcomes o ON o.id = p.outcome_id WHERE i.id = $1 ORDER BY p.epoch DESC, p.seq DESC LIMIT $2",
        )
        .bind(incident.0)
        .bind(MOST + 1)
        .fetch_all(pool)
        .await)
        .during("incident timeline")?;
        rows.into_iter()
            .map(|row| {
                let outcome = row.outcome()?;
                let position = Position { epoch: row.epoch, seq: row.seq };
                Ok(Moment { at: outcome.occurred_at, what: MomentKind::Outcome { position, outcome } })
            })
            .collect()
    }

    async fn decisions(&self, incident: IncidentId) -> Result<Vec<Moment>, StoreError> {
        let rows: Vec<RawDecision> = on!(self.db, pool => sqlx::query_as(
            "SELECT at, rule, reason, next, order_id, policy_version, catalogue_version, inputs \
             FROM decisions WHERE incident_id = $1 ORDER BY id DESC LIMIT $2",
        )
        .bind(incident.0)
        .bind(MOST + 1)
        .fetch_all(pool)
        .await)
        .during("incident timeline")?;
        rows.into_iter()
            .map(|row| {
                let what = MomentKind::Decision {
                    rule: row.rule,
                    reason: row.reason,
                    next: from_json("decision", &row.next)?,
                    order: row.order_id.map(OrderId),
                    policy_version: row.policy_version,
                    catalogue_version: row.catalogue_version,
                    inputs: from_json("decision's inputs", &row.inputs)?,
                };
                Ok(Moment { at: row.at, what })
            })
            .collect()
    }

    async fn orders_and_steps(&self, incident: IncidentId) -> Result<Vec<Moment>, StoreError> {
        let orders: Vec<RawOrder> = on!(self.db, pool => sqlx::query_as(
            "SELECT o.*, d.name AS device_name FROM orders o JOIN devices d ON d.id = o.device_id \
             WHERE o.incident_id = $1 ORDER BY o.id",
        )
        .bind(incident.0)
        .fetch_all(pool)
        .await)
        .during("incident timeline")?;
        let steps: Vec<RawStep> = on!(self.db, pool => sqlx::query_as(
            "SELECT s.order_id, s.step, s.name, s.state, s.detail, s.at, s.findings \
             FROM orders o JOIN order_steps s ON s.order_id = o.id WHERE o.incident_id = $1 ORDER BY o.id, s.step",
        )
        .bind(incident.0)
        .fetch_all(pool)
        .await)
        .during("incident timeline")?;
        let mut moments = Vec::with_capacity(orders.len() + steps.len());
        for order in orders {
            let order = Box::new(OrderRow::try_from(order)?);
            moments.push(Moment { at: order.created_at, what: MomentKind::Order { order } });
        }
        for step in steps {
            let step = StepRow::try_from(step)?;
            moments.push(Moment { at: step.at, what: MomentKind::Step { step } });
        }
        Ok(moments)
    }

    async fn verifications(&self, incident: IncidentId) -> Result<Vec<Moment>, StoreError> {
        type Row = (DateTime<Utc>, Option<Uuid>, String, Option<i64>, Option<i64>);
        let rows: Vec<Row> = on!(self.db, pool => sqlx::query_as(
                "SELECT at, order_id, verdict, epoch, seq FROM verifications WHERE incident_id = $1 ORDER BY id DESC LIMIT $2",
            )
            .bind(incident.0)
            .bind(MOST + 1)
            .fetch_all(pool)
            .await)
        .during("incident timeline")?;
        rows.into_iter()
            .map(|(at, order, verdict, epoch, seq)| {
                let what = MomentKind::Verification {
                    order: order.map(OrderId),
                    verdict: from_json("verdict", &verdict)?,
                    evidence: epoch.zip(seq).map(|(epoch, seq)| Position { epoch, seq }),
                };
                Ok(Moment { at, what })
            })
            .collect()
    }

    async fn requests(&self, incident: IncidentId) -> Result<Vec<Moment>, StoreError> {
        let rows: Vec<(DateTime<Utc>, Option<i64>, bool, String)> = on!(self.db, pool => sqlx::query_as(
            "SELECT requested_at, tier, skip_waits, requested_by FROM manual_requests WHERE incident_id = $1 \
             ORDER BY id DESC LIMIT $2",
        )
        .bind(incident.0)
        .bind(MOST + 1)
        .fetch_all(pool)
        .await)
        .during("incident timeline")?;
        rows.into_iter()
            .map(|(at, tier, now, by)| {
                Ok(Moment { at, what: MomentKind::RemedyRequested { tier: incidents::tier(tier)?, now, by } })
            })
            .collect()
    }

    async fn events(&self, incident: IncidentId) -> Result<Vec<Moment>, StoreError> {
        let rows: Vec<RawEvent> = on!(self.db, pool => sqlx::query_as(
            "SELECT at, kind, actor_kind, actor, order_id, data FROM events WHERE incident_id = $1 \
             ORDER BY id DESC LIMIT $2",
        )
        .bind(incident.0)
        .bind(MOST + 1)
        .fetch_all(pool)
        .await)
        .during("incident timeline")?;
        rows.into_iter()
            .map(|row| {
                let what = MomentKind::Event {
                    name: row.kind,
                    actor_kind: row.actor_kind,
                    actor: row.actor,
                    order: row.order_id.map(OrderId),
                    data: from_json("event", &row.data)?,
                };
                Ok(Moment { at: row.at, what })
            })
            .collect()
    }
}

#[derive(FromRow)]
struct RawDecision {
    at: DateTime<Utc>,
    rule: String,
    reason: String,
    next: String,
    order_id: Option<Uuid>,
    policy_version: i64,
    catalogue_version: i64,
    inputs: String,
}

#[derive(FromRow)]
struct RawEvent {
    at: DateTime<Utc>,
    kind: String,
    actor_kind: String,
    actor: String,
    order_id: Option<Uuid>,
    data: String,
}
