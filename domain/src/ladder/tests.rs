//! What holds for every case, whatever the scenarios say: properties, and the few paths that no scenario can reach.

use chrono::Duration;
use fleetmend_proto::{Kb, UpdateKind};
use proptest::{collection::vec, prelude::*, sample::select};
use uuid::Uuid;

use super::*;
use crate::{
    catalogue::EntryPoint,
    policy::{Posture, ResetRoute},
    rules,
    window::{self, Look},
};

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).expect("a time in range")
}

fn device() -> Device {
    Device {
        quarantined: false,
        excluded: false,
        product_type: ProductType::Client,
        role: DeviceRole::Workstation,
        authority: UpdateAuthority::Wufb,
        reboot_pending: false,
        utc_offset_minutes: 0,
        package: Some(PackageHash([7; 32])),
        package_clash: None,
    }
}

fn case(code: u32) -> Case {
    Case {
        incident: IncidentId(Uuid::nil()),
        state: incident::State::Open,
        update: UpdateRef {
            update_id: Some(Uuid::from_u128(1)),
            revision: 200,
            kb: Some(Kb(5_999_991)),
            title: String::new(),
            kind: UpdateKind::Quality,
            supersedes: Vec::new(),
        },
        code: HResult(code),
        opened_at: start(),
        failures: 1,
        benign_before: 0,
        last_failed_at: start(),
        attempts: Vec::new(),
        device: device(),
        manual: None,
    }
}

fn attempt(action: Action, state: order::State, verdict: Option<Verdict>, ended_at: DateTime<Utc>) -> Attempt {
    let charged_to = action.tier();
    Attempt { action, charged_to, state, refusal: None, verdict, ended_at: Some(ended_at), manual: false }
}

fn recommended() -> Policy {
    Policy { posture: Posture::Recommended, ..Policy::default() }
}

#[test]
fn an_order_without_its_proof_is_followed_by_nothing_until_the_proof_is_late() {
    let policy = recommended();
    let mut case = case(0x8007_3712);
    case.attempts.push(attempt(Action::RepairImage, order::State::Unknown, None, start()));
    let early = decide(&case, &policy, Catalogue::embedded(), start() + Duration::hours(1));
    assert_eq!(early.rule, "R4.unverified");
    assert_eq!(early.next, Next::Wait { until: start() + policy.verify_deadline });
    let late = decide(&case, &policy, Catalogue::embedded(), start() + Duration::hours(25));
    assert_eq!(late.next, Next::Order { action: Action::ResetComponents }, "{}", late.reason);
}

#[test]
fn what_others_have_in_hand_is_not_decided() {
    for state in crate::drawing::incident_states() {
        let decidable =
            matches!(state, incident::State::Open | incident::State::Held { .. } | incident::State::Scheduled);
        let decision = decide(&Case { state, ..case(0x8007_3712) }, &recommended(), Catalogue::embedded(), start());
        assert_eq!(decision.rule != "R4.in_hand", decidable, "{}", decision.reason);
    }
}

#[test]
fn every_row_of_the_catalogue_is_entered_where_it_says() {
    for row in Catalogue::embedded().entries() {
        let decision = decide(&case(row.code.0), &recommended(), Catalogue::embedded(), start());
        let wanted = match row.entry {
            // The one code whose row is about drivers only.
            EntryPoint::Benign if row.code == HResult(0x8007_0103) => "retry",
            EntryPoint::Benign if row.needs_reboot => "reboot",
            EntryPoint::Benign => "benign",
            EntryPoint::People => "people",
            EntryPoint::Tier(tier) if row.needs_reboot && tier < Tier::RepairImage => "reboot",
            EntryPoint::Tier(Tier::Retry) => "retry",
            EntryPoint::Tier(Tier::Troubleshoot) => "troubleshoot",
            EntryPoint::Tier(Tier::RepairImage) => "repair_image",
            EntryPoint::Tier(Tier::ResetComponents) => "reset_components",
            EntryPoint::Tier(Tier::InstallManually) => "install_manually",
            EntryPoint::Tier(Tier::ResetPc) => panic!("{} enters at a reset", row.code),
        };
        let found = match &decision.next {
            Next::Order { action } => action.name(),
            Next::EndBenign => "benign",
            Next::Exhaust => "people",
            Next::Wait { .. } | Next::Hold { .. } | Next::Decline | Next::HandOver | Next::AwaitApproval => "nothing",
        };
        assert_eq!(found, wanted, "{}: {}", row.code, decision.reason);
    }
}

