//! Rows of the journal as values. Used by `journal` alone for reading; nothing here touches the file.

use chrono::{DateTime, Utc};
use fleetmend_proto::{
    Fence, OrderId,
    order::{Finding, OrderPhase, Refusal, StepReport, StepState},
};
use sqlx::{Row as _, sqlite::SqliteRow};

use crate::state::{Result, StateError, content};

/// An order as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRecord {
    pub order: OrderId,
    pub fence: Fence,
    pub action: String,
    /// The signed note, exact bytes.
    pub note: Vec<u8>,
    pub phase: OrderPhase,
    pub refusal: Option<Refusal>,
    pub detail: String,
    /// Whether the controller's `Begin` was answered and the run begun.
    pub begun: bool,
    pub cancel: bool,
    /// Set: the order is being undone and ends in this phase.
    pub unwind: Option<OrderPhase>,
    pub(crate) change: i64,
    pub(crate) told: i64,
}

/// What the controller is told of an order: its phase and the steps that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderUpdate {
    pub order: OrderId,
    pub fence: Fence,
    pub phase: OrderPhase,
    pub refusal: Option<Refusal>,
    pub detail: String,
    pub steps: Vec<StepReport>,
    /// Number of the newest change in it; see [`super::Journal::told`].
    pub mark: i64,
}

/// A step as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    pub index: u32,
    pub name: String,
    pub state: StepState,
    /// How to undo it, as JSON of `execute::Undo`.
    pub undo: Option<String>,
    /// What the step knew before its effect; after it, what later steps need of it.
    pub data: serde_json::Value,
    pub boot_id: String,
    pub detail: String,
    pub findings: Vec<Finding>,
    pub at: DateTime<Utc>,
    pub(crate) change: i64,
}

/// What is written before an effect.
#[derive(Clone, Debug)]
pub struct StepIntent<'a> {
    pub index: u32,
    pub name: &'a str,
    pub undo: Option<String>,
    pub data: serde_json::Value,
    pub boot_id: &'a str,
    pub at: DateTime<Utc>,
}

/// What is written after an effect.
#[derive(Clone, Debug)]
pub struct StepEnd {
    pub index: u32,
    pub state: StepState,
    pub detail: String,
    pub data: Option<serde_json::Value>,
    pub findings: Vec<Finding>,
    pub at: DateTime<Utc>,
    /// Undoing failed: tried again at the next start.
    pub undo_owed: bool,
}

impl OrderRecord {
    pub(super) fn from_row(row: &SqliteRow) -> Result<Self> {
        let refusal: Option<String> = row.get("refusal");
        let unwind: Option<String> = row.get("unwind");
        Ok(Self {
            order: OrderId(row.get("order_id")),
            fence: Fence(row.get("fence")),
            action: row.get("action"),
            note: row.get("note"),
            phase: word("phase", row.get("phase"), OrderPhase::from_word)?,
            refusal: refusal.map(|it| word("refusal", it, Refusal::from_word)).transpose()?,
            detail: row.get("detail"),
            begun: row.get("begun"),
            cancel: row.get("cancel"),
            unwind: unwind.map(|it| word("phase", it, OrderPhase::from_word)).transpose()?,
            change: row.get("change"),
            told: row.get("told"),
        })
    }
}

impl StepRecord {
    pub(super) fn from_row(row: &SqliteRow) -> Result<Self> {
        let (data, findings): (String, String) = (row.get("data"), row.get("findings"));
        let at = DateTime::from_timestamp_micros(row.get("at"))
            .ok_or_else(|| StateError::Content { what: "time", why: "out of range".to_owned() })?;
        Ok(Self {
            index: row.try_get("idx").map_err(content("step index"))?,
            name: row.get("name"),
            state: word("step state", row.get("state"), StepState::from_word)?,
            undo: row.get("undo"),
            data: serde_json::from_str(&data).map_err(content("step"))?,
            boot_id: row.get("boot_id"),
            detail: row.get("detail"),
            findings: serde_json::from_str(&findings).map_err(content("finding"))?,
            at,
            change: row.get("change"),
        })
    }

    pub(super) fn into_report(self) -> StepReport {
        StepReport {
            index: self.index,
            name: self.name,
            state: self.state,
            detail: self.detail,
            at: self.at,
            findings: self.findings,
        }
    }
}

fn word<T>(what: &'static str, word: String, from: fn(&str) -> Option<T>) -> Result<T> {
    from(&word).ok_or_else(|| StateError::Content { what, why: format!("{word:?} is unknown to this agent") })
}
