//! Decision points: the cases that are due, and what the ladder said of them, stored with its inputs and carried out in
//! one transaction.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_domain::{
    catalogue::Catalogue,
    incident::{self, IllegalTransition},
    ladder::{self, Case, Decision, Device, ManualRequest, Next},
    order,
    policy::Policy,
};
use fleetmend_proto::{
    DeviceId, IncidentId, OrderId,
    condition::{Architecture, DeviceRole, ProductType, UpdateAuthority},
};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    Actor, DeviceState, IdRow, Store, StoreError, device_ids,
    devices::{lock, word},
    engine::{Tx, bulk, bulk_fetch, bulk_read, bulk_sql, on},
    error::During as _,
    events::{self, Event as Change},
    from_json,
    incidents::{self, Live},
    json_text, new_id,
};

/// When another order holds the device: how long until the incident is looked at again.
const BUSY_WAIT: TimeDelta = TimeDelta::minutes(5);

/// A case that wants a decision.
#[derive(Clone, Debug)]
pub struct DueIncident {
    /// Its `device.package` is empty: which packages are vetted is known outside the store.
    pub case: Case,
    /// As read; applying a decision demands it.
    pub generation: i64,
    pub device: DeviceId,
    pub architecture: Architecture,
    pub os_build: i64,
}

/// A decision on a case.
#[derive(Clone, Debug)]
pub struct DecisionMade {
    pub incident: DueIncident,
    pub decision: Decision,
}

/// What applying it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionApplied {
    Applied {
        order: Option<OrderId>,
    },
    /// The same wait or hold as before: not written again.
    Repeated,
    /// The incident changed since it was read: it is decided again.
    Stale,
    /// Another order holds the device: looked at again later.
    Busy,
}

impl Store {
    /// Incidents that want a decision, longest due first, with everything the ladder looks at. Those that people have
    /// want one only when a person's request has none yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn incidents_due(&self, now: DateTime<Utc>, limit: u32) -> Result<Vec<DueIncident>, StoreError> {
        let operation = "incidents due";
        let rows: Vec<Raw> = on!(self.db, pool => sqlx::query_as(
            "SELECT i.id, i.device_id, i.generation, i.state, i.tier, i.reason, i.update_ref, i.code, i.opened_at, \
             i.failures, i.last_failed_at, d.state AS device_state, d.excluded, d.product_type, d.role, d.authority, \
             d.reboot_pending, d.utc_offset_minutes, d.architecture, d.os_build \
             FROM incidents i JOIN devices d ON d.id = i.device_id \
             WHERE i.due_at <= $1 AND i.state <> 'verifying' AND d.state <> 'banned' \
             AND (i.state IN ('open', 'held', 'scheduled') \
             OR i.state IN ('exhausted', 'handed_over', 'awaiting_approval') AND EXISTS (SELECT 1 \
             FROM manual_requests m WHERE m.incident_id = i.id AND m.decision_id IS NULL)) ORDER BY i.due_at LIMIT $2",
        )
        .bind(now)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await)
        .during(operation)?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = rows.iter().map(|row| IdRow { id: row.id }).collect();
        let mut attempts = self.attempts_read(&ids).await?;
        let requests: Vec<RawManual> = bulk_read!(self.db, MANUAL, &ids, operation)?;
        // Newest last, so that it wins.
        let mut manual: HashMap<Uuid, RawManual> = requests.into_iter().map(|it| (it.incident_id, it)).collect();
        let benign: Vec<(Uuid, i64)> = bulk_read!(self.db, BENIGN_BEFORE, &ids, operation)?;
        let benign: HashMap<Uuid, i64> = benign.into_iter().collect();
        rows.into_iter()
            .map(|row| {
                let benign_before = benign.get(&row.id).map_or(0, |count| u32::try_from(*count).unwrap_or(u32::MAX));
                let attempts = attempts.remove(&row.id).unwrap_or_default();
                let manual = manual.remove(&row.id).map(RawManual::request).transpose()?;
                row.due(attempts, manual, benign_before)
            })
            .collect()
    }

    /// Carries out decisions: each is written with its inputs, its incident moved on, its order queued. Answers are in
    /// the order of the decisions.
    ///
    /// # Errors
    /// When the database fails; nothing of the batch is stored then.
    pub async fn decisions_apply(
        &self,
        made: Vec<DecisionMade>,
        policy: &Policy,
        now: DateTime<Utc>,
    ) -> Result<Vec<DecisionApplied>, StoreError> {
        let operation = "decision";
        if made.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids(made.iter().map(|it| it.incident.device))).await?;
        let live = incidents::load(&mut tx, made.iter().map(|it| it.incident.case.incident.0)).await?;
        let mut live: HashMap<Uuid, Live> = live.into_iter().map(|row| (row.id, row)).collect();
        let former = former(&mut tx, &made).await?;
        let placed = place_orders(&mut tx, &made, &live, policy, now).await?;
        let mut batch = Batch::default();
        let mut answers = Vec::with_capacity(made.len());
        for it in &made {
            let row = live.remove(&it.incident.case.incident.0);
            let row = row.filter(|row| row.generation == it.incident.generation);
            answers.push(match row {
                Some(row) => batch.apply(it, row, &placed, &former, policy, now)?,
                None => DecisionApplied::Stale,
            });
        }
        batch.write(&mut tx).await?;
        tx.commit().await.during(operation)?;
        Ok(answers)
    }
}

