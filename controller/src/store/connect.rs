//! Opening a database by its URL, with the settings that durability and fair waiting need.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions as _, Connection as _,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{Store, StoreError, engine::Db};
use crate::secret::shown_url;

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// A writer on SQLite waits for the ones before it; on PostgreSQL for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// Devices write to the same pages again and again: a rarer checkpoint writes each of them back once (40 MB of log).
const CHECKPOINT_PAGES: &str = "10000";
/// Rows that SQLite's thread may be ahead of the task that reads them: a batch, so that it need not wait for it.
const ROWS_BUFFERED: usize = 1024;
const STATEMENTS_CACHED: usize = 256;

/// How many connections to keep.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Reading connections of SQLite (there is one that writes).
    pub sqlite_readers: u32,
    pub postgres_connections: u32,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { sqlite_readers: 4, postgres_connections: 16 }
    }
}

impl Store {
    /// Opens `sqlite://path` (made when missing) or `postgres://...`. Reads and writes nothing yet.
    ///
    /// # Errors
    /// [`StoreError::BadUrl`] or [`StoreError::Unreachable`]; the latter is worth trying again.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_with(url, StoreOptions::default()).await
    }

    /// As [`Store::connect`], with pool sizes.
    ///
    /// # Errors
    /// As [`Store::connect`].
    pub async fn connect_with(url: &str, options: StoreOptions) -> Result<Self, StoreError> {
        let shown = shown_url(url);
        let opened = if url.starts_with("sqlite://") {
            open_sqlite(url, options).await
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            open_postgres(url, options).await
        } else {
            return Err(StoreError::BadUrl { url: shown });
        };
        match opened {
            Ok(db) => Ok(Self { db, shown_url: shown.into() }),
            Err(sqlx::Error::Configuration(_)) => Err(StoreError::BadUrl { url: shown }),
            Err(source) => Err(StoreError::Unreachable { url: shown, source: Arc::new(source) }),
        }
    }

    /// Waits until running statements end and gives all connections back.
    pub async fn close(&self) {
        match &self.db {
            Db::Sqlite { read, write } => {
                read.close().await;
                write.close().await;
            }
            Db::Postgres(pool) => pool.close().await,
        }
    }
}

async fn open_sqlite(url: &str, options: StoreOptions) -> Result<Db, sqlx::Error> {
    let settings = SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .row_buffer_size(ROWS_BUFFERED)
        .statement_cache_capacity(STATEMENTS_CACHED);
    // One connection for ever: its page and statement caches are the hot path.
    let write = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .connect_with(
            settings
                .clone()
                .pragma("cache_size", "-65536")
                .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
                // What a statement would need to undo itself alone stays in memory: a crash undoes the transaction by the log.
                .pragma("temp_store", "MEMORY"),
        )
        .await?;
    let read = SqlitePoolOptions::new()
        .max_connections(options.sqlite_readers.max(1))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .connect_with(settings.pragma("query_only", "1"))
        .await?;
    Ok(Db::Sqlite { read, write })
}

async fn open_postgres(url: &str, options: StoreOptions) -> Result<Db, sqlx::Error> {
    let settings = PgConnectOptions::from_str(url)?
        .application_name("fleetmend")
        .statement_cache_capacity(STATEMENTS_CACHED)
        .options([
            ("statement_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "10s"),
            ("lock_timeout", "2s"),
            ("timezone", "UTC"),
        ]);
    // The pool keeps trying until it gives up and then says only that: one connection of our own finds the cause at once.
    let first =
        tokio::time::timeout(ACQUIRE_TIMEOUT, settings.connect()).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    let _ = first.close().await;
    let pool = PgPoolOptions::new()
        .max_connections(options.postgres_connections.max(2))
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(settings)
        .await?;
    Ok(Db::Postgres(pool))
}
