//! Renew: devices at work on an order hear, well before their lease ends, that it still holds. What a device must not do
//! without a live lease (a restart, the last install) may come hours after `Begin`, and after a restart of its own.

use std::{collections::HashSet, time::Duration};

use fleetmend_proto::{DeviceId, Fence, OrderId, convert::uuid_to_wire, v1};

use super::Pass;
use crate::{
    grpc::LEASE_SECONDS,
    store::{Store, StoreError},
    streams::{Pushed, Streams},
};

/// Between two renewals; a third of a lease, so that one may get lost. Link time.
pub const EVERY: Duration = Duration::from_secs(LEASE_SECONDS as u64 / 3);

/// One pass over the devices that stream to this process.
///
/// # Errors
/// When the store fails.
pub async fn pass(store: &Store, replica: &str, streams: &Streams) -> Result<Pass, StoreError> {
    if streams.is_empty() {
        return Ok(Pass::Idle);
    }
    let cancelled = tell_cancelled(store, streams).await?;
    for (order, device, fence) in store.orders_begun(replica).await? {
        if !cancelled.contains(&order) {
            push(streams, device, order, fence);
        }
    }
    Ok(Pass::Idle)
}

/// Tells one device, which has just come (back) with an order under way.
///
/// # Errors
/// When the store fails.
pub async fn at_return(store: &Store, streams: &Streams, device: DeviceId) -> Result<(), StoreError> {
    let cancelled = tell_cancelled(store, streams).await?;
    if let Some((order, fence)) = store.order_begun_of(device).await?.filter(|(order, _)| !cancelled.contains(order)) {
        push(streams, device, order, fence);
    }
    Ok(())
}

/// Tells devices that stream here to stop what people cancelled, again and again until they say that it has ended. Gives
/// all such orders, whoever streams where: their leases are left to run out.
async fn tell_cancelled(store: &Store, streams: &Streams) -> Result<HashSet<OrderId>, StoreError> {
    let asked = store.orders_cancel_asked().await?;
    for (order, device, fence) in &asked {
        let cancel = v1::Cancel { order_id: uuid_to_wire(Some(order.0)), fence: fence.0 };
        if streams.push(*device, v1::directive::Kind::Cancel(cancel)) == Pushed::Queued {
            tracing::info!(device_id = %device, order_id = %order, "device told to stop its order");
        }
    }
    Ok(asked.into_iter().map(|(order, _, _)| order).collect())
}

fn push(streams: &Streams, device: DeviceId, order: OrderId, fence: Fence) {
    let order_id = uuid_to_wire(Some(order.0));
    let lease = v1::Lease { order_id, fence: fence.0, seconds: LEASE_SECONDS };
    match streams.push(device, v1::directive::Kind::Lease(lease)) {
        Pushed::Queued => {}
        Pushed::Absent => tracing::debug!(device_id = %device, "device went away, its lease ends unless it comes back"),
        Pushed::TooSlow => tracing::warn!(device_id = %device, "device does not read its stream: closed"),
    }
}
