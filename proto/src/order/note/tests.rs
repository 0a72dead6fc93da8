use chrono::{TimeZone as _, Utc};
use uuid::Uuid;

use super::*;
use crate::{Action, DeviceId, Fence, FleetId, IncidentId, Kb, OrderId, ResetMethod, ResetPc, ResetSource};

fn order(action: Action) -> OrderText {
    let at = |hour| Utc.with_ymd_and_hms(2026, 1, 14, hour, 0, 0).single().expect("a valid time");
    OrderText {
        fleet: FleetId(Uuid::from_u128(1)),
        device: DeviceId(Uuid::from_u128(2)),
        order: OrderId(Uuid::from_u128(3)),
        incident: IncidentId(Uuid::from_u128(4)),
        fence: Fence(12),
        not_before: at(3),
        not_after: at(9),
        action,
        update_id: None,
        revision: 200,
        kb: Some(Kb(5_124_010)),
    }
}

fn key(seed: u8) -> OrderKey {
    OrderKey::from_seed("test-order-key", [seed; 32])
}

fn actions() -> Vec<Action> {
    let package = PackageHash([0xab; 32]);
    let reset = |method, source, keep_provisioning| Action::ResetPc(ResetPc { method, source, keep_provisioning });
    vec![
        Action::Retry,
        Action::Troubleshoot,
        Action::RepairImage,
        Action::ResetComponents,
        Action::InstallManually { package },
        Action::RepairInstall { media: package },
        reset(ResetMethod::KeepFiles, ResetSource::Local, false),
        reset(ResetMethod::RemoveEverything, ResetSource::Cloud, true),
        Action::Reboot,
        Action::HideUpdate,
    ]
}

use crate::PackageHash;

#[test]
fn every_action_survives_signing_and_opening() {
    for action in actions() {
        let order = order(action);
        let signed = key(1).sign(&order);
        assert_eq!(signed.open(&[key(1).verifier()]), Ok(order));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let good = key(1).sign(&order(Action::Retry));
    let keys = [key(1).verifier()];
    for at in 0..good.0.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad.0[at] ^= 1 << bit;
            assert!(bad.open(&keys).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn another_key_of_the_same_name_does_not_count() {
    let signed = key(2).sign(&order(Action::Retry));
    assert_eq!(signed.open(&[key(1).verifier()]), Err(NoteError::Unsigned));
}

#[test]
fn verifier_text_reads_back_and_a_wrong_one_does_not() {
    let verifier = key(1).verifier();
    assert_eq!(verifier.to_string().parse(), Ok(verifier.clone()));
    for text in ["", "a+b+c", "a b+00000000+AAAA", &verifier.to_string()[1..]] {
        assert_eq!(text.parse::<OrderVerifier>(), Err(NotAVerifier), "{text}");
    }
}

#[test]
fn text_must_be_exactly_as_printed() {
    let text = order(Action::Retry).to_string();
    assert!(text.parse::<OrderText>().is_ok());
    let changes = [
        ("fence 12", "fence 012"),
        ("fence 12", "fence +12"),
        ("kb KB5124010", "kb 5124010"),
        ("action retry", "action format_disk"),
        ("argument -", "argument x"),
        ("revision 200", "revision 200\nextra 1"),
        ("03:00:00.000000Z", "03:00:00Z"),
        ("fleet ", "fleet  "),
    ];
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        assert!(text.replace(from, to).parse::<OrderText>().is_err(), "{to}");
    }
}
