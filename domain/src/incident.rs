//! The life of an incident, as one table: [`next`]. Drawn in `ARCHITECTURE.md`; a test compares both.
//! The controller's store and loops are its only callers; nothing here knows a database or a clock.

mod parts;

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_proto::{Tier, words};
use serde::{Deserialize, Serialize};

pub use parts::{BadParts, Parts};

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
        /// Three maintenance windows in a row passed without the order being carried out.
        MissedWindows = "missed_windows",
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
words!(
    /// What [`Event`] is called in the drawing and the timeline.
    EventName {
        FailedAgain = "failed_again",
        Installed = "installed",
        Held = "held",
        Released = "released",
        Scheduled = "scheduled",
        OrderPlaced = "order_placed",
        OrderFinished = "order_finished",
        OrderLapsed = "order_lapsed",
        StillFailing = "still_failing",
        RebootOwed = "reboot_owed",
        FoundBenign = "found_benign",
        LadderExhausted = "ladder_exhausted",
        HandedOver = "handed_over",
        ApprovalWanted = "approval_wanted",
        Returned = "returned",
        Dismissed = "dismissed",
        ManualRequested = "manual_requested",
    }
);
words!(
    /// The loop that must move a waiting incident on.
    Owner { Decide = "decide", Expire = "expire", Verify = "verify" }
);
words!(
    /// What ends the wait of an incident when nothing else does.
    Deadline {
        /// The next round of its owner.
        NextRound = "next_round",
        /// The row's `due_at`, set when the state was entered.
        DueAt = "due_at",
        /// The order's own end: its expiry, lease or run deadline.
        Order = "order",
        /// `Policy::verify_deadline` after the state was entered.
        Verification = "verification",
        /// [`REMINDER`] after the last time people were told; `ladder_exhausted` tells them again.
        Reminder = "reminder",
        /// `Policy::reset_evidence_age`: older evidence no longer carries a reset.
        EvidenceAge = "evidence_age",
    }
);

/// How often people are told again of an incident that they have.
pub const REMINDER: TimeDelta = TimeDelta::days(7);

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
    /// The same update failed again. Evidence only: it moves no state by itself.
    FailedAgain,
    /// The update, or one that replaces it, was seen installed.
    Installed,
    Held(HoldReason),
    /// The reason to wait is gone: decide anew.
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
    /// Verification said installed once restarted: decide anew, the restart comes next.
    RebootOwed,
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

/// The table. `now` is not looked at today: no step depends on the time, only on events; it is an argument so that a
/// step that does can be added without touching the callers.
///
/// # Errors
/// [`IllegalTransition`] where the event has no meaning.
pub fn next(state: &State, event: &Event, _now: DateTime<Utc>) -> Result<State, IllegalTransition> {
    let to = match state {
        State::Open | State::Held { .. } | State::Scheduled => from_undecided(state, event),
        State::Remediating { tier } => from_remediating(*tier, event),
        State::Verifying { tier } => from_verifying(*tier, event),
        State::Exhausted => from_exhausted(event),
        State::HandedOver => from_handed_over(event),
        State::AwaitingApproval => from_awaiting_approval(event),
        // Ended: the next failure of the update opens another incident.
        State::Resolved | State::Benign | State::Dismissed { .. } => None,
    };
    to.ok_or(IllegalTransition { from: state.name(), event: event.name().word() })
}

/// `Open`, `Held`, `Scheduled`: the decide loop has it. A failure or a hold leaves the wait as it is.
fn from_undecided(state: &State, event: &Event) -> Option<State> {
    let waits = !matches!(state, State::Open);
    match event {
        Event::FailedAgain => Some(state.clone()),
        Event::Installed => Some(State::Resolved),
        Event::Held(reason) => Some(State::Held { reason: *reason }),
        Event::Released => waits.then_some(State::Open),
        Event::Scheduled => Some(State::Scheduled),
        Event::OrderPlaced { tier } => Some(State::Remediating { tier: *tier }),
        Event::FoundBenign => Some(State::Benign),
        Event::LadderExhausted => Some(State::Exhausted),
        Event::HandedOver => Some(State::HandedOver),
        Event::ApprovalWanted => Some(State::AwaitingApproval),
        Event::Dismissed { by } => Some(State::Dismissed { by: by.clone() }),
        Event::ManualRequested => Some(State::Open),
        Event::OrderFinished | Event::OrderLapsed | Event::StillFailing | Event::RebootOwed | Event::Returned => None,
    }
}

