//! Reports: recorded once, all or nothing, exactly as told; incidents open, join and close with them.

use chrono::TimeDelta;
use fleetmend_controller::store::{DeviceReport, IncidentFilter, MomentKind, PageRequest, ReportRecorded, StoreError};
use fleetmend_domain::{incident::StateName, order};
use fleetmend_proto::{Action, DeviceId, HResult, OutcomeResult, Position, UpdateKind, order::OrderPhase};
use uuid::Uuid;

use super::world::{World, failure, outcome, seconds, success};

async fn outcomes(world: &World) -> i64 {
    world.store.summary().await.expect("a summary").outcomes
}

async fn a_repeated_report_changes_nothing(world: World) {
    let device = world.device().await;
    let sent = vec![(1, failure(1, world.now)), (2, failure(2, world.now))];
    let first = world.report(device, sent.clone()).await;
    assert_eq!(first, ReportRecorded { acked_seq: 2, accepted: 2, duplicates: 0, new_epoch: false });
    let before = world.store.summary().await.expect("a summary");
    let again = world.report(device, sent).await;
    assert_eq!(again, ReportRecorded { acked_seq: 2, accepted: 0, duplicates: 2, new_epoch: false });
    assert_eq!(world.store.summary().await.expect("a summary"), before);
    // Twice in one batch, as when an agent gave up waiting and sent again.
    let report = |seq| DeviceReport {
        device,
        epoch: 1,
        outcomes: vec![(seq, failure(1, world.now + seconds(seq)))],
        condition: None,
        received_at: world.now,
    };
    let both = world.store.reports_record(&[report(3), report(3)]).await.expect("recorded");
    assert_eq!((both[0].accepted, both[1].duplicates), (1, 1));
    assert_eq!(outcomes(&world).await, 3);
}

async fn other_content_under_a_known_position_wants_a_new_epoch(world: World) {
    let device = world.device().await;
    world.report(device, vec![(1, failure(1, world.now))]).await;
    let rolled_back = vec![(1, failure(2, world.now)), (2, failure(3, world.now))];
    let answer = world.report(device, rolled_back.clone()).await;
    assert_eq!(answer, ReportRecorded { new_epoch: true, ..ReportRecorded::default() });
    assert_eq!(outcomes(&world).await, 1, "nothing of it is stored");
    let report = DeviceReport { device, epoch: 2, outcomes: rolled_back, condition: None, received_at: world.now };
    let answer = world.store.reports_record(&[report]).await.expect("recorded")[0];
    assert_eq!((answer.accepted, answer.new_epoch), (2, false));
}

async fn a_batch_with_an_unknown_device_records_and_acknowledges_nothing(world: World) {
    let device = world.device().await;
    let report = |device, seq| DeviceReport {
        device,
        epoch: 1,
        outcomes: vec![(seq, failure(1, world.now))],
        condition: None,
        received_at: world.now,
    };
    let stranger = DeviceId(Uuid::new_v4());
    let refused = world.store.reports_record(&[report(device, 1), report(stranger, 1)]).await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    assert_eq!(outcomes(&world).await, 0);
    assert!(world.due(world.now).await.is_empty());
    let alone = world.store.reports_record(&[report(device, 1)]).await.expect("recorded");
    assert_eq!(alone[0].accepted, 1);
}

async fn titles_and_times_come_back_as_they_were(world: World) {
    let device = world.device().await;
    let mut odd = failure(1, world.now + TimeDelta::microseconds(123_456));
    odd.update.title = "Kumulatives Update für Windows – 累積更新 🪟 \"quoted\" \\ back'slash".to_owned();
    odd.update.supersedes = vec![Uuid::from_u128(77)];
    odd.raw_code = HResult(0x8024_200B);
    let received = world.now + TimeDelta::microseconds(1);
    world.report_at(device, vec![(1, odd.clone())], received).await;
    let list = world.store.incident_list(&IncidentFilter::default(), &PageRequest::default()).await.expect("a list");
    let incident = &list.items[0];
    assert_eq!(incident.update, odd.update);
    assert_eq!(incident.last_failed_at, odd.occurred_at);
    assert_eq!(incident.opened_at, received);
    assert_eq!((incident.code, incident.raw_code), (odd.code, odd.raw_code));
    let story = world.store.incident_timeline(incident.id).await.expect("a timeline");
    let told = story.iter().find_map(|moment| {
        if let MomentKind::Outcome { position, outcome } = &moment.what {
            return Some((*position, outcome.clone()));
        }
        None
    });
    assert_eq!(told, Some((Position { epoch: 1, seq: 1 }, odd)));
}

async fn due_times_order_by_time_down_to_the_microsecond(world: World) {
    // Whole seconds, milliseconds and microseconds have texts of different length on SQLite.
    let offsets = [0, 1, 1_000, 500_000, 999_999, 1_000_000, 1_000_001];
    let mut devices = Vec::new();
    for offset in offsets {
        let device = world.device().await;
        let at = world.now + TimeDelta::microseconds(offset);
        world.report_at(device, vec![(1, failure(1, at))], at).await;
        devices.push(device);
    }
    for (index, offset) in offsets.into_iter().enumerate() {
        let due = world.due(world.now + TimeDelta::microseconds(offset)).await;
        let order: Vec<_> = due.iter().map(|it| it.device).collect();
        assert_eq!(order, devices[..=index], "at {offset} us");
    }
}