/// Rows to write for a batch of decisions.
#[derive(Default)]
struct Batch {
    live: Vec<Live>,
    decisions: Vec<NewDecision>,
    answered: Vec<Answered>,
    log: Vec<Change>,
}

impl Batch {
    fn apply(
        &mut self,
        it: &DecisionMade,
        mut row: Live,
        placed: &HashMap<Uuid, Uuid>,
        former: &HashMap<Uuid, (String, String, String)>,
        policy: &Policy,
        now: DateTime<Utc>,
    ) -> Result<DecisionApplied, StoreError> {
        let case = &it.incident.case;
        let deadline_at = match &it.decision.next {
            Next::HandOver | Next::AwaitApproval => Some(now + policy.reset_evidence_age),
            Next::Decline => row.deadline_at,
            Next::Order { .. } | Next::Wait { .. } | Next::Hold { .. } | Next::EndBenign | Next::Exhaust => None,
        };
        let due_at = match &it.decision.next {
            Next::Wait { until } | Next::Hold { until, .. } => Some(*until),
            Next::HandOver | Next::AwaitApproval => deadline_at,
            Next::Exhaust => Some(now + incident::REMINDER),
            // The ladder's own turn, unless people have the incident.
            Next::Decline if row.state.is_with_people() => deadline_at.or(Some(now + incident::REMINDER)),
            Next::Decline => Some(now),
            Next::Order { .. } | Next::EndBenign => None,
        };
        let order = placed.get(&row.id).copied();
        if matches!(it.decision.next, Next::Order { .. }) && order.is_none() {
            row.due_at = Some(now + BUSY_WAIT);
            self.live.push(row);
            return Ok(DecisionApplied::Busy);
        }
        if advance(&mut row, case, &it.decision.next, now).is_err() {
            return Ok(DecisionApplied::Stale);
        }
        row.due_at = due_at;
        row.deadline_at = deadline_at;
        row.order_id = if row.state.is_ended() { None } else { order.or(row.order_id) };
        let incident = row.incident();
        let device = row.device();
        self.live.push(row);
        let waits = matches!(it.decision.next, Next::Wait { .. } | Next::Hold { .. });
        let next = json_text(&it.decision.next)?;
        let repeated = former.get(&incident.0).is_some_and(|(rule, reason, before)| {
            waits && *rule == it.decision.rule && *reason == it.decision.reason && same_kind(before, &it.decision.next)
        });
        if repeated {
            return Ok(DecisionApplied::Repeated);
        }
        let decision = new_id();
        let order = order.map(OrderId);
        let change = Change::new(&Actor::Loop("decide"), "decided", now)
            .device(device)
            .incident(incident)
            .data(&serde_json::json!({ "rule": it.decision.rule, "decision": decision }));
        self.log.push(match order {
            Some(order) => change.order(order),
            None => change,
        });
        if case.manual.is_some() && !waits {
            self.answered.push(Answered { incident_id: incident.0, decision_id: decision });
        }
        self.decisions.push(NewDecision {
            id: decision,
            incident_id: incident.0,
            device_id: device.0,
            at: now,
            rule: it.decision.rule.clone(),
            reason: it.decision.reason.clone(),
            next,
            inputs: json_text(case)?,
            policy_version: policy.version,
            catalogue_version: Catalogue::VERSION,
            order_id: order.map(|order| order.0),
        });
        Ok(DecisionApplied::Applied { order })
    }

