//! Orders: leases and fences, what devices say, deadlines, verification, and the climb from tier to tier.

use chrono::TimeDelta;
use fleetmend_controller::store::{MomentKind, Selector, StoreError, VerificationMade, Verifying};
use fleetmend_domain::{incident::StateName, ladder::Verdict, order::State};
use fleetmend_proto::{
    Action, Fence, HResult, IncidentId, OrderId, OutcomeResult,
    clock::wall_now,
    order::{OrderKey, OrderPhase, Refusal, StepReport, StepState},
};

use super::world::{World, begin, failure, outcome, progress, seconds, success};

const VERIFY: TimeDelta = TimeDelta::hours(2);

async fn state(world: &World, order: OrderId) -> State {
    world.store.order_get(order).await.expect("a look-up").expect("the order").state
}

async fn incident_state(world: &World, incident: IncidentId) -> StateName {
    world.store.incident_get(incident).await.expect("a look-up").expect("the incident").state
}

async fn verifying(world: &World, now: chrono::DateTime<chrono::Utc>) -> Vec<Verifying> {
    world.store.incidents_verifying(now, 100, VERIFY).await.expect("incidents to verify")
}

async fn a_lease_signs_and_keeps_the_exact_bytes(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::RepairImage, world.now).await;
    let leased = world.lease(order, world.now).await.expect("a queued order");
    let keys = [OrderKey::from_seed("test", [3; 32]).verifier()];
    let text = leased.note.open(&keys).expect("a good signature");
    assert_eq!(text, leased.order);
    assert_eq!((text.device, text.order, text.incident), (device, order, incident));
    assert_eq!((text.fence, text.action.clone()), (Fence(1), Action::RepairImage));
    assert_eq!(text.kb, Some(fleetmend_proto::Kb(5_000_001)));
    assert_eq!(world.store.order_note(order).await.expect("a look-up"), Some(leased.note.0));
    assert!(world.lease(order, world.now).await.is_none(), "leased already");
}

async fn the_fence_grows_with_each_lease(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let mut last = Fence(0);
    for _ in 0..5 {
        let leased = world.lease(order, world.now).await.expect("a queued order");
        assert!(leased.fence > last);
        last = leased.fence;
        assert_eq!(world.store.leases_lapse(wall_now()).await.expect("nothing to lapse"), 0);
        let over = wall_now() + TimeDelta::seconds(61);
        assert_eq!(world.store.leases_lapse(over).await.expect("a lease to lapse"), 1);
        assert_eq!(state(&world, order).await, State::Queued);
        let late = world.store.order_begin(begin(&leased, order, 1, world.now)).await;
        assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
    }
    assert_eq!(world.store.device_get(device).await.expect("a look-up").expect("a device").fence, last);
}

async fn twenty_replicas_lease_an_order_once(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (store, terms) = (world.store.clone(), world.terms(world.now));
        tries.spawn(async move {
            let key = OrderKey::from_seed("test", [3; 32]);
            let leased = store.orders_lease(&[(order, device)], terms, &|text| key.sign(text)).await;
            !leased.expect("a lease or none").is_empty()
        });
    }
    assert_eq!(tries.join_all().await.into_iter().filter(|leased| *leased).count(), 1);
}

async fn begin_is_idempotent_under_one_fence_only(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let leased = world.lease(order, world.now).await.expect("a queued order");
    let asked = begin(&leased, order, 7, world.now);
    let mut stale = asked;
    stale.fence = Fence(leased.fence.0 - 1);
    assert!(matches!(world.store.order_begin(stale).await, Err(StoreError::Conflict { .. })));
    let mut late = asked;
    late.now_wall = asked.lease_until + TimeDelta::seconds(120);
    assert!(matches!(world.store.order_begin(late).await, Err(StoreError::Conflict { .. })));
    world.store.order_begin(asked).await.expect("leave to begin");
    let mut again = asked;
    again.position.seq = 9;
    again.now = world.now + seconds(30);
    world.store.order_begin(again).await.expect("the same leave");
    let row = world.store.order_get(order).await.expect("a look-up").expect("the order");
    assert_eq!((row.state, row.begun_at), (State::Running, Some(world.now)));
    assert_eq!(row.begun, Some(asked.position), "what it knew at first counts");
    let mut other = asked;
    other.device = world.device().await;
    assert_ne!(other.device, device);
    assert!(matches!(world.store.order_begin(other).await, Err(StoreError::NotFound { .. })));
}

