//! Rule 12: a person's request. It skips posture, cost and age of the incident, with `now` also waits; never what kind
//! of device it is (rule 10), quarantine, the evidence a reset needs (rule 11), or the agent's own guard.
//!
//! INVARIANT: a request is met, declined, or waits for a time that comes: it never stops the ladder for good.

use fleetmend_proto::{Action, Tier};

use super::{
    Decision, ManualRequest, Next, entry, limits,
    permission::{self, permission},
    reboot, reset,
    view::View,
    wording,
};
use crate::rules::{self, Rule};

/// The answer to an open request; `None` = there is none.
pub(super) fn decide(view: &View<'_>) -> Option<Decision> {
    let request = view.case.manual.as_ref()?;
    let by = &request.by;
    if let Some((rule, why)) = limits::nothing_permitted(view) {
        return Some(decline(rule, format!("{by} asked for a remedy. {why}")));
    }
    if let Some(pause) = limits::pause(view).filter(|_| !request.now) {
        return Some(pause);
    }
    let wanted = request.tier.map_or_else(|| next_remedy(view, request), |tier| asked(view, request, tier));
    match &wanted.next {
        Next::Order { action } if limits::is_quarantined_from(view, action) => {
            let what = wording::action(action);
            let reason = format!("{by} asked for {what}, and the device is quarantined: approve it first.");
            Some(decline(rules::R0_QUARANTINED, reason))
        }
        Next::Order { .. }
        | Next::Wait { .. }
        | Next::Hold { .. }
        | Next::Decline
        | Next::EndBenign
        | Next::Exhaust
        | Next::HandOver
        | Next::AwaitApproval => Some(wanted),
    }
}

fn decline(rule: Rule, reason: String) -> Decision {
    Decision::new(rule, Next::Decline, reason)
}

/// The tier that was asked for.
fn asked(view: &View<'_>, request: &ManualRequest, tier: Tier) -> Decision {
    let by = &request.by;
    if permission(&view.case.device).highest().is_some_and(|highest| tier > highest) {
        let because = permission::because(&view.case.device);
        let reason = format!("{by} asked for tier {tier}, but this device may not get it: {because}.");
        return decline(rules::R12_CAPPED, reason);
    }
    if tier == Tier::ResetPc {
        let lacking = reset::lacking(view);
        if lacking.is_empty() {
            return reset::decide(view);
        }
        let reason = format!("{by} asked for a reset. {}", reset::without_evidence(view, &lacking));
        return decline(rules::R11_NO_EVIDENCE, reason);
    }
    let Some(action) = entry::action_of(view, tier) else {
        let reason = match &view.case.device.package_clash {
            Some(clash) => format!("{by} asked for tier {tier}, and no package can be chosen: {clash}."),
            None => format!("{by} asked for tier {tier}: add the update's package to the package store first."),
        };
        return decline(rules::R12_NO_PACKAGE, reason);
    };
    entry::cooling(view, tier).unwrap_or_else(|| {
        let reason = format!("{by} asked for tier {tier}.");
        Decision::new(rules::R12_ASKED, Next::Order { action }, reason)
    })
}

/// What the ladder would do next; where it has come to its end, one more retry, which costs nothing and gives a fresh
/// proof.
fn next_remedy(view: &View<'_>, request: &ManualRequest) -> Decision {
    let route = entry::route(view);
    let wanted = reboot::first(view, route).unwrap_or_else(|| entry::follow(view, route));
    let by = &request.by;
    match wanted.next {
        Next::Order { action } => {
            let reason = format!("{by} asked for the next remedy. {}", wanted.reason);
            Decision::new(rules::R12_NEXT, Next::Order { action }, reason)
        }
        Next::Exhaust | Next::EndBenign => entry::cooling(view, Tier::Retry).unwrap_or_else(|| {
            let reason = format!("{by} asked for a remedy where none is left, so the update is tried once more.");
            Decision::new(rules::R12_NEXT, Next::Order { action: Action::Retry }, reason)
        }),
        Next::Wait { .. } | Next::Hold { .. } | Next::Decline | Next::HandOver | Next::AwaitApproval => wanted,
    }
}
