//! Dispatch over a real store: what cannot be sent keeps nothing behind it waiting.

use chrono::{DateTime, Utc};
use fleetmend_controller::{
    config::DrainSettings,
    reconcile::dispatch::{self, Signer},
    streams::{Listening, Streams},
};
use fleetmend_domain::order::State;
use fleetmend_proto::{
    Action, Clock, DeviceId, Fence, OrderId,
    order::{OrderKey, SignedOrder},
    v1::directive::Kind,
};

use futures::{FutureExt as _, StreamExt as _};

use super::world::World;

/// A clock that stands still.
struct Still(DateTime<Utc>);

impl Clock for Still {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }

    fn real(&self, domain: std::time::Duration) -> std::time::Duration {
        domain
    }
}

async fn pass(world: &World, streams: &Streams) {
    let signer = Signer { fleet: world.fleet, key: OrderKey::from_seed("test", [3; 32]) };
    dispatch::pass(&world.store, "a", streams, &signer, &Still(world.now)).await.expect("a pass");
}

async fn connected(world: &World, streams: &Streams, device: DeviceId) -> Listening {
    let epoch = world.session(device, "a").await;
    streams.open(device, epoch)
}

/// The order that a device was sent.
fn sent(world: &World, directives: &mut Listening) -> Option<OrderId> {
    let Kind::Order(order) = directives.next().now_or_never()??.ok()?.kind? else {
        return None;
    };
    let keys = [OrderKey::from_seed("test", [3; 32]).verifier()];
    let text = SignedOrder(order.note.to_vec()).open(&keys).expect("a good signature");
    assert_eq!(text.fleet, world.fleet);
    Some(text.order)
}

async fn an_order_that_cannot_be_leased_stops_nobody_elses(world: World) {
    let streams = Streams::new(DrainSettings::default());
    let (broken, incident) = world.failing().await;
    let oldest = world.order(incident, Action::Retry, world.now).await;
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let mut none = connected(&world, &streams, broken).await;
    let mut some = connected(&world, &streams, device).await;
    // No number is left for its next lease.
    world.execute("UPDATE devices SET fence = 9223372036854775807 WHERE id = $1", broken.0).await;
    pass(&world, &streams).await;
    assert_eq!(sent(&world, &mut some), Some(order));
    assert_eq!(sent(&world, &mut none), None);
    let state = async |order| world.store.order_get(order).await.expect("a look-up").expect("the order").state;
    assert_eq!((state(oldest).await, state(order).await), (State::Queued, State::Leased));
}

async fn devices_without_a_stream_do_not_stand_in_line(world: World) {
    let streams = Streams::new(DrainSettings::default());
    // More than a page of older orders, of devices whose stream has gone without closing its row.
    for _ in 0..205 {
        let (device, incident) = world.failing().await;
        world.order(incident, Action::Retry, world.now).await;
        world.session(device, "a").await;
    }
    let (device, incident) = world.failing().await;
    let order = world.order(incident, Action::Retry, world.now).await;
    let mut directives = connected(&world, &streams, device).await;
    pass(&world, &streams).await;
    assert_eq!(sent(&world, &mut directives), Some(order));
}

async fn orders_of_one_page_are_leased_together(world: World) {
    let streams = Streams::new(DrainSettings::default());
    let mut devices = Vec::new();
    for _ in 0..5 {
        let (device, incident) = world.failing().await;
        let order = world.order(incident, Action::RepairImage, world.now).await;
        devices.push((order, connected(&world, &streams, device).await));
    }
    pass(&world, &streams).await;
    for (order, directives) in &mut devices {
        assert_eq!(sent(&world, directives), Some(*order));
        let row = world.store.order_get(*order).await.expect("a look-up").expect("the order");
        assert_eq!((row.state, row.fence, row.leased_at), (State::Leased, Some(Fence(1)), Some(world.now)));
    }
    pass(&world, &streams).await;
    for (_, directives) in &mut devices {
        assert_eq!(sent(&world, directives), None, "leased once");
    }
}

on_both!(
    an_order_that_cannot_be_leased_stops_nobody_elses,
    devices_without_a_stream_do_not_stand_in_line,
    orders_of_one_page_are_leased_together,
);
