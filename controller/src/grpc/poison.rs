//! Reports that the database will never take, because of what is in them or in the rows they touch. After a few tries the
//! outcomes are recorded one at a time; those that fail even so are refused for good: the device keeps them as dead
//! letters, people are told here, and everything behind them goes on. Called by the task that commits.

use std::{collections::HashMap, error::Error};

use fleetmend_proto::{DeviceId, v1};

use super::ingest::{Taken, record};
use crate::store::{DeviceReport, ReportRecorded, Store, StoreError};

/// So often a report may fail before it is taken apart.
const TRIES: u32 = 5;
/// Of an outcome in the log.
const SHOWN: usize = 64 * 1024;

/// Which devices' reports failed, how often in a row.
#[derive(Debug, Default)]
pub(super) struct Poison(HashMap<DeviceId, u32>);

impl Poison {
    /// These reports were recorded.
    pub(super) fn cleared(&mut self, reports: &[DeviceReport]) {
        if !self.0.is_empty() {
            for report in reports {
                self.0.remove(&report.device);
            }
        }
    }

    /// Records a report by itself; one that fails again and again for what it holds, outcome by outcome.
    pub(super) async fn record_one(&mut self, store: &Store, report: &DeviceReport) -> Result<Taken, StoreError> {
        let error = match record(store, std::slice::from_ref(report)).await {
            Ok(recorded) => {
                self.0.remove(&report.device);
                return Ok(only(recorded).into());
            }
            Err(error) => error,
        };
        if !is_about_data(&error) {
            tracing::error!(device_id = %report.device, error = &error as &dyn Error, "report not recorded");
            return Err(error);
        }
        let tries = self.0.entry(report.device).or_default();
        *tries += 1;
        tracing::error!(device_id = %report.device, error = &error as &dyn Error, tries, "report refused by the database");
        if *tries < TRIES {
            return Err(error);
        }
        self.0.remove(&report.device);
        taken_apart(store, report).await
    }
}

async fn taken_apart(store: &Store, report: &DeviceReport) -> Result<Taken, StoreError> {
    let mut taken = Taken::default();
    let last = report.outcomes.iter().map(|(seq, _)| *seq).max().unwrap_or_default();
    let parts = report.outcomes.iter().map(|outcome| DeviceReport {
        outcomes: vec![outcome.clone()],
        condition: None,
        ..report.clone()
    });
    let condition = report.condition.is_some().then(|| DeviceReport { outcomes: Vec::new(), ..report.clone() });
    for part in parts.chain(condition) {
        match record(store, std::slice::from_ref(&part)).await {
            Ok(recorded) => {
                let recorded = only(recorded);
                if recorded.new_epoch {
                    return Ok(recorded.into());
                }
                taken.recorded.accepted += recorded.accepted;
                taken.recorded.duplicates += recorded.duplicates;
            }
            Err(error) if is_about_data(&error) => {
                let device = report.device;
                let Some((seq, outcome)) = part.outcomes.first() else {
                    tracing::error!(device_id = %device, error = &error as &dyn Error, "condition refused for good");
                    continue;
                };
                let text = serde_json::to_string(outcome).unwrap_or_default();
                let text: String = text.chars().take(SHOWN).collect();
                tracing::error!(device_id = %device, seq, error = &error as &dyn Error, outcome = text, "outcome refused for good");
                let reason = "the controller's database refuses it; the controller's log says why".to_owned();
                taken.rejections.push(v1::Rejection { seq: *seq, field: "outcome".to_owned(), reason });
            }
            // What was recorded so far is told apart as duplicates when the report comes again.
            Err(error) => return Err(error),
        }
    }
    taken.recorded.acked_seq = last;
    Ok(taken)
}

fn only(recorded: Vec<ReportRecorded>) -> ReportRecorded {
    recorded.into_iter().next().unwrap_or_default()
}

/// Whether the values are what the database will not have, or rows of this device cannot be read: then no waiting helps.
/// A full disk, a missing right, a lost connection is about no report.
fn is_about_data(error: &StoreError) -> bool {
    let source = match error {
        StoreError::Corrupt { .. } => return true,
        StoreError::Database { source, .. } => source,
        StoreError::BadUrl { .. }
        | StoreError::Unreachable { .. }
        | StoreError::Busy { .. }
        | StoreError::Conflict { .. }
        | StoreError::Invalid { .. }
        | StoreError::NotFound { .. }
        | StoreError::NewerSchema { .. }
        | StoreError::OlderSchema { .. }
        | StoreError::OtherFleet { .. } => return false,
    };
    if matches!(**source, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_)) {
        return true;
    }
    let code = source.as_database_error().and_then(|error| error.code()).unwrap_or_default();
    match code.parse::<u32>() {
        // SQLite, https://sqlite.org/rescode.html: TOOBIG, CONSTRAINT and its kinds, MISMATCH.
        Ok(number) if code.len() < 5 => matches!(number & 0xff, 18..=20),
        // PostgreSQL, https://www.postgresql.org/docs/current/errcodes-appendix.html: data exception, constraint violation.
        _ => code.starts_with("22") || code.starts_with("23"),
    }
}