async fn what_comes_with_a_stale_fence_is_evidence(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let leased = world.begin(order, 1, world.now).await;
    let stale = progress(device, order, Fence(leased.fence.0 - 1), OrderPhase::Failed, world.now);
    assert!(!world.store.order_update(stale).await.expect("kept"));
    assert_eq!(state(&world, order).await, State::Running);
    assert!(world.finish(&leased, OrderPhase::Succeeded, world.now).await);
    assert!(world.finish(&leased, OrderPhase::Succeeded, world.now).await, "said twice");
    assert!(!world.finish(&leased, OrderPhase::Failed, world.now).await, "it has ended otherwise");
    assert_eq!(state(&world, order).await, State::Succeeded);
    let story = world.store.incident_timeline(incident).await.expect("a timeline").moments;
    let kept = story.iter().filter(|it| matches!(&it.what, MomentKind::Event { name, .. } if name == "order_evidence"));
    assert_eq!(kept.count(), 2);
    // However often it is said, only so much of it is kept.
    for _ in 0..110 {
        assert!(!world.finish(&leased, OrderPhase::Failed, world.now).await);
    }
    let rows = world.number("SELECT COUNT(*) FROM order_evidence WHERE order_id = $1", order.0).await;
    assert_eq!(rows, 100);
    let events = "SELECT COUNT(*) FROM events WHERE order_id = $1 AND kind = 'order_evidence'";
    assert_eq!(world.number(events, order.0).await, 100);
    let unknown = progress(device, OrderId(uuid::Uuid::new_v4()), Fence(1), OrderPhase::Failed, world.now);
    assert!(matches!(world.store.order_update(unknown).await, Err(StoreError::NotFound { .. })));
}

async fn a_quarantined_device_gets_and_begins_only_what_changes_nothing_lasting(world: World) {
    let (device, incident) = world.failing().await;
    let light = world.order(incident, Action::Retry, world.now).await;
    let (heavy_device, incident) = world.failing().await;
    let heavy = world.order(incident, Action::RepairImage, world.now).await;
    let (begun_device, incident) = world.failing().await;
    let begun = world.order(incident, Action::RepairImage, world.now).await;
    let running = world.begin(begun, 1, world.now).await;
    let (leased_device, incident) = world.failing().await;
    let leased_order = world.order(incident, Action::RepairImage, world.now).await;
    let leased = world.lease(leased_order, world.now).await.expect("a queued order");
    for it in [device, heavy_device, begun_device, leased_device] {
        world.session(it, "a").await;
        world.execute("UPDATE devices SET state = 'quarantined' WHERE id = $1", it.0).await;
    }
    let leasable = async || world.store.orders_leasable("a", None, 10).await.expect("orders");
    assert_eq!(leasable().await, [(light, device)]);
    assert!(world.lease(heavy, world.now).await.is_none());
    world.begin(light, 1, world.now).await;
    let refused = world.store.order_begin(begin(&leased, leased_order, 1, world.now)).await;
    let refused = refused.expect_err("quarantined before it began").to_string();
    assert!(refused.contains("quarantined"), "{refused}");
    world.store.order_begin(begin(&running, begun, 1, world.now)).await.expect("what has begun goes on");
    let ids = Selector::Id(heavy_device);
    world.store.devices_approve(ids, "ada", world.now).await.expect("an approval");
    assert_eq!(leasable().await, [(heavy, heavy_device)]);
}

