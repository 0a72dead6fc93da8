use chrono::TimeZone as _;
use fleetmend_proto::{HResult, Source, UpdateKind};
use proptest::prelude::*;

use super::*;
use crate::detect::record::Identity;

const ID: Uuid = Uuid::from_u128(7);
const KB: Kb = Kb(5_999_991);
const WRAPPER: HResult = HResult(0x8024_200B);
const INNER: HResult = HResult(0x8007_3712);

/// A failed install of one update, `seconds` after some time.
fn record(stream: Stream, seconds: i64, code: HResult) -> Record {
    let named = stream != Stream::SetupLog;
    let mark = Mark {
        stream,
        at: Utc.timestamp_opt(1_768_360_000 + seconds, 0).single().expect("in range"),
        operation: Operation::Install,
        result: OutcomeResult::Failed,
        update_id: named.then_some(ID),
        revision: named.then_some(200),
        kb: Some(KB),
    };
    let identity = Identity::new(&format!("{stream:?} {seconds}"), "", &mark, code);
    let title = if named { "Update (KB5999991)" } else { "" };
    Record { mark, code, title: title.into(), service: None, identity }
}

fn grouped(records: &[Record]) -> Vec<Vec<usize>> {
    attempts(&[], records).into_iter().map(|attempt| attempt.records).collect()
}

fn outcomes(records: &[Record]) -> Vec<Outcome> {
    attempts(&[], records)
        .iter()
        .filter_map(|it| outcome(&it.records.iter().map(|&i| &records[i]).collect::<Vec<_>>()))
        .collect()
}

#[test]
fn sources_of_one_attempt_become_one_outcome_of_the_best() {
    let records = [
        record(Stream::ReportingEvents, 1, WRAPPER),
        record(Stream::SetupLog, -5, INNER),
        record(Stream::System, 0, WRAPPER),
        record(Stream::Operational, 0, WRAPPER),
    ];
    let found = outcomes(&records);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].source, found[0].code, found[0].raw_code), (Source::EventLog, INNER, WRAPPER));
    assert_eq!(found[0].occurred_at, records[2].mark.at);
}

#[test]
fn one_source_never_merges_with_itself() {
    for stream in Stream::ALL {
        let records = [record(stream, 0, INNER), record(stream, 0, INNER), record(stream, 60, INNER)];
        assert_eq!(grouped(&records).len(), 3, "{stream:?}");
    }
}

#[test]
fn two_attempts_in_two_sources_are_two_outcomes() {
    let records = [
        record(Stream::System, 0, WRAPPER),
        record(Stream::System, 240, WRAPPER),
        record(Stream::SetupLog, -10, HResult(0x800F_0922)),
        record(Stream::SetupLog, 230, INNER),
        record(Stream::ReportingEvents, 2, WRAPPER),
        record(Stream::ReportingEvents, 241, WRAPPER),
    ];
    let found = outcomes(&records);
    assert_eq!(found.iter().map(|it| it.code).collect::<Vec<_>>(), [HResult(0x800F_0922), INNER]);
}

#[test]
fn a_record_merges_with_the_nearest_only() {
    let records = [
        record(Stream::System, 0, INNER),
        record(Stream::System, 300, INNER),
        record(Stream::ReportingEvents, 200, INNER),
    ];
    assert_eq!(grouped(&records), [vec![0], vec![1, 2]]);
}

#[test]
fn ten_minutes_are_one_attempt_and_a_second_more_are_two() {
    for (apart, count) in [(600, 1), (-600, 1), (601, 2), (-601, 2)] {
        let records = [record(Stream::System, 0, INNER), record(Stream::ReportingEvents, apart, INNER)];
        assert_eq!(grouped(&records).len(), count, "{apart}");
    }
}

#[test]
fn copies_in_two_channels_are_close_in_time() {
    for (apart, count) in [(0, 1), (2, 1), (3, 2)] {
        let records = [record(Stream::System, 0, INNER), record(Stream::Operational, apart, INNER)];
        assert_eq!(grouped(&records).len(), count, "{apart}");
    }
}

