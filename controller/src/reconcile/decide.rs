//! Decide: takes due incidents, asks `domain::ladder`, stores what it said. Owner of `Open`, `Held` and `Scheduled`.

use fleetmend_domain::{catalogue::Catalogue, ladder, policy::Policy};
use fleetmend_proto::Clock;

use super::Pass;
use crate::{
    nudge::Nudges,
    store::{DecisionMade, Store, StoreError},
};

/// Incidents decided in one transaction.
const BATCH: u32 = 200;

/// One pass.
///
/// # Errors
/// When the store fails; nothing of the batch is stored then.
pub async fn pass(
    store: &Store,
    policy: &Policy,
    catalogue: &Catalogue,
    clock: &dyn Clock,
    nudges: &Nudges,
) -> Result<Pass, StoreError> {
    let now = clock.now();
    let due = store.incidents_due(now, BATCH).await?;
    if due.is_empty() {
        return Ok(Pass::Idle);
    }
    let full = due.len() >= BATCH as usize;
    let decided: Vec<_> = due
        .into_iter()
        .map(|incident| {
            let decision = ladder::decide(&incident.case, policy, catalogue, now);
            DecisionMade { incident, decision }
        })
        .collect();
    let ordered = decided.iter().any(|it| matches!(it.decision.next, ladder::Next::Order { .. }));
    for made in &decided {
        tracing::debug!(
            incident_id = %made.incident.case.incident,
            rule = made.decision.rule,
            reason = made.decision.reason,
            "decided"
        );
    }
    store.decisions_apply(decided, policy, now).await?;
    if ordered {
        nudges.dispatch();
    }
    Ok(if full { Pass::More } else { Pass::Idle })
}