async fn steps_keep_their_newest_state(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::ResetComponents, world.now).await;
    let leased = world.begin(order, 1, world.now).await;
    let step = |index, state, detail: &str| StepReport {
        index,
        name: format!("step {index}"),
        state,
        detail: detail.to_owned(),
        at: world.now,
        findings: Vec::new(),
    };
    let mut told = progress(device, order, leased.fence, OrderPhase::Running, world.now);
    told.steps =
        vec![step(0, StepState::Started, "a"), step(0, StepState::Done, "b"), step(1, StepState::Started, "c")];
    assert!(world.store.order_update(told.clone()).await.expect("kept"));
    told.phase = OrderPhase::AwaitingReboot;
    told.steps = vec![step(1, StepState::Done, "d")];
    assert!(world.store.order_update(told.clone()).await.expect("kept"));
    assert_eq!(state(&world, order).await, State::AwaitingReboot);
    world.store.order_begin(begin(&leased, order, 1, world.now)).await.expect("it goes on after the restart");
    assert_eq!(state(&world, order).await, State::Running);
    let steps = world.store.order_steps(order).await.expect("steps");
    let newest: Vec<_> = steps.iter().map(|it| (it.step, it.state, it.detail.as_str())).collect();
    assert_eq!(newest, [(0, StepState::Done, "b"), (1, StepState::Done, "d")]);
}

async fn every_change_of_an_order_has_its_event(world: World) {
    let names = async |incident, from: usize| {
        let story = world.store.incident_timeline(incident).await.expect("a timeline").moments;
        let names = story.into_iter().filter_map(|it| {
            let MomentKind::Event { name, actor_kind, .. } = it.what else { return None };
            Some(format!("{name} {actor_kind}"))
        });
        names.skip(from).collect::<Vec<_>>()
    };
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::RepairImage, world.now).await;
    let leased = world.begin(order, 1, world.now).await;
    assert_eq!(names(incident, 2).await, ["order_leased loop", "order_begun device"]);
    let tell = async |phase| assert!(world.finish(&leased, phase, world.now).await);
    tell(OrderPhase::Running).await;
    tell(OrderPhase::AwaitingReboot).await;
    tell(OrderPhase::AwaitingReboot).await;
    tell(OrderPhase::Running).await;
    tell(OrderPhase::AwaitingReboot).await;
    world.store.order_begin(begin(&leased, order, 1, world.now)).await.expect("it goes on after the restart");
    world.store.order_begin(begin(&leased, order, 1, world.now)).await.expect("its lease is renewed");
    let around = ["order_awaits_reboot device", "order_resumed device"];
    assert_eq!(names(incident, 4).await, [around, around].concat(), "what is said twice changes nothing");
    tell(OrderPhase::AwaitingReboot).await;
    // It finds straight after the restart that this PC cannot do it.
    tell(OrderPhase::Unavailable).await;
    assert_eq!(names(incident, 8).await, [&around[..], &["order_ended device"]].concat());
    assert_eq!(world.due_of(incident, world.now).await.device, device);
}

async fn one_restart_is_owed_for_every_update_it_ends(world: World) {
    let device = world.device().await;
    let mut incidents = Vec::new();
    for n in 1..=2 {
        world.report(device, vec![(n, failure(u32::try_from(n).expect("small"), world.now))]).await;
        let due = world.due(world.now).await;
        let incident = due.iter().find(|it| it.device == device).expect("due").case.incident;
        let order = world.order(incident, Action::Retry, world.now).await;
        let leased = world.begin(order, n, world.now).await;
        world.finish(&leased, OrderPhase::Succeeded, world.now).await;
        incidents.push(incident);
    }
    let mut replaces_both = outcome(9, OutcomeResult::PendingReboot, 0, world.now + seconds(60));
    replaces_both.update.supersedes = (1..=2).filter_map(|n| super::world::update(n).update_id).collect();
    world.report(device, vec![(3, replaces_both.clone())]).await;
    let waiting = verifying(&world, world.now).await;
    for incident in incidents {
        let it = waiting.iter().find(|it| it.incident == incident).expect("it verifies");
        assert_eq!(it.evidence.as_ref(), Some(&replaces_both));
        assert_eq!(it.evidence_position.map(|at| at.seq), Some(3));
        let story = world.store.incident_timeline(incident).await.expect("a timeline").moments;
        let told = |it: &&fleetmend_controller::store::Moment| matches!(&it.what, MomentKind::Outcome { outcome, .. } if *outcome == replaces_both);
        assert_eq!(story.iter().filter(told).count(), 1);
    }
}

