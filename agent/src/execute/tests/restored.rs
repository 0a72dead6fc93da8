//! What comes first at a start, whatever else fails, and what may not go on after one.

use std::sync::Arc;

use fleetmend_proto::{
    Action,
    order::{OrderPhase, Refusal, StepState},
};

use super::{Bench, Deaf, Leased, START, fake::Fail};
use crate::{
    execute::{Admission, restore},
    journal::{Journal, OrderUpdate},
    state::AgentDb,
};

/// An order is accepted and cut off after so many durable writes; the file is left as it is then.
async fn cut_off(bench: &Bench, action: Action, writes: i64) {
    let db = bench.db().await;
    let agent = bench.agent(&db);
    assert!(matches!(agent.accept(&Bench::note(action)).await.expect("journal"), Admission::Accepted(_)));
    db.cut.at(writes, true);
    agent.execute(Bench::text(Action::Retry, 12).order, &bench.lease, &Deaf).await.expect_err("cut");
    db.close().await;
}

async fn restored(bench: &Bench, db: &AgentDb, why: Option<&str>) -> OrderUpdate {
    let clock = Arc::clone(&bench.clock);
    restore(bench.fake.clone(), db.clone(), clock, bench.local.clone(), why).await.expect("the journal works");
    let journal = Journal::new(db.clone());
    let record = journal.order(Bench::text(Action::Retry, 12).order).await.expect("read").expect("known");
    journal.update_of(&record).await.expect("read")
}

async fn resumed(bench: &Bench) -> OrderUpdate {
    let db = bench.db().await;
    let mut ended = bench.agent(&db).resume(&bench.lease, &Deaf).await.expect("the journal works");
    db.close().await;
    ended.pop().expect("an order was open")
}

async fn into_safe_mode(bench: &Bench) {
    let db = bench.db().await;
    let journal = Journal::new(db.clone());
    for _ in 0..4 {
        journal.start_recorded(START).await.expect("stored");
    }
    assert!(journal.safe_until(START).await.expect("read").is_some());
    db.close().await;
}

#[tokio::test]
async fn safe_mode_undoes_an_order_that_had_begun_and_runs_nothing_of_it() {
    let bench = Bench::new();
    let before = bench.fake.pc();
    cut_off(&bench, Action::ResetComponents, 14).await;
    assert_ne!(bench.fake.pc(), before, "cut too early to mean anything");
    into_safe_mode(&bench).await;
    let asides = bench.fake.count("set_aside");
    let ended = resumed(&bench).await;
    assert_eq!(ended.phase, OrderPhase::Unknown);
    assert!(ended.detail.contains("safe mode"), "{}", ended.detail);
    assert_eq!(bench.fake.pc(), before);
    assert_eq!((bench.fake.count("set_aside"), bench.fake.count("install")), (asides, 0));
}

#[tokio::test]
async fn safe_mode_begins_no_order() {
    let bench = Bench::new();
    cut_off(&bench, Action::ResetComponents, 0).await;
    into_safe_mode(&bench).await;
    let ended = resumed(&bench).await;
    assert_eq!((ended.phase, ended.refusal), (OrderPhase::Refused, Some(Refusal::SafeMode)));
    assert_eq!(bench.fake.effects(), Vec::<String>::new());
}

#[tokio::test]
async fn without_an_identity_or_a_boot_id_what_was_stopped_runs_again() {
    let bench = Bench::new();
    let before = bench.fake.pc();
    cut_off(&bench, Action::ResetComponents, 14).await;
    bench.fake.fails("boot_id", Fail::Failed);
    let db = bench.db().await;
    let update = restored(&bench, &db, None).await;
    assert_eq!(update.phase, OrderPhase::Running, "it may go on, and is left for the resume");
    let update = restored(&bench, &db, Some("no identity")).await;
    db.close().await;
    assert_eq!((update.phase, update.detail.as_str()), (OrderPhase::Cancelled, "no identity"));
    assert_eq!(bench.fake.pc(), before);
}

#[tokio::test]
async fn an_undoing_that_was_cut_off_is_finished_first_of_all() {
    let bench = Bench::new();
    let before = bench.fake.pc();
    bench.fake.fails("set_aside Download", Fail::Failed);
    // In the middle of undoing.
    cut_off(&bench, Action::ResetComponents, 18).await;
    assert_ne!(bench.fake.pc(), before, "cut too early or too late to mean anything");
    let db = bench.db().await;
    let update = restored(&bench, &db, None).await;
    db.close().await;
    assert_eq!(update.phase, OrderPhase::Failed, "{}", update.detail);
    assert_eq!(bench.fake.pc(), before);
}

