//! What each kind of outcome does to no, one and several open incidents.

use chrono::Duration;
use uuid::Uuid;

use super::*;

const FAILING: HResult = HResult(0x8007_3712);

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).expect("a time in range") + Duration::minutes(minutes)
}

fn update(id: u128, kb: Option<u32>) -> UpdateRef {
    UpdateRef {
        update_id: Some(Uuid::from_u128(id)),
        revision: 200,
        kb: kb.map(Kb),
        title: "2026-01 Cumulative Update".to_owned(),
        kind: UpdateKind::Quality,
        supersedes: Vec::new(),
    }
}

fn outcome(update: UpdateRef, result: OutcomeResult, minutes: i64) -> Outcome {
    Outcome {
        update,
        operation: Operation::Install,
        result,
        code: if result == OutcomeResult::Succeeded { HResult::OK } else { FAILING },
        raw_code: FAILING,
        occurred_at: at(minutes),
        source: fleetmend_proto::Source::EventLog,
    }
}

fn id(number: u128) -> IncidentId {
    IncidentId(Uuid::from_u128(number))
}

fn known<'a>(number: u128, update: &'a UpdateRef, state: &'a incident::State) -> Known<'a> {
    Known { id: id(number), update, state, code: FAILING, last_failed_at: at(0) }
}

#[test]
fn a_failure_opens_then_joins() {
    let kb = update(1, Some(5_999_991));
    let state = incident::State::Open;
    for result in [OutcomeResult::Failed, OutcomeResult::Aborted] {
        assert_eq!(judge(&outcome(kb.clone(), result, 1), &[], None), Match::Open);
        let joined = judge(&outcome(kb.clone(), result, 1), &[known(7, &kb, &state)], None);
        assert_eq!(joined, Match::Join { incident: id(7), code_changed: false });
    }
}

#[test]
fn a_failed_download_counts_as_a_failure_and_a_good_one_as_nothing() {
    let kb = update(1, None);
    let mut download = outcome(kb.clone(), OutcomeResult::Failed, 1);
    download.operation = Operation::Download;
    assert_eq!(judge(&download, &[], None), Match::Open);
    download.result = OutcomeResult::Succeeded;
    let state = incident::State::Open;
    assert_eq!(judge(&download, &[known(7, &kb, &state)], None), Match::Ignore(Why::DownloadDone));
}

#[test]
fn another_code_is_the_newest_only_when_it_is_newer() {
    let kb = update(1, None);
    let state = incident::State::Scheduled;
    for (minutes, changed) in [(5, true), (-5, false)] {
        let mut again = outcome(kb.clone(), OutcomeResult::Failed, minutes);
        again.code = HResult(0x8024_402C);
        let joined = judge(&again, &[known(7, &kb, &state)], None);
        assert_eq!(joined, Match::Join { incident: id(7), code_changed: changed });
    }
}

#[test]
fn one_update_under_two_names_joins_the_incident_that_failed_last() {
    let (by_id, by_kb) = (update(1, None), update(2, Some(5_999_991)));
    let state = incident::State::Open;
    let mut later = known(9, &by_kb, &state);
    later.last_failed_at = at(3);
    let both = outcome(update(1, Some(5_999_991)), OutcomeResult::Failed, 5);
    let found = judge(&both, &[known(7, &by_id, &state), later], None);
    assert_eq!(found, Match::Join { incident: id(9), code_changed: false });
}

#[test]
fn success_closes_the_update_and_what_it_replaces() {
    let (old, other) = (update(1, Some(5_999_991)), update(2, Some(5_999_992)));
    let state = incident::State::Exhausted;
    let open = [known(7, &old, &state), known(8, &other, &state)];
    let same = outcome(old.clone(), OutcomeResult::Succeeded, 9);
    assert_eq!(judge(&same, &open, None), Match::Close { incidents: vec![id(7)] });
    let mut newer = update(3, Some(5_999_993));
    newer.supersedes = vec![Uuid::from_u128(1), Uuid::from_u128(2)];
    let replaced = outcome(newer, OutcomeResult::Succeeded, 9);
    assert_eq!(judge(&replaced, &open, None), Match::Close { incidents: vec![id(7), id(8)] });
}

#[test]
fn an_old_success_closes_nothing_and_an_old_failure_opens_nothing() {
    let kb = update(1, None);
    let state = incident::State::Open;
    let stale = outcome(kb.clone(), OutcomeResult::Succeeded, -1);
    assert_eq!(judge(&stale, &[known(7, &kb, &state)], None), Match::Ignore(Why::BeforeFailure));
    let late = outcome(kb.clone(), OutcomeResult::Failed, -1);
    assert_eq!(judge(&late, &[], Some(at(0))), Match::Ignore(Why::BeforeInstall));
    let fresh = outcome(kb, OutcomeResult::Failed, 1);
    assert_eq!(judge(&fresh, &[], Some(at(0))), Match::Open);
}