async fn refused_and_unavailable_go_back_to_the_ladder(world: World) {
    for phase in [OrderPhase::Refused, OrderPhase::Unavailable] {
        let (device, incident) = world.failing().await;
        let order = world.order(incident, Action::Retry, world.now).await;
        let leased = world.lease(order, world.now).await.expect("a queued order");
        let mut told = progress(device, order, leased.fence, phase, world.now);
        told.refusal = (phase == OrderPhase::Refused).then_some(Refusal::Precondition);
        assert!(world.store.order_update(told).await.expect("kept"));
        let due = world.due_of(incident, world.now).await;
        assert_eq!(due.case.state, fleetmend_domain::incident::State::Open);
        assert_eq!(due.case.attempts[0].state.word(), phase.word());
        assert_eq!(due.case.attempts[0].refusal.is_some(), phase == OrderPhase::Refused);
    }
}

async fn the_climb_goes_on_after_proof_of_failure(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let leased = world.begin(order, 1, world.now).await;
    let mut at = world.now + seconds(60);
    assert!(world.finish(&leased, OrderPhase::Failed, at).await);
    assert_eq!(incident_state(&world, incident).await, StateName::Verifying);
    // Before the order began: no proof.
    let waiting = verifying(&world, at).await;
    assert_eq!(waiting.len(), 1);
    assert!(waiting[0].evidence.is_none());
    assert_eq!(waiting[0].deadline, at + VERIFY);
    let made = waiting.into_iter().map(|verifying| VerificationMade { verifying, verdict: None }).collect();
    assert_eq!(world.store.verifications_record(made, at).await.expect("recorded"), 0);
    assert!(verifying(&world, at).await.is_empty(), "looked at again at the deadline");
    // Evidence wakes it.
    at += seconds(60);
    let again = outcome(1, OutcomeResult::Failed, 0x8007_0002, at);
    world.report_at(device, vec![(2, again)], at).await;
    let waiting = verifying(&world, at).await;
    assert_eq!(waiting[0].evidence.as_ref().map(|it| it.code), Some(HResult(0x8007_0002)));
    let verdict = Some(Verdict::StillFailing { code: HResult(0x8007_0002) });
    let made: Vec<_> = waiting.into_iter().map(|verifying| VerificationMade { verifying, verdict }).collect();
    assert_eq!(world.store.verifications_record(made.clone(), at).await.expect("recorded"), 1);
    assert_eq!(world.store.verifications_record(made, at).await.expect("stale"), 0, "the incident has moved on");
    let due = world.due_of(incident, at).await;
    assert_eq!(due.case.attempts[0].verdict, verdict);
    // The next tier, and its success.
    let order = world.order(incident, Action::Troubleshoot, at).await;
    let leased = world.begin(order, 2, at).await;
    assert!(world.finish(&leased, OrderPhase::Succeeded, at).await);
    at += seconds(60);
    world.report_at(device, vec![(3, success(1, at))], at).await;
    let row = world.store.incident_get(incident).await.expect("a look-up").expect("the incident");
    assert_eq!((row.state, row.fixed_by.map(u8::from)), (StateName::Resolved, Some(2)));
    assert_eq!(world.store.summary().await.expect("a summary").escalations, 1);
    let story = world.store.incident_timeline(incident).await.expect("a timeline").moments;
    assert!(story.windows(2).all(|pair| pair[0].at <= pair[1].at));
    let count = |wanted: fn(&MomentKind) -> bool| story.iter().filter(|it| wanted(&it.what)).count();
    assert_eq!(count(|it| matches!(it, MomentKind::Outcome { .. })), 3);
    assert_eq!(count(|it| matches!(it, MomentKind::Decision { .. })), 2);
    assert_eq!(count(|it| matches!(it, MomentKind::Order { .. })), 2);
    assert_eq!(count(|it| matches!(it, MomentKind::Verification { .. })), 2);
}

