//! What an agent says about an order: phase, steps, findings, refusal. Observed facts, never wishes.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::words;

words!(
    /// How far the agent is with an order.
    OrderPhase {
        Running = "running",
        AwaitingReboot = "awaiting_reboot",
        Succeeded = "succeeded",
        Failed = "failed",
        Unavailable = "unavailable",
        Refused = "refused",
        Unknown = "unknown",
        Cancelled = "cancelled",
    }
);

impl OrderPhase {
    /// Whether nothing follows it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Running | Self::AwaitingReboot)
    }
}

words!(
    /// Why an agent refused an order. Each has one meaning, for ever.
    Refusal {
        Malformed = "malformed",
        BadSignature = "bad_signature",
        WrongFleet = "wrong_fleet",
        WrongDevice = "wrong_device",
        StaleFence = "stale_fence",
        Expired = "expired",
        NotYetValid = "not_yet_valid",
        AboveMaxTier = "above_max_tier",
        ResetNotSigned = "reset_not_signed",
        Halted = "halted",
        Busy = "busy",
        Precondition = "precondition",
        UnknownAction = "unknown_action",
        NoLease = "no_lease",
        SafeMode = "safe_mode",
    }
);
words!(
    /// How a step stands in the journal.
    StepState {
        Started = "started",
        Done = "done",
        Undone = "undone",
        Failed = "failed",
        Skipped = "skipped",
        Unknown = "unknown",
    }
);
words!(
    /// What became of a finding of tier 2.
    FindingResult { Fixed = "fixed", NotFixed = "not_fixed", Reported = "reported" }
);

/// One step's newest state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Counts from 0 within the order.
    pub index: u32,
    pub name: String,
    pub state: StepState,
    pub detail: String,
    pub at: DateTime<Utc>,
    pub findings: Vec<Finding>,
}

/// What a rule of the troubleshooter found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `T2-01` to `T2-13`.
    pub rule: String,
    pub what: String,
    pub result: FindingResult,
    pub why: String,
}
