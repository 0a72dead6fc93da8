//! What a step of an action is. Actions implement `Step`, `runner` calls it, and only in the order
//! `prepare` -> intent durable -> `run` -> end durable.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Clock,
    order::{Finding, OrderText, StepState},
};
use serde_json::Value;

use super::undo::Undo;
use crate::{
    guard::LocalPolicy,
    journal::{Journal, StepRecord},
    platform::{Platform, PlatformError, Run},
    state::StateError,
};

/// What a crash between intent and end means for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Doing it again is the same as doing it once.
    Idempotent,
    /// `probe` tells whether it was done.
    Probe,
    /// Never begun a second time: `probe` may prove that it happened, else the outcome is unknown. Needs a live lease.
    AtMostOnce,
}

/// What a step knows before its effect.
#[derive(Debug)]
pub(super) enum Prepared {
    /// `undo` and `data` become durable with the intent.
    Go {
        undo: Option<Undo>,
        data: Value,
    },
    Skip(String),
}

/// How a step ended without stopping the order.
#[derive(Debug)]
pub(super) struct Ended {
    /// `Failed`: the order goes on, and ends as failed.
    pub state: StepState,
    pub detail: String,
    /// For later steps.
    pub data: Option<Value>,
    pub findings: Vec<Finding>,
}

/// What a probe saw after a crash.
#[derive(Debug)]
pub(super) enum Seen {
    Done(Ended),
    NotDone,
}

/// Why an order stops here: what was done is undone.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(String),
    Unavailable(String),
    /// Something stands in the way that passes: all is undone, and the controller asks again later.
    Deferred(String),
    /// Something was begun and nobody knows how it ended.
    Unknown(String),
    /// The journal failed: nothing more may be done, not even undoing.
    State(StateError),
}

/// What steps see.
pub(super) struct Cx<'a> {
    pub platform: &'a dyn Platform,
    pub journal: &'a Journal,
    pub clock: &'a dyn Clock,
    pub local: &'a LocalPolicy,
    pub order: &'a OrderText,
    pub run: Run,
    /// Steps recorded so far.
    pub steps: &'a [StepRecord],
}

#[async_trait]
pub(super) trait Step: Send + Sync {
    /// Shown to people, at most 64 bytes, unique within its action.
    fn name(&self) -> String;

    fn kind(&self) -> Kind;

    /// Whether it changes anything on the PC. Steps that only look need no lease and do not count as begun.
    fn changes(&self) -> bool {
        true
    }

    /// Whether the order may go on without it when there is no lease for it.
    fn is_optional(&self) -> bool {
        false
    }

    /// Whether it restarts the PC: counted, and waited for.
    fn restarts(&self) -> bool {
        false
    }

    /// Looks, and changes nothing.
    async fn prepare(&self, _cx: &Cx<'_>) -> Result<Prepared, Stop> {
        Ok(Prepared::Go { undo: None, data: Value::Null })
    }

    async fn run(&self, cx: &Cx<'_>, data: &Value) -> Result<Ended, Stop>;

    /// After a crash between intent and end: looks whether the effect happened.
    async fn probe(&self, _cx: &Cx<'_>, _record: &StepRecord) -> Result<Seen, Stop> {
        Ok(Seen::NotDone)
    }
}

impl Ended {
    pub fn done(detail: impl Into<String>) -> Self {
        Self { state: StepState::Done, detail: detail.into(), data: None, findings: Vec::new() }
    }

    pub fn skipped(detail: impl Into<String>) -> Self {
        Self { state: StepState::Skipped, ..Self::done(detail) }
    }

    /// The order goes on, and ends as failed.
    pub fn faulted(detail: impl Into<String>) -> Self {
        Self { state: StepState::Failed, ..Self::done(detail) }
    }

    /// The order goes on: this step decides nothing.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Self { state: StepState::Unknown, ..Self::done(detail) }
    }

    pub fn with_data(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }

    pub fn with_findings(self, findings: Vec<Finding>) -> Self {
        Self { findings, ..self }
    }
}

impl Prepared {
    pub const fn with_undo(undo: Undo) -> Self {
        Self::Go { undo: Some(undo), data: Value::Null }
    }
}

impl Cx<'_> {
    /// What an earlier step of this order left for later ones.
    pub fn data(&self, step: &str) -> Option<&Value> {
        self.steps.iter().find(|it| it.name == step).map(|it| &it.data)
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }
}

impl From<PlatformError> for Stop {
    fn from(error: PlatformError) -> Self {
        match error {
            PlatformError::Unavailable { .. } => Self::Unavailable(error.to_string()),
            PlatformError::TimedOut { .. } => Self::Unknown(error.to_string()),
            PlatformError::Failed { .. } => Self::Failed(error.to_string()),
            PlatformError::Io { ref source, .. } => Self::Failed(format!("{error}: {source}")),
        }
    }
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}