async fn silence_until_the_deadline_is_a_verdict(world: World) {
    let (_, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let leased = world.begin(order, 1, world.now).await;
    world.finish(&leased, OrderPhase::Succeeded, world.now).await;
    let late = world.now + VERIFY;
    let waiting = verifying(&world, late).await;
    assert!(waiting[0].evidence.is_none() && waiting[0].deadline <= late);
    let verdict = Some(Verdict::DeadlinePassed);
    let made = waiting.into_iter().map(|verifying| VerificationMade { verifying, verdict }).collect();
    assert_eq!(world.store.verifications_record(made, late).await.expect("recorded"), 1);
    assert_eq!(world.due_of(incident, late).await.case.attempts[0].verdict, verdict);
}

async fn deadlines_end_what_waits_and_what_runs(world: World) {
    let (_, waiting) = world.failing().await;
    let queued = world.order(waiting, Action::Retry, world.now).await;
    let (device, running) = world.failing().await;
    let begun = world.order(running, Action::Retry, world.now).await;
    let leased = world.begin(begun, 1, world.now).await;
    assert_eq!(world.store.orders_expire(world.now + TimeDelta::hours(7)).await.expect("too early"), 0);
    let run_over = world.now + TimeDelta::hours(8);
    assert_eq!(world.store.orders_expire(run_over).await.expect("one has run too long"), 1);
    assert_eq!(state(&world, begun).await, State::Unknown);
    assert_eq!(incident_state(&world, running).await, StateName::Verifying);
    assert!(!world.finish(&leased, OrderPhase::Succeeded, run_over).await, "evidence only");
    let expired = world.now + TimeDelta::days(3);
    assert!(world.lease(queued, expired).await.is_none(), "an expired order is not sent");
    assert_eq!(world.store.orders_expire(expired).await.expect("one has waited too long"), 1);
    assert_eq!(state(&world, queued).await, State::Expired);
    assert_eq!(world.due_of(waiting, expired).await.case.attempts.len(), 1);
    world.report_at(device, vec![(2, failure(1, expired))], expired).await;
    assert!(verifying(&world, expired).await.iter().any(|it| it.incident == running && it.evidence.is_some()));
}

async fn a_begun_order_is_cancelled_by_its_device(world: World) {
    let (_, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let leased = world.begin(order, 1, world.now).await;
    assert_eq!(world.store.orders_cancel_asked().await.expect("a list"), []);
    world.store.order_cancel(order, "ada", "exam week", world.now).await.expect("a running order");
    assert_eq!(state(&world, order).await, State::Running, "only its device can tell what it has done so far");
    let asked = world.store.orders_cancel_asked().await.expect("a list");
    assert_eq!(asked.iter().map(|(order, ..)| *order).collect::<Vec<_>>(), [order]);
    assert!(world.finish(&leased, OrderPhase::Cancelled, world.now).await);
    assert_eq!(state(&world, order).await, State::Cancelled);
    assert_eq!(world.store.orders_cancel_asked().await.expect("a list"), []);
    assert_eq!(incident_state(&world, incident).await, StateName::Verifying, "it may have changed something");
    let refused = world.store.order_cancel(order, "ada", "again", world.now).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
}

on_both!(
    a_lease_signs_and_keeps_the_exact_bytes,
    the_fence_grows_with_each_lease,
    twenty_replicas_lease_an_order_once,
    begin_is_idempotent_under_one_fence_only,
    what_comes_with_a_stale_fence_is_evidence,
    a_quarantined_device_gets_and_begins_only_what_changes_nothing_lasting,
    steps_keep_their_newest_state,
    every_change_of_an_order_has_its_event,
    one_restart_is_owed_for_every_update_it_ends,
    refused_and_unavailable_go_back_to_the_ladder,
    the_climb_goes_on_after_proof_of_failure,
    silence_until_the_deadline_is_a_verdict,
    deadlines_end_what_waits_and_what_runs,
    a_begun_order_is_cancelled_by_its_device,
);
