//! Orders: nothing begins without leave, an end is told after its proof, and a refusal says why.

use chrono::TimeDelta;
use fleetmend_proto::{
    Action, DeviceId, Fence, IncidentId, Kb, OrderId, PackageHash, Position, ResetMethod, ResetPc, ResetSource,
    clock::wall_now,
    order::{OrderKey, OrderPhase, OrderText, Refusal},
    v1::{self, directive::Kind},
};
use uuid::Uuid;

use super::*;
use crate::{
    identity::Identity,
    journal::{Journal, StepIntent},
    state::AgentDb,
};

const KB: u32 = 5_100_000;

fn order(controller: &FakeController, device: DeviceId, fence: i64, action: Action) -> OrderText {
    OrderText {
        fleet: controller.fleet,
        device,
        order: OrderId(Uuid::new_v4()),
        incident: IncidentId(Uuid::new_v4()),
        fence: Fence(fence),
        not_before: wall_now() - TimeDelta::hours(1),
        not_after: wall_now() + TimeDelta::hours(1),
        action,
        update_id: None,
        revision: 0,
        kb: Some(Kb(KB)),
    }
}

/// A running agent with an open stream.
async fn connected(controller: &FakeController, pc: &Pc) -> (RunningAgent, DeviceId) {
    connected_with(controller, pc, pc.config(controller)).await
}

async fn connected_with(controller: &FakeController, pc: &Pc, config: Config) -> (RunningAgent, DeviceId) {
    // Nothing is looked for by time: what is found was looked for because of the order.
    let config = Config { detect_interval: Duration::from_secs(3600), ..config };
    let agent = pc.start_with(config);
    controller.until("the first report", |calls| calls.iter().any(|it| matches!(it, Call::Report { .. }))).await;
    let device = Identity::load(&pc.data()).expect("readable").expect("is there").device();
    (agent, device)
}

fn ends(calls: &[Call]) -> Vec<(OrderPhase, Option<Refusal>)> {
    let end = |it: &Call| match it {
        Call::Update { phase, refusal, .. } if phase.is_final() => Some((*phase, *refusal)),
        Call::Update { .. }
        | Call::Hello { .. }
        | Call::Report { .. }
        | Call::Begin { .. }
        | Call::Renew { .. }
        | Call::Enroll { .. } => None,
    };
    calls.iter().filter_map(end).collect()
}

async fn until_ended(controller: &FakeController, count: usize) -> Vec<(OrderPhase, Option<Refusal>)> {
    controller.until("an order's end", |calls| ends(calls).len() >= count).await;
    ends(&controller.calls())
}

#[tokio::test]
async fn an_order_runs_to_its_end_and_its_proof_goes_first() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    pc.record(KB..KB + 1);
    let (agent, device) = connected(&controller, &pc).await;
    controller.until_stored(1).await;
    // What Windows records while the order runs.
    let log = pc.logs().join("ReportingEvents.log");
    controller.mood().at_begin = Some(Box::new(move || append_failures(&log, KB + 1..KB + 2)));
    controller.order(&order(&controller, device, 1, Action::Retry)).await;
    let ended = until_ended(&controller, 1).await;
    assert_eq!(ended, [(OrderPhase::Unavailable, None)], "collected logs have no update client");
    let calls = controller.calls();
    let begin = calls.iter().position(|it| matches!(it, Call::Begin { newest: Position { epoch: 1, seq: 1 } }));
    let proof = calls.iter().position(|it| matches!(it, Call::Report { seqs, .. } if *seqs == [2]));
    let end = calls.iter().position(|it| matches!(it, Call::Update { phase: OrderPhase::Unavailable, .. }));
    assert!(begin.is_some() && begin < proof && proof < end, "{calls:#?}");
    agent.stop().await;
}

#[tokio::test]
async fn steps_are_told_before_the_proof_and_the_end_without_it_when_it_takes_too_long() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let config = pc.config(&controller);
    let link = LinkSettings { proof_timeout: Duration::from_millis(1500), ..config.link };
    let (agent, device) = connected_with(&controller, &pc, Config { link, ..config }).await;
    controller.mood().silent_on_reports = true;
    let log = pc.logs().join("ReportingEvents.log");
    controller.mood().at_begin = Some(Box::new(move || append_failures(&log, KB + 1..KB + 2)));
    controller.order(&order(&controller, device, 1, Action::Retry)).await;
    let steps = |calls: &[Call]| {
        let told = calls.iter().filter_map(|it| match it {
            Call::Update { phase, steps, .. } => Some((phase.is_final(), *steps)),
            Call::Hello { .. }
            | Call::Report { .. }
            | Call::Begin { .. }
            | Call::Renew { .. }
            | Call::Enroll { .. } => None,
        });
        told.collect::<Vec<_>>()
    };
    controller.until("the steps", |calls| steps(calls).iter().any(|(is_final, count)| !is_final && *count > 0)).await;
    assert!(ends(&controller.calls()).is_empty(), "the end was told before its proof had its time");
    // A refusal that has nothing to prove does not wait behind it.
    let reset = ResetPc { method: ResetMethod::KeepFiles, source: ResetSource::Local, keep_provisioning: false };
    controller.order(&order(&controller, device, 2, Action::ResetPc(reset))).await;
    let ended = until_ended(&controller, 2).await;
    assert_eq!(ended, [(OrderPhase::Refused, Some(Refusal::ResetNotSigned)), (OrderPhase::Unavailable, None)]);
    assert!(controller.stored().is_empty(), "the proof was acknowledged after all");
    agent.stop().await;
}

