//! Incident rows: reading them, moving them on by the domain's table, and writing many back at once.
//!
//! INVARIANT: `save` writes a row only at the generation it was read at.

use chrono::{DateTime, Utc};
use fleetmend_domain::{
    incident::{self, Event, IllegalTransition, State, StateName},
    ladder::{self, Attempt},
};
use fleetmend_proto::{DeviceId, HResult, IncidentId, Kb, OrderId, Tier, UpdateKind, UpdateRef};
use serde::Serialize;
use sqlx::FromRow;
use uuid::Uuid;

use super::{
    StoreError, all_written,
    devices::word,
    engine::{Tx, bulk, bulk_fetch, bulk_sql},
    error::During as _,
    from_json, id_rows,
};

/// An incident as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IncidentRow {
    pub id: IncidentId,
    pub device: DeviceId,
    pub device_name: String,
    pub update: UpdateRef,
    pub state: StateName,
    /// What the order in hand is charged to.
    pub tier: Option<Tier>,
    /// Why it is held, or who dismissed it.
    pub reason: Option<String>,
    pub code: HResult,
    pub raw_code: HResult,
    pub opened_at: DateTime<Utc>,
    pub last_failed_at: DateTime<Utc>,
    pub failures: i64,
    /// When a loop looks at it again; `None` = something else has it in hand, or it has ended.
    pub due_at: Option<DateTime<Utc>>,
    pub deadline_at: Option<DateTime<Utc>>,
    pub order: Option<OrderId>,
    /// The tier that a verification credited; `None` with state `Resolved` = it went away without one.
    pub fixed_by: Option<Tier>,
    pub closed_at: Option<DateTime<Utc>>,
    pub generation: i64,
}

/// What of an incident can change.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Live {
    pub id: Uuid,
    pub device_id: Uuid,
    #[serde(skip)]
    pub state: State,
    pub code: HResult,
    pub raw_code: HResult,
    pub last_failed_at: DateTime<Utc>,
    pub failures: i64,
    pub due_at: Option<DateTime<Utc>>,
    pub deadline_at: Option<DateTime<Utc>>,
    pub order_id: Option<Uuid>,
    pub fixed_by: Option<i64>,
    pub closed_at: Option<DateTime<Utc>>,
    /// As read.
    pub generation: i64,
}

impl Live {
    pub(super) const fn incident(&self) -> IncidentId {
        IncidentId(self.id)
    }

    pub(super) const fn device(&self) -> DeviceId {
        DeviceId(self.device_id)
    }

    /// Moves on by the table and keeps the columns that follow from it. The caller sets `due_at`.
    pub(super) fn take(&mut self, event: &Event, now: DateTime<Utc>) -> Result<(), IllegalTransition> {
        self.state = incident::next(&self.state, event, now)?;
        if self.state.is_ended() {
            self.closed_at = Some(now);
            self.due_at = None;
            self.deadline_at = None;
            self.order_id = None;
        }
        Ok(())
    }
}

const LOAD: [&str; 2] = bulk_sql!(
    "SELECT i.id, i.device_id, i.state, i.tier, i.reason, i.code, i.raw_code, i.last_failed_at, i.failures, i.due_at, \
     i.deadline_at, i.order_id, i.fixed_by, i.closed_at, i.generation FROM "
    [id: uuid] " JOIN incidents i ON i.id = r.id"
);

const SAVE: [&str; 2] = bulk_sql!(
    "UPDATE incidents SET state = r.state, tier = r.tier, reason = r.reason, code = r.code, raw_code = r.raw_code, \
     last_failed_at = r.last_failed_at, failures = r.failures, due_at = r.due_at, deadline_at = r.deadline_at, \
     order_id = r.order_id, fixed_by = r.fixed_by, closed_at = r.closed_at, generation = incidents.generation + 1 FROM "
    [id: uuid, state: text, tier: bigint, reason: text, code: text, raw_code: text, last_failed_at: timestamptz,
     failures: bigint, due_at: timestamptz, deadline_at: timestamptz, order_id: uuid, fixed_by: bigint,
     closed_at: timestamptz, generation: bigint]
    " WHERE incidents.id = r.id AND incidents.generation = r.generation"
);

/// The incidents of these ids, as they are inside the transaction.
pub(super) async fn load(tx: &mut Tx, ids: impl IntoIterator<Item = Uuid>) -> Result<Vec<Live>, StoreError> {
    let ids = id_rows(ids);
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<RawLive> = bulk_fetch!(tx, LOAD, &ids, "incident load")?;
    rows.into_iter().map(Live::try_from).collect()
}

#[derive(Serialize)]
struct Saved<'a> {
    #[serde(flatten)]
    live: &'a Live,
    state: &'static str,
    tier: Option<u8>,
    reason: Option<&'a str>,
}

