//! The only place with SQL. One method is one transaction of the domain, named noun_verb, written once for SQLite and
//! PostgreSQL; every writing method appends to `events` who did it.
//!
//! INVARIANT: a transaction that changes incidents or orders first locks the rows of their devices, in order of id
//! (`devices_lock`): writers of one device follow one another, and no two of them can deadlock. SQLite has one writer.
//! INVARIANT: an incident or order advances only from the generation it was read at, and only as `domain`'s table says.

mod api_tokens;
mod connect;
mod decisions;
mod devices;
mod engine;
mod enroll_tokens;
mod enrollment;
mod error;
mod events;
mod fleet;
mod incidents;
mod ingest;
mod lease;
mod migrate;
mod orders;
mod people;
mod progress;
mod read;
mod renewal;
mod schema;
mod sessions;
mod summary;
mod tokens;
mod verifications;

use fleetmend_proto::DeviceId;
use serde::Serialize;
use uuid::Uuid;

use engine::{Db, Tx};
use error::During as _;

pub use api_tokens::{ApiToken, NewApiToken};
pub use connect::StoreOptions;
pub use decisions::{DecisionApplied, DecisionMade, DueIncident};
pub use devices::{Approved, DeviceFilter, DeviceRow, DeviceState, Identity, Selector};
pub use engine::Engine;
pub use enroll_tokens::{EnrollToken, NewToken};
pub use enrollment::{EnrollRefused, Enrolled, Enrolling};
pub use error::StoreError;
pub use events::Actor;
pub use fleet::Fleet;
pub use incidents::IncidentRow;
pub use ingest::{DeviceReport, ReportRecorded};
pub use lease::{LeaseTerms, Leased};
pub use orders::{OrderRow, StepRow};
pub use people::Remediation;
pub use progress::{Begin, OrderProgress};
pub use read::{
    DEFAULT_LIMIT, IncidentFilter, MAX_LIMIT, Moment, MomentKind, OrderFilter, Page, PageRequest, Timeline,
};
pub use renewal::{Renewal, Renewed};
pub use sessions::{Hello, MAX_FENCE, SessionOpened};
pub use summary::{OrderCount, Summary};
pub use verifications::{VerificationMade, Verifying};

/// Everything the controller remembers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    db: Db,
    /// The database's address without its password, for messages.
    shown_url: std::sync::Arc<str>,
}

impl Store {
    /// Which engine keeps the rows.
    #[must_use]
    pub const fn engine(&self) -> Engine {
        match self.db {
            Db::Sqlite { .. } => Engine::Sqlite,
            Db::Postgres(_) => Engine::Postgres,
        }
    }

    /// The database's address without its password.
    #[must_use]
    pub fn shown_url(&self) -> &str {
        &self.shown_url
    }

    async fn begin(&self, operation: &'static str) -> Result<Tx, StoreError> {
        self.db.begin().await.during(operation)
    }
}

/// Rows for a bulk statement, as its JSON argument.
fn json_text<T: Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::corrupt("value without a JSON form", error))
}

/// Reads a JSON column.
fn from_json<T: serde::de::DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::corrupt(what, error))
}

/// A time-ordered id for a new row.
fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// A list of ids as a bulk argument: `[{"id": ...}, ...]`.
#[derive(Clone, Copy, Serialize)]
struct IdRow {
    id: Uuid,
}

fn id_rows(ids: impl IntoIterator<Item = Uuid>) -> Vec<IdRow> {
    ids.into_iter().map(|id| IdRow { id }).collect()
}

/// A guarded write of many rows reached all of them, or the caller read what is no longer so.
fn all_written(operation: &'static str, written: u64, rows: usize) -> Result<(), StoreError> {
    if usize::try_from(written).ok() == Some(rows) {
        return Ok(());
    }
    Err(StoreError::Conflict { operation, reason: "another change came first, retry".to_owned() })
}

fn device_ids(devices: impl IntoIterator<Item = DeviceId>) -> Vec<IdRow> {
    let mut ids: Vec<_> = devices.into_iter().map(|device| IdRow { id: device.0 }).collect();
    ids.sort_unstable_by_key(|row| row.id);
    ids.dedup_by_key(|row| row.id);
    ids
}
