//! Outcomes reach the controller once, whatever happens to connections, and leave the outbox only when they are durable.

use std::fs;

use super::*;
use crate::{
    cli::report,
    detect,
    identity::Identity,
    runner::{DataDir, enroll_once},
};

const KB: u32 = 5_000_000;

#[tokio::test]
async fn an_agent_enrols_and_reports() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    pc.record(KB..KB + 3);
    let agent = pc.start(&controller);
    controller.until_stored(3).await;
    pc.record(KB + 3..KB + 5);
    controller.until_stored(5).await;
    assert!(!pc.token().exists(), "the token stayed after it was used");
    let identity = Identity::load(&pc.data()).expect("readable").expect("is there");
    assert_eq!(identity.fleet(), controller.fleet);
    let conditions =
        controller.calls().iter().filter(|it| matches!(it, Call::Report { with_condition: true, .. })).count();
    assert_eq!(conditions, 1, "an unchanged condition is sent once");
    agent.stop().await;
    assert_eq!(controller.duplicates(), 0);
}

#[tokio::test]
async fn the_identity_is_readable_by_its_owner_only() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let agent = pc.start(&controller);
    controller.until("a hello", |calls| hellos(calls) > 0).await;
    agent.stop().await;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(pc.data().join("identity.json")).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_report_whose_answer_was_lost_is_sent_again() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    controller.mood().cut_after_storing = 3;
    pc.record(KB..KB + 4);
    let agent = pc.start(&controller);
    controller.until("a fourth connection", |calls| hellos(calls) >= 4).await;
    pc.record(KB + 4..KB + 6);
    controller.until_stored(6).await;
    agent.stop().await;
    assert!(controller.duplicates() >= 4, "nothing was sent again");
    assert_eq!(controller.stored().len(), 6, "an outcome got a second position");
}

#[tokio::test]
async fn what_was_not_acknowledged_survives_a_power_loss() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    controller.mood().cut_after_storing = 1;
    pc.record(KB..KB + 4);
    let agent = pc.start(&controller);
    controller.until_stored(4).await;
    agent.kill().await;
    let agent = pc.start(&controller);
    pc.record(KB + 4..KB + 5);
    controller.until_stored(5).await;
    agent.stop().await;
    let positions: Vec<_> = controller.stored().into_keys().collect();
    assert_eq!(positions, [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]);
}

#[tokio::test]
async fn a_new_epoch_gives_new_numbers_and_loses_nothing() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    controller.mood().new_epoch_once = true;
    pc.record(KB..KB + 3);
    let agent = pc.start(&controller);
    controller.until_stored(3).await;
    agent.stop().await;
    let positions: Vec<_> = controller.stored().into_keys().collect();
    assert_eq!(positions, [(2, 1), (2, 2), (2, 3)]);
}

#[tokio::test]
async fn a_rejected_outcome_is_kept_as_a_dead_letter_and_blocks_nothing() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    controller.mood().reject_kb = Some(KB + 1);
    pc.record(KB..KB + 3);
    let agent = pc.start(&controller);
    controller.until_stored(2).await;
    pc.record(KB + 3..KB + 4);
    controller.until_stored(3).await;
    agent.stop().await;
    let letters = fs::read_to_string(pc.data().join("dead-letters.jsonl")).expect("is there");
    assert_eq!(letters.lines().count(), 1);
    assert!(letters.contains("KB5000001") && letters.contains("is not liked"), "{letters}");
}

#[tokio::test]
async fn an_outcome_that_spoils_its_report_is_found_and_set_aside() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    controller.mood().choke_on_kb = Some(KB + 5);
    pc.record(KB..KB + 9);
    let agent = pc.start(&controller);
    controller.until_stored(8).await;
    agent.stop().await;
    let letters = fs::read_to_string(pc.data().join("dead-letters.jsonl")).expect("is there");
    assert!(letters.lines().count() == 1 && letters.contains("KB5000005"), "{letters}");
}

