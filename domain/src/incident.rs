//! The life of an incident, as one table: `next(state, event, now)`. Drawn in `ARCHITECTURE.md`; a test compares both.

use chrono::{DateTime, Utc};
use fleetmend_proto::{Tier, words};
use serde::{Deserialize, Serialize};

words!(
    /// Why an incident waits for something outside it.
    HoldReason {
        /// The posture orders nothing.
        Observing = "observing",
        /// The device is quarantined.
        Quarantined = "quarantined",
        /// The device refused the order (local policy, preconditions).
        Refused = "refused",
        /// The update authority or role permits nothing.
        NotPermitted = "not_permitted",
        /// A person said so.
        Manual = "manual",
    }
);
words!(
    /// What `State` is called in tables and API.
    StateName {
        Open = "open",
        Held = "held",
        Scheduled = "scheduled",
        Remediating = "remediating",
        Verifying = "verifying",
        Exhausted = "exhausted",
        HandedOver = "handed_over",
        AwaitingApproval = "awaiting_approval",
        Resolved = "resolved",
        Benign = "benign",
        Dismissed = "dismissed",
    }
);

/// Where an incident stands. `tier` = what the order in hand is charged to; `None` = `Reboot` or `HideUpdate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    Open,
    Held {
        reason: HoldReason,
    },
    /// Waits for a time: cool-down, backoff, window. Looked at again at the row's `due_at`.
    Scheduled,
    Remediating {
        tier: Option<Tier>,
    },
    Verifying {
        tier: Option<Tier>,
    },
    Exhausted,
    HandedOver,
    AwaitingApproval,
    Resolved,
    Benign,
    Dismissed {
        by: String,
    },
}

/// What can happen to an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The same update failed again while no order was out.
    FailedAgain,
    /// The update, or one that replaces it, was seen installed.
    Installed,
    Held(HoldReason),
    Released,
    Scheduled,
    OrderPlaced {
        tier: Option<Tier>,
    },
    /// The order ended on the device in any way that tried something: proof is wanted.
    OrderFinished,
    /// The order ended without having tried (expired, cancelled, unavailable, refused): decide anew.
    OrderLapsed,
    /// Verification said still failing, or its deadline passed.
    StillFailing,
    FoundBenign,
    LadderExhausted,
    HandedOver,
    ApprovalWanted,
    /// The device came back after its reset, or people ask for proof.
    Returned,
    Dismissed {
        by: String,
    },
    /// A person asks for a remedy by hand.
    ManualRequested,
}

/// An event that has no meaning in a state. The row stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an incident that is {from} cannot take {event}")]
pub struct IllegalTransition {
    pub from: StateName,
    pub event: &'static str,
}

/// The table.
///
/// # Errors
/// [`IllegalTransition`] where the event has no meaning.
pub fn next(_state: &State, _event: &Event, _now: DateTime<Utc>) -> Result<State, IllegalTransition> {
    unimplemented!()
}
