use chrono::{DateTime, TimeZone as _, Utc};
use fleetmend_proto::{HResult, Kb, Operation, OutcomeResult, Source, UpdateKind, UpdateRef};

use super::*;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 14, 6, 0, 0).single().expect("a valid time")
}

fn outcome(kb: u32) -> Outcome {
    Outcome {
        update: UpdateRef {
            update_id: None,
            revision: 1,
            kb: Some(Kb(kb)),
            title: "Update \"x\" ü".to_owned(),
            kind: UpdateKind::Quality,
            supersedes: Vec::new(),
        },
        operation: Operation::Install,
        result: OutcomeResult::Failed,
        code: HResult(0x8007_0103),
        raw_code: HResult(0x8007_0103),
        occurred_at: now(),
        source: Source::EventLog,
    }
}

struct Bench {
    dir: tempfile::TempDir,
    db: AgentDb,
    outbox: Outbox,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("folder");
    let db = AgentDb::open(&dir.path().join("agent.db"), now()).await.expect("opens");
    Bench { dir, outbox: Outbox::new(db.clone()), db }
}

fn kbs(batch: &[(i64, Outcome)]) -> Vec<(i64, u32)> {
    batch.iter().map(|(seq, it)| (*seq, it.update.kb.expect("a KB").0)).collect()
}

#[tokio::test]
async fn outcomes_leave_oldest_first_and_only_when_acknowledged() {
    let it = bench().await;
    let position = it.outbox.append(&[outcome(100_001), outcome(100_002)], Some("c1")).await.expect("stored");
    assert_eq!(position, Position { epoch: 1, seq: 2 });
    it.outbox.append(&[outcome(100_003)], None).await.expect("stored");
    let (epoch, batch) = it.outbox.batch(2, MAX_BATCH_BYTES).await.expect("read");
    assert_eq!((epoch, kbs(&batch)), (1, vec![(1, 100_001), (2, 100_002)]));
    assert_eq!(it.outbox.batch(2, MAX_BATCH_BYTES).await.expect("read").1, batch, "reading takes nothing");
    it.outbox.acked(7, 2).await.expect("ignored");
    assert_eq!(it.outbox.pending().await.expect("read").outcomes, 3, "another epoch acknowledges nothing");
    it.outbox.acked(1, 2).await.expect("stored");
    let (_, batch) = it.outbox.batch(500, MAX_BATCH_BYTES).await.expect("read");
    assert_eq!(kbs(&batch), [(3, 100_003)]);
    it.outbox.acked(1, 3).await.expect("stored");
    assert_eq!(it.outbox.batch(500, MAX_BATCH_BYTES).await.expect("read"), (1, Vec::new()));
    assert_eq!(it.outbox.position().await.expect("read"), Position { epoch: 1, seq: 3 });
    assert_eq!(it.outbox.acked_position().await.expect("read"), Position { epoch: 1, seq: 3 });
    assert_eq!(it.outbox.recorded_total().await.expect("read"), 3);
    assert_eq!(it.outbox.cursor().await.expect("read").as_deref(), Some("c1"));
}

#[tokio::test]
async fn outcomes_and_cursor_are_stored_together_or_not_at_all() {
    let it = bench().await;
    it.outbox.append(&[outcome(100_001)], Some("c1")).await.expect("stored");
    it.db.cut.at(0, false);
    it.outbox.append(&[outcome(100_002)], Some("c2")).await.expect_err("cut");
    it.db.close().await;
    let db = AgentDb::open(&it.dir.path().join("agent.db"), now()).await.expect("opens");
    let outbox = Outbox::new(db);
    assert_eq!(outbox.cursor().await.expect("read").as_deref(), Some("c1"));
    assert_eq!(outbox.recorded_total().await.expect("read"), 1);
    assert_eq!(outbox.pending().await.expect("read").outcomes, 1);
}

#[tokio::test]
async fn a_new_epoch_keeps_what_is_unsent() {
    let it = bench().await;
    let many: Vec<_> = (100_001..100_008).map(outcome).collect();
    it.outbox.append(&many, None).await.expect("stored");
    it.outbox.acked(1, 2).await.expect("stored");
    assert_eq!(it.outbox.new_epoch().await.expect("stored"), 2);
    let (epoch, batch) = it.outbox.batch(500, MAX_BATCH_BYTES).await.expect("read");
    let expected: Vec<_> = (1..).zip(100_003..100_008).collect();
    assert_eq!((epoch, kbs(&batch)), (2, expected));
    let next = it.outbox.append(&[outcome(100_009)], None).await.expect("stored");
    assert_eq!(next, Position { epoch: 2, seq: 6 });
    assert_eq!(it.outbox.recorded_total().await.expect("read"), 8);
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes_and_never_empty() {
    let it = bench().await;
    let many: Vec<_> = (0..20).map(|n| outcome(100_000 + n)).collect();
    it.outbox.append(&many, None).await.expect("stored");
    let pending = it.outbox.pending().await.expect("read");
    let one = usize::try_from(pending.bytes / 20).expect("small");
    assert_eq!(it.outbox.batch(500, one * 3 + 1).await.expect("read").1.len(), 3);
    assert_eq!(it.outbox.batch(500, 1).await.expect("read").1.len(), 1);
    assert_eq!(it.outbox.batch(0, MAX_BATCH_BYTES).await.expect("read").1.len(), 1);
}

#[tokio::test]
async fn passing_the_cap_drops_nothing() {
    let it = bench().await;
    let many: Vec<_> = (0..10_001).map(|n| outcome(100_000 + n)).collect();
    it.outbox.append(&many, None).await.expect("stored");
    let pending = it.outbox.pending().await.expect("read");
    assert_eq!(pending.outcomes, 10_001);
    assert!(pending.is_over_cap());
    assert_eq!(it.outbox.batch(10_000, MAX_BATCH_BYTES).await.expect("read").1.len(), MAX_BATCH);
}
