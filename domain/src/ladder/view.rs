//! The case as the rules look at it: questions about its history, answered in one place. Decides nothing.

use chrono::{DateTime, Duration, Utc};
use fleetmend_proto::{Action, Tier};

use super::{Attempt, Case, Verdict};
use crate::{catalogue::Entry, order, policy::Policy};

/// A case with the rules and the time it is judged by.
pub(super) struct View<'a> {
    pub case: &'a Case,
    pub policy: &'a Policy,
    /// The row of the newest code, made up for an unknown one.
    pub row: &'a Entry,
    /// Whether the catalogue knows the code.
    pub known: bool,
    pub now: DateTime<Utc>,
}

impl View<'_> {
    /// The newest order, whatever came of it.
    pub fn last(&self) -> Option<&Attempt> {
        self.case.attempts.last()
    }

    /// The newest order that the device began to carry out.
    pub fn last_begun(&self) -> Option<&Attempt> {
        self.case.attempts.iter().rev().find(|attempt| attempt.state.has_begun())
    }

    /// Orders that cost the device something: begun ones, and those it looked into and found unavailable.
    pub fn orders_spent(&self) -> usize {
        let spent = |attempt: &&Attempt| attempt.state.has_begun() || attempt.state == order::State::Unavailable;
        self.case.attempts.iter().filter(spent).count()
    }

    /// How often a tier was carried out.
    pub fn tried(&self, tier: Tier) -> usize {
        self.of_tier(tier).filter(|attempt| attempt.state.has_begun()).count()
    }

    /// How often a tier may be carried out in one incident.
    pub fn allowed(&self, tier: Tier) -> usize {
        let allowed = if tier == Tier::Retry { self.policy.retry_attempts } else { self.policy.max_attempts };
        usize::try_from(allowed).unwrap_or(usize::MAX)
    }

    /// Whether the device cannot do a tier: it said so, or there is no package to install.
    pub fn is_unavailable(&self, tier: Tier) -> bool {
        let no_package = tier == Tier::InstallManually && self.case.device.package.is_none();
        no_package || self.of_tier(tier).any(|attempt| attempt.state == order::State::Unavailable)
    }

    /// The heaviest tier so far: no later order of ours is lighter. One that a person asked for counts once the device
    /// has begun it.
    pub fn floor(&self) -> Option<Tier> {
        let counts = |attempt: &&Attempt| !attempt.manual || attempt.state.has_begun();
        self.case.attempts.iter().filter(counts).filter_map(|attempt| attempt.charged_to).max()
    }

    /// Orders charged to a tier, oldest first.
    pub fn of_tier(&self, tier: Tier) -> impl Iterator<Item = &Attempt> {
        self.case.attempts.iter().filter(move |attempt| attempt.charged_to == Some(tier))
    }

    /// What the proof after an order said; for one that owed a restart, what the proof after that restart said.
    pub fn proof(&self, at: usize) -> Option<Verdict> {
        let verdict = self.case.attempts.get(at)?.verdict?;
        if verdict != Verdict::RebootOwed {
            return Some(verdict);
        }
        let next = (at + 1..self.case.attempts.len())
            .find(|later| self.case.attempts.get(*later).is_some_and(|attempt| attempt.state.has_begun()))?;
        let restart = self.case.attempts.get(next)?;
        if restart.action == Action::Reboot { self.proof(next) } else { None }
    }

    /// When the wait after the last tier ends; `None` = none runs. Only tiers that were carried out have one.
    pub fn wait_end(&self, next: Tier) -> Option<DateTime<Utc>> {
        let last = self.last_charged()?;
        let wait = if self.backs_off(next) { self.backoff() } else { self.cooldown(last.charged_to?) };
        Some(later(last.ended_at.unwrap_or(self.now), wait)).filter(|end| *end > self.now)
    }

    /// Whether the wait before a tier is the backoff between two retries.
    pub fn backs_off(&self, next: Tier) -> bool {
        next == Tier::Retry && self.last_charged().is_some_and(|last| last.charged_to == Some(Tier::Retry))
    }

    fn last_charged(&self) -> Option<&Attempt> {
        self.case.attempts.iter().rev().find(|it| it.state.has_begun() && it.charged_to.is_some())
    }

    /// The cool-down that follows a tier.
    pub fn cooldown(&self, tier: Tier) -> Duration {
        if tier >= Tier::RepairImage { self.policy.cooldown_heavy } else { self.policy.cooldown_light }
    }

    /// The wait before the next retry: the longest one known where the policy names fewer than were made.
    fn backoff(&self) -> Duration {
        let waits = &self.policy.retry_backoff;
        let made = self.tried(Tier::Retry).saturating_sub(1);
        waits.get(made).or(waits.last()).copied().unwrap_or(self.policy.cooldown_light)
    }

    /// Whether a person asked not to wait.
    pub fn is_hurried(&self) -> bool {
        self.case.manual.as_ref().is_some_and(|request| request.now)
    }
}

/// `at + span`, at the end of time where that is later than time can say.
pub(super) fn later(at: DateTime<Utc>, span: Duration) -> DateTime<Utc> {
    at.checked_add_signed(span).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
