//! How each action ends when nothing cuts it.

use fleetmend_proto::{
    Action, PackageHash,
    order::{FindingResult, OrderPhase, OrderText, Refusal, StepState},
};

use super::{
    Bench, Deaf, Leased, START,
    fake::{Fail, StartType2},
    key,
};
use crate::{
    execute::{Admission, pause},
    journal::{Journal, OrderUpdate, StepRecord},
    platform::Run,
};

async fn steps(bench: &Bench, update: &OrderUpdate) -> Vec<StepRecord> {
    let db = bench.db().await;
    let steps = Journal::new(db.clone()).steps(update.order).await.expect("steps");
    db.close().await;
    steps
}

fn step<'a>(steps: &'a [StepRecord], name: &str) -> &'a StepRecord {
    steps.iter().find(|it| it.name == name).unwrap_or_else(|| panic!("no step {name} in {steps:#?}"))
}

async fn refusal(bench: &Bench, action: Action) -> (Refusal, String) {
    let db = bench.db().await;
    let answer = bench.agent(&db).accept(&Bench::note(action)).await.expect("the journal works");
    db.close().await;
    match answer {
        Admission::Refused { refusal, detail, .. } => (refusal, detail),
        Admission::Accepted(_) | Admission::Duplicate(_) => panic!("not refused"),
    }
}

#[tokio::test]
async fn retry_pauses_resumes_and_installs() {
    let bench = Bench::new();
    let update = bench.run(Action::Retry).await;
    assert_eq!(update.phase, OrderPhase::Succeeded, "{}", update.detail);
    assert_eq!(bench.fake.count("registry"), 12);
    assert!(bench.fake.pc().registry.is_empty());
    assert_eq!(bench.fake.pc().installed.len(), 1);
    let steps = steps(&bench, &update).await;
    let install = step(&steps, "install_update");
    let run = Run { order: update.order, step: install.index };
    assert_eq!(bench.fake.effects_of(run), ["install"], "effects carry the order and its step");
}

#[tokio::test]
async fn a_failed_install_is_told_and_does_not_fail_the_order() {
    let bench = Bench::new();
    bench.fake.install_answers(0x8007_0103);
    let update = bench.run(Action::Retry).await;
    assert_eq!(update.phase, OrderPhase::Succeeded);
    assert!(step(&steps(&bench, &update).await, "install_update").detail.contains("0x80070103"));
}

#[tokio::test]
async fn a_failed_search_fails_a_retry_and_not_a_repair() {
    for (action, phase) in [(Action::Retry, OrderPhase::Failed), (Action::RepairImage, OrderPhase::Succeeded)] {
        let bench = Bench::new();
        bench.fake.fails("offers", Fail::Failed);
        assert_eq!(bench.run(action).await.phase, phase);
        assert_eq!(bench.fake.count("install"), 0);
    }
}

#[tokio::test]
async fn a_persons_pause_is_never_overridden() {
    let bench = Bench::new();
    let until = "2026-02-01T08:00:00Z".to_owned();
    let value = format!("{}\\PauseUpdatesExpiryTime", pause::KEY);
    bench.fake.change(|pc| {
        pc.registry.insert(value.clone(), until.clone());
    });
    let (why, detail) = refusal(&bench, Action::Retry).await;
    assert_eq!(why, Refusal::Precondition);
    assert!(detail.contains(&until), "{detail}");

    let bench = Bench::new();
    bench.fake.change(|pc| {
        pc.registry.insert(value.clone(), until.clone());
    });
    let update = bench.run(Action::ResetComponents).await;
    assert_eq!(update.phase, OrderPhase::Succeeded);
    assert_eq!(bench.fake.count("install"), 0);
    assert_eq!(bench.fake.pc().registry.get(&value), Some(&until));
}

