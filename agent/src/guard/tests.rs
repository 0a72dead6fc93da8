//! One case a refusal, and the order that passes.

use chrono::{Duration, TimeZone as _};
use fleetmend_proto::{Action, IncidentId, PackageHash, ResetMethod, ResetPc, ResetSource, order::OrderKey};
use uuid::Uuid;

use super::*;

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 14, 6, 0, 0).single().expect("a valid time")
}

fn order() -> OrderText {
    OrderText {
        fleet: FleetId(Uuid::from_u128(1)),
        device: DeviceId(Uuid::from_u128(2)),
        order: OrderId(Uuid::from_u128(3)),
        incident: IncidentId(Uuid::from_u128(4)),
        fence: Fence(12),
        not_before: now() - Duration::hours(1),
        not_after: now() + Duration::hours(1),
        action: Action::RepairImage,
        update_id: None,
        revision: 0,
        kb: Some(fleetmend_proto::Kb(5_124_010)),
    }
}

fn key() -> OrderKey {
    OrderKey::from_seed("orders", [1; 32])
}

/// Facts under which `order()` passes.
fn facts(policy: &LocalPolicy) -> LocalFacts<'_> {
    LocalFacts {
        fleet: FleetId(Uuid::from_u128(1)),
        device: DeviceId(Uuid::from_u128(2)),
        policy,
        max_fence: Fence(11),
        now: now(),
        busy: None,
        safe_until: None,
        forgot_before: None,
    }
}

struct Case {
    refusal: Refusal,
    /// Whether the answer may name the order: only when it is proven to be for this device.
    named: bool,
    order: fn(&mut OrderText),
    note: fn(&mut Vec<u8>),
    policy: fn(&mut LocalPolicy),
    facts: fn(&mut LocalFacts<'_>),
}

const SAME: Case =
    Case { refusal: Refusal::Malformed, named: true, order: |_| {}, note: |_| {}, policy: |_| {}, facts: |_| {} };

#[test]
fn one_case_a_refusal() {
    let reset = ResetPc { method: ResetMethod::KeepFiles, source: ResetSource::Local, keep_provisioning: false };
    assert_eq!(Action::ResetPc(reset).name(), "reset_pc");
    let cases = [
        Case { refusal: Refusal::Malformed, named: false, note: |it| it.truncate(20), ..SAME },
        Case { refusal: Refusal::Malformed, named: false, note: |it| it.resize(20_000, b'a'), ..SAME },
        Case { refusal: Refusal::BadSignature, named: false, note: |it| it[25] ^= 1, ..SAME },
        Case {
            refusal: Refusal::BadSignature,
            named: false,
            note: |it| *it = OrderKey::from_seed("other", [2; 32]).sign(&order()).0,
            ..SAME
        },
        Case { refusal: Refusal::UnknownAction, named: false, note: resigned_with_another_action, ..SAME },
        Case { refusal: Refusal::WrongFleet, named: false, order: |it| it.fleet = FleetId(Uuid::from_u128(9)), ..SAME },
        Case {
            refusal: Refusal::WrongDevice,
            named: false,
            order: |it| it.device = DeviceId(Uuid::from_u128(9)),
            ..SAME
        },
        Case { refusal: Refusal::StaleFence, facts: |it| it.max_fence = Fence(12), ..SAME },
        Case { refusal: Refusal::StaleFence, facts: |it| it.forgot_before = Some(now()), ..SAME },
        Case { refusal: Refusal::NotYetValid, facts: |it| it.now = now() - Duration::hours(2), ..SAME },
        Case { refusal: Refusal::Expired, facts: |it| it.now = now() + Duration::hours(2), ..SAME },
        Case { refusal: Refusal::Halted, policy: |it| it.halt = true, ..SAME },
        Case { refusal: Refusal::SafeMode, facts: |it| it.safe_until = Some(now() + Duration::hours(1)), ..SAME },
        Case {
            refusal: Refusal::ResetNotSigned,
            order: |it| {
                it.action = Action::ResetPc(ResetPc {
                    method: ResetMethod::KeepFiles,
                    source: ResetSource::Local,
                    keep_provisioning: false,
                });
            },
            policy: |it| it.max_tier = Tier::ResetPc,
            ..SAME
        },
        Case {
            refusal: Refusal::AboveMaxTier,
            order: |it| it.action = Action::InstallManually { package: PackageHash([1; 32]) },
            policy: |it| it.max_tier = Tier::ResetComponents,
            ..SAME
        },
        Case { refusal: Refusal::Busy, facts: |it| it.busy = Some(OrderId(Uuid::from_u128(9))), ..SAME },
    ];
    let told_elsewhere = [Refusal::Precondition, Refusal::NoLease];
    for refusal in Refusal::ALL.iter().filter(|it| !told_elsewhere.contains(it)) {
        assert!(cases.iter().any(|it| it.refusal == *refusal), "no case for {refusal}");
    }
    for case in cases {
        let mut text = order();
        (case.order)(&mut text);
        let mut note = key().sign(&text).0;
        (case.note)(&mut note);
        let mut policy = LocalPolicy::default();
        (case.policy)(&mut policy);
        let mut facts = facts(&policy);
        (case.facts)(&mut facts);
        let refused = check(&note, &[key().verifier()], &facts).expect_err(case.refusal.word());
        assert_eq!(refused.refusal, case.refusal, "{}", refused.detail);
        assert_eq!(refused.order.is_some(), case.named, "{}", case.refusal);
        assert!(!refused.detail.is_empty());
    }
}

/// Signs a text with an action of a later version; only the real key can do that.
fn resigned_with_another_action(note: &mut Vec<u8>) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use sha2::{Digest as _, Sha256};

    let text = order().to_string().replace("action repair_image", "action defragment");
    let secret = ed25519(&[1; 32]);
    let public = secret.verifying_key();
    let id = Sha256::new().chain_update(b"orders\n\x01").chain_update(public.as_bytes()).finalize();
    let mut blob = id[..4].to_vec();
    blob.extend_from_slice(&ed25519_dalek::Signer::sign(&secret, text.as_bytes()).to_bytes());
    *note = format!("{text}\n\u{2014} orders {}\n", STANDARD.encode(blob)).into_bytes();
}

fn ed25519(seed: &[u8; 32]) -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(seed)
}

#[test]
fn an_order_that_fits_passes() {
    let policy = LocalPolicy::default();
    let note = key().sign(&order()).0;
    assert_eq!(check(&note, &[key().verifier()], &facts(&policy)), Ok(order()));
}

#[test]
fn actions_without_a_tier_are_not_held_by_max_tier() {
    let policy = LocalPolicy { max_tier: Tier::Retry, ..LocalPolicy::default() };
    for action in [Action::Reboot, Action::HideUpdate, Action::Retry] {
        let order = OrderText { action, ..order() };
        assert_eq!(admit(&order, &facts(&policy)), Ok(()));
    }
}

#[test]
fn no_local_policy_lets_a_reset_through() {
    for max_tier in Tier::ALL {
        let policy = LocalPolicy { max_tier, ..LocalPolicy::default() };
        let reset =
            ResetPc { method: ResetMethod::RemoveEverything, source: ResetSource::Cloud, keep_provisioning: true };
        let order = OrderText { action: Action::ResetPc(reset), ..order() };
        assert_eq!(admit(&order, &facts(&policy)).map_err(|it| it.0), Err(Refusal::ResetNotSigned));
    }
}
