//! What an outcome means for the device's incidents: open one, join one, close some, or nothing. Called by the ingest
//! inside the transaction that records the outcome; looks at nothing but its arguments.

use chrono::{DateTime, Utc};
use fleetmend_proto::{HResult, IncidentId, Kb, Operation, Outcome, OutcomeResult, UpdateKind, UpdateRef, words};

use crate::incident;

/// Defender's definitions: they come several times a day and are Defender's own business.
const DEFINITIONS: Kb = Kb(2_267_602);

/// WU_S_UPDATE_ERROR: the call succeeded, but an update inside it failed.
const FAILED_INSIDE: HResult = HResult(0x0024_0003);

/// An incident of the device that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known<'a> {
    pub id: IncidentId,
    pub update: &'a UpdateRef,
    pub state: &'a incident::State,
    /// Newest effective code.
    pub code: HResult,
    pub last_failed_at: DateTime<Utc>,
}

words!(
    /// Why an outcome means nothing for incidents.
    Why {
        /// Antivirus definitions.
        Definition = "definition",
        /// An app of the Store.
        StoreApp = "store_app",
        Uninstall = "uninstall",
        /// A download that ended well proves no installation.
        DownloadDone = "download_done",
        /// A success, or a pending restart, of an update that has no open incident.
        NothingOpen = "nothing_open",
        /// It happened before the newest failure that it would close.
        BeforeFailure = "before_failure",
        /// A failure from before the update was installed.
        BeforeInstall = "before_install",
        /// Windows says neither that it is installed nor that it failed.
        Inconclusive = "inconclusive",
    }
);

/// What to do with an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Open an incident for the update.
    Open,
    /// It failed again: count it, take its code as the newest unless it is older, apply `incident::Event::FailedAgain`.
    Join {
        incident: IncidentId,
        /// Whether the incident's newest code becomes another one.
        code_changed: bool,
    },
    /// Installed: apply `incident::Event::Installed` to each.
    Close { incidents: Vec<IncidentId> },
    /// Installed once restarted: evidence of `ladder::Verdict::RebootOwed` for each, no end and no failure.
    RebootOwed { incidents: Vec<IncidentId> },
    /// Record the outcome, leave incidents alone.
    Ignore(Why),
}

/// Judges an outcome. `open` = the device's incidents that have not ended, in any order. `installed_at` = when the
/// device last reported the update, or one that replaces it, as installed (`None` = never): failures from before that
/// arrive late and open nothing.
#[must_use]
pub fn judge(outcome: &Outcome, open: &[Known<'_>], installed_at: Option<DateTime<Utc>>) -> Match {
    if let Some(why) = out_of_scope(outcome) {
        return Match::Ignore(why);
    }
    match (outcome.result, outcome.operation) {
        (OutcomeResult::Failed | OutcomeResult::Aborted, _) => failed(outcome, open, installed_at),
        (_, Operation::Download | Operation::Uninstall) => Match::Ignore(Why::DownloadDone),
        (OutcomeResult::PendingReboot, Operation::Install) => {
            satisfied(outcome, open).map_or_else(Match::Ignore, |incidents| Match::RebootOwed { incidents })
        }
        (OutcomeResult::SucceededWithErrors, Operation::Install)
            if outcome.code.is_failure() || outcome.code == FAILED_INSIDE =>
        {
            Match::Ignore(Why::Inconclusive)
        }
        (OutcomeResult::Succeeded | OutcomeResult::SucceededWithErrors, Operation::Install) => {
            satisfied(outcome, open).map_or_else(Match::Ignore, |incidents| Match::Close { incidents })
        }
    }
}

/// The OS build and revision that a cumulative update brings a device to, where its title says so, as in
/// `... (KB5999991) (26100.9991)`. Microsoft writes it so in every language since 2025, and in no title before. Updates of
/// setup and of .NET bring no device anywhere.
#[must_use]
pub fn target_build(update: &UpdateRef) -> Option<(u32, u32)> {
    let other = ["Dynamic", "Safe OS", ".NET"].iter().any(|word| update.title.contains(word));
    if update.kind != UpdateKind::Quality || other {
        return None;
    }
    update.title.split('(').skip(1).filter_map(|rest| build_of(rest.split_once(')')?.0)).last()
}

/// `26100.9991`, and nothing else.
fn build_of(text: &str) -> Option<(u32, u32)> {
    let (build, revision) = text.split_once('.')?;
    let number = |part: &str, length: std::ops::RangeInclusive<usize>| {
        let digits = length.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    };
    Some((number(build, 5..=5)?, number(revision, 1..=6)?))
}

/// Whether a device of this build and revision has the update, or one that came after it. Another build proves nothing:
/// revisions count within one.
#[must_use]
pub fn is_reached(update: &UpdateRef, os_build: u32, revision: u32) -> bool {
    target_build(update).is_some_and(|(build, target)| build == os_build && revision >= target)
}

fn out_of_scope(outcome: &Outcome) -> Option<Why> {
    let update = &outcome.update;
    match update.kind {
        UpdateKind::Definition => return Some(Why::Definition),
        UpdateKind::App => return Some(Why::StoreApp),
        UpdateKind::Quality | UpdateKind::Feature | UpdateKind::Driver | UpdateKind::Unknown => {}
    }
    if update.kb == Some(DEFINITIONS) {
        return Some(Why::Definition);
    }
    (outcome.operation == Operation::Uninstall).then_some(Why::Uninstall)
}

fn failed(outcome: &Outcome, open: &[Known<'_>], installed_at: Option<DateTime<Utc>>) -> Match {
    let same = open.iter().filter(|known| !known.state.is_ended() && known.update.is_same(&outcome.update));
    // More than one fits where an update is known by its id here and its KB there: the one that failed last goes on.
    if let Some(known) = same.max_by_key(|known| (known.last_failed_at, known.id)) {
        let newer = outcome.occurred_at >= known.last_failed_at;
        return Match::Join { incident: known.id, code_changed: newer && outcome.code != known.code };
    }
    if installed_at.is_some_and(|at| outcome.occurred_at < at) {
        return Match::Ignore(Why::BeforeInstall);
    }
    Match::Open
}

/// The incidents that an installed update satisfies: its own, and those of updates it replaces.
fn satisfied(outcome: &Outcome, open: &[Known<'_>]) -> Result<Vec<IncidentId>, Why> {
    let met: Vec<_> =
        open.iter().filter(|known| !known.state.is_ended() && outcome.update.satisfies(known.update)).collect();
    if met.is_empty() {
        return Err(Why::NothingOpen);
    }
    let incidents: Vec<_> =
        met.iter().filter(|known| outcome.occurred_at >= known.last_failed_at).map(|known| known.id).collect();
    if incidents.is_empty() { Err(Why::BeforeFailure) } else { Ok(incidents) }
}

#[cfg(test)]
mod tests;