#[tokio::test]
async fn collected_logs_are_sent_once_however_often_they_are_given() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let agent = Pc::new();
    let mut config = agent.config(&controller);
    config.enrollment_token_file = Some(agent.token());
    let collected_pc = CollectedPc::open(Some(&pc.logs())).expect("a folder");
    let lock = DataDir::lock(&config.data_dir).expect("nobody else");
    enroll_once(&config, &collected_pc).await.expect("enrols");
    drop(lock);
    pc.record(KB..KB + 3);
    let first =
        report::send(&config, &collected_pc, &detect::outcomes_in(&pc.logs()).expect("reads")).await.expect("sent");
    assert_eq!((first.found, first.known, first.acked), (3, 0, 3));
    pc.record(KB + 3..KB + 4);
    let second =
        report::send(&config, &collected_pc, &detect::outcomes_in(&pc.logs()).expect("reads")).await.expect("sent");
    assert_eq!((second.found, second.known, second.sent, second.acked), (4, 3, 1, 1));
    // The same logs from another folder are the same attempts.
    let copy = Pc::new();
    fs::copy(pc.logs().join("ReportingEvents.log"), copy.logs().join("copy.log")).expect("copies");
    let third =
        report::send(&config, &collected_pc, &detect::outcomes_in(&copy.logs()).expect("reads")).await.expect("sent");
    assert_eq!((third.known, third.sent), (4, 0));
    assert_eq!((controller.stored().len(), controller.duplicates()), (4, 0));
}

#[tokio::test]
async fn an_attempt_is_known_by_any_of_its_records() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let agent = Pc::new();
    let config = agent.config(&controller);
    let collected_pc = CollectedPc::open(Some(&pc.logs())).expect("a folder");
    let lock = DataDir::lock(&config.data_dir).expect("nobody else");
    enroll_once(&Config { enrollment_token_file: Some(agent.token()), ..config.clone() }, &collected_pc)
        .await
        .expect("enrols");
    drop(lock);
    pc.record(KB..KB + 1);
    let send = async || {
        report::send(&config, &collected_pc, &detect::outcomes_in(&pc.logs()).expect("reads")).await.expect("sent")
    };
    let first = send().await;
    assert_eq!((first.found, first.known, first.acked), (1, 0, 1));
    // A collection with one more source: it says more, so it wins, and has a time and a code of its own.
    let event = format!(
        "<Event><System><Provider Name='Microsoft-Windows-WindowsUpdateClient'/><EventID>20</EventID>\
         <TimeCreated SystemTime='2026-01-{:02}T{:02}:{:02}:43.1234567Z'/><EventRecordID>7</EventRecordID>\
         <Channel>System</Channel><Computer>PC</Computer></System><EventData><Data Name='errorCode'>0x8024200b</Data>\
         <Data Name='updateTitle'>Update (KB{KB})</Data>\
         <Data Name='updateGuid'>{{7B0F6A52-1D7E-4A43-9A3B-{KB:012}}}</Data>\
         <Data Name='updateRevisionNumber'>200</Data></EventData></Event>",
        1 + (KB / 1440) % 28,
        (KB / 60) % 24 - 1,
        KB % 60,
    );
    fs::write(pc.logs().join("System.xml"), event).expect("write");
    let found = detect::outcomes_in(&pc.logs()).expect("reads");
    assert_eq!(found.records.first().map(Vec::len), Some(2), "they are one attempt: {:?}", found.outcomes);
    let second = send().await;
    assert_eq!((second.found, second.known, second.sent), (1, 1, 0));
    // And the other way round: what came later is known as well.
    fs::remove_file(pc.logs().join("ReportingEvents.log")).expect("removed");
    let third = send().await;
    assert_eq!((third.found, third.known, third.sent), (1, 1, 0));
    assert_eq!(controller.stored().len(), 1);
}

#[tokio::test]
async fn two_agents_never_share_a_data_folder() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let first = pc.start(&controller);
    controller.until("a hello", |calls| hellos(calls) > 0).await;
    assert!(matches!(pc.start(&controller).error().await, RunError::InUse(_)));
    first.stop().await;
}