/// An order is out. A person's request waits in its own row until the order has ended.
fn from_remediating(tier: Option<Tier>, event: &Event) -> Option<State> {
    match event {
        Event::FailedAgain | Event::ManualRequested => Some(State::Remediating { tier }),
        Event::Installed => Some(State::Resolved),
        Event::OrderFinished => Some(State::Verifying { tier }),
        Event::OrderLapsed => Some(State::Open),
        // Only a reset takes the agent away, so that it has to come back.
        Event::Returned => (tier == Some(Tier::ResetPc)).then_some(State::Verifying { tier }),
        Event::Dismissed { by } => Some(State::Dismissed { by: by.clone() }),
        Event::Held(_)
        | Event::Released
        | Event::Scheduled
        | Event::OrderPlaced { .. }
        | Event::StillFailing
        | Event::RebootOwed
        | Event::FoundBenign
        | Event::LadderExhausted
        | Event::HandedOver
        | Event::ApprovalWanted => None,
    }
}

/// Proof is awaited. A failure report is evidence; the verification judges it.
fn from_verifying(tier: Option<Tier>, event: &Event) -> Option<State> {
    match event {
        Event::FailedAgain | Event::ManualRequested => Some(State::Verifying { tier }),
        Event::Installed => Some(State::Resolved),
        Event::StillFailing | Event::RebootOwed => Some(State::Open),
        Event::Dismissed { by } => Some(State::Dismissed { by: by.clone() }),
        Event::Held(_)
        | Event::Released
        | Event::Scheduled
        | Event::OrderPlaced { .. }
        | Event::OrderFinished
        | Event::OrderLapsed
        | Event::FoundBenign
        | Event::LadderExhausted
        | Event::HandedOver
        | Event::ApprovalWanted
        | Event::Returned => None,
    }
}

/// People have it. A request by hand may be decided in place (`order_placed`, `held`, `scheduled`) or reopen it.
fn from_exhausted(event: &Event) -> Option<State> {
    match event {
        Event::FailedAgain | Event::LadderExhausted => Some(State::Exhausted),
        Event::Installed => Some(State::Resolved),
        Event::Held(reason) => Some(State::Held { reason: *reason }),
        Event::Scheduled => Some(State::Scheduled),
        Event::OrderPlaced { tier } => Some(State::Remediating { tier: *tier }),
        // A later catalogue may know better.
        Event::FoundBenign => Some(State::Benign),
        Event::HandedOver => Some(State::HandedOver),
        Event::ApprovalWanted => Some(State::AwaitingApproval),
        Event::Returned => Some(State::Verifying { tier: None }),
        Event::Dismissed { by } => Some(State::Dismissed { by: by.clone() }),
        Event::ManualRequested => Some(State::Open),
        Event::Released | Event::OrderFinished | Event::OrderLapsed | Event::StillFailing | Event::RebootOwed => None,
    }
}

/// A ticket is with people. `ladder_exhausted`: nobody reset the PC while the evidence was young.
fn from_handed_over(event: &Event) -> Option<State> {
    match event {
        Event::FailedAgain => Some(State::HandedOver),
        Event::Installed => Some(State::Resolved),
        Event::LadderExhausted => Some(State::Exhausted),
        Event::Returned => Some(State::Verifying { tier: Some(Tier::ResetPc) }),
        Event::Dismissed { by } => Some(State::Dismissed { by: by.clone() }),
        Event::ManualRequested => Some(State::Open),
        Event::Held(_)
        | Event::Released
        | Event::Scheduled
        | Event::OrderPlaced { .. }
        | Event::OrderFinished
        | Event::OrderLapsed
        | Event::StillFailing
        | Event::RebootOwed
        | Event::FoundBenign
        | Event::HandedOver
        | Event::ApprovalWanted => None,
    }
}

