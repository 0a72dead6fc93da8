//! Decisions: one active order a device, generations, repeated waits, people's requests.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use fleetmend_controller::store::{
    DecisionApplied, DecisionMade, IncidentFilter, MomentKind, OrderFilter, PageRequest, StoreError,
};
use fleetmend_domain::{
    incident::{HoldReason, REMINDER, StateName},
    ladder::Next,
    order,
    policy::Policy,
};
use fleetmend_proto::{Action, Tier};

use super::world::{World, decision, failure, seconds};

async fn a_device_has_one_active_order_however_many_try(world: World) {
    let device = world.device().await;
    let failures = (1..=20).map(|n| (i64::from(n), failure(n, world.now))).collect();
    world.report(device, failures).await;
    let due = world.due(world.now).await;
    assert_eq!(due.len(), 20);
    let mut tries = tokio::task::JoinSet::new();
    for incident in due {
        let (store, now) = (world.store.clone(), world.now);
        tries.spawn(async move {
            let made = DecisionMade { incident, decision: decision(Next::Order { action: Action::Retry }) };
            loop {
                match store.decisions_apply(vec![made.clone()], &Policy::default(), now).await {
                    Ok(applied) => return applied[0],
                    Err(error) if error.is_transient() => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let answers = tries.join_all().await;
    let placed = answers.iter().filter(|it| matches!(it, DecisionApplied::Applied { order: Some(_) })).count();
    let busy = answers.iter().filter(|it| **it == DecisionApplied::Busy).count();
    assert_eq!((placed, busy), (1, 19));
    let orders = world.store.order_list(&OrderFilter::default(), &PageRequest::default()).await.expect("a list");
    assert_eq!(orders.items.len(), 1);
    // The others come again.
    assert!(world.due(world.now).await.is_empty());
    assert_eq!(world.due(world.now + TimeDelta::hours(1)).await.len(), 19);
}

async fn two_orders_for_a_device_in_one_batch_are_one(world: World) {
    let device = world.device().await;
    world.report(device, vec![(1, failure(1, world.now)), (2, failure(2, world.now))]).await;
    let order = || decision(Next::Order { action: Action::Retry });
    let due = world.due(world.now).await.into_iter();
    let made = due.map(|incident| DecisionMade { incident, decision: order() }).collect();
    let answers = world.store.decisions_apply(made, &Policy::default(), world.now).await.expect("applied");
    assert!(matches!(answers[0], DecisionApplied::Applied { order: Some(_) }), "{answers:?}");
    assert_eq!(answers[1], DecisionApplied::Busy);
}

async fn the_database_itself_refuses_a_second_active_order(world: World) {
    let (_, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let (sqlite, postgres) = (
        "INSERT INTO orders SELECT randomblob(16), device_id, incident_id, action_name, action, tier, manual, 'running', \
         fence, lease_until, note, created_at, expires_at, run_seconds, leased_at, begun_at, begin_epoch, begin_seq, \
         run_deadline_at, ended_at, detail, refusal, verdict, generation FROM orders WHERE id = $1",
        "INSERT INTO orders SELECT gen_random_uuid(), device_id, incident_id, action_name, action, tier, manual, 'running', \
         fence, lease_until, note, created_at, expires_at, run_seconds, leased_at, begun_at, begin_epoch, begin_seq, \
         run_deadline_at, ended_at, detail, refusal, verdict, generation FROM orders WHERE id = $1",
    );
    let error = if world.url.starts_with("sqlite") {
        let pool = sqlx::SqlitePool::connect(&world.url).await.expect("the database");
        sqlx::query(sqlite).bind(order.0).execute(&pool).await.expect_err("a second active order")
    } else {
        let pool = sqlx::PgPool::connect(&world.url).await.expect("the database");
        sqlx::query(postgres).bind(order.0).execute(&pool).await.expect_err("a second active order")
    };
    assert!(error.as_database_error().is_some_and(|it| it.is_unique_violation()), "{error}");
}

async fn a_decision_on_an_old_picture_is_not_applied(world: World) {
    let (device, incident) = world.failing().await;
    let old = world.due_of(incident, world.now).await;
    world.report(device, vec![(2, failure(1, world.now + seconds(1)))]).await;
    let applied = world.apply(old, Next::Order { action: Action::Retry }, world.now).await;
    assert_eq!(applied, DecisionApplied::Stale);
    let current = world.due_of(incident, world.now).await;
    assert_eq!(current.case.failures, 2);
    let applied = world.apply(current.clone(), Next::Order { action: Action::Retry }, world.now).await;
    assert!(matches!(applied, DecisionApplied::Applied { order: Some(_) }));
    // Said twice: the incident has moved on.
    assert_eq!(world.apply(current, Next::EndBenign, world.now).await, DecisionApplied::Stale);
}

async fn the_same_wait_is_written_once(world: World) {
    let (_, incident) = world.failing().await;
    let decisions = async || {
        let story = world.store.incident_timeline(incident).await.expect("a timeline").moments;
        story.iter().filter(|moment| matches!(moment.what, MomentKind::Decision { .. })).count()
    };
    let mut at = world.now;
    for round in 0..3 {
        let due = world.due_of(incident, at).await;
        let until = at + TimeDelta::hours(1);
        let applied = world.apply(due, Next::Wait { until }, at).await;
        let expected = if round == 0 { DecisionApplied::Applied { order: None } } else { DecisionApplied::Repeated };
        assert_eq!(applied, expected);
        assert!(world.due(at).await.is_empty());
        at = until;
    }
    assert_eq!(decisions().await, 1);
    let hold = Next::Hold { reason: HoldReason::Manual, until: at + TimeDelta::hours(1) };
    let due = world.due_of(incident, at).await;
    assert_eq!(world.apply(due, hold, at).await, DecisionApplied::Applied { order: None });
    assert_eq!(decisions().await, 2);
    let row = world.store.incident_get(incident).await.expect("a look-up").expect("the incident");
    assert_eq!((row.state, row.reason.as_deref()), (StateName::Held, Some("manual")));
}

async fn a_person_gets_an_answer_once(world: World) {
    let (device, incident) = world.failing().await;
    let due = world.due_of(incident, world.now).await;
    world.apply(due, Next::Exhaust, world.now).await;
    assert!(world.due(world.now + TimeDelta::days(30)).await.is_empty());
    let asked =
        world.store.remediate(device, Some(Tier::ResetComponents), true, "ada", world.now).await.expect("a request");
    assert_eq!(asked.incidents, [incident]);
    let due = world.due_of(incident, world.now).await;
    let manual = due.case.manual.clone().expect("the request");
    assert_eq!((manual.tier, manual.now, manual.by.as_str()), (Some(Tier::ResetComponents), true, "ada"));
    let order = world.order(incident, Action::ResetComponents, world.now).await;
    assert!(world.store.order_get(order).await.expect("a look-up").expect("the order").manual);
    world.store.order_cancel(order, "ada", "not now", world.now).await.expect("an order that waits");
    let due = world.due_of(incident, world.now).await;
    assert_eq!(due.case.manual, None, "answered by the order");
    assert_eq!(due.case.attempts.len(), 1);
    assert!(due.case.attempts[0].manual);
    assert_eq!(due.case.attempts[0].state, order::State::Cancelled);
}

async fn a_declined_request_is_answered_and_moves_nothing(world: World) {
    let (device, incident) = world.failing().await;
    let row = async || world.store.incident_get(incident).await.expect("a look-up").expect("the incident");
    let ask = async || {
        world.store.remediate(device, Some(Tier::ResetPc), false, "ada", world.now).await.expect("a request");
        let due = world.due_of(incident, world.now).await;
        assert!(due.case.manual.is_some(), "the request");
        world.apply(due, Next::Decline, world.now).await
    };
    assert_eq!(ask().await, DecisionApplied::Applied { order: None });
    assert_eq!((row().await.state, row().await.due_at), (StateName::Open, Some(world.now)));
    let due = world.due_of(incident, world.now).await;
    assert_eq!(due.case.manual, None, "answered: the ladder's own turn");
    world.apply(due, Next::HandOver, world.now).await;
    let before = row().await;
    assert_eq!(ask().await, DecisionApplied::Applied { order: None });
    let after = row().await;
    assert_eq!((after.state, after.due_at), (StateName::HandedOver, before.due_at), "people keep it as it was");
    assert!(world.due(world.now + TimeDelta::days(90)).await.is_empty());
    // One that is met takes it back from them.
    world.store.remediate(device, Some(Tier::ResetComponents), false, "ada", world.now).await.expect("a request");
    world.order(incident, Action::ResetComponents, world.now).await;
    assert_eq!((row().await.state, row().await.deadline_at), (StateName::Remediating, None));
}

async fn an_order_that_needs_a_window_ends_with_it(world: World) {
    let now = world.now; // 03:00
    let windows = vec!["daily 02:00-05:00".parse().expect("a window")];
    let policy = Policy { windows, ..Policy::default() };
    for (action, ends) in [(Action::Reboot, TimeDelta::hours(2)), (Action::Retry, policy.order_expiry)] {
        let (_, incident) = world.failing().await;
        let made = DecisionMade {
            incident: world.due_of(incident, now).await,
            decision: decision(Next::Order { action: action.clone() }),
        };
        let applied = world.store.decisions_apply(vec![made], &policy, now).await.expect("applied");
        let DecisionApplied::Applied { order: Some(order) } = applied[0] else { panic!("{applied:?}") };
        let row = world.store.order_get(order).await.expect("a look-up").expect("the order");
        assert_eq!(row.expires_at, now + ends, "{action:?}");
    }
}

async fn what_people_have_has_a_deadline_that_is_served(world: World) {
    let age = Policy::default().reset_evidence_age;
    for (n, next) in [(1, Next::Exhaust), (2, Next::HandOver), (3, Next::AwaitApproval)] {
        let (device, incident) = world.failing().await;
        let due = world.due_of(incident, world.now).await;
        world.apply(due, next.clone(), world.now).await;
        let row = async || world.store.incident_get(incident).await.expect("a look-up").expect("the incident");
        let waits = if next == Next::Exhaust { REMINDER } else { age };
        assert_eq!(row().await.due_at, Some(world.now + waits), "{next:?}");
        assert_eq!(world.store.people_remind(world.now + waits - seconds(1)).await.expect("a pass"), 0, "{next:?}");
        // A request comes first.
        world.store.remediate(device, None, false, "ada", world.now).await.expect("a request");
        assert_eq!(world.store.people_remind(world.now + waits).await.expect("a pass"), 0, "{next:?}");
        let due = world.due_of(incident, world.now).await;
        world.apply(due, Next::Decline, world.now).await;
        assert_eq!(world.store.people_remind(world.now + waits).await.expect("a pass"), 1, "{next:?}");
        assert_eq!(row().await.state, StateName::Exhausted, "{next:?}");
        assert_eq!(row().await.due_at, Some(world.now + waits + REMINDER), "{next:?}");
        assert_eq!(world.store.people_remind(world.now + waits).await.expect("a pass"), 0, "once: {next:?}");
        let wanted = if n == 1 { "still_exhausted" } else { "handover_expired" };
        let story = world.store.incident_timeline(incident).await.expect("a timeline").moments;
        let told = story.iter().any(|it| matches!(&it.what, MomentKind::Event { name, .. } if name == wanted));
        assert!(told, "{next:?}: no {wanted}");
        // Nothing more is told of what has ended.
        world.store.incident_dismiss(incident, "ada", "not now", world.now).await.expect("an open incident");
    }
}

async fn a_dismissed_incident_is_over(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    world.store.incident_dismiss(incident, "ada", "not now", world.now).await.expect("an open incident");
    let row = world.store.incident_get(incident).await.expect("a look-up").expect("the incident");
    assert_eq!((row.state, row.reason.as_deref()), (StateName::Dismissed, Some("ada")));
    let order = world.store.order_get(order).await.expect("a look-up").expect("the order");
    assert_eq!(order.state, order::State::Cancelled);
    let again = world.store.incident_dismiss(incident, "ada", "not now", world.now).await;
    assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
    let asked = world.store.remediate(device, None, false, "ada", world.now).await.expect("a request");
    assert!(asked.incidents.is_empty());
}

async fn incidents_come_by_page_newest_first_by_any_filter(world: World) {
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(world.failing().await);
    }
    let due = world.due_of(made[0].1, world.now).await;
    world.apply(due, Next::Exhaust, world.now).await;
    let list = async |filter: IncidentFilter, limit| {
        let mut request = PageRequest { cursor: None, limit: Some(limit) };
        let mut ids = Vec::new();
        loop {
            let page = world.store.incident_list(&filter, &request).await.expect("a page");
            ids.extend(page.items.iter().map(|row| row.id));
            let Some(next) = page.next else { return ids };
            request.cursor = Some(next);
        }
    };
    let newest_first: Vec<_> = made.iter().rev().map(|(_, incident)| *incident).collect();
    assert_eq!(list(IncidentFilter::default(), 3).await, newest_first);
    let code = Some(fleetmend_proto::HResult(0x8007_3712));
    assert_eq!(list(IncidentFilter { code, ..IncidentFilter::default() }, 2).await, newest_first);
    let state = Some(StateName::Exhausted);
    assert_eq!(list(IncidentFilter { state, ..IncidentFilter::default() }, 100).await, [made[0].1]);
    let state = Some(StateName::Open);
    assert_eq!(list(IncidentFilter { state, code, ..IncidentFilter::default() }, 5).await, newest_first[..6]);
    let device = Some(made[3].0);
    assert_eq!(list(IncidentFilter { device, state, code, ..IncidentFilter::default() }, 5).await, [made[3].1]);
    assert_eq!(newest_first.iter().collect::<BTreeSet<_>>().len(), 7);
}

on_both!(
    a_device_has_one_active_order_however_many_try,
    two_orders_for_a_device_in_one_batch_are_one,
    the_database_itself_refuses_a_second_active_order,
    a_decision_on_an_old_picture_is_not_applied,
    the_same_wait_is_written_once,
    a_person_gets_an_answer_once,
    a_declined_request_is_answered_and_moves_nothing,
    an_order_that_needs_a_window_ends_with_it,
    what_people_have_has_a_deadline_that_is_served,
    a_dismissed_incident_is_over,
    incidents_come_by_page_newest_first_by_any_filter,
);
