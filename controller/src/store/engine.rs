//! The two engines behind one text of SQL: pools, transactions and the macros that run the same body on either.
//! Used by the store's files only.

use sqlx::{PgPool, Postgres, Sqlite, SqlitePool, Transaction};

/// Where the rows are.
#[derive(Clone, Debug)]
pub(super) enum Db {
    /// One writer connection; readers see the last commit (WAL).
    Sqlite {
        read: SqlitePool,
        write: SqlitePool,
    },
    Postgres(PgPool),
}

/// Which engine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// A write transaction. Dropping it rolls back.
pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Db {
    pub(super) async fn begin(&self) -> Result<Tx, sqlx::Error> {
        match self {
            Self::Sqlite { write, .. } => write.begin_with("BEGIN IMMEDIATE").await.map(Tx::Sqlite),
            Self::Postgres(pool) => pool.begin().await.map(Tx::Postgres),
        }
    }
}

impl Tx {
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
        }
    }
}

/// Runs the body on the pool that reads.
macro_rules! on {
    ($db:expr, $pool:ident => $body:expr) => {
        match &$db {
            $crate::store::engine::Db::Sqlite { read: $pool, .. } => $body,
            $crate::store::engine::Db::Postgres($pool) => $body,
        }
    };
}

/// Runs the body on the connection of a write transaction; `$conn` is an executor.
macro_rules! within {
    ($tx:expr, $conn:ident => $body:expr) => {
        match &mut *$tx {
            $crate::store::engine::Tx::Sqlite(tx) => {
                let $conn = &mut **tx;
                $body
            }
            $crate::store::engine::Tx::Postgres(tx) => {
                let $conn = &mut **tx;
                $body
            }
        }
    };
}

/// One statement over many rows, bound as one JSON array of objects in `$1`. Between the two texts stands `r`, a
/// derived table with the named columns (uuid, text, bigint, boolean, timestamptz, bytea):
/// `bulk_sql!("INSERT INTO t (a) SELECT r.a FROM " [a: uuid] " WHERE true")` is `[sqlite_text, postgres_text]`.
macro_rules! bulk_sql {
    ($before:literal [$first:ident : $first_type:ident $(, $name:ident : $type:ident)* $(,)?] $after:expr) => {
        [
            concat!(
                $before, "(SELECT ",
                $crate::store::engine::json_column!($first, $first_type),
                $(", ", $crate::store::engine::json_column!($name, $type),)*
                " FROM jsonb_each($1)) AS r ", $after
            ),
            concat!(
                $before, "jsonb_to_recordset($1::jsonb) AS r(",
                stringify!($first), " ", stringify!($first_type),
                $(", ", stringify!($name), " ", stringify!($type),)*
                ") ", $after
            ),
        ]
    };
}

/// One column of a JSON object as SQLite keeps it. Times: chrono prints `Z`, sqlx `+00:00`; rows hold the latter.
macro_rules! json_column {
    ($name:ident, uuid) => {
        concat!("unhex(value->>'", stringify!($name), "', '-') AS ", stringify!($name))
    };
    ($name:ident, bytea) => {
        concat!("unhex(substr(value->>'", stringify!($name), "', 3)) AS ", stringify!($name))
    };
    ($name:ident, timestamptz) => {
        concat!("replace(value->>'", stringify!($name), "', 'Z', '+00:00') AS ", stringify!($name))
    };
    ($name:ident, $other:ident) => {
        concat!("value->>'", stringify!($name), "' AS ", stringify!($name))
    };
}

