//! Sessions: a newer stream replaces an older one; only their replica leases.

use fleetmend_proto::{Action, Fence, order::OrderPhase};

use super::world::World;

async fn a_newer_stream_outlives_the_end_of_an_older_one(world: World) {
    let (device, incident) = world.failing().await;
    world.order(incident, Action::Retry, world.now).await;
    let open = async |replica| world.store.session_open(device, replica, Fence(0), world.now).await.expect("a session");
    let leasable = async |replica| world.store.orders_leasable(replica, 10).await.expect("orders").len();
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
    world.store.session_open(device, "a", Fence(41), world.now).await.expect("a session");
    world.store.session_open(device, "a", Fence(7), world.now).await.expect("a session");
    let order = world.order(incident, Action::Retry, world.now).await;
    assert_eq!(world.lease(order, world.now).await.expect("a queued order").fence, Fence(42));
}

async fn a_lease_can_be_renewed_from_begin_to_the_end_where_the_device_is(world: World) {
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::RepairImage, world.now).await;
    world.store.session_open(device, "a", Fence(0), world.now).await.expect("a session");
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
    a_lease_can_be_renewed_from_begin_to_the_end_where_the_device_is,
    a_newer_stream_outlives_the_end_of_an_older_one,
    orders_are_above_every_fence_the_device_has_seen,
);
