//! Messages that come twice, late or in another order change nothing that the first one did not.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleetmend_domain::order::State;
use fleetmend_proto::{Fence, SystemClock, clock::wall_now, convert::outcome_to_wire, order::OrderPhase, v1};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{
    in_process::{InProcess, assert_refused, failure, next_order},
    invariants, kills,
};

const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_reordered_reports_count_once() {
    const OUTCOMES: i64 = 60;
    const UPDATES: u32 = 12;
    let mut random = StdRng::seed_from_u64(kills::seed());
    let controller = InProcess::start(Arc::new(SystemClock)).await.expect("a controller");
    let mut device = controller.device(0).await.expect("enrolled");
    // Numbered as recorded, cut into reports of one to four, each sent twice, in any order.
    let numbered: Vec<_> = (1..=OUTCOMES).zip((0..UPDATES).cycle()).collect();
    let mut rest = &numbered[..];
    let mut reports = Vec::new();
    for size in (1..=4).cycle() {
        let (now, later) = rest.split_at(size.min(rest.len()));
        let outcomes: Vec<_> = now.iter().map(|(seq, update)| outcome_to_wire(*seq, &failure(*update))).collect();
        let request = v1::ReportRequest { epoch: 1, outcomes, condition: None };
        reports.extend([request.clone(), request]);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    reports.shuffle(&mut random);
    for report in reports {
        let last = report.outcomes.iter().map(|outcome| outcome.seq).max();
        let answer = device.send(report).await.expect("taken");
        assert_eq!((Some(answer.acked_seq), answer.new_epoch), (last, false), "{answer:?}");
        assert!(answer.rejections.is_empty(), "{answer:?}");
    }
    let summary = controller.store().summary().await.expect("a summary");
    assert_eq!(summary.outcomes, OUTCOMES);
    assert_eq!(controller.duplicates(), u64::try_from(OUTCOMES).expect("positive"));
    let incidents = invariants::all_incidents(controller.store()).await.expect("incidents");
    let failures: BTreeMap<_, _> = incidents.iter().map(|it| (it.update.kb, it.failures)).collect();
    assert_eq!(failures.len(), incidents.len(), "one update opened two incidents");
    assert_eq!(failures.len(), UPDATES as usize);
    assert!(failures.values().all(|count| *count == OUTCOMES / i64::from(UPDATES)), "{failures:?}");
    controller.assert_histories().await.expect("read");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_reordered_order_messages_change_nothing() {
    let controller = InProcess::start(Arc::new(SystemClock)).await.expect("a controller");
    let mut device = controller.device(0).await.expect("enrolled");
    let mut stream = device.subscribe().await.expect("a stream");
    device.report(&failure(0)).await.expect("recorded");
    let order = next_order(&mut stream, &controller, SOON).await.expect("an order");
    let (id, fence) = (order.order, order.fence);

    // Nothing can have come of an order that has not begun.
    assert!(!device.update(id, fence, OrderPhase::Succeeded).await.expect("answered"));
    assert_eq!(controller.order(id).await.expect("read").state, State::Leased);

    device.begin(id, fence).await.expect("answered").expect("given leave");
    let begun = controller.order(id).await.expect("read");
    device.begin(id, fence).await.expect("answered").expect("the answer to the first may have been lost");
    let again = controller.order(id).await.expect("read");
    assert_eq!(
        (again.state, again.begun_at, again.run_deadline_at),
        (State::Running, begun.begun_at, begun.run_deadline_at)
    );

    for _ in 0..2 {
        assert!(device.update(id, fence, OrderPhase::Running).await.expect("answered"));
    }
    for _ in 0..2 {
        assert!(device.update(id, fence, OrderPhase::Failed).await.expect("answered"), "its end may be told twice");
    }
    let ended = controller.order(id).await.expect("read");
    assert_eq!(ended.state, State::Failed);

    // Late ones, and another end.
    for phase in [OrderPhase::Running, OrderPhase::AwaitingReboot, OrderPhase::Succeeded, OrderPhase::Cancelled] {
        assert!(!device.update(id, fence, phase).await.expect("answered"), "{phase} was taken after the end");
    }
    assert_refused(device.begin(id, fence).await.expect("answered"));
    assert_eq!(controller.order(id).await.expect("read"), ended);
    assert_eq!(controller.raw().await.expect("open").evidence_of(id).await.expect("read"), 5);
    controller.assert_histories().await.expect("read");
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_fence_changes_nothing() {
    let controller = InProcess::start(Arc::new(SystemClock)).await.expect("a controller");
    let mut device = controller.device(0).await.expect("enrolled");
    let mut stream = device.subscribe().await.expect("a stream");
    device.report(&failure(0)).await.expect("recorded");
    let first = next_order(&mut stream, &controller, SOON).await.expect("an order");
    // The lease ends before the device begins: the order is given again, under a higher fence.
    let after_lease = wall_now() + chrono::TimeDelta::seconds(61);
    controller.store().leases_lapse(after_lease).await.expect("the lease lapses");
    let second = next_order(&mut stream, &controller, SOON).await.expect("the order again");
    assert_eq!(second.order, first.order);
    assert!(second.fence > first.fence, "{} after {}", second.fence, first.fence);

    let before = controller.order(first.order).await.expect("read");
    assert_refused(device.begin(first.order, first.fence).await.expect("answered"));
    for phase in [OrderPhase::Running, OrderPhase::Refused, OrderPhase::Unavailable, OrderPhase::Failed] {
        assert!(!device.update(first.order, first.fence, phase).await.expect("answered"), "{phase}");
    }
    assert_eq!(controller.order(first.order).await.expect("read"), before, "who holds an old fence moved the order");
    assert_eq!(controller.raw().await.expect("open").evidence_of(first.order).await.expect("read"), 4);

    device.begin(second.order, second.fence).await.expect("answered").expect("the newest fence may begin");
    assert!(!device.update(first.order, first.fence, OrderPhase::Succeeded).await.expect("answered"));
    assert_eq!(controller.order(first.order).await.expect("read").state, State::Running);
    let never_given = Fence(second.fence.0 + 1);
    assert!(!device.update(second.order, never_given, OrderPhase::Succeeded).await.expect("answered"));
    controller.assert_histories().await.expect("read");
    controller.stop().await;
}
