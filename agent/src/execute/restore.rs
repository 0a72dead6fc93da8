//! What keeps orders from going forward, and what is taken back for it at the very start of the agent, before there is an
//! identity or a link.

use async_trait::async_trait;
use fleetmend_proto::{
    Fence, OrderId,
    order::{OrderPhase, Refusal},
};

use super::{
    Core, ExecuteError, Lease, ProgressSink,
    runner::{self, End},
};
use crate::journal::{OrderRecord, OrderUpdate, Unwind};

/// What keeps any order of this PC from going forward.
pub(super) async fn hindrance(core: &Core, record: &OrderRecord) -> Result<Option<End>, ExecuteError> {
    if core.local.halt {
        return Ok(Some(End::Unwind(OrderPhase::Cancelled, None, "the local policy says halt".to_owned())));
    }
    let Some(until) = core.journal.safe_until(core.clock.now()).await? else { return Ok(None) };
    let why = format!("safe mode until {until}: the agent started too often in a short time");
    let nothing_done = core.journal.steps(record.order).await?.iter().all(|it| it.index == 0);
    Ok(Some(if nothing_done {
        End::Finished(OrderPhase::Refused, Some(Refusal::SafeMode), why)
    } else {
        // What the order itself makes the agent die of must not be tried again.
        End::Unwind(OrderPhase::Unknown, None, why)
    }))
}

/// Takes back what must be before anything else: orders that are being undone or may not go on. `why`: no order may.
pub(super) async fn begun_orders(core: &Core, why: Option<&str>) -> Result<(), ExecuteError> {
    for record in core.journal.unfinished().await?.into_iter().filter(|it| it.begun) {
        if let (Some(why), None) = (why, record.unwind) {
            core.journal.unwind(record.order, Unwind { phase: OrderPhase::Cancelled, refusal: None, why }).await?;
        } else if record.unwind.is_none() && hindrance(core, &record).await?.is_none() {
            continue;
        }
        let ended = runner::drive(core, record.order, &Nobody, &Nobody).await?;
        tracing::warn!(order_id = %ended.order, phase = %ended.phase, "order of an earlier run undone");
    }
    Ok(())
}

/// Gives no leave and hears nothing: there is no link yet.
struct Nobody;

#[async_trait]
impl Lease for Nobody {
    async fn is_live(&self, _order: OrderId, _fence: Fence) -> bool {
        false
    }
}

#[async_trait]
impl ProgressSink for Nobody {
    async fn progress(&self, _update: &OrderUpdate) {}
}