/// Signatures are awaited. INVARIANT: the only order that leaves from here is the reset they are for.
fn from_awaiting_approval(event: &Event) -> Option<State> {
    match event {
        Event::FailedAgain => Some(State::AwaitingApproval),
        Event::Installed => Some(State::Resolved),
        Event::OrderPlaced { tier } => {
            (*tier == Some(Tier::ResetPc)).then_some(State::Remediating { tier: Some(Tier::ResetPc) })
        }
        Event::LadderExhausted => Some(State::Exhausted),
        Event::HandedOver => Some(State::HandedOver),
        Event::Dismissed { by } => Some(State::Dismissed { by: by.clone() }),
        Event::ManualRequested => Some(State::Open),
        Event::Held(_)
        | Event::Released
        | Event::Scheduled
        | Event::OrderFinished
        | Event::OrderLapsed
        | Event::StillFailing
        | Event::RebootOwed
        | Event::FoundBenign
        | Event::ApprovalWanted
        | Event::Returned => None,
    }
}

impl State {
    /// Whether nothing follows: the next failure opens another incident.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.owner().is_none()
    }

    /// Whether people have it: the ladder decides it again only when they ask for something.
    #[must_use]
    pub const fn is_with_people(&self) -> bool {
        match self {
            Self::Exhausted | Self::HandedOver | Self::AwaitingApproval => true,
            Self::Open
            | Self::Held { .. }
            | Self::Scheduled
            | Self::Remediating { .. }
            | Self::Verifying { .. }
            | Self::Resolved
            | Self::Benign
            | Self::Dismissed { .. } => false,
        }
    }

    /// The loop that must move it on; `None` = ended.
    #[must_use]
    pub const fn owner(&self) -> Option<Owner> {
        match self {
            Self::Open | Self::Held { .. } | Self::Scheduled => Some(Owner::Decide),
            Self::Remediating { .. } | Self::Exhausted | Self::HandedOver | Self::AwaitingApproval => {
                Some(Owner::Expire)
            }
            Self::Verifying { .. } => Some(Owner::Verify),
            Self::Resolved | Self::Benign | Self::Dismissed { .. } => None,
        }
    }

    /// What ends its wait when nothing else does; `None` = ended.
    #[must_use]
    pub const fn deadline(&self) -> Option<Deadline> {
        match self {
            Self::Open => Some(Deadline::NextRound),
            Self::Held { .. } | Self::Scheduled => Some(Deadline::DueAt),
            Self::Remediating { .. } => Some(Deadline::Order),
            Self::Verifying { .. } => Some(Deadline::Verification),
            Self::Exhausted => Some(Deadline::Reminder),
            Self::HandedOver | Self::AwaitingApproval => Some(Deadline::EvidenceAge),
            Self::Resolved | Self::Benign | Self::Dismissed { .. } => None,
        }
    }
}

impl Event {
    #[must_use]
    pub const fn name(&self) -> EventName {
        match self {
            Self::FailedAgain => EventName::FailedAgain,
            Self::Installed => EventName::Installed,
            Self::Held(_) => EventName::Held,
            Self::Released => EventName::Released,
            Self::Scheduled => EventName::Scheduled,
            Self::OrderPlaced { .. } => EventName::OrderPlaced,
            Self::OrderFinished => EventName::OrderFinished,
            Self::OrderLapsed => EventName::OrderLapsed,
            Self::StillFailing => EventName::StillFailing,
            Self::RebootOwed => EventName::RebootOwed,
            Self::FoundBenign => EventName::FoundBenign,
            Self::LadderExhausted => EventName::LadderExhausted,
            Self::HandedOver => EventName::HandedOver,
            Self::ApprovalWanted => EventName::ApprovalWanted,
            Self::Returned => EventName::Returned,
            Self::Dismissed { .. } => EventName::Dismissed,
            Self::ManualRequested => EventName::ManualRequested,
        }
    }
}

#[cfg(test)]
mod tests;