async fn one_failure_opens_the_next_ones_join(world: World) {
    let device = world.device().await;
    world.report(device, vec![(1, failure(1, world.now))]).await;
    let newer = outcome(1, OutcomeResult::Failed, 0x8007_0002, world.now + seconds(60));
    let older = outcome(1, OutcomeResult::Failed, 0x8007_0005, world.now - seconds(60));
    world.report(device, vec![(2, newer), (3, older)]).await;
    let due = world.due(world.now).await;
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].case.failures, 3);
    assert_eq!(due[0].case.code, HResult(0x8007_0002), "the newest failure gives the code");
    assert_eq!(due[0].case.last_failed_at, world.now + seconds(60));
}

async fn a_success_closes_from_anywhere_and_cancels_what_waits(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let later = world.now + seconds(60);
    world.report_at(device, vec![(2, success(1, later))], later).await;
    let row = world.store.incident_get(incident).await.expect("a look-up").expect("the incident");
    assert_eq!((row.state, row.fixed_by, row.closed_at), (StateName::Resolved, None, Some(later)));
    let order = world.store.order_get(order).await.expect("a look-up").expect("the order");
    assert_eq!(order.state, order::State::Cancelled);
    // It is over: the next failure is another incident.
    let again = later + seconds(60);
    world.report_at(device, vec![(3, failure(1, again))], again).await;
    let due = world.due(again).await;
    assert_eq!(due.len(), 1);
    assert_ne!(due[0].case.incident, incident);
}

async fn a_replacing_update_closes_too(world: World) {
    let (device, incident) = world.failing().await;
    let mut newer = success(2, world.now + seconds(60));
    newer.update.supersedes = vec![super::world::update(1).update_id.expect("an id")];
    world.report(device, vec![(2, newer)]).await;
    let row = world.store.incident_get(incident).await.expect("a look-up").expect("the incident");
    assert_eq!(row.state, StateName::Resolved);
}

async fn a_failure_that_arrives_after_its_cure_opens_nothing(world: World) {
    let device = world.device().await;
    world.report(device, vec![(1, success(1, world.now))]).await;
    world.report(device, vec![(2, failure(1, world.now - seconds(60)))]).await;
    assert!(world.due(world.now).await.is_empty());
    // In one batch as well.
    let sent = vec![(3, success(2, world.now)), (4, failure(2, world.now - seconds(60)))];
    world.report(device, sent).await;
    assert!(world.due(world.now).await.is_empty());
    world.report(device, vec![(5, failure(1, world.now + seconds(60)))]).await;
    assert_eq!(world.due(world.now).await.len(), 1);
}

async fn the_order_that_ran_gets_the_credit(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::RepairImage, world.now).await;
    let leased = world.begin(order, 1, world.now).await;
    let later = world.now + seconds(60);
    // Windows says so before the agent reports the end of its order.
    world.report_at(device, vec![(2, success(1, later))], later).await;
    let row = world.store.incident_get(incident).await.expect("a look-up").expect("the incident");
    assert_eq!((row.state, row.fixed_by.map(u8::from)), (StateName::Resolved, Some(3)));
    assert!(world.finish(&leased, OrderPhase::Succeeded, later).await);
    let order = world.store.order_get(order).await.expect("a look-up").expect("the order");
    assert_eq!(order.state, order::State::Succeeded);
    assert_eq!(order.verdict, Some(fleetmend_domain::ladder::Verdict::Installed));
    let summary = world.store.summary().await.expect("a summary");
    assert_eq!(
        summary.fixed_by.iter().map(|(tier, count)| (tier.map(u8::from), *count)).collect::<Vec<_>>(),
        [(Some(3), 1)]
    );
}

async fn opened_and_closed_in_one_batch(world: World) {
    let device = world.device().await;
    let sent = vec![
        (1, failure(1, world.now)),
        (2, failure(1, world.now + seconds(1))),
        (3, success(1, world.now + seconds(2))),
        (4, failure(1, world.now + seconds(3))),
    ];
    world.report(device, sent).await;
    let summary = world.store.summary().await.expect("a summary");
    let states: Vec<_> = summary.incidents.into_iter().collect();
    assert_eq!(states, [(StateName::Open, 1), (StateName::Resolved, 1)]);
}

async fn a_driver_offer_that_keeps_coming_back_is_counted(world: World) {
    let device = world.device().await;
    for round in 0..3 {
        let at = world.now + seconds(round * 60);
        let mut offer = outcome(1, OutcomeResult::Failed, 0x8007_0103, at);
        offer.update.kind = UpdateKind::Driver;
        world.report_at(device, vec![(round + 1, offer)], at).await;
        let due = world.due(at).await;
        assert_eq!(due.len(), 1);
        assert_eq!(i64::from(due[0].case.benign_before), round);
        world.apply(due[0].clone(), fleetmend_domain::ladder::Next::EndBenign, at).await;
    }
}

on_both!(
    a_repeated_report_changes_nothing,
    other_content_under_a_known_position_wants_a_new_epoch,
    a_batch_with_an_unknown_device_records_and_acknowledges_nothing,
    titles_and_times_come_back_as_they_were,
    due_times_order_by_time_down_to_the_microsecond,
    one_failure_opens_the_next_ones_join,
    a_success_closes_from_anywhere_and_cancels_what_waits,
    a_replacing_update_closes_too,
    a_failure_that_arrives_after_its_cure_opens_nothing,
    the_order_that_ran_gets_the_credit,
    opened_and_closed_in_one_batch,
    a_driver_offer_that_keeps_coming_back_is_counted,
);
