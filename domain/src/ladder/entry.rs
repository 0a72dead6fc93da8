//! Rules 1, 2 and 4: where a code enters, how high it climbs, and which tier comes next.

use fleetmend_proto::{Action, HResult, Tier, UpdateKind};

use super::{
    Decision, Next,
    permission::{self, permission},
    reboot, reset,
    view::{View, later},
    wording,
};
use crate::{
    catalogue::{EntryPoint, UNKNOWN_ENTRY, UNKNOWN_MAX},
    rules,
};

/// ERROR_NO_MORE_ITEMS: the offered driver is no better than the installed one.
const NO_MORE_ITEMS: HResult = HResult(0x8007_0103);

/// What a code asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Benign,
    /// Benign, and it keeps coming back.
    Hide,
    People,
    Climb {
        entry: Tier,
        max: Tier,
    },
}

/// The row's word, and for 0x80070103 that of rule 2.
pub(super) fn route(view: &View<'_>) -> Route {
    if view.case.code == NO_MORE_ITEMS {
        let harmless = view.case.update.kind == UpdateKind::Driver && !view.case.device.reboot_pending;
        if !harmless {
            return Route::Climb { entry: UNKNOWN_ENTRY, max: UNKNOWN_MAX };
        }
        let seen = view.case.failures.saturating_add(view.case.benign_before);
        let comes_back = seen >= view.policy.hide_after && !hiding_was_tried(view);
        return if comes_back { Route::Hide } else { Route::Benign };
    }
    match view.row.entry {
        EntryPoint::Benign => Route::Benign,
        EntryPoint::People => Route::People,
        EntryPoint::Tier(entry) => Route::Climb { entry, max: view.row.highest().unwrap_or(entry) },
    }
}

fn hiding_was_tried(view: &View<'_>) -> bool {
    view.case.attempts.iter().any(|attempt| {
        attempt.action == Action::HideUpdate
            && (attempt.state.has_begun() || attempt.state == crate::order::State::Unavailable)
    })
}

/// The end of an incident that no order can help: harmless (once a restart that the code asks for was made), or for
/// people.
pub(super) fn end_at_once(view: &View<'_>, route: Route) -> Option<Decision> {
    match route {
        Route::Benign if reboot::is_asked_for(view) => None,
        Route::Benign => Some(benign(view)),
        Route::People => {
            let reason = format!(
                "{} is nothing that a repair by itself can cure, so people get it. {}",
                view.code_name(),
                view.row.advice
            );
            Some(Decision::new(rules::R1_PEOPLE, Next::Exhaust, reason))
        }
        Route::Hide | Route::Climb { .. } => None,
    }
}

/// Ends it as harmless.
pub(super) fn benign(view: &View<'_>) -> Decision {
    let (rule, why) = if hiding_was_tried(view) {
        (rules::R2_HIDDEN, "is harmless, and hiding its offer was tried")
    } else if view.case.code == NO_MORE_ITEMS {
        (rules::R2_BENIGN_DRIVER, "is harmless on a driver when no restart is pending")
    } else {
        (rules::R2_BENIGN, "is harmless")
    };
    Decision::new(rule, Next::EndBenign, format!("{} {why}. {}", view.code_name(), view.row.advice))
}

/// The next order of a route, or why there is none.
pub(super) fn follow(view: &View<'_>, route: Route) -> Decision {
    match route {
        Route::Benign | Route::People => end_at_once(view, route).unwrap_or_else(|| benign(view)),
        Route::Hide => {
            let seen =
                usize::try_from(view.case.failures.saturating_add(view.case.benign_before)).unwrap_or(usize::MAX);
            let reason = format!(
                "This harmless driver offer has failed {}, so it is hidden; showing it again takes it back.",
                wording::times(seen)
            );
            Decision::new(rules::R2_HIDE_OFFER, Next::Order { action: Action::HideUpdate }, reason)
        }
        Route::Climb { entry, max } => climb(view, entry, max),
    }
}

/// The next tier between entry and ceiling that is left, never below what was ordered before.
fn climb(view: &View<'_>, entry: Tier, max: Tier) -> Decision {
    let start = view.floor().map_or(entry, |floor| floor.max(entry));
    if start > max {
        return above_ceiling(view, start, max);
    }
    let mut skipped = Vec::new();
    for tier in Tier::ALL.into_iter().filter(|tier| (start..=max).contains(tier)) {
        if permission(&view.case.device).highest().is_some_and(|highest| tier > highest) {
            return capped(view, tier);
        }
        if view.tried(tier) >= view.allowed(tier) {
            continue;
        }
        if tier == Tier::ResetPc {
            return reset::decide(view);
        }
        if let (false, Some(action)) = (view.is_unavailable(tier), action_of(view, tier)) {
            return reboot::before_climbing(view, tier).unwrap_or_else(|| place(view, tier, action, entry, &skipped));
        }
        skipped.push(tier);
    }
    exhausted(view, max)
}