#[tokio::test]
async fn troubleshoot_lists_what_it_found() {
    let bench = Bench::new();
    bench.fake.change(|pc| {
        pc.services.insert("bits".to_owned(), (StartType2::Disabled, false));
        pc.services.remove("DoSvc");
    });
    let update = bench.run(Action::Troubleshoot).await;
    assert_eq!(update.phase, OrderPhase::Succeeded);
    assert_eq!(bench.fake.pc().services["bits"].0, StartType2::Manual);
    let steps = steps(&bench, &update).await;
    assert_eq!(step(&steps, "windows_troubleshooter").state, StepState::Skipped);
    let results: Vec<_> = step(&steps, "services").findings.iter().map(|it| it.result).collect();
    assert_eq!(results, [FindingResult::Fixed, FindingResult::NotFixed]);
    let unseen: Vec<_> = step(&steps, "look").findings.iter().map(|it| it.rule.as_str()).collect();
    assert_eq!(unseen, ["T2-04", "T2-08", "T2-10", "T2-11", "T2-12", "T2-13"]);
    assert_eq!(step(&steps, "time").findings[0].result, FindingResult::Reported);
}

#[tokio::test]
async fn what_windows_keeps_running_is_fixed_when_it_runs() {
    for (fails, result) in [(false, FindingResult::Fixed), (true, FindingResult::NotFixed)] {
        let bench = Bench::new();
        bench.fake.change(|pc| {
            pc.services.insert("mpssvc".to_owned(), (StartType2::Disabled, false));
        });
        if fails {
            bench.fake.fails("start mpssvc", Fail::Failed);
        }
        let update = bench.run(Action::Troubleshoot).await;
        let steps = steps(&bench, &update).await;
        assert_eq!(step(&steps, "services").findings.iter().map(|it| it.result).collect::<Vec<_>>(), [result]);
        assert_eq!(bench.fake.pc().services["mpssvc"], (StartType2::Automatic, !fails));
    }
}

#[tokio::test]
async fn an_undone_fix_is_stopped_again_and_does_not_count_as_come_back() {
    let bench = Bench::new();
    bench.fake.change(|pc| {
        pc.services.insert("mpssvc".to_owned(), (StartType2::Disabled, false));
    });
    let before = bench.fake.pc();
    let db = bench.db().await;
    let agent = bench.agent(&db);
    for number in 1..=3_u32 {
        let mut text = Bench::text(Action::Troubleshoot, i64::from(number));
        text.order = fleetmend_proto::OrderId(uuid::Uuid::from_u128(number.into()));
        assert!(matches!(agent.accept(&super::key().sign(&text).0).await.expect("journal"), Admission::Accepted(_)));
        if number < 3 {
            bench.fake.cancels_at("start mpssvc", &db, text.order, text.fence);
            let update = agent.execute(text.order, &bench.lease, &Deaf).await.expect("journal");
            assert_eq!(update.phase, OrderPhase::Cancelled, "{}", update.detail);
            assert_eq!(bench.fake.pc(), before, "undone");
        } else {
            agent.execute(text.order, &bench.lease, &Deaf).await.expect("journal");
        }
    }
    db.close().await;
    assert_eq!(bench.fake.pc().services["mpssvc"], (StartType2::Automatic, true), "taken for a policy's doing");
}

#[tokio::test]
async fn a_busy_pc_is_not_cleaned() {
    let bench = Bench::new();
    bench.fake.has_free(1 << 30);
    bench.fake.is_busy(true);
    let update = bench.run(Action::Troubleshoot).await;
    let steps = steps(&bench, &update).await;
    assert_eq!(step(&steps, "disk").findings[0].result, FindingResult::Reported);
    assert_eq!(bench.fake.count("run Dism"), 0);
}

#[tokio::test]
async fn sfc_in_another_language_is_judged_by_its_log() {
    let german = "Der Windows-Ressourcenschutz hat keine Integritätsverletzungen gefunden.";
    let cases = [
        (0, "[SR] Verify complete\r\n", StepState::Done, OrderPhase::Succeeded),
        (0, "[SR] Cannot repair member file x\r\n[SR] Verify complete\r\n", StepState::Failed, OrderPhase::Failed),
        (0, "", StepState::Unknown, OrderPhase::Succeeded),
        (1, "", StepState::Failed, OrderPhase::Failed),
    ];
    for (code, log, state, phase) in cases {
        let bench = Bench::new();
        bench.fake.exits("/scannow", code, german);
        bench.fake.sfc_writes(log);
        let update = bench.run(Action::RepairImage).await;
        assert_eq!(update.phase, phase, "{code} {log:?}");
        assert_eq!(step(&steps(&bench, &update).await, "sfc_scannow").state, state, "{code} {log:?}");
    }
}

