//! Cuts each action at every durable write, before and after its commit, with and without a restart of the PC before
//! the next life, and compares with the life that was not cut.

use fleetmend_proto::{
    Action, PackageHash,
    order::{OrderPhase, StepState},
};

use super::{
    Bench,
    fake::{Fail, Pc},
};
use crate::{
    journal::{Journal, OrderUpdate},
    state::StateError,
};

/// What may be done once only.
const ONCE: [&str; 4] = ["install", "reboot", "run Wusa", "reset_pc"];

/// How an uncut life ends, and how many durable writes it took.
struct Uncut {
    phase: OrderPhase,
    pc: Pc,
}

async fn uncut(action: &Action, prepare: fn(&Bench)) -> Uncut {
    let bench = Bench::new();
    prepare(&bench);
    let update = bench.run(action.clone()).await;
    Uncut { phase: update.phase, pc: bench.fake.pc() }
}

/// Two lives, the first cut after `writes` durable writes. `None`: the first life was not cut any more.
async fn cut_at(
    action: &Action,
    prepare: fn(&Bench),
    writes: i64,
    after: bool,
    restart: bool,
) -> Option<(Bench, OrderUpdate)> {
    let bench = Bench::new();
    prepare(&bench);
    let note = Bench::note(action.clone());
    let db = bench.db().await;
    db.cut.at(writes, after);
    bench.fake.lives_with(db.cut.clone());
    match bench.life(&db, &note).await {
        Ok(_) => return None,
        Err(super::ExecuteError::State(StateError::Cut)) => {}
        Err(error) => panic!("cut at {writes}: {error}"),
    }
    assert_eq!(bench.fake.after_cut(), Vec::<String>::new(), "effects after the journal failed, cut at {writes}");
    db.close().await;
    if restart {
        bench.fake.restart();
    }
    let db = bench.db().await;
    bench.fake.lives_with(db.cut.clone());
    let update = bench.life(&db, &note).await.unwrap_or_else(|error| panic!("second life after {writes}: {error}"));
    db.close().await;
    Some((bench, update))
}

/// Gives the number of cuts tried.
async fn every_cut(action: Action, prepare: fn(&Bench)) -> i64 {
    let expected = uncut(&action, prepare).await;
    let mut cuts = 0;
    for after in [false, true] {
        for restart in [false, true] {
            for writes in 0.. {
                let Some((bench, update)) = cut_at(&action, prepare, writes, after, restart).await else { break };
                cuts += 1;
                let at = format!("{} cut at write {writes}, after commit: {after}, restart: {restart}", action.name());
                check(&bench, &update, &expected, &at).await;
            }
        }
    }
    cuts
}

async fn check(bench: &Bench, update: &OrderUpdate, expected: &Uncut, at: &str) {
    for effect in ONCE {
        let count = bench
            .fake
            .effects()
            .iter()
            .filter(|it| it.as_str() == effect || it.starts_with(&format!("{effect} ")))
            .count();
        assert!(count <= 1, "{effect} {count} times, {at}");
    }
    let db = bench.db().await;
    let steps = Journal::new(db.clone()).steps(update.order).await.expect("steps");
    db.close().await;
    assert!(steps.iter().all(|it| it.state != StepState::Started), "a step stays open, {at}: {steps:#?}");
    let unknown = steps.iter().any(|it| it.state == StepState::Unknown);
    assert!(
        update.phase == expected.phase || (unknown && update.phase == OrderPhase::Unknown),
        "{:?} {}, {at}",
        update.phase,
        update.detail
    );
    let mut pc = bench.fake.pc();
    // After a restart Windows has built a folder anew by itself; it was moved out of the way of the old one.
    pc.folders.retain(|it| !it.ends_with(".new"));
    if unknown {
        // The one thing that may differ: whether an installation that nobody saw end took place.
        pc.offers.clone_from(&expected.pc.offers);
        pc.installed.clone_from(&expected.pc.installed);
    }
    assert_eq!(pc, expected.pc, "{at}: {steps:#?}");
}

fn nothing(_: &Bench) {}

#[tokio::test]
async fn retry_survives_every_cut() {
    assert!(every_cut(Action::Retry, nothing).await > 40);
}

#[tokio::test]
async fn troubleshoot_survives_every_cut() {
    let disabled = |bench: &Bench| {
        bench.fake.change(|pc| {
            pc.services.insert("bits".to_owned(), (super::fake::StartType2::Disabled, false));
        });
    };
    assert!(every_cut(Action::Troubleshoot, disabled).await > 40);
}

#[tokio::test]
async fn repair_image_survives_every_cut() {
    assert!(every_cut(Action::RepairImage, nothing).await > 40);
}

#[tokio::test]
async fn reset_components_survives_every_cut() {
    assert!(every_cut(Action::ResetComponents, nothing).await > 100);
}

#[tokio::test]
async fn a_failed_reset_is_undone_at_every_cut() {
    let second_rename_fails = |bench: &Bench| bench.fake.fails("set_aside Download", Fail::Failed);
    assert!(every_cut(Action::ResetComponents, second_rename_fails).await > 80);
}

#[tokio::test]
async fn a_service_that_does_not_stop_leaves_nothing_stopped_at_every_cut() {
    let bits_hangs = |bench: &Bench| bench.fake.fails("stop bits", Fail::TimedOut);
    assert!(every_cut(Action::ResetComponents, bits_hangs).await > 40);
}

#[tokio::test]
async fn install_manually_survives_every_cut() {
    let package = |bench: &Bench| bench.fake.has_package("/packages/a.msu", true);
    assert!(every_cut(Action::InstallManually { package: PackageHash([7; 32]) }, package).await > 30);
}

#[tokio::test]
async fn hide_update_survives_every_cut() {
    assert!(every_cut(Action::HideUpdate, nothing).await > 20);
}

#[tokio::test]
async fn reboot_survives_every_cut_that_the_restart_follows() {
    let at_once = |bench: &Bench| bench.fake.restarts_at_once();
    let expected = uncut(&Action::Reboot, at_once).await;
    for after in [false, true] {
        for writes in 0.. {
            let Some((bench, update)) = cut_at(&Action::Reboot, at_once, writes, after, true).await else { break };
            check(&bench, &update, &expected, &format!("reboot cut at {writes}, after {after}")).await;
        }
    }
}
