//! Rules 3, 4 and 10, and the standing of the device: what keeps an order from being placed now, or at all.

use chrono::Duration;
use fleetmend_proto::{Action, Tier, order::Refusal};

use super::{
    Attempt, Decision, Next, Permission, entry, permission,
    view::{View, later},
    wording,
};
use crate::{
    incident::{self, HoldReason},
    order,
    policy::Posture,
    rules,
};

/// How long a hold waits before the case is looked at again, unless something happens first.
const LOOK_AGAIN: Duration = Duration::hours(24);
/// First wait after a refusal that passes by itself (busy, on battery, not enough room yet); doubled at each one in a
/// row up to [`LOOK_AGAIN`].
const REFUSAL_WAIT: Duration = Duration::hours(1);

/// Rule 4: something else has it, or its proof is not in. A person's request does not wait for a late proof.
pub(super) fn in_hand(view: &View<'_>) -> Option<Decision> {
    let decidable = match &view.case.state {
        incident::State::Open | incident::State::Held { .. } | incident::State::Scheduled => true,
        incident::State::Exhausted | incident::State::HandedOver | incident::State::AwaitingApproval => {
            view.case.manual.is_some()
        }
        incident::State::Remediating { .. }
        | incident::State::Verifying { .. }
        | incident::State::Resolved
        | incident::State::Benign
        | incident::State::Dismissed { .. } => false,
    };
    if !decidable || view.case.attempts.iter().any(|attempt| attempt.state.is_active()) {
        let until = later(view.now, view.policy.verify_deadline.max(Duration::minutes(1)));
        let reason =
            format!("The incident is {}, or an order of it is out: nothing to decide.", view.case.state.name());
        return Some(Decision::new(rules::R4_IN_HAND, Next::Wait { until }, reason));
    }
    let last = view.last().filter(|_| view.case.manual.is_none())?;
    let wants_proof = last.state.has_begun() && last.verdict.is_none() && last.action != Action::HideUpdate;
    let until = later(last.ended_at.unwrap_or(view.now), view.policy.verify_deadline);
    if !wants_proof || until <= view.now {
        return None;
    }
    let reason =
        format!("The last order ended as {}, and whether the update is installed now is not known yet.", last.state);
    Some(Decision::new(rules::R4_UNVERIFIED, Next::Wait { until }, reason))
}

/// Rule 3: how long an incident lives.
pub(super) fn deadline(view: &View<'_>) -> Option<Decision> {
    let end = later(view.case.opened_at, view.policy.incident_deadline);
    (view.now >= end).then(|| {
        let reason = format!(
            "The incident has been open for {}, which is as long as the policy allows, so people get it. {}",
            wording::span(view.policy.incident_deadline),
            view.row.advice
        );
        Decision::new(rules::R3_DEADLINE, Next::Exhaust, reason)
    })
}

/// Rule 10 where it permits nothing.
pub(super) fn not_permitted(view: &View<'_>) -> Option<Decision> {
    let (rule, reason) = nothing_permitted(view)?;
    Some(hold(view, rule, HoldReason::NotPermitted, reason.to_owned()))
}

/// The rule by which the device gets nothing at all, and why.
pub(super) fn nothing_permitted(view: &View<'_>) -> Option<(rules::Rule, &'static str)> {
    match permission(&view.case.device) {
        Permission::UpTo(_) => None,
        Permission::ReportOnly => {
            Some((rules::R10_REPORT_ONLY, "A third party manages this device's updates, so it is only reported on."))
        }
        Permission::SetupFirst => {
            Some((rules::R10_OOBE, "The device is still being set up, so nothing is ordered yet."))
        }
    }
}

/// Rule 4: after a refusal or a cancelled order the device is left alone for a while.
pub(super) fn pause(view: &View<'_>) -> Option<Decision> {
    let last = view.last()?;
    let ended = last.ended_at.unwrap_or(view.now);
    if last.state == order::State::Refused {
        let until = later(ended, refusal_wait(view, last));
        let why = last.refusal.map_or_else(String::new, |refusal| format!(" ({refusal})"));
        let reason = format!(
            "The device refused {}{why}; it is asked again after {}.",
            wording::action(&last.action),
            wording::moment(until)
        );
        let next = Next::Hold { reason: HoldReason::Refused, until };
        return (until > view.now).then(|| Decision::new(rules::R4_REFUSED, next, reason));
    }
    let until = later(ended, view.policy.cooldown_light);
    (last.state == order::State::Cancelled && until > view.now).then(|| {
        let reason = format!("The last order was cancelled, so nothing is ordered before {}.", wording::moment(until));
        Decision::new(rules::R4_CANCELLED, Next::Wait { until }, reason)
    })
}