#[test]
fn a_pending_restart_is_evidence_only() {
    let kb = update(1, None);
    let state = incident::State::Verifying { tier: None };
    let pending = outcome(kb.clone(), OutcomeResult::PendingReboot, 1);
    assert_eq!(judge(&pending, &[known(7, &kb, &state)], None), Match::RebootOwed { incidents: vec![id(7)] });
    assert_eq!(judge(&pending, &[], None), Match::Ignore(Why::NothingOpen));
}

#[test]
fn success_with_errors_counts_only_without_a_failure_inside() {
    let kb = update(1, None);
    let state = incident::State::Open;
    let open = [known(7, &kb, &state)];
    let mut mixed = outcome(kb.clone(), OutcomeResult::SucceededWithErrors, 1);
    assert_eq!(judge(&mixed, &open, None), Match::Ignore(Why::Inconclusive));
    mixed.code = FAILED_INSIDE;
    assert_eq!(judge(&mixed, &open, None), Match::Ignore(Why::Inconclusive));
    mixed.code = HResult::OK;
    assert_eq!(judge(&mixed, &open, None), Match::Close { incidents: vec![id(7)] });
}

#[test]
fn what_is_out_of_scope_is_ignored_even_when_it_fails() {
    let mut definition = update(1, None);
    definition.kind = UpdateKind::Definition;
    let mut app = update(2, None);
    app.kind = UpdateKind::App;
    let cases = [(definition, Why::Definition), (update(3, Some(2_267_602)), Why::Definition), (app, Why::StoreApp)];
    for (update, why) in cases {
        for result in OutcomeResult::ALL {
            assert_eq!(judge(&outcome(update.clone(), *result, 1), &[], None), Match::Ignore(why));
        }
    }
    let mut removal = outcome(update(4, None), OutcomeResult::Failed, 1);
    removal.operation = Operation::Uninstall;
    assert_eq!(judge(&removal, &[], None), Match::Ignore(Why::Uninstall));
}

#[test]
fn an_ended_incident_is_never_joined_or_closed() {
    let kb = update(1, None);
    let state = incident::State::Resolved;
    let open = [known(7, &kb, &state)];
    assert_eq!(judge(&outcome(kb.clone(), OutcomeResult::Failed, 1), &open, None), Match::Open);
    let done = judge(&outcome(kb.clone(), OutcomeResult::Succeeded, 1), &open, None);
    assert_eq!(done, Match::Ignore(Why::NothingOpen));
}

fn titled(title: &str, kind: UpdateKind) -> UpdateRef {
    UpdateRef {
        update_id: None,
        revision: 0,
        kb: Some(Kb(5_999_991)),
        title: title.to_owned(),
        kind,
        supersedes: vec![],
    }
}

#[test]
fn the_build_that_a_title_names() {
    let quality = |title: &str| target_build(&titled(title, UpdateKind::Quality));
    let named = "2026-01 Cumulative Update for Windows 11, version 25H2 for x64-based Systems (KB5999991) (26200.9991)";
    assert_eq!(quality(named), Some((26_200, 9991)));
    assert_eq!(quality("Kumulatives Update 2026-01 (KB5999991) (26100.12)"), Some((26_100, 12)));
    for title in [
        "",
        "2026-01 Cumulative Update for Windows 11 Version 24H2 for x64-based Systems (KB5999991)",
        "2026-01 Cumulative Update (26100)",
        "2026-01 Cumulative Update (26100.)",
        "2026-01 Cumulative Update (2610.9991)",
        "2026-01 Cumulative Update (26100.9991",
        "2026-01 Cumulative Update (26100.99x1)",
        "2026-01 Cumulative Update 26100.9991",
        "2026-01 Dynamic Cumulative Update for Windows 11 (KB5999991) (26100.9991)",
        "2026-01 Cumulative Update for .NET Framework 4.8.1 (KB5999991) (26100.9991)",
    ] {
        assert_eq!(quality(title), None, "{title}");
    }
    assert_eq!(target_build(&titled(named, UpdateKind::Driver)), None);
}

#[test]
fn a_build_is_reached_within_its_own_revisions_alone() {
    let update = titled("2026-01 Cumulative Update (KB5999991) (26100.9991)", UpdateKind::Quality);
    for (build, revision, reached) in
        [(26_100, 9991, true), (26_100, 10_002, true), (26_100, 9990, false), (26_200, 9991, false), (22_631, 1, false)]
    {
        assert_eq!(is_reached(&update, build, revision), reached, "{build}.{revision}");
    }
}