#[tokio::test]
async fn repair_image_runs_dism_then_sfc_with_exact_arguments() {
    let bench = Bench::new();
    bench.fake.exits("/ScanHealth", 0, "The component store is repairable.");
    let update = bench.run(Action::RepairImage).await;
    assert_eq!(update.phase, OrderPhase::Succeeded);
    assert_eq!(
        bench.fake.effects()[..4],
        [
            "run Dism /Online /English /Cleanup-Image /CheckHealth",
            "run Dism /Online /English /Cleanup-Image /ScanHealth",
            "run Dism /Online /English /Cleanup-Image /RestoreHealth /NoRestart",
            "run Sfc /scannow",
        ]
    );
}

#[tokio::test]
async fn a_store_that_cannot_be_repaired_fails_the_order() {
    let cases = [
        ("/ScanHealth", 0, "The component store cannot be repaired."),
        ("/RestoreHealth", -2_146_498_529, "Error: 0x800f081f"),
        ("/scannow", 0, "Windows Resource Protection found corrupt files but was unable to fix some of them."),
    ];
    for (option, code, stdout) in cases {
        let bench = Bench::new();
        bench.fake.exits(option, code, stdout);
        let update = bench.run(Action::RepairImage).await;
        assert_eq!(update.phase, OrderPhase::Failed, "{option}");
        assert!(!update.detail.is_empty());
    }
}

#[tokio::test]
async fn a_healthy_store_is_not_repaired() {
    let bench = Bench::new();
    bench.fake.exits("/ScanHealth", 0, "No component store corruption detected.");
    bench.run(Action::RepairImage).await;
    assert_eq!(bench.fake.effects().iter().filter(|it| it.contains("/RestoreHealth")).count(), 0);
}

#[tokio::test]
async fn reset_components_sets_aside_and_starts_again_only_what_ran() {
    let bench = Bench::new();
    bench.fake.change(|pc| {
        pc.services.insert("bits".to_owned(), (StartType2::Manual, false));
    });
    let before = bench.fake.pc().services;
    let update = bench.run(Action::ResetComponents).await;
    assert_eq!(update.phase, OrderPhase::Succeeded, "{}", update.detail);
    assert_eq!(bench.fake.pc().services, before);
    assert_eq!(bench.fake.pc().folders.iter().filter(|it| it.contains(".fleetmend-")).count(), 3);
    assert_eq!(bench.fake.count("stop"), 4);
}

#[tokio::test]
async fn a_service_that_will_not_start_puts_everything_back_and_stays_owed() {
    let bench = Bench::new();
    let before = bench.fake.pc();
    bench.fake.fails("start DoSvc", Fail::Failed);
    let update = bench.run(Action::ResetComponents).await;
    assert_eq!(update.phase, OrderPhase::Failed);
    assert!(update.detail.contains("not undone: stop_dosvc"), "{}", update.detail);
    assert!(!bench.fake.pc().services["DoSvc"].1);
    bench.fake.heals();
    let db = bench.db().await;
    bench.agent(&db).resume(&bench.lease, &Deaf).await.expect("resumed");
    db.close().await;
    let after = bench.fake.pc();
    assert_eq!(after.services, before.services, "started at the next start of the agent");
    assert!(["DataStore", "Download", "Catroot2"].iter().all(|it| after.folders.contains(*it)));
}

