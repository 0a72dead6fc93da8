//! Rule 11: a reset only where tiers 3 to 5 are proven not to help, and then by people or with signatures.
//! SECURITY: nothing here orders a reset.

use fleetmend_proto::Tier;

use super::{Decision, Next, Verdict, view::View, wording};
use crate::{order, policy::ResetRoute, rules};

/// The tiers that must have been proven not to help.
const EVIDENCE: [Tier; 3] = [Tier::RepairImage, Tier::ResetComponents, Tier::InstallManually];

/// Hands over or asks for signatures with evidence; else leaves it to people as exhausted.
pub(super) fn decide(view: &View<'_>) -> Decision {
    let lacking = lacking(view);
    if !lacking.is_empty() {
        return Decision::new(rules::R11_NO_EVIDENCE, Next::Exhaust, without_evidence(view, &lacking));
    }
    let age = wording::span(view.policy.reset_evidence_age);
    let proven = format!("{} are proven not to help within the last {age}", wording::tiers(&EVIDENCE));
    match view.policy.reset_route {
        ResetRoute::Handover => {
            let reason = format!("{proven}, so a reset is handed to people with that evidence.");
            Decision::new(rules::R11_HANDOVER, Next::HandOver, reason)
        }
        ResetRoute::Signed => {
            let reason = format!("{proven}, so a reset waits for its signatures.");
            Decision::new(rules::R11_APPROVAL, Next::AwaitApproval, reason)
        }
    }
}

/// Why no reset: which proofs are missing.
pub(super) fn without_evidence(view: &View<'_>, lacking: &[Tier]) -> String {
    let clash = view.case.device.package_clash.as_ref();
    format!(
        "Only a reset is left, and it needs proof that {} did not help on this device within the last {}. {}{}",
        wording::tiers(lacking),
        wording::span(view.policy.reset_evidence_age),
        clash.map_or_else(String::new, |clash| format!("No package can be chosen: {clash}. ")),
        view.row.advice
    )
}

/// The tiers without proof.
pub(super) fn lacking(view: &View<'_>) -> Vec<Tier> {
    EVIDENCE.into_iter().filter(|tier| !is_proven(view, *tier)).collect()
}

/// Carried out to a known end and then seen failing, lately; or not to be had on the device. Silence, and an order whose
/// outcome is unknown, prove nothing that a reset may stand on.
fn is_proven(view: &View<'_>, tier: Tier) -> bool {
    let oldest = view.now.checked_sub_signed(view.policy.reset_evidence_age);
    let proven = view.case.attempts.iter().enumerate().any(|(at, attempt)| {
        let ended = matches!(attempt.state, order::State::Succeeded | order::State::Failed);
        let failing = matches!(view.proof(at), Some(Verdict::StillFailing { .. }));
        let young = attempt.ended_at.is_some_and(|end| oldest.is_none_or(|oldest| end >= oldest));
        attempt.charged_to == Some(tier) && ended && failing && young
    });
    // A package that people only have to choose is to be had.
    let to_choose = tier == Tier::InstallManually && view.case.device.package_clash.is_some();
    proven || view.is_unavailable(tier) && !to_choose
}
