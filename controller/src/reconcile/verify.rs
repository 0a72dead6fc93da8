//! Verify: looks for Windows' own word on an update after an order ended. Owner of `Verifying`.
//!
//! "Installed" is not decided here: a success closes its incident in the transaction that records it, from anywhere.

use chrono::{DateTime, Utc};
use fleetmend_domain::{ladder::Verdict, policy::Policy};
use fleetmend_proto::{Clock, OutcomeResult};

use super::Pass;
use crate::{
    nudge::Nudges,
    store::{Store, StoreError, VerificationMade, Verifying},
};

const BATCH: u32 = 200;

/// What the evidence says, or `None` to go on waiting.
#[must_use]
pub fn verdict(verifying: &Verifying, now: DateTime<Utc>) -> Option<Verdict> {
    match &verifying.evidence {
        Some(outcome) => Some(match outcome.result {
            OutcomeResult::Succeeded | OutcomeResult::SucceededWithErrors => Verdict::Installed,
            OutcomeResult::PendingReboot => Verdict::RebootOwed,
            OutcomeResult::Failed | OutcomeResult::Aborted => Verdict::StillFailing { code: outcome.code },
        }),
        None if verifying.deadline <= now => Some(Verdict::DeadlinePassed),
        None => None,
    }
}

/// One pass.
///
/// # Errors
/// When the store fails; nothing of the batch is stored then.
pub async fn pass(store: &Store, policy: &Policy, clock: &dyn Clock, nudges: &Nudges) -> Result<Pass, StoreError> {
    let now = clock.now();
    let verifying = store.incidents_verifying(now, BATCH, policy.verify_deadline).await?;
    if verifying.is_empty() {
        return Ok(Pass::Idle);
    }
    let full = verifying.len() >= BATCH as usize;
    let made: Vec<_> = verifying
        .into_iter()
        .map(|verifying| {
            let verdict = verdict(&verifying, now);
            VerificationMade { verifying, verdict }
        })
        .collect();
    let decided = made.iter().any(|it| it.verdict.is_some());
    store.verifications_record(made, now).await?;
    if decided {
        nudges.decide();
    }
    Ok(if full { Pass::More } else { Pass::Idle })
}
