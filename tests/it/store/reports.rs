//! Reports: recorded once, all or nothing, exactly as told; incidents open, join and close with them.

use chrono::TimeDelta;
use fleetmend_controller::store::{DeviceReport, IncidentFilter, MomentKind, PageRequest, ReportRecorded, StoreError};
use fleetmend_domain::{incident::StateName, order};
use fleetmend_proto::{
    Action, DeviceId, HResult, OutcomeResult, Position, UpdateKind, condition::DeviceRole, order::OrderPhase,
};
use fleetmend_tests::fixtures::condition;
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
    let received = world.now + TimeDelta::microseconds(123_457);
    world.report_at(device, vec![(1, odd.clone())], received).await;
    let list = world.store.incident_list(&IncidentFilter::default(), &PageRequest::default()).await.expect("a list");
    let incident = &list.items[0];
    assert_eq!(incident.update, odd.update);
    assert_eq!(incident.last_failed_at, odd.occurred_at);
    assert_eq!(incident.opened_at, received);
    assert_eq!((incident.code, incident.raw_code), (odd.code, odd.raw_code));
    let story = world.store.incident_timeline(incident.id).await.expect("a timeline").moments;
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
    let later = world.now + seconds(60);
    world.report_at(device, vec![(2, newer), (3, older)], later).await;
    let due = world.due(later).await;
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

async fn a_clock_that_ran_ahead_hides_no_success(world: World) {
    let state = async |incident| world.store.incident_get(incident).await.expect("a look-up").expect("it").state;
    // Told at once; then the clock is set, and the update installs.
    let device = world.device().await;
    world.report(device, vec![(1, failure(1, world.now + TimeDelta::hours(10)))]).await;
    let incident = world.due(world.now).await[0].case.incident;
    let row = world.store.incident_get(incident).await.expect("a look-up").expect("it");
    assert_eq!(row.last_failed_at, world.now, "no failure is younger than its report");
    let later = world.now + TimeDelta::minutes(10);
    world.report_at(device, vec![(2, success(1, later))], later).await;
    assert_eq!(state(incident).await, StateName::Resolved);
    // All in one report, after the clock was set.
    let device = world.device().await;
    let ahead = failure(1, later + TimeDelta::hours(10));
    let sent = vec![(1, ahead), (2, success(1, later - TimeDelta::minutes(5)))];
    world.report_at(device, sent, later).await;
    assert!(world.due(later).await.iter().all(|it| it.device != device));
    // A success of the wrong clock hides no failure that comes after it.
    let device = world.device().await;
    world.report(device, vec![(1, success(2, world.now + TimeDelta::hours(20)))]).await;
    world.report_at(device, vec![(2, failure(2, later))], later).await;
    assert_eq!(world.due(later).await.iter().filter(|it| it.device == device).count(), 1);
}

async fn only_the_newest_successes_of_a_device_are_looked_at(world: World) {
    let device = world.device().await;
    let at = |n: i64| world.now - TimeDelta::hours(10) + seconds(n);
    let many =
        |from: i64, update: u32, count: i64| (from..from + count).map(move |n| (n, success(update, at(n)))).collect();
    world.report(device, vec![(1, success(1, at(1)))]).await;
    world.report(device, many(2, 2, 999)).await;
    let late = || failure(1, at(0));
    world.report(device, vec![(1_001, late())]).await;
    assert!(world.due(world.now).await.is_empty(), "it was cured since: among the newest 1,000");
    world.report(device, many(1_002, 2, 1)).await;
    world.report(device, vec![(1_003, late())]).await;
    assert_eq!(world.due(world.now).await.len(), 1);
}

async fn a_timeline_says_when_it_does_not_hold_everything(world: World) {
    let device = world.device().await;
    let failures = (1..=500).map(|n| (n, failure(1, world.now + seconds(n)))).collect();
    world.report(device, failures).await;
    let incident = world.due(world.now).await[0].case.incident;
    let whole = world.store.incident_timeline(incident).await.expect("a story");
    assert!(!whole.truncated);
    world.report(device, vec![(501, failure(1, world.now + seconds(501)))]).await;
    let cut = world.store.incident_timeline(incident).await.expect("a story");
    assert!(cut.truncated);
    let seqs: Vec<_> = cut
        .moments
        .iter()
        .filter_map(|it| if let MomentKind::Outcome { position, .. } = it.what { Some(position.seq) } else { None })
        .collect();
    assert_eq!(seqs, (2..=501).collect::<Vec<_>>(), "the newest, in order");
}

