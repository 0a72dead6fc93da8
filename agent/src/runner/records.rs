//! Looks at the PC: new outcomes go from Windows' records into the outbox with their cursors, a changed condition goes to
//! the reporter. Called on a timer, before an order begins and after it ended, and when the controller asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Clock, Condition, Operation, OrderId, Outcome, OutcomeResult, Position, UpdateRef, condition::UnavailableSource,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    detect::{Cursor, Detector, Identity, Problem, SETTLE},
    link::{failure::chain, report::Reporter},
    outbox::Outbox,
    platform::{Platform, PlatformError},
    state::StateError,
};

/// Most problems of one pass that are logged.
const MAX_LOGGED: usize = 20;
/// Attempts and orders that are remembered.
const REMEMBERED: usize = 64;
/// Ids of replaced updates that go with an outcome: what the contract takes.
const MAX_SUPERSEDES: usize = 64;
/// Domain time between two looks while something settles.
const SETTLING_LOOK: Duration = Duration::from_secs(15);

/// Why the PC could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("Windows' update records cannot be listed")]
    Files(#[source] PlatformError),
    #[error("what was found cannot be stored")]
    State(#[source] StateError),
    #[error("what was stored of earlier reads cannot be understood: {0}")]
    Stored(String),
    #[error("reading the records was cut short")]
    Cut,
}

/// What is stored with the outcomes it belongs to.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadSoFar {
    /// Where each record file was read up to.
    pub cursors: BTreeMap<PathBuf, Cursor>,
    /// Records taken from collected logs.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub collected: BTreeSet<Identity>,
    /// The latest install attempts that were found, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempted>,
    /// Orders after which something was found by asking.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<OrderId>,
}

/// An install attempt that was found: what later ones are compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempted {
    update: UpdateRef,
    result: OutcomeResult,
    at: DateTime<Utc>,
}

impl ReadSoFar {
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub async fn load(outbox: &Outbox) -> Result<Self, LookError> {
        match outbox.cursor().await.map_err(LookError::State)? {
            Some(text) => serde_json::from_str(&text).map_err(|error| LookError::Stored(error.to_string())),
            None => Ok(Self::default()),
        }
    }

    /// # Errors
    /// When a path is no text.
    pub fn to_text(&self) -> Result<String, LookError> {
        serde_json::to_string(self).map_err(|error| LookError::Stored(error.to_string()))
    }

    fn remember(&mut self, outcome: &Outcome) {
        if outcome.operation == Operation::Install {
            let update = UpdateRef { title: String::new(), ..outcome.update.clone() };
            self.attempts.push(Attempted { update, result: outcome.result, at: outcome.occurred_at });
            forget_oldest(&mut self.attempts);
        }
    }

    /// Whether the newest record of the update since `since` tells what `outcome` does, or more.
    fn says_as_much(&self, outcome: &Outcome, since: DateTime<Utc>) -> bool {
        let of_it = self.attempts.iter().filter(|it| it.at >= since && it.update.satisfies(&outcome.update));
        of_it.max_by_key(|it| it.at).is_some_and(|newest| {
            newest.result == OutcomeResult::Succeeded || outcome.result != OutcomeResult::Succeeded
        })
    }
}

fn forget_oldest<T>(list: &mut Vec<T>) {
    list.drain(..list.len().saturating_sub(REMEMBERED));
}

const fn is_failure(result: OutcomeResult) -> bool {
    matches!(result, OutcomeResult::Failed | OutcomeResult::Aborted)
}

/// The looking part of one agent.
pub struct Records {
    platform: Arc<dyn Platform>,
    clock: Arc<dyn Clock>,
    outbox: Outbox,
    reporter: Arc<Reporter>,
    /// What the agent's own file lost, for the condition.
    loss: Option<String>,
    condition_interval: Duration,
    looking: Mutex<Looking>,
}

#[derive(Default)]
struct Looking {
    read: Option<(Detector, ReadSoFar)>,
    reported: Option<(Condition, DateTime<Utc>)>,
}

