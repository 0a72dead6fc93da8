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

words!(
    /// The loop that must move a waiting order on.
    Owner { Dispatch = "dispatch", Expire = "expire" }
);
words!(
    /// What ends the wait of an order when nothing else does.
    Deadline {
        /// `Policy::order_expiry` after it was placed.
        Expiry = "expiry",
        /// The end of its lease (link time).
        Lease = "lease",
        /// `Policy::run_deadline` after it began.
        Run = "run",
        /// 24 hours after the reset began: the device is lost.
        Return = "return",
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

    /// Whether the device has begun to act on it, so that it may have changed something.
    #[must_use]
    pub const fn has_begun(self) -> bool {
        match self {
            Self::Running
            | Self::AwaitingReboot
            | Self::AwaitingReturn
            | Self::Succeeded
            | Self::Failed
            | Self::Unknown => true,
            Self::Queued | Self::Leased | Self::Unavailable | Self::Refused | Self::Expired | Self::Cancelled => false,
        }
    }

    /// The loop that must move it on; `None` = ended.
    #[must_use]
    pub const fn owner(self) -> Option<Owner> {
        match self {
            Self::Queued => Some(Owner::Dispatch),
            Self::Leased | Self::Running | Self::AwaitingReboot | Self::AwaitingReturn => Some(Owner::Expire),
            Self::Succeeded
            | Self::Failed
            | Self::Unavailable
            | Self::Refused
            | Self::Unknown
            | Self::Expired
            | Self::Cancelled => None,
        }
    }

    /// What ends its wait when nothing else does; `None` = ended.
    #[must_use]
    pub const fn deadline(self) -> Option<Deadline> {
        match self {
            Self::Queued => Some(Deadline::Expiry),
            Self::Leased => Some(Deadline::Lease),
            Self::Running | Self::AwaitingReboot => Some(Deadline::Run),
            Self::AwaitingReturn => Some(Deadline::Return),
            Self::Succeeded
            | Self::Failed
            | Self::Unavailable
            | Self::Refused
            | Self::Unknown
            | Self::Expired
            | Self::Cancelled => None,
        }
    }
}

/// The table.
///
/// # Errors
/// [`IllegalTransition`] where the event has no meaning.
pub fn next(state: State, event: Event) -> Result<State, IllegalTransition> {
    let to = match state {
        State::Queued => from_queued(event),
        State::Leased => from_leased(event),
        State::Running => from_running(event),
        State::AwaitingReboot => from_awaiting_reboot(event),
        State::AwaitingReturn => from_awaiting_return(event),
        // Ended: what arrives later is kept as evidence and changes nothing.
        State::Succeeded
        | State::Failed
        | State::Unavailable
        | State::Refused
        | State::Unknown
        | State::Expired
        | State::Cancelled => None,
    };
    to.ok_or(IllegalTransition { from: state, event })
}

const fn from_queued(event: Event) -> Option<State> {
    match event {
        Event::Leased => Some(State::Leased),
        Event::Expired => Some(State::Expired),
        Event::Cancelled => Some(State::Cancelled),
        Event::LeaseLapsed
        | Event::Begun
        | Event::RebootAwaited
        | Event::Resumed
        | Event::ResetStarted
        | Event::Succeeded
        | Event::Failed
        | Event::FoundUnavailable
        | Event::Refused
        | Event::BecameUnknown => None,
    }
}

/// Nothing has been done on the device yet, so nothing can have succeeded, failed or become unknown.
const fn from_leased(event: Event) -> Option<State> {
    match event {
        Event::LeaseLapsed => Some(State::Queued),
        Event::Begun => Some(State::Running),
        Event::FoundUnavailable => Some(State::Unavailable),
        Event::Refused => Some(State::Refused),
        Event::Expired => Some(State::Expired),
        Event::Cancelled => Some(State::Cancelled),
        Event::Leased
        | Event::RebootAwaited
        | Event::Resumed
        | Event::ResetStarted
        | Event::Succeeded
        | Event::Failed
        | Event::BecameUnknown => None,
    }
}

/// `begun` and `resumed` are said again by an agent that missed the answer or was restarted.
/// A begun order does not expire: past its run deadline its outcome is unknown.
const fn from_running(event: Event) -> Option<State> {
    match event {
        Event::Begun | Event::Resumed => Some(State::Running),
        Event::RebootAwaited => Some(State::AwaitingReboot),
        Event::ResetStarted => Some(State::AwaitingReturn),
        Event::Succeeded => Some(State::Succeeded),
        Event::Failed => Some(State::Failed),
        Event::FoundUnavailable => Some(State::Unavailable),
        Event::Refused => Some(State::Refused),
        Event::BecameUnknown => Some(State::Unknown),
        Event::Cancelled => Some(State::Cancelled),
        Event::Leased | Event::LeaseLapsed | Event::Expired => None,
    }
}

const fn from_awaiting_reboot(event: Event) -> Option<State> {
    match event {
        Event::RebootAwaited => Some(State::AwaitingReboot),
        Event::Resumed => Some(State::Running),
        Event::Succeeded => Some(State::Succeeded),
        Event::Failed => Some(State::Failed),
        Event::BecameUnknown => Some(State::Unknown),
        Event::Cancelled => Some(State::Cancelled),
        Event::Leased
        | Event::LeaseLapsed
        | Event::Begun
        | Event::ResetStarted
        | Event::FoundUnavailable
        | Event::Refused
        | Event::Expired => None,
    }
}

/// The agent is gone. `resumed`: the same installation answers again, the reset did not take place.
const fn from_awaiting_return(event: Event) -> Option<State> {
    match event {
        Event::ResetStarted => Some(State::AwaitingReturn),
        Event::Resumed => Some(State::Running),
        Event::Succeeded => Some(State::Succeeded),
        Event::Failed => Some(State::Failed),
        Event::BecameUnknown => Some(State::Unknown),
        Event::Leased
        | Event::LeaseLapsed
        | Event::Begun
        | Event::RebootAwaited
        | Event::FoundUnavailable
        | Event::Refused
        | Event::Expired
        | Event::Cancelled => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_waiting_state_has_an_owner_a_deadline_and_a_way_out() {
        for state in State::ALL.iter().copied() {
            assert_eq!(state.owner().is_some(), state.is_active(), "{state}");
            assert_eq!(state.deadline().is_some(), state.is_active(), "{state}");
            let leaves = Event::ALL.iter().any(|event| next(state, *event).is_ok_and(|to| to != state));
            assert_eq!(leaves, state.is_active(), "{state}");
        }
    }

    #[test]
    fn final_states_take_nothing() {
        for state in State::ALL.iter().copied().filter(|state| state.is_final()) {
            for event in Event::ALL.iter().copied() {
                assert_eq!(next(state, event), Err(IllegalTransition { from: state, event }));
            }
        }
    }

    #[test]
    fn nothing_has_an_outcome_before_it_began() {
        for state in [State::Queued, State::Leased] {
            for event in [Event::Succeeded, Event::Failed, Event::BecameUnknown, Event::RebootAwaited] {
                assert!(next(state, event).is_err(), "{state} took {event}");
            }
        }
    }

    #[test]
    fn a_begun_order_becomes_unknown_but_never_expires() {
        for state in [State::Running, State::AwaitingReboot, State::AwaitingReturn] {
            assert!(next(state, Event::Expired).is_err(), "{state}");
            assert_eq!(next(state, Event::BecameUnknown), Ok(State::Unknown), "{state}");
            assert!(state.has_begun());
        }
    }

    #[test]
    fn the_usual_lives() {
        let lives: [(&[Event], State); 5] = [
            (&[Event::Leased, Event::Begun, Event::Succeeded], State::Succeeded),
            (&[Event::Leased, Event::LeaseLapsed, Event::Leased, Event::Begun, Event::Failed], State::Failed),
            (&[Event::Leased, Event::Begun, Event::RebootAwaited, Event::Resumed, Event::Succeeded], State::Succeeded),
            (&[Event::Leased, Event::Begun, Event::ResetStarted, Event::BecameUnknown], State::Unknown),
            (&[Event::Leased, Event::Refused], State::Refused),
        ];
        for (events, end) in lives {
            let reached = events.iter().try_fold(State::Queued, |state, event| next(state, *event));
            assert_eq!(reached, Ok(end), "{events:?}");
        }
    }
}
