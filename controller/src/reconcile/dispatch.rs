//! Dispatch: leases queued orders of devices that stream to this process, signs them, and pushes them.
//!
//! INVARIANT: what is pushed was leased in a committed transaction, with a fence above all earlier ones of the device.

use chrono::TimeDelta;
use fleetmend_proto::{
    Clock, DeviceId, FleetId, OrderId,
    clock::wall_now,
    order::{OrderKey, OrderText, SignedOrder},
    v1,
};

use super::Pass;
use crate::{
    grpc::LEASE_SECONDS,
    store::{LeaseTerms, Leased, Store, StoreError},
    streams::{Pushed, Streams},
};

/// Orders leased in one transaction.
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

/// One pass over all that is queued, a page at a time: what cannot be sent now keeps nothing behind it waiting.
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
    let mut after = None;
    loop {
        let page = store.orders_leasable(replica, after, BATCH).await?;
        let here: Vec<_> = page.iter().copied().filter(|(_, device)| streams.contains(*device)).collect();
        for leased in lease(store, &here, signer, clock).await? {
            let (device, order, fence) = (leased.device, leased.order.order, leased.fence);
            push(streams, device, leased.note);
            tracing::info!(device_id = %device, order_id = %order, %fence, "order sent");
        }
        match page.last() {
            Some((last, _)) if page.len() >= BATCH as usize => after = Some(*last),
            _ => return Ok(Pass::Idle),
        }
    }
}

/// Leases a page, together or, where one of them cannot be leased at all, each by itself.
async fn lease(
    store: &Store,
    wanted: &[(OrderId, DeviceId)],
    signer: &Signer,
    clock: &dyn Clock,
) -> Result<Vec<Leased>, StoreError> {
    let terms = || LeaseTerms {
        fleet: signer.fleet,
        lease_until: wall_now() + TimeDelta::seconds(LEASE_SECONDS.into()),
        now: clock.now(),
    };
    let sign = |text: &OrderText| signer.sign(text);
    match store.orders_lease(wanted, terms(), &sign).await {
        Err(error) if !error.is_transient() => {}
        answer => return answer,
    }
    let mut all = Vec::with_capacity(wanted.len());
    for one in wanted {
        match store.orders_lease(std::slice::from_ref(one), terms(), &sign).await {
            Ok(leased) => all.extend(leased),
            Err(error) if error.is_transient() && all.is_empty() => return Err(error),
            // What is leased already must be sent.
            Err(error) if error.is_transient() => break,
            Err(error) => {
                let (order, device) = one;
                let error = &error as &dyn std::error::Error;
                tracing::error!(order_id = %order, device_id = %device, error, "order cannot be leased");
            }
        }
    }
    Ok(all)
}

fn push(streams: &Streams, device: DeviceId, note: SignedOrder) {
    let order = v1::directive::Kind::Order(v1::Order { note: note.0.into() });
    match streams.push(device, order) {
        Pushed::Queued => {}
        Pushed::Absent => tracing::debug!(device_id = %device, "device went away, its order waits for the next lease"),
        Pushed::TooSlow => tracing::warn!(device_id = %device, "device does not read its stream: closed"),
    }
}
