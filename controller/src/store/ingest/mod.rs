//! Recording reports: one transaction for a whole batch (group commit), few statements whatever its size. Duplicates
//! are ignored, incidents opened, joined and closed in the same transaction. The caller acknowledges after it returned.

mod closing;
mod incidents;
mod rows;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use fleetmend_proto::{Condition, DeviceId, Outcome};
use uuid::Uuid;

use super::{
    Actor, Store, StoreError, device_ids,
    devices::lock,
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
    id: Uuid,
    report: usize,
    device: DeviceId,
    epoch: i64,
    seq: i64,
    /// Of the content, to tell a rolled-back machine from a repeated message.
    hash: i64,
    outcome: &'a Outcome,
    /// When it happened, as far as the device's clock can be believed.
    at: DateTime<Utc>,
    /// The update as JSON.
    update: String,
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
    pub async fn reports_record(&self, reports: &[DeviceReport]) -> Result<Vec<ReportRecorded>, StoreError> {
        let operation = "report";
        if reports.is_empty() {
            return Ok(Vec::new());
        }
        // Repeated outcomes are rare: hope that there are none, and look them up only when there are.
        match self.record(reports, Known::Hoped).await? {
            Some(recorded) => Ok(recorded),
            None => self.record(reports, Known::LookedUp).await?.ok_or_else(|| StoreError::Conflict {
                operation,
                reason: "positions changed under the lock of their devices, retry".to_owned(),
            }),
        }
    }

    /// `None` = some positions were known although none was hoped to be; nothing was recorded.
    async fn record(&self, reports: &[DeviceReport], known: Known) -> Result<Option<Vec<ReportRecorded>>, StoreError> {
        let operation = "report";
        let mut tx = self.begin(operation).await?;
        lock(&mut tx, &device_ids(reports.iter().map(|report| report.device))).await?;
        let all = rows::outcomes(reports)?;
        let seen = match known {
            Known::Hoped => HashMap::new(),
            Known::LookedUp => rows::known_positions(&mut tx, &all).await?,
        };
        let (mut fresh, recorded) = sort_out(reports, all, seen);
        let mut log = incidents::match_all(&mut tx, &mut fresh).await?;
        if rows::insert_positions(&mut tx, &fresh).await? != fresh.len() as u64 {
            return Ok(None); // dropping the transaction takes it back
        }
        rows::insert_outcomes(&mut tx, &fresh).await?;
        log.extend(rows::insert_conditions(&mut tx, reports, &recorded).await?);
        log.extend(closing::close_reached(&mut tx, reports, &recorded).await?);
        log.extend(recorded_events(reports, &recorded));
        events::append(&mut tx, &log).await?;
        tx.commit().await.during(operation)?;
        Ok(Some(recorded))
    }
}

/// Whether positions are looked up before they are inserted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Hoped,
    LookedUp,
}

/// Tells new outcomes from known ones, inside the batch and against the table (`seen`: hash by position).
fn sort_out<'a>(
    reports: &[DeviceReport],
    mut all: Vec<Fresh<'a>>,
    mut seen: HashMap<(Uuid, i64, i64), i64>,
) -> (Vec<Fresh<'a>>, Vec<ReportRecorded>) {
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
    (all, recorded)
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
