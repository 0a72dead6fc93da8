//! One update's install attempt as Windows recorded it.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{HResult, words};

/// Longest title kept, in bytes.
pub const MAX_TITLE: usize = 512;

/// An outcome without its position: what detection finds and the store keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub update: UpdateRef,
    pub operation: Operation,
    pub result: OutcomeResult,
    /// Effective code: the inner one where the recorded one only wraps it.
    pub code: HResult,
    /// As recorded.
    pub raw_code: HResult,
    pub occurred_at: DateTime<Utc>,
    pub source: Source,
}

/// An update as Windows names it. At least one of `update_id` and `kb` is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UpdateRef {
    pub update_id: Option<Uuid>,
    pub revision: i32,
    pub kb: Option<Kb>,
    /// Localised; for people only.
    pub title: String,
    pub kind: UpdateKind,
    /// Updates this one replaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<Uuid>,
}

impl UpdateRef {
    /// Whether both name the same update: the same id, or the same KB where both have one.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let same_id = self.update_id.is_some() && self.update_id == other.update_id;
        let same_kb = self.kb.is_some() && self.kb == other.kb;
        same_id || same_kb
    }

    /// Whether `self` stands in for `other`: the same update, or one that says it replaces it.
    #[must_use]
    pub fn satisfies(&self, other: &Self) -> bool {
        self.is_same(other) || other.update_id.is_some_and(|id| self.supersedes.contains(&id))
    }
}

/// A Knowledge Base number, shown as `KB5124010`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Kb(pub u32);

/// Text that is no KB number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a KB number: expected a form like KB5124010")]
pub struct NotAKb(pub String);

impl fmt::Display for Kb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KB{}", self.0)
    }
}

impl FromStr for Kb {
    type Err = NotAKb;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || NotAKb(text.chars().take(64).collect());
        let digits = text.strip_prefix("KB").or_else(|| text.strip_prefix("kb")).unwrap_or(text);
        let plain = (6..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        if !plain {
            return Err(error());
        }
        digits.parse().map(Self).map_err(|_| error())
    }
}

impl From<Kb> for String {
    fn from(kb: Kb) -> Self {
        kb.to_string()
    }
}

impl TryFrom<String> for Kb {
    type Error = NotAKb;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

words!(
    /// What was being done.
    Operation { Install = "install", Uninstall = "uninstall", Download = "download" }
);
words!(
    /// How it ended. The order and words of WUA's OperationResultCode, and the restart that is still owed.
    OutcomeResult {
        Succeeded = "succeeded",
        SucceededWithErrors = "succeeded_with_errors",
        Failed = "failed",
        Aborted = "aborted",
        PendingReboot = "pending_reboot",
    }
);
words!(
    /// What of Windows said so: one of its own records, or its state.
    Source {
        EventLog = "event_log",
        SetupLog = "setup_log",
        ReportingEvents = "reporting_events",
        UpdateHistory = "update_history",
        /// No record of an attempt: what the update client says of the update now, asked by the agent after an order.
        InstalledState = "installed_state",
    }
);
words!(
    /// What kind of update it is. Drivers matter: 0x80070103 is benign only for them.
    UpdateKind {
        Quality = "quality",
        Feature = "feature",
        Driver = "driver",
        Definition = "definition",
        App = "app",
        Unknown = "unknown",
    }
);