async fn what_a_device_becomes_is_an_event(world: World) {
    let device = world.device().await;
    let tell = async |role, reboot: bool| {
        let mut condition = condition(world.now);
        condition.role = role;
        if reboot {
            condition.reboot_pending = vec!["updates".to_owned()];
        }
        let report =
            DeviceReport { device, epoch: 1, outcomes: Vec::new(), condition: Some(condition), received_at: world.now };
        world.store.reports_record(&[report]).await.expect("recorded");
        let events = "SELECT COUNT(*) FROM events WHERE device_id = $1 AND kind = 'condition_recorded'";
        world.number(events, device.0).await
    };
    let first = tell(DeviceRole::Workstation, false).await;
    assert_eq!(tell(DeviceRole::Workstation, false).await, first);
    assert_eq!(tell(DeviceRole::Kiosk, false).await, first + 1);
    assert_eq!(tell(DeviceRole::Kiosk, false).await, first + 1);
    let changed = "SELECT COUNT(*) FROM events WHERE device_id = $1 AND kind = 'condition_recorded' AND data = \
                   '{\"role\":{\"from\":\"workstation\",\"to\":\"kiosk\"}}'";
    assert_eq!(world.number(changed, device.0).await, 1);
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

async fn a_build_that_the_title_names_closes_and_no_other(world: World) {
    let device = world.device().await;
    let (_, bystander) = world.failing().await;
    let titled = |n: u32, title: &str| {
        let mut outcome = failure(n, world.now);
        title.clone_into(&mut outcome.update.title);
        outcome
    };
    let failures = vec![
        (1, titled(1, "2026-01 Cumulative Update (KB5000001) (26100.1742)")),
        (2, titled(2, "2026-02 Cumulative Update (KB5000002) (26100.1743)")),
        (3, titled(3, "2026-01 Cumulative Update (KB5000003) (26200.1742)")),
        (4, titled(4, "2026-01 Cumulative Update (KB5000004)")),
    ];
    world.report(device, failures).await;
    let due = world.due(world.now).await;
    let of = |title: &str| due.iter().find(|it| it.case.update.title.contains(title)).expect("it is due").case.incident;
    let (reached, ids) = (of("26100.1742"), [of("26100.1743"), of("26200.1742"), of("KB5000004"), bystander]);
    let order = world.order(reached, Action::Retry, world.now).await;
    let condition = condition(world.now);
    assert_eq!((condition.os_build, condition.ubr), (26_100, 1742));
    let report =
        DeviceReport { device, epoch: 1, outcomes: Vec::new(), condition: Some(condition), received_at: world.now };
    // Said twice: nothing is left to end.
    for _ in 0..2 {
        world.store.reports_record(std::slice::from_ref(&report)).await.expect("a recorded report");
    }
    let row = async |id| world.store.incident_get(id).await.expect("a look-up").expect("the incident");
    assert_eq!((row(reached).await.state, row(reached).await.fixed_by), (StateName::Resolved, None));
    let order = world.store.order_get(order).await.expect("a look-up").expect("the order");
    assert_eq!(order.state, order::State::Cancelled, "it had not begun");
    for id in ids {
        assert_eq!(row(id).await.state, StateName::Open);
    }
    let story = world.store.incident_timeline(reached).await.expect("a timeline");
    let proofs =
        story.moments.iter().filter(|it| matches!(it.what, MomentKind::Verification { evidence: None, .. })).count();
    assert_eq!(proofs, 1);
}

on_both!(
    a_build_that_the_title_names_closes_and_no_other,
    a_repeated_report_changes_nothing,
    other_content_under_a_known_position_wants_a_new_epoch,
    a_batch_with_an_unknown_device_records_and_acknowledges_nothing,
    titles_and_times_come_back_as_they_were,
    due_times_order_by_time_down_to_the_microsecond,
    one_failure_opens_the_next_ones_join,
    a_success_closes_from_anywhere_and_cancels_what_waits,
    a_replacing_update_closes_too,
    a_failure_that_arrives_after_its_cure_opens_nothing,
    a_clock_that_ran_ahead_hides_no_success,
    only_the_newest_successes_of_a_device_are_looked_at,
    a_timeline_says_when_it_does_not_hold_everything,
    what_a_device_becomes_is_an_event,
    the_order_that_ran_gets_the_credit,
    opened_and_closed_in_one_batch,
    a_driver_offer_that_keeps_coming_back_is_counted,
);
