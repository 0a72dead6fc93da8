//! Expire: ends what waited too long. Owner of the deadlines of orders (`Queued`, `Leased`, `Running` and what is inside
//! it) and of what people have (`Exhausted`, `HandedOver`, `AwaitingApproval`).

use fleetmend_proto::{Clock, clock::wall_now};

use super::Pass;
use crate::{
    nudge::Nudges,
    store::{Store, StoreError},
};

/// One pass: leases by link time, orders and what people have by domain time.
///
/// # Errors
/// When the store fails; the next pass does it again.
pub async fn pass(store: &Store, clock: &dyn Clock, nudges: &Nudges) -> Result<Pass, StoreError> {
    let lapsed = store.leases_lapse(wall_now()).await?;
    if lapsed > 0 {
        tracing::info!(orders = lapsed, "leases ended before the device began: back to the queue");
        nudges.dispatch();
    }
    let expired = store.orders_expire(clock.now()).await?;
    if expired > 0 {
        tracing::info!(orders = expired, "orders passed their deadline");
        // What never began is decided anew; what began and was not heard of again is verified.
        nudges.decide();
        nudges.verify();
    }
    let reminded = store.people_remind(clock.now()).await?;
    if reminded > 0 {
        tracing::info!(incidents = reminded, "people have not acted on incidents: told again");
    }
    // The store takes so many at a time: until none is left.
    Ok(if lapsed > 0 || expired > 0 || reminded > 0 { Pass::More } else { Pass::Idle })
}
