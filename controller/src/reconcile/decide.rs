//! Decide: takes due incidents, asks `domain::ladder`, stores what it said. Owner of `Open`, `Held` and `Scheduled`.

use fleetmend_domain::{catalogue::Catalogue, ladder, policy::Policy};
use fleetmend_proto::Clock;

use super::Pass;
use crate::{
    nudge::Nudges,
    packages::Packages,
    store::{DecisionMade, Store, StoreError},
};

/// Incidents decided in one transaction.
const BATCH: u32 = 200;

/// What decisions are made by, beside the rows.
pub struct Rules {
    pub policy: Policy,
    pub catalogue: &'static Catalogue,
    pub packages: Packages,
}

/// One pass.
///
/// # Errors
/// When the store fails; nothing of the batch is stored then.
pub async fn pass(store: &Store, rules: &Rules, clock: &dyn Clock, nudges: &Nudges) -> Result<Pass, StoreError> {
    let now = clock.now();
    let due = store.incidents_due(now, BATCH).await?;
    if due.is_empty() {
        return Ok(Pass::Idle);
    }
    let full = due.len() >= BATCH as usize;
    let decided: Vec<_> = due
        .into_iter()
        .map(|mut incident| {
            let found = rules.packages.find(incident.case.update.kb, incident.architecture, incident.os_build);
            match found {
                Ok(package) => incident.case.device.package = package,
                // The reason of the decision tells people.
                Err(ambiguous) => incident.case.device.package_clash = Some(ambiguous.to_string()),
            }
            let decision = ladder::decide(&incident.case, &rules.policy, rules.catalogue, now);
            DecisionMade { incident, decision }
        })
        .collect();
    let declined = decided.iter().any(|it| it.decision.next == ladder::Next::Decline);
    let ordered = decided.iter().any(|it| matches!(it.decision.next, ladder::Next::Order { .. }));
    for made in &decided {
        tracing::debug!(
            incident_id = %made.incident.case.incident,
            rule = made.decision.rule,
            reason = made.decision.reason,
            "decided"
        );
    }
    store.decisions_apply(decided, &rules.policy, now).await?;
    if ordered {
        nudges.dispatch();
    }
    // Behind a declined request stands the ladder's own decision, which is due at once.
    Ok(if full || declined { Pass::More } else { Pass::Idle })
}