#[tokio::test]
async fn a_reset_is_refused_and_nothing_is_asked() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let (agent, device) = connected(&controller, &pc).await;
    let reset = ResetPc { method: ResetMethod::KeepFiles, source: ResetSource::Local, keep_provisioning: false };
    controller.order(&order(&controller, device, 1, Action::ResetPc(reset))).await;
    assert_eq!(until_ended(&controller, 1).await, [(OrderPhase::Refused, Some(Refusal::ResetNotSigned))]);
    assert!(!controller.calls().iter().any(|it| matches!(it, Call::Begin { .. })));
    agent.stop().await;
}

#[tokio::test]
async fn local_policy_binds() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let policy = LocalPolicy { max_tier: fleetmend_proto::Tier::Troubleshoot, ..LocalPolicy::default() };
    let agent = pc.start_with(Config { policy, ..pc.config(&controller) });
    controller.until("a hello", |calls| hellos(calls) > 0).await;
    let device = Identity::load(&pc.data()).expect("readable").expect("is there").device();
    let install = Action::InstallManually { package: PackageHash([7; 32]) };
    controller.order(&order(&controller, device, 1, install)).await;
    assert_eq!(until_ended(&controller, 1).await, [(OrderPhase::Refused, Some(Refusal::AboveMaxTier))]);
    agent.stop().await;
}

#[tokio::test]
async fn an_order_by_a_stranger_is_not_even_answered() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let (agent, device) = connected(&controller, &pc).await;
    let stranger = OrderKey::from_seed("orders", [66; 32]);
    let forged = stranger.sign(&order(&controller, device, 1, Action::Retry)).0.into();
    controller.direct(Kind::Order(v1::Order { note: forged })).await;
    controller.direct(Kind::Order(v1::Order { note: vec![0xff; 400].into() })).await;
    controller.order(&order(&controller, device, 2, Action::Retry)).await;
    assert_eq!(until_ended(&controller, 1).await, [(OrderPhase::Unavailable, None)]);
    let begins = controller.calls().iter().filter(|it| matches!(it, Call::Begin { .. })).count();
    assert_eq!(begins, 1, "a forged order got as far as Begin");
    agent.stop().await;
}

#[tokio::test]
async fn without_leave_nothing_begins() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let (agent, device) = connected(&controller, &pc).await;
    controller.mood().deny_begin = true;
    controller.order(&order(&controller, device, 1, Action::Retry)).await;
    assert_eq!(until_ended(&controller, 1).await, [(OrderPhase::Refused, Some(Refusal::NoLease))]);
    agent.stop().await;
}

#[tokio::test]
async fn a_stale_fence_is_refused_and_the_highest_is_told_on_reconnect() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let (agent, device) = connected(&controller, &pc).await;
    controller.order(&order(&controller, device, 7, Action::Retry)).await;
    until_ended(&controller, 1).await;
    controller.order(&order(&controller, device, 7, Action::Retry)).await;
    let ended = until_ended(&controller, 2).await;
    assert_eq!(ended[1], (OrderPhase::Refused, Some(Refusal::StaleFence)));
    controller.direct(Kind::Drain(v1::Drain { reconnect_after_ms: 1 })).await;
    controller
        .until("a hello with the fence", |calls| calls.iter().any(|it| matches!(it, Call::Hello { max_fence: 7, .. })))
        .await;
    agent.stop().await;
}

#[tokio::test]
async fn an_order_delivered_twice_runs_once() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let (agent, device) = connected(&controller, &pc).await;
    let text = order(&controller, device, 1, Action::Retry);
    controller.order(&text).await;
    controller.order(&text).await;
    until_ended(&controller, 1).await;
    controller.order(&text).await;
    controller.order(&order(&controller, device, 2, Action::HideUpdate)).await;
    until_ended(&controller, 2).await;
    let begins = controller.calls().iter().filter(|it| matches!(it, Call::Begin { .. })).count();
    assert_eq!(begins, 2);
    agent.stop().await;
}

#[tokio::test]
async fn a_refresh_sends_the_condition_and_what_is_new() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let (agent, _) = connected(&controller, &pc).await;
    pc.record(KB..KB + 2);
    controller.direct(Kind::Refresh(v1::Refresh {})).await;
    controller.until_stored(2).await;
    let conditions =
        |calls: &[Call]| calls.iter().filter(|it| matches!(it, Call::Report { with_condition: true, .. })).count() >= 2;
    controller.until("a second condition", conditions).await;
    agent.stop().await;
}