/// What a tier orders on this device; `None` where it lacks what the tier needs.
pub(super) fn action_of(view: &View<'_>, tier: Tier) -> Option<Action> {
    match tier {
        Tier::Retry => Some(Action::Retry),
        Tier::Troubleshoot => Some(Action::Troubleshoot),
        Tier::RepairImage => Some(Action::RepairImage),
        Tier::ResetComponents => Some(Action::ResetComponents),
        Tier::InstallManually => view.case.device.package.map(|package| Action::InstallManually { package }),
        // Never by an order of the ladder's own: `reset` hands it to people or asks for signatures.
        Tier::ResetPc => None,
    }
}

/// Orders a tier, or waits for its cool-down.
fn place(view: &View<'_>, tier: Tier, action: Action, entry: Tier, skipped: &[Tier]) -> Decision {
    if let Some(wait) = cooling(view, tier) {
        return wait;
    }
    let code = view.code_name();
    let fresh = view.floor().is_none_or(|floor| floor < entry) && tier == entry;
    let (rule, reason) = if view.tried(tier) > 0 {
        let (made, allowed) = (view.tried(tier), view.allowed(tier));
        let made = wording::times(made);
        (rules::R3_AGAIN, format!("Tier {tier} was tried {made} of at most {allowed} and its wait is over."))
    } else if view.of_tier(tier).next().is_some() {
        (rules::R4_NOT_TRIED, format!("The last order of tier {tier} was never carried out, so it is placed again."))
    } else if fresh && view.case.code == NO_MORE_ITEMS {
        let kind = view.case.update.kind;
        let pending = if view.case.device.reboot_pending { " with a restart still pending" } else { "" };
        let why = format!("{code} on an update of kind {kind}{pending} is treated like an unknown failure");
        (rules::R2_NOT_A_DRIVER, format!("{why} and enters at tier {tier}."))
    } else if fresh && !view.known {
        (rules::R1_UNKNOWN_CODE, format!("The catalogue does not know {code}, so it enters at tier {tier}."))
    } else if fresh {
        let category = view.row.category;
        (rules::R1_ENTRY, format!("{code} is of category {category} and enters the ladder at tier {tier}."))
    } else if skipped.is_empty() {
        (
            rules::R4_NEXT_TIER,
            format!("The update still fails with {code} after the tier before, so tier {tier} comes."),
        )
    } else {
        let skipped = wording::tiers(skipped);
        (rules::R4_SKIPPED, format!("On this device {skipped} cannot be had, so tier {tier} comes instead."))
    };
    Decision::new(rule, Next::Order { action }, reason)
}

/// The wait before an order of a tier, unless a person is in a hurry.
pub(super) fn cooling(view: &View<'_>, tier: Tier) -> Option<Decision> {
    let until = view.wait_end(tier).filter(|_| !view.is_hurried())?;
    let (rule, what) =
        if view.backs_off(tier) { (rules::R3_BACKOFF, "the backoff") } else { (rules::R3_COOLDOWN, "the cool-down") };
    let reason = format!("Tier {tier} comes next; {what} after the last order ends at {}.", wording::moment(until));
    Some(Decision::new(rule, Next::Wait { until }, reason))
}

/// The newest code makes no sense of the tiers reached. A cause outside the device gets a day to pass.
fn above_ceiling(view: &View<'_>, reached: Tier, max: Tier) -> Decision {
    let code = view.code_name();
    let since = view.last_begun().and_then(|attempt| attempt.ended_at).unwrap_or(view.case.last_failed_at);
    let until = later(since, view.policy.cooldown_heavy);
    if view.row.category.is_outside_the_device() && until > view.now {
        let reason = format!(
            "After tier {reached} the update fails with {code}, whose cause lies outside the device: it has until {} to \
             pass.",
            wording::moment(until)
        );
        return Decision::new(rules::R2_WAIT_OUT, Next::Wait { until }, reason);
    }
    let reason = format!(
        "{code} makes no sense above tier {max}, and this incident has reached tier {reached}, so people get it. {}",
        view.row.advice
    );
    Decision::new(rules::R3_CEILING, Next::Exhaust, reason)
}

fn capped(view: &View<'_>, tier: Tier) -> Decision {
    let because = permission::because(&view.case.device);
    let reason = format!("Tier {tier} would come next, but this device may not get it: {because}. People get it.");
    Decision::new(rules::R10_CAPPED, Next::Exhaust, reason)
}

fn exhausted(view: &View<'_>, max: Tier) -> Decision {
    let code = view.code_name();
    let advice = &view.row.advice;
    if view.row.category.is_outside_the_device() {
        let tried = wording::times(view.tried(Tier::Retry));
        let reason = format!("{code} does not come from the device, and retrying {tried} did not help. {advice}");
        return Decision::new(rules::R2_PEOPLE_AFTER_RETRIES, Next::Exhaust, reason);
    }
    let tried: Vec<_> = Tier::ALL.into_iter().filter(|tier| view.tried(*tier) > 0).collect();
    let reason = format!(
        "{code} still fails after {}, and nothing above tier {max} makes sense for it by itself. {advice}",
        wording::tiers(&tried)
    );
    Decision::new(rules::R3_CLIMBED, Next::Exhaust, reason)
}
