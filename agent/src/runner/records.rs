//! Looks at the PC: new outcomes go from Windows' records into the outbox with their cursors, a changed condition goes to
//! the reporter. Called on a timer, before an order begins and after it ended, and when the controller asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use fleetmend_proto::{Clock, Condition, Position, condition::UnavailableSource};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    detect::{Cursor, Detector, Problem},
    link::{failure::chain, report::Reporter},
    outbox::Outbox,
    platform::{Platform, PlatformError},
    state::StateError,
};

/// Most problems of one pass that are logged.
const MAX_LOGGED: usize = 20;

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
    /// Outcomes taken from collected logs, by their content.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub collected: BTreeSet<String>,
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

    /// Stores what is new in the records and gives the position of the newest outcome. The condition is read too.
    ///
    /// # Errors
    /// When the records cannot be listed or what was found cannot be stored; nothing is lost then.
    pub async fn look(&self) -> Result<Position, LookError> {
        let mut looking = self.looking.lock().await;
        let position = match self.read_new(&mut looking.read).await {
            Ok(position) => position,
            Err(error) => {
                // In memory the detector may be ahead of what is stored.
                looking.read = None;
                return Err(error);
            }
        };
        self.look_at_condition(&mut looking.reported, false).await;
        Ok(position)
    }

    /// Like [`Records::look`], and reports the condition even if nothing changed.
    ///
    /// # Errors
    /// As [`Records::look`].
    pub async fn refresh(&self) -> Result<Position, LookError> {
        self.look_at_condition(&mut self.looking.lock().await.reported, true).await;
        self.look().await
    }

    async fn read_new(&self, read: &mut Option<(Detector, ReadSoFar)>) -> Result<Position, LookError> {
        let files = self.platform.record_files().await.map_err(LookError::Files)?;
        let (mut detector, mut so_far) = match read.take() {
            Some(read) => read,
            None => {
                let so_far = ReadSoFar::load(&self.outbox).await?;
                (Detector::new(so_far.cursors.clone()), so_far)
            }
        };
        loop {
            let files = files.clone();
            let pass = tokio::task::spawn_blocking(move || {
                let found = detector.read(&files);
                (detector, found)
            });
            let (after, found) = pass.await.map_err(|_| LookError::Cut)?;
            detector = after;
            log_problems(&found.problems);
            if !found.cursors.is_empty() || !found.outcomes.is_empty() {
                so_far.cursors.extend(found.cursors);
                self.outbox.append(&found.outcomes, Some(&so_far.to_text()?)).await.map_err(LookError::State)?;
            }
            if !found.outcomes.is_empty() {
                tracing::debug!(outcomes = found.outcomes.len(), "new outcomes in Windows' records");
                self.reporter.nudge();
            }
            if !found.more {
                break;
            }
        }
        *read = Some((detector, so_far));
        self.outbox.position().await.map_err(LookError::State)
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