#[test]
fn the_tier_that_fixed_it() {
    let done = |action: Action, verdict| attempt(action, order::State::Succeeded, verdict, start());
    let owed = Some(Verdict::RebootOwed);
    let lapsed = attempt(Action::ResetComponents, order::State::Expired, None, start());
    let cases = [
        (vec![], None),
        (vec![done(Action::Retry, None)], Some(Tier::Retry)),
        (vec![done(Action::RepairImage, None), lapsed.clone()], Some(Tier::RepairImage)),
        (vec![lapsed], None),
        (vec![done(Action::Reboot, None)], None),
        (vec![done(Action::HideUpdate, None)], None),
        (vec![done(Action::RepairImage, owed), done(Action::Reboot, None)], Some(Tier::RepairImage)),
        (
            vec![done(Action::RepairImage, owed), done(Action::Reboot, owed), done(Action::Reboot, None)],
            Some(Tier::RepairImage),
        ),
        (vec![done(Action::RepairImage, Some(Verdict::DeadlinePassed)), done(Action::Reboot, None)], None),
    ];
    for (attempts, wanted) in cases {
        assert_eq!(fixed_by(&attempts), wanted, "{attempts:?}");
    }
}

#[test]
fn a_case_and_its_decision_survive_json() {
    let case =
        Case { attempts: vec![attempt(Action::Retry, order::State::Failed, None, start())], ..case(0x8007_3712) };
    let json = serde_json::to_string(&case).expect("a case is JSON");
    let back: Case = serde_json::from_str(&json).expect("and back");
    let policy = recommended();
    let decision = decide(&case, &policy, Catalogue::embedded(), start() + Duration::days(1));
    assert_eq!(decide(&back, &policy, Catalogue::embedded(), start() + Duration::days(1)), decision);
    let json = serde_json::to_string(&decision).expect("a decision is JSON");
    assert_eq!(serde_json::from_str::<Decision>(&json).expect("and back"), decision);
}

fn codes() -> impl Strategy<Value = HResult> {
    let known: Vec<_> = Catalogue::embedded().entries().iter().map(|row| row.code).collect();
    prop_oneof![4 => select(known), 1 => any::<u32>().prop_map(HResult)]
}

fn devices() -> impl Strategy<Value = Device> {
    let kinds = (select(ProductType::ALL), select(DeviceRole::ALL), select(UpdateAuthority::ALL));
    (kinds, any::<[bool; 4]>()).prop_map(
        |((product_type, role, authority), [quarantined, excluded, pending, package])| Device {
            quarantined,
            excluded,
            product_type,
            role,
            authority,
            reboot_pending: pending,
            package: package.then_some(PackageHash([7; 32])),
            ..device()
        },
    )
}

fn policies() -> impl Strategy<Value = Policy> {
    let route = select(ResetRoute::ALL);
    let windows = select(vec![vec![], vec!["daily 22:00-05:00"], vec!["fri-mon 01:00-04:30", "wed 12:00-13:00"]]);
    (select(Posture::ALL), route, 0_u32..5, 0_u32..3, 0_u32..12, windows).prop_map(
        |(posture, reset_route, retry_attempts, max_attempts, max_orders, windows)| Policy {
            posture,
            reset_route,
            retry_attempts,
            max_attempts,
            max_orders,
            windows: windows.iter().map(|line| line.parse().expect("a window")).collect(),
            ..Policy::default()
        },
    )
}

