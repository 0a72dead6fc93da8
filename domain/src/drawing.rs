//! The two state tables as lists of edges and as mermaid text: what `ARCHITECTURE.md` shows and a test compares.
//! Read by that test and by documentation; decides nothing.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use fleetmend_proto::Tier;

use crate::{
    incident::{self, HoldReason},
    order,
};

/// One legal step, by names: from, event, to.
pub type Edge = (String, String, String);

/// Every legal step of an incident.
#[must_use]
pub fn incident_edges() -> BTreeSet<Edge> {
    let mut edges = BTreeSet::new();
    for from in incident_states() {
        for event in incident_events() {
            if let Ok(to) = incident::next(&from, &event, DateTime::UNIX_EPOCH) {
                edges.insert((from.name().to_string(), event.name().to_string(), to.name().to_string()));
            }
        }
    }
    edges
}

/// Every legal step of an order.
#[must_use]
pub fn order_edges() -> BTreeSet<Edge> {
    let mut edges = BTreeSet::new();
    for from in order::State::ALL {
        for event in order::Event::ALL {
            if let Ok(to) = order::next(*from, *event) {
                edges.insert((from.to_string(), event.to_string(), to.to_string()));
            }
        }
    }
    edges
}

/// The drawing of a table: a mermaid state diagram, the events of one arrow side by side. `ends` get the end mark.
#[must_use]
pub fn mermaid(start: &str, edges: &BTreeSet<Edge>, ends: &[&str]) -> String {
    let mut arrows: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (from, event, to) in edges {
        arrows.entry((from, to)).or_default().push(event);
    }
    let mut text = format!("stateDiagram-v2\n    [*] --> {start}\n");
    for ((from, to), events) in arrows {
        text.push_str(&format!("    {from} --> {to}: {}\n", events.join(", ")));
    }
    for end in ends {
        text.push_str(&format!("    {end} --> [*]\n"));
    }
    text
}

/// Every state of an incident, with each value its data can take (one name for people).
#[must_use]
pub fn incident_states() -> Vec<incident::State> {
    use incident::State;
    let mut states = vec![State::Open, State::Scheduled, State::Exhausted, State::HandedOver, State::AwaitingApproval];
    states.extend(HoldReason::ALL.iter().map(|reason| State::Held { reason: *reason }));
    for tier in tiers() {
        states.extend([State::Remediating { tier }, State::Verifying { tier }]);
    }
    states.extend([State::Resolved, State::Benign, State::Dismissed { by: "kim".to_owned() }]);
    states
}

/// Every event of an incident, with each value its data can take.
#[must_use]
pub fn incident_events() -> Vec<incident::Event> {
    use incident::Event;
    let mut events = vec![
        Event::FailedAgain,
        Event::Installed,
        Event::Released,
        Event::Scheduled,
        Event::OrderFinished,
        Event::OrderLapsed,
        Event::StillFailing,
        Event::RebootOwed,
        Event::FoundBenign,
        Event::LadderExhausted,
        Event::HandedOver,
        Event::ApprovalWanted,
        Event::Returned,
        Event::Dismissed { by: "kim".to_owned() },
        Event::ManualRequested,
    ];
    events.extend(HoldReason::ALL.iter().map(|reason| Event::Held(*reason)));
    events.extend(tiers().map(|tier| Event::OrderPlaced { tier }));
    events
}

fn tiers() -> impl Iterator<Item = Option<Tier>> {
    Tier::ALL.into_iter().map(Some).chain([None])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_cover_every_name() {
        let states: BTreeSet<_> = incident_states().iter().map(incident::State::name).collect();
        assert_eq!(states.len(), incident::StateName::ALL.len());
        let events: BTreeSet<_> = incident_events().iter().map(incident::Event::name).collect();
        assert_eq!(events.len(), incident::EventName::ALL.len());
    }

    #[test]
    fn events_of_one_arrow_stand_side_by_side() {
        let edge = |from: &str, event: &str, to: &str| (from.to_owned(), event.to_owned(), to.to_owned());
        let edges = BTreeSet::from([edge("a", "x", "b"), edge("a", "y", "b"), edge("b", "z", "c")]);
        let text = mermaid("a", &edges, &["c"]);
        assert_eq!(text, "stateDiagram-v2\n    [*] --> a\n    a --> b: x, y\n    b --> c: z\n    c --> [*]\n");
    }
}
