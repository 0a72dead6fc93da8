use chrono::TimeZone as _;

use super::*;
use crate::{journal::Journal, outbox::Outbox};

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 14, 6, 0, 0).single().expect("a valid time")
}

#[tokio::test]
async fn the_file_is_written_so_that_a_power_cut_loses_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    let db = AgentDb::open(&dir.path().join("agent.db"), now()).await.expect("opens");
    for (pragma, value) in [("synchronous", 2_i64), ("foreign_keys", 1)] {
        let query = sqlx::AssertSqlSafe(format!("PRAGMA {pragma}"));
        let found: i64 = sqlx::query_scalar(query).fetch_one(db.pool()).await.expect("a value");
        assert_eq!(found, value, "{pragma}");
    }
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(db.pool()).await.expect("a value");
    assert_eq!(mode, "wal");
    assert_eq!(db.loss(), None);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_its_loss_told() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("agent.db");
    for damage in ["header", "page"] {
        let db = AgentDb::open(&path, now()).await.expect("opens");
        let before = Outbox::new(db.clone()).position().await.expect("position");
        db.close().await;
        let mut bytes = std::fs::read(&path).expect("reads");
        match damage {
            "header" => bytes[..16].fill(b'x'),
            _ => {
                // Pages of tables, not the header: only a look at the content finds it.
                let end = bytes.len();
                bytes[4096..end].fill(0xAA);
            }
        }
        std::fs::write(&path, &bytes).expect("writes");

        let later = now() + chrono::Duration::seconds(5);
        let db = AgentDb::open(&path, later).await.expect("opens anew");
        let loss = db.loss().expect("the loss is told").to_owned();
        assert!(loss.contains("set aside as"), "{loss}");
        let after = Outbox::new(db.clone()).position().await.expect("position");
        assert!(after.epoch > before.epoch, "{damage}: {after:?} after {before:?}");
        assert_eq!(after.seq, 0);
        assert_eq!(Journal::new(db.clone()).forgot_before(later).await.expect("a time"), Some(later));
        db.close().await;
        assert!(
            std::fs::read_dir(dir.path())
                .expect("lists")
                .any(|it| { it.expect("entry").file_name().to_string_lossy().contains(".damaged-") })
        );
        for entry in std::fs::read_dir(dir.path()).expect("lists") {
            std::fs::remove_file(entry.expect("entry").path()).expect("removes");
        }
    }
}

#[tokio::test]
async fn a_file_of_a_newer_agent_is_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("agent.db");
    let db = AgentDb::open(&path, now()).await.expect("opens");
    sqlx::query("PRAGMA user_version = 2").execute(db.pool()).await.expect("writes");
    db.close().await;
    assert!(matches!(AgentDb::open(&path, now()).await, Err(StateError::Newer { found: 2, .. })));
}

#[tokio::test]
async fn a_folder_that_is_missing_names_the_path() {
    let error = AgentDb::open(Path::new("/nonexistent/agent.db"), now()).await.expect_err("no such folder");
    assert!(error.to_string().contains("/nonexistent/agent.db"), "{error}");
}

/// What a start finds where there was a state file before.
async fn is_told_as_lost(dir: &Path) {
    let db = AgentDb::open(&dir.join("agent.db"), now()).await.expect("opens");
    assert!(db.loss().is_some_and(|it| it.contains("are lost")), "{:?}", db.loss());
    let position = Outbox::new(db.clone()).position().await.expect("position");
    assert_eq!(position.epoch, now().timestamp());
    assert_eq!(Journal::new(db.clone()).forgot_before(now()).await.expect("a time"), Some(now()));
    db.close().await;
    let db = AgentDb::open(&dir.join("agent.db"), now()).await.expect("opens");
    assert_eq!(db.loss(), None, "it is told once");
    db.close().await;
}

#[tokio::test]
async fn a_file_that_is_gone_or_empty_though_the_device_is_enrolled_is_a_loss() {
    for emptied in [false, true] {
        let dir = tempfile::tempdir().expect("folder");
        if emptied {
            std::fs::write(dir.path().join("agent.db"), b"").expect("writes");
        }
        std::fs::write(dir.path().join("identity.json"), b"{}").expect("writes");
        is_told_as_lost(dir.path()).await;
    }
}

#[tokio::test]
async fn a_crash_between_setting_aside_and_the_new_file_is_still_a_loss() {
    let dir = tempfile::tempdir().expect("folder");
    std::fs::write(dir.path().join("agent.db.damaged-1"), b"xxxx").expect("writes");
    // The new one was half made.
    std::fs::write(dir.path().join("agent.db.new"), b"xxxx").expect("writes");
    is_told_as_lost(dir.path()).await;
}

#[tokio::test]
async fn a_file_without_tables_counts_as_none() {
    let dir = tempfile::tempdir().expect("folder");
    let pool = open_checked(&dir.path().join("agent.db")).await.map_err(|it| it.why).expect("opens");
    pool.close().await;
    let db = AgentDb::open(&dir.path().join("agent.db"), now()).await.expect("opens");
    assert_eq!((db.loss(), Outbox::new(db.clone()).position().await.expect("position").epoch), (None, 1));
}
