//! Rule 9: restarts and tiers 5 and 6 wait for the device's maintenance window. What restarts nothing needs none: whether
//! the PC can do it now is for the agent's guard to say. A handover is words, so it needs none either.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use fleetmend_proto::{Action, Tier};

use super::{
    Attempt, Case, Decision, Next,
    view::{View, later},
    wording,
};
use crate::{
    incident::HoldReason,
    order,
    policy::Policy,
    rules,
    window::{self, Look},
};

/// People are told after this many windows in a row that passed without the order being carried out.
const MISSED: usize = 3;

/// Whether an action may run in a window only.
fn is_bound(action: &Action) -> bool {
    *action == Action::Reboot || action.tier() >= Some(Tier::InstallManually)
}

/// What windows say to the case: unbound where there are none, or a person said `now`.
fn look(case: &Case, policy: &Policy, action: &Action, now: DateTime<Utc>) -> Look {
    let hurried = case.manual.as_ref().is_some_and(|request| request.now);
    if hurried || !is_bound(action) {
        return Look::Unbound;
    }
    window::look(&policy.windows, case.device.utc_offset_minutes, now)
}

/// Until when an order of this action waits for its device: no longer than its window.
#[must_use]
pub fn expires_at(case: &Case, policy: &Policy, action: &Action, now: DateTime<Utc>) -> DateTime<Utc> {
    let expiry = later(now, policy.order_expiry);
    match look(case, policy, action, now) {
        Look::Open { until } => expiry.min(until),
        Look::Unbound | Look::Closed { .. } => expiry,
    }
}

/// Lets an order through when its window is open.
pub(super) fn gate(view: &View<'_>, decision: Decision) -> Decision {
    let Next::Order { action } = &decision.next else { return decision };
    let Look::Closed { opens } = look(view.case, view.policy, action, view.now) else { return decision };
    let what = wording::action(action);
    let local = later(opens, Duration::minutes(view.case.device.utc_offset_minutes.into())).format("%a %H:%M");
    let opens_at = format!("{} ({local} on the device's clock)", wording::moment(opens));
    let missed = missed(view, action);
    if missed < MISSED {
        let reason = format!("What comes next is {what}, which waits for the maintenance window of {opens_at}.");
        return Decision::new(rules::R9_OUTSIDE_WINDOW, Next::Wait { until: opens }, reason);
    }
    let reason = format!(
        "{missed} maintenance windows in a row have passed without {what}: see that the device is switched on and connected \
         in its window, or ask for a remedy with now. The next window is that of {opens_at}."
    );
    let next = Next::Hold { reason: HoldReason::MissedWindows, until: opens };
    Decision::new(rules::R9_MISSED, next, reason)
}

/// Windows in a row in which the ladder's orders of this action were not carried out. Several in one window count once.
fn missed(view: &View<'_>, action: &Action) -> usize {
    let passed = |attempt: &&Attempt| {
        attempt.action.name() == action.name() && matches!(attempt.state, order::State::Expired | order::State::Refused)
    };
    let own = view.case.attempts.iter().rev().filter(|attempt| !attempt.manual).take_while(passed);
    let opening = |at| window::last_opening(&view.policy.windows, view.case.device.utc_offset_minutes, at);
    own.filter_map(|attempt| opening(attempt.ended_at?)).collect::<BTreeSet<_>>().len()
}