#[tokio::test]
async fn install_manually_goes_by_file_and_exit_code() {
    let action = Action::InstallManually { package: PackageHash([7; 32]) };
    let cases = [
        ("/packages/a.msu", 0, true, OrderPhase::Succeeded, "run Wusa"),
        ("/packages/a.cab", 3010, true, OrderPhase::Succeeded, "run Dism"),
        ("/packages/a.msu", 2_359_302, true, OrderPhase::Succeeded, "run Wusa"),
        ("/packages/a.msu", -2_145_124_329, false, OrderPhase::Failed, "run Wusa"),
        ("/packages/a.msu", -2_145_124_329, true, OrderPhase::Succeeded, "run Wusa"),
        ("/packages/a.msu", 1603, false, OrderPhase::Failed, "run Wusa"),
        ("/packages/a.exe", 0, false, OrderPhase::Failed, "nothing"),
    ];
    for (path, code, installs, phase, effect) in cases {
        let bench = Bench::new();
        bench.fake.has_package(path, installs);
        bench.fake.exits("/packages", code, "");
        let update = bench.run(action.clone()).await;
        assert_eq!(update.phase, phase, "{path} {code}: {}", update.detail);
        assert_eq!(bench.fake.count(effect), usize::from(effect != "nothing"), "{path}");
    }
}

#[tokio::test]
async fn a_driver_is_unpacked_and_given_to_pnputil() {
    let cases = [
        (0, true, OrderPhase::Succeeded, "installed"),
        (3010, true, OrderPhase::Succeeded, "restart"),
        (259, false, OrderPhase::Succeeded, "or a better one"),
        (5, false, OrderPhase::Failed, "0x80070005"),
    ];
    for (code, installs, phase, says) in cases {
        let bench = Bench::new();
        bench.fake.has_package("/packages/driver.CAB", installs);
        bench.fake.exits("/add-driver", code, "");
        let action = Action::InstallManually { package: PackageHash([7; 32]) };
        let note = key().sign(&OrderText { kb: None, ..Bench::text(action, 12) }).0;
        let db = bench.db().await;
        let update = bench.life(&db, &note).await.expect("the journal works");
        db.close().await;
        assert_eq!(update.phase, phase, "{code}: {}", update.detail);
        let effects = bench.fake.effects();
        let wanted = ["unpacked", r"run PnpUtil /add-driver /packages/unpacked\*.inf /subdirs /install"];
        assert_eq!(effects[..2], wanted, "{code}");
        let step = step(&steps(&bench, &update).await, "install_package").clone();
        assert!(step.detail.contains(says), "{code}: {}", step.detail);
    }
}

#[tokio::test]
async fn without_its_package_tier_5_is_unavailable() {
    let bench = Bench::new();
    let update = bench.run(Action::InstallManually { package: PackageHash([7; 32]) }).await;
    assert_eq!(update.phase, OrderPhase::Unavailable);
    assert_eq!(bench.fake.effects(), Vec::<String>::new());
}

#[tokio::test]
async fn a_tool_that_is_missing_is_unavailable_and_one_that_hangs_unknown() {
    let check = "run Dism /Online /English /Cleanup-Image /CheckHealth";
    for (fail, phase) in [(Fail::Unavailable, OrderPhase::Unavailable), (Fail::TimedOut, OrderPhase::Unknown)] {
        let bench = Bench::new();
        bench.fake.fails(check, fail);
        assert_eq!(bench.run(Action::RepairImage).await.phase, phase);
    }
}

#[tokio::test]
async fn hide_hides_and_a_hidden_offer_is_left() {
    let bench = Bench::new();
    assert_eq!(bench.run(Action::HideUpdate).await.phase, OrderPhase::Succeeded);
    assert!(bench.fake.pc().offers[0].1);
    assert_eq!(bench.fake.count("install"), 0);
}

#[tokio::test]
async fn without_a_lease_nothing_begins() {
    for action in [Action::Retry, Action::ResetComponents, Action::Reboot] {
        let bench = Bench { lease: Leased(false), ..Bench::new() };
        let update = bench.run(action).await;
        assert_eq!((update.phase, update.refusal), (OrderPhase::Refused, Some(Refusal::NoLease)));
        assert_eq!(bench.fake.effects(), Vec::<String>::new());
    }
}

/// A lease that ends after it was asked for once.
struct Once(std::sync::atomic::AtomicBool);

