//! The agent's one file: an SQLite database that the outbox and the journal share. Opened by the service (and once per
//! simulated PC); everything durable on an endpoint is in it. SQL stands only in `outbox` and `journal` besides here.
//!
//! INVARIANT: one connection, WAL with `synchronous=FULL`: what was committed survives a power cut.

use std::{
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: i64 = 1;

/// Why the agent's own file gave no answer. Whoever gets one stops: nothing may be done that cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot open the agent's state file {path}: check the disk and the folder's permissions")]
    Open {
        path: PathBuf,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot set aside the damaged state file {path}: move it away by hand")]
    SetAside {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the agent's state file {path} cannot be made: check the disk and the folder's permissions")]
    Make {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the agent's state file {path} has schema version {found}, this agent knows {SCHEMA_VERSION}: update the agent"
    )]
    Newer { path: PathBuf, found: i64 },
    #[error("the agent's state file failed to {what}")]
    Sql {
        what: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("the agent's state file holds an unreadable {what}: {why}")]
    Content { what: &'static str, why: String },
    /// Tests cut the run here, as a power loss would.
    #[cfg(test)]
    #[error("cut by the test")]
    Cut,
}

pub type Result<T> = std::result::Result<T, StateError>;

/// A handle on the agent's file; clones share the one connection.
#[derive(Clone, Debug)]
pub struct AgentDb {
    pool: SqlitePool,
    loss: Option<String>,
    #[cfg(test)]
    pub(crate) cut: std::sync::Arc<Cut>,
}

/// A write under way: dropped without [`AgentDb::commit`], nothing of it stays.
pub(crate) type Tx = Transaction<'static, Sqlite>;

impl AgentDb {
    /// Opens the file, making it when there is none. A damaged one is renamed to `<name>.damaged-<time>`, and one that is
    /// missing or empty although this device has an identity was lost: then a new one is begun with a new epoch, and
    /// [`AgentDb::loss`] says so. `now` is domain time.
    ///
    /// # Errors
    /// When the file cannot be opened, made, renamed, or is of a newer agent.
    pub async fn open(path: &Path, now: DateTime<Utc>) -> Result<Self> {
        let mut loss = None;
        // A file of no bytes is nothing that SQLite has to look at.
        if std::fs::metadata(path).is_ok_and(|it| it.len() > 0) {
            match open_checked(path).await {
                Ok(pool) => match version(&pool).await? {
                    SCHEMA_VERSION => return Ok(Self::of(pool, None)),
                    0 => pool.close().await,
                    found => return Err(StateError::Newer { path: path.to_owned(), found }),
                },
                Err(damage) if damage.is_corruption => {
                    let aside = set_aside(path, now)?;
                    loss = Some(format!(
                        "the state file was damaged ({}) and set aside as {}: unsent outcomes and the journal before {now} are lost",
                        damage.why,
                        aside.display()
                    ));
                }
                Err(other) => return Err(other.into_error(path)),
            }
        }
        let loss = loss.or_else(|| {
            let trace = trace_of_use(path)?;
            let trace = trace.display();
            Some(format!(
                "the state file was gone, but {trace} is there: unsent outcomes and the journal before {now} are lost"
            ))
        });
        if let Some(loss) = &loss {
            tracing::error!(file = %path.display(), %loss, "state file lost");
        }
        make(path, now, loss.is_some()).await?;
        let pool = open_checked(path).await.map_err(|damage| damage.into_error(path))?;
        Ok(Self::of(pool, loss))
    }

    fn of(pool: SqlitePool, loss: Option<String>) -> Self {
        Self {
            pool,
            loss,
            #[cfg(test)]
            cut: std::sync::Arc::default(),
        }
    }

    /// What was lost when the file was opened, in words; `None` when it was sound.
    #[must_use]
    pub fn loss(&self) -> Option<&str> {
        self.loss.as_deref()
    }

    /// Closes the connection and waits until it is closed.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(crate) async fn begin(&self) -> Result<Tx> {
        #[cfg(test)]
        self.cut.check()?;
        self.pool.begin().await.map_err(sql("begin a write"))
    }

    /// Returns when the write is durable.
    pub(crate) async fn commit(&self, tx: Tx) -> Result<()> {
        #[cfg(test)]
        if self.cut.before_commit() {
            drop(tx);
            return Err(StateError::Cut);
        }
        tx.commit().await.map_err(sql("commit a write"))?;
        #[cfg(test)]
        self.cut.after_commit()?;
        Ok(())
    }

    pub(crate) const fn pool(&self) -> &SqlitePool {
        &self.pool
    }
}

/// Wraps a database error with what was being done.
pub(crate) fn sql(what: &'static str) -> impl Fn(sqlx::Error) -> StateError {
    move |source| StateError::Sql { what, source }
}

/// Wraps a decoding error of stored text.
pub(crate) fn content<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> StateError {
    move |error| StateError::Content { what, why: error.to_string() }
}

struct Damage {
    is_corruption: bool,
    why: String,
    source: sqlx::Error,
}

impl Damage {
    fn new(source: sqlx::Error) -> Self {
        // SQLITE_CORRUPT (11) and SQLITE_NOTADB (26), with their extended forms.
        let code = source.as_database_error().and_then(|it| it.code()).and_then(|it| i64::from_str(&it).ok());
        let is_corruption = code.is_some_and(|code| matches!(code & 0xff, 11 | 26));
        Self { is_corruption, why: source.to_string(), source }
    }

    fn into_error(self, path: &Path) -> StateError {
        StateError::Open { path: path.to_owned(), source: self.source }
    }
}

async fn version(pool: &SqlitePool) -> Result<i64> {
    sqlx::query_scalar("PRAGMA user_version").fetch_one(pool).await.map_err(sql("read its version"))
}

/// Makes a whole new file under another name and renames it last, so that a crash in between leaves no file that looks
/// new. After a loss old positions must never come back: seconds since 1970 are above any epoch ever counted.
async fn make(path: &Path, now: DateTime<Utc>, after_loss: bool) -> Result<()> {
    let new = beside(path, ".new");
    let failed = |source| StateError::Make { path: path.to_owned(), source };
    for leftover in ["", "-wal", "-shm", "-journal"] {
        remove(&beside(&new, leftover)).map_err(failed)?;
    }
    let forgot = after_loss.then(|| now.timestamp_micros());
    let epoch = if after_loss { now.timestamp().max(2) } else { 1 };
    let pool = open_checked(&new).await.map_err(|damage| damage.into_error(&new))?;
    let mut tx = pool.begin().await.map_err(sql("make its tables"))?;
    sqlx::raw_sql(SCHEMA).execute(&mut *tx).await.map_err(sql("make its tables"))?;
    sqlx::query("INSERT INTO meta VALUES (1, $1, 1, 0, 0, NULL, 0, 0, $2, NULL)")
        .bind(epoch)
        .bind(forgot)
        .execute(&mut *tx)
        .await
        .map_err(sql("make its tables"))?;
    sqlx::query("PRAGMA user_version = 1").execute(&mut *tx).await.map_err(sql("set its version"))?;
    tx.commit().await.map_err(sql("make its tables"))?;
    // Closing the only connection puts all into the one file.
    pool.close().await;
    for companion in ["-wal", "-shm", "-journal"] {
        remove(&beside(path, companion)).map_err(failed)?;
    }
    std::fs::rename(&new, path).map_err(failed)?;
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder).and_then(|it| it.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// What lies beside a missing state file only where there was one: this device's identity, or a damaged predecessor.
fn trace_of_use(path: &Path) -> Option<PathBuf> {
    let identity = path.with_file_name("identity.json");
    if identity.exists() {
        return Some(identity);
    }
    let damaged = format!("{}.damaged-", path.file_name()?.to_string_lossy());
    let entries = std::fs::read_dir(path.parent()?).ok()?;
    entries
        .filter_map(|it| Some(it.ok()?.path()))
        .find(|it| it.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&damaged)))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn open_checked(path: &Path) -> std::result::Result<SqlitePool, Damage> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .statement_cache_capacity(32)
        // A thousand agents may share a process in a simulation: 256 KiB of pages each, not SQLite's 2 MiB.
        .pragma("cache_size", "-256");
    let pool = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_with(options)
        .await
        .map_err(Damage::new)?;
    let check: std::result::Result<String, sqlx::Error> =
        sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&pool).await;
    match check {
        Ok(word) if word == "ok" => Ok(pool),
        Ok(why) => {
            pool.close().await;
            Err(Damage { is_corruption: true, why, source: sqlx::Error::WorkerCrashed })
        }
        Err(error) => {
            pool.close().await;
            Err(Damage::new(error))
        }
    }
}