    async fn write(&self, tx: &mut Tx) -> Result<(), StoreError> {
        incidents::save(tx, &self.live).await?;
        if !self.decisions.is_empty() {
            bulk!(tx, INSERT, &self.decisions, "decision")?;
        }
        if !self.answered.is_empty() {
            bulk!(tx, ANSWER, &self.answered, "decision")?;
        }
        events::append(tx, &self.log).await
    }
}

/// Moves an incident through everything a decision means for it.
fn advance(row: &mut Live, case: &Case, next: &Next, now: DateTime<Utc>) -> Result<(), IllegalTransition> {
    ladder::events(case, next).iter().try_for_each(|event| row.take(event, now))
}

/// Whether a stored `next` does the same; how long a wait lasts is not looked at.
fn same_kind(stored: &str, next: &Next) -> bool {
    let Ok(stored) = serde_json::from_str::<Next>(stored) else {
        return false;
    };
    match (stored, next) {
        (Next::Wait { .. }, Next::Wait { .. }) => true,
        (Next::Hold { reason: before, .. }, Next::Hold { reason, .. }) => before == *reason,
        _ => false,
    }
}

const MANUAL: [&str; 2] = bulk_sql!(
    "SELECT m.incident_id, m.tier, m.skip_waits, m.requested_by FROM " [id: uuid]
    " JOIN manual_requests m ON m.incident_id = r.id WHERE m.decision_id IS NULL ORDER BY m.id"
);

const BENIGN_BEFORE: [&str; 2] = bulk_sql!(
    "SELECT i.id, COUNT(*) FROM " [id: uuid]
    " JOIN incidents i ON i.id = r.id JOIN incidents b ON b.device_id = i.device_id AND b.state = 'benign' \
     AND b.id <> i.id AND (b.update_id = i.update_id OR b.kb = i.kb) GROUP BY i.id"
);

const FORMER: [&str; 2] = bulk_sql!(
    "SELECT d.incident_id, d.rule, d.reason, d.next FROM " [id: uuid]
    " JOIN decisions d ON d.id = (SELECT l.id FROM decisions l WHERE l.incident_id = r.id ORDER BY l.id DESC LIMIT 1)"
);

const INSERT: [&str; 2] = bulk_sql!(
    "INSERT INTO decisions (id, incident_id, device_id, at, rule, reason, next, inputs, policy_version, \
     catalogue_version, order_id) SELECT r.id, r.incident_id, r.device_id, r.at, r.rule, r.reason, r.next, r.inputs, \
     r.policy_version, r.catalogue_version, r.order_id FROM "
    [id: uuid, incident_id: uuid, device_id: uuid, at: timestamptz, rule: text, reason: text, next: text, inputs: text,
     policy_version: bigint, catalogue_version: bigint, order_id: uuid]
    ""
);

const ANSWER: [&str; 2] = bulk_sql!(
    "UPDATE manual_requests SET decision_id = r.decision_id FROM " [incident_id: uuid, decision_id: uuid]
    " WHERE manual_requests.incident_id = r.incident_id AND manual_requests.decision_id IS NULL"
);

// A device that another order holds is left out by the unique index `one_active`.
const PLACE: [&str; 2] = bulk_sql!(
    "INSERT INTO orders (id, device_id, incident_id, action_name, action, tier, manual, state, created_at, expires_at, \
     run_seconds, detail, generation) SELECT r.id, r.device_id, r.incident_id, r.action_name, r.action, r.tier, \
     r.manual, r.state, r.created_at, r.expires_at, r.run_seconds, '', 1 FROM "
    [id: uuid, device_id: uuid, incident_id: uuid, action_name: text, action: text, tier: bigint, manual: boolean,
     state: text, created_at: timestamptz, expires_at: timestamptz, run_seconds: bigint]
    " WHERE true ON CONFLICT DO NOTHING RETURNING incident_id, id"
);

/// The newest decision of each incident that is to wait: rule, reason, next.
async fn former(tx: &mut Tx, made: &[DecisionMade]) -> Result<HashMap<Uuid, (String, String, String)>, StoreError> {
    let waits = made.iter().filter(|it| matches!(it.decision.next, Next::Wait { .. } | Next::Hold { .. }));
    let ids: Vec<_> = waits.map(|it| IdRow { id: it.incident.case.incident.0 }).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(Uuid, String, String, String)> = bulk_fetch!(tx, FORMER, &ids, "decision")?;
    Ok(rows.into_iter().map(|(id, rule, reason, next)| (id, (rule, reason, next))).collect())
}