impl Records {
    #[must_use]
    pub fn new(
        platform: Arc<dyn Platform>,
        clock: Arc<dyn Clock>,
        outbox: Outbox,
        reporter: Arc<Reporter>,
        loss: Option<String>,
        condition_interval: Duration,
    ) -> Self {
        Self { platform, clock, outbox, reporter, loss, condition_interval, looking: Mutex::default() }
    }

    /// Stores what is new in the records; what is told only in part waits until it has settled. The condition is read
    /// too. Gives how many attempts wait so.
    ///
    /// # Errors
    /// When the records cannot be listed or what was found cannot be stored; nothing is lost then.
    pub async fn look(&self) -> Result<usize, LookError> {
        self.look_with(Some(self.clock.now())).await.map(|(_, held)| held)
    }

    /// Like [`Records::look`], but waits for nothing. Gives the position of the newest outcome.
    ///
    /// # Errors
    /// As [`Records::look`].
    pub async fn look_at_all(&self) -> Result<Position, LookError> {
        self.look_with(None).await.map(|(position, _)| position)
    }

    /// Like [`Records::look`] again and again, until nothing waits any more.
    ///
    /// # Errors
    /// As [`Records::look`].
    pub async fn look_until_settled(&self) -> Result<Position, LookError> {
        let deadline = self.clock.now() + SETTLE;
        while self.look().await? > 0 && self.clock.now() < deadline {
            tokio::time::sleep(self.clock.real(SETTLING_LOOK).max(Duration::from_millis(5))).await;
        }
        self.look_at_all().await
    }

    /// Like [`Records::look`], and reports the condition even if nothing changed.
    ///
    /// # Errors
    /// As [`Records::look`].
    pub async fn refresh(&self) -> Result<usize, LookError> {
        self.look_at_condition(&mut self.looking.lock().await.reported, true).await;
        self.look().await
    }