#[test]
fn another_result_operation_update_or_revision_is_another_outcome() {
    let base = record(Stream::System, 0, INNER);
    let changes: [fn(&mut Mark); 4] = [
        |mark| mark.result = OutcomeResult::Succeeded,
        |mark| mark.operation = Operation::Uninstall,
        |mark| mark.update_id = Some(Uuid::from_u128(8)),
        |mark| mark.revision = Some(201),
    ];
    for change in changes {
        let mut other = record(Stream::ReportingEvents, 0, INNER);
        change(&mut other.mark);
        assert_eq!(grouped(&[base.clone(), other]).len(), 2);
    }
    let mut setup = record(Stream::SetupLog, 0, INNER);
    setup.mark.kb = Some(Kb(5_999_992));
    assert_eq!(grouped(&[base, setup]).len(), 2);
}

#[test]
fn a_kb_only_record_never_bridges_two_updates() {
    let mut other = record(Stream::ReportingEvents, 4, INNER);
    other.mark.update_id = Some(Uuid::from_u128(8));
    let records = [record(Stream::System, 0, INNER), record(Stream::SetupLog, 1, INNER), other];
    assert_eq!(grouped(&records), [vec![0, 1], vec![2]]);
}

#[test]
fn what_the_best_record_lacks_comes_from_the_others() {
    let mut driver = record(Stream::ReportingEvents, 5, INNER);
    driver.title = "Update (KB5999991)".into();
    let found = outcomes(&[record(Stream::SetupLog, 0, INNER), driver]);
    let update = &found[0].update;
    assert_eq!((update.update_id, update.revision, update.kb), (Some(ID), 200, Some(KB)));
    assert_eq!((update.title.as_str(), update.kind), ("Update (KB5999991)", UpdateKind::Quality));
    assert_eq!(found[0].source, Source::SetupLog);

    let mut no_kb = record(Stream::System, 0, INNER);
    no_kb.mark.kb = None;
    no_kb.title = String::new();
    let found = outcomes(&[no_kb, record(Stream::ReportingEvents, 1, INNER)]);
    assert_eq!((found[0].update.kb, found[0].update.title.as_str()), (Some(KB), "Update (KB5999991)"));
}

#[test]
fn late_records_join_what_was_reported() {
    let known = vec![vec![record(Stream::System, 0, INNER).mark], vec![record(Stream::System, 500, INNER).mark]];
    let late = [
        record(Stream::SetupLog, 490, INNER),
        record(Stream::SetupLog, 10, INNER),
        record(Stream::System, 20, INNER),
        record(Stream::SetupLog, 2000, INNER),
    ];
    let joined: Vec<_> = attempts(&known, &late).into_iter().map(|it| (it.known, it.records)).collect();
    assert_eq!(joined, [(Some(0), vec![1]), (Some(1), vec![0]), (None, vec![2]), (None, vec![3])]);
}

#[test]
fn a_log_made_to_be_slow_is_not() {
    let many: Vec<Record> = (0..20_000)
        .map(|n| record(if n % 2 == 0 { Stream::System } else { Stream::ReportingEvents }, 0, HResult(n)))
        .collect();
    let found = attempts(&[], &many);
    assert_eq!(found.iter().map(|it| it.records.len()).sum::<usize>(), many.len());
}

proptest! {
    #[test]
    fn every_record_is_in_one_attempt_with_no_stream_twice(
        parts in prop::collection::vec((0_usize..4, -2000_i64..2000, 0_u128..3, any::<bool>()), 0..40),
        known in prop::collection::vec((0_usize..4, -2000_i64..2000), 0..8),
    ) {
        let records: Vec<Record> = parts.iter().map(|&(stream, seconds, id, has_kb)| {
            let mut record = record(Stream::ALL[stream], seconds, INNER);
            record.mark.update_id = (id > 0).then_some(Uuid::from_u128(id));
            record.mark.kb = (has_kb || id == 0).then_some(KB);
            record
        }).collect();
        let known: Vec<Vec<Mark>> = known.iter().map(|&(stream, at)| vec![record(Stream::ALL[stream], at, INNER).mark]).collect();
        let found = attempts(&known, &records);
        let mut all: Vec<usize> = found.iter().flat_map(|it| it.records.clone()).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..records.len()).collect::<Vec<_>>());
        for attempt in &found {
            let mut streams: Vec<Stream> = attempt.records.iter().map(|&i| records[i].mark.stream).collect();
            streams.extend(attempt.known.iter().flat_map(|&i| known[i].iter().map(|mark| mark.stream)));
            let count = streams.len();
            streams.sort();
            streams.dedup();
            prop_assert_eq!(streams.len(), count);
        }
    }
}
