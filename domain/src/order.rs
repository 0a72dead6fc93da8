//! The life of an order, as one table: `next(state, event)`. What the controller wants and what the agent observed are
//! different events; each row has one writer.

use fleetmend_proto::words;

words!(
    /// Where an order stands. `AwaitingReboot` and `AwaitingReturn` are phases inside running.
    State {
        Queued = "queued",
        Leased = "leased",
        Running = "running",
        AwaitingReboot = "awaiting_reboot",
        AwaitingReturn = "awaiting_return",
        Succeeded = "succeeded",
        Failed = "failed",
        Unavailable = "unavailable",
        Refused = "refused",
        Unknown = "unknown",
        Expired = "expired",
        Cancelled = "cancelled",
    }
);
words!(
    /// What can happen to an order.
    Event {
        Leased = "leased",
        /// The lease ended before `Begin`: back to the queue, the next lease raises the fence.
        LeaseLapsed = "lease_lapsed",
        Begun = "begun",
        RebootAwaited = "reboot_awaited",
        Resumed = "resumed",
        ResetStarted = "reset_started",
        Succeeded = "succeeded",
        Failed = "failed",
        FoundUnavailable = "found_unavailable",
        Refused = "refused",
        BecameUnknown = "became_unknown",
        Expired = "expired",
        Cancelled = "cancelled",
    }
);

/// An event that has no meaning in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an order that is {from} cannot take {event}")]
pub struct IllegalTransition {
    pub from: State,
    pub event: Event,
}

impl State {
    /// Whether it may hold the device: at most one such order a device (the store's unique partial index).
    #[must_use]
    pub const fn is_active(self) -> bool {
        !self.is_final()
    }

    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Leased | Self::Running | Self::AwaitingReboot | Self::AwaitingReturn => false,
            Self::Succeeded
            | Self::Failed
            | Self::Unavailable
            | Self::Refused
            | Self::Unknown
            | Self::Expired
            | Self::Cancelled => true,
        }
    }
}

/// The table.
///
/// # Errors
/// [`IllegalTransition`] where the event has no meaning.
pub fn next(_state: State, _event: Event) -> Result<State, IllegalTransition> {
    unimplemented!()
}