/// What becomes of an order and its update, and how long until the next look.
fn turns() -> impl Strategy<Value = (order::State, Verdict, HResult, i64)> {
    let ends: Vec<_> = order::State::ALL.iter().copied().filter(|state| state.is_final()).collect();
    let verdicts = prop_oneof![
        4 => codes().prop_map(|code| Verdict::StillFailing { code }),
        1 => Just(Verdict::RebootOwed),
        1 => Just(Verdict::DeadlinePassed),
    ];
    (select(ends), verdicts, codes(), 0_i64..3000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Plays an incident to its end or forty turns, and holds every order against what may never happen.
    #[test]
    fn whatever_comes_the_ladder_keeps_its_promises(
        code in codes(),
        device in devices(),
        policy in policies(),
        driver in any::<bool>(),
        turns in vec(turns(), 1..40),
    ) {
        let mut case = case(code.0);
        case.device = device;
        case.update.kind = if driver { UpdateKind::Driver } else { UpdateKind::Quality };
        let highest = permission(&case.device).highest();
        let mut now = start();
        let mut heaviest = None;
        for (end, verdict, failing, minutes) in turns {
            let decision = decide(&case, &policy, Catalogue::embedded(), now);
            prop_assert_eq!(&decide(&case, &policy, Catalogue::embedded(), now), &decision);
            prop_assert!(rules::rule(&decision.rule).is_some(), "{}", decision.rule);
            match decision.next {
                Next::Order { action } => {
                    let spent = case.attempts.iter().filter(|it| it.state.has_begun()).count();
                    prop_assert!(spent < policy.max_orders as usize, "{}", decision.reason);
                    prop_assert!(policy.posture != Posture::Observe, "{}", decision.reason);
                    prop_assert!(highest.is_some(), "{}", decision.reason);
                    prop_assert!(!matches!(action, Action::ResetPc(_)), "{}", decision.reason);
                    let tier = action.tier();
                    let open = window::look(&policy.windows, case.device.utc_offset_minutes, now);
                    let restarts = action == Action::Reboot || tier >= Some(Tier::InstallManually);
                    let expires = expires_at(&case, &policy, &action, now);
                    prop_assert!(now < expires && expires <= now + policy.order_expiry);
                    match open {
                        Look::Unbound => {}
                        Look::Open { until } => prop_assert!(!restarts || expires <= until, "{}", decision.reason),
                        Look::Closed { .. } => prop_assert!(!restarts, "{}", decision.reason),
                    }
                    prop_assert!(tier <= highest, "{tier:?} above {highest:?}: {}", decision.reason);
                    prop_assert!(tier.is_none() || tier >= heaviest, "{tier:?} below {heaviest:?}: {}", decision.reason);
                    if case.device.quarantined {
                        prop_assert!(tier.is_some_and(|tier| tier <= Tier::Troubleshoot), "{}", decision.reason);
                    }
                    heaviest = heaviest.max(tier);
                    now += Duration::minutes(minutes % 300);
                    let seen = end.has_begun().then_some(verdict);
                    case.attempts.push(attempt(action, end, seen, now));
                    case.code = if let Verdict::StillFailing { code } = verdict { code } else { failing };
                }
                Next::Wait { until } | Next::Hold { until, .. } => {
                    prop_assert!(until > now, "{}", decision.reason);
                    prop_assert!(until <= start() + policy.incident_deadline, "{}", decision.reason);
                    now = until;
                }
                Next::Decline => prop_assert!(false, "nobody asked: {}", decision.reason),
                Next::EndBenign | Next::Exhaust => return Ok(()),
                Next::HandOver | Next::AwaitApproval => {
                    prop_assert_eq!(highest, Some(Tier::ResetPc));
                    return Ok(());
                }
            }
        }
    }

    /// A person's request goes around posture and cost, never around what the device may get.
    #[test]
    fn a_request_by_hand_keeps_the_caps(
        code in codes(),
        device in devices(),
        tier in proptest::option::of(select(&Tier::ALL[..])),
        now in any::<bool>(),
        done in vec(turns(), 0..5),
    ) {
        let mut case = case(code.0);
        case.device = device;
        case.manual = Some(ManualRequest { tier, now, by: "kim".to_owned() });
        for (end, verdict, _, minutes) in done {
            let ended = start() + Duration::minutes(minutes);
            case.attempts.push(attempt(Action::RepairImage, end, end.has_begun().then_some(verdict), ended));
        }
        let decision = decide(&case, &recommended(), Catalogue::embedded(), start() + Duration::days(3));
        let highest = permission(&case.device).highest();
        match decision.next {
            Next::Order { action } => {
                prop_assert!(highest.is_some() && action.tier() <= highest, "{}", decision.reason);
                prop_assert!(!matches!(action, Action::ResetPc(_)));
                if let (Some(asked), Some(ordered)) = (tier, action.tier()) {
                    prop_assert_eq!(asked, ordered);
                }
            }
            Next::HandOver | Next::AwaitApproval => prop_assert_eq!(highest, Some(Tier::ResetPc)),
            Next::Wait { .. } => prop_assert!(!now, "{}", decision.reason),
            Next::Hold { .. } => prop_assert_eq!(decision.rule, "R4.refused"),
            Next::Decline | Next::EndBenign | Next::Exhaust => {}
        }
    }
}
