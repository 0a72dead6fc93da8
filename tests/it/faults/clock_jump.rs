//! The controller's clock jumps by an hour and by a day, both ways, while orders are out in every phase.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use fleetmend_domain::order::State;
use fleetmend_proto::{Clock, clock::wall_now, order::OrderPhase};

use super::{
    in_process::{InProcess, failure, next_order, wait_for},
    invariants,
};

const SOON: Duration = Duration::from_secs(15);
/// The loops go round every 50 ms here: each jump is seen by all of them many times.
const LOOPS_SEE_IT: Duration = Duration::from_millis(600);

/// Domain time that people can set.
#[derive(Default)]
struct Settable {
    seconds_ahead: AtomicI64,
}

impl Settable {
    fn jump(&self, by: TimeDelta) {
        self.seconds_ahead.fetch_add(by.num_seconds(), SeqCst);
    }
}

impl Clock for Settable {
    fn now(&self) -> DateTime<Utc> {
        wall_now() + TimeDelta::seconds(self.seconds_ahead.load(SeqCst))
    }

    fn real(&self, domain: Duration) -> Duration {
        // Only the ticks of the loops ask.
        domain / 100_000
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jumps_while_orders_are_out() {
    let clock = Arc::new(Settable::default());
    let controller = InProcess::start(Arc::clone(&clock) as Arc<dyn Clock>).await.expect("a controller");

    // One order that is leased, one that runs; a third waits for a device that is not connected.
    let (mut leased, mut running, mut away) = (
        controller.device(0).await.expect("enrolled"),
        controller.device(1).await.expect("enrolled"),
        controller.device(2).await.expect("enrolled"),
    );
    let mut leased_stream = leased.subscribe().await.expect("a stream");
    let mut running_stream = running.subscribe().await.expect("a stream");
    for (number, device) in [&mut leased, &mut running, &mut away].into_iter().enumerate() {
        device.report(&failure(u32::try_from(number).expect("small"))).await.expect("recorded");
    }
    let leased_order = next_order(&mut leased_stream, &controller, SOON).await.expect("an order");
    let running_order = next_order(&mut running_stream, &controller, SOON).await.expect("an order");
    running.begin(running_order.order, running_order.fence).await.expect("answered").expect("given leave");
    wait_for("an order for the device that is away", SOON, async || {
        Ok(invariants::all_orders(controller.store()).await?.len() == 3)
    })
    .await
    .expect("placed");
    let lease = controller.order(leased_order.order).await.expect("read").lease_until;

    // An hour is inside every deadline of an order: nothing may end, and leases are of another time altogether.
    let hour = TimeDelta::hours(1);
    for jump in [hour, -hour, -hour, hour] {
        clock.jump(jump);
        tokio::time::sleep(LOOPS_SEE_IT).await;
        let now = controller.order(leased_order.order).await.expect("read");
        assert_eq!((now.state, now.lease_until), (State::Leased, lease), "after a jump of {jump}");
        assert_eq!(controller.order(running_order.order).await.expect("read").state, State::Running);
        running
            .begin(running_order.order, running_order.fence)
            .await
            .expect("answered")
            .expect("the lease of a running order is renewed");
        controller.assert_histories().await.expect("read");
    }
    assert_eq!(invariants::all_orders(controller.store()).await.expect("read").len(), 3, "a jump placed an order");

    // A day is past the run deadline and not past the expiry of what waits.
    let day = TimeDelta::days(1);
    clock.jump(day);
    wait_for("the run deadline ends the order", SOON, async || {
        Ok(controller.order(running_order.order).await?.state == State::Unknown)
    })
    .await
    .expect("ended");
    clock.jump(-day);
    tokio::time::sleep(LOOPS_SEE_IT).await;
    clock.jump(-day);
    tokio::time::sleep(LOOPS_SEE_IT).await;
    clock.jump(day);
    tokio::time::sleep(LOOPS_SEE_IT).await;

    // What the device did meanwhile comes too late to move anything, and is kept.
    assert!(!running.update(running_order.order, running_order.fence, OrderPhase::Succeeded).await.expect("answered"));
    assert_eq!(controller.raw().await.expect("open").evidence_of(running_order.order).await.expect("read"), 1);
    // What had not begun begins now, under its lease, and ends.
    let now = controller.order(leased_order.order).await.expect("read");
    assert_eq!((now.state, now.lease_until), (State::Leased, lease));
    leased.begin(leased_order.order, leased_order.fence).await.expect("answered").expect("its lease still lives");
    assert!(leased.update(leased_order.order, leased_order.fence, OrderPhase::Failed).await.expect("answered"));
    // And the one that was away gets its order when it comes.
    let mut away_stream = away.subscribe().await.expect("a stream");
    let away_order = next_order(&mut away_stream, &controller, SOON).await.expect("its order");
    away.begin(away_order.order, away_order.fence).await.expect("answered").expect("given leave");

    controller.assert_histories().await.expect("read");
    controller.stop().await;
}
