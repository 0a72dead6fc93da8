//! The table as a whole: what may never be missing, whatever rows are added.

use super::*;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).expect("a time in range")
}

fn states() -> Vec<State> {
    crate::drawing::incident_states()
}

fn events() -> Vec<Event> {
    crate::drawing::incident_events()
}

#[test]
fn success_from_anywhere_closes_what_has_not_ended() {
    for state in states() {
        let closed = next(&state, &Event::Installed, now());
        if state.is_ended() {
            assert!(closed.is_err(), "{state:?} has ended and may not be closed again");
        } else {
            assert_eq!(closed, Ok(State::Resolved), "{state:?}");
        }
    }
}

#[test]
fn a_person_may_dismiss_what_has_not_ended() {
    let event = Event::Dismissed { by: "kim".to_owned() };
    for state in states().into_iter().filter(|state| !state.is_ended()) {
        assert_eq!(next(&state, &event, now()), Ok(State::Dismissed { by: "kim".to_owned() }), "{state:?}");
    }
}

#[test]
fn ended_states_take_nothing() {
    for state in states().into_iter().filter(State::is_ended) {
        for event in events() {
            let refused = next(&state, &event, now()).expect_err("an ended state took an event");
            assert_eq!(refused.from, state.name());
            assert!(refused.to_string().contains(event.name().word()), "{refused}");
        }
    }
}

#[test]
fn every_waiting_state_has_an_owner_a_deadline_and_a_way_out() {
    for state in states() {
        assert_eq!(state.owner().is_some(), state.deadline().is_some(), "{state:?}");
        let ways: Vec<_> = events().iter().filter_map(|event| next(&state, event, now()).ok()).collect();
        assert_eq!(ways.iter().any(|to| to.name() != state.name()), state.owner().is_some(), "{state:?}");
    }
}

#[test]
fn a_failure_never_moves_a_state_and_only_waits_are_released() {
    for state in states().into_iter().filter(|state| !state.is_ended()) {
        assert_eq!(next(&state, &Event::FailedAgain, now()), Ok(state.clone()));
        let released = matches!(state, State::Held { .. } | State::Scheduled);
        assert_eq!(next(&state, &Event::Released, now()).is_ok(), released, "{state:?}");
    }
}

#[test]
fn an_order_leaves_approval_only_for_the_reset() {
    for tier in Tier::ALL {
        let placed = next(&State::AwaitingApproval, &Event::OrderPlaced { tier: Some(tier) }, now());
        assert_eq!(placed.is_ok(), tier == Tier::ResetPc, "{tier}");
    }
    assert!(next(&State::AwaitingApproval, &Event::OrderPlaced { tier: None }, now()).is_err());
}

#[test]
fn the_tier_travels_from_order_to_verification() {
    for tier in Tier::ALL.into_iter().map(Some).chain([None]) {
        let placed = next(&State::Open, &Event::OrderPlaced { tier }, now()).expect("open takes an order");
        assert_eq!(placed.tier(), tier);
        let done = next(&placed, &Event::OrderFinished, now()).expect("an order may finish");
        assert_eq!(done, State::Verifying { tier });
    }
}

#[test]
fn states_survive_their_columns_and_json() {
    for state in states() {
        let parts = state.parts();
        assert_eq!(State::from_parts(parts.name.word(), parts.tier, parts.reason), Ok(state.clone()));
        let json = serde_json::to_string(&state).expect("a state is JSON");
        assert_eq!(serde_json::from_str::<State>(&json).expect("and back"), state, "{json}");
    }
}

#[test]
fn columns_that_are_no_state_are_refused() {
    let held = StateName::Held;
    assert_eq!(State::from_parts("lost", None, None), Err(BadParts::UnknownState("lost".to_owned())));
    assert_eq!(State::from_parts("held", None, None), Err(BadParts::NoReason { name: held }));
    let bad = BadParts::BadReason { name: held, reason: "because".to_owned() };
    assert_eq!(State::from_parts("held", None, Some("because")), Err(bad));
    assert_eq!(
        State::from_parts("remediating", Some(7), None),
        Err(BadParts::BadTier { name: StateName::Remediating, tier: 7 })
    );
    assert_eq!(State::from_parts("open", Some(3), None), Err(BadParts::BadTier { name: StateName::Open, tier: 3 }));
    assert!(State::from_parts("benign", None, Some("x")).is_err());
}
