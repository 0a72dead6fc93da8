//! What is put off, and what an order that ended still owes.

use fleetmend_proto::{
    Action, PackageHash,
    order::{OrderPhase, Refusal},
};

use super::{
    Bench, Deaf,
    fake::{Fail, StartType2},
};
use crate::journal::OrderUpdate;

async fn resumed(bench: &Bench) {
    let db = bench.db().await;
    bench.agent(&db).resume(&bench.lease, &Deaf).await.expect("the journal works");
    db.close().await;
}

/// An order with its own number, after others.
async fn next_order(bench: &Bench, number: u32, action: Action) -> OrderUpdate {
    let mut text = Bench::text(action, 12 + i64::from(number));
    text.order = fleetmend_proto::OrderId(uuid::Uuid::from_u128(3 + u128::from(number)));
    let db = bench.db().await;
    let update = bench.life(&db, &super::key().sign(&text).0).await.expect("the journal works");
    db.close().await;
    update
}

fn deferred(update: &OrderUpdate) {
    assert_eq!((update.phase, update.refusal), (OrderPhase::Refused, Some(Refusal::Precondition)), "{}", update.detail);
}

#[tokio::test]
async fn a_service_that_hangs_while_it_stops_puts_the_order_off_and_runs_again() {
    for name in ["UsoSvc", "bits", "cryptsvc"] {
        let bench = Bench::new();
        bench.fake.hangs(name, 12);
        let before = bench.fake.pc();
        let update = bench.run(Action::ResetComponents).await;
        deferred(&update);
        assert!(update.detail.contains("did not stop"), "{}", update.detail);
        assert_eq!(bench.fake.pc(), before, "{name} hung");
    }
}

#[tokio::test]
async fn a_service_that_hangs_when_windows_started_it_again_puts_the_order_off_too() {
    let bench = Bench::new();
    let before = bench.fake.pc();
    // It stops at first, is started by a trigger, and hangs then: the step that sets aside meets it.
    bench.fake.change(|pc| {
        pc.services.insert("bits".to_owned(), (StartType2::Manual, false));
    });
    bench.fake.starts_by_itself("bits");
    bench.fake.hangs("bits", 12);
    let update = bench.run(Action::ResetComponents).await;
    deferred(&update);
    let after = bench.fake.pc();
    assert_eq!(after.folders, before.folders);
    assert!(["UsoSvc", "wuauserv", "DoSvc", "cryptsvc"].iter().all(|it| after.services[*it].1), "{after:?}");
}

#[tokio::test]
async fn a_service_that_hangs_for_longer_is_started_later_and_without_a_restart_of_the_agent() {
    let bench = Bench::new();
    bench.fake.hangs("bits", 200);
    let before = bench.fake.pc();
    let db = bench.db().await;
    let agent = bench.agent(&db);
    let note = Bench::note(Action::ResetComponents);
    assert!(matches!(agent.accept(&note).await.expect("journal"), super::Admission::Accepted(_)));
    deferred(&agent.execute(Bench::text(Action::Retry, 12).order, &bench.lease, &Deaf).await.expect("journal"));
    let mut tries = 0;
    while agent.is_owing().await.expect("journal") {
        agent.settle_later().await.expect("journal");
        tries += 1;
        assert!(tries < 20, "it is never started");
    }
    assert!(tries > 0, "it hung too short to mean anything");
    db.close().await;
    assert_eq!(bench.fake.pc(), before);
}

#[tokio::test]
async fn what_an_owed_undo_stops_runs_again_after_it() {
    for fails_again in [false, true] {
        let bench = Bench::new();
        let before = bench.fake.pc();
        // The order fails, and its folder can neither be put back nor is it built anew.
        bench.fake.fails("set_aside Download", Fail::Failed);
        bench.fake.fails("put_back DataStore", Fail::Failed);
        bench.fake.builds_no_folders();
        let update = bench.run(Action::ResetComponents).await;
        assert_eq!(update.phase, OrderPhase::Failed);
        assert!(update.detail.contains("not undone: set_aside_datastore"), "{}", update.detail);
        assert_eq!(bench.fake.pc().services, before.services, "stopped at once");
        if !fails_again {
            bench.fake.heals();
        }
        resumed(&bench).await;
        assert_eq!(bench.fake.pc().services, before.services, "stopped by the owed undo, fails again: {fails_again}");
        assert_eq!(bench.fake.pc() == before, !fails_again);
    }
}