#[tokio::test]
async fn without_a_boot_id_an_order_goes_backward() {
    let bench = Bench::new();
    let before = bench.fake.pc();
    cut_off(&bench, Action::ResetComponents, 14).await;
    bench.fake.fails("boot_id", Fail::Failed);
    assert_eq!(resumed(&bench).await.phase, OrderPhase::Failed);
    assert_eq!(bench.fake.pc(), before);
}

/// The first write is the beginning, then there are two a step: this is after the intent of a step.
const fn intent_of(step: i64) -> i64 {
    1 + 2 * (step - 1)
}

#[tokio::test]
async fn what_a_crash_interrupted_is_not_done_again_once_cancelled() {
    let bench = Bench::new();
    bench.fake.exits("/ScanHealth", 0, "The component store is repairable.");
    cut_off(&bench, Action::RepairImage, intent_of(3)).await;
    let db = bench.db().await;
    let order = Bench::text(Action::Retry, 12);
    assert!(bench.agent(&db).cancel(order.order, order.fence).await.expect("journal"));
    db.close().await;
    let ended = resumed(&bench).await;
    assert_eq!(ended.phase, OrderPhase::Cancelled);
    assert_eq!(bench.fake.effects().iter().filter(|it| it.contains("RestoreHealth")).count(), 0);
    let restore = ended.steps.iter().find(|it| it.name == "dism_restore_health").expect("in the journal");
    assert_eq!(restore.state, StepState::Unknown);
}

#[tokio::test]
async fn what_a_crash_interrupted_needs_time_and_leave_like_what_is_new() {
    for (expired, refusal) in [(true, Refusal::Expired), (false, Refusal::NoLease)] {
        // The first step that changes something: stopping the first service.
        let mut bench = Bench::new();
        let before = bench.fake.pc();
        cut_off(&bench, Action::ResetComponents, intent_of(2)).await;
        if expired {
            bench.pass(chrono::Duration::days(7));
        } else {
            bench.lease = Leased(false);
        }
        let ended = resumed(&bench).await;
        assert_eq!((ended.phase, ended.refusal), (OrderPhase::Refused, Some(refusal)), "{}", ended.detail);
        assert_eq!(bench.fake.count("stop"), 0);
        assert_eq!(bench.fake.pc(), before);
    }
}

#[tokio::test]
async fn after_its_first_effect_an_order_goes_on_without_time_and_leave() {
    let bench = Bench { lease: Leased(true), ..Bench::new() };
    cut_off(&bench, Action::ResetComponents, intent_of(4)).await;
    bench.pass(chrono::Duration::days(7));
    assert_eq!(resumed(&bench).await.phase, OrderPhase::Succeeded);
}

#[tokio::test]
async fn a_cancelled_restart_is_called_off() {
    // In the same life as the restart was asked for, and in the next one.
    for next_life in [false, true] {
        let bench = Bench::new();
        let order = Bench::text(Action::Retry, 12);
        if next_life {
            // Begun, intent, then it waits.
            cut_off(&bench, Action::Reboot, 2).await;
        } else {
            let db = bench.db().await;
            let agent = bench.agent(&db);
            assert!(matches!(
                agent.accept(&Bench::note(Action::Reboot)).await.expect("journal"),
                Admission::Accepted(_)
            ));
            db.close().await;
        }
        let db = bench.db().await;
        let agent = bench.agent(&db);
        bench.fake.cancels_at("reboot", &db, order.order, order.fence);
        if next_life {
            assert!(agent.cancel(order.order, order.fence).await.expect("journal"));
        }
        let ended = agent.execute(order.order, &bench.lease, &Deaf).await.expect("journal");
        db.close().await;
        assert_eq!(ended.phase, OrderPhase::Cancelled, "{}", ended.detail);
        assert_eq!(bench.fake.count("call_off_reboot"), 1, "next life: {next_life}");
        assert_eq!(bench.fake.count("install"), 0);
    }
}

#[tokio::test]
async fn a_restart_that_came_is_not_called_off() {
    let bench = Bench::new();
    cut_off(&bench, Action::Reboot, 2).await;
    bench.fake.restart();
    let db = bench.db().await;
    let order = Bench::text(Action::Retry, 12);
    assert!(bench.agent(&db).cancel(order.order, order.fence).await.expect("journal"));
    db.close().await;
    assert_eq!(resumed(&bench).await.phase, OrderPhase::Cancelled);
    assert_eq!(bench.fake.count("call_off_reboot"), 0);
}
