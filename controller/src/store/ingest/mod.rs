//! Recording reports: one transaction for a whole batch (group commit), few statements whatever its size. Duplicates
//! are ignored, incidents opened, joined and closed in the same transaction. The caller acknowledges after it returned.

mod incidents;
mod rows;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use fleetmend_proto::{Condition, DeviceId, Outcome};
use uuid::Uuid;

use super::{
    Actor, Store, StoreError, device_ids,
    devices::lock,
    engine::Tx,
    error::During as _,
    events::{self, Event},
};

/// What one device sent, checked.
#[derive(Clone, Debug)]
pub struct DeviceReport {
    pub device: DeviceId,
    /// The device's numbering; a new one begins when its queue was lost.
    pub epoch: i64,
    /// With their sequence numbers.
    pub outcomes: Vec<(i64, Outcome)>,
    pub condition: Option<Condition>,
    /// Domain time.
    pub received_at: DateTime<Utc>,
}

/// What became of one report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportRecorded {
    /// Highest sequence number of the report; all of it is durable. 0 = nothing of it is.
    pub acked_seq: i64,
    /// New outcomes.
    pub accepted: u32,
    pub duplicates: u32,
    /// Other content is known under one of these positions: nothing of the report was stored.
    pub new_epoch: bool,
}

/// A new outcome of the batch.
struct Fresh<'a> {
    report: usize,
    device: DeviceId,
    epoch: i64,
    seq: i64,
    hash: i64,
    outcome: &'a Outcome,
    received_at: DateTime<Utc>,
    /// The incident it belongs to, once matched.
    incident: Option<Uuid>,
}

impl Store {
    /// Records a batch, all or nothing. Answers are in the order of the reports.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when one of the devices is unknown; else when the database fails. Nothing was
    /// recorded then, and nothing may be acknowledged.
    pub async fn reports_record(&self, reports: Vec<DeviceReport>) -> Result<Vec<ReportRecorded>, StoreError> {
        let operation = "report";
        if reports.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin(operation).await?;
        let devices = device_ids(reports.iter().map(|report| report.device));
        let known = lock(&mut tx, &devices).await?;
        if known.len() != devices.len() {
            let known: HashSet<_> = known.into_iter().collect();
            let unknown = reports.iter().find(|report| !known.contains(&report.device));
            return Err(StoreError::not_found("device", unknown.map_or(Uuid::nil(), |report| report.device.0)));
        }
        let (mut fresh, recorded) = sort_out(&mut tx, &reports).await?;
        let mut log = incidents::match_all(&mut tx, &mut fresh).await?;
        rows::insert_positions(&mut tx, &fresh).await?;
        rows::insert_outcomes(&mut tx, &fresh).await?;
        rows::insert_conditions(&mut tx, &reports, &recorded).await?;
        log.extend(recorded_events(&reports, &recorded));
        events::append(&mut tx, &log).await?;
        tx.commit().await.during(operation)?;
        Ok(recorded)
    }
}

/// Tells new outcomes from known ones, inside the batch and against the table.
async fn sort_out<'a>(
    tx: &mut Tx,
    reports: &'a [DeviceReport],
) -> Result<(Vec<Fresh<'a>>, Vec<ReportRecorded>), StoreError> {
    let mut all: Vec<Fresh<'a>> = Vec::with_capacity(reports.iter().map(|report| report.outcomes.len()).sum());
    for (index, report) in reports.iter().enumerate() {
        all.extend(report.outcomes.iter().map(|(seq, outcome)| Fresh {
            report: index,
            device: report.device,
            epoch: report.epoch,
            seq: *seq,
            hash: rows::payload_hash(outcome),
            outcome,
            received_at: report.received_at,
            incident: None,
        }));
    }
    let mut seen: HashMap<(Uuid, i64, i64), i64> = rows::known_positions(tx, &all).await?;
    let mut taken: HashSet<(Uuid, i64, i64)> = seen.keys().copied().collect();
    let mut recorded: Vec<_> = reports
        .iter()
        .map(|report| ReportRecorded {
            acked_seq: report.outcomes.iter().map(|(seq, _)| *seq).max().unwrap_or(0),
            ..ReportRecorded::default()
        })
        .collect();
    // A report with other content under a known position is left out whole, and so is what follows it in the batch.
    let mut conflicting = HashSet::new();
    for it in &all {
        let first = *seen.entry((it.device.0, it.epoch, it.seq)).or_insert(it.hash);
        if first != it.hash {
            conflicting.insert((it.device, it.epoch));
        }
    }
    for (report, answer) in reports.iter().zip(&mut recorded) {
        if conflicting.contains(&(report.device, report.epoch)) {
            *answer = ReportRecorded { new_epoch: true, ..ReportRecorded::default() };
        }
    }
    all.retain(|it| {
        let answer = &mut recorded[it.report];
        if answer.new_epoch {
            return false;
        }
        let is_new = taken.insert((it.device.0, it.epoch, it.seq));
        if is_new {
            answer.accepted += 1;
        } else {
            answer.duplicates += 1;
        }
        is_new
    });
    Ok((all, recorded))
}

/// One event a report that brought something new (a change of an incident has its own beside it).
fn recorded_events<'a>(
    reports: &'a [DeviceReport],
    recorded: &'a [ReportRecorded],
) -> impl Iterator<Item = Event> + 'a {
    reports.iter().zip(recorded).filter_map(|(report, answer)| {
        let kind = match answer {
            ReportRecorded { new_epoch: true, .. } => "epoch_conflict",
            ReportRecorded { accepted: 1.., .. } => "outcomes_recorded",
            ReportRecorded { .. } => return None,
        };
        let data = serde_json::json!({ "epoch": report.epoch, "up_to": answer.acked_seq, "accepted": answer.accepted });
        let event = Event::new(&Actor::Device(report.device), kind, report.received_at).device(report.device);
        Some(event.data(&data))
    })
}