#[async_trait::async_trait]
impl crate::execute::Lease for Once {
    async fn is_live(&self, _: fleetmend_proto::OrderId, _: fleetmend_proto::Fence) -> bool {
        self.0.swap(false, std::sync::atomic::Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_cut_network_strands_no_stopped_service_and_begins_no_install() {
    let bench = Bench::new();
    let before = bench.fake.pc().services;
    let db = bench.db().await;
    let agent = bench.agent(&db);
    let note = Bench::note(Action::ResetComponents);
    let Admission::Accepted(order) = agent.accept(&note).await.expect("journal") else { panic!("not accepted") };
    let update = agent.execute(order.order, &Once(true.into()), &Deaf).await.expect("journal");
    db.close().await;
    assert_eq!(update.phase, OrderPhase::Succeeded);
    assert_eq!(bench.fake.pc().services, before);
    assert_eq!(bench.fake.count("install"), 0);
}

#[tokio::test]
async fn a_restart_is_asked_for_once_and_seen_at_the_next_start() {
    let bench = Bench::new();
    bench.fake.restarts_at_once();
    let update = bench.run(Action::Reboot).await;
    assert_eq!(update.phase, OrderPhase::Succeeded, "{}", update.detail);
    assert_eq!(bench.fake.count("reboot"), 1);
    assert_eq!(bench.fake.count("install"), 1, "the update is tried again after it");
}

#[tokio::test]
async fn a_restart_that_never_comes_fails() {
    let bench = Bench::new();
    let update = bench.run(Action::Reboot).await;
    assert_eq!(update.phase, OrderPhase::Failed);
    assert!(update.detail.contains("no restart came"), "{}", update.detail);
}

#[tokio::test]
async fn the_fourth_restart_of_a_day_is_not_asked_for() {
    let bench = Bench::new();
    bench.fake.restarts_at_once();
    let db = bench.db().await;
    let agent = bench.agent(&db);
    for number in 1..=4_u32 {
        let mut text = Bench::text(Action::Reboot, i64::from(number));
        text.order = fleetmend_proto::OrderId(uuid::Uuid::from_u128(u128::from(number)));
        let note = super::key().sign(&text).0;
        assert!(matches!(agent.accept(&note).await.expect("journal"), Admission::Accepted(_)));
        let update = agent.execute(text.order, &bench.lease, &Deaf).await.expect("journal");
        let expected = if number <= 3 { OrderPhase::Succeeded } else { OrderPhase::Failed };
        assert_eq!(update.phase, expected, "restart {number}: {}", update.detail);
    }
    db.close().await;
    assert_eq!(bench.fake.count("reboot"), 3);
}

#[tokio::test]
async fn a_cancelled_order_is_undone() {
    let bench = Bench::new();
    let before = bench.fake.pc();
    let db = bench.db().await;
    let agent = bench.agent(&db);
    let note = Bench::note(Action::ResetComponents);
    assert!(matches!(agent.accept(&note).await.expect("journal"), Admission::Accepted(_)));
    // Cut after the first folder was set aside, then cancelled before the next life goes on.
    db.cut.at(14, true);
    let order = Bench::text(Action::Retry, 12);
    agent.execute(order.order, &bench.lease, &Deaf).await.expect_err("cut");
    db.close().await;
    assert!(bench.fake.count("stop") > 0, "cut too early to mean anything");
    let db = bench.db().await;
    let agent = bench.agent(&db);
    assert!(agent.cancel(order.order, order.fence).await.expect("journal"));
    let ended = agent.resume(&bench.lease, &Deaf).await.expect("journal");
    db.close().await;
    assert_eq!(ended[0].phase, OrderPhase::Cancelled);
    assert_eq!(bench.fake.pc(), before);
}

#[tokio::test]
async fn a_halted_agent_restores_what_an_open_order_changed() {
    let mut bench = Bench::new();
    let before = bench.fake.pc();
    let db = bench.db().await;
    let agent = bench.agent(&db);
    assert!(matches!(
        agent.accept(&Bench::note(Action::ResetComponents)).await.expect("journal"),
        Admission::Accepted(_)
    ));
    db.cut.at(14, true);
    agent.execute(Bench::text(Action::Retry, 12).order, &bench.lease, &Deaf).await.expect_err("cut");
    db.close().await;
    assert_ne!(bench.fake.pc(), before);
    bench.local.halt = true;
    let db = bench.db().await;
    let ended = bench.agent(&db).resume(&bench.lease, &Deaf).await.expect("journal");
    db.close().await;
    assert_eq!(ended[0].phase, OrderPhase::Cancelled);
    assert_eq!(bench.fake.pc(), before);
}

#[tokio::test]
async fn the_same_order_again_is_answered_from_the_journal() {
    let bench = Bench::new();
    bench.run(Action::Retry).await;
    let effects = bench.fake.effects().len();
    let db = bench.db().await;
    let agent = bench.agent(&db);
    for (fence, expected) in [(12, 12), (13, 13)] {
        let note = super::key().sign(&Bench::text(Action::Retry, fence)).0;
        match agent.accept(&note).await.expect("journal") {
            Admission::Duplicate(update) => {
                assert_eq!((update.phase, update.fence.0), (OrderPhase::Succeeded, expected));
                assert!(!update.steps.is_empty(), "told again with its steps");
            }
            other @ (Admission::Accepted(_) | Admission::Refused { .. }) => panic!("{other:?}"),
        }
    }
    db.close().await;
    assert_eq!(bench.fake.effects().len(), effects);
}

#[tokio::test]
async fn what_was_not_told_is_kept_over_a_restart_of_the_agent() {
    let bench = Bench::new();
    bench.run(Action::HideUpdate).await;
    let db = bench.db().await;
    let journal = Journal::new(db.clone());
    let untold = journal.untold().await.expect("journal");
    assert_eq!(untold.len(), 1);
    assert_eq!(untold[0].steps.len(), 3);
    journal.told(&untold[0]).await.expect("journal");
    assert_eq!(journal.untold().await.expect("journal"), Vec::new());
    db.close().await;
}

#[tokio::test]
async fn preconditions_defer_and_are_recorded() {
    let tier4 = Action::ResetComponents;
    type Prepare = fn(&Bench);
    let cases: [(&str, Prepare, Action); 4] = [
        ("a restart is owed", |it| it.fake.owes_restart("CBS RebootPending"), Action::Retry),
        ("free", |it| it.fake.has_free(1 << 30), tier4.clone()),
        ("battery", |it| it.fake.on_battery(39), tier4),
        ("free", |it| it.fake.has_free(4 << 30), Action::RepairImage),
    ];
    for (word, prepare, action) in cases {
        let bench = Bench::new();
        prepare(&bench);
        let (why, detail) = refusal(&bench, action).await;
        assert_eq!(why, Refusal::Precondition);
        assert!(detail.contains(word), "{detail}");
    }
    for action in [Action::Reboot, Action::HideUpdate, Action::Troubleshoot] {
        let bench = Bench::new();
        bench.fake.has_role(fleetmend_proto::condition::DeviceRole::Oobe);
        let (why, detail) = refusal(&bench, action).await;
        assert_eq!(why, Refusal::Precondition);
        assert!(detail.contains("first setup"), "{detail}");
    }
    let bench = Bench::new();
    bench.fake.is_busy(true);
    let (why, detail) = refusal(&bench, Action::Reboot).await;
    assert_eq!(why, Refusal::Precondition);
    assert!(detail.contains("an update is being installed"), "{detail}");
    let bench = Bench::new();
    bench.fake.owes_restart("CBS RebootPending");
    bench.fake.restarts_at_once();
    assert_eq!(bench.run(Action::Reboot).await.phase, OrderPhase::Succeeded, "a restart that is owed is no reason");
    let steps = steps(&bench, &bench.run(Action::Reboot).await).await;
    assert_eq!((steps[0].name.as_str(), steps[0].state), ("preconditions", StepState::Done));
    assert!(steps[0].at >= START);
}