#[tokio::test]
async fn an_owed_undo_that_was_cut_off_still_knows_what_ran() {
    let bench = Bench::new();
    let before = bench.fake.pc();
    bench.fake.fails("set_aside Download", Fail::Failed);
    bench.fake.fails("put_back DataStore", Fail::Failed);
    bench.fake.builds_no_folders();
    bench.run(Action::ResetComponents).await;
    bench.fake.heals();
    let db = bench.db().await;
    db.cut.at(0, true);
    bench.agent(&db).resume(&bench.lease, &Deaf).await.expect_err("cut after what runs was noted");
    db.close().await;
    // As far as it came: everything stopped, nothing started.
    bench.fake.change(|pc| {
        for name in ["UsoSvc", "wuauserv", "DoSvc", "bits", "cryptsvc"] {
            pc.services.entry(name.to_owned()).and_modify(|it| it.1 = false);
        }
    });
    resumed(&bench).await;
    assert_eq!(bench.fake.pc(), before);
}

#[tokio::test]
async fn what_windows_built_anew_is_not_moved_away_for_an_old_copy() {
    let bench = Bench::new();
    bench.fake.fails("set_aside Download", Fail::Failed);
    bench.fake.fails("put_back DataStore", Fail::Failed);
    bench.run(Action::ResetComponents).await;
    bench.fake.heals();
    let before = bench.fake.pc();
    assert!(before.folders.contains("DataStore"), "built anew by its service");
    resumed(&bench).await;
    assert_eq!(bench.fake.pc(), before);
    assert_eq!(bench.fake.count("put_back DataStore"), 0);
    resumed(&bench).await;
    let db = bench.db().await;
    assert!(!bench.agent(&db).is_owing().await.expect("journal"), "asked again and again");
    db.close().await;
}

#[tokio::test]
async fn a_newer_reset_leaves_nothing_of_an_older_one_owed() {
    let bench = Bench::new();
    bench.fake.fails("set_aside Download", Fail::Failed);
    bench.fake.fails("put_back DataStore", Fail::Failed);
    bench.fake.builds_no_folders();
    assert_eq!(bench.run(Action::ResetComponents).await.phase, OrderPhase::Failed);
    // Windows builds it, the next order succeeds, and its own folder is away as well for a moment.
    bench.fake.change(|pc| {
        pc.folders.insert("DataStore".to_owned());
    });
    // The start before the next order must not settle it yet: it fails still.
    bench.fake.fails_only("put_back DataStore", Fail::Failed);
    bench.fake.hides_folder_once("DataStore");
    assert_eq!(next_order(&bench, 1, Action::ResetComponents).await.phase, OrderPhase::Succeeded);
    bench.fake.heals();
    bench.fake.change(|pc| {
        pc.folders.remove("DataStore");
    });
    resumed(&bench).await;
    assert_eq!(bench.fake.count("put_back DataStore"), 0);
}

#[tokio::test]
async fn an_owed_stop_is_dropped() {
    let bench = Bench::new();
    // After bits was started again the next service does not start, and bits cannot be stopped: the order ends so.
    bench.fake.fails("start DoSvc", Fail::Failed);
    bench.fake.fails_after("start bits", "stop bits", Fail::Failed);
    let update = bench.run(Action::ResetComponents).await;
    assert_eq!(update.phase, OrderPhase::Failed);
    assert!(update.detail.contains("start_bits"), "{}", update.detail);
    bench.fake.heals();
    resumed(&bench).await;
    assert!(bench.fake.pc().services["bits"].1, "stopped, and never started again");
    assert!(bench.fake.pc().services["DoSvc"].1);
}

#[tokio::test]
async fn a_service_that_runs_though_disabled_is_not_stopped() {
    for name in ["UsoSvc", "cryptsvc"] {
        let bench = Bench::new();
        bench.fake.change(|pc| {
            pc.services.insert(name.to_owned(), (StartType2::Disabled, true));
        });
        let before = bench.fake.pc();
        let update = bench.run(Action::ResetComponents).await;
        assert_eq!(update.phase, OrderPhase::Unavailable, "{}", update.detail);
        assert!(update.detail.contains(name), "{}", update.detail);
        assert_eq!((bench.fake.pc(), bench.fake.effects()), (before, Vec::new()));
    }
}

#[tokio::test]
async fn a_busy_installer_puts_tier_5_off() {
    for code in [-2_145_124_330, 1618] {
        let bench = Bench::new();
        bench.fake.has_package("/packages/a.msu", false);
        bench.fake.exits("/packages", code, "");
        deferred(&bench.run(Action::InstallManually { package: PackageHash([7; 32]) }).await);
    }
}
