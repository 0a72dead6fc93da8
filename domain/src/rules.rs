//! Every rule id that a decision can carry, with its meaning in one line: shown by the API and stored with decisions.
//! INVARIANT: the ladder takes its ids from here alone, so that no decision names a rule people cannot look up.

use serde::Serialize;

/// A rule: number of the ladder's rule (0 = posture and standing of the device), then a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    pub id: &'static str,
    pub meaning: &'static str,
}

macro_rules! rules {
    ($($name:ident = $id:literal, $meaning:literal;)+) => {
        $(pub(crate) const $name: Rule = Rule { id: $id, meaning: $meaning };)+
        /// All rules, in order.
        pub const RULES: &[Rule] = &[$($name),+];
    };
}

rules! {
    R0_OBSERVE = "R0.observe", "The posture orders nothing by itself; the reason says what would be ordered.";
    R0_QUARANTINED = "R0.quarantined", "A quarantined device gets no order above tier 2 until it is approved.";
    R1_ENTRY = "R1.entry", "The code's catalogue row says where to enter the ladder.";
    R1_UNKNOWN_CODE = "R1.unknown_code", "A code that the catalogue does not know enters at tier 1 and stops at tier 3.";
    R1_PEOPLE = "R1.people", "Nothing that runs by itself helps against this code: people get it with the advice.";
    R2_BENIGN = "R2.benign", "The code is harmless: the incident ends without a repair.";
    R2_BENIGN_DRIVER = "R2.benign_driver", "0x80070103 on a driver without a pending restart is harmless.";
    R2_HIDE_OFFER = "R2.hide_offer", "A harmless offer that keeps coming back is hidden, which can be taken back.";
    R2_HIDDEN = "R2.hidden", "The offer was hidden (or cannot be): the incident ends as harmless.";
    R2_NOT_A_DRIVER = "R2.not_a_driver", "0x80070103 on anything but a driver is treated like an unknown failure.";
    R2_DRIVER_IN_USE = "R2.driver_in_use", "0x80070103 on a driver with a restart pending: the restart comes first.";
    R2_REBOOT_NEEDED = "R2.reboot_needed", "The code says that a restart is needed: it comes before any tier.";
    R2_REBOOT_PENDING = "R2.reboot_pending", "The device has a restart pending: it comes before any tier.";
    R2_REBOOT_OWED = "R2.reboot_owed", "Windows says installed once restarted: the restart comes before any tier.";
    R2_REBOOT_FREES = "R2.reboot_frees", "Something kept files in use through all retries: a restart frees them before heavier tiers.";
    R2_PEOPLE_AFTER_RETRIES = "R2.people_after_retries", "The cause lies outside the device and retrying did not help: people get it.";
    R2_WAIT_OUT = "R2.wait_out", "After a repair the cause now lies outside the device: a day is given for it to pass.";
    R3_AGAIN = "R3.again", "The tier may be tried again: attempts are left and the wait is over.";
    R3_BACKOFF = "R3.backoff", "Retries back off: the next one waits longer.";
    R3_COOLDOWN = "R3.cooldown", "A cool-down follows each tier, after failure as after success.";
    R3_CLIMBED = "R3.climbed", "Every tier that makes sense for the code has been tried.";
    R3_CEILING = "R3.ceiling", "The incident has climbed above what makes sense for its newest code, and a tier never goes down.";
    R3_MAX_ORDERS = "R3.max_orders", "The incident has cost as many orders as the policy allows.";
    R3_DEADLINE = "R3.deadline", "The incident has lived as long as the policy allows.";
    R4_IN_HAND = "R4.in_hand", "An order, a verification or people have it in hand.";
    R4_UNVERIFIED = "R4.unverified", "The last order ended, and its proof is not in yet.";
    R4_NEXT_TIER = "R4.next_tier", "The tier before was verified as not having helped: the next one comes.";
    R4_SKIPPED = "R4.skipped", "A tier that is unavailable on the device is skipped; it does not count as failed.";
    R4_NOT_TRIED = "R4.not_tried", "The last order of this tier was never carried out: it is placed again.";
    R4_REFUSED = "R4.refused", "The device refused the last order: it is left alone for a while, then asked again.";
    R4_CANCELLED = "R4.cancelled", "The last order was cancelled: nothing is ordered for a while.";
    R9_OUTSIDE_WINDOW = "R9.outside_window", "Restarts and tier 5 wait for the device's maintenance window.";
    R9_MISSED = "R9.missed", "Three maintenance windows in a row were missed: people are told, the next one is tried.";
    R10_REPORT_ONLY = "R10.report_only", "A third party manages the device's updates: report only.";
    R10_OOBE = "R10.oobe", "The device is still being set up: nothing is ordered.";
    R10_CAPPED = "R10.capped", "The next tier is above what this kind of device may get: people get it.";
    R11_HANDOVER = "R11.handover", "Tiers 3 to 5 are proven not to help: a reset is handed to people with the evidence.";
    R11_APPROVAL = "R11.approval", "Tiers 3 to 5 are proven not to help: a reset waits for its signatures.";
    R11_NO_EVIDENCE = "R11.no_evidence", "A reset needs tiers 3 to 5 verified failing lately, and they are not: people get it.";
    R12_ASKED = "R12.asked", "A person asked for this tier.";
    R12_NEXT = "R12.next", "A person asked for the next remedy.";
    R12_CAPPED = "R12.capped", "A person asked for a tier above what this kind of device may get.";
    R12_NO_PACKAGE = "R12.no_package", "A person asked for tier 5, and no vetted package of the update is there.";
}

/// The rule of an id; `None` for any other text.
#[must_use]
pub fn rule(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_carry_a_number_and_a_name() {
        let ids: BTreeSet<_> = RULES.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), RULES.len());
        for found in RULES {
            let (number, name) = found.id.split_once('.').expect("an id has two parts");
            let number: u8 = number.strip_prefix('R').expect("R").parse().expect("a number");
            assert!(number <= 12, "{}", found.id);
            assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", found.id);
            assert!(found.meaning.ends_with('.'), "{}", found.id);
            assert_eq!(rule(found.id), Some(found));
        }
        assert_eq!(rule("R99.nothing"), None);
    }
}