/// Queues the orders of current cases; gives the order of each incident that got one.
async fn place_orders(
    tx: &mut Tx,
    made: &[DecisionMade],
    live: &HashMap<Uuid, Live>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<HashMap<Uuid, Uuid>, StoreError> {
    let mut rows = Vec::new();
    for it in made {
        let case = &it.incident.case;
        let Next::Order { action } = &it.decision.next else { continue };
        let current = live.get(&case.incident.0).filter(|row| row.generation == it.incident.generation);
        if current.is_none_or(|row| advance(&mut row.clone(), case, &it.decision.next, now).is_err()) {
            continue;
        }
        rows.push(NewOrder {
            id: new_id(),
            device_id: it.incident.device.0,
            incident_id: case.incident.0,
            action_name: action.name(),
            action: json_text(action)?,
            tier: action.tier().map(fleetmend_proto::Tier::number),
            manual: case.manual.is_some(),
            state: order::State::Queued.word(),
            created_at: now,
            expires_at: ladder::expires_at(case, policy, action, now),
            run_seconds: policy.run_deadline.num_seconds(),
        });
    }
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let placed: Vec<(Uuid, Uuid)> = bulk_fetch!(tx, PLACE, &rows, "decision")?;
    Ok(placed.into_iter().collect())
}

#[derive(Serialize)]
struct NewOrder {
    id: Uuid,
    device_id: Uuid,
    incident_id: Uuid,
    action_name: &'static str,
    action: String,
    tier: Option<u8>,
    manual: bool,
    state: &'static str,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    run_seconds: i64,
}

#[derive(Serialize)]
struct NewDecision {
    id: Uuid,
    incident_id: Uuid,
    device_id: Uuid,
    at: DateTime<Utc>,
    rule: String,
    reason: String,
    next: String,
    inputs: String,
    policy_version: u32,
    catalogue_version: u32,
    order_id: Option<Uuid>,
}

#[derive(Serialize)]
struct Answered {
    incident_id: Uuid,
    decision_id: Uuid,
}

#[derive(FromRow)]
struct RawManual {
    incident_id: Uuid,
    tier: Option<i64>,
    skip_waits: bool,
    requested_by: String,
}

impl RawManual {
    fn request(self) -> Result<ManualRequest, StoreError> {
        Ok(ManualRequest { tier: incidents::tier(self.tier)?, now: self.skip_waits, by: self.requested_by })
    }
}

#[derive(FromRow)]
struct Raw {
    id: Uuid,
    device_id: Uuid,
    generation: i64,
    state: String,
    tier: Option<i64>,
    reason: Option<String>,
    update_ref: String,
    code: String,
    opened_at: DateTime<Utc>,
    failures: i64,
    last_failed_at: DateTime<Utc>,
    device_state: String,
    excluded: bool,
    product_type: String,
    role: String,
    authority: String,
    reboot_pending: bool,
    utc_offset_minutes: i64,
    architecture: String,
    os_build: i64,
}

impl Raw {
    fn due(
        self,
        attempts: Vec<fleetmend_domain::ladder::Attempt>,
        manual: Option<ManualRequest>,
        benign_before: u32,
    ) -> Result<DueIncident, StoreError> {
        let device = Device {
            quarantined: self.device_state == DeviceState::Quarantined.word(),
            excluded: self.excluded,
            product_type: word("product type", &self.product_type, ProductType::from_word)?,
            role: word("device role", &self.role, DeviceRole::from_word)?,
            authority: word("update authority", &self.authority, UpdateAuthority::from_word)?,
            reboot_pending: self.reboot_pending,
            utc_offset_minutes: i32::try_from(self.utc_offset_minutes).unwrap_or(0),
            package: None,
            package_clash: None,
        };
        let case = Case {
            incident: IncidentId(self.id),
            state: incidents::state(&self.state, self.tier, self.reason.as_deref())?,
            update: from_json("update", &self.update_ref)?,
            code: incidents::code(&self.code)?,
            opened_at: self.opened_at,
            failures: u32::try_from(self.failures).unwrap_or(u32::MAX),
            benign_before,
            last_failed_at: self.last_failed_at,
            attempts,
            device,
            manual,
        };
        Ok(DueIncident {
            case,
            generation: self.generation,
            device: DeviceId(self.device_id),
            architecture: word("architecture", &self.architecture, Architecture::from_word)?,
            os_build: self.os_build,
        })
    }
}
