//! What the new outcomes of a batch do to incidents: opened, joined, evidenced, closed. One read of the devices' open
//! incidents, then everything in memory, then one statement a kind of change.

use std::{borrow::Cow, collections::HashMap};

use chrono::{DateTime, Utc};
use fleetmend_domain::{
    incident::{self, State},
    matching::{self, Known, Match},
};
use fleetmend_proto::{HResult, IncidentId, Outcome, OutcomeResult, UpdateRef};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{Fresh, closing, rows::is_install};
use crate::store::{
    Actor, StoreError, device_ids,
    engine::{Tx, bulk, bulk_fetch, bulk_sql},
    error::During as _,
    events::Event,
    from_json,
    incidents::{self, Live},
    json_text, new_id,
};

/// What matching and counting need of an incident. The rest is written only when it ends, and follows from that.
const OPEN: [&str; 2] = bulk_sql!(
    "SELECT i.id, i.device_id, i.update_id, i.kb, i.state, i.tier, i.reason, i.code, i.raw_code, i.last_failed_at, \
     i.failures, i.evidence_id, i.evidence_epoch, i.evidence_seq, i.due_at, i.generation FROM "
    [id: uuid] " JOIN incidents i ON i.device_id = r.id WHERE i.closed_at IS NULL"
);

const INSERT: [&str; 2] = bulk_sql!(
    "INSERT INTO incidents (id, device_id, update_id, revision, kb, title, kind, update_ref, state, code, raw_code, \
     opened_at, last_failed_at, failures, evidence_id, evidence_epoch, evidence_seq, due_at, generation) \
     SELECT r.id, r.device_id, r.update_id, r.revision, r.kb, r.title, r.kind, r.update_ref, 'open', r.code, \
     r.raw_code, r.opened_at, r.last_failed_at, r.failures, r.evidence_id, r.evidence_epoch, r.evidence_seq, r.due_at, \
     1 FROM "
    [id: uuid, device_id: uuid, update_id: uuid, revision: bigint, kb: text, title: text, kind: text, update_ref: text,
     code: text, raw_code: text, opened_at: timestamptz, last_failed_at: timestamptz, failures: bigint,
     evidence_id: uuid, evidence_epoch: bigint, evidence_seq: bigint, due_at: timestamptz]
    ""
);

/// The newest 1,000 successes of each device: a device with more of them since one failure is not believed to the end.
const INSTALLED: [&str; 2] = {
    let [sqlite, _] = bulk_sql!(
        "SELECT o.device_id, p.installed_at, o.update_ref FROM " [device_id: uuid, at: timestamptz]
        " JOIN outcomes o ON o.id IN (SELECT q.outcome_id FROM positions q WHERE q.device_id = r.device_id \
         AND q.installed_at > r.at ORDER BY q.installed_at DESC LIMIT 1000) \
         JOIN positions p ON p.device_id = o.device_id AND p.epoch = o.epoch AND p.seq = o.seq"
    );
    let [_, postgres] = bulk_sql!(
        "SELECT p.device_id, p.installed_at, o.update_ref FROM " [device_id: uuid, at: timestamptz]
        " CROSS JOIN LATERAL (SELECT q.device_id, q.outcome_id, q.installed_at FROM positions q \
         WHERE q.device_id = r.device_id AND q.installed_at > r.at ORDER BY q.installed_at DESC LIMIT 1000) AS p \
         JOIN outcomes o ON o.id = p.outcome_id"
    );
    [sqlite, postgres]
};

#[derive(Serialize)]
struct SinceRow {
    device_id: Uuid,
    at: DateTime<Utc>,
}

/// The hot path: one more failure with the same code, of an incident that nobody must look at for it. Leaves all
/// indexed columns alone.
const COUNT: [&str; 2] = bulk_sql!(
    "UPDATE incidents SET raw_code = r.raw_code, last_failed_at = r.last_failed_at, failures = r.failures, \
     evidence_id = r.evidence_id, evidence_epoch = r.evidence_epoch, evidence_seq = r.evidence_seq, \
     generation = incidents.generation + 1 FROM "
    [id: uuid, raw_code: text, last_failed_at: timestamptz, failures: bigint, evidence_id: uuid, evidence_epoch: bigint,
     evidence_seq: bigint]
    " WHERE incidents.id = r.id"
);