    /// Stores what the agent found by asking after an order, once an order; not where Windows recorded as much since
    /// `since`.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn found_by_asking(
        &self,
        order: OrderId,
        since: DateTime<Utc>,
        outcome: Outcome,
    ) -> Result<(), LookError> {
        let mut looking = self.looking.lock().await;
        let (detector, mut so_far) = match looking.read.take() {
            Some(read) => read,
            None => self.stored().await?,
        };
        if so_far.asked.contains(&order) || so_far.says_as_much(&outcome, since) {
            looking.read = Some((detector, so_far));
            return Ok(());
        }
        so_far.asked.push(order);
        forget_oldest(&mut so_far.asked);
        self.outbox.append(std::slice::from_ref(&outcome), Some(&so_far.to_text()?)).await.map_err(LookError::State)?;
        self.reporter.nudge();
        tracing::info!(order_id = %order, result = %outcome.result, "Windows has no record of how the update is; asked");
        looking.read = Some((detector, so_far));
        Ok(())
    }

    async fn look_with(&self, now: Option<DateTime<Utc>>) -> Result<(Position, usize), LookError> {
        let mut looking = self.looking.lock().await;
        let found = match self.read_new(&mut looking.read, now).await {
            Ok(found) => found,
            Err(error) => {
                // In memory the detector may be ahead of what is stored.
                looking.read = None;
                return Err(error);
            }
        };
        self.look_at_condition(&mut looking.reported, false).await;
        Ok(found)
    }

    async fn stored(&self) -> Result<(Detector, ReadSoFar), LookError> {
        let so_far = ReadSoFar::load(&self.outbox).await?;
        Ok((Detector::new(so_far.cursors.clone()), so_far))
    }

    async fn read_new(
        &self,
        read: &mut Option<(Detector, ReadSoFar)>,
        now: Option<DateTime<Utc>>,
    ) -> Result<(Position, usize), LookError> {
        let files = self.platform.record_files().await.map_err(LookError::Files)?;
        let (mut detector, mut so_far) = match read.take() {
            Some(read) => read,
            None => self.stored().await?,
        };
        let held = loop {
            let files = files.clone();
            let pass = tokio::task::spawn_blocking(move || {
                let found = detector.read(&files, now);
                (detector, found)
            });
            let (after, mut found) = pass.await.map_err(|_| LookError::Cut)?;
            detector = after;
            log_problems(&found.problems);
            for outcome in &mut found.outcomes {
                self.say_what_it_replaces(outcome, &so_far.attempts).await;
                so_far.remember(outcome);
            }
            if !found.cursors.is_empty() || !found.outcomes.is_empty() {
                so_far.cursors.extend(found.cursors);
                self.outbox.append(&found.outcomes, Some(&so_far.to_text()?)).await.map_err(LookError::State)?;
            }
            if !found.outcomes.is_empty() {
                tracing::debug!(outcomes = found.outcomes.len(), "new outcomes in Windows' records");
                self.reporter.nudge();
            }
            if !found.more {
                break found.held;
            }
        };
        *read = Some((detector, so_far));
        Ok((self.outbox.position().await.map_err(LookError::State)?, held))
    }

    /// Windows' records do not say which updates an installed one replaces; the update client knows. What failed here
    /// comes first: a cumulative update replaces more than an outcome can name.
    async fn say_what_it_replaces(&self, outcome: &mut Outcome, attempts: &[Attempted]) {
        let installs = outcome.operation == Operation::Install && !is_failure(outcome.result);
        if !installs || outcome.update.update_id.is_none() {
            return;
        }
        match self.platform.supersedes(&outcome.update).await {
            Ok(mut ids) => {
                let failed = |id: &uuid::Uuid| {
                    attempts.iter().any(|it| is_failure(it.result) && it.update.update_id == Some(*id))
                };
                ids.sort_by_key(|id| !failed(id));
                ids.truncate(MAX_SUPERSEDES);
                outcome.update.supersedes = ids;
            }
            Err(PlatformError::Unavailable { .. }) => {}
            Err(error) => tracing::debug!(error = %chain(&error), "what an update replaces cannot be read"),
        }
    }

    async fn look_at_condition(&self, reported: &mut Option<(Condition, DateTime<Utc>)>, always: bool) {
        let mut condition = match self.platform.condition().await {
            Ok(condition) => condition,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the PC's condition cannot be read");
                return;
            }
        };
        crate::VERSION.clone_into(&mut condition.agent_version);
        self.add_own_troubles(&mut condition).await;
        let now = self.clock.now();
        let is_due = match reported {
            _ if always => true,
            None => true,
            Some((last, at)) => {
                is_other(last, &condition) || (now - *at).to_std().is_ok_and(|it| it >= self.condition_interval)
            }
        };
        if is_due {
            *reported = Some((condition.clone(), now));
            self.reporter.set_condition(condition);
        }
    }

    /// What the agent itself lost or cannot keep up with belongs to what people should see.
    async fn add_own_troubles(&self, condition: &mut Condition) {
        let mut add = |source: &str, reason: String| {
            condition.unavailable_sources.push(UnavailableSource { source: source.to_owned(), reason });
        };
        if let Some(loss) = &self.loss {
            add("agent state", loss.clone());
        }
        if let Ok(pending) = self.outbox.pending().await
            && pending.is_over_cap()
        {
            add("agent outbox", "more than 10,000 outcomes or 64 MiB wait to be sent".to_owned());
        }
    }
}

/// Whether people would call it another condition: time and small changes of free space or charge do not count.
fn is_other(before: &Condition, after: &Condition) -> bool {
    const GIB: u64 = 1 << 30;
    let coarse = |it: &Condition| {
        let mut it = it.clone();
        it.collected_at = DateTime::UNIX_EPOCH;
        it.system_free_bytes /= GIB;
        it.battery_percent = it.battery_percent.map(|percent| percent / 10);
        it
    };
    coarse(before) != coarse(after)
}

fn log_problems(problems: &[Problem]) {
    for problem in problems.iter().take(MAX_LOGGED) {
        tracing::debug!(%problem, "record not understood");
    }
    if problems.len() > MAX_LOGGED {
        tracing::debug!(more = problems.len() - MAX_LOGGED, "more records were not understood");
    }
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records").field("outbox", &self.outbox).finish_non_exhaustive()
    }
}
