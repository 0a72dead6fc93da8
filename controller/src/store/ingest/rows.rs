//! The bulk statements of a batch: positions, outcomes, conditions.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_proto::{DeviceId, Operation, Outcome, OutcomeResult};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{DeviceReport, Fresh, ReportRecorded};
use crate::store::{
    Actor, StoreError,
    engine::{Tx, bulk, bulk_fetch, bulk_insert, bulk_sql},
    error::During as _,
    events::Event,
    json_text, new_id,
};

/// How far ahead of the controller a record may be.
const CLOCK_AHEAD: TimeDelta = TimeDelta::hours(24);

const KNOWN: [&str; 2] = bulk_sql!(
    "SELECT p.device_id, p.epoch, p.seq, p.payload_hash FROM "
    [device_id: uuid, epoch: bigint, seq: bigint]
    " JOIN positions p ON p.device_id = r.device_id AND p.epoch = r.epoch AND p.seq = r.seq"
);

const INSERT_CONDITIONS: [&str; 2] = bulk_sql!(
    "INSERT INTO conditions (device_id, collected_at, received_at, condition) \
     SELECT r.device_id, r.collected_at, r.received_at, r.condition FROM "
    [device_id: uuid, collected_at: timestamptz, received_at: timestamptz, condition: text]
    ""
);

const SUMMARISE: [&str; 2] = bulk_sql!(
    "UPDATE devices SET name = r.name, agent_version = r.agent_version, last_seen_at = r.received_at, \
     product_type = r.product_type, role = r.role, authority = r.authority, reboot_pending = r.reboot_pending, \
     utc_offset_minutes = r.utc_offset_minutes, os_build = r.os_build, ubr = r.ubr, architecture = r.architecture FROM "
    [device_id: uuid, name: text, agent_version: text, received_at: timestamptz, product_type: text, role: text,
     authority: text, reboot_pending: boolean, utc_offset_minutes: bigint, os_build: bigint, ubr: bigint,
     architecture: text]
    " WHERE devices.id = r.device_id"
);

/// The outcomes of all reports, in order.
pub(super) fn outcomes(reports: &[DeviceReport]) -> Result<Vec<Fresh<'_>>, StoreError> {
    let mut all = Vec::with_capacity(reports.iter().map(|report| report.outcomes.len()).sum());
    for (index, report) in reports.iter().enumerate() {
        for (place, (seq, outcome)) in report.outcomes.iter().enumerate() {
            let update = json_text(&outcome.update)?;
            all.push(Fresh {
                id: new_id(),
                report: index,
                device: report.device,
                epoch: report.epoch,
                seq: *seq,
                hash: payload_hash(outcome, &update),
                outcome,
                at: happened_at(report, place),
                update,
                received_at: report.received_at,
                incident: None,
            });
        }
    }
    Ok(all)
}

/// When the outcome at `index` of a report happened. A record from after its own arrival was made by a clock that ran
/// ahead (by [`CLOCK_AHEAD`] at most, or it was rejected): it is no younger than its arrival, nor than the success that
/// was recorded after it, when the clock had been set. Otherwise it would hide that success.
fn happened_at(report: &DeviceReport, index: usize) -> DateTime<Utc> {
    let outcome = &report.outcomes[index].1;
    if outcome.occurred_at <= report.received_at {
        return outcome.occurred_at;
    }
    let later = report.outcomes[index + 1..].iter().map(|(_, later)| later);
    let recent = report.received_at - CLOCK_AHEAD..=report.received_at;
    let cures =
        later.filter(|it| is_install(it) && recent.contains(&it.occurred_at) && it.update.satisfies(&outcome.update));
    cures.map(|it| it.occurred_at).min().unwrap_or(report.received_at)
}

