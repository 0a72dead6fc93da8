//! Bringing a database to this binary's schema, and refusing one that is ahead of it.

use std::cmp::Ordering;

use fleetmend_proto::clock::wall_now;

use super::{
    Store, StoreError,
    engine::{Db, Tx, on, within},
    error::During as _,
    schema::{MIGRATIONS, newest},
};

/// What this binary calls itself.
const THIS: &str = env!("CARGO_PKG_VERSION");
/// Any number that nobody else on the same PostgreSQL server uses.
const ADVISORY_LOCK: i64 = 0x666C_6565_746D_6E64;

const SCHEMA_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema (\
    version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, min_binary TEXT NOT NULL, applied_at TEXT NOT NULL)";

impl Store {
    /// Applies what is missing, in one transaction; returns the names of the steps applied.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] when the database needs a newer binary.
    pub async fn migrate(&self) -> Result<Vec<&'static str>, StoreError> {
        let mut tx = self.begin("migrate").await?;
        if let Tx::Postgres(tx) = &mut tx {
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(ADVISORY_LOCK)
                .execute(&mut **tx)
                .await
                .during("migrate")?;
        }
        within!(&mut tx, conn => sqlx::query(SCHEMA_TABLE).execute(conn).await.map(|_| ())).during("migrate")?;
        let (found, needs): (Option<i64>, Option<String>) = within!(&mut tx, conn => sqlx::query_as(
            "SELECT MAX(version), (SELECT min_binary FROM schema ORDER BY version DESC LIMIT 1) FROM schema",
        )
        .fetch_one(conn)
        .await)
        .during("migrate")?;
        refuse_newer(needs)?;
        let mut applied = Vec::new();
        for migration in MIGRATIONS.iter().filter(|it| it.version > found.unwrap_or(0)) {
            match &mut tx {
                Tx::Sqlite(tx) => sqlx::raw_sql(migration.sqlite).execute(&mut **tx).await.map(|_| ()),
                Tx::Postgres(tx) => sqlx::raw_sql(migration.postgres).execute(&mut **tx).await.map(|_| ()),
            }
            .during("migrate")?;
            within!(&mut tx, conn => sqlx::query(
                "INSERT INTO schema (version, name, min_binary, applied_at) VALUES ($1, $2, $3, $4)",
            )
            .bind(migration.version)
            .bind(migration.name)
            .bind(migration.min_binary)
            .bind(wall_now().to_rfc3339())
            .execute(conn)
            .await
            .map(|_| ()))
            .during("migrate")?;
            applied.push(migration.name);
        }
        #[cfg(feature = "sabotage")]
        if crate::sabotage::Sabotage::IndexDropped.is_on() {
            let sql = "DROP INDEX IF EXISTS one_active";
            within!(&mut tx, conn => sqlx::query(sql).execute(conn).await.map(|_| ())).during("migrate")?;
        }
        tx.commit().await.during("migrate")?;
        Ok(applied)
    }

    /// Whether this binary can work on the database as it is.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] or [`StoreError::OlderSchema`].
    pub async fn schema_check(&self) -> Result<(), StoreError> {
        if !self.schema_exists().await? {
            return Err(StoreError::OlderSchema { found: 0, needed: newest() });
        }
        let newest_row: Option<(i64, String)> = on!(self.db, pool =>
            sqlx::query_as("SELECT version, min_binary FROM schema ORDER BY version DESC LIMIT 1")
                .fetch_optional(pool)
                .await)
        .during("schema check")?;
        let (found, needs) = newest_row.map_or((0, None), |(version, needs)| (version, Some(needs)));
        refuse_newer(needs)?;
        if found < newest() { Err(StoreError::OlderSchema { found, needed: newest() }) } else { Ok(()) }
    }

    async fn schema_exists(&self) -> Result<bool, StoreError> {
        let found: Option<i64> = match &self.db {
            Db::Sqlite { read, .. } => {
                sqlx::query_scalar("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema'")
                    .fetch_optional(read)
                    .await
            }
            Db::Postgres(pool) => {
                sqlx::query_scalar("SELECT 1::bigint WHERE to_regclass('schema') IS NOT NULL")
                    .fetch_optional(pool)
                    .await
            }
        }
        .during("schema check")?;
        Ok(found.is_some())
    }
}

fn refuse_newer(needs: Option<String>) -> Result<(), StoreError> {
    match needs {
        Some(needs) if compare(&needs, THIS) == Ordering::Greater => Err(StoreError::NewerSchema { needs, this: THIS }),
        _ => Ok(()),
    }
}

/// Compares `1.2.3` forms number by number.
fn compare(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<u64> {
        text.split(['.', '-', '+']).take(3).map(|part| part.parse().unwrap_or(0)).collect()
    };
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(compare("0.10.0", "0.9.9"), Ordering::Greater);
        assert_eq!(compare("0.1.0", "0.1.0"), Ordering::Equal);
        assert_eq!(compare("1.0.0", "0.99.0"), Ordering::Greater);
    }

    #[test]
    fn migrations_are_numbered_without_gaps() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version, i64::try_from(index).expect("few") + 1, "{}", migration.name);
            assert!(migration.name.starts_with(&format!("{:04}_", migration.version)), "{}", migration.name);
        }
    }
}
