//! Sessions: a newer stream replaces an older one; only their replica leases.

use std::time::Duration;

use fleetmend_controller::{
    config::DrainSettings,
    reconcile::sessions,
    store::{DeviceState, Hello, MAX_FENCE, Selector, StoreError},
    streams::Streams,
};
use fleetmend_proto::{Action, Fence, order::OrderPhase};

use super::world::World;

async fn a_newer_stream_outlives_the_end_of_an_older_one(world: World) {
    let (device, incident) = world.failing().await;
    world.order(incident, Action::Retry, world.now).await;
    let open = async |replica| world.session(device, replica).await;
    let leasable = async |replica| world.store.orders_leasable(replica, None, 10).await.expect("orders").len();
    let first = open("a").await;
    assert_eq!((leasable("a").await, leasable("b").await), (1, 0));
    let second = open("b").await;
    assert!(second > first);
    world.store.session_close(device, first).await.expect("the end of the first stream");
    assert_eq!((leasable("a").await, leasable("b").await), (0, 1));
    world.store.session_close(device, second).await.expect("the end of the second stream");
    assert_eq!((leasable("a").await, leasable("b").await), (0, 0));
    open("a").await;
    assert_eq!(world.store.sessions_clear("b").await.expect("nothing to clear"), 0);
    assert_eq!(world.store.sessions_clear("a").await.expect("one to clear"), 1);
    assert_eq!(leasable("a").await, 0);
}

async fn orders_are_above_every_fence_the_device_has_seen(world: World) {
    let (device, incident) = world.failing().await;
    // As after a restored backup: the device has seen more than the database knows.
    world.hello(device, "a", Fence(41), None).await;
    world.hello(device, "a", Fence(7), None).await;
    let order = world.order(incident, Action::Retry, world.now).await;
    assert_eq!(world.lease(order, world.now).await.expect("a queued order").fence, Fence(42));
}

async fn a_fence_that_no_lease_can_have_had_opens_no_session(world: World) {
    let device = world.device().await;
    let hello = |fence| Hello { device, replica: "a", max_fence: Fence(fence), instance: None, now: world.now };
    for wrong in [i64::MAX, MAX_FENCE.0 + 1, -1] {
        let refused = world.store.session_open(hello(wrong)).await;
        assert!(matches!(refused, Err(StoreError::Invalid { field: "max_fence", .. })), "{refused:?}");
    }
    let fence = world.store.device_get(device).await.expect("a look-up").expect("a device").fence;
    assert_eq!(fence, Fence(0));
    world.hello(device, "a", MAX_FENCE, None).await;
}

async fn a_session_whose_stream_has_gone_is_closed(world: World) {
    let streams = Streams::new(DrainSettings::default());
    let open = async |device| world.session(device, "a").await;
    let (alive, gone, elsewhere) = (world.device().await, world.device().await, world.device().await);
    let _directives = streams.open(alive, open(alive).await);
    open(gone).await;
    world.session(elsewhere, "b").await;
    // Its stream comes while the sweep waits: a row is always there first.
    let late = world.device().await;
    let epoch = open(late).await;
    let grace = Duration::from_millis(200);
    let sweep = sessions::pass(&world.store, "a", &streams, grace);
    let comes = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        streams.open(late, epoch)
    };
    let (swept, _directives) = tokio::join!(sweep, comes);
    swept.expect("a pass");
    let mut kept: Vec<_> =
        world.store.sessions_open("a").await.expect("sessions").into_iter().map(|(device, _)| device).collect();
    kept.sort();
    let mut expected = [alive, late];
    expected.sort();
    assert_eq!(kept, expected);
    assert_eq!(world.store.sessions_open("b").await.expect("sessions").len(), 1);
    // A newer session is not closed for an older one.
    let epoch = open(gone).await;
    assert_eq!(world.store.sessions_close(&[(gone, epoch - 1)]).await.expect("none"), 0);
    assert_eq!(world.store.sessions_close(&[(gone, epoch)]).await.expect("one"), 1);
}

async fn a_machine_that_reconnects_or_restarts_its_agent_is_one(world: World) {
    let device = world.device().await;
    // A connection that died unseen is overtaken by the next one; then the agent is started anew, twice.
    for instance in [None, Some(1), Some(1), Some(2), Some(2), None, Some(2), Some(3), Some(3)] {
        let opened = world.hello(device, "a", Fence(0), instance).await;
        assert!(!opened.clone_suspected, "{instance:?}");
    }
    let identity = world.store.device_identity(device).await.expect("a look-up").expect("a device");
    assert_eq!(identity.state, DeviceState::Active);
}

async fn two_machines_that_take_turns_are_quarantined(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::RepairImage, world.now).await;
    let clone_suspected = async |instance| world.hello(device, "a", Fence(0), Some(instance)).await.clone_suspected;
    let state = async || world.store.device_identity(device).await.expect("a look-up").expect("a device").state;
    assert!(!clone_suspected(1).await);
    assert!(!clone_suspected(2).await);
    assert!(!clone_suspected(3).await);
    assert!(clone_suspected(1).await, "it is alive beside the others");
    assert_eq!(state().await, DeviceState::Quarantined);
    assert!(!clone_suspected(2).await, "said once");
    let order = world.store.order_get(order).await.expect("a look-up").expect("the order");
    assert_eq!(order.state, fleetmend_domain::order::State::Cancelled);
    // A person has removed the double; what was seen before does not count.
    world.store.devices_approve(Selector::Id(device), "ada", world.now).await.expect("an approval");
    assert!(!clone_suspected(1).await);
    assert_eq!(state().await, DeviceState::Active);
    assert!(!clone_suspected(2).await);
    assert!(clone_suspected(1).await, "it was not removed");
}

async fn a_lease_can_be_renewed_from_begin_to_the_end_where_the_device_is(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::RepairImage, world.now).await;
    world.session(device, "a").await;
    let begun = async |replica| world.store.orders_begun(replica).await.expect("orders");
    assert_eq!(begun("a").await, []);
    let leased = world.begin(order, 1, world.now).await;
    assert_eq!(begun("a").await, [(order, device, leased.fence)]);
    assert_eq!(begun("b").await, []);
    assert_eq!(world.store.order_begun_of(device).await.expect("an order"), Some((order, leased.fence)));
    world.finish(&leased, OrderPhase::AwaitingReboot, world.now).await;
    assert_eq!(begun("a").await.len(), 1);
    world.finish(&leased, OrderPhase::Succeeded, world.now).await;
    assert_eq!(begun("a").await, []);
    assert_eq!(world.store.order_begun_of(device).await.expect("no order"), None);
}

on_both!(
    a_machine_that_reconnects_or_restarts_its_agent_is_one,
    two_machines_that_take_turns_are_quarantined,
    a_fence_that_no_lease_can_have_had_opens_no_session,
    a_session_whose_stream_has_gone_is_closed,
    a_lease_can_be_renewed_from_begin_to_the_end_where_the_device_is,
    a_newer_stream_outlives_the_end_of_an_older_one,
    orders_are_above_every_fence_the_device_has_seen,
);