/// Eight bytes of SHA-256 over an outcome: enough to tell a rolled-back machine from a repeated message.
fn payload_hash(outcome: &Outcome, update: &str) -> i64 {
    // INVARIANT: an update's JSON form only gains fields that are left out when empty, so that hashes outlive versions.
    let digest = Sha256::new()
        .chain_update(update.as_bytes())
        .chain_update(outcome.operation.word())
        .chain_update([0])
        .chain_update(outcome.result.word())
        .chain_update([0])
        .chain_update(outcome.source.word())
        .chain_update(outcome.code.0.to_be_bytes())
        .chain_update(outcome.raw_code.0.to_be_bytes())
        .chain_update(outcome.occurred_at.timestamp_micros().to_be_bytes())
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

/// Whether an outcome says that its update is installed.
pub(super) const fn is_install(outcome: &Outcome) -> bool {
    matches!(outcome.operation, Operation::Install)
        && matches!(outcome.result, OutcomeResult::Succeeded | OutcomeResult::SucceededWithErrors)
}

#[derive(Serialize)]
struct PositionRow {
    device_id: Uuid,
    epoch: i64,
    seq: i64,
    payload_hash: i64,
    outcome_id: Uuid,
    incident_id: Option<Uuid>,
    installed_at: Option<DateTime<Utc>>,
}

fn positions(outcomes: &[Fresh<'_>]) -> Vec<PositionRow> {
    outcomes
        .iter()
        .map(|it| PositionRow {
            device_id: it.device.0,
            epoch: it.epoch,
            seq: it.seq,
            payload_hash: it.hash,
            outcome_id: it.id,
            incident_id: it.incident,
            installed_at: is_install(it.outcome).then_some(it.at),
        })
        .collect()
}

/// Which of these positions the table has, with the hash of what came first.
pub(super) async fn known_positions(
    tx: &mut Tx,
    outcomes: &[Fresh<'_>],
) -> Result<HashMap<(Uuid, i64, i64), i64>, StoreError> {
    if outcomes.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(Uuid, i64, i64, i64)> = bulk_fetch!(tx, KNOWN, &positions(outcomes), "report")?;
    Ok(rows.into_iter().map(|(device, epoch, seq, hash)| ((device, epoch, seq), hash)).collect())
}

/// Returns how many were new.
pub(super) async fn insert_positions(tx: &mut Tx, fresh: &[Fresh<'_>]) -> Result<u64, StoreError> {
    if fresh.is_empty() {
        return Ok(0);
    }
    let rows = positions(fresh);
    bulk_insert!(
        tx,
        "report",
        &rows,
        "positions",
        [device_id: uuid "$1", epoch: bigint "$2", seq: bigint "$3", payload_hash: bigint "$4", outcome_id: uuid "$5",
         incident_id: uuid "$6", installed_at: timestamptz "$7"],
        "ON CONFLICT DO NOTHING"
    )
}

#[derive(Serialize)]
struct OutcomeRow<'a> {
    id: Uuid,
    device_id: Uuid,
    epoch: i64,
    seq: i64,
    incident_id: Option<Uuid>,
    operation: &'static str,
    result: &'static str,
    code: String,
    raw_code: String,
    source: &'static str,
    occurred_at: DateTime<Utc>,
    received_at: DateTime<Utc>,
    update_ref: &'a str,
}

pub(super) async fn insert_outcomes(tx: &mut Tx, fresh: &[Fresh<'_>]) -> Result<(), StoreError> {
    if fresh.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = fresh
        .iter()
        .map(|it| OutcomeRow {
            id: it.id,
            device_id: it.device.0,
            epoch: it.epoch,
            seq: it.seq,
            incident_id: it.incident,
            operation: it.outcome.operation.word(),
            result: it.outcome.result.word(),
            code: it.outcome.code.to_string(),
            raw_code: it.outcome.raw_code.to_string(),
            source: it.outcome.source.word(),
            occurred_at: it.outcome.occurred_at,
            received_at: it.received_at,
            update_ref: &it.update,
        })
        .collect();
    bulk_insert!(
        tx,
        "report",
        &rows,
        "outcomes",
        [id: uuid "$1", device_id: uuid "$2", epoch: bigint "$3", seq: bigint "$4", incident_id: uuid "$5",
         operation: text "$6", result: text "$7", code: text "$8", raw_code: text "$9", source: text "$10",
         occurred_at: timestamptz "$11", received_at: timestamptz "$12", update_ref: text "$13"],
        ""
    )?;
    Ok(())
}

#[derive(Serialize)]
struct ConditionRow {
    device_id: Uuid,
    collected_at: DateTime<Utc>,
    received_at: DateTime<Utc>,
    condition: String,
}

#[derive(Serialize)]
struct SummaryRow<'a> {
    device_id: Uuid,
    name: &'a str,
    agent_version: &'a str,
    received_at: DateTime<Utc>,
    product_type: &'static str,
    role: &'static str,
    authority: &'static str,
    reboot_pending: bool,
    utc_offset_minutes: i32,
    os_build: u32,
    ubr: u32,
    architecture: &'static str,
}

/// What the ladder knows a device by. A change of it is an event; that it was seen again is not.
const KNOWN_AS: [&str; 2] = bulk_sql!(
    "SELECT d.id, d.product_type, d.role, d.authority, d.architecture FROM " [device_id: uuid]
    " JOIN devices d ON d.id = r.device_id"
);

/// What of a device's description becomes another one.
async fn changes(tx: &mut Tx, rows: &[SummaryRow<'_>]) -> Result<Vec<Event>, StoreError> {
    let before: Vec<(Uuid, String, String, String, String)> = bulk_fetch!(tx, KNOWN_AS, rows, "report")?;
    let mut log = Vec::new();
    for row in rows {
        let Some((_, product_type, role, authority, architecture)) = before.iter().find(|it| it.0 == row.device_id)
        else {
            continue;
        };
        let now = [
            ("product_type", product_type, row.product_type),
            ("role", role, row.role),
            ("authority", authority, row.authority),
            ("architecture", architecture, row.architecture),
        ];
        let changed: serde_json::Map<_, _> = now
            .into_iter()
            .filter(|(_, before, now)| before.as_str() != *now)
            .map(|(name, before, now)| (name.to_owned(), serde_json::json!({ "from": before, "to": now })))
            .collect();
        if !changed.is_empty() {
            let device = DeviceId(row.device_id);
            let event = Event::new(&Actor::Device(device), "condition_recorded", row.received_at).device(device);
            log.push(event.data(&changed.into()));
        }
    }
    Ok(log)
}

/// Keeps conditions, and the newest of each device in its own row. Gives the events of what changed by it.
pub(super) async fn insert_conditions(
    tx: &mut Tx,
    reports: &[DeviceReport],
    recorded: &[ReportRecorded],
) -> Result<Vec<Event>, StoreError> {
    let mut history = Vec::new();
    let mut newest: HashMap<Uuid, SummaryRow<'_>> = HashMap::new();
    for (report, _) in reports.iter().zip(recorded).filter(|(_, answer)| !answer.new_epoch) {
        let Some(condition) = &report.condition else { continue };
        history.push(ConditionRow {
            device_id: report.device.0,
            collected_at: condition.collected_at,
            received_at: report.received_at,
            condition: json_text(condition)?,
        });
        newest.insert(
            report.device.0,
            SummaryRow {
                device_id: report.device.0,
                name: &condition.computer_name,
                agent_version: &condition.agent_version,
                received_at: report.received_at,
                product_type: condition.product_type.word(),
                role: condition.role.word(),
                authority: condition.update_authority.word(),
                reboot_pending: !condition.reboot_pending.is_empty(),
                utc_offset_minutes: condition.utc_offset_minutes,
                os_build: condition.os_build,
                ubr: condition.ubr,
                architecture: condition.architecture.word(),
            },
        );
    }
    if history.is_empty() {
        return Ok(Vec::new());
    }
    bulk!(tx, INSERT_CONDITIONS, &history, "report")?;
    let rows: Vec<_> = newest.into_values().collect();
    let log = changes(tx, &rows).await?;
    bulk!(tx, SUMMARISE, &rows, "report")?;
    Ok(log)
}
