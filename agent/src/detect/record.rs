//! One record of Windows about one update's attempt, before records of several sources become one outcome.
//!
//! Made by `reporting_events` and `event_xml`, put together by `merge`. Holds what was recorded and decides nothing.

use std::{fmt, path::PathBuf};

use chrono::{DateTime, SubsecRound as _, Utc};
use fleetmend_proto::{HResult, Kb, Operation, OutcomeResult, Source};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Where records of one kind come from. Two records of one stream are always two attempts.
///
/// Windows may write one event to two channels, so the channels are streams of their own; both show as
/// [`Source::EventLog`]. The order is the ranking: an earlier stream says more and wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    System,
    Operational,
    UpdateHistory,
    SetupLog,
    ReportingEvents,
}

impl Stream {
    pub(super) const ALL: [Self; 5] =
        [Self::System, Self::Operational, Self::UpdateHistory, Self::SetupLog, Self::ReportingEvents];

    #[must_use]
    pub const fn source(self) -> Source {
        match self {
            Self::System | Self::Operational => Source::EventLog,
            Self::UpdateHistory => Source::UpdateHistory,
            Self::SetupLog => Source::SetupLog,
            Self::ReportingEvents => Source::ReportingEvents,
        }
    }
}

/// What two records are compared by to tell whether they speak of the same attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub stream: Stream,
    pub at: DateTime<Utc>,
    pub operation: Operation,
    pub result: OutcomeResult,
    pub update_id: Option<Uuid>,
    /// `None`: the record does not say.
    pub revision: Option<i32>,
    pub kb: Option<Kb>,
}

/// A record of an attempt that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub mark: Mark,
    /// As recorded.
    pub code: HResult,
    /// Localised; empty where the record has none.
    pub title: String,
    /// The update service that offered it.
    pub service: Option<Uuid>,
    /// The same for every copy of this record, and for no other record.
    pub identity: Identity,
}

/// Recognises a record that was read before: in a rotated, copied or newly exported file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity(String);

impl Identity {
    /// From the record's own key (its instance GUID, or computer, channel and record number) and what it says.
    pub(super) fn new(key: &str, event: &str, mark: &Mark, code: HResult) -> Self {
        let text = format!(
            "{key}\u{1f}{event}\u{1f}{}\u{1f}{:?}\u{1f}{:?}\u{1f}{code}",
            mark.at.timestamp_micros(),
            mark.update_id,
            mark.kb
        );
        let digest = Sha256::digest(text.as_bytes());
        Self(hex::encode(digest.get(..8).unwrap_or_default()))
    }
}

/// Something in a record file that could not be understood. Reading goes on after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// Counted from 1; 0 where the file as a whole is meant.
    pub line: u64,
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file.display(), self.reason)
        } else {
            write!(f, "{}:{}: {}", self.file.display(), self.line, self.reason)
        }
    }
}

/// Why one record could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    #[error("{found} columns separated by tabs where at least {} are expected", super::reporting_events::COLUMNS)]
    Columns { found: usize },
    #[error("line is longer than {limit} bytes")]
    LineTooLong { limit: usize },
    #[error("event is longer than {limit} bytes")]
    EventTooLong { limit: usize },
    #[error("event breaks off before its end tag")]
    CutOff,
    #[error("end tag of an event that never began")]
    NoStart,
    #[error("not well-formed XML: {0}")]
    Xml(String),
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} {value:?} is not {expected}")]
    Field { field: &'static str, value: String, expected: &'static str },
    #[error("names neither an update id nor a KB")]
    NoUpdate,
}

impl BadRecord {
    /// SECURITY: log content goes to terminals and reports; a value is cut here and escaped when shown.
    pub(super) fn field(field: &'static str, value: &str, expected: &'static str) -> Self {
        Self::Field { field, value: value.chars().take(64).collect(), expected }
    }
}

/// A GUID with or without braces; `Ok(None)` for the all-zero one, which names no update.
pub(super) fn guid(field: &'static str, text: &str) -> Result<Option<Uuid>, BadRecord> {
    let text = text.trim();
    let plain = text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(text);
    let id = Uuid::try_parse(plain).map_err(|_| BadRecord::field(field, text, "a GUID"))?;
    Ok((!id.is_nil()).then_some(id))
}

/// Whole microseconds: no store keeps more.
pub(super) fn stored(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}