const TOUCH: [&str; 2] = bulk_sql!(
    "UPDATE incidents SET code = r.code, raw_code = r.raw_code, last_failed_at = r.last_failed_at, \
     failures = r.failures, evidence_id = r.evidence_id, evidence_epoch = r.evidence_epoch, \
     evidence_seq = r.evidence_seq, due_at = r.due_at, generation = incidents.generation + 1 FROM "
    [id: uuid, code: text, raw_code: text, last_failed_at: timestamptz, failures: bigint, evidence_id: uuid,
     evidence_epoch: bigint, evidence_seq: bigint, due_at: timestamptz]
    " WHERE incidents.id = r.id"
);

/// An incident of a device in the batch.
struct Candidate {
    live: Live,
    key: UpdateRef,
    /// `Some` = opened by this batch; holds the update with its title.
    opened: Option<(UpdateRef, DateTime<Utc>)>,
    evidence: Evidence,
    change: Change,
}

/// The newest outcome that says something of an incident.
#[derive(Clone, Copy)]
struct Evidence {
    epoch: i64,
    seq: i64,
    id: Uuid,
}

impl Evidence {
    const fn of(it: &Fresh<'_>) -> Self {
        Self { epoch: it.epoch, seq: it.seq, id: it.id }
    }

    /// Newer by position, whatever arrives when.
    fn add(&mut self, it: &Fresh<'_>) {
        if (it.epoch, it.seq) > (self.epoch, self.seq) {
            *self = Self::of(it);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// Failures were counted, or evidence came: whoever read the incident before must read it again.
    Counted,
    /// Its code changed too, or somebody must look at it.
    Touched,
    /// Position of the success.
    Closed {
        epoch: i64,
        seq: i64,
        at: DateTime<Utc>,
    },
}

/// What the device reported as installed, and when in Windows' own time.
type Installed = HashMap<Uuid, Vec<(UpdateRef, DateTime<Utc>)>>;

/// Matches every new outcome in order, writes what came of it, and returns the events.
pub(super) async fn match_all(tx: &mut Tx, fresh: &mut [Fresh<'_>]) -> Result<Vec<Event>, StoreError> {
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    let mut devices = open_incidents(tx, fresh).await?;
    let mut installed = installed_since(tx, fresh, &devices).await?;
    for it in fresh.iter_mut() {
        let installs = installed.entry(it.device.0).or_default();
        apply(it, devices.entry(it.device.0).or_default(), installs);
        if is_install(it.outcome) {
            installs.push((it.outcome.update.clone(), it.at));
        }
    }
    let changed: Vec<_> = devices.into_values().flatten().filter(|it| it.change != Change::None).collect();
    write(tx, changed).await
}

async fn open_incidents(tx: &mut Tx, fresh: &[Fresh<'_>]) -> Result<HashMap<Uuid, Vec<Candidate>>, StoreError> {
    let ids = device_ids(fresh.iter().map(|it| it.device));
    let rows: Vec<Row> = bulk_fetch!(tx, OPEN, &ids, "report")?;
    let mut devices: HashMap<Uuid, Vec<Candidate>> = HashMap::new();
    for row in rows {
        devices.entry(row.device_id).or_default().push(row.candidate()?);
    }
    Ok(devices)
}

/// Successes later than failures that would open an incident: a failure that arrives late opens none.
async fn installed_since(
    tx: &mut Tx,
    fresh: &[Fresh<'_>],
    devices: &HashMap<Uuid, Vec<Candidate>>,
) -> Result<Installed, StoreError> {
    let mut since: HashMap<Uuid, DateTime<Utc>> = HashMap::new();
    for it in fresh.iter().filter(|it| is_failure(it.outcome)) {
        let open = devices.get(&it.device.0).map_or(&[][..], Vec::as_slice);
        if open.iter().any(|candidate| candidate.key.is_same(&it.outcome.update)) {
            continue;
        }
        let at = since.entry(it.device.0).or_insert(it.at);
        *at = it.at.min(*at);
    }
    if since.is_empty() {
        return Ok(Installed::new());
    }
    let rows: Vec<_> = since.into_iter().map(|(device_id, at)| SinceRow { device_id, at }).collect();
    let found: Vec<(Uuid, DateTime<Utc>, String)> = bulk_fetch!(tx, INSTALLED, &rows, "report")?;
    let mut installed = Installed::new();
    for (device, at, update) in found {
        installed.entry(device).or_default().push((from_json("update", &update)?, at));
    }
    Ok(installed)
}

const fn is_failure(outcome: &Outcome) -> bool {
    matches!(outcome.result, OutcomeResult::Failed | OutcomeResult::Aborted)
}

/// One outcome against its device's incidents.
fn apply(it: &mut Fresh<'_>, candidates: &mut Vec<Candidate>, installed: &[(UpdateRef, DateTime<Utc>)]) {
    let installed_at = installed
        .iter()
        .filter(|(update, _)| is_failure(it.outcome) && update.satisfies(&it.outcome.update))
        .map(|(_, at)| *at)
        .max();
    let known: Vec<_> = candidates
        .iter()
        .filter(|candidate| !candidate.live.state.is_ended())
        .map(|candidate| Known {
            id: candidate.live.incident(),
            update: &candidate.key,
            state: &candidate.live.state,
            code: candidate.live.code,
            last_failed_at: candidate.live.last_failed_at,
        })
        .collect();
    let dated = if it.at == it.outcome.occurred_at {
        Cow::Borrowed(it.outcome)
    } else {
        Cow::Owned(Outcome { occurred_at: it.at, ..it.outcome.clone() })
    };
    let matched = matching::judge(&dated, &known, installed_at);
    match matched {
        Match::Ignore(_) => {}
        Match::Open => {
            let opened = open_new(it);
            it.incident = Some(opened.live.id);
            candidates.push(opened);
        }
        Match::Join { incident, .. } => {
            for candidate in of(candidates, &[incident]) {
                it.incident = Some(candidate.live.id);
                candidate.evidence.add(it);
                let touched = join(&mut candidate.live, it) || candidate.change == Change::Touched;
                candidate.change = if touched { Change::Touched } else { Change::Counted };
            }
        }
        Match::RebootOwed { incidents } => {
            for candidate in of(candidates, &incidents) {
                it.incident = it.incident.or(Some(candidate.live.id));
                candidate.evidence.add(it);
                let touched = wake(&mut candidate.live, it.received_at) || candidate.change == Change::Touched;
                candidate.change = if touched { Change::Touched } else { Change::Counted };
            }
        }
        Match::Close { incidents } => {
            for candidate in of(candidates, &incidents) {
                it.incident = it.incident.or(Some(candidate.live.id));
                if candidate.live.take(&incident::Event::Installed, it.received_at).is_ok() {
                    candidate.change = Change::Closed { epoch: it.epoch, seq: it.seq, at: it.received_at };
                }
            }
        }
    }
}

fn of<'a>(candidates: &'a mut [Candidate], ids: &'a [IncidentId]) -> impl Iterator<Item = &'a mut Candidate> {
    candidates.iter_mut().filter(|candidate| ids.contains(&candidate.live.incident()))
}

fn open_new(it: &Fresh<'_>) -> Candidate {
    let outcome = it.outcome;
    let live = Live {
        id: new_id(),
        device_id: it.device.0,
        state: State::Open,
        code: outcome.code,
        raw_code: outcome.raw_code,
        last_failed_at: it.at,
        failures: 1,
        due_at: Some(it.received_at),
        deadline_at: None,
        order_id: None,
        fixed_by: None,
        closed_at: None,
        generation: 1,
    };
    let mut key = outcome.update.clone();
    key.supersedes.clear();
    let opened = Some((outcome.update.clone(), it.received_at));
    Candidate { live, key, opened, evidence: Evidence::of(it), change: Change::Touched }
}

/// One more failure. The newest one in Windows' own time gives the code. `true` = more than the count changed.
fn join(live: &mut Live, it: &Fresh<'_>) -> bool {
    let before = live.code;
    live.failures += 1;
    if it.at >= live.last_failed_at {
        live.last_failed_at = it.at;
        live.code = it.outcome.code;
        live.raw_code = it.outcome.raw_code;
    }
    wake(live, it.received_at) || live.code != before
}

/// Somebody looks at it now, unless an order is out or people have it. `true` = its time changed.
fn wake(live: &mut Live, now: DateTime<Utc>) -> bool {
    match live.state {
        State::Open | State::Held { .. } | State::Scheduled | State::Verifying { .. } => {
            let later = live.due_at.is_none_or(|due| due > now);
            if later {
                live.due_at = Some(now);
            }
            later
        }
        State::Remediating { .. }
        | State::Exhausted
        | State::HandedOver
        | State::AwaitingApproval
        | State::Resolved
        | State::Benign
        | State::Dismissed { .. } => false,
    }
}

async fn write(tx: &mut Tx, changed: Vec<Candidate>) -> Result<Vec<Event>, StoreError> {
    let mut log = Vec::new();
    let mut opened = Vec::new();
    let mut counted = Vec::new();
    let mut touched = Vec::new();
    let mut closed = Vec::new();
    for Candidate { live, opened: new, evidence, change, .. } in changed {
        if let Some((update, at)) = new {
            let data = serde_json::json!({ "code": live.code, "update": update.title });
            let event = Event::new(&Actor::Device(live.device()), "incident_opened", at);
            log.push(event.device(live.device()).incident(live.incident()).data(&data));
            opened.push(NewRow::of(&live, evidence, update, at)?);
        } else {
            match change {
                Change::Counted => counted.push(TouchedRow::of(&live, evidence)),
                Change::Touched => touched.push(TouchedRow::of(&live, evidence)),
                Change::None | Change::Closed { .. } => {}
            }
        }
        if let Change::Closed { epoch, seq, at } = change {
            closed.push((live, Some((epoch, seq)), at));
        }
    }
    if !opened.is_empty() {
        bulk!(tx, INSERT, &opened, "report")?;
    }
    if !counted.is_empty() {
        bulk!(tx, COUNT, &counted, "report")?;
    }
    if !touched.is_empty() {
        bulk!(tx, TOUCH, &touched, "report")?;
    }
    if !closed.is_empty() {
        closing::close(tx, closed, &mut log).await?;
    }
    Ok(log)
}

#[derive(FromRow)]
struct Row {
    id: Uuid,
    device_id: Uuid,
    update_id: Option<Uuid>,
    kb: Option<String>,
    state: String,
    tier: Option<i64>,
    reason: Option<String>,
    code: String,
    raw_code: String,
    last_failed_at: DateTime<Utc>,
    failures: i64,
    evidence_id: Uuid,
    evidence_epoch: i64,
    evidence_seq: i64,
    due_at: Option<DateTime<Utc>>,
    generation: i64,
}

impl Row {
    fn candidate(self) -> Result<Candidate, StoreError> {
        let live = Live {
            id: self.id,
            device_id: self.device_id,
            state: incidents::state(&self.state, self.tier, self.reason.as_deref())?,
            code: incidents::code(&self.code)?,
            raw_code: incidents::code(&self.raw_code)?,
            last_failed_at: self.last_failed_at,
            failures: self.failures,
            due_at: self.due_at,
            deadline_at: None,
            order_id: None,
            fixed_by: None,
            closed_at: None,
            generation: self.generation,
        };
        let key = incidents::update_key(self.update_id, self.kb.as_deref())?;
        let evidence = Evidence { epoch: self.evidence_epoch, seq: self.evidence_seq, id: self.evidence_id };
        Ok(Candidate { live, key, opened: None, evidence, change: Change::None })
    }
}

#[derive(Serialize)]
struct NewRow {
    id: Uuid,
    device_id: Uuid,
    update_id: Option<Uuid>,
    revision: i32,
    kb: Option<String>,
    title: String,
    kind: &'static str,
    update_ref: String,
    code: HResult,
    raw_code: HResult,
    opened_at: DateTime<Utc>,
    last_failed_at: DateTime<Utc>,
    failures: i64,
    evidence_id: Uuid,
    evidence_epoch: i64,
    evidence_seq: i64,
    due_at: Option<DateTime<Utc>>,
}

impl NewRow {
    fn of(live: &Live, evidence: Evidence, update: UpdateRef, opened_at: DateTime<Utc>) -> Result<Self, StoreError> {
        Ok(Self {
            id: live.id,
            device_id: live.device_id,
            update_id: update.update_id,
            revision: update.revision,
            kb: update.kb.map(|kb| kb.to_string()),
            kind: update.kind.word(),
            update_ref: json_text(&update)?,
            title: update.title,
            code: live.code,
            raw_code: live.raw_code,
            opened_at,
            last_failed_at: live.last_failed_at,
            failures: live.failures,
            evidence_id: evidence.id,
            evidence_epoch: evidence.epoch,
            evidence_seq: evidence.seq,
            due_at: live.due_at,
        })
    }
}

#[derive(Serialize)]
struct TouchedRow {
    id: Uuid,
    code: HResult,
    raw_code: HResult,
    last_failed_at: DateTime<Utc>,
    failures: i64,
    evidence_id: Uuid,
    evidence_epoch: i64,
    evidence_seq: i64,
    due_at: Option<DateTime<Utc>>,
}

impl TouchedRow {
    const fn of(live: &Live, evidence: Evidence) -> Self {
        Self {
            id: live.id,
            code: live.code,
            raw_code: live.raw_code,
            last_failed_at: live.last_failed_at,
            failures: live.failures,
            evidence_id: evidence.id,
            evidence_epoch: evidence.epoch,
            evidence_seq: evidence.seq,
            due_at: live.due_at,
        }
    }
}
