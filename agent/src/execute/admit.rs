//! From delivered bytes to an admission: the guard's checks, the duplicate rule, the preconditions, the record.

use fleetmend_proto::{
    Fence,
    order::{OrderText, Refusal},
};

use super::{Admission, ExecuteError, Executor};
use crate::guard::{self, LocalFacts, Refused, conditions};

pub(super) async fn accept(executor: &Executor, note: &[u8]) -> Result<Admission, ExecuteError> {
    let _one = executor.admitting.lock().await;
    let order = match guard::open(note, &executor.core.keys, executor.fleet, executor.device) {
        Ok(order) => order,
        Err(refused) => return Ok(answer(refused)),
    };
    if let Some(duplicate) = duplicate(executor, &order).await? {
        return Ok(duplicate);
    }
    let now = executor.core.clock.now();
    let journal = &executor.core.journal;
    let facts = LocalFacts {
        fleet: executor.fleet,
        device: executor.device,
        policy: &executor.core.local,
        max_fence: journal.max_fence().await?,
        now,
        busy: journal.unfinished().await?.iter().map(|it| it.order).find(|it| *it != order.order),
        safe_until: journal.safe_until(now).await?,
        forgot_before: journal.forgot_before(now).await?,
    };
    if let Err((refusal, detail)) = guard::admit(&order, &facts) {
        return refuse(executor, order, note, refusal, detail).await;
    }
    let conditions = match conditions::evaluate(&*executor.core.platform, &order.action, now).await {
        Ok(values) => values,
        Err(why) => return refuse(executor, order, note, Refusal::Precondition, why).await,
    };
    let boot_id = executor.core.platform.boot_id().await.unwrap_or_default();
    journal.accept(&order, note, &conditions, &boot_id, now).await?;
    tracing::info!(order_id = %order.order, action = order.action.name(), fence = %order.fence, "order accepted");
    Ok(Admission::Accepted(Box::new(order)))
}

/// What the journal already holds of this order. An order that never began is judged anew under a higher fence.
async fn duplicate(executor: &Executor, order: &OrderText) -> Result<Option<Admission>, ExecuteError> {
    let Some(known) = executor.core.journal.order(order.order).await? else { return Ok(None) };
    if order.fence < known.fence {
        return Ok(None);
    }
    if order.fence > known.fence {
        if !known.begun {
            return Ok(None);
        }
        executor.core.journal.refenced(order.order, order.fence).await?;
    }
    let Some(record) = executor.core.journal.order(order.order).await? else { return Ok(None) };
    Ok(Some(Admission::Duplicate(executor.core.journal.update_of(&record).await?)))
}

async fn refuse(
    executor: &Executor,
    order: OrderText,
    note: &[u8],
    refusal: Refusal,
    detail: String,
) -> Result<Admission, ExecuteError> {
    // A stale order may be one that ran long ago: its record, if there is one, stays as it is.
    if refusal != Refusal::StaleFence {
        executor.core.journal.refuse(&order, note, refusal, &detail, executor.core.clock.now()).await?;
    }
    Ok(answer(Refused { order: Some(Box::new(order)), refusal, detail }))
}

fn answer(refused: Refused) -> Admission {
    let order = refused.order.map(|it| (it.order, Fence(it.fence.0)));
    tracing::warn!(order_id = ?order.map(|it| it.0), refusal = %refused.refusal, "order refused: {}", refused.detail.escape_debug());
    Admission::Refused { order, refusal: refused.refusal, detail: refused.detail }
}
