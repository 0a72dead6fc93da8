//! Expire: ends what waited too long. Owner of the deadlines of `Queued`, `Leased`, `Running` and what is inside it.

use fleetmend_proto::{Clock, clock::wall_now};

use super::Pass;
use crate::{
    nudge::Nudges,
    store::{Store, StoreError},
};

/// One pass: leases by link time, orders by domain time.
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
        nudges.decide();
    }
    Ok(Pass::Idle)
}
