//! The raw limit of an engine: rows of a report's size, 500 to a transaction, one statement each, through sqlx.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use sqlx::{
    Connection as _, PgConnection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

const ROWS: i64 = 500;

fn batch(from: i64) -> String {
    let title = "2026-01 Cumulative Update for Windows 11 Version 24H2 for x64-based Systems (KB5999991)";
    let rows: Vec<_> = (from..from + ROWS)
        .map(|seq| json!({"device": seq % 1_000, "seq": seq, "code": 0x8007_3712_i64, "at": seq, "title": title}))
        .collect();
    serde_json::Value::Array(rows).to_string()
}

/// Rows a second into SQLite with WAL and synchronous=FULL.
pub async fn sqlite(path: &std::path::Path, time: Duration) -> anyhow::Result<f64> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut db = SqliteConnection::connect_with(&options).await.context("opening the raw database")?;
    sqlx::query("CREATE TABLE IF NOT EXISTS raw (device INTEGER, seq INTEGER, code INTEGER, at INTEGER, title TEXT, PRIMARY KEY (device, seq)) STRICT, WITHOUT ROWID")
        .execute(&mut db)
        .await?;
    sqlx::query("DELETE FROM raw").execute(&mut db).await?;
    let (mut spent, mut rows) = (Duration::ZERO, 0_i64);
    while spent < time {
        let batch = batch(rows); // the engine's time counts, not that of making rows
        let started = Instant::now();
        let mut tx = db.begin().await?;
        sqlx::query("INSERT INTO raw SELECT value->>'device', value->>'seq', value->>'code', value->>'at', value->>'title' FROM json_each($1)")
            .bind(batch)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        spent += started.elapsed();
        rows += ROWS;
    }
    Ok(per_second(rows, spent))
}

/// Rows a second into PostgreSQL (fsync and synchronous_commit as the cluster has them: on).
pub async fn postgres(url: &str, time: Duration) -> anyhow::Result<f64> {
    let mut db = PgConnection::connect(url).await.context("opening the raw database")?;
    sqlx::query("CREATE TABLE IF NOT EXISTS raw (device bigint, seq bigint, code bigint, at bigint, title text, PRIMARY KEY (device, seq))")
        .execute(&mut db)
        .await?;
    sqlx::query("TRUNCATE raw").execute(&mut db).await?;
    let title = "2026-01 Cumulative Update for Windows 11 Version 24H2 for x64-based Systems (KB5999991)".to_owned();
    let titles = vec![title; usize::try_from(ROWS)?];
    let codes = vec![0x8007_3712_i64; usize::try_from(ROWS)?];
    let (mut spent, mut rows) = (Duration::ZERO, 0_i64);
    while spent < time {
        let seqs: Vec<i64> = (rows..rows + ROWS).collect();
        let devices: Vec<i64> = seqs.iter().map(|seq| seq % 1_000).collect();
        let started = Instant::now();
        let mut tx = db.begin().await?;
        sqlx::query(
            "INSERT INTO raw SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])",
        )
        .bind(&devices)
        .bind(&seqs)
        .bind(&codes)
        .bind(&seqs)
        .bind(&titles)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        spent += started.elapsed();
        rows += ROWS;
    }
    Ok(per_second(rows, spent))
}

#[allow(clippy::cast_precision_loss)] // a rate
fn per_second(rows: i64, spent: Duration) -> f64 {
    rows as f64 / spent.as_secs_f64()
}