/// Inserts many rows, each column's place in the arguments given: `bulk_insert!(tx, "report", rows, "INTO t",
/// [a: uuid "$1", b: text "$2"], "ON CONFLICT DO NOTHING")`. SQLite reads them from one JSON argument, PostgreSQL from
/// an array a column, which it takes in several times faster. Gives the number of rows inserted.
macro_rules! bulk_insert {
    ($tx:expr, $operation:expr, $rows:expr, $table:literal,
     [$first:ident : $first_type:ident $first_place:literal $(, $name:ident : $type:ident $place:literal)* $(,)?], $after:literal) => {
        match &mut *$tx {
            $crate::store::engine::Tx::Sqlite(tx) => {
                let sql = concat!(
                    "INSERT INTO ", $table, " (", stringify!($first), $(", ", stringify!($name),)* ") SELECT ",
                    $crate::store::engine::json_column!($first, $first_type),
                    $(", ", $crate::store::engine::json_column!($name, $type),)*
                    " FROM jsonb_each($1) WHERE true ", $after
                );
                let rows = $crate::store::json_text($rows)?;
                sqlx::query(sql).bind(rows).execute(&mut **tx).await.map(|done| done.rows_affected())
            }
            $crate::store::engine::Tx::Postgres(tx) => {
                let sql = concat!(
                    "INSERT INTO ", $table, " (", stringify!($first), $(", ", stringify!($name),)* ") ",
                    "SELECT * FROM UNNEST(", $first_place, "::", stringify!($first_type), "[]",
                    $(", ", $place, "::", stringify!($type), "[]",)* ") ", $after
                );
                let query = sqlx::query(sql).bind($rows.iter().map(|row| row.$first.clone()).collect::<Vec<_>>());
                $(let query = query.bind($rows.iter().map(|row| row.$name.clone()).collect::<Vec<_>>());)*
                query.execute(&mut **tx).await.map(|done| done.rows_affected())
            }
        }
        .during($operation)
    };
}

/// Executes a bulk statement in a transaction; more arguments are `$2`, `$3`, ... Gives the number of rows.
macro_rules! bulk {
    ($tx:expr, $sql:expr, $rows:expr, $operation:expr $(, $more:expr)*) => {{
        let rows = $crate::store::json_text($rows)?;
        let [sqlite, postgres] = $sql;
        match &mut *$tx {
            $crate::store::engine::Tx::Sqlite(tx) => {
                let query = sqlx::query(sqlite).bind(rows)$(.bind($more))*;
                query.execute(&mut **tx).await.map(|done| done.rows_affected())
            }
            $crate::store::engine::Tx::Postgres(tx) => {
                let query = sqlx::query(postgres).bind(rows)$(.bind($more))*;
                query.execute(&mut **tx).await.map(|done| done.rows_affected())
            }
        }
        .during($operation)
    }};
}

/// Fetches all rows of a bulk statement in a transaction as tuples or `FromRow` structs.
macro_rules! bulk_fetch {
    ($tx:expr, $sql:expr, $rows:expr, $operation:expr $(, $more:expr)*) => {{
        let rows = $crate::store::json_text($rows)?;
        let [sqlite, postgres] = $sql;
        match &mut *$tx {
            $crate::store::engine::Tx::Sqlite(tx) => {
                sqlx::query_as(sqlite).bind(rows)$(.bind($more))*.fetch_all(&mut **tx).await
            }
            $crate::store::engine::Tx::Postgres(tx) => {
                sqlx::query_as(postgres).bind(rows)$(.bind($more))*.fetch_all(&mut **tx).await
            }
        }
        .during($operation)
    }};
}

/// As `bulk_fetch`, on the pool that reads.
macro_rules! bulk_read {
    ($db:expr, $sql:expr, $rows:expr, $operation:expr $(, $more:expr)*) => {{
        let rows = $crate::store::json_text($rows)?;
        let [sqlite, postgres] = $sql;
        match &$db {
            $crate::store::engine::Db::Sqlite { read, .. } => {
                sqlx::query_as(sqlite).bind(rows)$(.bind($more))*.fetch_all(read).await
            }
            $crate::store::engine::Db::Postgres(pool) => {
                sqlx::query_as(postgres).bind(rows)$(.bind($more))*.fetch_all(pool).await
            }
        }
        .during($operation)
    }};
}

pub(super) use {bulk, bulk_fetch, bulk_insert, bulk_read, bulk_sql, json_column, on, within};
