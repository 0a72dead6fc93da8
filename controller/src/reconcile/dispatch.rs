//! Dispatch: leases queued orders of devices that stream to this process, signs them, and pushes them.
//!
//! INVARIANT: what is pushed was leased in a committed transaction, with a fence above all earlier ones of the device.

use chrono::TimeDelta;
use fleetmend_proto::{
    Clock, DeviceId, FleetId,
    clock::wall_now,
    order::{OrderKey, OrderText, SignedOrder},
    v1,
};

use super::Pass;
use crate::{
    grpc::LEASE_SECONDS,
    store::{OrderLease, Store, StoreError},
    streams::{Pushed, Streams},
};

/// Orders leased in one pass.
const BATCH: u32 = 200;

/// What dispatch signs with and for whom.
pub struct Signer {
    pub fleet: FleetId,
    pub key: OrderKey,
}

impl Signer {
    fn sign(&self, order: &OrderText) -> SignedOrder {
        self.key.sign(order)
    }
}

/// One pass.
///
/// # Errors
/// When the store fails; what was leased and not pushed goes back to the queue when its lease ends.
pub async fn pass(
    store: &Store,
    replica: &str,
    streams: &Streams,
    signer: &Signer,
    clock: &dyn Clock,
) -> Result<Pass, StoreError> {
    if streams.is_empty() {
        return Ok(Pass::Idle);
    }
    let waiting = store.orders_leasable(replica, BATCH).await?;
    let full = waiting.len() >= BATCH as usize;
    let mut leased_any = false;
    for (order, device) in waiting {
        if !streams.contains(device) {
            continue;
        }
        let lease = OrderLease {
            order,
            fleet: signer.fleet,
            lease_until: wall_now() + TimeDelta::seconds(LEASE_SECONDS.into()),
            now: clock.now(),
        };
        let Some(leased) = store.order_lease(lease, &|text| signer.sign(text)).await? else {
            continue; // another replica was faster, or the order was cancelled
        };
        leased_any = true;
        push(streams, device, leased.note);
        tracing::info!(device_id = %device, order_id = %order, fence = %leased.fence, "order sent");
    }
    Ok(if full && leased_any { Pass::More } else { Pass::Idle })
}

fn push(streams: &Streams, device: DeviceId, note: SignedOrder) {
    let order = v1::directive::Kind::Order(v1::Order { note: note.0.into() });
    match streams.push(device, order) {
        Pushed::Queued => {}
        Pushed::Absent => tracing::debug!(device_id = %device, "device went away, its order waits for the next lease"),
        Pushed::TooSlow => tracing::warn!(device_id = %device, "device does not read its stream: closed"),
    }
}