/// Writes all of them or fails.
pub(super) async fn save(tx: &mut Tx, rows: &[Live]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    let saved: Vec<_> = rows
        .iter()
        .map(|live| {
            let parts = live.state.parts();
            Saved { live, state: parts.name.word(), tier: parts.tier, reason: parts.reason }
        })
        .collect();
    let written: u64 = bulk!(tx, SAVE, &saved, "incident save")?;
    all_written("incident save", written, rows.len())
}

#[derive(FromRow)]
struct RawLive {
    id: Uuid,
    device_id: Uuid,
    state: String,
    tier: Option<i64>,
    reason: Option<String>,
    code: String,
    raw_code: String,
    last_failed_at: DateTime<Utc>,
    failures: i64,
    due_at: Option<DateTime<Utc>>,
    deadline_at: Option<DateTime<Utc>>,
    order_id: Option<Uuid>,
    fixed_by: Option<i64>,
    closed_at: Option<DateTime<Utc>>,
    generation: i64,
}

impl TryFrom<RawLive> for Live {
    type Error = StoreError;

    fn try_from(raw: RawLive) -> Result<Self, StoreError> {
        Ok(Self {
            id: raw.id,
            device_id: raw.device_id,
            state: state(&raw.state, raw.tier, raw.reason.as_deref())?,
            code: code(&raw.code)?,
            raw_code: code(&raw.raw_code)?,
            last_failed_at: raw.last_failed_at,
            failures: raw.failures,
            due_at: raw.due_at,
            deadline_at: raw.deadline_at,
            order_id: raw.order_id,
            fixed_by: raw.fixed_by,
            closed_at: raw.closed_at,
            generation: raw.generation,
        })
    }
}

/// The columns of an [`IncidentRow`].
#[derive(FromRow)]
pub(super) struct RawRow {
    id: Uuid,
    device_id: Uuid,
    device_name: String,
    update_ref: String,
    state: String,
    tier: Option<i64>,
    reason: Option<String>,
    code: String,
    raw_code: String,
    opened_at: DateTime<Utc>,
    last_failed_at: DateTime<Utc>,
    failures: i64,
    due_at: Option<DateTime<Utc>>,
    deadline_at: Option<DateTime<Utc>>,
    order_id: Option<Uuid>,
    fixed_by: Option<i64>,
    closed_at: Option<DateTime<Utc>>,
    generation: i64,
}

impl TryFrom<RawRow> for IncidentRow {
    type Error = StoreError;

    fn try_from(raw: RawRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: IncidentId(raw.id),
            device: DeviceId(raw.device_id),
            device_name: raw.device_name,
            update: from_json("update", &raw.update_ref)?,
            state: word("incident state", &raw.state, StateName::from_word)?,
            tier: tier(raw.tier)?,
            reason: raw.reason,
            code: code(&raw.code)?,
            raw_code: code(&raw.raw_code)?,
            opened_at: raw.opened_at,
            last_failed_at: raw.last_failed_at,
            failures: raw.failures,
            due_at: raw.due_at,
            deadline_at: raw.deadline_at,
            order: raw.order_id.map(OrderId),
            fixed_by: tier(raw.fixed_by)?,
            closed_at: raw.closed_at,
            generation: raw.generation,
        })
    }
}

/// The state of three columns.
pub(super) fn state(name: &str, tier: Option<i64>, reason: Option<&str>) -> Result<State, StoreError> {
    let corrupt = |detail: String| StoreError::corrupt("incident state", detail);
    let tier = tier.map(u8::try_from).transpose().map_err(|error| corrupt(error.to_string()))?;
    State::from_parts(name, tier, reason).map_err(|error| corrupt(error.to_string()))
}

pub(super) fn code(text: &str) -> Result<HResult, StoreError> {
    text.parse().map_err(|error| StoreError::corrupt("HRESULT", error))
}

pub(super) fn tier(number: Option<i64>) -> Result<Option<Tier>, StoreError> {
    number
        .map(|number| {
            u8::try_from(number)
                .ok()
                .and_then(|number| Tier::try_from(number).ok())
                .ok_or_else(|| StoreError::corrupt("tier", number))
        })
        .transpose()
}

/// An update by its names alone: enough to tell whether another is the same or replaces it.
pub(super) fn update_key(id: Option<Uuid>, kb: Option<&str>) -> Result<UpdateRef, StoreError> {
    Ok(UpdateRef {
        update_id: id,
        revision: 0,
        kb: kb.map(str::parse::<Kb>).transpose().map_err(|error| StoreError::corrupt("KB number", error))?,
        title: String::new(),
        kind: UpdateKind::Unknown,
        supersedes: Vec::new(),
    })
}

/// The tier that gets the credit for an incident that went away, as its column.
pub(super) fn fixed_by(attempts: &[Attempt]) -> Option<i64> {
    ladder::fixed_by(attempts).map(|tier| i64::from(tier.number()))
}
