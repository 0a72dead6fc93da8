//! The decision: incident, history, device, policy, catalogue and time in; what to do, by which rule and why, out.
//! Pure: the same inputs give the same decision, for ever. Called by the controller's decide loop; the rules are those
//! of the design, one file a theme: `entry` (1, 2, 4), `reboot` (2), `limits` (3, 4, 10), `maintenance` (9), `reset` (11),
//! `manual` (12).

mod entry;
mod limits;
mod maintenance;
mod manual;
mod permission;
mod reboot;
mod reset;
mod view;
mod wording;

use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Action, HResult, IncidentId, PackageHash, Tier, UpdateRef,
    condition::{DeviceRole, ProductType, UpdateAuthority},
    order::Refusal,
};
use serde::{Deserialize, Serialize};

use crate::{
    catalogue::Catalogue,
    incident::{self, HoldReason},
    order,
    policy::Policy,
    rules::Rule,
};

pub use maintenance::expires_at;
pub use permission::{Permission, permission};
use view::View;

/// Everything a decision may look at. Stored with the decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    pub incident: IncidentId,
    pub state: incident::State,
    pub update: UpdateRef,
    /// Newest effective code of the failing update.
    pub code: HResult,
    pub opened_at: DateTime<Utc>,
    /// How often the update failed in this incident.
    pub failures: u32,
    /// Earlier incidents of the same update on this device that ended `Benign`: an offer that keeps coming back.
    #[serde(default)]
    pub benign_before: u32,
    pub last_failed_at: DateTime<Utc>,
    /// Orders of this incident, oldest first.
    pub attempts: Vec<Attempt>,
    pub device: Device,
    /// A person's request that no decision has answered yet (rule 12).
    pub manual: Option<ManualRequest>,
}

/// One order of the incident and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub action: Action,
    pub charged_to: Option<Tier>,
    pub state: order::State,
    pub refusal: Option<Refusal>,
    /// What the verification after it said; `None` = not verified (yet).
    pub verdict: Option<Verdict>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Asked for by a person (rule 12).
    #[serde(default)]
    pub manual: bool,
}

/// What a verification found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Installed,
    StillFailing {
        code: HResult,
    },
    /// Windows says installed once restarted.
    RebootOwed,
    /// Nothing was heard before the deadline; counts as still failing.
    DeadlinePassed,
}

/// What the ladder needs to know of the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub quarantined: bool,
    /// On the exclusion list: never above tier 4.
    pub excluded: bool,
    pub product_type: ProductType,
    pub role: DeviceRole,
    pub authority: UpdateAuthority,
    pub reboot_pending: bool,
    pub utc_offset_minutes: i32,
    /// The vetted package for this update and architecture, if there is one.
    pub package: Option<PackageHash>,
    /// Why none of several packages that fit was taken, for people to mend; then `package` is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_clash: Option<String>,
}

/// `remediate DEVICE [--tier N] [--now]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManualRequest {
    pub tier: Option<Tier>,
    /// Skip cool-downs and windows; never guard, journal or caps of rule 10.
    pub now: bool,
    pub by: String,
}

/// What to do, by which rule, and why in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub next: Next,
    /// `R2.benign_driver` and the like: rule number of the architecture, then a name.
    pub rule: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Next {
    /// Order it now (the store charges it to `action.tier()`).
    Order {
        action: Action,
    },
    /// Look again at this time, or when something happens.
    Wait {
        until: DateTime<Utc>,
    },
    Hold {
        reason: HoldReason,
        until: DateTime<Utc>,
    },
    /// A person's request cannot be met, and `reason` tells them why. The incident stays as it is, and where it is not
    /// with people the ladder goes on by itself.
    Decline,
    EndBenign,
    Exhaust,
    HandOver,
    AwaitApproval,
}

/// Decides. `Case.state` is `Open`, `Held`, `Scheduled` or, with a manual request, one that people have; a case in any
/// other state gets `Wait` with rule `R4.in_hand`. The rule ids are those of [`crate::rules::RULES`].
#[must_use]
pub fn decide(case: &Case, policy: &Policy, catalogue: &Catalogue, now: DateTime<Utc>) -> Decision {
    let row = catalogue.resolve(case.code);
    let view = View { case, policy, row: &row, known: catalogue.get(case.code).is_some(), now };
    let decision = limits::in_hand(&view)
        .or_else(|| manual::decide(&view))
        .unwrap_or_else(|| limits::gate(&view, automatic(&view)));
    limits::within_deadline(&view, maintenance::gate(&view, decision))
}

/// What the rules want, before posture and standing of the device are asked.
fn automatic(view: &View<'_>) -> Decision {
    let route = entry::route(view);
    let owed = reboot::is_owed(view);
    if let Some(end) = entry::end_at_once(view, route).filter(|_| !owed) {
        return end;
    }
    let stopped = limits::deadline(view).or_else(|| limits::not_permitted(view));
    // What cannot be hidden is harmless all the same.
    if stopped.is_some() && route == entry::Route::Hide && !owed {
        return entry::benign(view);
    }
    stopped
        .or_else(|| limits::pause(view))
        .or_else(|| reboot::first(view, route))
        .unwrap_or_else(|| entry::follow(view, route))
}

/// What the incident goes through when a decision on it is carried out, in order; nothing for a declined request. A
/// request that is met takes the incident back from people first.
#[must_use]
pub fn events(case: &Case, next: &Next) -> Vec<incident::Event> {
    let event = match next {
        Next::Order { action } => incident::Event::OrderPlaced { tier: action.tier() },
        Next::Wait { .. } => incident::Event::Scheduled,
        Next::Hold { reason, .. } => incident::Event::Held(*reason),
        Next::Decline => return Vec::new(),
        Next::EndBenign => incident::Event::FoundBenign,
        Next::Exhaust => incident::Event::LadderExhausted,
        Next::HandOver => incident::Event::HandedOver,
        Next::AwaitApproval => incident::Event::ApprovalWanted,
    };
    let taken_back = case.manual.is_some() && case.state.is_with_people();
    taken_back.then_some(incident::Event::ManualRequested).into_iter().chain([event]).collect()
}

/// The tier that fixed an incident: what the latest begun order was charged to, or, for a restart that the order
/// before it owed, that order's tier. `None`: nothing of ours did.
#[must_use]
pub fn fixed_by(attempts: &[Attempt]) -> Option<Tier> {
    let mut begun = attempts.iter().rev().filter(|attempt| attempt.state.has_begun());
    let mut latest = begun.next()?;
    while latest.action == Action::Reboot {
        latest = begun.next().filter(|before| before.verdict == Some(Verdict::RebootOwed))?;
    }
    latest.charged_to
}

impl Decision {
    fn new(rule: Rule, next: Next, reason: impl Into<String>) -> Self {
        Self { next, rule: rule.id.to_owned(), reason: reason.into() }
    }
}

#[cfg(test)]
mod tests;
