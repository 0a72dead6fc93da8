//! Rule 2: a restart comes before any tier where it is needed, and not again and again for the same reason.

use fleetmend_proto::{Action, Tier};

use super::{Decision, Next, Verdict, entry::Route, view::View};
use crate::{
    catalogue::{Category, EntryPoint},
    order, rules,
};

/// Whether Windows said that the update is installed once restarted, and that restart is still to come. After two in a
/// row a third would change nothing.
pub(super) fn is_owed(view: &View<'_>) -> bool {
    let mut begun = view.case.attempts.iter().rev().filter(|attempt| attempt.state.has_begun());
    let Some(last) = begun.next().filter(|last| last.verdict == Some(Verdict::RebootOwed)) else {
        return false;
    };
    let twice = last.action == Action::Reboot && begun.next().is_some_and(|before| before.action == Action::Reboot);
    !twice && !is_unavailable(view)
}

/// Whether the code asks for a restart that it has not had. A row that enters at tier 3 or above means the restart that
/// ends its repair, not one before it.
pub(super) fn is_asked_for(view: &View<'_>) -> bool {
    let early = match view.row.entry {
        EntryPoint::Benign => true,
        EntryPoint::Tier(tier) => tier < Tier::RepairImage,
        EntryPoint::People => false,
    };
    early && view.row.needs_reboot && !was_tried_for_code(view) && !is_unavailable(view)
}

/// The restart that comes before any tier, if one is due.
pub(super) fn first(view: &View<'_>, route: Route) -> Option<Decision> {
    if is_owed(view) {
        let reason = "Windows has installed the update and finishes it at the next restart.";
        return Some(order_restart(rules::R2_REBOOT_OWED, reason.to_owned()));
    }
    if is_asked_for(view) {
        let reason = format!("{} says that a restart is needed before anything else can help.", view.code_name());
        return Some(order_restart(rules::R2_REBOOT_NEEDED, reason));
    }
    let just_restarted = view.last_begun().is_some_and(|last| last.action == Action::Reboot);
    if !view.case.device.reboot_pending || just_restarted || is_unavailable(view) {
        return None;
    }
    match route {
        Route::Climb { .. } if view.row.entry == EntryPoint::Benign => {
            let reason = "The driver may be in use: the restart that is pending comes before anything else.";
            Some(order_restart(rules::R2_DRIVER_IN_USE, reason.to_owned()))
        }
        Route::Climb { .. } => {
            let reason = "The device has a restart pending, which comes before any tier.";
            Some(order_restart(rules::R2_REBOOT_PENDING, reason.to_owned()))
        }
        Route::Benign | Route::Hide | Route::People => None,
    }
}

/// The restart that frees what stayed in use through all retries, before a heavier tier is tried.
pub(super) fn before_climbing(view: &View<'_>, next: Tier) -> Option<Decision> {
    let in_use = view.row.category == Category::InUseRebootPending && next > Tier::Retry;
    let restarted = view.case.attempts.iter().any(|it| it.action == Action::Reboot && it.state.has_begun());
    if !in_use || restarted || is_unavailable(view) {
        return None;
    }
    let reason = format!("{} stayed through all retries: a restart frees what is in use.", view.code_name());
    Some(order_restart(rules::R2_REBOOT_FREES, reason))
}

/// Whether a restart was made and the update failed on with the same code.
fn was_tried_for_code(view: &View<'_>) -> bool {
    view.case.attempts.iter().filter(|it| it.action == Action::Reboot && it.state.has_begun()).any(|restart| {
        match restart.verdict {
            Some(Verdict::StillFailing { code }) => code == view.case.code,
            Some(Verdict::DeadlinePassed | Verdict::RebootOwed | Verdict::Installed) | None => true,
        }
    })
}

/// Whether the device said that it cannot be restarted by an order.
fn is_unavailable(view: &View<'_>) -> bool {
    view.case.attempts.iter().any(|it| it.action == Action::Reboot && it.state == order::State::Unavailable)
}

fn order_restart(rule: rules::Rule, reason: String) -> Decision {
    Decision::new(rule, Next::Order { action: Action::Reboot }, reason)
}