/// Refusals that pass by themselves are asked again soon, less and less often; all others after a day.
fn refusal_wait(view: &View<'_>, last: &Attempt) -> Duration {
    let passes = match last.refusal {
        Some(
            Refusal::Busy
            | Refusal::Precondition
            | Refusal::StaleFence
            | Refusal::Expired
            | Refusal::NotYetValid
            | Refusal::NoLease,
        ) => true,
        Some(
            Refusal::Malformed
            | Refusal::BadSignature
            | Refusal::WrongFleet
            | Refusal::WrongDevice
            | Refusal::AboveMaxTier
            | Refusal::ResetNotSigned
            | Refusal::Halted
            | Refusal::UnknownAction
            | Refusal::SafeMode,
        )
        | None => false,
    };
    if !passes {
        return LOOK_AGAIN;
    }
    let in_a_row = view.case.attempts.iter().rev().take_while(|it| it.state == order::State::Refused).count();
    let doublings = u32::try_from(in_a_row.saturating_sub(1)).unwrap_or(u32::MAX);
    let wait = 2_i32.checked_pow(doublings).and_then(|factor| REFUSAL_WAIT.checked_mul(factor));
    wait.map_or(LOOK_AGAIN, |wait| wait.min(LOOK_AGAIN))
}

/// What an order of the ladder's own must still pass: the cost of the incident, quarantine, and the posture.
pub(super) fn gate(view: &View<'_>, decision: Decision) -> Decision {
    let action = match &decision.next {
        Next::Order { action } => Some(action),
        Next::HandOver | Next::AwaitApproval => None,
        Next::Wait { .. } | Next::Hold { .. } | Next::Decline | Next::EndBenign | Next::Exhaust => return decision,
    };
    let blocked = action
        .and_then(|_| spent(view))
        .or_else(|| action.and_then(|action| quarantined(view, action)))
        .or_else(|| observed(view, action, &decision.reason));
    match blocked {
        // What cannot be hidden is harmless all the same.
        Some(_) if action == Some(&Action::HideUpdate) => entry::benign(view),
        Some(blocked) => blocked,
        None => decision,
    }
}

fn spent(view: &View<'_>) -> Option<Decision> {
    let max = usize::try_from(view.policy.max_orders).unwrap_or(usize::MAX);
    (view.orders_spent() >= max).then(|| {
        let reason = format!(
            "The incident has cost {} orders, which is as many as the policy allows, so people get it. {}",
            view.orders_spent(),
            view.row.advice
        );
        Decision::new(rules::R3_MAX_ORDERS, Next::Exhaust, reason)
    })
}

/// Quarantine lets only what changes nothing lasting through.
pub(super) fn is_quarantined_from(view: &View<'_>, action: &Action) -> bool {
    view.case.device.quarantined && action.tier().is_none_or(|tier| tier > Tier::Troubleshoot)
}

fn quarantined(view: &View<'_>, action: &Action) -> Option<Decision> {
    is_quarantined_from(view, action).then(|| {
        let what = wording::action(action);
        let reason = format!("The device is quarantined until it is approved; what waits for that is {what}.");
        hold(view, rules::R0_QUARANTINED, HoldReason::Quarantined, reason)
    })
}

fn observed(view: &View<'_>, action: Option<&Action>, why: &str) -> Option<Decision> {
    let orders = match view.policy.posture {
        Posture::Observe => false,
        Posture::Recommended | Posture::Full => true,
    };
    if orders {
        return None;
    }
    let what =
        action.map_or_else(|| "ask people for a reset".to_owned(), |it| format!("order {}", wording::action(it)));
    let reason = format!("The posture observe orders nothing by itself. Another posture would {what}: {why}");
    Some(hold(view, rules::R0_OBSERVE, HoldReason::Observing, reason))
}

/// Holds a case until tomorrow, or until something happens.
pub(super) fn hold(view: &View<'_>, rule: rules::Rule, why: HoldReason, reason: String) -> Decision {
    Decision::new(rule, Next::Hold { reason: why, until: later(view.now, LOOK_AGAIN) }, reason)
}

/// No wait outlives the incident: its deadline is looked at when it comes.
pub(super) fn within_deadline(view: &View<'_>, mut decision: Decision) -> Decision {
    let end = later(view.case.opened_at, view.policy.incident_deadline);
    match &mut decision.next {
        Next::Wait { until } | Next::Hold { until, .. } if end > view.now => *until = (*until).min(end),
        Next::Wait { .. }
        | Next::Hold { .. }
        | Next::Decline
        | Next::Order { .. }
        | Next::EndBenign
        | Next::Exhaust
        | Next::HandOver
        | Next::AwaitApproval => {}
    }
    decision
}
