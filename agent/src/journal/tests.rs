use chrono::TimeZone as _;

use chrono::Duration;
use fleetmend_proto::order::{OrderPhase, OrderText};

use super::*;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 14, 6, 0, 0).single().expect("a valid time")
}

async fn journal() -> (tempfile::TempDir, Journal) {
    let dir = tempfile::tempdir().expect("folder");
    let db = AgentDb::open(&dir.path().join("agent.db"), now()).await.expect("opens");
    (dir, Journal::new(db))
}

#[tokio::test]
async fn four_starts_in_a_quarter_of_an_hour_put_safe_mode_on_for_a_day() {
    let (_dir, journal) = journal().await;
    for minute in [0, 20, 24, 28] {
        let safe = journal.start_recorded(now() + Duration::minutes(minute)).await.expect("stored");
        assert_eq!(safe, None, "minute {minute}");
    }
    let until = journal.start_recorded(now() + Duration::minutes(32)).await.expect("stored").expect("safe mode");
    assert_eq!(until, now() + Duration::minutes(32) + Duration::hours(24));
    assert_eq!(journal.safe_until(until).await.expect("read"), None, "it ends");
}

#[tokio::test]
async fn a_clock_set_back_does_not_count_starts_of_the_future() {
    let (_dir, journal) = journal().await;
    for _ in 0..3 {
        journal.start_recorded(now() + Duration::days(30)).await.expect("stored");
    }
    assert_eq!(journal.start_recorded(now()).await.expect("stored"), None);
}

#[tokio::test]
async fn a_clock_that_was_ahead_binds_no_longer_than_a_right_one() {
    let (dir, journal) = journal().await;
    let (ahead, order) = (now() + Duration::days(1500), order());
    for minute in 0..4 {
        journal.start_recorded(ahead + Duration::minutes(minute)).await.expect("stored");
    }
    assert!(journal.safe_until(ahead + Duration::minutes(2)).await.expect("read").is_some());
    assert_eq!(journal.safe_until(now()).await.expect("read"), None, "safe mode for years");

    journal.accept(&order, b"note", "", "boot", ahead).await.expect("stored");
    let intent =
        StepIntent { index: 1, name: "restart", undo: None, data: serde_json::Value::Null, boot_id: "boot", at: ahead };
    journal.intent(order.order, &intent, true).await.expect("stored");
    assert_eq!(journal.reboots(order.order, ahead).await.expect("read"), (1, 1));
    assert_eq!(journal.reboots(order.order, now()).await.expect("read"), (1, 0), "a restart of the future");

    std::fs::create_dir(dir.path().join("other")).expect("folder");
    std::fs::write(dir.path().join("other/identity.json"), b"{}").expect("writes");
    let lost = Journal::new(AgentDb::open(&dir.path().join("other/agent.db"), ahead).await.expect("opens"));
    assert_eq!(lost.forgot_before(now()).await.expect("read"), Some(now()), "no order would be new for years");
    assert_eq!(lost.forgot_before(now() + Duration::hours(1)).await.expect("read"), Some(now()), "and it stays so");
}

#[tokio::test]
async fn only_what_was_told_is_no_longer_told() {
    let (_dir, journal) = journal().await;
    let order = order();
    journal.accept(&order, b"note", "all well", "boot", now()).await.expect("stored");
    let first = journal.untold().await.expect("read").remove(0);
    // A step begins while the first update is on its way.
    let intent =
        StepIntent { index: 1, name: "one", undo: None, data: serde_json::Value::Null, boot_id: "boot", at: now() };
    journal.intent(order.order, &intent, false).await.expect("stored");
    journal.told(&first).await.expect("stored");
    let second = journal.untold().await.expect("read").remove(0);
    assert_eq!(second.steps.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["one"]);
    journal.told(&second).await.expect("stored");
    journal.told(&first).await.expect("an answer that comes late takes nothing back");
    assert_eq!(journal.untold().await.expect("read"), Vec::new());
}

#[tokio::test]
async fn finished_orders_that_were_told_go_after_90_days_and_others_stay() {
    let (_dir, journal) = journal().await;
    let order = order();
    journal.accept(&order, b"note", "", "boot", now()).await.expect("stored");
    journal.phase(order.order, OrderPhase::Succeeded, None, "", now()).await.expect("stored");
    let later = now() + Duration::days(91);
    journal.start_recorded(later).await.expect("stored");
    assert!(journal.order(order.order).await.expect("read").is_some(), "not told yet");
    let update = journal.untold().await.expect("read").remove(0);
    journal.told(&update).await.expect("stored");
    journal.start_recorded(later + Duration::hours(1)).await.expect("stored");
    assert_eq!(journal.order(order.order).await.expect("read"), None);
    assert_eq!(journal.max_fence().await.expect("read"), order.fence, "its fence is not forgotten");
}

fn order() -> OrderText {
    OrderText {
        fleet: fleetmend_proto::FleetId(uuid::Uuid::from_u128(1)),
        device: fleetmend_proto::DeviceId(uuid::Uuid::from_u128(2)),
        order: OrderId(uuid::Uuid::from_u128(3)),
        incident: fleetmend_proto::IncidentId(uuid::Uuid::from_u128(4)),
        fence: Fence(12),
        not_before: now(),
        not_after: now(),
        action: fleetmend_proto::Action::Retry,
        update_id: None,
        revision: 0,
        kb: None,
    }
}