#[tokio::test]
async fn begin_is_asked_until_it_is_answered_and_a_cancelled_order_never_begins() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let (agent, device) = connected(&controller, &pc).await;
    controller.mood().busy_at_begin = true;
    let begins = |calls: &[Call]| calls.iter().filter(|it| matches!(it, Call::Begin { .. })).count();
    let text = order(&controller, device, 1, Action::Retry);
    controller.order(&text).await;
    controller.until("begin asked again", |calls| begins(calls) >= 3).await;
    let order_id = text.order.0.as_bytes().to_vec().into();
    controller.direct(Kind::Cancel(v1::Cancel { order_id, fence: 1 })).await;
    assert_eq!(until_ended(&controller, 1).await, [(OrderPhase::Cancelled, None)]);
    controller.mood().busy_at_begin = false;
    controller.order(&order(&controller, device, 2, Action::Retry)).await;
    assert_eq!(until_ended(&controller, 2).await[1], (OrderPhase::Unavailable, None));
    agent.stop().await;
}

/// What an agent that died left: an order that had begun, and no more.
async fn leave_begun(pc: &Pc, text: &OrderText, note: &[u8]) {
    std::fs::create_dir_all(pc.data()).expect("a folder");
    let db = AgentDb::open(&pc.data().join("agent.db"), wall_now()).await.expect("opens");
    let journal = Journal::new(db.clone());
    journal.accept(text, note, "all well", "boot", wall_now()).await.expect("stored");
    journal.begun(text.order).await.expect("stored");
    let undo = Some(r#"{"undo":"start_service","name":"bits"}"#.to_owned());
    let data = serde_json::Value::Null;
    let intent = StepIntent { index: 1, name: "stop_usosvc", undo, data, boot_id: "boot", at: wall_now() };
    journal.intent(text.order, &intent, false).await.expect("stored");
    db.close().await;
}

async fn phase_of(pc: &Pc, order: OrderId) -> (OrderPhase, String) {
    let db = AgentDb::open(&pc.data().join("agent.db"), wall_now()).await.expect("opens");
    let record = Journal::new(db.clone()).order(order).await.expect("read").expect("known");
    db.close().await;
    (record.phase, record.detail)
}

#[tokio::test]
async fn without_a_usable_identity_an_order_under_way_is_undone_first() {
    for identity in [Some(&b"not JSON"[..]), None] {
        let (controller, pc) = (FakeController::start().await, Pc::new());
        let text = order(&controller, DeviceId(Uuid::from_u128(9)), 1, Action::ResetComponents);
        leave_begun(&pc, &text, &controller.order_key.sign(&text).0).await;
        std::fs::remove_file(pc.token()).expect("removed");
        if let Some(identity) = identity {
            std::fs::write(pc.data().join("identity.json"), identity).expect("written");
        }
        let error = pc.start(&controller).error().await;
        assert!(matches!(error, RunError::Identity(_) | RunError::NoToken { .. }), "{error}");
        let (phase, detail) = phase_of(&pc, text.order).await;
        assert_eq!(phase, OrderPhase::Cancelled, "{detail}");
        assert!(detail.contains("identity"), "{detail}");
    }
}

#[tokio::test]
async fn an_order_taken_up_again_ends_though_no_connection_is_possible() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let identity = controller.identity((2020, 1, 1), (2020, 1, 15));
    let text = order(&controller, identity.device(), 1, Action::ResetComponents);
    leave_begun(&pc, &text, &controller.order_key.sign(&text).0).await;
    identity.save(&pc.data()).expect("saves");
    let error = pc.start(&controller).error().await;
    assert!(matches!(error, RunError::Link(_)), "{error}");
    let (phase, detail) = phase_of(&pc, text.order).await;
    assert!(phase.is_final(), "{phase} {detail}");
}

#[tokio::test]
async fn in_safe_mode_an_accepted_order_is_refused_without_asking() {
    let (controller, pc) = (FakeController::start().await, Pc::new());
    let (agent, device) = connected(&controller, &pc).await;
    agent.stop().await;
    let text = order(&controller, device, 1, Action::Retry);
    let db = AgentDb::open(&pc.data().join("agent.db"), wall_now()).await.expect("opens");
    let journal = Journal::new(db.clone());
    journal.accept(&text, &controller.order_key.sign(&text).0, "", "boot", wall_now()).await.expect("stored");
    for _ in 0..4 {
        journal.start_recorded(wall_now()).await.expect("stored");
    }
    db.close().await;
    let agent = pc.start(&controller);
    assert_eq!(until_ended(&controller, 1).await, [(OrderPhase::Refused, Some(Refusal::SafeMode))]);
    assert!(!controller.calls().iter().any(|it| matches!(it, Call::Begin { .. })));
    agent.stop().await;
}