fn set_aside(path: &Path, now: DateTime<Utc>) -> Result<PathBuf> {
    let aside = beside(path, &format!(".damaged-{}", now.timestamp_micros()));
    let failed = |source| StateError::SetAside { path: path.to_owned(), source };
    std::fs::rename(path, &aside).map_err(failed)?;
    for companion in ["-wal", "-shm"] {
        remove(&beside(path, companion)).map_err(failed)?;
    }
    Ok(aside)
}

/// Where tests cut a run: after a number of durable writes, the next one fails before or after its commit, and
/// everything fails from then on, as after a power loss.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Cut {
    left: std::sync::atomic::AtomicI64,
    after: std::sync::atomic::AtomicBool,
    dead: std::sync::atomic::AtomicBool,
}

#[cfg(test)]
impl Default for Cut {
    fn default() -> Self {
        Self { left: i64::MAX.into(), after: false.into(), dead: false.into() }
    }
}

#[cfg(test)]
impl Cut {
    pub(crate) fn at(&self, writes: i64, after: bool) {
        use std::sync::atomic::Ordering::SeqCst;
        self.left.store(writes, SeqCst);
        self.after.store(after, SeqCst);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn check(&self) -> Result<()> {
        if self.is_dead() { Err(StateError::Cut) } else { Ok(()) }
    }

    fn before_commit(&self) -> bool {
        use std::sync::atomic::Ordering::SeqCst;
        let due = self.left.fetch_sub(1, SeqCst) <= 0;
        if due {
            self.dead.store(true, SeqCst);
        }
        due && !self.after.load(SeqCst)
    }

    fn after_commit(&self) -> Result<()> {
        self.check()
    }
}

#[cfg(test)]
mod tests;
