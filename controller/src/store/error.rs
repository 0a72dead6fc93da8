//! What can go wrong in the store, in words that tell people what to do. Made here and in the store's files only.

use std::sync::Arc;

/// Why a store call did nothing (every transaction is all or nothing).
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("database URL {url:?} is not understood; use sqlite:///path/to/file.db or postgres://user@host/database")]
    BadUrl { url: String },
    /// `url` carries no password.
    #[error("database {url} cannot be reached; check that it runs, the address and the credentials")]
    Unreachable {
        url: String,
        #[source]
        source: Arc<sqlx::Error>,
    },
    #[error("{operation}: the database is busy; try again")]
    Busy {
        operation: &'static str,
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The call has no meaning any more: something else came first, or the caller no longer holds what it speaks of.
    #[error("{operation}: {reason}")]
    Conflict { operation: &'static str, reason: String },
    /// A value that cannot be kept, whoever sends it and however often.
    #[error("{field} {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error("there is no {what} {id}")]
    NotFound { what: &'static str, id: String },
    #[error("database needs fleetmend {needs} or newer; this is {this}")]
    NewerSchema { needs: String, this: &'static str },
    #[error("database has schema {found}, this fleetmend needs {needed}; run `fleetmend migrate`")]
    OlderSchema { found: i64, needed: i64 },
    #[error(
        "database belongs to fleet {found}, the configuration says {configured}; point database.url at the right database"
    )]
    OtherFleet { found: String, configured: String },
    #[error("database holds a {what} that cannot be read: {detail}; restore a backup or report this as a bug")]
    Corrupt { what: &'static str, detail: String },
    #[error("{operation} failed in the database")]
    Database {
        operation: &'static str,
        #[source]
        source: Arc<sqlx::Error>,
    },
}

impl StoreError {
    /// Whether the same call may succeed a little later, with nothing changed by anybody.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } => true,
            Self::BadUrl { .. }
            | Self::Conflict { .. }
            | Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::NewerSchema { .. }
            | Self::OlderSchema { .. }
            | Self::OtherFleet { .. }
            | Self::Corrupt { .. }
            | Self::Database { .. } => false,
        }
    }

    pub(super) fn not_found(what: &'static str, id: impl std::fmt::Display) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    pub(super) fn corrupt(what: &'static str, detail: impl std::fmt::Display) -> Self {
        Self::Corrupt { what, detail: detail.to_string() }
    }
}

/// Names the operation that a database error broke.
pub(super) trait During<T> {
    fn during(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> During<T> for Result<T, sqlx::Error> {
    fn during(self, operation: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| classify(operation, source))
    }
}

fn classify(operation: &'static str, source: sqlx::Error) -> StoreError {
    let code = source.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        // SQLite: SQLITE_BUSY and its extended codes. PostgreSQL: serialization failure, deadlock, lock and statement
        // time-outs, too many connections, shutting down (on purpose, after a crash), starting up.
        Some(
            "5" | "261" | "517" | "773" | "40001" | "40P01" | "55P03" | "57014" | "53300" | "57P01" | "57P02" | "57P03",
        ) => StoreError::Busy { operation, source: Arc::new(source) },
        _ if is_link(&source) => StoreError::Busy { operation, source: Arc::new(source) },
        _ => StoreError::Database { operation, source: Arc::new(source) },
    }
}

/// The connection, not the statement, is what failed.
fn is_link(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed | sqlx::Error::Tls(_))
}
