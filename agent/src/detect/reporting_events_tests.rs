use chrono::{SecondsFormat, TimeZone as _};
use fleetmend_proto::Kb;
use proptest::prelude::*;
use uuid::uuid;

use super::*;

const INSTANCE: &str = "{2A6C1B0E-7F11-4E52-9D8C-0B1A2C3D4E5F}";
const UPDATE: &str = "{7B0F6A52-1D7E-4A43-9A3B-5C2D0E9F1A01}";
const NONE: &str = "{00000000-0000-0000-0000-000000000000}";
const MESSAGE: &str = "Installation Failure: Windows failed to install the following update with error 0x80073712: \
                       2026-01 Cumulative Update (KB5999991).";

fn line(time: &str, event: &str, update: &str, code: &str, message: &str) -> String {
    format!(
        "{INSTANCE}\t{time}\t1\t{event}\t101\t{update}\t200\t{code}\tMoUpdateOrchestrator\tFailure\tContent \
         Install\t{message}\taBcD1234efGh5678.1.0"
    )
}

fn failed(code: &str) -> String {
    line("2026-01-14 04:12:44:123+0100", "182 [AGENT_INSTALLING_FAILED]", UPDATE, code, MESSAGE)
}

fn at(time: &str) -> Option<String> {
    let line = line(time, "182 [AGENT_INSTALLING_FAILED]", UPDATE, "80073712", MESSAGE);
    parse(&line).ok().flatten().map(|record| record.mark.at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

#[test]
fn a_failure_is_read_whole() {
    let record = parse(&failed("80073712")).expect("whole line").expect("an end");
    assert_eq!(record.mark.update_id, Some(uuid!("7b0f6a52-1d7e-4a43-9a3b-5c2d0e9f1a01")));
    assert_eq!(record.mark.revision, Some(200));
    assert_eq!(record.mark.kb, Some(Kb(5_999_991)));
    assert_eq!((record.mark.operation, record.mark.result), (Operation::Install, OutcomeResult::Failed));
    assert_eq!(record.code, HResult(0x8007_3712));
    assert_eq!(record.title, "2026-01 Cumulative Update (KB5999991)");
}

#[test]
fn twelve_columns_are_enough_and_eleven_are_not() {
    let whole = failed("80073712");
    let (twelve, _) = whole.rsplit_once('\t').expect("has tabs");
    assert!(parse(twelve).expect("whole").is_some());
    let (eleven, _) = twelve.rsplit_once('\t').expect("has tabs");
    assert_eq!(parse(eleven), Err(BadRecord::Columns { found: 11 }));
}

#[test]
fn any_offset_gives_utc() {
    for (time, utc) in [
        ("2026-01-14 04:12:44:123+0100", Some("2026-01-14T03:12:44.123Z")),
        ("2026-01-14 04:12:44:123-0530", Some("2026-01-14T09:42:44.123Z")),
        ("2026-01-14 04:12:44:123+1245", Some("2026-01-13T15:27:44.123Z")),
        ("2026-01-14 04:12:44:123Z", Some("2026-01-14T04:12:44.123Z")),
        ("2026-01-14 04:12:44:007+01:00", Some("2026-01-14T03:12:44.007Z")),
        ("2026-01-14 04:12:44:7+0100", Some("2026-01-14T03:12:44.007Z")),
        ("2026-01-14 04:12:44.7+0100", Some("2026-01-14T03:12:44.700Z")),
        ("2026-01-14 04:12:44+0100", Some("2026-01-14T03:12:44Z")),
        ("2026-12-31 23:30:00:000-0100", Some("2027-01-01T00:30:00Z")),
        ("2026-01-14 04:12:44:123", None),
        ("2026-01-14 25:12:44:123+0100", None),
        ("2026-02-30 04:12:44:123+0100", None),
        ("2026-01-14 04:12:44:123+0199", None),
        ("2026-01-14 04:12:44:123+9900", None),
        ("", None),
    ] {
        assert_eq!(at(time).as_deref(), utc, "{time}");
    }
}

#[test]
fn what_ended_is_told_by_name_and_else_by_number() {
    use Operation::{Download, Install, Uninstall};
    use OutcomeResult::{Aborted, Failed, PendingReboot, Succeeded};
    for (event, end) in [
        ("182 [AGENT_INSTALLING_FAILED]", Some((Install, Failed))),
        ("999 [AGENT_INSTALLING_FAILED]", Some((Install, Failed))),
        ("182[agent_installing_succeeded]", Some((Install, Succeeded))),
        ("183", Some((Install, Succeeded))),
        ("182", Some((Install, Failed))),
        ("161", Some((Download, Failed))),
        ("161 [AGENT_DOWNLOAD_FAILED]", Some((Download, Failed))),
        ("201 [AGENT_INSTALLING_PENDING]", Some((Install, PendingReboot))),
        ("184 [AGENT_INSTALL_COMPLETE_WITH_REBOOT]", Some((Install, PendingReboot))),
        ("204 [AGENT_INSTALLING_FAILED_POST_REBOOT]", Some((Install, Failed))),
        ("221 [AGENT_UNINSTALLING_FAILED]", Some((Uninstall, Failed))),
        ("222 [AGENT_UNINSTALLING_SUCCEEDED]", Some((Uninstall, Succeeded))),
        ("187 [AGENT_INSTALL_KILLED]", Some((Install, Aborted))),
        ("181 [AGENT_INSTALLING_STARTED]", None),
        ("162 [AGENT_DOWNLOAD_SUCCEEDED]", None),
        ("167 [AGENT_DOWNLOAD_STARTED]", None),
        ("147 [AGENT_DETECTION_FINISHED]", None),
        ("195 [AU_SCHEDULED_INSTALL_FAILED]", None),
        ("182 [SOMETHING_ELSE]", None),
    ] {
        let line = line("2026-01-14 04:12:44:123+0100", event, UPDATE, "80073712", MESSAGE);
        let found = parse(&line).expect("well formed").map(|record| (record.mark.operation, record.mark.result));
        assert_eq!(found, end, "{event}");
    }
}

#[test]
fn success_that_owes_a_restart_is_pending() {
    let line = line("2026-01-14 04:12:44:123Z", "183 [AGENT_INSTALLING_SUCCEEDED]", UPDATE, "240005", "x");
    let record = parse(&line).expect("well formed").expect("an end");
    assert_eq!(record.mark.result, OutcomeResult::PendingReboot);
    assert_eq!(record.code, HResult(0x0024_0005));
}

#[test]
fn records_of_no_update_are_no_outcomes() {
    let scan = line("2026-01-14 04:12:44:123Z", "182 [AGENT_INSTALLING_FAILED]", NONE, "80073712", "no update here");
    assert_eq!(parse(&scan), Ok(None));
    let by_kb = line("2026-01-14 04:12:44:123Z", "182 [AGENT_INSTALLING_FAILED]", NONE, "80073712", MESSAGE);
    let record = parse(&by_kb).expect("well formed").expect("an end");
    assert_eq!((record.mark.update_id, record.mark.kb), (None, Some(Kb(5_999_991))));
}

#[test]
fn codes_are_hexadecimal_without_prefix() {
    for (text, code) in [
        ("80073712", Some(0x8007_3712)),
        ("800f0820", Some(0x800F_0820)),
        ("0", Some(0)),
        ("10", Some(0x10)),
        ("0x80073712", Some(0x8007_3712)),
        ("-2147010798", Some(0x8007_3712)),
        ("80g73712", None),
        ("", None),
        ("123456789abc", None),
    ] {
        let read = parse(&failed(text)).ok().flatten().map(|record| record.code.0);
        assert_eq!(read, code, "{text}");
    }
}

#[test]
fn a_bad_value_is_named() {
    let error = parse(&failed("zzz")).expect_err("no code").to_string();
    assert_eq!(error, r#"HRESULT "zzz" is not hexadecimal digits like 80073712"#);
    let bad = line("2026-01-14 04:12:44:123Z", "182 [AGENT_INSTALLING_FAILED]", "{7B0F}", "0", MESSAGE);
    assert!(parse(&bad).expect_err("no GUID").to_string().contains("update id"));
}

proptest! {
    #[test]
    fn arbitrary_lines_never_panic(line in "\\PC*", columns in prop::collection::vec("\\PC{0,12}", 0..15)) {
        let _ = parse(&line);
        let _ = parse(&columns.join("\t"));
        let _ = is_shaped_like(&line);
    }

    #[test]
    fn hostile_columns_never_panic(time in "[0-9:. Z+-]{0,32}", code in "[0-9a-fx-]{0,12}", event in "[0-9]{0,12}( \\[[A-Z_]{0,30}\\])?") {
        let _ = parse(&line(&time, &event, UPDATE, &code, MESSAGE));
    }

    #[test]
    fn a_printed_record_reads_back(
        seconds in 0_i64..4_000_000_000,
        millis in 0_u32..1000,
        minutes in -14 * 60..=14 * 60_i32,
        id in any::<u128>().prop_filter("names an update", |id| *id != 0),
        revision in any::<i32>(),
        code in any::<u32>(),
        end in 0..ENDS.len(),
        kb in 100_000_u32..100_000_000,
    ) {
        let (number, name, operation, result) = ENDS[end];
        let utc = Utc.timestamp_opt(seconds, millis * 1_000_000).single().expect("in range");
        let local = utc.with_timezone(&FixedOffset::east_opt(minutes * 60).expect("in range"));
        let time = format!("{}:{millis:03}{}", local.format("%Y-%m-%d %H:%M:%S"), local.format("%z"));
        let id = uuid::Uuid::from_u128(id);
        let title = format!("Kumulatives Update (KB{kb})");
        let text = format!(
            "{INSTANCE}\t{time}\t1\t{number} [{name}]\t101\t{{{id}}}\t{revision}\t{code:x}\tx\tx\tx\tA: fehlgeschlagen: {title}"
        );
        let record = parse(&text).expect("well formed").expect("an end");
        let owed = result == OutcomeResult::Succeeded && code == 0x0024_0005;
        prop_assert_eq!(record.mark, Mark {
            stream: Stream::ReportingEvents,
            at: utc,
            operation,
            result: if owed { OutcomeResult::PendingReboot } else { result },
            update_id: Some(id),
            revision: Some(revision),
            kb: Some(Kb(kb)),
        });
        prop_assert_eq!(record.code, HResult(code));
        prop_assert_eq!(record.title, title);
    }
}
